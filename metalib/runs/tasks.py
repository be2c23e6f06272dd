"""Functions of plain values, to be swept over a grid (see `metalib.sweep`).

A task of your own is a function like these.

    task: metalib.tasks:transfer
    grid: {generator: [zoo/vgg-standard-0, zoo/vgg-robust-0], stage: [group1, group3]}
    parameters: {observers: [zoo/resnet-standard-0], n_images: 10}
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from metalib.data import load_images
from metalib.evaluation.criterion import judge
from metalib.evaluation.nulls import load_null
from metalib.evaluation.transfer import transfer_study
from metalib.generation.generate import generate
from metalib.models.registry import list_models, load_model


def generation(
    model: str, stage: str, optimizer: str = "spectral_lbfgs", image_set: str = "cifar10-samples",
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
