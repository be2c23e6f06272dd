"""What participants recognise, with participants and images as samples; people beside networks.

    accuracy(table)                     # by condition, with intervals
    contrasts(table)                    # conditions against the natural images
    agreement(people, networks)         # by condition and image, below a ceiling
    error_consistency(people, networks) # are the same images mistaken?

Tables are those of `metalib.people.read` and `take`. A participant sees an image in one condition
only, so that designs are crossed but not complete. Variances are robust to what answers of one
participant share, and answers to one image (Cameron, Gelbach & Miller 2011,
doi:10.1198/jbes.2010.07136).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

from metalib.evaluation.corrections import corrected

NEEDED = ("observer", "condition", "image")
ONE = 1 - 1e-9  # the largest correlation on Fisher's scale


def accuracy(
    table: pd.DataFrame, *, by: str = "condition", value: str = "recognised", level: float = 0.95,
) -> pd.DataFrame:
    """The share of right answers by condition, with an interval over participants and images.

    Args:
        table: rows of answers.
        by: the column whose values are told apart.
        value: a column of truth values, such as "recognised"; missing ones are left out.
        level: of the intervals, which are symmetric on the logit scale, with Student's t and as
            many degrees of freedom as there are participants or images, whichever are fewer, less
            one. Where all answers are right, or none is, they are Clopper and Pearson's of that
            many independent ones.

    Returns:
        A row for each value of `by`: `accuracy`, `low`, `high`, `error` (the standard error),
        `participants`, `images`, `trials`.

    Raises:
        ValueError: a column that is missing, or fewer than two participants or images.
    """
    rows = _checked(table, by, value)
    found = {}
    for name, part in rows.groupby(by, sort=False):
        answers, groups = _answers(part, value)
        people, images, mean = *_numbers(groups), float(answers.mean())
        error = _error((answers - mean) / len(answers), groups)
        low, high = _limits(mean, error, min(people, images), level)
        found[name] = {"accuracy": mean, "low": low, "high": high, "error": error,
                       "participants": people, "images": images, "trials": len(answers)}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis(by)


def contrasts(
    table: pd.DataFrame, *, against: str = "natural", by: str = "condition",
    value: str = "recognised", level: float = 0.95, correction: str = "holm",
) -> pd.DataFrame:
    """Differences of accuracy between each condition and one of them.

    Args:
        table, by, value, level: as in `accuracy`.
        against: the condition that is subtracted.
        correction: for several contrasts, as in `metalib.evaluation.corrections.corrected`.

    Returns:
        A row for each other condition: `difference`, `low`, `high`, `error`, `p` (two-sided) and
        `p_corrected`.

    Raises:
        ValueError: as `accuracy`, or a condition that is not there.
    """
    rows = _checked(table, by, value)
    parts = dict(iter(rows.groupby(by, sort=False)))
    if against not in parts:
        raise ValueError(f"{by} has no {against!r}; there are {', '.join(map(str, parts))}")
    found = {}
    for name, part in parts.items():
        if name == against:
            continue
        both = pd.concat([part, parts[against]])
        answers, groups = _answers(both, value)
        ours = np.arange(len(both)) < len(part)
        means = answers[ours].mean(), answers[~ours].mean()
        influence = np.where(ours, (answers - means[0]) / ours.sum(),
                             (means[1] - answers) / (~ours).sum())
        error, difference = _error(influence, groups), float(means[0] - means[1])
        freedom = min(_numbers(groups)) - 1
        wide = stats.t.ppf((1 + level) / 2, freedom) * error
        p = 2 * stats.t.sf(abs(difference) / error, freedom) if error else float(not difference)
        found[name] = {"difference": difference, "low": difference - wide,
                       "high": difference + wide, "error": error, "p": p}
    result = pd.DataFrame.from_dict(found, orient="index").rename_axis(by)
    return result.assign(p_corrected=corrected(result["p"], correction) if len(result) else [])


def reliability(
    table: pd.DataFrame, *, by: Sequence[str] = ("condition", "image"), value: str = "recognised",
    splits: int = 200, seed: int = 0,
) -> float:
    """How well the scores of all participants would correlate with those of as many others.

    Participants are split in two halves at random; scores are the shares of right answers; the
    correlation of two halves is corrected to the whole (Spearman 1910; Brown 1910), and averaged.

    Args:
        table, value: as in `accuracy`.
        by: columns whose combinations have a score, ("condition",) or ("condition", "image").
        splits, seed: how many random splits, and of their draw.

    Returns:
        The reliability; NaN where no half has two different scores.
    """
    rows = _checked(table, by[0], value)
    scores = Scores.of(rows, list(by), value, "observer")
    people, random, found = len(scores.sums), np.random.default_rng(seed), []
    for _ in range(splits):
        half = random.permutation(people) < people // 2
        r = _correlation(scores.shares(half), scores.shares(~half))
        found.append(2 * r / (1 + r) if r > -1 else float("nan"))
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def agreement(
    people: pd.DataFrame, networks: pd.DataFrame, *, by: Sequence[str] = ("condition", "image"),
    value: str = "recognised", level: float = 0.95, splits: int = 200, seed: int = 0,
) -> pd.DataFrame:
    """Correlations of what people and networks recognise, by condition or by image.

    Args:
        people, networks: rows of answers; only what both were shown counts.
        by: as in `reliability`.
        value: as in `accuracy`.
        level: of the intervals, for as many other participants and images: symmetric on Fisher's
            scale, with the jackknife's variances over participants and over images, less that over
            single answers, which is in both.
        splits, seed: as in `reliability`.

    Returns:
        A row for each network, and one called "panel" for the mean of several: `correlation`
        (Pearson), `low`, `high`, `ceiling` (the square root of people's reliability, which a
        network can reach that knows their mean), `share` (of the ceiling), `scores` (how many are
        compared).

    Raises:
        ValueError: as `accuracy`, or nothing that both were shown.
    """
    by = list(by)
    rows, theirs = _checked(people, by[0], value), _checked_columns(networks, by[0], value)
    keys = list(dict.fromkeys([*by, "image"]))
    theirs = theirs.merge(rows[keys].drop_duplicates(), on=keys)
    if theirs.empty:
        raise ValueError(f"people and networks have no {' and '.join(keys)} in common")
    rows = rows.merge(theirs[keys].drop_duplicates(), on=keys)
    ceiling = max(reliability(rows, by=by, value=value, splits=splits, seed=seed), 0.0) ** 0.5
    units, images = (pd.MultiIndex.from_frame(rows[names]).unique() for names in (by, ["image"]))
    persons = Scores.of(rows, by, value, "observer", units)
    pictures = Scores.of(rows, by, value, "image", units, images)
    parts = dict(iter(theirs.groupby("observer", sort=False)))
    if len(parts) > 1:
        parts["panel"] = theirs
    found = {}
    for name, part in parts.items():
        network = Scores.of(part, by, value, "image", units, images)
        r = _correlation(persons.shares(), network.shares())
        without = [[_correlation(persons.without(k), network.shares())
                    for k in range(len(persons.sums))],
                   [_correlation(pictures.without(k), network.without(k))
                    for k in range(len(pictures.sums))]]
        first, second = (_jackknifed(np.arctanh(np.clip(one, -ONE, ONE))) for one in without)
        single = _of_answers(persons, network.shares()) / max(1 - r ** 2, 1 - ONE) ** 2
        error = max(first + second - single, first, second) ** 0.5
        wide = stats.t.ppf((1 + level) / 2, min(map(len, without)) - 1) * error
        low, high = np.tanh(np.arctanh(np.clip(r, -ONE, ONE)) + np.array([-wide, wide]))
        found[name] = {"correlation": r, "low": low, "high": high, "ceiling": ceiling,
                       "share": r / ceiling if ceiling else float("nan"),
                       "scores": int(np.isfinite(network.shares()).sum())}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("network")


def error_consistency(
    people: pd.DataFrame, networks: pd.DataFrame, *, value: str = "recognised",
    level: float = 0.95,
) -> pd.DataFrame:
    """Whether people and networks mistake the same images: Cohen's kappa, by condition.

    Geirhos, Meding & Wichmann 2020 (arXiv:2006.16736). For each network and participant, kappa is
    that of their right and wrong answers to the same images in the same condition.

    Args:
        people, networks, value: as in `agreement`.
        level: of the intervals, over participants.

    Returns:
        A row for each network and condition: `kappa`, the mean over participants, `low`, `high`,
        `participants` (those for whom it is defined).
    """
    rows = _checked(people, "condition", value)
    theirs = _checked_columns(networks, "condition", value)
    both = rows.merge(theirs[["observer", "condition", "image", value]],
                      on=["condition", "image"], suffixes=("", "_network"))
    both = both.assign(a=both[value].astype(float), b=both[f"{value}_network"].astype(float))
    both = both.assign(same=(both["a"] == both["b"]).astype(float))
    grouped = both.groupby(["observer_network", "condition", "observer"], sort=False)
    mean: Any = grouped[["a", "b", "same"]].mean()
    chance = mean["a"] * mean["b"] + (1 - mean["a"]) * (1 - mean["b"])
    kappa = ((mean["same"] - chance) / (1 - chance)).where(chance < 1)
    found = kappa.groupby(level=[0, 1], sort=False).agg(["mean", "sem", "count"])
    wide = stats.t.ppf((1 + level) / 2, (found["count"] - 1).clip(lower=1)) * found["sem"]
    result = pd.DataFrame({"kappa": found["mean"], "low": found["mean"] - wide,
                           "high": found["mean"] + wide, "participants": found["count"]})
    return result.rename_axis(["network", "condition"])


# --- Tables ---------------------------------------------------------------------------------------

def _checked_columns(table: pd.DataFrame, by: str, value: str) -> Any:
    if missing := [name for name in dict.fromkeys([*NEEDED, by, value]) if name not in table]:
        raise ValueError(f"the table has no column {', '.join(missing)}; it is one of "
                         "metalib.people.read or take")
    return table[table[value].notna()]


def _checked(table: pd.DataFrame, by: str, value: str) -> Any:
    """The rows that have a value.

    Raises:
        ValueError: columns are missing, or there are too few participants or images.
    """
    rows = _checked_columns(table, by, value)
    for column, what in (("observer", "participants"), ("image", "images")):
        if rows[column].nunique() < 2:
            raise ValueError(f"there are {rows[column].nunique()} {what} with an answer; nothing "
                             "can be said about others from fewer than two")
    return rows


def _answers(rows: Any, value: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Values as numbers (n,), and codes (n,) of participants and images."""
    return rows[value].to_numpy(float), [pd.factorize(rows[name])[0]
                                         for name in ("observer", "image")]


