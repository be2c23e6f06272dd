"""Figures of who sees whose metamers as what."""

import itertools
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from scipy.cluster import hierarchy

from metalib.plots.style import LINES, short, styled


def transfer_matrix(matrix: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Heat map of generators (rows) x observers (columns), with its numbers.

    A network's own metamers are framed; a cell without metamers is empty. With more than 16
    generators or observers, a colour bar replaces the numbers.
    """
    ax, few = ax or plt.gca(), max(matrix.shape) <= 16
    size = 9 if max(matrix.shape) <= 10 else 7
    matrix = matrix.astype(float)
    numbers = matrix.map(lambda value: "" if np.isnan(value) else (
        f"{value:.1f}".lstrip("0").removesuffix(".0") or "0"))
    sns.heatmap(matrix, vmin=0, vmax=1, cmap="viridis", square=True, annot=numbers if few else None,
                fmt="", cbar=not few, ax=ax, annot_kws={"fontsize": size - 1}, linewidths=0.5,
                xticklabels=True, yticklabels=True)
    for row, generator in enumerate(matrix.index):
        if generator in matrix.columns:
            corner = list(matrix.columns).index(generator), row
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="tab:red", linewidth=1.5))
    ax.set_xticklabels([short(name) for name in matrix.columns], rotation=90, fontsize=size)
    ax.set_yticklabels([short(name) for name in matrix.index], rotation=0, fontsize=size)
    ax.tick_params(length=2)
    ax.set(xlabel="observer", ylabel="generator")
    return ax


def clustered(
    similarity: pd.DataFrame, linkage: np.ndarray, *, ax: Axes | None = None,
) -> Axes:
    """Heat map of a symmetric matrix of models, with their dendrogram above it.

    Args:
        similarity: models x models in [0, 1], in the order of the leaves of the dendrogram.
        linkage: the dendrogram, as `scipy.cluster.hierarchy` encodes it (see `crossed.cluster`).
    """
    ax = transfer_matrix(similarity, ax=ax)
    ax.set(xlabel="", ylabel="")
    above = ax.inset_axes((0, 1.02, 1, 0.25))
    hierarchy.dendrogram(linkage, ax=above, no_labels=True, color_threshold=0,
                         above_threshold_color="0.3")
    above.set_ylabel("1 - shared", fontsize=9)
    above.tick_params(labelsize=8)
    sns.despine(ax=above, bottom=True)
    return ax


def by_depth(
    table: pd.DataFrame, by: str, *, style: str, value: str = "mean", ax: Axes | None = None,
) -> Axes:
    """Means with their intervals against relative depth.

    Args:
        table: one row per point with the columns `depth`, `low` and `high` (the interval), `by`,
            `style` and `value`.
        by: the column whose values have a colour each.
        style: the column whose values have a line style and a marker each.
        value: the column of the means.
    """
    ax = ax or plt.gca()
    colors = {name: color for name, color, _ in styled(sorted(table[by].unique()), LINES)}
    lines = dict(zip(sorted(table[style].unique()), itertools.cycle(("s--", "o-", "^:", "d-."))))
    for number, (name, line) in enumerate(itertools.product(colors, lines)):
        rows: Any = table[(table[by] == name) & (table[style] == line)]
        rows = rows.sort_values("depth")
        # side by side, so that the intervals do not overlap
        x = rows["depth"] + 0.012 * (number - (len(colors) * len(lines) - 1) / 2)
        errors = [(rows[value] - rows["low"]).clip(lower=0),
                  (rows["high"] - rows[value]).clip(lower=0)]
        ax.errorbar(x, rows[value], yerr=np.nan_to_num(errors), label=f"{line} {name}",
                    fmt=lines[line], color=colors[name], markersize=4, capsize=2)
    ax.set(xlabel="relative depth of the matched stage", ylim=(-0.05, 1.05))
    return ax


def against_distance(
    table: pd.DataFrame, values: Mapping[str, str], *, bins: int = 8, ax: Axes | None = None,
) -> Axes:
    """Means of columns against the distance from the reference, without intervals.

    Args:
        table: rows with the column `distance` and those of `values`.
        values: maps the columns to draw to their labels.
        bins: how many bins of distance, each with equally many rows.
    """
    ax = ax or plt.gca()
    binned: Any = table.groupby(
        pd.qcut(table["distance"], bins, duplicates="drop"), observed=True)
    for column, color, style in styled(values, ("o-", "s--", "^:", "d-."), both=True):
        ax.plot(binned["distance"].mean(), binned[column].mean(), style, color=color, markersize=4,
                label=values[column])
    ax.set(xlabel="distance from the reference (RMS, pixels in [0, 1])", ylim=(-0.05, 1.05))
    return ax


def people_and_networks(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of metamers that other networks recognise against the share that people recognise.

    Args:
        table: one row per model and stage with the columns `human`, `networks`, `depth` (colour)
            and `training` (marker).
    """
    ax = ax or plt.gca()
    sns.scatterplot(table, x="human", y="networks", hue="depth", style="training",
                    palette="viridis", ax=ax)
    ax.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
    ax.set(xlabel="recognised by people", ylabel="recognised by other networks", xlim=(0, 1),
           ylim=(0, 1), aspect="equal")
    sns.move_legend(ax, "center left", bbox_to_anchor=(1.02, 0.5))
    return ax
