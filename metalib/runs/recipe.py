"""Make metamers from a recipe in a file, with checkpoints, in one process or several.

    python -m metalib.run recipe.yml run
    torchrun --nproc-per-node=2 -m metalib.run recipe.yml run

The models of the recipe are spread over the ranks, or the images of a single model (see
`generate`). Given again, the same command goes on from the last checkpoint in the folder `run`, or
does nothing where all is done. What is written is described in `metalib.generation.metamers`. A
recipe is YAML: what `generate` takes, with models by name and images as `load_images` takes them::

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
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed

from metalib.data import load_images
from metalib.evaluation.nulls import load_null
from metalib.generation import metamers as files
from metalib.generation.compute import process_rank
from metalib.generation.generate import generate
from metalib.generation.metamers import Metamers
from metalib.models import load_model
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
        ValueError: a key that is unknown, missing or of another type, or a folder that holds
            metamers of another recipe.
    """
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
    while True:
        metamers = generate(models, images, recipe["stages"], **keywords, pause=checkpoint_every,
                            resume=metamers)
        if first:
            files.save(metamers, folder)
        if not metamers.interrupted:
            break
    if first:
        files.export(metamers, folder)
    return metamers


# --- The command --------------------------------------------------------------------------------

def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m metalib.run`."""
    options = _parser().parse_args(arguments)
    recipe = _read(options.recipe)
    spread = int(os.environ.get("WORLD_SIZE", 1)) > 1
    lost = ("a rank has died or cannot be reached.\nWhat was done until the last checkpoint is "
            f"kept in {options.folder}; start the same command again to go on.")
    if spread:
        recipe |= _join_ranks(options.timeout, lost)
    try:
        metamers = run(recipe, options.folder, checkpoint_every=options.checkpoint_every)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{error}") from error
    except RuntimeError as error:
        if not spread:
            raise
        raise SystemExit(f"{error}\n{lost}") from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; start the same command again to go on from the checkpoint "
                         f"in {options.folder}") from None
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
    parser.add_argument("--checkpoint-every", type=int, default=50, metavar="K",
                        help="gradient evaluations, default 50")
    parser.add_argument("--timeout", type=float, default=120,
                        help="seconds after which a silent rank counts as dead, default 120")
    return parser


def _read(path: Path) -> dict:
    try:
        return read_yaml(path)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot read the recipe: {error}") from error


def _join_ranks(timeout: float, lost: str) -> dict:
    """Join the other processes; the device of this one, to be added to the recipe."""
    # torchrun ends the other ranks by this signal, perhaps before they notice that one died
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(lost))
    on_gpus = torch.cuda.is_available()
    limit = datetime.timedelta(seconds=timeout)
    distributed.init_process_group("nccl" if on_gpus else "gloo", timeout=limit)
    if not on_gpus:
        return {}
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return {"device": f"cuda:{os.environ['LOCAL_RANK']}"}


if __name__ == "__main__":
    main()
