"""Statistics of tables that cross generators, observers and images.

Each row has one generator, one observer and one image, each a sample of a larger population.

    means(table, ["relation"], value="agrees")             # intervals resample all three factors
    differences(table, "relation", [("other training", "other architecture")], value="agrees")
    matrix(table, "agrees")                                # generators x observers

Tables have the columns `generator`, `observer` and `image`. Leave out rows that do not count before
you pass a table. Rows that share a model or an image are not independent; resampling rows would
treat them as if they were (Clark 1973, doi:10.1016/S0022-5371(73)80014-3).
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

FACTORS = ("generator", "observer", "image")


def means(
    table: pd.DataFrame, by: str | Sequence[str], *, value: str = "agrees", resamples: int = 2000,
    level: float = 0.95, seed: int = 0,
) -> pd.DataFrame:
    """Means by group, with intervals that hold for other models and images of the same kind.

    A bootstrap of crossed random effects. A value is the mean of its group plus effects of its
    generator, of its observer, of its image and of each pair of these. If the table has a column
    `stage`, each stage has its own effects. Effects are estimated by least squares and scaled by
    their degrees of freedom. Resamples draw each kind of effect with replacement.

    The interval is the mean plus and minus Student's t times the standard deviation over resamples.
    Its degrees of freedom are those of generators or of observers, whichever are fewer: with few
    models, percentiles are too narrow. Effects are assumed to have the same spread in all groups.
    Intervals of booleans are cut at 0 and 1.

    The pigeonhole bootstrap (Owen 2007, doi:10.1214/07-AOAS122) weights a row by the product of how
    often its generator, observer and image were drawn. Its intervals are up to several times too
    wide for `differences` between groups that share models. No scheme is exact (McCullagh 2000,
    doi:10.2307/3318577).

    Args:
        table: a table with a column for each of `FACTORS`.
        by: the column or columns that define the groups; [] makes all rows one group.
        value: the column to average, numbers or booleans; rows without a value do not count.
        resamples: the number of resamples.
        level: the level of the intervals.
        seed: the seed of the resamples.

    Returns:
        One row per group, in the order of the table: the columns of `by`; `mean`, `low` and `high`;
        and the numbers of `generators`, `observers`, `images` and `rows`. `low` and `high` are
        missing where a group has fewer than two generators, observers or images.

    Raises:
        ValueError: a column that the table lacks, no row with a value, or fewer than two resamples.

    Example:
        >>> table = pd.DataFrame({"generator": list("aabb") * 2, "observer": list("cdcd") * 2,
        ...                       "image": [0] * 4 + [1] * 4, "agrees": [1, 0, 1, 1, 1, 0, 1, 1]})
        >>> float(means(table, [])["mean"].iloc[0])
        0.75
    """
    by = [by] if isinstance(by, str) else list(by)
    boolean = value in table and table[value].dtype in (bool, "boolean")
    table, groups, group = _grouped(table, by, value)
    point, draws, freedom = _resampled(table, group, len(groups), value, resamples, seed)
    low, high = _interval(point, draws, freedom, level)
    if boolean:
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    single = (groups[["generators", "observers", "images"]] < 2).any(axis=1).to_numpy()
    for place, (name, column) in enumerate((("mean", point), ("low", low), ("high", high))):
        groups.insert(len(by) + place, name, np.where(single & (name != "mean"), np.nan, column))
    return groups


def differences(
    table: pd.DataFrame, by: str, pairs: Sequence[tuple[Any, Any]], *, value: str = "agrees",
    resamples: int = 2000, level: float = 0.95, seed: int = 0,
) -> pd.DataFrame:
    """Differences between the means of groups.

    Both means come from the same resamples, so effects that two groups share do not widen the
    interval.

    Args:
        table, value, resamples, level, seed: as in `means`.
        by: the column that defines the groups.
        pairs: pairs of groups; the mean of the second is subtracted from that of the first.

    Returns:
        One row per pair: `first`, `second`, `difference`, `low`, `high` and `empty`. `empty` names
        the groups without rows; if there are any, the numbers are missing. Intervals are as in
        `means`, with the smaller degrees of freedom of the two groups.

    Raises:
        ValueError: as in `means`; or two groups have rows of the same generator, observer and image
            (and stage), whose effects would cancel.
    """
    table, groups, group = _grouped(table, [by], value)
    cells: Any = pd.DataFrame({"group": group}).groupby(
        [table[name].to_numpy() for name in (*FACTORS, "stage") if name in table])
    if (cells["group"].nunique() > 1).any():
        raise ValueError(f"groups of {by} have rows of the same generator, observer and image; "
                         "subtract these rows first, and take `means` of the differences")
    point, draws, freedom = _resampled(table, group, len(groups), value, resamples, seed)
    number = {name: place for place, name in enumerate(groups[by])}
    rows = []
    for first, second in pairs:
        empty = [name for name in (first, second) if name not in number]
        a, b = number.get(first), number.get(second)
        difference, low, high = [np.nan] * 3 if empty else [float(np.squeeze(x)) for x in (
            point[a] - point[b],
            *_interval(point[a] - point[b], draws[:, a] - draws[:, b],
                       min(freedom[a], freedom[b]), level))]
        rows.append((first, second, difference, low, high, ", ".join(empty)))
    return pd.DataFrame(rows, columns=["first", "second", "difference", "low", "high", "empty"])


def resampled_means(values: Any, *, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Means of a matrix of two crossed factors, with its rows and its columns resampled.

    Matrices of one shape get the same rows and columns, so the difference of two results is paired.
    An interval from these means is somewhat too wide with many rows and columns (Owen 2007,
    doi:10.1214/07-AOAS122) and too narrow with few.

    Args:
        values: a matrix (R, C) of numbers, none missing, such as draws of members by images.
        resamples: the number of resamples.
        seed: the seed of the resamples.

    Returns:
        The mean (resamples,) of each resample.

    Raises:
        ValueError: a matrix that is empty or has missing values.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or not values.size or np.isnan(values).any():
        raise ValueError("a matrix of numbers is needed, none missing; this array has shape "
                         f"{values.shape} and {np.isnan(values).sum()} missing values")
    rng = np.random.default_rng(seed)
    rows, columns = (_weights(count, resamples, rng) for count in values.shape)
    return (rows @ values * columns).sum(1) / values.size


def matrix(table: pd.DataFrame, value: str = "agrees") -> pd.DataFrame:
    """Means by generator (rows) and observer (columns), in the order of the table.

    Missing where a pair has no value.

    Raises:
        ValueError: a column that the table lacks.
    """
    _check(table, [value])
    cells = table.assign(value=_numbers(table[value])).pivot_table(
        "value", "generator", "observer", sort=False)
    return cells.reindex(index=table["generator"].unique(), columns=table["observer"].unique())


def asymmetry(
    table: pd.DataFrame, *, value: str = "agrees", resamples: int = 1000, level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Do A's metamers work for B where B's work for A?

    Compares the two directions over all pairs of models that are both generators and observers.
    Intervals are percentiles over resamples of images and of models, each model in both roles.

    Args:
        table, value, resamples, level, seed: as in `means`.

    Returns:
        A table with the columns `estimate`, `low` and `high` and three rows. `correlation` is
        Pearson's correlation of the value from A to B with that from B to A. `reciprocity` is the
        same after the means of generators and of observers are removed, so that a model that works
        for all others does not count. `difference` is the mean absolute difference, in units of the
        value.

    Raises:
        ValueError: a column that the table lacks, or fewer than three models that are both.
    """
    cells = _Cells(table, value, shared=True)
    models, first, second = len(cells.models), cells.first, cells.second
    if models < 3:
        raise ValueError("asymmetry needs at least three models that are both generators and "
                         f"observers, not {models}")
    place = {pair: k for k, pair in enumerate(zip(first, second))}
    back = np.array([place.get((b, a), -1) for a, b in zip(first, second)])
    both = back >= 0

    def statistic(values, weights):
        weights = weights * both * np.isfinite(values) * np.isfinite(values[:, back])
        values = np.where(weights > 0, values, 0)
        residuals = _additive(values, weights, cells)[0]
        gap = np.abs(values - values[:, back])
        return np.stack([
            _correlation(values, values[:, back], weights),
            _correlation(residuals, residuals[:, back], weights),
            (weights * gap).sum(1) / weights.sum(1)], 1)

    return _percentiles(statistic, cells, ["correlation", "reciprocity", "difference"], resamples,
                        level, seed)


