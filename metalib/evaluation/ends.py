"""Where descent ends: evaluations to the published match, and local minima.

    times_fewer(match, published)         # evaluations to the published match
    worth(match, published)               # published steps to a rule's own match
    by_start(minima)                      # how often a start ends clearly worse

Tables are those of the tasks of these names. A match is 20 log10 of the inverse of the loss, in dB.
Functions that return a dict serve claims, as in `metalib.evaluation.costs`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from metalib.evaluation.costs import CELL, DEFAULT, bootstrap_interval, distinct, sizes
from metalib.evaluation.intervals import mean_interval

CLOSE = 0.5  # dB; a match that is less than this below another counts as as good
SAME = 160.0  # dB, the highest match in the tables: the stored image is the reference itself
WORSE = 6.0  # dB; an end whose loss is twice another's is clearly worse


# --- The match at the end of the published procedure ---------------------------------------------

def times_fewer(
    match: pd.DataFrame, published: pd.DataFrame, rule: str = DEFAULT, *, resamples: int = 1000,
) -> pd.DataFrame:
    """How many times fewer evaluations a rule takes to the match that the published one ends with.

    Matches are those of images rounded to 8 bits. The number is that of the published evaluations
    over those after which the match of the median image (of all starts) is at least the median
    match at the published end, less `CLOSE`. A rule whose steps depend on how many there will be
    may be in the table with several numbers of `steps`; the one that gets there first counts.

    Args:
        match: of the task of that name: `model`, `stage`, `optimizer`, `seed`, `image`,
            `evaluations`, `match_db`, and `steps`, if there are several numbers of them.
        published: the same of the published procedure, without the columns `optimizer` and `seed`.

    Returns:
        pandas.DataFrame, one row per model and stage: `published_db` and `published_worst_db`,
        the median image and the worst at the published end; `identical`, whether the median image
        is the reference itself there; `published_evaluations`, after how many the published
        procedure is as close; `worst_db`, the worst image of the rule at its end (median over
        starts, of the best number of steps); `evaluations` (infinite if the match is not reached)
        and `times_fewer`, with its 95 % bootstrap interval over images, `low` and `high`. A
        `times_fewer` of 0 says that the match is not reached; `low` is 0 if that is so in more
        than one resample of 40.
    """
    ours, theirs, counts, their_counts = _matches(match, published, rule)
    ends, total = theirs[:, -1], int(their_counts[-1])
    needed = _needed(ours, ends, counts)
    low, high = bootstrap_interval(_joined(ours, ends), _fewer_by(ours, counts, total), resamples)
    at_end = np.median(ours[:, :, -1].min(axis=-1), axis=-1).max(axis=-1)
    return distinct(published, CELL).assign(
        published_db=np.median(ends, axis=-1), published_worst_db=ends.min(axis=-1),
        identical=np.median(ends, axis=-1) >= SAME,
        published_evaluations=_needed(theirs[:, None, :, None], ends, their_counts),
        worst_db=at_end, evaluations=needed, times_fewer=total / needed, low=low, high=high)


def _matches(
    match: pd.DataFrame, published: pd.DataFrame, rule: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Matches of a rule and of the published procedure, and the numbers of evaluations of both.

    These are (cells, budgets, T, starts, images) and (cells, U, images), (T,) and (U,), of the
    images that the published procedure had. A budget that is used up keeps its last match.
    """
    cells = pd.MultiIndex.from_frame(distinct(published, CELL))
    theirs = published.pivot(index=[*CELL, "image"], columns="evaluations", values="match_db")
    shown = match["image"].isin(list(set(published["image"])))
    ours = match[(match["optimizer"] == rule) & shown]
    ours = ours.assign(steps=ours["steps"] if "steps" in ours else 0)
    keys = [*CELL, "steps", "seed", "image"]
    ours = ours.pivot(index=keys, columns="evaluations", values="match_db").ffill(axis=1)

    def of_all(wide: Any) -> np.ndarray:
        levels = [wide.index.unique(key) for key in wide.index.names[len(CELL):]]
        wanted = [(*cell, *rest) for cell in cells for rest in pd.MultiIndex.from_product(levels)
                  ] if len(levels) > 1 else [(*cell, one) for cell in cells for one in levels[0]]
        values = wide.reindex(pd.MultiIndex.from_tuples(wanted)).to_numpy(float)
        return values.reshape(len(cells), *map(len, levels), -1)

    found, ends = of_all(ours), of_all(theirs).swapaxes(1, 2)
    if np.isnan(found).any() or np.isnan(ends).any() or found.shape[3] != ends.shape[2]:
        raise ValueError(f"the matches of {rule} and the published ones are not of the same "
                         "models, stages and images")
    return (np.moveaxis(found, -1, 2), ends, ours.columns.to_numpy(), theirs.columns.to_numpy())


