"""Figures of the representation test."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy.stats import binom

from metalib.plots.common import side_by_side
from metalib.plots.pictures import montage
from metalib.plots.style import LINES, MARKERS, SHADES, short, styled

KINDS: dict[str, str] = {
    "random": "other images", "same-class": "of the class", "noise": "noise", "blend": "blends",
    "metamer": "metamers", "ceiling": "shift, JPEG"}


def similarity_clouds(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """First-order similarities by what is compared, with their medians.

    For each image: its nulls, its metamer and its ceiling (see `KINDS`), then any other kinds.

    Args:
        table: rows as in `metalib.representation.similarities`, at one stage.
    """
    ax = ax or plt.gca()
    _, orange, green = sns.color_palette("colorblind", 3)
    colors, names = {"metamer": orange, "ceiling": green}, KINDS | {
        kind: kind for kind in table["kind"].unique() if kind not in KINDS}
    for position, kind in enumerate(names):
        values = table.loc[table["kind"] == kind, "similarity"].to_numpy()
        spread = np.random.default_rng(position).uniform(-0.3, 0.3, len(values))
        ax.plot(position + spread, values, ".", color=colors.get(kind, "0.6"), markersize=4,
                alpha=0.6, markeredgewidth=0)
        if len(values):
            ax.hlines(np.median(values), position - 0.38, position + 0.38, color="black",
                      linewidth=1.5)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_xticks(range(len(names)), names.values(), fontsize=9, rotation=40, ha="right")
    ax.set(ylabel="similarity (centred Pearson correlation)", ylim=(-1.02, 1.02))
    return ax


def kept_matrix(
    cells: pd.DataFrame, *, limits: tuple[float, float] = (0, 1), bar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of what metamers keep: sets of metamers (rows) x stages of observers (columns).

    Args:
        cells: rows of `metalib.evaluation.kept.by_kind` of one training of the observers. `kept` is
            drawn as colour and, in hundredths, as text. The text is bold where `beyond` is 1, and
            in brackets elsewhere.
        limits: the values at the ends of the colour scale.
        bar: whether to draw the colour bar.
    """
    ax = ax or plt.gca()
    by = ["generator_training", "matched"]
    sets, stages = list(cells[by].drop_duplicates().itertuples(index=False, name=None)), list(
        cells["stage"].unique())
    grid = cells.set_index([*by, "stage"])
    values = np.array([[grid["kept"].get((*one, stage), np.nan) for stage in stages]
                       for one in sets], dtype=float)
    image = ax.imshow(values, cmap=plt.get_cmap("viridis", SHADES), vmin=limits[0],
                      vmax=limits[1], aspect="auto")
    middle = sum(limits) / 2 + 0.1 * (limits[1] - limits[0])
    for row, one in enumerate(sets):
        for column, stage in enumerate(stages):
            bold, value = grid["beyond"].get((*one, stage), 0) == 1, values[row, column]
            if np.isnan(value):
                continue
            ax.text(column, row, f"{100 * value:z.0f}" if bold else f"({100 * value:z.0f})",
                    ha="center", va="center", fontsize=10, fontweight="bold" if bold else "normal",
                    color="black" if value > middle else "white")
    ax.set_yticks(range(len(sets)), [", ".join(one) for one in sets])
    ax.set_xticks(range(len(stages)), stages, rotation=45, ha="right")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if bar:
        plt.colorbar(image, ax=ax, label="share kept beyond the class", fraction=0.046, pad=0.03)
    return ax


def observers_by_stages(
    summary: pd.DataFrame, value: str, *, marked: ArrayLike, beside: str = "recognised",
    limits: tuple[float, float] = (0, 1), ax: Axes | None = None,
) -> Axes:
    """Heat map of a column of a representation test's summary: observers (rows) x stages (columns).

    A stage that an observer does not have is left empty.

    Args:
        summary: as in `RepresentationTable.summary`.
        value: the column that is drawn as colour and, in hundredths, as text.
        marked: a boolean for each row of the summary. Where it is true the text is bold, elsewhere
            it is in brackets.
        beside: a column that has one value per observer, written to the right after a gap.
        limits: the values at the ends of the colour scale.
    """
    ax = ax or plt.gca()
    stages, observers = summary["stage"].unique(), summary["observer"].unique()
    grid = summary.assign(marked=marked).set_index(["observer", "stage"])
    ax.imshow(grid[value].unstack().loc[observers, stages], cmap=plt.get_cmap("viridis", SHADES),
              vmin=limits[0], vmax=limits[1], aspect="auto",
              extent=(-0.5, len(stages) - 0.5, len(observers) - 0.5, -0.5),
              interpolation="nearest")
    for (observer, stage), number, bold in grid[[value, "marked"]].itertuples():
        light = number > sum(limits) / 2 + 0.1 * (limits[1] - limits[0])
        ax.text(list(stages).index(stage), list(observers).index(observer),
                f"{100 * number:z.0f}" if bold else f"({100 * number:z.0f})", fontsize=8,
                ha="center", va="center", color="black" if light else "white",
                fontweight="bold" if bold else "normal")
    for row, observer in enumerate(observers):
        ax.text(len(stages) + 0.2, row, f"{100 * grid.loc[observer, beside].iloc[0]:.0f}",
                ha="center", va="center", fontsize=8)
    ax.set(xlim=(-0.5, len(stages) + 0.7))
    ax.set_xticks([*range(len(stages)), len(stages) + 0.2], [*stages, beside], rotation=45,
                  ha="right", fontsize=8)
    ax.set_yticks(range(len(observers)), [short(observer) for observer in observers], fontsize=8)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def cases(
    rows: pd.DataFrame, references: Any, made: Mapping[str, Any], *, count: int = 7,
    ax: Axes | None = None,
) -> Axes:
    """References above their metamers, with the observer that is concerned above them.

    Args:
        rows: with the columns `image`, `generator` and `observer`; the first row of each image is
            shown, and the place is left empty where there are fewer than `count`.
        references: (n, 3, H, W) in [0, 1].
        made: the metamers of each generator, of the same shape.
        count: the number of columns.
    """
    some = rows.drop_duplicates("image").head(count)
    pictures = np.ones((2, count, *references.shape[1:]))
    for column, (image, generator) in enumerate(zip(some["image"], some["generator"])):
        pictures[:, column] = references[image], made[generator][image]
    names = [short(name).replace("-", "\n", 1) for name in some["observer"]]
    return montage(pictures, ["reference", "metamer"], names, ax=ax)