def variance_explained(
    table: pd.DataFrame, *, value: str = "agrees", resamples: int = 1000, level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Shares of the variance between pairs of models that generators and observers explain.

    Metamers shown to their own generator are left out. The share of a factor is what the additive
    model of generators and observers explains beyond the model without that factor. The rest is
    specific to pairs, or noise. Intervals are percentiles over resamples of generators, observers
    and images. With few models, shares are biased upwards.

    Args:
        table, value, resamples, level, seed: as in `means`.

    Returns:
        A table with the columns `estimate`, `low` and `high` and the rows `generator`, `observer`
        and `rest`.

    Raises:
        ValueError: a column that the table lacks, or no value for two different models.
    """
    cells = _Cells(table, value, shared=False)

    def statistic(values, weights):
        weights = weights * np.isfinite(values)
        values = np.where(weights > 0, values, 0)
        centre = (weights * values).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            total = (weights * (values - centre) ** 2).sum(1)
            total = np.where(total > 1e-9 * weights.sum(1), total, np.nan)  # nothing to explain
            left = [(weights * _additive(values, weights, cells, roles)[0] ** 2).sum(1) / total
                    for roles in ("go", "o", "g")]
        return np.stack([left[1] - left[0], left[2] - left[0], left[0]], 1)

    return _percentiles(statistic, cells, ["generator", "observer", "rest"], resamples, level, seed)


def correlation(
    table: pd.DataFrame, x: str, y: str, *, clusters: str, given: str | None = None,
    within: str | Sequence[str] | None = None, method: str = "spearman", resamples: int = 2000,
    level: float = 0.95, seed: int = 0,
) -> dict[str, float]:
    """Correlation of two columns, with an interval that resamples clusters of rows, not rows.

    Args:
        table: any table; rows without x or y are left out.
        x, y: the two columns.
        clusters: the column of clusters, which are drawn with replacement, with all of their rows.
        given: a column whose linear effect is removed from both: a partial correlation. For
            Spearman, all three are ranks.
        within: a column or columns of groups, whose means are removed: a correlation within groups.
        method: "spearman" or "pearson".
        resamples, level, seed: as in `means`; intervals are percentiles.

    Returns:
        `estimate`, `low`, `high`, and the numbers of `rows` and of `clusters`.

    Raises:
        ValueError: unknown columns or method, or fewer than two clusters.

    Example:
        >>> table = pd.DataFrame({"model": list("aabbcc"), "x": range(6), "y": [0, 1, 2, 3, 5, 4]})
        >>> round(correlation(table, "x", "y", clusters="model", resamples=10)["estimate"], 3)
        0.943
    """
    within = [within] if isinstance(within, str) else list(within or [])
    _check(table, [x, y, clusters, *([given] if given else []), *within], ())
    if method not in ("spearman", "pearson"):
        raise ValueError(f"unknown method {method!r}; choose spearman or pearson")
    table = table.dropna(subset=[x, y])
    columns = table[[x, y, *([given] if given else [])]].to_numpy(float)
    group = (table.groupby(within, sort=False).ngroup().to_numpy() if within
             else np.zeros(len(table), int))
    code, names = pd.factorize(table[clusters])
    if len(names) < 2:
        raise ValueError(f"the interval needs at least two clusters; {clusters} has {len(names)}")
    members = [np.flatnonzero(code == k) for k in range(len(names))]

    def coefficient(rows):
        values = stats.rankdata(columns[rows], axis=0) if method == "spearman" else columns[rows]
        sizes = np.bincount(group[rows])
        centres = np.stack([np.bincount(group[rows], column) / np.maximum(sizes, 1)
                            for column in values.T], 1)
        values = values - centres[group[rows]]
        if given:
            values = values - values[:, 2:] @ (
                values[:, 2:].T @ values / max((values[:, 2] ** 2).sum(), 1e-12))
        length = np.sqrt((values[:, 0] ** 2).sum() * (values[:, 1] ** 2).sum())
        return values[:, 0] @ values[:, 1] / length if length > 0 else np.nan

    rng = np.random.default_rng(seed)
    draws = [coefficient(np.concatenate(
        [members[k] for k in rng.integers(len(names), size=len(names))])) for _ in range(resamples)]
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return {"estimate": float(coefficient(np.arange(len(table)))), "low": float(low),
            "high": float(high), "rows": len(table), "clusters": len(names)}


def mixed_model(
    table: pd.DataFrame, by: str, *, value: str = "agrees", level: float = 0.95,
) -> pd.DataFrame:
    """Means by group from a linear mixed model.

    Generators, observers and images have crossed random intercepts. This is a second opinion on the
    intervals of `means`, with other assumptions: normal effects that add up. Fitted by restricted
    maximum likelihood with statsmodels. Booleans are taken as 0 and 1. A variance may be estimated
    as 0.

    Args:
        table, value, level: as in `means`.
        by: the column that defines the groups.

    Returns:
        One row per group: `by`, `mean`, `low`, `high` and `converged`; the numbers are missing
        where the fit failed.
    """
    from statsmodels.formula.api import mixedlm
    from statsmodels.tools.sm_exceptions import ConvergenceWarning

    table, groups, group = _grouped(table, [by], value)
    result = groups[[by]].assign(mean=np.nan, low=np.nan, high=np.nan, converged=False)
    data = table[list(FACTORS)].astype(str).reset_index(drop=True).assign(
        group=group, value=table[value].to_numpy(float))
    # statsmodels sorts the components by name: numbers keep the order of FACTORS
    components = {f"{place}_{factor}": f"0 + C({factor})" for place, factor in enumerate(FACTORS)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit = mixedlm("value ~ 0 + C(group)", data, groups=np.ones(len(data)),
                          vc_formula=components).fit()
        except (np.linalg.LinAlgError, ValueError):
            return result
    bad = any(issubclass(warning.category, ConvergenceWarning)
              and "boundary" not in str(warning.message) for warning in caught)
    if fit.converged and not bad and np.isfinite(fit.bse_fe).all():
        mean, error = fit.fe_params.to_numpy(), fit.bse_fe.to_numpy()
        z = stats.norm.ppf((1 + level) / 2)
        result = result.assign(mean=mean, low=mean - z * error, high=mean + z * error,
                               converged=True)
    return result


def cluster(matrix: pd.DataFrame) -> tuple[list[str], pd.DataFrame, np.ndarray]:
    """Hierarchical clustering (average linkage) of models by what they share.

    Covers the models that are both generators and observers.

    Args:
        matrix: generators x observers, values in [0, 1], as `matrix` returns it.

    Returns:
        (names, similarity, linkage): the models in the order of the leaves; the symmetrised matrix
        (the mean of both directions) in that order; and scipy's linkage, whose leaf numbers refer
        to the models in the order of the rows of `matrix`.

    Raises:
        ValueError: fewer than two models, or a pair of models without a value in either direction.
    """
    similarity = _symmetrised(matrix)
    if len(similarity) < 2:
        raise ValueError(
            "clustering needs at least two models that are both generators and observers")
    distance = 1 - similarity.to_numpy()
    if not np.isfinite(distance).all():
        raise ValueError("a pair of models has no value in either direction; leave one of them out")
    linkage = hierarchy.linkage(
        squareform(distance, checks=False), "average", optimal_ordering=True)
    names = list(similarity.index[hierarchy.leaves_list(linkage)])
    return names, similarity.loc[names, names], linkage


def grouping(
    matrix: pd.DataFrame, labels: Mapping[Any, Any], *, permutations: int = 10_000, seed: int = 0,
) -> dict[str, float]:
    """Do models with the same label share more?

    The mean similarity of pairs with the same label minus that of pairs with different labels.

    Args:
        matrix: generators x observers, as `matrix` returns it; symmetrised by this function.
        labels: the label of each model, such as its training.
        permutations: the number of random reassignments of labels to models. The observed labels
            are counted as one more (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585).
        seed: the seed of the permutations.

    Returns:
        `difference`, `p` (one-sided) and `pairs`, the number of pairs with the same label.
        `difference` and `p` are missing where all pairs have the same label, or none has.
    """
    similarity = _symmetrised(matrix)
    upper = np.triu_indices(len(similarity), 1)
    values = similarity.to_numpy()[upper]
    label = pd.factorize(np.array([str(labels[name]) for name in similarity.index]))[0]
    rng = np.random.default_rng(seed)
    orders = np.stack([np.arange(len(label)),
                       *(rng.permutation(len(label)) for _ in range(permutations))])
    same = label[orders][:, upper[0]] == label[orders][:, upper[1]]
    pairs = int(same[0].sum())
    if pairs in (0, len(values)):
        return {"difference": np.nan, "p": np.nan, "pairs": pairs}
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = [(np.where(known, values, 0) * choice).sum(1) / (known * choice).sum(1)
               for choice in (same, ~same)]
    gap = gap[0] - gap[1]
    return {"difference": float(gap[0]), "p": float((gap >= gap[0] - 1e-12).mean()), "pairs": pairs}


def _numbers(column: Any) -> Any:
    """A column as floats, NaN where a value is missing."""
    numbers: Any = pd.to_numeric(
        column.astype("Float64") if column.dtype == "boolean" else column)
    return numbers.astype(float)


def _check(table: pd.DataFrame, columns: Sequence[str], needed: Sequence[str] = FACTORS) -> None:
    missing = [column for column in (*needed, *columns) if column not in table.columns]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; "
                         f"it has {', '.join(map(str, table.columns))}")


def _grouped(table: pd.DataFrame, by: list[str], value: str) -> tuple:
    """The rows with a value, a table of groups and their sizes, and each row's group number."""
    _check(table, [*by, value])
    table = table.assign(**{value: _numbers(table[value])}).dropna(subset=[value, *by])
    if table.empty:
        raise ValueError(f"no row of the table has a value of {value}: did any metamer pass?")
    grouped = (table.groupby(by, sort=False, observed=True) if by
               else table.groupby(np.zeros(len(table), int)))
    sizes = grouped.agg(generators=("generator", "nunique"), observers=("observer", "nunique"),
                        images=("image", "nunique"), rows=("image", "size"))
    return table, sizes.reset_index(drop=not by), grouped.ngroup().to_numpy()


def _weights(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `count` items is drawn, (resamples, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)


def _resampled(
    table: pd.DataFrame, group: np.ndarray, groups: int, value: str, resamples: int, seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (K,) by group, means (R, K) from resampled effects, and degrees of freedom (K,).

    A mean is linear in the effects. So a resample is the product of drawn effects and the shares of
    each group's rows that have them. The degrees of freedom are those of the effects of generators
    or of observers, whichever are fewer.
    """
    if resamples < 2:
        raise ValueError("an interval needs at least two resamples")
    rng = np.random.default_rng(seed)
    y = table[value].to_numpy(float)
    stage = (pd.factorize(table["stage"])[0] if "stage" in table
             else np.zeros(len(table), int))
    codes = {name: pd.factorize(table[name], sort=True)[0] for name in FACTORS}
    point = _average(y, group, groups)
    draws = np.tile(point, (resamples, 1))
    sizes, least = np.bincount(group, minlength=groups), np.full(groups, np.inf)
    for by_stage, code, freedom, of_models in _effects(y - point[group], stage, codes, group):
        # one draw serves all stages
        drawn = rng.integers(by_stage.shape[1], size=(resamples, by_stage.shape[1]))
        for s, effects in enumerate(by_stage):
            rows = stage == s
            share = np.zeros((groups, by_stage.shape[1]))
            np.add.at(share, (group[rows], code[rows]), 1 / sizes[group[rows]])
            known = np.bincount(code[rows], minlength=by_stage.shape[1]) > 0
            # unknown effects are drawn as 0; with this scale, draws keep the estimated variance
            scale = np.sqrt(by_stage.shape[1] / max(freedom[s], 1))
            if of_models:
                least[group[rows]] = np.minimum(least[group[rows]], freedom[s])
            centred = np.where(known, effects - effects[known].mean(), 0) * scale
            draws += centred[drawn] @ share.T
    return point, draws, least


def _effects(
    rest: np.ndarray, stage: np.ndarray, codes: dict[str, np.ndarray], group: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, list[int], bool]]:
    """Effects (S, L) by stage: first those of each factor, then those of each pair of factors.

    Each comes with the codes of the rows (which of the L effects a row has), the degrees of freedom
    (S,), and whether these limit the interval, as those of generators and of observers do.
    """
    stages = stage.max() + 1

    def mean(values, code):
        return _average(values, stage * (code.max() + 1) + code,
                        stages * (code.max() + 1)).reshape(stages, -1)

    scale = np.abs(rest).max()
    mains = {name: np.zeros((stages, code.max() + 1)) for name, code in codes.items()}
    for _ in range(20):  # backfitting: factors are not balanced where some metamers do not count
        rest, change = rest - _average(rest, group, group.max() + 1)[group], 0.0
        for name, code in codes.items():
            update = mean(rest, code)
            mains[name] += update
            rest = rest - update[stage, code]
            change = max(change, np.abs(update).max())
        if change < 1e-6 * scale:
            break
    for name, code in codes.items():
        yield (mains[name], code,
               [len(set(code[stage == s])) - _confounded(code[stage == s], group[stage == s])
                for s in range(stages)], name != "image")
    for first, second in (("generator", "observer"), ("generator", "image"), ("observer", "image")):
        code = np.unique(np.stack([codes[first], codes[second]]), axis=1,
                         return_inverse=True)[1].reshape(-1)
        effect = mean(rest, code)
        rest = rest - effect[stage, code]
        freedom = [len(set(code[rows])) - len(set(codes[first][rows]))
                   - len(set(codes[second][rows])) - len(set(group[rows])) + 2
                   for rows in (stage == s for s in range(stages))]
        yield effect, code, freedom, False


def _confounded(code: np.ndarray, group: np.ndarray) -> int:
    """How many means of groups cannot be told from the effects of a factor.

    This is the rank of the matrix of the groups' shares in the rows of each code.
    """
    counts = np.zeros((code.max() + 1, group.max() + 1))
    np.add.at(counts, (code, group), 1)
    counts = counts[counts.any(1)]
    return np.linalg.matrix_rank(counts / counts.sum(1, keepdims=True), tol=0.2)


def _average(values: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """Means of values by code, (count,); 0 for a code that does not occur."""
    return np.bincount(codes, values, count) / np.maximum(np.bincount(codes, minlength=count), 1)


def _interval(
    point: np.ndarray, draws: np.ndarray, freedom: Any, level: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval around a point, from the spread of its resamples.

    Missing where there are no degrees of freedom.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a group in no resample stays missing
        spread = np.nanstd(draws, axis=0, ddof=1)
    half = stats.t.ppf((1 + level) / 2, np.maximum(freedom, 1)) * spread
    half = np.where(np.asarray(freedom) >= 1, half, np.nan)
    return point - half, point + half


class _Cells:
    """Pairs of different models, with sums and counts of their values by image.

    If `shared`, only models that are both generators and observers are kept, and a resample draws
    both roles of a model together.
    """

    def __init__(self, table, value: str, shared: bool):
        _check(table, [value])
        table = table.assign(**{value: _numbers(table[value])}).dropna(subset=[value])
        table = table[table["generator"] != table["observer"]]
        generators, observers = table["generator"].unique(), table["observer"].unique()
        if shared:
            generators = observers = [name for name in generators if name in set(observers)]
            table = table[table["generator"].isin(generators) & table["observer"].isin(observers)]
        if table.empty:
            raise ValueError(f"no row of the table has a value of {value} for two different "
                             "models: did any metamer pass?")
        self.shared, self.models, self.observers = shared, generators, observers
        codes = [pd.Index(names).get_indexer(table[role])
                 for names, role in ((generators, "generator"), (observers, "observer"))]
        image = pd.factorize(table["image"])[0]
        cells, cell = np.unique(np.stack(codes), axis=1, return_inverse=True)
        self.first, self.second = cells
        self.sums, self.counts = (
            np.bincount(
                cell.reshape(-1) * (image.max() + 1) + image, w,
                minlength=cells.shape[1] * (image.max() + 1)).reshape(cells.shape[1], -1)
            for w in (table[value].to_numpy(float), None))

    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """Means (1, C) of pairs over all images, and weights (1, C) of 1."""
        return self.sums.sum(1)[None] / self.counts.sum(1)[None], np.ones((1, len(self.first)))

    def draws(self, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Means (R, C) of pairs over resampled images, and how often (R, C) each pair is drawn."""
        rng = np.random.default_rng(seed)
        of_generators = _weights(len(self.models), resamples, rng)
        of_observers = (of_generators if self.shared
                        else _weights(len(self.observers), resamples, rng))
        of_images = _weights(self.sums.shape[1], resamples, rng)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = (of_images @ self.sums.T) / (of_images @ self.counts.T)
        return values, of_generators[:, self.first] * of_observers[:, self.second]


def _percentiles(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], cells: _Cells, names: list[str],
    resamples: int, level: float, seed: int,
) -> pd.DataFrame:
    """A statistic (R, K) of values and weights (R, C), with percentile intervals: K named rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate, draws = (
            statistic(*cells.whole())[0], statistic(*cells.draws(resamples, seed)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        draws = np.where(np.isfinite(draws), draws, np.nan)
        low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame({"estimate": estimate, "low": low, "high": high}, index=names)


def _additive(
    values: np.ndarray, weights: np.ndarray, cells: _Cells, roles: str = "go",
) -> tuple[np.ndarray, np.ndarray]:
    """Residuals and fit, both (R, C), of weighted least squares on generators and observers.

    All R weightings are solved at once.
    """
    parts = [np.eye(codes.max() + 1)[codes]
             for role, codes in (("g", cells.first), ("o", cells.second)) if role in roles]
    design = np.concatenate(parts, 1)
    normal = np.einsum("rc,cp,cq->rpq", weights, design, design, optimize=True)
    solution = np.einsum("rpq,rq->rp", np.linalg.pinv(normal, hermitian=True),
                         (weights * values) @ design)
    fit = solution @ design.T
    return values - fit, fit


def _correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation of rows."""
    total = weights.sum(1, keepdims=True)
    a, b = (x - (weights * x).sum(1, keepdims=True) / total for x in (a, b))
    return ((weights * a * b).sum(1)
            / np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1)))


def _symmetrised(matrix: pd.DataFrame) -> pd.DataFrame:
    """The mean of both directions, for models that are both generators and observers."""
    names = [name for name in matrix.index if name in matrix.columns]
    values = matrix.loc[names, names].to_numpy(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        # one direction where the other has no metamer that counts
        values = np.nanmean(np.stack([values, values.T]), axis=0)
    np.fill_diagonal(values, 1)
    return pd.DataFrame(values, names, names)
