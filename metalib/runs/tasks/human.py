"""What networks make of metamers that are made as those of people are, and of their controls."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from metalib.data import ImageSet, load_images, to_8_bits, to_bytes
from metalib.evaluation.correspondence import relative_depth
from metalib.evaluation.human import VISION
from metalib.evaluation.images import image_statistics
from metalib.evaluation.nulls import load_null, null_distribution
from metalib.evaluation.shown import Observer
from metalib.generation.feedforward import foveated, one_pass
from metalib.generation.generate import generate
from metalib.generation.local_statistics import layout_of
from metalib.generation.starts import blurred, perturbation, start_images
from metalib.metrics import rms_distance
from metalib.models.registry import load_model
from metalib.models.texture import texture_model
from metalib.plain import whole
from metalib.runs.tasks.checks import check_stage, checked_by, known
from metalib.runs.tasks.generation import references

CONTROLS = ("blurred", "noise")
METHODS = ("texform", "foveated", "one_pass", "decoded", "iterative", *CONTROLS)
WIDEST = 0.3  # blur, in sides of the image
COLUMNS = ["match", "scaled_match", "p_value", "passed", "agrees"]


class Made(NamedTuple):
    """Images of a method, and what one of them took.

    Attributes:
        pictures: (B, 3, H, W), of 8 bits.
        evaluations: of a gradient.
        seconds: on this machine.
    """

    pictures: Tensor
    evaluations: int
    seconds: float


def check_human(
    *, method: str, observers: Sequence[str], generator: str, matched: str, image_set: str,
    split: str | None, n_images: int, size: int, steps: int, first: int, natural: int, like: str,
    count: int, **_: Any,
) -> None:
    """Raise a ValueError unless there are such a method, networks, stage and images."""
    images, load = known(image_set, split, n_images, size)
    if method not in METHODS or like in CONTROLS or like not in METHODS:
        raise ValueError(f"a method is one of {', '.join(METHODS)}, and what controls are like is "
                         f"none of {', '.join(CONTROLS)}; these are {method!r} and {like!r}")
    load.entries(observers, images, "observers")
    if method == "iterative":
        entry, = load.entries([generator], images, "generators")
        check_stage(entry, matched)
    for name, number, least in (("steps", steps, 1), ("count", count, 1), ("natural", natural, 0)):
        whole(name, number, least)
    whole("first", first, 0, n_images)


@checked_by(check_human, sized_by="observers")
def human(
    method: str, observers: Sequence[str], scale: float | None = None, count: int = 4,
    fixation: Sequence[float] | None = None, encoder: str | None = None, generator: str = "",
    matched: str = "features", steps: int = 100, like: str = "foveated",
    image_set: str = "cifar10-samples", split: str | None = None, n_images: int = 10,
    size: int | None = None, seed: int = 0, natural: int = 0,
    vision: Mapping[str, Any] | None = None, first: int = 0,
) -> pd.DataFrame:
    """Images of one method, shown to networks at all their stages.

    Args:
        method: "texform", "foveated" and "one_pass" as in `metalib.starts.STARTS`; "decoded", what
            the decoder of "foveated" makes of features as they are; "iterative", metamers of a
            network; and controls, "blurred" to the structural similarity of `like`, and "noise" at
            its distance.
        observers: names of networks, of the bundled zoo or with nulls of their own.
        scale, count, fixation: of pooling windows: log-polar ones of a scale around a gaze, or
            without a scale `count` by `count` equal ones.
        encoder: of "foveated", see `metalib.feedforward.foveated`.
        generator, matched: the network of "iterative", and its stage.
        steps: gradient evaluations of "iterative" and "texform".
        like: the method that controls are like.
        image_set, split, n_images, size, seed: the references, as in `load_images`.
        natural: from how many further images the null of the model of early vision is taken, which
            looks at the images, too; 0 leaves it out.
        vision: `scale`, `count` and `fixation` of its windows; None for those of the method.
        first: take so many of the references only; 0 takes all.

    Returns:
        pandas.DataFrame, one row per observer, stage, comparison and image. `comparison` is
        "reference", the image beside its reference, or "synthesis", beside another one of the same
        reference, from other noise (for methods with noise). `depth`, `match`, `scaled_match`,
        `p_value`, `passed` and `agrees` are those of `metalib.transfer_study`, of the two images
        that are compared; `training` and `architecture` those of the observer. `distance` and
        `ssim` are of the image and its reference, `evaluations` and `seconds` for one image.
    """
    images = references(image_set, split, n_images, size, seed, first)
    windows = {"scale": scale, "count": count, "fixation": fixation}

    def make(name: str, number: int) -> Made:
        return _made(name, images, windows, number, encoder=encoder, generator=generator,
                     matched=matched, steps=steps, like=like)

    made = make(method, seed)
    again = make(method, seed + 1) if method not in ("decoded", "blurred") else None
    about = image_statistics(made.pictures, images)[["ssim"]].assign(
        distance=rms_distance(made.pictures, images.images).double().numpy(),
        evaluations=made.evaluations, seconds=made.seconds)
    looking = _observers(observers, images, windows if vision is None else {
        "scale": None, "fixation": None, "count": 4, **vision}, natural, image_set, split)
    parts = [_seen(Observer(model, images, 100, nulls), nulls, made, again)
             for model, nulls in looking]
    table = pd.concat(parts, ignore_index=True).join(about, on="image")
    return table.astype(dict.fromkeys(table.select_dtypes("float64"), "float32"))


def _made(
    name: str, images: ImageSet, windows: dict[str, Any], seed: int, *, encoder: str | None,
    generator: str, matched: str, steps: int, like: str,
) -> Made:
    began, evaluations = time.perf_counter(), 0
    if name in CONTROLS:
        target = _made(like, images, windows, seed, encoder=encoder, generator=generator,
                       matched=matched, steps=steps, like="").pictures
        pictures = (_blurred_like(images, target) if name == "blurred" else perturbation(
            images.images, rms_distance(target, images.images), seed=seed))
    elif name in ("foveated", "decoded"):
        found = foveated(images, encoder=encoder, seed=seed, **windows)
        pictures = found.images if name == "foveated" else found.decoded
    elif name == "one_pass":
        pictures = one_pass(images, layout_of(_sides(images), **windows), seed=seed).images
    elif name == "texform":
        pictures, evaluations = start_images(
            "texform", images, seed=seed, steps=steps, **windows), steps
    else:
        found = generate(load_model(generator), images, matched, steps=steps, seed=seed)
        pictures, evaluations = found.images, steps
    assert pictures is not None
    return Made(to_8_bits(pictures), evaluations, (time.perf_counter() - began) / len(images))


def _sides(images: ImageSet) -> tuple[int, int]:
    height, width = images.images.shape[2:]
    return height, width


def _blurred_like(images: ImageSet, target: Tensor) -> Tensor:
    """References blurred until their structural similarity is that of other images."""
    wanted = torch.tensor(image_statistics(target, images)["ssim"].to_numpy())
    low, high = torch.zeros(len(images)), torch.full((len(images),), WIDEST)

    def blur(sigma: Tensor) -> Tensor:
        return torch.stack([blurred(one, -1, torch.Generator(), sigma=max(1e-3, float(width)))
                            for one, width in zip(images.images, sigma)])

    for _ in range(12):
        middle = (low + high) / 2
        similar = torch.tensor(image_statistics(blur(middle), images)["ssim"].to_numpy())
        low, high = (torch.where(similar > wanted, middle, low),
                     torch.where(similar > wanted, high, middle))
    return blur((low + high) / 2)


def _observers(
    names: Sequence[str], images: ImageSet, windows: dict[str, Any], natural: int, image_set: str,
    split: str | None,
) -> Any:
    """Models that look, one after the other, with their nulls by stage."""
    for name in names:
        model = load_model(name)
        yield model, {stage: load_null(model, stage) for stage in model.stages}
    if natural:
        side = _sides(images)[0]
        others = load_images(image_set, split=split, n=natural, size=side, seed=1)
        vision = texture_model(layout_of(_sides(images), **windows), others, name=VISION)
        yield vision, {"statistics": null_distribution(vision, "statistics", others)}


def _seen(observer: Observer, nulls: dict[str, Any], made: Made, again: Made | None) -> Any:
    """The rows of an observer."""
    model, parts = observer.model, []
    looks = {"reference": observer.look(nulls, to_bytes(made.pictures))}
    if again is not None:
        other = Observer(model, replace(observer.images, images=again.pictures), 100, nulls)
        looks["synthesis"] = other.look(nulls, to_bytes(made.pictures))
    for comparison, seen in looks.items():
        for stage, columns in seen.items():
            scale = observer.scale(stage, nulls[stage])
            columns = columns | {"scaled_match": scale(columns["match"])}
            parts.append(pd.DataFrame({"image": range(len(made.pictures)), **{
                name: columns[name] for name in COLUMNS}}).assign(
                    observer=model.name, stage=stage, depth=relative_depth(model.stages, stage),
                    comparison=comparison))
    about = {key: model.card.get(key, "") for key in ("architecture", "training")}
    return pd.concat(parts, ignore_index=True).assign(**about)