def _numbers(groups: Sequence[np.ndarray]) -> list[int]:
    return [int(codes.max()) + 1 for codes in groups]


# --- Errors and intervals -------------------------------------------------------------------------

def _error(influence: np.ndarray, groups: Sequence[np.ndarray]) -> float:
    """The standard error of a mean, or difference of means, clustered by two groups at once.

    Args:
        influence: (n,), what each answer adds to the estimate, about zero.
        groups: two arrays (n,) of codes.
    """
    pairs = pd.factorize(pd.MultiIndex.from_arrays(groups))[0]
    first, second, both = (_clustered(influence, codes) for codes in (*groups, pairs))
    # the sum is below the larger of its parts, or negative, where there is little of one of them
    return float(max(first + second - both, first, second)) ** 0.5


def _clustered(influence: np.ndarray, codes: np.ndarray) -> float:
    sums = np.bincount(codes, influence)
    return float((sums ** 2).sum() * len(sums) / max(len(sums) - 1, 1))


def _limits(mean: float, error: float, count: int, level: float) -> tuple[float, float]:
    """The interval of a share, from its standard error and the number of independent units."""
    tail = (1 - level) / 2
    if mean in (0, 1) or not error:
        hits = mean * count
        low = stats.beta.ppf(tail, hits, count - hits + 1) if hits else 0.0
        high = stats.beta.isf(tail, hits + 1, count - hits) if hits < count else 1.0
        return float(low), float(high)
    wide = stats.t.isf(tail, count - 1) * error / (mean * (1 - mean))
    low, high = special.expit(special.logit(mean) + np.array([-wide, wide]))
    return float(low), float(high)


