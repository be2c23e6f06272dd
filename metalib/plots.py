"""Figures: functions that take data and an Axes, draw, and return the Axes.

`ax` is the Axes to draw on, by default the current one. Nothing else in metalib draws. One function
makes a Figure of its own: `metamers_below_references`, which is `Metamers.plot`.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colors as mcolors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike
from scipy.cluster import hierarchy
from scipy.stats import binom

COLUMN: float = 9.0  # width of the book's column, in inches at the book's resolution
KINDS: dict[str, str] = {
    "random": "other images", "same-class": "of the class", "noise": "noise", "blend": "blends",
    "metamer": "metamers", "ceiling": "shift, JPEG"}
LABELS: dict[str, str] = {
    "pearson": "Pearson correlation", "spearman": "Spearman correlation",
    "snr_db": "signal-to-noise ratio (dB)"}
LINES: tuple[str, ...] = ("-", "--", "-.", ":")
MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P", "X")


def use_style() -> None:
    """Give all figures one look: colour-blind safe, light, readable at the book's column width."""
    sns.set_theme(style="ticks", palette="colorblind", rc={
        "figure.dpi": 90, "savefig.bbox": "tight", "font.size": 11, "axes.titlesize": 11,
        "axes.labelsize": 11, "axes.spines.top": False, "axes.spines.right": False,
        "legend.frameon": False, "image.interpolation": "nearest"})


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


