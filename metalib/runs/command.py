"""The command `metalib`: models, check, null, generate, judge, experiment, run and sweep.

    metalib generate zoo/vgg-robust-0 group3 photographs run --steps 500
    metalib judge run

Each subcommand is a thin shell around a public function. Exit codes are 0 where all went well, 1
for what failed, 2 for a command that is not understood, and 130 after Ctrl-C.
"""

import argparse
import os
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from metalib import loading
from metalib.data import ImageSet, load_images
from metalib.evaluation.criterion import judge
from metalib.evaluation.nulls import keep_nulls, load_null, shipped_stages
from metalib.generation import metamers as files
from metalib.generation.optimizers import OPTIMIZERS
from metalib.generation.starts import STARTS
from metalib.models import Model, list_models, load_model
from metalib.models.check import check_model
from metalib.people import experiment
from metalib.runs import recipe, sweep
from metalib.runs.options import count
from metalib.store import fingerprint
from metalib.version import __version__

DELEGATED = {"run": recipe.main, "sweep": sweep.main}  # they read their arguments themselves
SHOWN = ("model", "stage", "image", "file", "passed", "verdict", "pearson", "spearman", "snr_db",
         "class_match", "distance")  # what `judge` prints; its file has all columns

SOURCES_OF_IMAGES = ("a folder of pictures, or cifar10-samples, imagenet-samples (both bundled) "
                     "or cifar10")

EXAMPLES = """\
examples:
  metalib models                                 # the bundled networks
  metalib models 'timm/*vit*' --offline          # those on this machine
  metalib check zoo/vgg-robust-0                 # its stages; is it fit for
                                                 # metamers?
  metalib null torchvision/resnet50 photographs  # what unrelated photographs
                                                 # share: needed to judge
  metalib generate zoo/vgg-robust-0 group3 photographs run
  metalib judge run --output table.csv           # which of them are metamers?
  metalib experiment photographs site run        # ask people what they see
  metalib run recipe.yml run                     # all that generate can do
  metalib sweep study.yml study                  # a grid of runs

Each has a --help of its own. A network of your own is wrapped in Python
(metalib.wrap_model). With metalib.add_models in a file, which the environment
variable METALIB_MODELS names, it has a name here, too; see the tutorial.
"""

MODELS = """\
examples:
  metalib models
  metalib models 'torchvision/*'
  metalib models 'robustbench/cifar10/L2/*' --offline
"""

CHECK = """\
examples:
  metalib check zoo/resnet-robust-0
  metalib check torchvision/resnet50

It prints the stages in the order of execution, their shapes, and whether there
is a null distribution for each: without one, judge needs --null-images, or
metalib null is called first.
"""

NULL = """\
examples:
  metalib null torchvision/resnet50 photographs
  metalib null mine/small photographs --stages layer1 fc

A metamer has to be more like its reference than any two unrelated natural
images are like each other. Those similarities are computed once, kept in the
folder nulls of METALIB_DATA, and found from then on.
"""

GENERATE = f"""\
examples:
  metalib generate zoo/vgg-robust-0 group3 cifar10-samples run
  metalib generate zoo/vgg-robust-0 group3 photographs run --stop criterion
  metalib generate zoo/vgg-robust-0 group3 photographs run \\
      --optimizer '[adam, {{learning_rate: 0.02}}]' --start pink --steps 1000

The folder run then holds the pictures, the recipe, and one file with all
tensors. After Ctrl-C or a crash the same command goes on from the last
checkpoint. Several networks at once, and all else: metalib run.

{textwrap.fill("optimizers: " + ", ".join(OPTIMIZERS), 78, subsequent_indent="  ")}
{textwrap.fill("starts: " + ", ".join(STARTS), 78, subsequent_indent="  ")}
"""

JUDGE = """\
examples:
  metalib judge run                              # by those that made them
  metalib judge run --output table.csv
  metalib judge run --model zoo/resnet-standard-0 --stage group3
  metalib judge run --null-images photographs    # where no null ships

An image passes by the published criterion: it gets the class of its
reference, and its activations are as similar to those of the reference as no
random pair of natural images is.
"""