def by_stage(
    verdict: pd.DataFrame, value: str = "auc", *, chance: float = 0.5, ax: Axes | None = None,
) -> Axes:
    """Means of a verdict by stage with intervals over images and observers, one colour per null.

    Args:
        verdict: as in `metalib.representation.verdict`.
        value: "auc" or "share".
        chance: where a horizontal line is drawn.
    """
    ax = side_by_side(
        verdict, "stage", "null", value=value, low=f"{value}_low", high=f"{value}_high", ax=ax)
    ax.axhline(chance, color="0.6", linewidth=0.8, zorder=0)
    labels: Any = ax.get_xticklabels()
    ax.set_xticks(ax.get_xticks(), labels, rotation=45, ha="right", fontsize=9)
    ax.set(xlabel="", ylabel="", ylim=(-0.02, 1.02))
    return ax


def rejection_rates(
    rates: pd.Series, experiments: int, *, level: float = 0.05, ax: Axes | None = None,
) -> Axes:
    """Rejection rates as points, one row per test.

    The shaded range holds 99 % of the rates of a test that keeps its level. Rates outside it have
    another colour.

    Args:
        rates: the share of experiments that each test rejects, by the name of the test.
        experiments: how many experiments there were.
        level: the level of the tests.
    """
    ax = ax or plt.gca()
    low, high = binom.interval(0.99, experiments, level)
    ax.axvspan(low / experiments, high / experiments, color="0.85", zorder=0)
    ax.axvline(level, color="0.5", linewidth=0.8, zorder=0)
    inside = rates.between(low / experiments, high / experiments)
    blue, orange = sns.color_palette("colorblind", 2)
    ax.scatter(rates, range(len(rates)), s=22, color=[blue if kept else orange for kept in inside])
    ax.set_yticks(range(len(rates)), rates.index, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel=f"share of {experiments:,} experiments rejected at {level:.0%}".replace(
        "%", " %"))
    return ax


def power_curves(rates: pd.DataFrame, *, level: float = 0.05, ax: Axes | None = None) -> Axes:
    """Rejection rates against the size of a planted effect.

    Args:
        rates: the share of experiments that each test (column) rejects, by size of the effect
            (index).
        level: the level of the tests, a solid line; a dotted line stands at a rate of 0.9.
    """
    ax = ax or plt.gca()
    for number, (test, color, marker) in enumerate(styled(rates, MARKERS, both=True)):
        ax.plot(rates.index, rates[test], LINES[number % len(LINES)], marker=marker, color=color,
                markersize=5, linewidth=1.2, label=test)
    for height, style in ((level, "-"), (0.9, ":")):
        ax.axhline(height, color="0.6", linewidth=0.8, linestyle=style, zorder=0)
    ax.set(xlabel="planted similarity of metamer and reference",
           ylabel="share of experiments rejected", ylim=(-0.02, 1.02))
    return ax


def discoveries(rates: pd.DataFrame, value: str, *, ax: Axes | None = None) -> Axes:
    """False discovery rates or power against the share of planted effects, with intervals.

    Args:
        rates: as in `metalib.evaluation.level.discovery_rates`; one line for each number of natural
            images and dependence between stages.
        value: "fdr", with a line at 5 %, or "power", with dotted lines at detectable shares.
    """
    ax = ax or plt.gca()
    groups: Any = rates.dropna(subset=value).groupby(["natural", "shared"], sort=False)
    for number, (((_, shared), part), (_, color, marker)) in enumerate(
            zip(groups, styled(range(groups.ngroups), MARKERS, both=True))):
        ends = [part[value] - part[f"{value}_low"], part[f"{value}_high"] - part[value]]
        share = part["detectable"].iloc[0]
        label = f"detectable {100 * share:.3g} %, {'alike' if shared else 'independent'} stages"
        ax.errorbar(part["planted"] + 0.006 * (number - 1.5), part[value], ends, color=color,
                    marker=marker, markersize=5, linewidth=1.2, label=label)
        if value == "power":
            ax.axvline(share, color=color, linestyle=":", linewidth=0.8)
    if value == "fdr":
        ax.axhline(0.05, color="0.5", linewidth=0.8, zorder=0)
    ax.set(xlabel="share of tests with a planted effect",
           ylim=(-0.003 if value == "fdr" else -0.02, None),
           ylabel={"fdr": "false discovery rate", "power": "share of effects found"}[value])
    return ax


def fisher(correlation: ArrayLike) -> np.ndarray:
    """Fisher's z of a correlation, which is first clipped to at most 0.999999 in size."""
    return np.arctanh(np.clip(correlation, -1 + 1e-6, 1 - 1e-6))
