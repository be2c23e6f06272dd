"""What networks see in metamers: inversions, confidence, and statistics of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalib.data import ImageSet
from metalib.evaluation.confidence import scores
from metalib.evaluation.images import image_statistics, layout
from metalib.generation.generate import generate
from metalib.generation.starts import perturbation, start_images
from metalib.metrics import rms_distance
from metalib.models import Model
from metalib.models.registry import load_model
from metalib.plain import whole
from metalib.runs.tasks.checks import check_labels, check_stage, checked_by, known
from metalib.runs.tasks.generation import references

KINDS = ("grey noise, no prior", "pink noise, no prior", "pink noise, prior")


def check_seeing(
    *, stage: str, models: Sequence[str], image_set: str, split: str | None, n_images: int,
    size: int, steps: int, first: int, network: str, **_: Any,
) -> None:
    """Raise a ValueError unless there are such networks, stage, and images with labels."""
    images, load = known(image_set, split, n_images, size)
    check_labels(images, image_set)
    load.entries(models, images, "models")
    entry, = load.entries([network], images, "models")
    check_stage(entry, stage)
    whole("steps", steps, 1)
    whole("first", first, 0, n_images)


@checked_by(check_seeing, sized_by="network")
def inversions(
    network: str, stage: str, models: Sequence[str], weights: Mapping[str, float],
    steps: int = 60, image_set: str = "cifar10-samples", split: str | None = None,
    n_images: int = 10, size: int | None = None, seed: int = 0, first: int = 0,
) -> pd.DataFrame:
    """Images with the activations of photographs: with a prior, and without one from two starts.

    Args:
        network, stage: what is inverted.
        models: the networks that look at the images; the inverted one is no judge of the class.
        weights: the weight of the natural-image prior by stage; 0 where there is none.
        steps: gradient evaluations for each image.
        image_set, split, n_images, size, seed: the references, as in `load_images`.
        first: invert so many of them only; 0 inverts all.

    Returns:
        pandas.DataFrame, one row per kind (one of `KINDS`) and image: `ssim` (with the
        photograph), `slope`, `variation`, `contrast` and `colourfulness` (see
        `metalib.seeing.image_statistics`), `layout` (see `metalib.seeing.layout`), `own` (whether
        the network gives it the answer of the photograph), `others` (the share of the other
        networks that give it the true label), `error` (the squared loss), and `training` of the
        network.
    """
    inverted, others = load_model(network), [load_model(name) for name in models if name != network]
    images = references(image_set, split, n_images, size, seed, first)
    prior = ("natural", {"weight": float(weights.get(stage, 0))})
    rows = []
    for kind, options in zip(KINDS, ({}, {"start": "pink"}, {"start": "pink", "prior": prior})):
        made = generate(inverted, images, stage, steps=steps, seed=seed, **options)
        rows.append(_looked_at(made.images, images, inverted, others).assign(
            kind=kind, error=made.loss[-1].square().double().numpy()))
    table = pd.concat(rows, ignore_index=True).assign(training=inverted.card.get("training", ""))
    return table.astype(dict.fromkeys(table.select_dtypes("float64"), "float32"))


def _looked_at(
    pictures: Tensor, images: ImageSet, inverted: Model, others: Sequence[Model],
) -> pd.DataFrame:
    """Statistics of pictures, and who recognises them: one row per image."""
    own = (inverted.answer(pictures) == inverted.answer(images.images)).numpy()
    right = [(other.answer(pictures) == images.labels).numpy() for other in others]
    return image_statistics(pictures, images).assign(
        image=range(len(images)), layout=layout(pictures, images.images), own=own,
        others=np.mean(right, axis=0) if right else np.nan)


@checked_by(check_seeing, sized_by="network")
def confidence(
    network: str, stage: str, models: Sequence[str], steps: int = 40,
    image_set: str = "cifar10-samples", split: str | None = None, n_images: int = 20,
    size: int | None = None, seed: int = 0, first: int = 0,
) -> pd.DataFrame:
    """How sure networks are of the metamers of one network and stage, and of their controls.

    Args:
        network, stage: of which metamers are made, from the published noise.
        models: the networks that look at them.
        steps: gradient evaluations for each metamer.
        image_set, split, n_images, size, seed, first: the references, as in `inversions`.

    Returns:
        pandas.DataFrame, one row per kind, observer and image: `kind` ("own metamers", "metamers
        of others", or "noise of the same size", which only the network itself is shown),
        `observer`, `image`, a column for each of `metalib.confidence.SCORES`, and `right` (whether
        the answer is the true label).
    """
    made = load_model(network)
    images = references(image_set, split, n_images, size, seed, first)
    pictures = generate(made, images, stage, steps=steps, seed=seed).images
    noisy = perturbation(images.images, rms_distance(pictures, images.images), seed=seed)
    rows = [_sure(load_model(name), pictures, images.labels).assign(
        kind="own metamers" if name == network else "metamers of others") for name in models]
    rows.append(_sure(made, noisy, images.labels).assign(kind="noise of the same size"))
    return pd.concat(rows, ignore_index=True)


def check_photographs(
    *, observer: str, image_set: str, split: str | None, n_images: int, size: int, first: int,
    noises: int, **_: Any,
) -> None:
    """Raise a ValueError unless there are such a network and images with labels."""
    images, load = known(image_set, split, n_images, size)
    check_labels(images, image_set)
    load.entries([observer], images, "models")
    whole("first", first, 0, n_images)
    whole("noises", noises, 0, n_images)


@checked_by(check_photographs, sized_by="observer")
def photographs(
    observer: str, image_set: str = "cifar10-samples", split: str | None = None,
    n_images: int = 20, size: int | None = None, seed: int = 1, noises: int = 20, first: int = 0,
) -> pd.DataFrame:
    """How sure a network is of photographs, and of noise.

    Args:
        observer: the network.
        image_set, split, n_images, size, seed: the photographs, as in `load_images`.
        noises: how many images are uniform noise.
        first: show so many of the photographs only; 0 shows all.

    Returns:
        pandas.DataFrame, one row per kind ("photographs" or "uniform noise") and image, with the
        columns of `confidence`.
    """
    network = load_model(observer)
    images = references(image_set, split, n_images, size, seed, first)
    noise = start_images("uniform", images[:noises] if noises else images[:1], seed=seed)[:noises]
    rows = [_sure(network, images.images, images.labels).assign(kind="photographs")]
    if noises:
        rows.append(_sure(network, noise, images.labels[:noises]).assign(kind="uniform noise"))
    return pd.concat(rows, ignore_index=True)


def _sure(network: Model, pictures: Tensor, labels: Tensor) -> pd.DataFrame:
    table = scores(network, pictures)
    right = table.pop("answer").to_numpy() == labels.numpy()
    return table.astype("float32").assign(
        image=range(len(table)), observer=network.name, right=right)


def statistics(
    image_set: str = "cifar10-samples", split: str | None = None, n_images: int = 20,
    size: int = 32, seed: int = 1, first: int = 0,
) -> pd.DataFrame:
    """Statistics of photographs, beside which those of metamers stand.

    Returns:
        pandas.DataFrame, one row per image: `image`, `slope`, `variation`, `contrast` and
        `colourfulness`, see `metalib.seeing.image_statistics`.
    """
    images = references(image_set, split, n_images, size, seed, first)
    parts = [image_statistics(images.images[some])
             for some in torch.arange(len(images)).split(500)]
    table = pd.concat(parts, ignore_index=True).astype("float32")
    return table.assign(image=range(len(table)))
