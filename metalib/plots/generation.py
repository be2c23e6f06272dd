"""Figures of what metamers cost, of one model or of several."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colors as mcolors
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from metalib.plots.representation import fisher
from metalib.plots.style import LINES, MARKERS, PALETTE, look, short, styled

RULES = ("published", "gradient_descent", "sgd", "adam", "spectral_adam", "lbfgs", "spectral_lbfgs")
LABELS: dict[str, str] = {
    "pearson": "Pearson correlation", "spearman": "Spearman correlation",
    "snr_db": "signal-to-noise ratio (dB)"}


def null_and_metamers(
    null: Any, metric: str, values: ArrayLike, *, ax: Axes | None = None,
) -> Axes:
    """Histogram of a null distribution with its maximum and its upper 1e-4 quantile.

    It shows by how much metamers miss or pass a threshold. The values of metamers are ticks.
    Correlations are drawn on the axis of Fisher's z (the inverse hyperbolic tangent), which
    separates values near 1. Bins are equally wide on that axis, and a correlation above 0.999999
    is drawn at that value.

    Args:
        null: a NullDistribution, or anything with a method `quantile(q)` that returns the
            q-quantile of each metric as a dict, and an attribute `maximum`, the same for the
            largest values.
        metric: "pearson", "spearman" or "snr_db".
        values: the values (B,) of the metamers.
    """
    ax = ax or plt.gca()
    grey, blue, orange = "0.7", *sns.color_palette("colorblind", 2)
    transform, inverse = (fisher, np.tanh) if metric in ("pearson", "spearman") else (
        np.asarray, np.asarray)
    sample, values = (transform(x) for x in (
        [null.quantile(q)[metric] for q in np.linspace(0, 1, 2001)], values))
    ax.set_xscale("function", functions=(transform, inverse))
    bins: Any = inverse(np.linspace(sample.min(), sample.max(), 61))
    ax.hist(inverse(sample), bins=bins, histtype="stepfilled", color=grey, label="random pairs")
    ax.axvline(null.quantile(1 - 1e-4)[metric], color=blue, linestyle=":",
               label="1 pair in 10,000")
    ax.axvline(null.maximum[metric], color=blue, label="largest of all pairs")
    ax.plot(inverse(values), np.full(len(values), 0.06), "|", color=orange, markersize=14,
            markeredgewidth=1.5, alpha=0.8, transform=ax.get_xaxis_transform(), label="metamers")
    ax.set(xlabel=LABELS[metric], yticks=[])
    if transform is fisher:
        low, high = ax.get_xlim()
        ticks = [tick for tick in (-0.9, -0.5, 0, 0.5, 0.9, 0.99, 0.999, 0.9999)
                 if low <= tick <= high]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=9)
    ax.spines["left"].set_visible(False)
    return ax


def share_passed(
    table: pd.DataFrame, by: str, *, limit: int, ax: Axes | None = None,
) -> Axes:
    """Share of images that have passed the criterion, against gradient evaluations (log axis).

    Args:
        table: rows as in `judge`, from runs with `stop`: one per image and method. Images that
            never passed count in the share; a cross marks where their run ended (censored).
        by: the column that tells methods apart.
        limit: the largest number of evaluations that was allowed.
    """
    ax = ax or plt.gca()
    for method, color, line in styled(table[by].unique(), LINES):
        rows = table[table[by] == method]
        passed = np.sort(rows.loc[rows["passed"], "evaluations"].to_numpy())
        steps = np.concatenate([[1], passed, [limit]])
        share = np.concatenate([[0], np.arange(1, len(passed) + 1), [len(passed)]]) / len(rows)
        ax.step(steps, share, where="post", label=method, color=color, linestyle=line, linewidth=2)
        if len(passed) < len(rows):
            ax.plot(limit, share[-1], "x", color=color, markersize=8, markeredgewidth=2,
                    clip_on=False)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="gradient evaluations", ylabel="share of images passed", xlim=(1, limit),
           ylim=(0, 1.02))
    return ax


def cost_by_stage(
    table: pd.DataFrame, by: str, *, limit: int, ax: Axes | None = None,
) -> Axes:
    """Median gradient evaluations to the criterion (log axis) by stage, a line for each method.

    A dotted line marks the limit: at a point on it at least half of the images did not pass.

    Args:
        table: rows as in `judge`, from runs of one model with `stop`: one per image, stage and
            method.
        by: the column that tells methods apart.
        limit: the largest number of evaluations that was allowed.
    """
    ax = ax or plt.gca()
    stages = list(table["stage"].unique())
    for method, color, line, marker in _looks(table[by].unique()):
        rows = table[table[by] == method]
        medians = rows.groupby("stage")["evaluations"].median().reindex(stages)
        ax.plot(stages, medians, line, color=color, marker=marker, markersize=5, label=method)
    ax.axhline(limit, color="0.6", linestyle=":", linewidth=1, zorder=0)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set(ylabel="gradient evaluations, median", ylim=(1, 1.5 * limit))
    return ax


def _looks(names: Any) -> list[tuple[Any, Any, str, str]]:
    """Each name with a colour, a dash and a marker; update rules look the same in all figures."""
    if set(names) <= set(RULES):
        known = {name: look(RULES.index(name)) for name in names}
        return [(name, of["color"], of["linestyle"], of["marker"]) for name, of in known.items()]
    return [(name, color, line, MARKERS[number % len(MARKERS)]) for number, (name, color, line)
            in enumerate(styled(names, LINES, both=True))]


def match_by_evaluations(
    match: pd.DataFrame, published: pd.DataFrame | None = None, *, by: str = "optimizer",
    ax: Axes | None = None,
) -> Axes:
    """Match of the median image (dB) against gradient evaluations (log axis).

    Args:
        match: of one model and stage: rows with `evaluations` and `match_db`, one for each image,
            and start if there are several.
        published: the same of the published procedure. Its medians are drawn as points, its worst
            image as a dotted line, and its end as a horizontal one.
        by: the column that tells methods apart.
    """
    ax = ax or plt.gca()
    for method, color, line, _ in _looks(match[by].unique()):
        medians = match[match[by] == method].groupby("evaluations")["match_db"].median()
        ax.plot(medians.index, medians, line, color=color, label=method, linewidth=2)
    if published is not None:
        of_images: Any = published.groupby("evaluations")["match_db"].agg(["median", "min"])
        ax.plot(of_images.index, of_images["median"], "o-", color=PALETTE[0], markersize=4,
                linewidth=1, label="published")
        ax.plot(of_images.index, of_images["min"], ":", color=PALETTE[0], linewidth=1,
                label="published, worst image")
        ax.axhline(of_images["median"].iloc[-1], color="0.6", linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=5))
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.set(xlabel="gradient evaluations", ylabel="match (dB)")
    return ax


def times_fewer(table: pd.DataFrame, *, least: float = 50, ax: Axes | None = None) -> Axes:
    """How many times fewer evaluations than the published procedure, by stage and model (log axis).

    Intervals reach to the bottom, "not reached", where they hold 0; so does a point at 0.

    Args:
        table: as `metalib.evaluation.ends.times_fewer` gives it, of one rule.
        least: where a dotted line is drawn.
    """
    ax = ax or plt.gca()
    stages, models, floor = list(table["stage"].unique()), list(table["model"].unique()), 10.0
    for model, color, marker in styled(models, MARKERS, both=True):
        rows = table[table["model"] == model].set_index("stage").reindex(stages)
        x = np.arange(len(stages)) + (models.index(model) - (len(models) - 1) / 2) * 0.2
        ax.vlines(x, rows["low"].clip(floor), rows["high"].clip(floor), color=color)
        ax.plot(x, rows["times_fewer"].clip(floor), marker, color=color, label=short(model))
    ax.axhline(least, color="0.6", linestyle=":", zorder=0)
    ax.set(yscale="log", ylabel="times fewer evaluations", ylim=(0.85 * floor, None))
    ax.set_yticks([floor, 50, 100, 1000], ["not\nreached", "50", "100", "1,000"])
    ax.minorticks_off()
    ax.set_xticks(range(len(stages)), stages)
    return ax


def worse_ends(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of starts that end clearly worse than others, by kind of start; rules side by side.

    The full part of a bar is the share that rests there.

    Args:
        table: as `metalib.evaluation.ends.by_start` gives it.
    """
    ax = ax or plt.gca()
    starts, rules = (list(table[key].unique()) for key in ("start", "optimizer"))
    width = 0.8 / len(rules)
    for number, (rule, color, _, _) in enumerate(_looks(rules)):
        rows = table[table["optimizer"] == rule].set_index("start").reindex(starts)
        x = np.arange(len(starts)) + (number - (len(rules) - 1) / 2) * width
        ax.bar(x, rows["worse"], 0.9 * width, color=color, alpha=0.4, label=rule)
        ax.bar(x, rows["still"], 0.9 * width, color=color)
        ax.vlines(x, rows["low"], rows["high"], color="0.5")
    ax.set_xticks(range(len(starts)), starts)
    ax.set(ylabel="share of starts", ylim=(0, None))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(rules))
    return ax


