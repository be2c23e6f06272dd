"""Figures of who sees whose metamers as what."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from scipy.cluster import hierarchy

from metalib.plots.pictures import montage
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


def kinds_matrix(
    cells: pd.DataFrame, *, rows: bool = True, bar: bool = True,
    label: str = "share of metamers", ax: Axes | None = None,
) -> Axes:
    """Heat map of means by kind of generator (rows) and of observer (columns), from 0 to 1.

    Architectures are named at the axes, and trainings beyond them; a line parts the trainings.

    Args:
        cells: as in `metalib.evaluation.transferred.by_kind`, in [0, 1].
        rows: whether to name the rows; a panel beside another one need not.
        bar: whether to draw the colour bar.
        label: of the colour bar.
    """
    ax = ax or plt.gca()
    image = ax.imshow(cells.to_numpy(float), vmin=0, vmax=1, cmap="viridis", aspect="equal")
    names = [[architecture for _, architecture in kinds] for kinds in (cells.index, cells.columns)]
    ax.set_yticks(range(len(names[0])), names[0], fontsize=9)
    ax.set_xticks(range(len(names[1])), names[1], fontsize=9, rotation=90)
    ax.tick_params(labelleft=rows)
    for axis, kinds in enumerate((cells.index, cells.columns)):
        _part(ax, [training for training, _ in kinds], axis, named=rows or axis == 1)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if bar:
        plt.colorbar(image, ax=ax, fraction=0.046, pad=0.03, label=label)
    return ax


def _part(ax: Axes, groups: Sequence[str], axis: int, named: bool) -> None:
    """Part runs of equal groups by lines, and name them beyond the labels of an axis (0: rows)."""
    start = 0
    for name, run in itertools.groupby(groups):
        end = start + len(list(run))
        middle = (start + end - 1) / 2
        at: Any = ((middle, 0), (0, -58)) if axis else ((0, middle), (-60, 0))
        ax.annotate(name if named else "", at[0], at[1], textcoords="offset points",
                    xycoords=("data", "axes fraction") if axis else ("axes fraction", "data"),
                    ha="center", va="center", fontsize=10, rotation=0 if axis else 90)
        if start:
            (ax.axvline if axis else ax.axhline)(start - 0.5, color="white", linewidth=3)
        start = end


def answered(
    images: Any, words: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str] = (),
    *, ax: Axes | None = None,
) -> Axes:
    """A grid of pictures with a few words below each, such as what a network takes it for.

    Args:
        images: R rows of pictures (C, 3, H, W) in [0, 1].
        words: R lists of C texts; several lines are possible.
        rows, columns: as in `montage`.
    """
    lines = max(text.count("\n") + 1 for row in words for text in row)
    pictures = np.stack([np.asarray(row) for row in images])
    height, width = pictures.shape[-2:]
    space, gap = round(height * (0.08 + 0.17 * lines)), 3
    white = [(0, 0)] * (pictures.ndim - 2) + [(0, space), (0, 0)]
    ax = montage(np.pad(pictures, white, constant_values=1), rows, columns, gap=gap, ax=ax)
    tall = height + space + gap
    ax.set_yticks([row * tall + height / 2 for row in range(len(rows))], rows)
    for row, texts in enumerate(words):
        for column, text in enumerate(texts):
            ax.annotate(text, (column * (width + gap) + width / 2, row * tall + height), (0, -2),
                        textcoords="offset points", ha="center", va="top", fontsize=9)
    return ax


def clustered(
    similarity: pd.DataFrame, linkage: np.ndarray, *, ax: Axes | None = None,
) -> Axes:
    """Heat map of a symmetric matrix of models, with their dendrogram above it.

    It draws what `metalib.crossed.cluster` makes of a matrix of transfer.

    Args:
        similarity: models x models in [0, 1], in the order of the leaves of the dendrogram.
        linkage: the dendrogram, as `scipy.cluster.hierarchy` encodes it.
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
        by: the column whose values have a colour each, in the order of the rows.
        style: the column whose values have a line style and a marker each.
        value: the column of the means.
    """
    ax = ax or plt.gca()
    colors = {name: color for name, color, _ in styled(table[by].unique(), LINES)}
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
    ax.set(xlabel="relative depth", ylim=(-0.05, 1.05))
    return ax


def by_threshold(curves: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Shares that pass against the largest p-value that passes, on a logarithmic axis.

    Args:
        curves: as in `metalib.evaluation.transferred.by_threshold`.
    """
    ax = ax or plt.gca()
    names = list(curves["shown"].unique())
    for name, color, line in styled(names, ("-", "--", "-.", ":"), both=True):
        rows: Any = curves[curves["shown"] == name]
        ax.plot(rows["p"], rows["passed"], line, color=color, label=name)
    for p in (1e-4, 1e-3):
        ax.axvline(p, color="0.8", linewidth=1, zorder=0)
    ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="largest p-value that passes")
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
