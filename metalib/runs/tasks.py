"""Functions of plain values, to be swept over a grid (see `metalib.sweep`).

A task of your own is a function like these. With `checked_by`, a wrong cell is found before the
first one is computed.

    task: metalib.tasks:transfer
    grid: {generator: [zoo/vgg-standard-0, zoo/vgg-robust-0], stage: [group1, group3]}
    parameters: {observers: [zoo/resnet-standard-0], n_images: 10}
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pandas as pd

from metalib.data import ImageSet, load_images
from metalib.evaluation.criterion import judge
from metalib.evaluation.inventory import Loader, Nulls
from metalib.evaluation.nulls import load_null, shipped_stages
from metalib.evaluation.transfer import Plan, transfer_study
from metalib.generation.arguments import optimizer_of
from metalib.generation.generate import generate
from metalib.models.registry import list_models, load_model
from metalib.plain import whole

Task = TypeVar("Task", bound=Callable)


def checked_by(check: Callable[..., object]) -> Callable[[Task], Task]:
    """Give a task a check, which `sweep` calls for every cell before it computes the first one.

    Args:
        check: a function of the task's keywords, defaults included, that raises a ValueError where
            they are wrong; what it returns is ignored.
    """
    def give(task: Task) -> Task:
        vars(task)["check"] = check
        return task

    return give


# --- Metamers of one model ----------------------------------------------------------------------

def check_generation(
    *, model: str, stage: str, optimizer: Any, image_set: str, split: str | None, n_images: int,
    size: int, **counts: Any,
) -> None:
    """Raise a ValueError unless there are such a model, null, optimizer and images."""
    images, load = _known(image_set, split, n_images, size)
    entry, = load.entries(model, images, "models")
    if stage not in entry.stages:
        raise ValueError(f"{model} has no stage {stage!r}; its stages are "
                         f"{', '.join(entry.stages)}")
    if stage not in (shipped := shipped_stages(model)):
        raise ValueError(f"no null ships for {model}, {stage}, only for "
                         f"{', '.join(sorted(shipped)) or 'models of the bundled zoo'}")
    optimizer_of(optimizer, 0)
    for name in ("steps", "check_every"):
        whole(name, counts[name], 1)


@functools.lru_cache(maxsize=4)
def _known(
    image_set: str, split: str | None, n_images: int, size: int, allow_pickle: bool = False,
    cards: str = "{}",
) -> tuple[ImageSet, Loader]:
    """Images, and what has been found out about models that are to take them."""
    images = load_images(image_set, split=split, n=whole("n_images", n_images, 1), size=size)
    return images, Loader("cpu", allow_pickle, json.loads(cards))


@checked_by(check_generation)
def generation(
    model: str, stage: str, optimizer: Any = "spectral_lbfgs", image_set: str = "cifar10-samples",
    split: str | None = None, n_images: int = 20, size: int = 32, steps: int = 200, seed: int = 0,
    until_passed: bool = True, check_every: int = 5, device: str = "cpu",
) -> pd.DataFrame:
    """Make metamers of one model at one stage and judge them.

    Args:
        model, stage: names; the null of the stage must ship with the model.
        optimizer, steps, seed, check_every, device: as in `generate`.
        image_set, split, n_images, size: the references, as in `load_images`.
        until_passed: stop an image where it first passes the criterion.

    Returns:
        pandas.DataFrame: the rows of `metalib.judge`, with the `seconds` that all metamers took
        together.
    """
    network = load_model(model, device=device)
    images = load_images(image_set, split=split, n=n_images, seed=seed, size=size)
    null = load_null(network, stage)
    metamers = generate(
        network, images, stage, optimizer=optimizer, steps=steps, seed=seed,
        stop=null if until_passed else None, check_every=check_every)
    return judge(network, stage, metamers, null).assign(seconds=metamers.seconds)


# --- Transfer -----------------------------------------------------------------------------------

def check_transfer(
    *, generator: str, stage: str | float, observers: Sequence[str], image_set: str,
    split: str | None, n_images: int, size: int, null_set: str | None, null_images: int,
    steps: int, cards: dict[str, dict[str, Any]] | None, allow_pickle: bool,
    generation: dict[str, Any] | None, **_: Any,
) -> None:
    """Raise a ValueError unless there are such models, stages, nulls, optimizer and images."""
    images, load = _known(image_set, split, n_images, size, allow_pickle, json.dumps(cards or {}))
    few = min(whole("null_images", null_images, 2), 20)
    natural = _known(null_set, None, few, size)[0] if null_set else None
    Plan.of(load.entries([generator], images, "generators"),
            load.entries(list(observers) or list_models("zoo/*"), images, "observers"), images,
            [stage], Nulls({}, natural), False, {}, True, 1)
    if generation and "optimizer" in generation:
        optimizer_of(generation["optimizer"], generation.get("jitter", 0))
    whole("steps", steps, 1)


@checked_by(check_transfer)
def transfer(
    generator: str, stage: str | float, observers: Sequence[str] = (),
    image_set: str = "cifar10-samples", split: str | None = None, n_images: int = 20,
    size: int = 32, null_set: str | None = None, null_images: int = 2000, steps: int = 60,
    seed: int = 0, cards: dict[str, dict[str, Any]] | None = None, allow_pickle: bool = False,
    device: str = "cpu", generation: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """The transfer study of one generator at one stage; a grid of these is the whole study.

    Args:
        generator, stage: names; a stage may be a relative depth instead.
        observers: names; without any, all models of the bundled zoo.
        image_set, split, n_images, size: the references, as in `load_images`.
        null_set, null_images: source and number of the natural images for models that ship no
            null.
        steps, seed, cards, allow_pickle, device, generation: as in `transfer_study`.

    Returns:
        pandas.DataFrame: the rows of `metalib.transfer_study`.
    """
    images = load_images(image_set, split=split, n=n_images, seed=seed, size=size)
    natural = load_images(null_set, n=null_images, seed=seed + 1, size=size) if null_set else None
    return transfer_study(
        [generator], list(observers) or list_models("zoo/*"), images, stages=[stage],
        null_images=natural, steps=steps, seed=seed, cards=cards, allow_pickle=allow_pickle,
        device=device, generation=generation)
