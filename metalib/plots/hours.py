"""Figures of seconds and hours: what was measured, and what is extrapolated from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from metalib.plots.style import MARKERS, PALETTE


def machine_hours(
    table: pd.DataFrame, *, marks: Mapping[float, str] | None = None, ax: Axes | None = None,
) -> Axes:
    """Hours by procedure (log axis), of a core with their intervals and of a GPU; first row on top.

    Args:
        table: as `metalib.evaluation.hours.machine_hours` gives it.
        marks: numbers of hours at which a dotted line has a name.
    """
    ax, y = ax or plt.gca(), np.arange(len(table))[::-1]
    ax.hlines(y, table["low"], table["high"], color=PALETTE[0], linewidth=2)
    ax.plot(table["core_hours"], y, "o", color=PALETTE[0], label="one core")
    ax.plot(table["gpu_hours"], y, "s", color=PALETTE[1], label="one GPU")
    for hours, name in (marks or {}).items():
        ax.axvline(hours, color="0.6", linestyle=":", zorder=0)
        ax.text(hours, len(table) - 0.4, name, ha="center", va="bottom", fontsize=9, color="0.3")
    ax.set(xscale="log", xlabel="hours", yticks=y, yticklabels=table.index,
           ylim=(-0.6, len(table) - 0.4))
    ax.xaxis.set_major_locator(LogLocator(base=100))
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return ax


def seconds_by_operations(
    table: pd.DataFrame, *, rates: Sequence[float] = (10, 100), ax: Axes | None = None,
) -> Axes:
    """Seconds of an evaluation against its operations, a marker for each image size (log axes).

    Args:
        table: rows with `side` (pixels), `operations` and `seconds`, of one image.
        rates: billions of operations a second, of which each is a line.
    """
    ax = ax or plt.gca()
    for number, (side, rows) in enumerate(table.groupby("side")):
        ax.plot(rows["operations"] / 1e9, rows["seconds"], MARKERS[number],
                color=PALETTE[number], label=f"{side} x {side} pixels")
    span: Any = table["operations"].agg(["min", "max"]).to_numpy() / 1e9
    for rate, line in zip(rates, (":", "--", "-.")):
        ax.plot(span, span / rate, line, color="0.5", label=f"{rate} billion operations a second")
    ax.set(xscale="log", yscale="log", xlabel="operations of an evaluation (10$^9$)",
           ylabel="seconds of one core")
    ax.legend()
    return ax


def speeds(table: pd.DataFrame, ways: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Shares of a bare loop's speed (log axis), a row for each way and a marker for each batch.

    Args:
        table: rows with `way`, `batch` and `share of bare`, of several cases.
        ways: those that are shown, from top to bottom.
    """
    ax, places = ax or plt.gca(), {way: -number for number, way in enumerate(ways)}
    rows: Any = table[table["way"].isin(ways)]
    for number, (batch, one) in enumerate(rows.groupby("batch")):
        y = np.array([places[way] for way in one["way"]])
        ax.plot(one["share of bare"], y - 0.12 + 0.24 * number, MARKERS[number],
                color=PALETTE[number], label=f"{batch} image{'s' * (batch != 1)}")
    ax.axvline(1, color="0.6", linestyle=":", zorder=0)
    ax.set(xscale="log", xlabel="speed, as a share of a bare loop's",
           yticks=list(places.values()), yticklabels=ways, xlim=(0.15, 3))
    ax.set_xticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
    ax.minorticks_off()
    return ax
