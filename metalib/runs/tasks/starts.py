"""Metamers from starting images of several kinds, with their controls."""

import functools
from typing import Any

import pandas as pd

from metalib.data import ImageSet, load_images
from metalib.evaluation.criterion import judge
from metalib.evaluation.images import image_statistics
from metalib.evaluation.nulls import load_null
from metalib.generation.generate import generate
from metalib.generation.metamers import Metamers
from metalib.generation.starts import STARTS, perturbation
from metalib.models.registry import load_model
from metalib.runs.tasks.checks import checked_by, known
from metalib.runs.tasks.generation import check_generation, references

FROM_OTHERS = ("same_class", "other_class")  # starts that are another image of a pool


def check_starts(*, start: str, observer: str, **values: Any) -> None:
    """Raise a ValueError unless there are such models, null, start and images."""
    check_generation(**values)
    images, load = known(*(values[name] for name in ("image_set", "split", "n_images", "size")))
    load.entries(observer, images, "observers")
    kind_of(start)


def kind_of(start: str) -> tuple[str, dict[str, float]]:
    """The name and options of a start, which a number may follow: the fraction of a blend.

    Raises:
        ValueError: an unknown start, or a fraction that is none.

    >>> kind_of("blend 0.25"), kind_of("grey")
    (('blend', {'fraction': 0.25}), ('grey', {}))
    """
    name, _, fraction = start.partition(" ")
    if name not in STARTS or fraction and name != "blend":
        raise ValueError(f"unknown start {start!r}; choose one of {', '.join(STARTS)}; "
                         "a fraction may follow a blend, as in 'blend 0.25'")
    return name, {"fraction": float(fraction)} if fraction else {}


@functools.lru_cache(maxsize=1)
def pool_of(image_set: str, split: str | None, size: int | None, seed: int) -> ImageSet:
    """Images from which starts are drawn: at most 1,000, the same for all cells."""
    try:
        return load_images(image_set, split=split, n=1000, seed=seed, size=size)
    except ValueError:  # there are fewer
        return load_images(image_set, split=split, size=size)


@checked_by(check_starts, sized_by="model")
def starts(
    model: str, stage: str, start: str, observer: str, optimizer: Any = "spectral_lbfgs",
    image_set: str = "cifar10-samples", split: str | None = None, n_images: int = 20,
    size: int | None = None, steps: int = 200, seed: int = 0, check_every: int = 1,
    device: str = "cpu", first: int = 0,
) -> pd.DataFrame:
    """Make metamers from one kind of start until they pass, beside perturbed references.

    Args:
        model, stage: names; the null of the stage must ship with the model.
        start: a name in `STARTS`, or a blend with its fraction, as in "blend 0.25".
        observer: name of another network, to which the metamers are shown.
        optimizer, steps, seed, check_every, device: as in `generate`.
        image_set, split, n_images, size: the references, as in `load_images`.
        first: make the metamers of so many of the references only; 0 makes all.

    Returns:
        pandas.DataFrame, one row per image: `image`, `passed`, `evaluations`, `distance`,
        `distance_from_start` (root mean square over pixels in [0, 1]), `ssim` (the structural
        similarity to the reference), `control` (whether the reference with Gaussian noise at the
        same distance passes, too), `recognised` (whether the observer gives the metamer the class
        that it gives the reference).
    """
    network, answer = load_model(model, device=device), load_model(observer, device=device).answer
    images, null = references(image_set, split, n_images, size, seed, first), load_null(
        network, stage)
    name, options = kind_of(start)
    if name in FROM_OTHERS:
        options |= {"pool": pool_of(image_set, split, size, seed + 1)}
    metamers = generate(
        network, images, stage, start=(name, options), optimizer=optimizer, steps=steps, seed=seed,
        stop=null, check_every=check_every)
    rows = judge(network, stage, metamers, null)
    noisy = Metamers(perturbation(images.images, rows["distance"], seed=seed), images.images)
    same = answer(metamers.images.to(device)) == answer(images.images.to(device))
    return rows[["image", "passed", "evaluations", "distance", "distance_from_start"]].assign(
        ssim=image_statistics(metamers.images, images)["ssim"],
        control=judge(network, stage, noisy, null)["passed"], recognised=same.cpu().numpy())
