"""How close metamers come to their references, by evaluations and from several starts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from metalib.data import to_8_bits
from metalib.generation.arguments import optimizer_of
from metalib.generation.generate import generate
from metalib.generation.metamers import Metamers
from metalib.generation.objective import relative_distance
from metalib.generation.optimizers import LINE_SEARCHES, published
from metalib.generation.starts import start_images
from metalib.metrics import rms_distance
from metalib.models.model import Model
from metalib.models.registry import load_model
from metalib.plain import whole
from metalib.runs.tasks.checks import check_stage, checked_by, known
from metalib.runs.tasks.generation import references
from metalib.runs.tasks.starts import FROM_OTHERS, kind_of

UNSCHEDULED = (*LINE_SEARCHES, published)  # rules whose steps do not depend on their number
CLOSEST = 1e-8  # of the losses in the table: 160 dB, what single precision cannot tell from 0


def check_match(
    *, model: str, stage: str, optimizer: Any, image_set: str, split: str | None, n_images: int,
    size: int, steps: int | Sequence[int], noted_at: Sequence[int], first: int, **_: Any,
) -> None:
    """Raise a ValueError unless there are such a model, stage, optimizer and images."""
    images, load = known(image_set, split, n_images, size)
    entry, = load.entries(model, images, "models")
    check_stage(entry, stage)
    optimizer_of(optimizer, 0)
    for number in (*budgets_of(steps), *noted_at):
        whole("a number of evaluations", number, 1)
    whole("first", first, 0, n_images)


@checked_by(check_match, sized_by="model")
def match(
    model: str, stage: str, optimizer: Any = "spectral_lbfgs", image_set: str = "cifar10-samples",
    split: str | None = None, n_images: int = 10, size: int | None = None,
    steps: int | Sequence[int] = 480, seed: int = 0, noted_at: Sequence[int] = (),
    device: str = "cpu", first: int = 0,
) -> pd.DataFrame:
    """How well the activations of metamers match those of their references, by evaluations.

    Args:
        model, stage, optimizer, seed, device: as in `generate`; there is no criterion, so that
            every image takes all steps.
        steps: how many, or several numbers of them: rules whose steps depend on how many there
            will be are run once for each, others for the largest only.
        image_set, split, n_images, size: the references, as in `load_images`.
        noted_at: at which evaluations the match is noted, those above `steps` left out; without
            any, see `spaced`.
        first: make the metamers of so many of the references only; 0 makes all.

    Returns:
        pandas.DataFrame, one row per number of steps, image and number of evaluations: `steps`,
        `image`, `evaluations`, `match_db`, which is 20 log10 of the inverse of the loss of the best
        image so far, the one with the lowest loss, after rounding to 8 bits (dB, at most 160);
        `unrounded_db`, the same before rounding.
    """
    network = load_model(model, device=device)
    images = references(image_set, split, n_images, size, seed, first)
    budgets = budgets_of(steps)
    if getattr(function := optimizer_of(optimizer, 0).function, "func", function) in UNSCHEDULED:
        budgets = [max(budgets)]
    rows = []
    for budget in budgets:
        metamers = generate(
            network, images, stage, optimizer=optimizer, steps=budget, seed=seed, store_every=1)
        counts = np.asarray([count for count in noted_at or spaced(budget) if count <= budget])
        rows.append(pd.DataFrame({
            "steps": budget, "image": np.tile(np.arange(len(images)), len(counts)),
            "evaluations": counts.repeat(len(images)),
            **{name: values.ravel() for name, values
               in best_so_far(network, stage, metamers, counts).items()}}))
    return pd.concat(rows, ignore_index=True)


def budgets_of(steps: int | Sequence[int]) -> list[int]:
    """The numbers of steps."""
    return [steps] if isinstance(steps, int) else list(steps)


@torch.no_grad()
def best_so_far(
    model: Model, stage: str, metamers: Metamers, counts: np.ndarray,
) -> dict[str, np.ndarray]:
    """Matches of the images with the lowest losses after some numbers of evaluations, in dB.

    Args:
        metamers: made with `store_every=1`.
        counts: (T,), numbers of evaluations.

    Returns:
        dict of `match_db`, of the image rounded to 8 bits, and `unrounded_db`, both (T, B).
    """
    if metamers.loss is None or metamers.frames is None or metamers.starts is None:
        raise ValueError("metamers without a history have no best image: use store_every=1")
    loss, frames, starts = metamers.loss.numpy(), metamers.frames, to_8_bits(metamers.starts)
    best = np.stack([loss[:count].argmin(0) for count in counts])
    rounded = np.empty(best.shape)
    for image, target in enumerate(metamers.references.to(model.device).split(1)):
        of_reference = model.unchecked_activations(target, stage)
        evaluated, row = np.unique(best[:, image], return_inverse=True)
        # evaluation k was of what the step before it had made, or of the start
        stored = torch.stack([
            frames[at - 1, image] / 255 if at else starts[image] for at in evaluated])
        found = torch.cat([relative_distance(model.unchecked_activations(
            some.to(model.device), stage), of_reference) for some in stored.split(100)])
        rounded[:, image] = found.cpu().numpy()[row]
    lowest = np.take_along_axis(loss, best, axis=0)
    return {name: (-20 * np.log10(values.clip(min=CLOSEST))).astype(np.float32)
            for name, values in (("match_db", rounded), ("unrounded_db", lowest))}


def spaced(steps: int) -> list[int]:
    """Numbers of evaluations from 1 to `steps`: 25 one by one, then about 4 % apart.

    >>> spaced(480)[23:28], spaced(480)[-3:]
    ([24, 25, 26, 27, 28], [457, 475, 480])
    """
    found = list(range(1, min(steps, 25) + 1))
    while found[-1] < steps:
        found.append(min(steps, round(1.04 * found[-1])))
    return found


def check_minima(*, start: str, n_starts: int, **values: Any) -> None:
    """Raise a ValueError unless there are such a model, stage, optimizer, start and images."""
    check_match(noted_at=(), **values)
    name, _ = kind_of(start)
    if name in FROM_OTHERS:
        raise ValueError(f"starts of the kind {name!r} need a pool of other images; choose another")
    whole("n_starts", n_starts, 1)


@checked_by(check_minima, sized_by="model")
def minima(
    model: str, stage: str, optimizer: Any = "spectral_lbfgs", start: str = "noise",
    image_set: str = "cifar10-samples", split: str | None = None, n_images: int = 5,
    size: int | None = None, steps: int = 480, n_starts: int = 10, device: str = "cpu",
    first: int = 0,
) -> pd.DataFrame:
    """Where descent ends from many starts of one kind: are there local minima?

    Args:
        model, stage, optimizer, steps, device: as in `match`.
        start: a name in `STARTS`, or a blend with its fraction, as in "blend 0.25".
        image_set, split, n_images, size: the references, as in `load_images`.
        n_starts: how many starts each reference has; their seeds count from 0.
        first: take so many of the references only; 0 takes all.

    Returns:
        pandas.DataFrame, one row per image and seed: `image`, `seed`, `match_db` and
        `unrounded_db` as in `match`, after all evaluations, and `half_db`, the latter after half
        of them; `distance` from the reference (root mean square over pixels in [0, 1]).
    """
    network = load_model(model, device=device)
    images = references(image_set, split, n_images, size, 0, first)
    name, options = kind_of(start)
    begun = torch.cat([start_images(name, images, seed=seed, **options)
                       for seed in range(n_starts)])
    metamers = generate(
        network, images.images.repeat(n_starts, 1, 1, 1), stage, optimizer=optimizer, start=begun,
        steps=steps, store_every=1)
    found = best_so_far(network, stage, metamers, np.asarray([max(1, steps // 2), steps]))
    return pd.DataFrame({
        "image": np.tile(np.arange(len(images)), n_starts),
        "seed": np.arange(n_starts).repeat(len(images)),
        "match_db": found["match_db"][1], "unrounded_db": found["unrounded_db"][1],
        "half_db": found["unrounded_db"][0],
        "distance": rms_distance(metamers.images, metamers.references).numpy()})
