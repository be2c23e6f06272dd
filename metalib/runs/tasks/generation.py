"""Metamers of one model, made and judged."""

from typing import Any

import pandas as pd

from metalib.data import ImageSet, load_images
from metalib.evaluation.criterion import judge
from metalib.evaluation.nulls import load_null, shipped_stages
from metalib.generation.arguments import optimizer_of
from metalib.generation.generate import generate
from metalib.models.registry import load_model
from metalib.plain import whole
from metalib.runs.tasks.checks import check_stage, checked_by, known


def check_generation(
    *, model: str, stage: str, optimizer: Any, image_set: str, split: str | None, n_images: int,
    size: int, **counts: Any,
) -> None:
    """Raise a ValueError unless there are such a model, null, optimizer and images."""
    images, load = known(image_set, split, n_images, size)
    entry, = load.entries(model, images, "models")
    check_stage(entry, stage)
    if stage not in (shipped := shipped_stages(model)):
        raise ValueError(f"no null ships for {model}, {stage}, only for "
                         f"{', '.join(sorted(shipped)) or 'models of the bundled zoo'}")
    optimizer_of(optimizer, 0)
    for name in ("steps", "check_every"):
        whole(name, counts[name], 1)
    whole("first", counts["first"], 0, n_images)


def references(
    image_set: str, split: str | None, n_images: int, size: int | None, seed: int,
    first: int,
) -> ImageSet:
    """The `first` of `n_images` references, or with 0 all of them.

    Those `n_images` are the same whatever `first` is, and a metamer does not depend on the others
    of its batch, so that a few rows of a table can be made again without the rest.
    """
    images = load_images(image_set, split=split, n=n_images, seed=seed, size=size)
    return images[:first] if first else images


@checked_by(check_generation, sized_by="model")
def generation(
    model: str, stage: str, optimizer: Any = "spectral_lbfgs", image_set: str = "cifar10-samples",
    split: str | None = None, n_images: int = 20, size: int | None = None, steps: int = 200,
    seed: int = 0, until_passed: bool = True, check_every: int = 5, device: str = "cpu",
    first: int = 0,
) -> pd.DataFrame:
    """Make metamers of one model at one stage and judge them.

    Args:
        model, stage: names; the null of the stage must ship with the model.
        optimizer, steps, seed, check_every, device: as in `generate`.
        image_set, split, n_images, size: the references, as in `load_images`.
        until_passed: stop an image where it first passes the criterion.
        first: make the metamers of so many of the references only; 0 makes all.

    Returns:
        pandas.DataFrame: the rows of `metalib.judge`, with the `seconds` that all metamers took
        together.
    """
    network = load_model(model, device=device)
    images = references(image_set, split, n_images, size, seed, first)
    null = load_null(network, stage)
    metamers = generate(
        network, images, stage, optimizer=optimizer, steps=steps, seed=seed,
        stop=null if until_passed else None, check_every=check_every)
    return judge(network, stage, metamers, null).assign(seconds=metamers.seconds)