def _needed(ours: np.ndarray, ends: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Evaluations to the published match: (cells, budgets, T, starts, ..., images) to (cells, ...).
    """
    typical = np.median(np.moveaxis(ours, 3, -2), axis=(-2, -1))
    goals = np.median(ends, axis=-1)[:, None] - CLOSE
    reached = typical.max(axis=1) >= goals  # by the budget that is best at that moment
    first = reached.argmax(axis=1)
    return np.where(reached.any(axis=1), counts[first], np.inf)


def _joined(ours: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Both in one array (everything else, cells, images), to be resampled together.

    `ends` are (cells, images), or (cells, U, images), the whole published course.
    """
    both = [each.reshape(len(each), -1, each.shape[-1]) for each in (ours, ends)]
    return np.concatenate(both, axis=1).swapaxes(0, 1)


def _apart(values: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What `_joined` gives, with resamples: (everything else + 1, cells, resamples, images)."""
    ours = values[:-1].swapaxes(0, 1)
    return ours.reshape(*shape[:-1], *values.shape[2:]), values[-1]


def _fewer_by(ours: np.ndarray, counts: np.ndarray, total: int) -> Callable[..., np.ndarray]:
    """A statistic of resamples of what `_joined` gives."""
    def statistic(values: np.ndarray, axis: int) -> np.ndarray:
        return total / _needed(*_apart(values, ours.shape), counts)

    return statistic


def share_fewer(
    match: pd.DataFrame, published: pd.DataFrame, rule: str = DEFAULT, least: float = 50,
) -> dict[str, Any]:
    """Share of stages at which a rule reaches the published match with `least` times fewer.

    Stages at which the published result is the reference itself, `identical`, are left out. Of
    the others, `count` of `of` do; at `clear` of them the whole interval of `times_fewer` lies
    above. `typical` is the median over stages, `lowest` the smallest, 0 if one does not get there;
    `beside_earliest` is the median of the published evaluations after which that procedure itself
    is as close, over those of the rule; `starts` are those of the rule.
    """
    found: Any = times_fewer(match, published, rule)
    kept = ~found["identical"].to_numpy()
    ours, theirs, counts, their_counts = _matches(match, published, rule)
    ours, ends = ours[kept], theirs[kept, -1]
    fewer_by = _fewer_by(ours, counts, int(their_counts[-1]))
    low, high = bootstrap_interval(
        _joined(ours, ends), lambda values, axis: (fewer_by(values, axis) >= least).mean(0), 1000)
    found = found[kept]
    enough = found["times_fewer"] >= least
    earliest = found["published_evaluations"] / found["evaluations"]
    return {"estimate": float(enough.mean()), "low": float(low), "high": float(high),
            "count": int(enough.sum()), "of": len(found), "identical": int((~kept).sum()),
            "clear": int((found["low"] >= least).sum()),
            "typical": float(found["times_fewer"].median()),
            "lowest": float(found["times_fewer"].min()),
            "beside_earliest": float(earliest.median()), "starts": ours.shape[3],
            **sizes(published)}


def unreached(
    match: pd.DataFrame, published: pd.DataFrame, rule: str = DEFAULT,
) -> dict[str, Any]:
    """Stages at which a rule does not reach the published match, and what rounding costs there.

    Returns:
        `stages`, their names with those of the models, those left out that are `identical`;
        `before` and `after`, the match of the median image at the end of all evaluations (dB,
        median over these stages) before and after rounding to 8 bits; NaN where there are none.
    """
    found: Any = times_fewer(match, published, rule, resamples=0)
    cells = found.loc[(found["times_fewer"] == 0) & ~found["identical"], CELL]
    last: Any = match[(match["optimizer"] == rule)
                      & (match["evaluations"] == match["evaluations"].max())]
    ends: Any = last.merge(cells).groupby(CELL)[["unrounded_db", "match_db"]].median().median()
    return {"stages": [f"{model}, {stage}" for model, stage in cells.itertuples(index=False)],
            "before": float(ends["unrounded_db"]), "after": float(ends["match_db"])}


def worth(
    match: pd.DataFrame, published: pd.DataFrame, rule: str = DEFAULT, *, resamples: int = 1000,
) -> pd.DataFrame:
    """How many published steps the evaluations of a rule are worth, whether or not it gets farther.

    That is the number of published steps after which the match of the median image is as close as
    after all evaluations of the rule, interpolated over the logarithm of steps; of a rule with
    several numbers of steps, the best. One that gets beyond the published end is worth all of it.

    Args:
        match, published, rule: as in `times_fewer`.

    Returns:
        A row per model and stage: `evaluations`, how many the rule has at most; `match_db` of its
        median image then; `steps`, the published ones; `times`, steps over evaluations, with its
        95 % bootstrap interval over images, `low` and `high`.
    """
    ours, joined, times = _worth(match, published, rule)
    low, high = bootstrap_interval(joined, times, resamples)
    found, most = times(joined[:, :, None], axis=-1)[:, 0], match["evaluations"].max()
    return distinct(published, CELL).assign(
        evaluations=most, match_db=np.median(ours, axis=(2, 3)).max(axis=1), steps=found * most,
        times=found, low=low, high=high)


def worth_in_all(
    match: pd.DataFrame, published: pd.DataFrame, rule: str = DEFAULT,
) -> dict[str, Any]:
    """The geometric mean of `worth` over stages and models, with an interval over images.

    Returns:
        `estimate`, `low`, `high`; `lowest` and `highest` of a stage; `evaluations` of the rule, and
        the numbers `of` stages, of `networks` and of `images`.
    """
    _, joined, times = _worth(match, published, rule)

    def mean(values: np.ndarray, axis: int) -> np.ndarray:
        return np.log(times(values, axis)).mean(0)

    low, high = np.exp(bootstrap_interval(joined, mean, 1000))
    single = times(joined[:, :, None], axis=-1)
    return {"estimate": float(np.exp(np.log(single).mean())), "low": float(low),
            "high": float(high), "lowest": float(single.min()),
            "highest": float(single.max()), "evaluations": int(max(match["evaluations"])),
            "of": len(single), **sizes(published)}


def _worth(
    match: pd.DataFrame, published: pd.DataFrame, rule: str,
) -> tuple[np.ndarray, np.ndarray, Callable[..., np.ndarray]]:
    """Matches of a rule at its end (cells, budgets, starts, images); these with the published ones
    in one array, to be resampled; and the function of that which gives `times`.
    """
    ours, theirs, counts, their_counts = _matches(match, published, rule)
    ours, logs = ours[:, :, -1], np.log(their_counts)

    def times(values: np.ndarray, axis: int) -> np.ndarray:
        mine, course = values[:-len(logs)].swapaxes(0, 1), values[-len(logs):]
        mine = mine.reshape(*ours.shape[:3], *values.shape[2:])
        mine = np.median(mine.swapaxes(2, -2), axis=(-2, -1)).max(axis=1)
        curves = np.maximum.accumulate(np.median(course, axis=-1), axis=0)
        steps = [np.interp(one, curve, logs) for one, curve in zip(
            mine.ravel(), curves.reshape(len(logs), -1).T)]
        return np.exp(np.reshape(steps, mine.shape)) / counts[-1]

    return ours, _joined(ours, theirs), times


def rival_to_match(
    match: pd.DataFrame, published: pd.DataFrame, baseline: str = DEFAULT,
) -> dict[str, Any]:
    """The rule that comes nearest to a baseline in evaluations to the published match, or below it.

    `estimate` is the geometric mean over stages of the rule's evaluations over the baseline's, with
    a bootstrap interval over images; a rule that does not get there counts with its last
    evaluation, at `unreached` stages and at `baseline_unreached`. Stages are those of
    `share_fewer`.
    """
    kept = ~times_fewer(match, published, baseline, resamples=0)["identical"].to_numpy()
    base, theirs, base_counts, _ = _matches(match, published, baseline)
    base, ends = base[kept], theirs[kept, -1]
    found = []
    for rule in match["optimizer"].unique():
        if rule != baseline:
            ours, _, counts, _ = _matches(match, published, rule)
            found.append((rule, *_against(ours[kept], counts, base, base_counts, ends)))
    rule, estimate, low, high, unreached, of_base = min(found, key=lambda each: each[1])
    return {"rule": rule, "estimate": estimate, "low": low, "high": high, "unreached": unreached,
            "baseline_unreached": of_base, "of": int(kept.sum()), **sizes(published)}


def _against(
    ours: np.ndarray, counts: np.ndarray, base: np.ndarray, base_counts: np.ndarray,
    ends: np.ndarray,
) -> tuple[float, float, float, int, int]:
    """The geometric mean of ratios to a baseline, its interval, and stages that neither reaches."""
    both = [each.reshape(len(each), -1, each.shape[-1]) for each in (ours, base)]
    joined = np.concatenate([*both, ends[:, None]], axis=1).swapaxes(0, 1)
    cut = both[0].shape[1]

    def needed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        last = values[-1:]
        return (_needed(*_apart(np.concatenate([values[:cut], last]), ours.shape), counts),
                _needed(*_apart(np.concatenate([values[cut:-1], last]), base.shape), base_counts))

    def statistic(values: np.ndarray, axis: int) -> np.ndarray:
        mine, its = needed(values)
        return np.log(mine.clip(max=counts[-1]) / its.clip(max=base_counts[-1])).mean(0)

    low, high = bootstrap_interval(joined, statistic, 1000)
    mine, its = (each[:, 0] for each in needed(joined[:, :, None]))
    estimate = statistic(joined[:, :, None], axis=-1)[0]
    return (float(np.exp(estimate)), float(np.exp(low)), float(np.exp(high)),
            int(np.isinf(mine).sum()), int(np.isinf(its).sum()))


# --- Local minima --------------------------------------------------------------------------------

def stuck(table: pd.DataFrame) -> pd.DataFrame:
    """Ends that are clearly worse than the best end from any start of the same kind.

    Args:
        table: of the task `minima`.

    Returns:
        the table with `behind`, how many dB the match, unrounded, is below the best one of the
        same model, stage, rule, kind of start and image; `worse`, whether that is at least
        `WORSE`, twice the loss; and `still`, whether descent has come to rest there: in the
        second half of the evaluations the match has gained less than half of what is missing.
    """
    best = table.groupby([*CELL, "optimizer", "start", "image"])["unrounded_db"].transform("max")
    behind = best - table["unrounded_db"]
    worse = behind >= WORSE
    gained = table["unrounded_db"] - table["half_db"]
    return table.assign(behind=behind, worse=worse, still=worse & (gained < behind / 2))


def by_start(table: pd.DataFrame) -> pd.DataFrame:
    """How often a start ends clearly worse, by rule and kind of start, see `stuck`.

    Returns:
        pandas.DataFrame, one row per rule and kind of start: shares of starts that end clearly
        `worse`, with the interval `low` to `high` over networks and images, and that rest there,
        `still`; `best_db` and `worst_db`, medians over networks, stages and images of the best and
        the worst end; `distance` from the reference (median).
    """
    rows = []
    groups: Any = stuck(table).groupby(["optimizer", "start"], sort=False)
    for (rule, start), some in groups:
        shares = some.pivot_table(index="model", columns="image", values="worse", aggfunc="mean")
        share, low, high = mean_interval(shares.to_numpy())
        ends: Any = some.groupby([*CELL, "image"])["unrounded_db"].agg(["max", "min"]).median()
        rows.append({"optimizer": rule, "start": start, "worse": share, "low": max(low, 0.0),
                     "high": min(high, 1.0), "still": some["still"].mean(), "best_db": ends["max"],
                     "worst_db": ends["min"], "distance": some["distance"].median()})
    return pd.DataFrame(rows)


def share_worse(table: pd.DataFrame, rule: str = DEFAULT, start: str = "noise") -> dict[str, Any]:
    """How often a start of one kind ends clearly worse than the best of its kind, see `stuck`."""
    some: Any = table[(table["optimizer"] == rule) & (table["start"] == start)]
    found = by_start(some).iloc[0]
    return {"estimate": float(found["worse"]), "low": float(found["low"]),
            "high": float(found["high"]), "still": float(found["still"]),
            "starts": some["seed"].nunique(), "of": len(distinct(some, CELL)), **sizes(some)}


def near_avoids(
    table: pd.DataFrame, near: str, rule: str = DEFAULT, start: str = "noise",
) -> dict[str, Any]:
    """Share of starts from noise that end clearly worse, less that of starts nearer by.

    Positive if starts near the reference avoid bad ends. Networks and images are random factors.
    """
    rows: Any = table[table["optimizer"] == rule]
    marked = stuck(rows)
    shares: Any = marked.pivot_table(
        index=["model", "start"], columns="image", values="worse", aggfunc="mean")
    less = shares.xs(start, level="start") - shares.xs(near, level="start")
    estimate, low, high = mean_interval(less.to_numpy())
    return {"estimate": estimate, "low": low, "high": high, "near": near,
            "starts": marked["seed"].nunique(), "of": len(distinct(marked, CELL)),
            **sizes(marked)}
