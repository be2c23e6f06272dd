"""How close metamers come to their references, by evaluations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from metalib.generation.arguments import optimizer_of
from metalib.generation.generate import generate
from metalib.models.registry import load_model
from metalib.plain import whole
from metalib.runs.tasks.checks import check_stage, checked_by, known
from metalib.runs.tasks.generation import references

CLOSEST = 1e-8  # of the losses in the table: 160 dB, what single precision cannot tell from 0


def check_match(
    *, model: str, stage: str, optimizer: Any, image_set: str, split: str | None, n_images: int,
    size: int, steps: int, noted_at: Sequence[int], first: int, **_: Any,
) -> None:
    """Raise a ValueError unless there are such a model, stage, optimizer and images."""
    images, load = known(image_set, split, n_images, size)
    entry, = load.entries(model, images, "models")
    check_stage(entry, stage)
    optimizer_of(optimizer, 0)
    for number in (steps, *noted_at):
        whole("a number of evaluations", number, 1)
    whole("first", first, 0, n_images)


@checked_by(check_match, sized_by="model")
def match(
    model: str, stage: str, optimizer: Any = "spectral_lbfgs", image_set: str = "cifar10-samples",
    split: str | None = None, n_images: int = 10, size: int | None = None, steps: int = 480,
    seed: int = 0, noted_at: Sequence[int] = (), device: str = "cpu", first: int = 0,
) -> pd.DataFrame:
    """How well the activations of metamers match those of their references, by evaluations.

    Args:
        model, stage, optimizer, steps, seed, device: as in `generate`; there is no criterion, so
            that every image takes all steps.
        image_set, split, n_images, size: the references, as in `load_images`.
        noted_at: at which evaluations the match is noted, those above `steps` left out; without
            any, see `spaced`.
        first: make the metamers of so many of the references only; 0 makes all.

    Returns:
        pandas.DataFrame, one row per image and number of evaluations: `image`, `evaluations`,
        `match_db`, which is 20 log10 of the inverse of the loss at that evaluation (dB, before
        rounding to 8 bits, at most 160).
    """
    network = load_model(model, device=device)
    images = references(image_set, split, n_images, size, seed, first)
    metamers = generate(network, images, stage, optimizer=optimizer, steps=steps, seed=seed)
    counts = np.asarray([count for count in noted_at or spaced(steps) if count <= steps])
    loss = metamers.loss.numpy()[counts - 1].clip(min=CLOSEST)
    return pd.DataFrame({
        "image": np.tile(np.arange(len(images)), len(counts)),
        "evaluations": counts.repeat(len(images)),
        "match_db": (-20 * np.log10(loss)).astype(np.float32).ravel()})


def spaced(steps: int) -> list[int]:
    """Numbers of evaluations from 1 to `steps`: 25 one by one, then about 4 % apart.

    >>> spaced(480)[23:28], spaced(480)[-3:]
    ([24, 25, 26, 27, 28], [457, 475, 480])
    """
    found = list(range(1, min(steps, 25) + 1))
    while found[-1] < steps:
        found.append(min(steps, round(1.04 * found[-1])))
    return found
