"""Figures of estimates with their intervals, for every chapter."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from metalib.plots.style import MARKERS, styled


def side_by_side(
    table: pd.DataFrame, x: str, by: str, *, value: str = "share", low: str = "low",
    high: str = "high", ax: Axes | None = None,
) -> Axes:
    """Values with intervals, side by side at each value of `x`.

    Args:
        table: one row per point.
        x: the column along the axis; its values are evenly spaced, in the order of the rows.
        by: the column that is told apart by colour and marker. It need not have a row at each `x`;
            a categorical one keeps the looks of categories that have none.
        value: the column of values.
        low, high: the columns of the ends of the intervals.
    """
    ax = ax or plt.gca()
    ticks, kinds = table[x].unique(), table[by].unique()
    if isinstance(table[by].dtype, pd.CategoricalDtype):
        kinds = table[by].cat.categories
    for number, (kind, color, marker) in enumerate(styled(kinds, MARKERS, both=True)):
        rows: Any = table[table[by] == kind].set_index(x).reindex(ticks)
        if rows[value].isna().all():
            continue
        positions = np.arange(len(ticks)) + (number - (len(kinds) - 1) / 2) * 0.6 / len(kinds)
        errors = np.abs(rows[[low, high]].to_numpy().T - rows[value].to_numpy())
        ax.errorbar(positions, rows[value], yerr=errors, fmt=marker, color=color, markersize=5,
                    linewidth=1.5, label=kind)
    ax.set_xticks(range(len(ticks)), [f"{tick}" for tick in ticks])
    ax.set(xlim=(-0.5, len(ticks) - 0.5), xlabel=x, ylabel=value)
    return ax


def estimates(
    table: pd.DataFrame, labels: Sequence[str] | pd.Index | pd.Series, *, value: str = "mean",
    zero: float | None = None, ax: Axes | None = None,
) -> Axes:
    """Estimates with their intervals as points on horizontal lines, the first row on top.

    Args:
        table: one row per estimate, with the columns `low` and `high` (the interval) and `value`.
            A row without a value is marked "no such pair".
        labels: one for each row.
        value: the column of the estimates.
        zero: the value of no effect, where a vertical line is drawn; None draws none.
    """
    ax = ax or plt.gca()
    y = np.arange(len(table))[::-1]
    if zero is not None:
        ax.axvline(zero, color="0.7", linewidth=1, zorder=0)
    ax.hlines(y, table["low"].astype(float), table["high"].astype(float), color="0.5", linewidth=2)
    ax.plot(table[value], y, "o", color=sns.color_palette("colorblind", 1)[0])
    for height, empty in zip(y, table[value].isna()):
        if empty:
            ax.annotate("no such pair", (0.02, height), xycoords=("axes fraction", "data"),
                        va="center", fontsize=9)
    ax.set_yticks(y, labels)
    ax.set_ylim(-0.6, len(table) - 0.4)
    return ax
