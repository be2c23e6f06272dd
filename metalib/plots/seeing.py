"""Figures of what a network sees in a metamer."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from metalib.plots.style import LINES, MARKERS, styled


def heat_maps(
    maps: Sequence[Any], rows: Sequence[str], columns: Sequence[str] = (), *, label: str,
    high: float | None = None, ax: Axes | None = None,
) -> Axes:
    """A grid of maps of one quantity over the positions in an image, enlarged without smoothing.

    All maps share one colour scale, which starts at 0. They may be those by place that
    `metalib.seeing.difference_maps` gives.

    Args:
        maps: R arrays (C, H, H), one per row. H may differ between rows, but must divide the
            largest H.
        rows: labels of the R rows.
        columns: labels above the C columns, or none.
        label: what the quantity is, with its unit.
        high: the end of the scale, if some values exceed it; None takes the largest value.
    """
    ax = ax or plt.gca()
    side = max(len(row[0]) for row in maps)
    gap = max(1, side // 16)
    canvas = np.full(
        (len(maps) * (side + gap) - gap, len(maps[0]) * (side + gap) - gap), np.nan)
    for down, row in enumerate(maps):
        for across, values in enumerate(np.asarray(row)):
            top, left = down * (side + gap), across * (side + gap)
            scale = side // len(values)
            canvas[top:top + side, left:left + side] = values.repeat(scale, 0).repeat(scale, 1)
    image = ax.imshow(canvas, cmap="cividis", vmin=0, vmax=high)
    ax.set_yticks([row * (side + gap) + side / 2 for row in range(len(maps))], rows)
    ax.set_xticks([column * (side + gap) + side / 2 for column in range(len(columns))], columns)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    plt.colorbar(image, ax=ax, label=label, extend="max" if high is not None else "neither",
                 fraction=0.03, pad=0.02)
    return ax


def concentration(channels: Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Axes:
    """How few channels hold a difference.

    The share of the difference in the channels that differ most is drawn against their share of
    all channels, as a mean over images. It draws the differences by channel that
    `metalib.seeing.difference_maps` gives.

    Args:
        channels: maps labels to squared differences (B, C).
    """
    ax = ax or plt.gca()
    for name, color, style in styled(channels, LINES, both=True):
        values = np.sort(np.asarray(channels[name], dtype=float), axis=1)[:, ::-1]
        shares = np.cumsum(values, axis=1) / values.sum(1, keepdims=True)
        ax.plot(np.arange(values.shape[1] + 1) / values.shape[1], np.append(0, shares.mean(0)),
                style, color=color, label=name)
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    ax.set(xlabel="share of channels, those that differ most first",
           ylabel="share of the squared difference", xlim=(0, 1), ylim=(0, 1.02))
    return ax


def displacements(
    references: np.ndarray, ends: Mapping[str, np.ndarray], others: Sequence[Any] | np.ndarray = (),
    *, ax: Axes | None = None,
) -> Axes:
    """Stimuli as points in a plane, with arrows from each reference to what was made from it.

    Args:
        references: (n, 2) coordinates, black points.
        ends: maps labels to (n, 2) coordinates, the heads of the arrows; each label has a colour.
        others: (m, 2) coordinates of stimuli from which nothing was made, grey points.
    """
    ax = ax or plt.gca()
    if len(others):
        ax.plot(*np.transpose(others), "o", color="0.8", markersize=4, label="other photographs",
                zorder=1)
    for label, color, _ in styled(ends, LINES):
        points = np.asarray(ends[label])
        ax.quiver(*np.transpose(references), *np.transpose(points - references), color=color,
                  angles="xy", scale_units="xy", scale=1, width=0.009, headwidth=4, zorder=3)
        ax.plot(*np.transpose(points), ".", color=color, markersize=3, zorder=3)
        ax.plot([], [], color=color, marker=r"$\rightarrow$", markersize=16, linestyle="none",
                label=f"to {label}")
    ax.plot(*np.transpose(references), "o", color="black", markersize=4, label="references",
            zorder=4)
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.set_adjustable("datalim")
    return ax


def against_natural(
    table: pd.DataFrame, value: str, natural: Sequence[float] | np.ndarray | None = None, *,
    by: str, ax: Axes | None = None,
) -> Axes:
    """Medians and quartiles of a statistic of images by stage, beside the range of photographs.

    Args:
        table: a row per image with the columns `stage` (drawn in the order of the rows), `by` and
            `value`.
        value: the column of the statistic.
        natural: its values for photographs, if there are any. The ranges from 25 to 75 % and from
            5 to 95 % are shaded.
        by: the column that is told apart by colour and marker.
    """
    ax = ax or plt.gca()
    if natural is not None:
        for low, high, shade in ((0.05, 0.95, "0.93"), (0.25, 0.75, "0.85")):
            ax.axhspan(*np.quantile(natural, [low, high]), color=shade, zorder=0)
    stages, kinds = table["stage"].unique(), table[by].unique()
    for number, (kind, color, marker) in enumerate(styled(kinds, MARKERS, both=True)):
        groups = table[table[by] == kind].groupby("stage")[value]
        low, middle, high = (groups.quantile(q).reindex(stages).to_numpy()
                             for q in (0.25, 0.5, 0.75))
        x = np.arange(len(stages)) + 0.15 * (number - (len(kinds) - 1) / 2)
        ax.errorbar(x, middle, yerr=(middle - low, high - middle), fmt=f"{marker}-", color=color,
                    markersize=5, linewidth=1.2, label=kind)
    ax.set_xticks(range(len(stages)), stages, rotation=30, ha="right")
    return ax
