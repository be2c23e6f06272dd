"""Pictures in rows and columns, enlarged without smoothing."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def montage(
    images: Any, rows: Sequence[str], columns: Sequence[str] = (), *, gap: int = 2,
    ax: Axes | None = None,
) -> Axes:
    """A grid of pictures, enlarged without smoothing.

    Args:
        images: tensor or array (R, C, 3, H, W) in [0, 1].
        rows: labels of the R rows.
        columns: labels above the C columns, or none.
        gap: width of the white gaps between pictures, in pixels.
    """
    ax = ax or plt.gca()
    count_rows, count_columns, _, height, width = images.shape
    canvas = np.ones((count_rows * (height + gap) - gap, count_columns * (width + gap) - gap, 3))
    for row in range(count_rows):
        for column in range(count_columns):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top:top + height, left:left + width] = np.moveaxis(
                np.asarray(images[row, column]), 0, -1)
    ax.imshow(canvas)
    ax.set_yticks([row * (height + gap) + height / 2 for row in range(count_rows)], rows)
    ax.set_xticks(
        [column * (width + gap) + width / 2 for column in range(len(columns))], columns)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def metamers_below_references(
    metamers: Any, verdict: Any = None, *, n: int = 20, labels: Sequence[Any] | None = None,
) -> Figure:
    """References with their metamers below them, ten beside each other.

    Args:
        metamers: Metamers, or anything with `images` and `references` (B, C, H, W) in [0, 1].
        verdict, n, labels: as in `Metamers.plot`.

    Raises:
        ValueError: as in `Metamers.plot`.
    """
    count = len(metamers.images)
    shown = min(n, count)
    if shown < 1:
        raise ValueError(f"there is nothing to show: {count} metamers, n={n}")
    notes, names = _notes(metamers, verdict), _names(metamers, labels)
    pictures = [_rgb(images[:shown]) for images in (metamers.references, metamers.images)]
    height, width = pictures[0].shape[-2:]
    gap = max(2, width // 24)
    blocks = [slice(first, min(first + 10, shown)) for first in range(0, shown, 10)]
    columns, tall = min(shown, 10), 2 * np.clip(height / width, 0.3, 3)
    figure = Figure(figsize=(0.95 * columns + 0.95, (0.95 * tall + 0.6) * len(blocks)), dpi=90,
                    layout="constrained")
    for block, ax in zip(blocks, np.ravel(figure.subplots(len(blocks), 1, squeeze=False))):
        montage(np.stack([images[block] for images in pictures]), ["reference", "metamer"],
                [_shortened(name) for name in names[block]], gap=gap, ax=ax)
        ax.images[0].set_interpolation("nearest" if width < 64 else "auto")
        # a last row of few is as large as the others
        ax.set_xlim(-0.5, columns * (width + gap) - gap - 0.5)
        ax.tick_params(labelsize=8)
        for number, (text, color) in enumerate(notes[block]):
            ax.annotate(text, (number * (width + gap) + width / 2, 2 * height + gap), (0, -3),
                        textcoords="offset points", ha="center", va="top", fontsize=8,
                        color=color, annotation_clip=False)
    if shown < count:
        figure.suptitle(f"the first {shown} of {count:,}", fontsize=9)
    return figure


def _rgb(images: Any) -> np.ndarray:
    """Images (B, C, H, W) as (B, 3, H, W) float32 in [0, 1]; one channel is grey."""
    values = np.clip(np.nan_to_num(np.asarray(images.detach().cpu(), dtype=np.float32)), 0, 1)
    return values[:, :3] if values.shape[1] >= 3 else values[:, :1].repeat(3, axis=1)


def _names(metamers: Any, labels: Any) -> list[str]:
    """What stands above each reference: its label, its class, its file, or its number."""
    count = len(metamers.images)
    if labels is None:
        labels = getattr(metamers, "files", ()) or range(count)
    elif hasattr(labels, "class_names"):  # an ImageSet
        labels = [labels.class_names[number] if 0 <= number < len(labels.class_names) else ""
                  for number in labels.labels.tolist()]
    return [str(label) for label in _texts(labels, count, "labels")]


def _notes(metamers: Any, verdict: Any) -> list[tuple[str, str]]:
    """What stands below each metamer, and its colour.

    A verdict, if there is one; otherwise how it stopped, or its last loss if all steps were done.
    """
    count = len(metamers.images)
    if verdict is not None:
        if isinstance(verdict, pd.DataFrame):
            verdict = verdict["verdict" if "verdict" in verdict else "passed"]
        return [_mark(word) for word in _texts(verdict, count, "verdict")]
    loss = getattr(metamers, "loss", None)
    texts: list[str] = list(getattr(metamers, "status", ())) or ["steps"] * count
    if loss is not None:
        for number, values in enumerate(np.asarray(loss.cpu(), dtype=np.float64).T):
            if texts[number] == "steps":
                texts[number] = f"loss {values[np.isfinite(values)][-1]:.2g}"
    return [("" if text == "steps" else text, "0.3") for text in texts]


def _mark(word: Any) -> tuple[str, str]:
    """A verdict, a bool or a word, as a text and its colour; both tell verdicts apart."""
    word = {True: "passed", False: "failed"}.get(word, word)
    marks = {"passed": ("\N{CHECK MARK} passed", "#0173b2"),
             "failed": ("\N{MULTIPLICATION X} failed", "#b23a00"),
             "undefined": ("undefined", "0.45")}
    if word not in marks:
        raise ValueError(f"a verdict is a bool or one of {', '.join(marks)}, not {word!r}")
    return marks[word]


def _texts(values: Any, count: int, what: str) -> list[Any]:
    """One entry for each of `count` images, or a ValueError."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise ValueError(f"{what} must have an entry for each of the {count} metamers, not be "
                         f"{values!r}; judge(model, stage, metamers, null) gives a verdict")
    entries: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(entries) != count:
        raise ValueError(f"{what} must have an entry for each of the {count} metamers, not "
                         f"{len(entries)}")
    return entries


def _shortened(name: Any, most: int = 14) -> str:
    """A name, or its last part, with the middle left out where it is long."""
    name = str(name).rpartition("/")[2]
    return name if len(name) <= most else f"{name[:most // 2 - 1]}\N{HORIZONTAL ELLIPSIS}" \
        f"{name[-most // 2:]}"