def cost_and_distinctness(
    table: pd.DataFrame, by: str, *, ax: Axes | None = None,
) -> Axes:
    """Evaluations to the criterion against the distance of the result from its reference.

    Each point is the median over images, with quartiles. It is filled if fewer than half of the
    controls pass: mere perturbations of the references, at the same distance.

    Args:
        table: rows as in `judge`, and a column `control`, whether the control of that image passes.
        by: the column that names the points.
    """
    ax = ax or plt.gca()
    blue = PALETTE[0]
    groups = table.groupby(by, sort=False)[["distance", "evaluations"]]
    (x, y), (left, low), (right, high) = (
        groups.quantile(q).to_numpy().T for q in (0.5, 0.25, 0.75))
    controls: Any = table.groupby(by, sort=False)["control"].mean()
    distinct = controls < 0.5
    ax.errorbar(x, y, xerr=(x - left, right - x), yerr=(y - low, high - y), fmt="none",
                ecolor="0.8", elinewidth=1, zorder=1)
    ax.scatter(x, y, s=60, edgecolors=[blue],
               facecolors=np.where(distinct, mcolors.to_hex(blue), "white"))
    ax.set(xlabel="distance from the reference (RMS, pixels in [0, 1])",
           ylabel="gradient evaluations to the criterion", xlim=(0, None), ylim=(0, None))
    occupied = [Bbox(point + [[-5, -5], [5, 5]])
                for point in ax.transData.transform(np.stack([x, y], axis=1))[:, None]]
    corners = [(6, 4), (6, -4), (-6, 4), (-6, -4), (0, 8), (0, -8),
               (6, 13), (6, -13), (-6, 13), (-6, -13)]
    for name, point in zip(distinct.index, zip(x, y)):
        label = ax.annotate(name, point, corners[0], textcoords="offset points", fontsize=9)

        def covers(corner, label=label):
            """Move the label to a corner; return the area of points and labels that it covers."""
            across, up = corner
            label.set(position=corner, ha=("right", "center", "left")[np.sign(across) + 1],
                      va="bottom" if up > 0 else "top")
            here = label.get_window_extent()
            shared = (Bbox.intersection(here, other) for other in occupied)
            return sum(box.width * box.height for box in shared if box)

        covers(min(corners, key=covers))  # the first of the corners where it covers least
        occupied.append(label.get_window_extent())
    return ax


def pairs(
    values: Mapping[tuple[str, str], float], *, label: str, ax: Axes | None = None,
) -> Axes:
    """Heat map of a quantity of unordered pairs, each drawn once.

    Args:
        values: maps pairs of names to numbers; a name paired with itself lies on the diagonal.
        label: what the numbers are, with their unit.
    """
    ax = ax or plt.gca()
    names = list(dict.fromkeys(name for pair in values for name in pair))
    grid = np.array([[values.get((one, other), np.nan) for one in names] for other in names],
                    dtype=float)
    labels = [short(name) for name in names]
    sns.heatmap(grid, annot=True, fmt=".0f", cmap="cividis_r", xticklabels=labels,
                yticklabels=labels, square=True, linewidths=1, cbar_kws={"label": label}, ax=ax)
    ax.tick_params(length=0)
    ax.set_xticklabels(labels, rotation=45, ha="right", rotation_mode="anchor")
    return ax
