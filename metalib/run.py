"""Make metamers from a recipe in a file, with checkpoints, in one process or distributed over several.

    python -m metalib.run recipe.yml run
    torchrun --nproc-per-node=2 -m metalib.run recipe.yml run

The models of the recipe are spread over the ranks, or the images of a single model (see `generate`). Run a second time, the same
command goes on from the last checkpoint in the folder `run`, or does nothing where all is done. What is written is described in
`metalib.store`. A recipe is YAML: what `generate` takes, with models by name and images as `load_images` takes them::

    models: [zoo/vgg-robust-0, zoo/resnet-robust-0]
    stages: [group3, group3]
    images: {source: cifar10-samples, n: 10}
    stop: criterion             # or leave it out; nulls are those that ship, or of `null_images`
    null_images: {source: "folder:photographs"}
    steps: 500                  # and any other keyword of `generate`
"""
import argparse
import datetime
import inspect
import os
import signal
import sys
from pathlib import Path

import torch
import yaml
from torch import distributed

from metalib import store
from metalib.data import load_images
from metalib.generate import generate, process_rank
from metalib.models import load_model
from metalib.nulls import load_null

OWN = {"models", "stages", "images", "stop", "null_images"}
PASSED_ON = {name for name, parameter in inspect.signature(generate).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
PASSED_ON -= {"stop", "pause", "resume", "progress"}


def run(recipe, folder, *, checkpoint_every=50):
    """Make the metamers of a recipe, saving to a folder after every `checkpoint_every` gradient evaluations.

    Args:
        recipe: a dict as in the module's text.
        folder: where checkpoints and the result are kept. If they are of this recipe the run goes on from there.

    Returns:
        Metamers, the same on every rank.

    Raises:
        ValueError: a key that is unknown or missing, or a folder that holds metamers of another recipe.
    """
    if unknown := set(recipe) - OWN - PASSED_ON:
        raise ValueError(f"unknown keys in the recipe: {', '.join(sorted(unknown))}; known: {', '.join(sorted(OWN | PASSED_ON))}")
    if missing := {"models", "stages", "images"} - set(recipe):
        raise ValueError(f"the recipe lacks {', '.join(sorted(missing))}")
    if recipe.get("stop") not in (None, "criterion"):
        raise ValueError(f"stop: {recipe['stop']!r} is not known; say stop: criterion, or leave it out")
    keywords = {key: value for key, value in recipe.items() if key in PASSED_ON}
    images = load_images(**recipe["images"])
    models = [load_model(name) for name in recipe["models"]]
    if recipe.get("stop"):
        pool = load_images(**recipe["null_images"]) if "null_images" in recipe else None
        keywords["stop"] = [load_null(model, stage, images=pool) for model, stage in zip(models, recipe["stages"])]
    first = process_rank()[0] == 0
    metamers = store.load(folder) if (Path(folder) / store.FILE).is_file() else None
    while True:
        metamers = generate(models, images, recipe["stages"], **keywords, pause=checkpoint_every, resume=metamers)
        if first:
            store.save(metamers, folder)
        if not metamers.interrupted:
            break
    if first:
        store.export(metamers, folder)
    return metamers


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a YAML file")
    parser.add_argument("folder", type=Path, help="where checkpoints and the result are kept")
    parser.add_argument("--checkpoint-every", type=int, default=50, metavar="K", help="gradient evaluations, default 50")
    parser.add_argument("--timeout", type=float, default=120, help="seconds after which a silent rank counts as dead, default 120")
    options = parser.parse_args(arguments)
    try:
        recipe = yaml.safe_load(options.recipe.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SystemExit(f"cannot read the recipe {options.recipe}: {error}") from error
    if not isinstance(recipe, dict):
        raise SystemExit(f"the recipe {options.recipe} must be keys and values; see python -m metalib.run --help")
    spread = int(os.environ.get("WORLD_SIZE", 1)) > 1
    lost = ("a rank has died or cannot be reached.\n"
            f"What was done until the last checkpoint is kept in {options.folder}; start the same command again to go on.")
    if spread:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(lost))  # torchrun ends the other ranks so, perhaps before they notice
        on_gpus = torch.cuda.is_available()
        if on_gpus:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            recipe["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
        distributed.init_process_group("nccl" if on_gpus else "gloo", timeout=datetime.timedelta(seconds=options.timeout))
    try:
        metamers = run(recipe, options.folder, checkpoint_every=options.checkpoint_every)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{error}") from error
    except RuntimeError as error:
        if not spread:
            raise
        raise SystemExit(f"{error}\n{lost}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; start the same command again to go on from the checkpoint in {options.folder}") from None
    if process_rank()[0] == 0:
        print(metamers, "in", options.folder)
    if spread:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
