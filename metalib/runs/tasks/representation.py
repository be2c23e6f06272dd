"""The representation test of metamers, and simulations of how often it rejects."""

import functools
import os
from typing import Any

import pandas as pd
from torch import Tensor

from metalib.data import ImageSet, load_images, stratified
from metalib.evaluation import level
from metalib.evaluation.representation import NULLS, representation_test
from metalib.generation.generate import generate
from metalib.models.registry import load_model
from metalib.plain import whole
from metalib.runs.tasks.checks import check_stage, checked_by, known, only

IMAGE = ("observer", "stage", "part", "null", "image")  # what names a row
OF_IMAGES = (
    "similarity", "rank", "ceiling", "recognised", "draws", "auc", "p_value", "q_value")
OF_STAGES = (
    "images", "natural_95", "chance", "top1", "top1_low", "top1_high", "mean_rank",
    "identification_p", *(f"{null}_{value}" for null in NULLS for value in ("auc", "kept", "p")),
    "correlation_pearson", "correlation_pearson_p", "euclidean_pearson", "euclidean_pearson_p",
    "cka", "cka_p", "cka_score")


def check_representation(
    *, generator: str, matched: str, observer: str, image_set: str, split: str | None,
    n_images: int, references: int, size: int, steps: int, **_: Any,
) -> None:
    """Raise a ValueError unless there are such models, stage and images."""
    images, load = known(image_set, split, n_images, size)
    entry, = load.entries(generator, images, "generators")
    load.entries(observer, images, "observers")
    check_stage(entry, matched)
    if whole("references", references, 4) > len(images):
        raise ValueError(f"there are {references} references of {len(images)} images")
    whole("steps", steps, 1)


@checked_by(check_representation, sized_by="generator")
def representation(
    generator: str, matched: str, observer: str, image_set: str = "cifar10-samples",
    split: str | None = None, n_images: int = 20, references: int = 20, size: int | None = None,
    steps: int = 60, draws: int = 59, permutations: int = 9999, seed: int = 0,
) -> pd.DataFrame:
    """The representation test of one generator's metamers in one observer.

    Activations of the natural images are kept in the folder that the environment variable
    METALIB_CACHE names, for other cells of the observer (gigabytes); without one they are not.

    Args:
        generator, matched: the network for which metamers are made, and its stage.
        observer: the network that is shown them; all of its stages are tested.
        image_set, split, n_images, size: the natural images, as in `load_images`.
        references: how many of them, stratified by class, are the references.
        steps: gradient evaluations for each metamer.
        draws, permutations, seed: as in `representation_test`.

    Returns:
        pandas.DataFrame: rows of the test whose `part` is "image", one for each stage, image and
        null, and those of its summary whose `part` is "stage". There `null` is "" and `image` -1;
        columns of the other part are missing. `generator_training` and `observer_training` are from
        the networks' cards. `primary_p` is left out, since it is corrected over
        all observers.
    """
    network, maker = load_model(observer), load_model(generator)
    natural, chosen, metamers = _made(generator, matched, image_set, split, n_images, references,
                                      size, steps, seed)
    table = representation_test(
        network, chosen, metamers, natural=natural, nulls=NULLS, draws=draws,
        permutations=permutations, seed=seed, cache=os.environ.get("METALIB_CACHE") or False)
    stages = table.summary().assign(null="", image=-1, part="stage")
    images = pd.DataFrame(table).assign(part="image")
    rows = [only(images, IMAGE, OF_IMAGES), only(stages, IMAGE, OF_STAGES)]
    return pd.concat(rows, ignore_index=True).astype({"recognised": "boolean"}).assign(
        generator_training=maker.card.get("training"), observer_training=network.card.get(
            "training"))


@functools.lru_cache(maxsize=1)
def _natural(
    image_set: str, split: str | None, n_images: int, size: int | None, seed: int,
) -> ImageSet:
    return load_images(image_set, split=split, n=n_images, seed=seed, size=size)


@functools.lru_cache(maxsize=50)  # all observers are shown the same
def _made(
    generator: str, matched: str, image_set: str, split: str | None, n_images: int,
    references: int, size: int | None, steps: int, seed: int,
) -> tuple[ImageSet, ImageSet, Tensor]:
    """Natural images, the references among them, and their metamers."""
    natural = _natural(image_set, split, n_images, size, seed)
    chosen = natural[stratified(natural.labels, references, seed)]
    metamers = generate(load_model(generator), chosen, matched, steps=steps, seed=seed)
    return natural, chosen, metamers.images


def rejections(
    similarity: float, of_class: bool = False, seed: int = 0, experiments: int = 100, n: int = 20,
    units: int = 300, natural: int = 20, draws: int = 19, permutations: int = 99,
) -> pd.DataFrame:
    """How often each p-value of the representation test rejects at 5 % in made-up experiments.

    The arguments and the rows are those of `metalib.evaluation.level.rejected`.
    """
    return level.rejected(
        experiments, similarity=similarity, of_class=of_class, seed=seed, n=n, units=units,
        natural=natural, draws=draws, permutations=permutations)


def discoveries(
    planted: float, natural: int = 160, shared: float = 0.0, seed: int = 0, families: int = 100,
    n: int = 40, stages: int = 2, units: int = 100, similarity: float = 0.9,
) -> pd.DataFrame:
    """What q-values of the representation test find in made-up families of tests.

    The arguments and the rows are those of `metalib.evaluation.level.discoveries`.
    """
    return level.discoveries(
        families, planted=planted, shared=shared, n=n, stages=stages, units=units, natural=natural,
        similarity=similarity, seed=seed)
