"""What metamers cost: comparisons of tables of gradient evaluations, image by image.

    ratios(criterion)                     # of every rule to the default, by network and stage
    summary(ratios(criterion))            # over the stages
    against_noise(starts)                 # what other starts save, and where they end

Tables are those of `metalib.tasks`. An image that never passed counts with its last evaluation, so
that a ratio is too small where a rule failed; such images are counted as `failed`. What tells one
network and stage is resampled over images only, and speaks for that network.

Functions that return a dict serve claims: `estimate`, its 95 % interval `low` to `high`, and the
numbers with which a sentence is worded. Where they average over networks and images, both are
random factors (`metalib.evaluation.intervals`); where there are few networks, images only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from metalib.evaluation.corrections import corrected, warn_of_floors
from metalib.evaluation.intervals import mean_interval
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
    low, high = bootstrap_interval(logs.to_numpy(), _medians, resamples)
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
    order = pd.MultiIndex.from_frame(distinct(table, [*CELL, by]))
    return wide.reindex(order).astype(float)


def distinct(table: pd.DataFrame, keys: list[str]) -> Any:
    """The combinations of values in some columns, in the order of the table."""
    return table[keys].drop_duplicates().reset_index(drop=True)


def _signed_rank(values: np.ndarray) -> float:
    """p of Wilcoxon's signed-rank test, two-sided; 1 where all values are 0."""
    found: Any = stats.wilcoxon(values) if values.any() else None
    return float(found.pvalue) if found else 1.0


def _medians(values: np.ndarray, axis: int) -> np.ndarray:
    return np.median(values, axis=axis)


def bootstrap_interval(
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


def in_seconds(
    table: pd.DataFrame, steps: pd.DataFrame, baseline: str = DEFAULT,
) -> pd.DataFrame:
    """Ratios to a baseline in evaluations, in seconds of one evaluation, and in seconds to the end.

    Args:
        table: as in `ratios`.
        steps: seconds of an evaluation of a batch: `model`, `stage`, `optimizer`, `seconds`.
        baseline: the rule with which the others are compared.

    Returns:
        pandas.DataFrame, one row per rule in both tables but the baseline: `evaluations`, the
        geometric mean over networks, stages and images with `low` and `high`; `a step`, the
        geometric mean over the models and stages that were timed, and its range, `a step, lowest`
        and `a step, highest`; `seconds`, the product of the two means.
    """
    wide = steps.pivot(index=CELL, columns="optimizer", values="seconds")
    over: Any = wide.div(wide[baseline], axis=0)
    rows = []
    for rule in over.columns.drop(baseline).intersection(table["optimizer"].unique()):
        found, step = typical_ratio(table, rule, baseline), np.exp(np.log(over[rule]).mean())
        rows.append({"optimizer": rule, "evaluations": found["estimate"], "low": found["low"],
                     "high": found["high"], "a step": step, "a step, lowest": over[rule].min(),
                     "a step, highest": over[rule].max(), "seconds": found["estimate"] * step})
    return pd.DataFrame(rows).sort_values("seconds", ignore_index=True)


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
    return {**_estimate(its, lambda medians: medians.min(0)), **sizes(table),
            "highest": float(tested["ratio"].max()), "of": len(tested),
            "count": int((tested["ratio"] >= least).sum()),
            "clear": int(((tested["p"] < SIGNIFICANT) & (tested["ratio"] > 1)).sum())}


def typical_ratio(
    table: pd.DataFrame, rule: str, baseline: str = DEFAULT,
) -> dict[str, Any]:
    """The geometric mean of a rule's ratios over networks, stages and images.

    Its interval takes networks and images as random factors. `more` and `fewer` are the stages at
    which the corrected test says so; `of` is their number.
    """
    logs: Any = log_ratios(table, baseline, "optimizer")
    over: Any = summary(_tested(table, logs, baseline)).loc[rule]
    ends = mean_interval(_by_network(logs, rule))
    return {**dict(zip(("estimate", "low", "high"), np.exp(ends).tolist())), **sizes(table),
            "rule": rule, **{name: float(over[name]) for name in ("lowest", "highest")},
            **{name: int(over[name]) for name in ("more", "fewer", "of")}}


def strongest_rival(table: pd.DataFrame, baseline: str = DEFAULT) -> dict[str, Any]:
    """`typical_ratio` of the rule that comes nearest to the baseline, `rule`, or goes below it.

    It is chosen by the same images, which favours it.
    """
    logs: Any = log_ratios(table, baseline, "optimizer")
    rules = list(logs.index.unique("optimizer"))
    return typical_ratio(
        table, min(rules, key=lambda rule: _by_network(logs, rule).mean()), baseline)


def _by_network(logs: Any, rule: str) -> np.ndarray:
    """Logarithms of a rule's ratios (networks, images), means over stages."""
    return logs.xs(rule, level="optimizer").groupby(level="model", sort=False).mean().to_numpy()


def _estimate(
    logs: np.ndarray, over: Callable[[np.ndarray], np.ndarray], resamples: int = 1000,
) -> dict[str, float]:
    """A statistic of median ratios and its interval; images are the last axis of `logs`."""
    def statistic(values: np.ndarray, axis: int) -> np.ndarray:
        return over(np.median(values, axis=axis))

    estimate = statistic(logs[..., None, :], axis=-1)[0]
    values = np.exp([estimate, *bootstrap_interval(logs, statistic, resamples)])
    return dict(zip(("estimate", "low", "high"), values.tolist()))


def sizes(table: pd.DataFrame) -> dict[str, int]:
    return {name: len(distinct(table, [key])) for name, key in
            (("networks", "model"), ("images", "image"))}


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
    """Rank correlation over starts of evaluations and distance from the reference, image by image.

    The mean over images, stages and networks, with networks and images as random factors.
    `cheaper` starts, counted over the `of` models and stages, need clearly fewer evaluations than
    noise; `near` of them end nearer to the reference, and `free` do not.
    """
    found: Any = against_noise(table, baseline)
    costs, away = (_by_image(table, "start", value) for value in ("evaluations", "distance"))
    starts, images = len(distinct(table, ["start"])), costs.shape[1]
    ranks = stats.rankdata(np.stack([
        each.to_numpy().reshape(-1, starts, images) for each in (costs, away)]), axis=2)
    ranks -= ranks.mean(2, keepdims=True)
    spread = np.sqrt((ranks ** 2).sum(2).prod(0))
    correlations = ranks.prod(0).sum(1) / np.where(spread, spread, 1)  # (cells, images)
    cells = distinct(table, CELL)
    of_networks: Any = pd.DataFrame(correlations).groupby(cells["model"], sort=False).mean()
    estimate, low, high = mean_interval(of_networks.to_numpy())
    cheaper = found[found["cheaper"]]
    return {"estimate": estimate, "low": low, "high": high,
            "cheaper": len(cheaper), "near": int(cheaper["nearer"].sum()),
            "free": int((~cheaper["nearer"]).sum()), "starts": starts, "of": len(cells),
            **sizes(table)}
