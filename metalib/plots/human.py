"""Figures of images made as metamers for people are, shown to networks."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from metalib.plots.style import MARKERS, SHADES, styled

HALF = 0.5  # neighbours meet at half of a window's height
BOUNDS = {"above": "^", "below": "v"}  # markers of what lies beyond the scales that were tried


def pooling_windows(windows: Any, image: Any = None, *, ax: Axes | None = None) -> Axes:
    """Outlines of pooling windows, at half of their height, over a picture.

    Args:
        windows: of `metalib.windows`.
        image: tensor or array (3, H, W) in [0, 1], of their size; None draws them on white.
    """
    ax = ax or plt.gca()
    weights = np.asarray(windows.weights)
    shown = np.ones((*weights.shape[1:], 3)) if image is None else np.moveaxis(
        np.asarray(image), 0, -1)
    ax.imshow(shown)
    for weight in weights:
        if weight.min() < HALF < weight.max():
            for color, width in (("white", 2.2), ("0.15", 0.9)):  # seen on bright and dark places
                ax.contour(weight, [HALF], colors=color, linewidths=width)
    ax.set_axis_off()
    ax.set_title(f"{windows.about['layout']}: {len(windows)} windows", fontsize=9)
    return ax


def kept_by_method(wide: pd.DataFrame, *, bar: bool = True, ax: Axes | None = None) -> Axes:
    """Heat map of what is kept of the reference, by method (rows) and stage, numbers written in.

    Args:
        wide: of `metalib.evaluation.human.by_stage`, the rows of one training.
        bar: whether to draw the colour bar.
    """
    ax = ax or plt.gca()
    values = wide.drop(columns=["training", "method"]).astype(float)
    shades = plt.get_cmap("viridis", SHADES)
    image = ax.imshow(values.to_numpy(), vmin=0, vmax=1, cmap=shades, aspect="auto")
    for (row, column), value in np.ndenumerate(values.to_numpy()):
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8,
                color="black" if value > 0.6 else "white")
    ax.set_xticks(range(values.shape[1]), values.columns, rotation=45, ha="right", fontsize=9)
    ax.set_yticks(range(len(values)), wide["method"], fontsize=9)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if bar:
        plt.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    return ax


def critical_windows(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """The scales at which half a match is left, by stage and training; the axis is logarithmic.

    A triangle that points up, or down, is a bound: the scale is larger, or smaller, than all that
    were tried. Bars have no cap where an interval goes on beyond them.

    Args:
        table: of `metalib.evaluation.human.half_scales`.
    """
    ax = ax or plt.gca()
    stages, kinds = table["stage"].unique(), table["training"].unique()
    finite = table["estimate"].astype(float)
    ends = finite.min() / 1.3, finite.max() * 1.3
    for number, (kind, color, marker) in enumerate(styled(kinds, MARKERS, both=True)):
        rows: Any = table[table["training"] == kind].set_index("stage").reindex(stages)
        places = np.arange(len(stages)) + (number - (len(kinds) - 1) / 2) * 0.6 / len(kinds)
        low, high = (rows[name].astype(float).clip(*ends) for name in ("low", "high"))
        ax.vlines(places, low, high, color=color, linewidth=1.5)
        ax.plot([], [], marker, color=color, label=kind)  # bounds have markers of their own
        for place, (_, row) in zip(places, rows.iterrows()):
            ax.plot(place, row["estimate"], BOUNDS.get(row["bound"], marker), color=color,
                    fillstyle="none" if row["bound"] else "full")
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xticks(range(len(stages)), stages)
    ax.set(xlim=(-0.5, len(stages) - 0.5), xlabel="stage, early to late")
    return ax