EXPERIMENT = """\
examples:
  metalib experiment cifar10-samples site run1 run2 --design design.yml
  metalib experiment photographs site run --consent consent.md

run1 and run2 are folders that metalib generate has left: the conditions. The
folder site then holds a page that runs from a file or any static server. The
design is YAML, such as: {image: 300, practice: 8, screening: 8, catch: 10}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `metalib`.

    Args:
        arguments: those after the name of the command; None takes those of the process.

    Returns:
        The exit code.

    Raises:
        SystemExit: `--help`, or a command that is not understood.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
        try:
            loading.done()
            if arguments and arguments[0] in DELEGATED:
                DELEGATED[arguments[0]](arguments[1:])
                return 0
            options = _parser().parse_args(arguments)
            return options.function(options)
        except BrokenPipeError:  # as in `metalib models | head`: the reader has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (ValueError, OSError, ImportError) as error:
            print(f"metalib: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt as error:
            print("; ".join(["metalib: interrupted", *error.args]), file=sys.stderr)
            return 130


# --- The subcommands ----------------------------------------------------------------------------

def _models(options: argparse.Namespace) -> int:
    names = list_models(options.pattern, offline=options.offline)
    if not names:
        raise ValueError(f"no model matches {options.pattern!r}"
                         + (" on this machine" if options.offline else "")
                         + "; quote patterns, and try 'zoo/*' or '*resnet*'")
    print("\n".join(names))
    return 0


def _check(options: argparse.Namespace) -> int:
    model = check_model(load_model(
        options.name, device=options.device, allow_pickle=options.allow_pickle))
    shipped = shipped_stages(model.name)
    print(pd.DataFrame({
        "stage": model.stages,
        "shape": [" x ".join(map(str, model.shapes[stage])) for stage in model.stages],
        "null": ["there" if stage in shipped else "none" for stage in model.stages],
    }).to_string(index=False))
    print(f"{model.name} behaves as metamers need it to; it takes images of {_size(model)} pixels")
    return 0


def _null(options: argparse.Namespace) -> int:
    model = load_model(options.name, device=options.device, allow_pickle=options.allow_pickle)
    images = load_images(_source(options.images), size=model.input_size, n=options.n)
    path = keep_nulls(model, images, stages=options.stages, pairs=options.pairs)
    for stage in options.stages or model.stages:
        print(load_null(model, stage))
    print(f"kept in {path}")
    return 0


def _generate(options: argparse.Namespace) -> int:
    model = load_model(options.model)  # a wrong name or stage is found before images are read
    model.check_stage(options.stage)
    size = options.size or model.input_size
    wanted = {"models": [options.model], "stages": [options.stage],
              "images": {"source": _source(options.images), "size": size, "n": options.n},
              **{key: getattr(options, key)
                 for key in ("optimizer", "start", "steps", "seed", "stop", "device")}}
    if options.null_images:
        wanted["null_images"] = {"source": _source(options.null_images), "size": size}
    elif options.stop:
        _ships(model, options.stage)
    again = f"the same command goes on from what is kept in {options.folder}"
    try:
        metamers = recipe.run(wanted, options.folder, checkpoint_every=options.checkpoint_every)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(again) from None
    if metamers.interrupted:
        raise KeyboardInterrupt(again)
    print(f"{len(metamers)} metamers of {options.model}, {options.stage} are in {options.folder}; "
          f"to judge them: metalib judge {options.folder}")
    return 0


def _judge(options: argparse.Namespace) -> int:
    metamers = files.load(options.folder)
    tables = []
    for name, stage in _judges(metamers.recipe, options.model, options.stage):
        model = load_model(name, device=options.device)
        model.check_stage(stage)
        _say_if_changed(model, metamers.recipe)
        null = load_null(model, stage, images=_natural(options, model, stage))
        table = judge(model, stage, metamers, null)
        print(f"{name}, {stage}: {sum(table['passed'])} of {len(table)} passed")
        tables.append(pd.DataFrame(table).assign(model=name, stage=stage))
    table = pd.concat(tables, ignore_index=True)
    if options.output:
        table.to_csv(options.output, index=False)
    alone = ("model", "stage") if len(tables) == 1 else ()
    shown = [name for name in SHOWN if name in table and name not in alone]
    print(table.to_string(columns=shown, index=False, float_format="{:.3f}".format))
    return 0


def _experiment(options: argparse.Namespace) -> int:
    made = {folder.name: files.load(folder) for folder in options.runs}
    if len(made) < len(options.runs):
        raise ValueError("two of the folders have the same name, which is that of a condition")
    size: Any = tuple(next(iter(made.values())).references.shape[-2:])
    images = load_images(_source(options.images), size=size, n=options.n)
    practice = load_images(_source(options.practice), size=size) if options.practice else None
    design = yaml.safe_load(options.design.read_text()) if options.design else None
    page = experiment(made, images, options.folder, design=design, practice=practice,
                      consent=options.consent, instructions=options.instructions,
                      debriefing=options.debriefing, overwrite=options.overwrite)
    print(f"open {page}")
    return 0


def _judges(made: dict, model: str | None, stage: str | None) -> list[tuple[str, str]]:
    """Names of models and stages by which to judge: those of the recipe, or others."""
    pairs = list(zip(made.get("models", ()), made.get("stages", ())))
    if model:
        pairs = [pair for pair in pairs if pair[0] == model] or [(model, stage or "")]
    if stage:
        pairs = [(name, stage) for name, _ in pairs]
    if not pairs or not all(stage for _, stage in pairs):
        by = f"{model} did not make these metamers" if model else (
            "these metamers do not say which network made them")
        raise ValueError(f"{by}: pass both --model and --stage")
    return list(dict.fromkeys(pairs))


def _say_if_changed(model: Model, made: dict) -> None:
    """Say so where the network that goes by this name is not the one that made the metamers."""
    then = dict(zip(made.get("models", ()), made.get("fingerprints", ())))
    if model.name in then and then[model.name] != fingerprint(model):
        print(f"metalib: {model.name} is not what it was when these metamers were made (weights, "
              "normalisation or code); they are judged by what it is now", file=sys.stderr)


def _natural(options: argparse.Namespace, model: Model, stage: str) -> ImageSet | None:
    """The natural images of a null, where they are given; else a null has to ship."""
    if options.null_images is None:
        return _ships(model, stage)
    return load_images(_source(options.null_images), size=model.input_size)


def _ships(model: Model, stage: str) -> None:
    """Raise a ValueError unless a null ships with the model."""
    if stage not in shipped_stages(model.name):
        raise ValueError(f"no null distribution ships with {model.name}, {stage}: pass "
                         "--null-images, best some thousand natural images, or once for all call "
                         f"metalib null {model.name} IMAGES")


def _source(images: str) -> str:
    """What `load_images` takes: a plain path stands for the folder."""
    return f"folder:{images}" if Path(images).expanduser().is_dir() else images


def _size(model: Model) -> str:
    """The input size in words."""
    size: Any = model.input_size
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height} x {width}"


# --- The parser ---------------------------------------------------------------------------------

def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="metalib", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Model metamers: images that differ from a photograph but evoke the same\n"
                    "activations in a neural network.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, summary: str, epilog: str, function: Any = None) -> Any:
        command = commands.add_parser(
            name, help=summary, description=summary, epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter)
        command.set_defaults(function=function)
        return command

    models = add("models", "list networks by name", MODELS, _models)
    models.add_argument("pattern", nargs="?", default="zoo/*",
                        help="a shell pattern, default 'zoo/*': the bundled networks")
    models.add_argument("--offline", action="store_true",
                        help="only those whose weights are on this machine")

    check = add("check", "show a network's stages, and whether it is fit", CHECK, _check)
    check.add_argument("name", help="a name that metalib models lists")
    check.add_argument("--allow-pickle", action="store_true",
                       help="unpickle its checkpoint, which runs whatever code it contains")
    check.add_argument("--device", default="cpu", help="where to compute, default %(default)s")

    _add_null(add("null", "keep what unrelated images share, for judging", NULL, _null))
    _add_generate(add("generate", "make metamers of one network at one stage", GENERATE, _generate))
    _add_judge(add("judge", "say which of the images in a folder are metamers", JUDGE, _judge))
    _add_experiment(add("experiment", "write the metamer test for people", EXPERIMENT,
                        _experiment))
    add("run", "make metamers from a recipe, see metalib run --help", "")
    add("sweep", "compute a grid of runs, see metalib sweep --help", "")
    return parser


def _add_null(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a name that metalib models lists")
    parser.add_argument("images", help=SOURCES_OF_IMAGES)
    parser.add_argument("--stages", nargs="+", metavar="STAGE",
                        help="stages that metalib check lists, default all")
    parser.add_argument("--n", type=count, help="how many images to take, default all")
    parser.add_argument("--pairs", type=count, default=1_000_000,
                        help="pairs of images, at most; default %(default)s")
    parser.add_argument("--allow-pickle", action="store_true",
                        help="unpickle its checkpoint, which runs whatever code it contains")
    parser.add_argument("--device", default="cpu", help="where to compute, default %(default)s")


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a name that metalib models lists")
    parser.add_argument("stage", help="a stage that metalib check lists")
    parser.add_argument("images", help=SOURCES_OF_IMAGES)
    parser.add_argument("folder", type=Path, help="where checkpoints and the result are kept")
    parser.add_argument("--steps", type=count, default=200, metavar="N",
                        help="gradient evaluations per image, at most; default %(default)s")
    parser.add_argument("--optimizer", type=_plain, default="spectral_lbfgs", metavar="RULE",
                        help="the update rule, default %(default)s; with options as YAML")
    parser.add_argument("--start", type=_plain, default="noise",
                        help="the starting images, default %(default)s; with options as YAML")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--stop", choices=["criterion"],
                        help="let an image stop once it passes; default: all steps are done")
    parser.add_argument("--null-images", metavar="IMAGES",
                        help="natural images for the criterion, where no null ships")
    parser.add_argument("--n", type=count,
                        help="how many images to take, default all")
    parser.add_argument("--size", type=count, metavar="PIXELS",
                        help="side of the images, default what the network takes")
    parser.add_argument("--device", default=None, help="such as cuda; default the CPU")
    parser.add_argument("--checkpoint-every", type=count, default=50, metavar="N",
                        help="gradient evaluations, default %(default)s")


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="where generate, run or save left metamers")
    parser.add_argument("--model", help="the network that judges, default the one that made them")
    parser.add_argument("--stage", help="its stage, default that at which they were made")
    parser.add_argument("--null-images", metavar="IMAGES",
                        help="natural images for the criterion, where no null ships")
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help="write the whole table as CSV, too")
    parser.add_argument("--device", default="cpu", help="where to compute, default %(default)s")


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", help=f"the references: {SOURCES_OF_IMAGES}")
    parser.add_argument("folder", type=Path, help="where the experiment is written")
    parser.add_argument("runs", type=Path, nargs="+", metavar="run",
                        help="folders that generate, run or save left; each is a condition")
    parser.add_argument("--n", type=count, help="how many references were taken, default all")
    parser.add_argument("--design", type=Path, metavar="FILE", help="durations and so on, as YAML")
    parser.add_argument("--practice", metavar="IMAGES",
                        help="natural images for practice and screening, default some references")
    for page in ("consent", "instructions", "debriefing"):
        parser.add_argument(f"--{page}", type=Path, metavar="FILE", help="a page in Markdown")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier experiment")


def _plain(text: str) -> Any:
    """A name, or a name with its options as YAML: [adam, {learning_rate: 0.02}]."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    named = isinstance(value, str) or (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        and isinstance(value[1], dict))
    if not named:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a name nor '[name, {{option: value}}]'")
    return value


if __name__ == "__main__":
    sys.exit(main())
