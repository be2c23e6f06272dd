"""Make metamers from a recipe in a file, with checkpoints, in one process or several.

    python -m metalib.run recipe.yml run
    python -m metalib.run recipe.yml run --processes 2      # on this machine
    torchrun --nproc-per-node=2 ... -m metalib.run recipe.yml run     # on several machines

The models of the recipe are spread over the ranks, or the images of a single model (see
`generate`). Given again, the same command goes on from the last checkpoint in the folder `run`, or
does nothing where all is done. Ctrl-C and SIGTERM end it after a step (with several ranks after
the next check, see `check_every`): it saves a checkpoint, and exits with 130 or 143. torchrun then
adds an error message of its own, and exits with 1.

What is written is described in `metalib.generation.metamers`. A recipe is YAML: what `generate`
takes, with models by name and images as `load_images` takes them::

    models: [zoo/vgg-robust-0, zoo/resnet-robust-0]
    stages: [group3, group3]
    images: {source: cifar10-samples, n: 10}
    stop: criterion             # or leave it out; nulls are those that ship, or of `null_images`
    null_images: {source: "folder:photographs"}
    optimizer: [lbfgs, {history: 30}]
    compute: {batch_size: 64}
    steps: 500                  # and any other keyword of `generate`
"""

import argparse
import datetime
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed

from metalib import loading
from metalib.data import load_images
from metalib.evaluation.nulls import load_null
from metalib.generation import metamers as files
from metalib.generation.compute import of_any_rank, process_rank
from metalib.generation.generate import generate
from metalib.generation.interrupts import Stopped, deferred, received
from metalib.generation.metamers import Metamers
from metalib.models import load_model
from metalib.plain import whole
from metalib.runs import options as types
from metalib.runs.documents import read_yaml
from metalib.runs.recipe_check import PASSED_ON, checked


def run(recipe: dict, folder: str | Path, *, checkpoint_every: int = 50) -> Metamers:
    """Make the metamers of a recipe, saving them after every `checkpoint_every` evaluations.

    Args:
        recipe: a dict as in the module's text.
        folder: where checkpoints and the result are kept. If they are of this recipe the run goes
            on from there.
        checkpoint_every: gradient evaluations from one checkpoint to the next.

    Returns:
        Metamers, the same on every rank.

    Raises:
        ValueError: a key that is unknown, missing or of another type, a folder that holds metamers
            of another recipe, or `checkpoint_every` below 1.
        OSError: the disk is full or the folder cannot be written. The last checkpoint is kept.
        KeyboardInterrupt: Ctrl-C or SIGTERM. What was done is saved, and the same call goes on.
    """
    checkpoint_every = whole("checkpoint_every", checkpoint_every, 1)
    recipe = checked(recipe)
    keywords = {key: value for key, value in recipe.items() if key in PASSED_ON | {"compute"}}
    images = load_images(**recipe["images"])
    models = [load_model(name) for name in recipe["models"]]
    for model, stage in zip(models, recipe["stages"]):
        model.check_stage(stage)
    if recipe.get("stop"):
        natural = load_images(**recipe["null_images"]) if "null_images" in recipe else None
        keywords["stop"] = [load_null(model, stage, images=natural)
                            for model, stage in zip(models, recipe["stages"])]
    first = process_rank()[0] == 0
    metamers = files.load(folder) if (Path(folder) / files.FILE).is_file() else None
    with deferred():
        while True:
            metamers = generate(models, images, recipe["stages"], **keywords,
                                pause=checkpoint_every, resume=metamers)
            if first:
                files.save(metamers, folder)
            if not metamers.interrupted:
                break
            if number := of_any_rank(received()):
                raise Stopped(number)
    if first:
        files.export(metamers, folder)
    return metamers


# --- The command --------------------------------------------------------------------------------

def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m metalib.run`."""
    options = _parser().parse_args(arguments)
    recipe = _read(options.recipe)
    spread = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if options.processes > 1 and not spread:
        raise SystemExit(_in_processes(options.processes, arguments or sys.argv[1:]))
    lost = ("a rank has died or cannot be reached.\nWhat was done until the last checkpoint is "
            f"kept in {options.folder}; start the same command again to go on.")
    signal.signal(signal.SIGTERM, _stop)  # also while the models are loaded
    try:
        loading.done()
        if spread:
            recipe |= _join_ranks(options.timeout)
        metamers = run(recipe, options.folder, checkpoint_every=options.checkpoint_every)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{error}") from error
    except RuntimeError as error:
        if not spread:
            raise
        raise SystemExit(f"{error}\n{lost}") from error
    except KeyboardInterrupt as error:
        for number in (signal.SIGINT, signal.SIGTERM):  # torchrun sends each rank a second one
            signal.signal(number, signal.SIG_IGN)
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"interrupted; what was done is kept in {options.folder}: "
                  "start the same command again to go on", file=sys.stderr)
        raise SystemExit(128 + getattr(error, "number", signal.SIGINT)) from None
    if process_rank()[0] == 0:
        print(metamers, "in", options.folder)
    if spread:
        distributed.destroy_process_group()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m metalib.run", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a YAML file")
    parser.add_argument("folder", type=Path, help="where checkpoints and the result are kept")
    parser.add_argument("--checkpoint-every", type=types.count, default=50, metavar="K",
                        help="gradient evaluations, default 50")
    parser.add_argument("--processes", type=types.count, default=1, metavar="N",
                        help="on this machine, one per GPU where there are GPUs; default 1")
    parser.add_argument("--timeout", type=types.seconds, default=120,
                        help="seconds after which a silent rank counts as dead, default 120")
    return parser


def _read(path: Path) -> dict:
    try:
        return read_yaml(path)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot read the recipe: {error}") from error


def _stop(number: int, _: object) -> None:
    """A handler of signals. SIGTERM is also how torchrun ends the ranks that one leaves alone."""
    raise Stopped(number)


def _in_processes(processes: int, arguments: Sequence[str]) -> int:
    """Run the command in several processes on this machine; the exit status of the whole.

    They are started by torchrun, whose error messages would bury those of the ranks.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    logging.disable()
    try:
        torchrun.main(["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node",
                       str(processes), "--module", "metalib.runs.recipe", *arguments])
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)
    return 0


def _join_ranks(timeout: float) -> dict:
    """Join the other processes; the device of this one, to be added to the recipe."""
    on_gpus = torch.cuda.is_available()
    limit = datetime.timedelta(seconds=timeout)
    distributed.init_process_group("nccl" if on_gpus else "gloo", timeout=limit)
    if not on_gpus:
        return {}
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return {"device": f"cuda:{os.environ['LOCAL_RANK']}"}


if __name__ == "__main__":
    main()
