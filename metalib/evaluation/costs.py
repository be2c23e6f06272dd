"""What metamers cost: comparisons of tables of gradient evaluations, image by image.

    ratios(criterion)                     # of every rule to the default, by network and stage
    summary(ratios(criterion))            # over the stages
    times_fewer(match, published)         # evaluations to the published match
    against_noise(starts)                 # what other starts save, and where they end

Tables are those of `metalib.tasks`. An image that never passed counts with its last evaluation, so
that a ratio is too small where a rule failed; such images are counted as `failed`. Everything is
resampled over images only, the same ones in every cell, and speaks for the networks in the table.

Functions that return a dict serve claims: `estimate`, its 95 % interval `low` to `high`, and the
numbers with which a sentence is worded.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from metalib.evaluation.corrections import corrected, warn_of_floors
from metalib.store import load_table

RESULTS = Path(__file__).parents[2] / "results"  # of the checkout
DEFAULT = "spectral_lbfgs"
CELL = ["model", "stage"]
SIGNIFICANT = 0.05
NEARER = 0.005  # RMS of pixels in [0, 1]; distances that differ by less are alike


def measured(name: str) -> pd.DataFrame:
    """What a script in `benchmarks` measured: `results/benchmark-NAME.parquet`.

    These are seconds and megabytes, which depend on the machine: each row has its `hardware` and
    `date`.

    Raises:
        FileNotFoundError: there is no such table.
    """
    return load_table(RESULTS / f"benchmark-{name}.parquet")


def ratios(
    table: pd.DataFrame, baseline: str = DEFAULT, by: str = "optimizer", *,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Evaluations of each rule over those of a baseline, image by image.

    Args:
        table: one row per model, stage, rule and image, with `evaluations` and `passed`.
        baseline: the rule with which the others are compared.
        by: the column that names the rules.
        resamples: of the bootstrap.

    Returns:
        pandas.DataFrame, one row per rule but the baseline, model and stage: `ratio`, the median
        over images, with its 95 % percentile interval, `low` and `high` (Efron & Tibshirani 1993,
        chapter 13); `p` of Wilcoxon's signed-rank test on the logarithms, two-sided, corrected for
        all rows (Benjamini & Yekutieli 2001, doi:10.1214/aos/1013699998); `images`; `failed` and
        `baseline_failed`, how many of them did not pass.

    Raises:
        ValueError: there is no such baseline, or a rule lacks images that others have.

    Warns:
        UserWarning: there are so few images that their number decides what is significant, see
            `metalib.evaluation.corrections.is_switch`.
    """
    logs: Any = log_ratios(table, baseline, by)
    low, high = _interval(logs.to_numpy(), _medians, resamples)
    found = _tested(table, logs, baseline)
    found.insert(found.columns.get_loc("ratio") + 1, "low", np.exp(low))
    found.insert(found.columns.get_loc("low") + 1, "high", np.exp(high))
    return found


def _tested(table: pd.DataFrame, logs: Any, baseline: str) -> Any:
    """What `ratios` returns, without the intervals."""
    by, undone = logs.index.names[-1], ~table["passed"].astype(bool)
    failed: Any = undone.groupby([table[key] for key in [*CELL, by]]).sum()
    of_baseline = failed.xs(baseline, level=by).reindex(logs.index.droplevel(by))
    p = [_signed_rank(row) for row in logs.to_numpy()]
    floor = _signed_rank(np.arange(1.0, logs.shape[1] + 1))  # all images say the same
    warn_of_floors("p, of signed ranks,", {"rules, models and stages": np.full(len(p), floor)},
                   "fdr_by", "More images lower that")
    return pd.DataFrame({
        "ratio": np.exp(logs.median(axis=1)), "p": corrected(p, "fdr_by"),
        "images": logs.shape[1], "failed": failed.reindex(logs.index),
        "baseline_failed": of_baseline.to_numpy()}, index=logs.index).reset_index()


def log_ratios(table: pd.DataFrame, baseline: str, by: str) -> pd.DataFrame:
    """Logarithms of evaluations over the baseline's: rows (model, stage, rule), columns images.

    Raises:
        ValueError: as `ratios`.
    """
    if baseline not in set(table[by]):
        raise ValueError(f"there is no {baseline} among {', '.join(table[by].unique())}")
    logs = np.log(_by_image(table, by, "evaluations"))
    base = logs.xs(baseline, level=by)
    logs = logs.drop(index=baseline, level=by)
    return logs - base.reindex(logs.index.droplevel(by)).to_numpy()