# --- Scores ---------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Scores:
    """Right answers and answers by group (participant or image) and unit (what has a score).

    Attributes:
        sums, counts: (groups, units).
    """

    sums: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(
        rows: Any, by: list[str], value: str, group: str, units: Any = None, groups: Any = None,
    ) -> "Scores":
        """Those of a table, for units and groups in a given order, or in that of the table."""
        keys = [pd.MultiIndex.from_frame(rows[names]) for names in ([group], by)]
        groups, units = (key.unique() if known is None else known
                         for key, known in zip(keys, (groups, units)))
        where = groups.get_indexer(keys[0]) * len(units) + units.get_indexer(keys[1])
        shape = len(groups), len(units)
        sums, counts = (np.bincount(where, weights, shape[0] * shape[1]).reshape(shape)
                        for weights in (rows[value].to_numpy(float), np.ones(len(rows))))
        return Scores(sums, counts)

    def shares(self, some: Any = slice(None)) -> np.ndarray:
        """Shares of right answers (units,), of some groups; NaN where there are no answers."""
        return _divided(self.sums[some].sum(0), self.counts[some].sum(0))

    def without(self, group: int) -> np.ndarray:
        """Those of all groups but one."""
        return _divided(self.sums.sum(0) - self.sums[group],
                        self.counts.sum(0) - self.counts[group])


def _divided(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _of_answers(scores: Scores, other: np.ndarray) -> float:
    """The variance of a correlation from single answers, by its derivative to each of them."""
    share = scores.shares()
    there = np.isfinite(share) & np.isfinite(other)
    a, b = (x[there] - x[there].mean() for x in (share, other))
    scale = ((a @ a) * (b @ b)) ** 0.5
    if there.sum() < 2 or scale < 1e-12:
        return float("nan")
    slope = (b - a * (a @ b) / (a @ a)) / scale
    right, count = scores.sums.sum(0)[there], scores.counts.sum(0)[there]
    squares = right * (1 - share[there]) ** 2 + (count - right) * share[there] ** 2
    return float((slope ** 2 * squares / count ** 2).sum())


def _jackknifed(values: np.ndarray) -> float:
    """The variance of an estimate from its values without each of its units."""
    known = values[np.isfinite(values)]
    return float((len(known) - 1) * known.var()) if len(known) else float("nan")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of what is there in both; NaN where one does not vary."""
    there = np.isfinite(a) & np.isfinite(b)
    if there.sum() < 2:
        return float("nan")
    a, b = a[there] - a[there].mean(), b[there] - b[there].mean()
    scale = ((a @ a) * (b @ b)) ** 0.5
    return float(a @ b / scale) if scale > 1e-12 else float("nan")