def null_and_metamers(
    null: Any, metric: str, values: ArrayLike, *, ax: Axes | None = None,
) -> Axes:
    """Histogram of a null distribution with its maximum and its upper 1e-4 quantile.

    The values of metamers are ticks. Correlations are drawn on the axis of Fisher's z (the inverse
    hyperbolic tangent), which separates values near 1. Bins are equally wide on that axis, and a
    correlation above 0.999999 is drawn at that value.

    Args:
        null: a NullDistribution, or anything with a method `quantile(q)` that returns the
            q-quantile of each metric as a dict, and an attribute `maximum`, the same for the
            largest values.
        metric: "pearson", "spearman" or "snr_db".
        values: the values (B,) of the metamers.
    """
    ax = ax or plt.gca()
    grey, blue, orange = "0.7", *sns.color_palette("colorblind", 2)
    transform, inverse = (_fisher, np.tanh) if metric in ("pearson", "spearman") else (
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
    if transform is _fisher:
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
    for method, color, line in _styled(table[by].unique(), LINES):
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


def match_by_evaluations(
    losses: Mapping[str, Any], *, published: Mapping[int, Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Median match (20 log10 of 1 / loss, in dB) against gradient evaluations (log axis).

    Args:
        losses: maps the name of a method to its losses (T, B) at evaluations 1 to T.
        published: maps numbers of evaluations to the losses (B,) of the published procedure. Their
            medians are drawn as points, the worst image as a dotted line.
    """
    ax = ax or plt.gca()
    for method, color, line in _styled(losses, LINES):
        decibel = -20 * np.log10(np.median(losses[method], axis=1))
        ax.plot(np.arange(1, len(decibel) + 1), decibel, line, color=color, label=method,
                linewidth=2)
    if published:
        medians, worst = (-20 * np.log10([statistic(loss) for loss in published.values()])
                          for statistic in (np.median, np.max))
        ax.plot(list(published), medians, "o-", color="0.3", markersize=4, linewidth=1,
                label="published, full length")
        ax.plot(list(published), worst, ":", color="0.3", linewidth=1, label="its worst image")
        ax.axhline(medians[-1], color="0.6", linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    ax.set(xlabel="gradient evaluations", ylabel="match (dB)")
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
    blue = sns.color_palette("colorblind", 1)[0]
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


def side_by_side(
    table: pd.DataFrame, x: str, by: str, *, value: str = "share", low: str = "low",
    high: str = "high", ax: Axes | None = None,
) -> Axes:
    """Values with intervals, side by side at each value of `x`.

    Args:
        table: one row per point.
        x: the column along the axis; its values are evenly spaced, in the order of the rows.
        by: the column that is told apart by colour and marker. It need not have a row at each `x`.
        value: the column of values.
        low, high: the columns of the ends of the intervals.
    """
    ax = ax or plt.gca()
    ticks, kinds = table[x].unique(), table[by].unique()
    for number, (kind, color, marker) in enumerate(_styled(kinds, MARKERS)):
        rows = table[table[by] == kind].set_index(x).reindex(ticks)
        positions = np.arange(len(ticks)) + (number - (len(kinds) - 1) / 2) * 0.6 / len(kinds)
        errors = np.abs(rows[[low, high]].to_numpy().T - rows[value].to_numpy())
        ax.errorbar(positions, rows[value], yerr=errors, fmt=marker, color=color, markersize=5,
                    linewidth=1.5, label=kind)
    ax.set_xticks(range(len(ticks)), [f"{tick}" for tick in ticks])
    ax.set(xlim=(-0.5, len(ticks) - 0.5), xlabel=x, ylabel=value)
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
    short = [_short(name) for name in names]
    sns.heatmap(grid, annot=True, fmt=".0f", cmap="cividis_r", xticklabels=short,
                yticklabels=short, square=True, linewidths=1, cbar_kws={"label": label}, ax=ax)
    ax.tick_params(length=0)
    ax.set_xticklabels(short, rotation=20, ha="right")
    return ax


def accuracy_and_robustness(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Accuracy under attack against accuracy, one point per model.

    Intervals are plus and minus two standard errors.

    Args:
        table: one row per model with the columns `architecture`, `training`, `accuracy`, `robust`
            and `n` (the number of test images).
    """
    ax = ax or plt.gca()
    x, y = (2 * np.sqrt(table[column] * (1 - table[column]) / table["n"])
            for column in ("accuracy", "robust"))
    ax.errorbar(table["accuracy"], table["robust"], xerr=x, yerr=y, fmt="none", color="0.6",
                linewidth=1, zorder=1)
    sns.scatterplot(table, x="accuracy", y="robust", hue="architecture", style="training", s=80,
                    alpha=0.75, ax=ax)
    ax.set(xlabel="accuracy on unaltered test images", ylabel="accuracy under attack")
    sns.move_legend(ax, "center left", bbox_to_anchor=(1.02, 0.5))
    return ax


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
    ax.set_xticklabels([_short(name) for name in matrix.columns], rotation=90, fontsize=size)
    ax.set_yticklabels([_short(name) for name in matrix.index], rotation=0, fontsize=size)
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
    colors = {name: color for name, color, _ in _styled(sorted(table[by].unique()), LINES)}
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
    for column, color, style in _styled(values, ("o-", "s--", "^:", "d-."), both=True):
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
    colors = plt.get_cmap("viridis")
    ax.imshow(grid[value].unstack().loc[observers, stages], cmap=colors, vmin=limits[0],
              vmax=limits[1], aspect="auto",
              extent=(-0.5, len(stages) - 0.5, len(observers) - 0.5, -0.5),
              interpolation="nearest")
    for (observer, stage), number, bold in grid[[value, "marked"]].itertuples():
        light = number > sum(limits) / 2 + 0.1 * (limits[1] - limits[0])
        ax.text(list(stages).index(stage), list(observers).index(observer),
                f"{100 * number:.0f}" if bold else f"({100 * number:.0f})", fontsize=8,
                ha="center", va="center", color="black" if light else "white",
                fontweight="bold" if bold else "normal")
    for row, observer in enumerate(observers):
        ax.text(len(stages) + 0.2, row, f"{100 * grid.loc[observer, beside].iloc[0]:.0f}",
                ha="center", va="center", fontsize=8)
    ax.set(xlim=(-0.5, len(stages) + 0.7))
    ax.set_xticks([*range(len(stages)), len(stages) + 0.2], [*stages, beside], rotation=45,
                  ha="right", fontsize=8)
    ax.set_yticks(range(len(observers)), [_short(observer) for observer in observers], fontsize=8)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


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
    markers = "osD^vP*X<>dph"
    colors = sns.color_palette("husl", len(rates.columns))
    for number, (test, color) in enumerate(zip(rates, colors)):
        ax.plot(rates.index, rates[test], marker=markers[number % len(markers)], color=color,
                markersize=5, linewidth=1.2, label=test)
    for height, style in ((level, "-"), (0.9, ":")):
        ax.axhline(height, color="0.6", linewidth=0.8, linestyle=style, zorder=0)
    ax.set(xlabel="planted similarity of metamer and reference",
           ylabel="share of experiments rejected", ylim=(-0.02, 1.02))
    return ax


def heat_maps(
    maps: Sequence[Any], rows: Sequence[str], columns: Sequence[str] = (), *, label: str,
    high: float | None = None, ax: Axes | None = None,
) -> Axes:
    """A grid of maps of one quantity over the positions in an image, enlarged without smoothing.

    All maps share one colour scale, which starts at 0.

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
    all channels, as a mean over images.

    Args:
        channels: maps labels to squared differences (B, C).
    """
    ax = ax or plt.gca()
    for name, color, style in _styled(channels, LINES, both=True):
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
    for label, color, _ in _styled(ends, LINES):
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
    for number, (kind, color, marker) in enumerate(_styled(kinds, MARKERS, both=True)):
        groups = table[table[by] == kind].groupby("stage")[value]
        low, middle, high = (groups.quantile(q).reindex(stages).to_numpy()
                             for q in (0.25, 0.5, 0.75))
        x = np.arange(len(stages)) + 0.15 * (number - (len(kinds) - 1) / 2)
        ax.errorbar(x, middle, yerr=(middle - low, high - middle), fmt=f"{marker}-", color=color,
                    markersize=5, linewidth=1.2, label=kind)
    ax.set_xticks(range(len(stages)), stages, rotation=30, ha="right")
    return ax


def _fisher(correlation: ArrayLike) -> np.ndarray:
    """Fisher's z of a correlation, which is first clipped to at most 0.999999 in size."""
    return np.arctanh(np.clip(correlation, -1 + 1e-6, 1 - 1e-6))


def _styled(
    names: Iterable[Any], styles: Sequence[str], *, both: bool = False,
) -> list[tuple[Any, tuple[float, float, float], str]]:
    """Each name with one of ten colours, which are safe for the colour-blind, and a style.

    No two of the first ten times as many as there are styles look the same, and none is left out.

    Args:
        names: what is told apart.
        styles: lines or markers. The next one is taken when the colours are used up.
        both: take the next style, too, with each colour.
    """
    colors, styled = sns.color_palette("colorblind", 10), []
    for number, name in enumerate(names):
        turn, place = divmod(number, len(colors))
        style = styles[(turn + place * both) % len(styles)]
        styled.append((name, colors[place], style))
    return styled


def _short(name: Any) -> str:
    """A model's name without the prefix of the bundled zoo."""
    return str(name).removeprefix("zoo/")


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