def _by_image(table: pd.DataFrame, by: str, value: str) -> Any:
    """A column as rows (model, stage, `by`), in the order of the table, and columns images."""
    wide = table.pivot(index=[*CELL, by], columns="image", values=value)
    if wide.isna().any(axis=None):
        raise ValueError(f"some of {', '.join(table[by].unique())} lack images that others have")
    order = pd.MultiIndex.from_frame(_distinct(table, [*CELL, by]))
    return wide.reindex(order).astype(float)


def _distinct(table: pd.DataFrame, keys: list[str]) -> Any:
    """The combinations of values in some columns, in the order of the table."""
    return table[keys].drop_duplicates().reset_index(drop=True)


def _signed_rank(values: np.ndarray) -> float:
    """p of Wilcoxon's signed-rank test, two-sided; 1 where all values are 0."""
    found: Any = stats.wilcoxon(values) if values.any() else None
    return float(found.pvalue) if found else 1.0


def _medians(values: np.ndarray, axis: int) -> np.ndarray:
    return np.median(values, axis=axis)


def _interval(
    values: np.ndarray, statistic: Callable[..., np.ndarray], resamples: int, batch: int = 200,
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile interval of a statistic of values (..., images); images are resampled.

    All rows get the same images. A single image has no interval, NaN, nor have no resamples.
    """
    if values.shape[-1] < 2 or not resamples:
        nothing = np.full_like(statistic(values, axis=-1), np.nan)
        return nothing, nothing
    found: Any = stats.bootstrap(
        [values], statistic, axis=-1, n_resamples=resamples, batch=batch, vectorized=True,
        method="percentile", rng=0)
    low, high = np.quantile(found.bootstrap_distribution, [0.025, 0.975], axis=-1,
                            method="closest_observation")  # also of infinite values
    return low, high


def summary(found: pd.DataFrame, by: str = "optimizer") -> pd.DataFrame:
    """Ratios over all models and stages, as `ratios` found them: one row per rule.

    Returns:
        pandas.DataFrame with `lowest`, `median` and `highest` ratio; `more` and `fewer`, at how
        many stages the rule needs clearly more or fewer evaluations than the baseline (p < 0.05);
        `failed`, the images that did not pass; `of`, the number of stages. The median ratio rises.
    """
    clear = found["p"] < SIGNIFICANT
    marked = found.assign(more=clear & (found["ratio"] > 1), fewer=clear & (found["ratio"] < 1))
    return marked.groupby(by, sort=False).agg(
        lowest=("ratio", "min"), median=("ratio", "median"), highest=("ratio", "max"),
        more=("more", "sum"), fewer=("fewer", "sum"), failed=("failed", "sum"),
        of=("ratio", "size")).sort_values("median")


# --- For claims: ratios --------------------------------------------------------------------------

def lowest_ratio(
    table: pd.DataFrame, rule: str = "published", baseline: str = DEFAULT, least: float = 3,
) -> dict[str, Any]:
    """The lowest of a rule's median ratios over all models and stages.

    The interval is that of the minimum: images are resampled, and the lowest median is taken
    again, at whichever stage. `count` of `of` stages have a median ratio of at least `least`, and
    at `clear` of them the rule needs more evaluations by the corrected test.
    """
    logs: Any = log_ratios(table, baseline, "optimizer")
    tested = _tested(table, logs, baseline).set_index("optimizer").loc[[rule]]
    its = logs.xs(rule, level="optimizer").to_numpy()
    return {**_estimate(its, lambda medians: medians.min(0)), **_sizes(table),
            "highest": float(tested["ratio"].max()), "of": len(tested),
            "count": int((tested["ratio"] >= least).sum()),
            "clear": int(((tested["p"] < SIGNIFICANT) & (tested["ratio"] > 1)).sum())}


def typical_ratio(
    table: pd.DataFrame, rule: str, baseline: str = DEFAULT,
) -> dict[str, Any]:
    """The geometric mean over all models and stages of a rule's median ratios.

    `more` and `fewer` are the stages at which the corrected test says so; `of` is their number.
    """
    logs: Any = log_ratios(table, baseline, "optimizer")
    over: Any = summary(_tested(table, logs, baseline)).loc[rule]
    its = logs.xs(rule, level="optimizer").to_numpy()
    return {**_estimate(its, lambda medians: medians.mean(0)), **_sizes(table), "rule": rule,
            **{name: float(over[name]) for name in ("lowest", "highest")},
            **{name: int(over[name]) for name in ("more", "fewer", "of")}}


def strongest_rival(table: pd.DataFrame, baseline: str = DEFAULT) -> dict[str, Any]:
    """`typical_ratio` of the rule that comes nearest to the baseline, `rule`, or goes below it.

    In the interval the rule is chosen again for each resample.
    """
    logs: Any = log_ratios(table, baseline, "optimizer")
    rules = list(logs.index.unique("optimizer"))
    stacked = np.stack([logs.xs(rule, level="optimizer").to_numpy() for rule in rules])
    best = rules[int(np.median(stacked, axis=-1).mean(1).argmin())]
    return {**typical_ratio(table, best, baseline),
            **_estimate(stacked, lambda medians: medians.mean(1).min(0))}


def _estimate(
    logs: np.ndarray, over: Callable[[np.ndarray], np.ndarray], resamples: int = 1000,
) -> dict[str, float]:
    """A statistic of median ratios and its interval; images are the last axis of `logs`."""
    def statistic(values: np.ndarray, axis: int) -> np.ndarray:
        return over(np.median(values, axis=axis))

    values = statistic(logs[..., None, :], axis=-1)[0], *_interval(logs, statistic, resamples)
    return dict(zip(("estimate", "low", "high"), (float(np.exp(value)) for value in values)))


def _sizes(table: pd.DataFrame) -> dict[str, int]:
    return {name: len(_distinct(table, [key])) for name, key in
            (("networks", "model"), ("images", "image"))}


# --- The match at the end of the published procedure ---------------------------------------------

def times_fewer(
    match: pd.DataFrame, published: pd.DataFrame, rule: str = DEFAULT, *, resamples: int = 1000,
) -> pd.DataFrame:
    """How many times fewer evaluations a rule takes to the match that the published one ends with.

    That is the number of its evaluations over those after which the match of the median image (of
    all starts) is at least the median match at its end.

    Args:
        match: of the task of that name: `model`, `stage`, `optimizer`, `seed`, `image`,
            `evaluations`, `match_db`.
        published: the same of the published procedure, without the columns `optimizer` and `seed`.

    Returns:
        pandas.DataFrame, one row per model and stage: `published_db` and `published_worst_db`,
        the median image and the worst at the published end; `worst_db`, the worst image of the
        rule at its end (median over starts); `evaluations` (infinite if the match is not reached)
        and `times_fewer`, with its 95 % bootstrap interval over images, `low` and `high`. A
        `times_fewer` of 0 says that the match is not reached; `low` is 0 if that is so in more
        than one resample of 40.
    """
    ours, ends, counts, total = _matches(match, published, rule)
    needed = _needed(ours, ends, counts)
    low, high = _interval(_joined(ours, ends), _fewer_by(counts, total), resamples)
    at_end = np.median(ours[:, -1].min(axis=-1), axis=-1)
    return _distinct(published, CELL).assign(
        published_db=np.median(ends, axis=-1), published_worst_db=ends.min(axis=-1),
        worst_db=at_end, evaluations=needed, times_fewer=total / needed, low=low, high=high)


def _matches(
    match: pd.DataFrame, published: pd.DataFrame, rule: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Matches of a rule (cells, T, starts, images), the published ends (cells, images), numbers
    of evaluations (T,), and the number of the published ones.
    """
    cells, rows = pd.MultiIndex.from_frame(_distinct(published, CELL)), published
    total: Any = rows["evaluations"].max()
    ends = rows[rows["evaluations"] == total].pivot(
        index=CELL, columns="image", values="match_db").reindex(cells).to_numpy(float)
    keys = [*CELL, "evaluations", "seed", "image"]
    rows = match[match["optimizer"] == rule].set_index(keys)["match_db"].sort_index()
    counts, seeds, images = (rows.index.unique(key) for key in keys[2:])
    wanted = [(*cell, *rest) for cell in cells for rest in
              pd.MultiIndex.from_product([counts, seeds, images])]
    ours = rows.reindex(pd.MultiIndex.from_tuples(wanted)).to_numpy(float)
    shape = len(cells), len(counts), len(seeds), len(images)
    if np.isnan(ours).any() or ends.shape != (len(cells), len(images)):
        raise ValueError(f"the matches of {rule} and the published ones are not of the same "
                         "models, stages and images")
    return ours.reshape(shape), ends, counts.to_numpy(), int(total)


def _needed(ours: np.ndarray, ends: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Evaluations to the published match: (cells, T, starts, ..., images) gives (cells, ...)."""
    typical = np.median(np.moveaxis(ours, 2, -2), axis=(-2, -1))
    reached = typical >= np.median(ends, axis=-1)[:, None]
    first = reached.argmax(1)
    return np.where(reached.any(1), counts[first], np.inf)


def _joined(ours: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Both in one array (T x starts + 1, cells, images), so that they are resampled together."""
    cells, times, starts, images = ours.shape
    flat = ours.reshape(cells, times * starts, images)
    return np.concatenate([flat, ends[:, None]], axis=1).swapaxes(0, 1)


def _fewer_by(counts: np.ndarray, total: int) -> Callable[..., np.ndarray]:
    """A statistic of resamples (T x starts + 1, cells, resamples, images)."""
    def statistic(values: np.ndarray, axis: int) -> np.ndarray:
        ours = values[:-1].swapaxes(0, 1)
        ours = ours.reshape(ours.shape[0], len(counts), -1, *ours.shape[2:])
        return total / _needed(ours, values[-1], counts)

    return statistic


def share_fewer(
    match: pd.DataFrame, published: pd.DataFrame, rule: str = DEFAULT, least: float = 50,
) -> dict[str, Any]:
    """Share of stages at which a rule reaches the published match with `least` times fewer.

    `count` of `of` stages do; at `clear` of them the whole interval of `times_fewer` lies above.
    `typical` is the median over stages, `lowest` the smallest, 0 if one does not get there;
    `starts` are those of the rule.
    """
    ours, ends, counts, total = _matches(match, published, rule)
    fewer_by = _fewer_by(counts, total)
    found: Any = times_fewer(match, published, rule)
    low, high = _interval(
        _joined(ours, ends), lambda values, axis: (fewer_by(values, axis) >= least).mean(0), 1000)
    enough = found["times_fewer"] >= least
    return {"estimate": float(enough.mean()), "low": float(low), "high": float(high),
            "count": int(enough.sum()), "of": len(found),
            "clear": int((found["low"] >= least).sum()),
            "typical": float(found["times_fewer"].median()),
            "lowest": float(found["times_fewer"].min()), "starts": ours.shape[2],
            **_sizes(published)}


# --- Starts --------------------------------------------------------------------------------------

def against_noise(table: pd.DataFrame, baseline: str = "noise") -> pd.DataFrame:
    """What other starts save against one, and where their metamers end.

    Args:
        table: of the task `starts`.

    Returns:
        pandas.DataFrame, one row per start but the baseline, model and stage: as `ratios`, and
        `distance` from the reference (median), `distance_change`, the median over images of the
        difference from the baseline's; `ssim` and `moved`, the distance from the start (medians);
        `control` and `recognised`, shares of images; `nearer`, whether metamers end clearly nearer
        to their references than those of the baseline (`NEARER` at the median); `cheaper`, whether
        they need clearly fewer evaluations.
    """
    found = ratios(table, baseline, by="start").set_index([*CELL, "start"])
    away = _by_image(table, "start", "distance")
    base = away.xs(baseline, level="start")
    change = (away - base.reindex(away.index.droplevel("start")).to_numpy()).median(axis=1)
    groups = table.groupby([*CELL, "start"], sort=False)
    ends = groups.agg(
        distance=("distance", "median"), moved=("distance_from_start", "median"),
        ssim=("ssim", "median"), control=("control", "mean"), recognised=("recognised", "mean"))
    found = found.join(ends).assign(distance_change=change)
    cheaper = (found["p"] < SIGNIFICANT) & (found["ratio"] < 1)
    return found.assign(nearer=found["distance_change"] < -NEARER, cheaper=cheaper).reset_index()


def cost_follows_distance(table: pd.DataFrame, baseline: str = "noise") -> dict[str, Any]:
    """Rank correlation over starts of median evaluations and median distance from the reference.

    The mean over models and stages, with its bootstrap interval over images. `cheaper` starts,
    counted over the `of` models and stages, need clearly fewer evaluations than noise; `near` of
    them end nearer to the reference, and `free` do not.
    """
    found: Any = against_noise(table, baseline)
    costs, away = (_by_image(table, "start", value) for value in ("evaluations", "distance"))
    starts, images = len(_distinct(table, ["start"])), costs.shape[1]
    values = np.stack([each.to_numpy().reshape(-1, starts, images) for each in (costs, away)])

    def statistic(values: np.ndarray, axis: int) -> np.ndarray:
        ranks = stats.rankdata(np.median(values, axis=axis), axis=2)  # (2, cells, starts, ...)
        centred = ranks - ranks.mean(2, keepdims=True)
        spread = np.sqrt((centred ** 2).sum(2).prod(0))
        return (centred.prod(0).sum(1) / np.where(spread, spread, 1)).mean(0)

    low, high = _interval(values, statistic, 1000)
    cheaper = found[found["cheaper"]]
    return {"estimate": float(statistic(values[..., None, :], axis=-1)[0]), "low": float(low),
            "high": float(high), "cheaper": len(cheaper), "near": int(cheaper["nearer"].sum()),
            "free": int((~cheaper["nearer"]).sum()), "starts": starts, "of": values.shape[1],
            **_sizes(table)}
