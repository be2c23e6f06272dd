"""Figures: functions that take data and an Axes, draw, and return the Axes. Nothing else in metalib draws."""
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colors as mcolors
from matplotlib.transforms import Bbox
from scipy.cluster import hierarchy
from scipy.stats import binom

from metalib.nulls import NullDistribution

COLUMN = 9.0  # width of the book's column, in inches at the book's resolution
KINDS = {"random": "other images", "same-class": "of the class", "noise": "noise", "blend": "blends", "metamer": "metamers",
         "ceiling": "shift, JPEG"}
LABELS = {"pearson": "Pearson correlation", "spearman": "Spearman correlation", "snr_db": "signal-to-noise ratio (dB)"}


def use_style():
    """One look for all figures: colour-blind safe, light, readable at the width of the book's column."""
    sns.set_theme(style="ticks", palette="colorblind", rc={
        "figure.dpi": 90, "savefig.bbox": "tight", "font.size": 11, "axes.titlesize": 11, "axes.labelsize": 11,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "image.interpolation": "nearest"})


def montage(images, rows, columns=(), *, gap=2, ax=None):
    """A grid of pictures, enlarged without smoothing.

    Args:
        images: (R, C, 3, H, W) in [0, 1].
        rows, columns: labels of the R rows and, above, of the C columns (or none).
        gap: white pixels between pictures.
    """
    ax = ax or plt.gca()
    count_rows, count_columns, _, height, width = images.shape
    canvas = np.ones((count_rows * (height + gap) - gap, count_columns * (width + gap) - gap, 3))
    for row in range(count_rows):
        for column in range(count_columns):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top:top + height, left:left + width] = np.moveaxis(np.asarray(images[row, column]), 0, -1)
    ax.imshow(canvas)
    ax.set_yticks([row * (height + gap) + height / 2 for row in range(count_rows)], rows)
    ax.set_xticks([column * (width + gap) + width / 2 for column in range(len(columns))], columns)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def null_and_metamers(null: NullDistribution, metric, values, *, ax=None):
    """Histogram of a null distribution, its maximum, its upper 1e-4 quantile, and the values of metamers as ticks.

    The axis of a correlation is that of Fisher's z (the inverse hyperbolic tangent), on which values near 1 can be told apart;
    bins have the same width there, and what is above 0.999999 is drawn at that value.
    """
    ax = ax or plt.gca()
    grey, blue, orange = "0.7", *sns.color_palette("colorblind", 2)
    forth, back = (_fisher, np.tanh) if metric in ("pearson", "spearman") else (np.asarray, np.asarray)
    sample, values = (forth(x) for x in ([null.quantile(q)[metric] for q in np.linspace(0, 1, 2001)], values))
    ax.set_xscale("function", functions=(forth, back))
    bins = back(np.linspace(sample.min(), sample.max(), 61))
    ax.hist(back(sample), bins=bins, histtype="stepfilled", color=grey, label="random pairs")
    ax.axvline(null.quantile(1 - 1e-4)[metric], color=blue, linestyle=":", label="1 pair in 10,000")
    ax.axvline(null.maximum[metric], color=blue, label="largest of all pairs")
    ax.plot(back(values), np.full(len(values), 0.06), "|", color=orange, markersize=14, markeredgewidth=1.5, alpha=0.8,
            transform=ax.get_xaxis_transform(), label="metamers")
    ax.set(xlabel=LABELS[metric], yticks=[])
    if forth is _fisher:
        low, high = ax.get_xlim()
        ticks = [tick for tick in (-0.9, -0.5, 0, 0.5, 0.9, 0.99, 0.999, 0.9999) if low <= tick <= high]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=9)
    ax.spines["left"].set_visible(False)
    return ax


def _fisher(correlation):
    return np.arctanh(np.clip(correlation, -1 + 1e-6, 1 - 1e-6))


