"""How many images networks classify correctly, also under attack."""

from typing import Any

import pandas as pd
import torch
from scipy import stats

from metalib.data import load_images
from metalib.evaluation.shown import labels_of
from metalib.models.registry import load_model
from metalib.runs.tasks.checks import check_labels, checked_by, known
from metalib.runs.train_zoo import attack

BATCH = 50


def check_accuracy(
    *, model: str, image_set: str, split: str | None, size: int, epsilon: float, norm: str,
    steps: int, **_: Any,
) -> None:
    """Raise a ValueError unless there are such a network and images, with labels."""
    images, load = known(image_set, split, 1, size)
    load.entries(model, images, "models")
    check_labels(images, image_set)
    if norm not in ("L2", "Linf") or epsilon < 0 or steps < 1:
        raise ValueError(f"an attack has a norm, L2 or Linf, a radius and steps, not {norm!r}, "
                         f"{epsilon} and {steps}")


@checked_by(check_accuracy, sized_by="model")
def accuracy(
    model: str, image_set: str, split: str | None = None, n_images: int | None = None,
    size: int | None = None, crop: float = 1.0, epsilon: float = 0.0, norm: str = "Linf",
    steps: int = 20, seed: int = 0, device: str = "cpu",
) -> pd.DataFrame:
    """The share of images that a network classifies correctly.

    Args:
        model: its name.
        image_set, split, n_images, size, crop, seed: images with labels, as in `load_images`; their
            classes are found by name among the network's.
        epsilon, norm, steps: of an attack by projected gradient ascent, in units of pixels in
            [0, 1], with steps of 2.5 `epsilon` / `steps` (Madry et al. 2018, arXiv:1706.06083); 0
            is none.
        device: as in `generate`.

    Returns:
        pandas.DataFrame, one row per way of counting, `answer`: "class", "16-way" for networks with
        such answers, over images of these classes, and "class, under attack". `images`, `correct`,
        the share `accuracy`, and its 95 % interval, `low` to `high` (Wilson 1927).

    Raises:
        ValueError: none of the images is of a class that the network knows.
    """
    network = load_model(model, device=device)
    images = load_images(image_set, split=split, n=n_images, size=size, crop=crop, seed=seed)
    labels = labels_of(network, images)
    if not (labels >= 0).any():
        raise ValueError(f"{model} knows none of the classes of {image_set}")
    right: dict[str, list] = {}
    random = torch.Generator().manual_seed(seed)
    for batch, of in zip(images.images.split(BATCH), labels.split(BATCH)):
        batch, of = batch[of >= 0].to(network.device), of[of >= 0].to(network.device)
        with torch.no_grad():
            logits = network(batch)
        first = logits.argmax(1) == of
        right.setdefault("class", []).extend(first.tolist())
        if network.coarse_names:
            coarse = network.coarse_of(of)
            same = (network.coarse(logits) == coarse)[coarse >= 0]
            right.setdefault("16-way", []).extend(same.tolist())
        if epsilon:
            moved = attack(network, batch, of, epsilon=epsilon, norm=norm, steps=steps,
                           step_size=2.5 * epsilon / steps, generator=random)
            with torch.no_grad():
                held = first & (network(moved).argmax(1) == of)
            right.setdefault("class, under attack", []).extend(held.tolist())
    return pd.DataFrame([_row(answer, found) for answer, found in right.items() if found])


def _row(answer: str, right: list[bool]) -> dict[str, Any]:
    found = stats.binomtest(sum(right), len(right))
    interval: Any = found.proportion_ci(method="wilson")
    return {"answer": answer, "images": len(right), "correct": sum(right),
            "accuracy": sum(right) / len(right), "low": interval.low, "high": interval.high}