def share_passed(table, by, *, limit, ax=None):
    """Share of images that have passed the criterion, against gradient evaluations on a logarithmic axis.

    Args:
        table: rows as of `judge` of runs with `stop`, one per image and method; images that never passed count in the share,
            and a cross marks where their run was ended (censored).
        by: the column that tells methods apart.
        limit: the largest number of evaluations that was allowed.
    """
    ax = ax or plt.gca()
    methods = table[by].unique()
    looks = itertools.product(("-", "--", ":"), sns.color_palette("colorblind", 7))  # 21 that can be told apart
    for (line, color), method in zip(looks, methods):
        rows = table[table[by] == method]
        passed = np.sort(rows.loc[rows["passed"], "evaluations"].to_numpy())
        steps = np.concatenate([[1], passed, [limit]])
        share = np.concatenate([[0], np.arange(1, len(passed) + 1), [len(passed)]]) / len(rows)
        ax.step(steps, share, where="post", label=method, color=color, linestyle=line, linewidth=2)
        if len(passed) < len(rows):
            ax.plot(limit, share[-1], "x", color=color, markersize=8, markeredgewidth=2, clip_on=False)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="gradient evaluations", ylabel="share of images passed", xlim=(1, limit), ylim=(0, 1.02))
    return ax


def match_by_evaluations(losses, *, published=None, ax=None):
    """Median match (20 log10 of 1 / loss, in dB) against gradient evaluations, on a logarithmic axis.

    Args:
        losses: a dict from the names of methods to their losses (T, B).
        published: a dict from evaluations to the losses (B,) of the published procedure, drawn as points with its worst image.
    """
    ax = ax or plt.gca()
    for method, loss in losses.items():
        ax.plot(np.arange(1, len(loss) + 1), -20 * np.log10(np.median(loss, axis=1)), label=method, linewidth=2)
    if published:
        medians, worst = (-20 * np.log10([of(loss) for loss in published.values()]) for of in (np.median, np.max))
        ax.plot(list(published), medians, "o-", color="0.3", markersize=4, linewidth=1, label="published, full length")
        ax.plot(list(published), worst, ":", color="0.3", linewidth=1, label="its worst image")
        ax.axhline(medians[-1], color="0.6", linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    ax.set(xlabel="gradient evaluations", ylabel="match (dB)")
    return ax


def cost_and_distinctness(table, by, *, ax=None):
    """Evaluations to the criterion against the distance of the result from its reference: medians over images, and quartiles.

    A filled point stands where fewer than half of the mere perturbations of the references at the same distance pass.

    Args:
        table: rows as of `judge`, with the column `by` and a column `control`, whether the perturbation of that image passes.
    """
    ax = ax or plt.gca()
    blue = sns.color_palette("colorblind", 1)[0]
    groups = table.groupby(by, sort=False)[["distance", "evaluations"]]
    (x, y), (left, low), (right, high) = (groups.quantile(q).to_numpy().T for q in (0.5, 0.25, 0.75))
    decided = table.groupby(by, sort=False)["control"].mean() < 0.5
    ax.errorbar(x, y, xerr=(x - left, right - x), yerr=(y - low, high - y), fmt="none", ecolor="0.8", elinewidth=1, zorder=1)
    ax.scatter(x, y, s=60, edgecolors=[blue], facecolors=np.where(decided, mcolors.to_hex(blue), "white"))
    ax.set(xlabel="distance from the reference (RMS, pixels in [0, 1])", ylabel="gradient evaluations to the criterion",
           xlim=(0, None), ylim=(0, None))
    taken = [Bbox(point + [[-5, -5], [5, 5]]) for point in ax.transData.transform(np.stack([x, y], axis=1))[:, None]]
    corners = [(6, 4), (6, -4), (-6, 4), (-6, -4), (0, 8), (0, -8), (6, 13), (6, -13), (-6, 13), (-6, -13)]
    for name, point in zip(decided.index, zip(x, y)):
        label = ax.annotate(name, point, corners[0], textcoords="offset points", fontsize=9)

        def covers(corner, label=label):
            across, up = corner
            label.set(position=corner, ha=("right", "center", "left")[np.sign(across) + 1], va="bottom" if up > 0 else "top")
            shared = (Bbox.intersection(label.get_window_extent(), other) for other in taken)
            return sum(box.width * box.height for box in shared if box)

        covers(min(corners, key=covers))  # the first where it covers least
        taken.append(label.get_window_extent())
    return ax


def side_by_side(table, x, by, *, value="share", low="from", high="to", ax=None):
    """Values with intervals, side by side for each value of `x`.

    Args:
        table: one row per point with the columns `x` (its values are drawn in order, evenly spaced), `by` (told apart by colour),
            `value`, `low` and `high` (the ends of the interval).
    """
    ax = ax or plt.gca()
    places, kinds = table[x].unique(), table[by].unique()
    for number, (kind, color) in enumerate(zip(kinds, sns.color_palette("colorblind", len(kinds)))):
        rows = table[table[by] == kind].set_index(x).loc[places]
        at = np.arange(len(places)) + (number - (len(kinds) - 1) / 2) * 0.6 / len(kinds)
        ends = np.abs(rows[[low, high]].to_numpy().T - rows[value].to_numpy())
        ax.errorbar(at, rows[value], yerr=ends, fmt="o", color=color, markersize=5, linewidth=1.5, label=kind)
    ax.set_xticks(range(len(places)), [f"{place}" for place in places])
    ax.set(xlim=(-0.5, len(places) - 0.5), xlabel=x, ylabel=value)
    return ax


def pairs(values, *, label, ax=None):
    """A heat map of a quantity of unordered pairs, half of which is shown.

    Args:
        values: a dict from pairs of names to numbers; a pair of a name with itself is on the diagonal.
        label: what the numbers are, with their unit.
    """
    ax = ax or plt.gca()
    names = list(dict.fromkeys(name for pair in values for name in pair))
    grid = np.array([[values.get((one, other), np.nan) for one in names] for other in names], dtype=float)
    short = [_short(name) for name in names]
    sns.heatmap(grid, annot=True, fmt=".0f", cmap="cividis_r", xticklabels=short, yticklabels=short, square=True, linewidths=1,
                cbar_kws={"label": label}, ax=ax)
    ax.tick_params(length=0)
    ax.set_xticklabels(short, rotation=20, ha="right")
    return ax


def accuracy_and_robustness(table, *, ax=None):
    """Accuracy under attack against accuracy, one point per model, with intervals of plus and minus two standard errors.

    Args:
        table: one row per model with the columns architecture, training, accuracy, robust and n (the number of test images).
    """
    ax = ax or plt.gca()
    x, y = (2 * np.sqrt(table[column] * (1 - table[column]) / table["n"]) for column in ("accuracy", "robust"))
    ax.errorbar(table["accuracy"], table["robust"], xerr=x, yerr=y, fmt="none", color="0.6", linewidth=1, zorder=1)
    sns.scatterplot(table, x="accuracy", y="robust", hue="architecture", style="training", s=80, alpha=0.75, ax=ax)
    ax.set(xlabel="accuracy on unaltered test images", ylabel="accuracy under attack")
    sns.move_legend(ax, "center left", bbox_to_anchor=(1.02, 0.5))
    return ax


def transfer_matrix(matrix, *, ax=None):
    """Generators (rows) x observers (columns) as a heat map with its numbers; own metamers are framed, empty cells had none.

    With more than 16 networks a colour bar stands in for the numbers.
    """
    ax, few = ax or plt.gca(), len(matrix) <= 16
    size = 9 if len(matrix) <= 10 else 7
    matrix = matrix.astype(float)
    numbers = matrix.map(lambda value: "" if np.isnan(value) else f"{value:.1f}".lstrip("0").removesuffix(".0") or "0")
    sns.heatmap(matrix, vmin=0, vmax=1, cmap="viridis", square=True, annot=numbers if few else None, fmt="",
                cbar=not few, ax=ax, annot_kws={"fontsize": size - 1}, linewidths=0.5, xticklabels=True, yticklabels=True)
    for row, generator in enumerate(matrix.index):
        if generator in matrix.columns:
            corner = list(matrix.columns).index(generator), row
            ax.add_patch(plt.Rectangle(corner, 1, 1, fill=False, edgecolor="tab:red", linewidth=1.5))
    ax.set_xticklabels([_short(name) for name in matrix.columns], rotation=90, fontsize=size)
    ax.set_yticklabels([_short(name) for name in matrix.index], rotation=0, fontsize=size)
    ax.tick_params(length=2)
    ax.set(xlabel="observer", ylabel="generator")
    return ax


def clustered(similarity, linkage, *, ax=None):
    """A symmetric matrix of models, in the order of the leaves of their dendrogram, which is drawn above it.

    Args:
        similarity: DataFrame of models x models in [0, 1], in the order of the leaves; `linkage`: scipy's (see `crossed.cluster`).
    """
    ax = transfer_matrix(similarity, ax=ax)
    ax.set(xlabel="", ylabel="")
    above = ax.inset_axes([0, 1.02, 1, 0.25])
    hierarchy.dendrogram(linkage, ax=above, no_labels=True, color_threshold=0, above_threshold_color="0.3")
    above.set_ylabel("1 - shared", fontsize=9)
    above.tick_params(labelsize=8)
    sns.despine(ax=above, bottom=True)
    return ax


def estimates(table, labels, *, value="mean", zero=None, ax=None):
    """Estimates with their intervals (columns `low`, `high`) as points on horizontal lines, the first row on top.

    Args:
        labels: one for each row; `zero`: where a vertical line stands, the value of no effect.
    """
    ax = ax or plt.gca()
    y = np.arange(len(table))[::-1]
    if zero is not None:
        ax.axvline(zero, color="0.7", linewidth=1, zorder=0)
    ax.hlines(y, table["low"].astype(float), table["high"].astype(float), color="0.5", linewidth=2)
    ax.plot(table[value], y, "o", color=sns.color_palette("colorblind", 1)[0])
    for height, empty in zip(y, table[value].isna()):
        if empty:
            ax.annotate("no such pair", (0.02, height), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    ax.set_yticks(y, labels)
    ax.set_ylim(-0.6, len(table) - 0.4)
    return ax


def by_depth(table, by, *, style, value="mean", ax=None):
    """Means with their intervals against relative depth: a colour for each value of the column `by`, a line for each of `style`."""
    ax = ax or plt.gca()
    colours = dict(zip(sorted(table[by].unique()), sns.color_palette("colorblind")))
    lines = dict(zip(sorted(table[style].unique()), ("s--", "o-", "^:", "d-.")))
    for number, (name, line) in enumerate(itertools.product(colours, lines)):
        rows = table[(table[by] == name) & (table[style] == line)].sort_values("depth")
        x = rows["depth"] + 0.012 * (number - (len(colours) * len(lines) - 1) / 2)  # side by side
        half = [(rows[value] - rows["low"]).clip(lower=0), (rows["high"] - rows[value]).clip(lower=0)]
        ax.errorbar(x, rows[value], yerr=np.nan_to_num(half), label=f"{line} {name}", fmt=lines[line], color=colours[name],
                    markersize=4, capsize=2)
    ax.set(xlabel="relative depth of the matched stage", ylim=(-0.05, 1.05))
    return ax


def against_distance(table, values, *, bins=8, ax=None):
    """Means of columns against the distance from the reference, in bins with equally many rows; no intervals.

    Args:
        values: a dict from columns to labels.
    """
    ax = ax or plt.gca()
    binned = table.groupby(pd.qcut(table["distance"], bins, duplicates="drop"), observed=True)
    for (column, label), style in zip(values.items(), ("o-", "s--", "^:", "d-.")):
        ax.plot(binned["distance"].mean(), binned[column].mean(), style, markersize=4, label=label)
    ax.set(xlabel="distance from the reference (RMS, pixels in [0, 1])", ylim=(-0.05, 1.05))
    return ax


def people_and_networks(table, *, ax=None):
    """Share of metamers recognised by other networks against that recognised by people, a point per model and stage.

    Args:
        table: the columns `human`, `networks`, `depth`, and `training` for the marker.
    """
    ax = ax or plt.gca()
    sns.scatterplot(table, x="human", y="networks", hue="depth", style="training", palette="viridis", ax=ax)
    ax.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
    ax.set(xlabel="recognised by people", ylabel="recognised by other networks", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    sns.move_legend(ax, "center left", bbox_to_anchor=(1.02, 0.5))
    return ax


def _short(name):
    return str(name).removeprefix("zoo/")


def similarity_clouds(table, *, ax=None):
    """Similarities of first order by what is compared: each image's nulls, its metamer and its ceiling, with their medians.

    Args:
        table: rows of `metalib.representation.similarities` at one stage.
    """
    ax = ax or plt.gca()
    blue, orange, green = sns.color_palette("colorblind", 3)
    colors = {kind: "0.6" for kind in KINDS} | {"metamer": orange, "ceiling": green}
    for place, kind in enumerate(KINDS):
        values = table.loc[table["kind"] == kind, "similarity"].to_numpy()
        spread = np.random.default_rng(place).uniform(-0.3, 0.3, len(values))
        ax.plot(place + spread, values, ".", color=colors[kind], markersize=4, alpha=0.6, markeredgewidth=0)
        if len(values):
            ax.hlines(np.median(values), place - 0.38, place + 0.38, color="black", linewidth=1.5)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_xticks(range(len(KINDS)), KINDS.values(), fontsize=9, rotation=40, ha="right")
    ax.set(ylabel="similarity (centred Pearson correlation)", ylim=(-1.02, 1.02))
    return ax


def observers_by_stages(summary, value, *, marked, beside="recognised", limits=(0, 1), ax=None):
    """Heat map of a column of a representation test's summary, a row per observer, a column per stage, and one number beside it.

    Args:
        summary: as of `RepresentationTable.summary`.
        value: the column that is shown as colour and, in hundredths, as text.
        marked: a boolean for each row of the summary; where it is false the text stands in brackets.
        beside: a column that is the same for all stages of an observer, shown after a gap.
        limits: of the colours.
    """
    ax = ax or plt.gca()
    stages, observers = summary["stage"].unique(), summary["observer"].unique()
    grid = summary.assign(marked=marked).set_index(["observer", "stage"])
    colors = plt.get_cmap("viridis")
    ax.imshow(grid[value].unstack().loc[observers, stages], cmap=colors, vmin=limits[0], vmax=limits[1], aspect="auto",
              extent=(-0.5, len(stages) - 0.5, len(observers) - 0.5, -0.5), interpolation="nearest")
    for row, observer in enumerate(observers):
        for column, stage in enumerate(stages):
            number, bold = grid.loc[(observer, stage), [value, "marked"]]
            light = number > sum(limits) / 2 + 0.1 * (limits[1] - limits[0])
            ax.text(column, row, f"{100 * number:.0f}" if bold else f"({100 * number:.0f})", ha="center", va="center", fontsize=8,
                    color="black" if light else "white", fontweight="bold" if bold else "normal")
        ax.text(len(stages) + 0.2, row, f"{100 * grid.loc[observer, beside].iloc[0]:.0f}", ha="center", va="center", fontsize=8)
    ax.set(xlim=(-0.5, len(stages) + 0.7))
    ax.set_xticks([*range(len(stages)), len(stages) + 0.2], [*stages, beside], rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(observers)), [_short(observer) for observer in observers], fontsize=8)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def by_stage(verdict, value="auc", *, chance=0.5, ax=None):
    """Means of a verdict by stage with their intervals over images and observers, one colour per null.

    Args:
        verdict: as of `metalib.representation.verdict`.
        value: "auc" or "share".
        chance: where a line is drawn.
    """
    ax = side_by_side(verdict, "stage", "null", value=value, low=f"{value}_low", high=f"{value}_high", ax=ax)
    ax.axhline(chance, color="0.6", linewidth=0.8, zorder=0)
    ax.set_xticks(ax.get_xticks(), ax.get_xticklabels(), rotation=45, ha="right", fontsize=9)
    ax.set(xlabel="", ylabel="", ylim=(-0.02, 1.02))
    return ax


def rejection_rates(rates, experiments, *, level=0.05, ax=None):
    """Rejection rates as points, one row per test, with the range in which 99 % of such rates would lie if the level is kept.

    Args:
        rates: a Series of shares of the experiments, by the name of the test.
        experiments: how many there were.
    """
    ax = ax or plt.gca()
    low, high = binom.interval(0.99, experiments, level)
    ax.axvspan(low / experiments, high / experiments, color="0.85", zorder=0)
    ax.axvline(level, color="0.5", linewidth=0.8, zorder=0)
    inside = rates.between(low / experiments, high / experiments)
    blue, orange = sns.color_palette("colorblind", 2)
    ax.scatter(rates, range(len(rates)), s=22, color=[blue if good else orange for good in inside])
    ax.set_yticks(range(len(rates)), rates.index, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel=f"share of {experiments:,} experiments rejected at {level:.0%}".replace("%", " %"))
    return ax


def power_curves(rates, *, level=0.05, ax=None):
    """Rejection rates against the size of a planted effect: a DataFrame with sizes as its index and a column for each test."""
    ax = ax or plt.gca()
    markers = "osD^vP*X<>dph"
    for place, (test, color) in enumerate(zip(rates, sns.color_palette("husl", len(rates.columns)))):
        ax.plot(rates.index, rates[test], marker=markers[place % len(markers)], color=color, markersize=5, linewidth=1.2,
                label=test)
    for height, style in ((level, "-"), (0.9, ":")):
        ax.axhline(height, color="0.6", linewidth=0.8, linestyle=style, zorder=0)
    ax.set(xlabel="planted similarity of metamer and reference", ylabel="share of experiments rejected", ylim=(-0.02, 1.02))
    return ax


def heat_maps(maps, rows, columns=(), *, label, high=None, ax=None):
    """A grid of maps of one quantity over the places of an image, enlarged without smoothing, with one scale of colours from 0.

    Args:
        maps: a list of R arrays (C, H, H); in each row H is the largest of all or a whole fraction of it.
        rows, columns: labels of the R rows and, above, of the C columns (or none).
        label: what is shown, with its unit.
        high: the end of the scale, where there are larger values too; None takes the largest.
    """
    ax = ax or plt.gca()
    side = max(len(row[0]) for row in maps)
    gap = max(1, side // 16)
    canvas = np.full((len(maps) * (side + gap) - gap, len(maps[0]) * (side + gap) - gap), np.nan)
    for down, row in enumerate(maps):
        for across, values in enumerate(np.asarray(row)):
            top, left = down * (side + gap), across * (side + gap)
            canvas[top:top + side, left:left + side] = values.repeat(side // len(values), 0).repeat(side // len(values), 1)
    image = ax.imshow(canvas, cmap="cividis", vmin=0, vmax=high)
    ax.set_yticks([row * (side + gap) + side / 2 for row in range(len(maps))], rows)
    ax.set_xticks([column * (side + gap) + side / 2 for column in range(len(columns))], columns)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    plt.colorbar(image, ax=ax, label=label, extend="max" if high is not None else "neither", fraction=0.03, pad=0.02)
    return ax


def concentration(channels, *, ax=None):
    """How few channels hold a difference: its share in the channels that differ most, against their share of all channels.

    Args:
        channels: a dict from labels to arrays (B, C) of squared differences; the mean curve over images is drawn.
    """
    ax = ax or plt.gca()
    for (name, values), style in zip(channels.items(), ("-", "--", "-.", ":", "-", "--")):
        values = np.sort(np.asarray(values, dtype=float), axis=1)[:, ::-1]
        shares = np.cumsum(values, axis=1) / values.sum(1, keepdims=True)
        ax.plot(np.arange(values.shape[1] + 1) / values.shape[1], np.append(0, shares.mean(0)), style, label=name)
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    ax.set(xlabel="share of channels, those that differ most first", ylabel="share of the squared difference", xlim=(0, 1),
           ylim=(0, 1.02))
    return ax


def displacements(references, ends, others=(), *, ax=None):
    """Stimuli as points in a plane, with arrows from each reference to what was made of it.

    Args:
        references: (n, 2) coordinates, black points.
        ends: a dict from labels to (n, 2) coordinates, the heads of one colour of arrows each.
        others: (m, 2) coordinates of stimuli that nothing was made of, grey points.
    """
    ax = ax or plt.gca()
    if len(others):
        ax.plot(*np.transpose(others), "o", color="0.8", markersize=4, label="other photographs", zorder=1)
    for (label, points), color in zip(ends.items(), sns.color_palette("colorblind", len(ends))):
        ax.quiver(*np.transpose(references), *np.transpose(points - references), color=color, angles="xy", scale_units="xy",
                  scale=1, width=0.009, headwidth=4, zorder=3)
        ax.plot(*np.transpose(points), ".", color=color, markersize=3, zorder=3)
        ax.plot([], [], color=color, marker=r"$\rightarrow$", markersize=16, linestyle="none", label=f"to {label}")
    ax.plot(*np.transpose(references), "o", color="black", markersize=4, label="references", zorder=4)
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.set_adjustable("datalim")
    return ax


def against_natural(table, value, natural=None, *, by, ax=None):
    """Medians and quartiles of a statistic of images by stage, beside the range of photographs.

    Args:
        table: a row per image with the columns `stage` (drawn in order), `by` (told apart by colour and marker) and `value`.
        natural: the values of photographs, if they have any; their quartiles and their range from 5 to 95 % are shaded.
    """
    ax = ax or plt.gca()
    for low, high, shade in ((0.05, 0.95, "0.93"), (0.25, 0.75, "0.85")) if natural is not None else ():
        ax.axhspan(*np.quantile(natural, [low, high]), color=shade, zorder=0)
    stages, kinds = table["stage"].unique(), table[by].unique()
    for number, (kind, color, marker) in enumerate(zip(kinds, sns.color_palette("colorblind", len(kinds)), "os^D")):
        groups = table[table[by] == kind].groupby("stage")[value]
        low, middle, high = (groups.quantile(q).loc[stages].to_numpy() for q in (0.25, 0.5, 0.75))
        x = np.arange(len(stages)) + 0.15 * (number - (len(kinds) - 1) / 2)
        ax.errorbar(x, middle, yerr=(middle - low, high - middle), fmt=f"{marker}-", color=color, markersize=5, linewidth=1.2,
                    label=kind)
    ax.set_xticks(range(len(stages)), stages, rotation=30, ha="right")
    return ax
