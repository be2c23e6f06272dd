"""Statistics of tables that cross generators, observers and images.

Each row has one generator, one observer and one image, each a sample of a larger population.

    means(table, ["relation"], value="agrees")             # intervals hold for others of all three
    differences(table, "relation", [("other training", "other architecture")], value="agrees")
    matrix(table, "agrees")                                # generators x observers

Tables have the columns `generator`, `observer` and `image`. Leave out rows that do not count before
you pass a table. Rows that share a model or an image are not independent (Clark 1973,
doi:10.1016/S0022-5371(73)80014-3).

Models can be nested in kinds, such as the seeds of one architecture and training: two of a kind are
not as good as two kinds. The kind of a generator is its column `generator_kind`, or else its
`generator_architecture` and `generator_training` together, as tables of `transfer_study` have them,
or else each is a kind of its own; so for observers.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from math import factorial, prod
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from metalib.evaluation.components import Design, Found

FACTORS = ("generator", "observer", "image")
ROLES = FACTORS[:2]


def means(
    table: pd.DataFrame, by: str | Sequence[str], *, value: str = "agrees", level: float = 0.95,
) -> pd.DataFrame:
    """Means by group, with intervals that hold for other models, kinds and images.

    The interval is Student's. Its variance is a sum of components for generators, observers, pairs
    of them and images, and for the kinds in which models are nested; so are its degrees of freedom
    (see `metalib.evaluation.components`). Each group has an analysis of its own. If the table has a
    column `stage`, the means of stages are taken out first. Intervals of booleans are cut at 0
    and 1.

    Args:
        table: a table with a column for each of `FACTORS`.
        by: the column or columns that define the groups; [] makes all rows one group.
        value: the column to average, numbers or booleans; rows without a value do not count.
        level: the level of the intervals.

    Returns:
        One row per group, in the order of the table: the columns of `by`; `mean`, `low` and `high`;
        `freedom`, the degrees of freedom; `limit`, the source of the largest share of the variance,
        such as "kinds of generators"; and the numbers of `generators`, `observers`, `images` and
        `rows`. `low` and `high` are missing where a group has fewer than two generators, observers
        or images.

    Raises:
        ValueError: a column that the table lacks, no row with a value, or more than 5,000 pairs of
            a generator and an observer.

    Example:
        >>> table = pd.DataFrame({"generator": list("aabb") * 2, "observer": list("cdcd") * 2,
        ...                       "image": [0] * 4 + [1] * 4, "agrees": [1, 0, 1, 1, 1, 0, 1, 1]})
        >>> float(means(table, [])["mean"].iloc[0])
        0.75
    """
    by = [by] if isinstance(by, str) else list(by)
    boolean = _boolean(table, value)
    table, groups, group = _grouped(table, by, value)
    found = [_Cells(table[group == k], np.zeros((group == k).sum(), int), value).combined([1.0])
             for k in range(len(groups))]
    ends = np.array([_interval(one, level) for one in found])
    if boolean:
        ends = np.clip(ends, 0, 1)
    few = (groups[["generators", "observers", "images"]] < 2).any(axis=1).to_numpy()
    ends[few] = np.nan
    columns = {"mean": [one.estimate for one in found], "low": ends[:, 0], "high": ends[:, 1],
               "freedom": [one.freedom for one in found], "limit": [_limit(one) for one in found]}
    for place, (name, column) in enumerate(columns.items()):
        groups.insert(len(by) + place, name, column)
    return groups


def estimate(table: pd.DataFrame, *, value: str = "agrees", level: float = 0.95) -> dict[str, Any]:
    """The mean of all rows, a plain dict; see `means`.

    Returns:
        `estimate`, `low`, `high`, `freedom`, `limit`, and the numbers of `generators`, `observers`
        and `images`. Where all rows are the same, nothing tells how they would vary: the interval
        is then Clopper and Pearson's for as many observations as there are kinds, of the role that
        has fewer.
    """
    row: Any = means(table, [], value=value, level=level).iloc[0]
    found = {"estimate": float(row["mean"]), "low": float(row["low"]), "high": float(row["high"]),
             "freedom": float(row["freedom"]), "limit": row["limit"],
             **{name: int(row[name]) for name in ("generators", "observers", "images")}}
    known: Any = table.dropna(subset=[value])
    if known[value].nunique() == 1:
        fewest = min(len(set(_kinds(known, role))) for role in ROLES)
        margin = 1 - ((1 - level) / 2) ** (1 / fewest)
        ends = np.array([found["estimate"] - margin, found["estimate"] + margin])
        ends = ends.clip(0, 1) if _boolean(table, value) else ends
        found |= {"low": float(ends[0]), "high": float(ends[1])}
    return found


def differences(
    table: pd.DataFrame, by: str, pairs: Sequence[tuple[Any, Any]], *, value: str = "agrees",
    level: float = 0.95,
) -> pd.DataFrame:
    """Differences between the means of groups.

    What two groups share, such as a generator, does not widen the interval. Effects are supposed to
    have the same spread in all groups of the table.

    Args:
        table, value, level: as in `means`.
        by: the column that defines the groups.
        pairs: pairs of groups; the mean of the second is subtracted from that of the first.

    Returns:
        One row per pair: `first`, `second`, `difference`, `low`, `high`, `p` (Student's,
        two-sided), `freedom`, `limit` (as in `means`) and `empty`. `empty` names the groups without
        rows; if there are any, the numbers are missing.

    Raises:
        ValueError: as in `means`; or two groups have rows of the same generator, observer and image
            (and stage), whose effects would cancel.
    """
    table, groups, group = _grouped(table, [by], value)
    rows: Any = pd.DataFrame({"group": group}).groupby(
        [table[name].to_numpy() for name in (*FACTORS, "stage") if name in table])
    if (rows["group"].nunique() > 1).any():
        raise ValueError(f"groups of {by} have rows of the same generator, observer and image; "
                         "subtract these rows first, and take `means` of the differences")
    cells, number = _Cells(table, group, value), {name: k for k, name in enumerate(groups[by])}
    found = []
    for pair in pairs:
        empty = [name for name in pair if name not in number]
        one = Found(np.nan, np.nan, np.nan, {}) if empty else cells.combined(
            np.eye(len(groups))[[number[name] for name in pair]].T @ [1.0, -1.0])
        found.append((*pair, one.estimate, *_interval(one, level), _p_value(one), one.freedom,
                      _limit(one), ", ".join(map(str, empty))))
    return pd.DataFrame(found, columns=[
        "first", "second", "difference", "low", "high", "p", "freedom", "limit", "empty"])


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
    table: pd.DataFrame, *, value: str = "agrees", level: float = 0.95,
) -> pd.DataFrame:
    """Do A's metamers work for B where B's work for A?

    Compares the two directions over all pairs of models that are both generators and observers.
    Intervals are Student's, from a jackknife that leaves out one kind of models in both roles, and
    one image, in turn (Efron & Tibshirani 1993, chapter 11).

    Args:
        table, value, level: as in `means`.

    Returns:
        A table with the columns `estimate`, `low` and `high` and three rows. `correlation` is
        Pearson's correlation of the value from A to B with that from B to A. `reciprocity` is the
        same after the means of generators and of observers are removed, so that a model that works
        for all others does not count. Noise of images lowers both. `difference` is the root mean
        square difference between the two directions, in units of the value, beyond what the
        sampling of images makes of equal ones.

    Raises:
        ValueError: a column that the table lacks, or fewer than three models that are both.
    """
    cells = _Pairs(table, value, shared=True)
    models = len(cells.models)
    if models < 3:
        raise ValueError("asymmetry needs at least three models that are both generators and "
                         f"observers, not {models}")
    place = {pair: k for k, pair in enumerate(zip(cells.first, cells.second))}
    back = np.array([place.get((b, a), -1) for a, b in zip(cells.first, cells.second)])

    def statistic(sums, counts):
        values = _ratio(sums.sum(1), counts.sum(1))
        weights = 1.0 * ((back >= 0) & np.isfinite(values) & np.isfinite(values[back]))
        values = np.where(weights > 0, values, 0)
        residuals = _additive(values, weights, cells)
        return np.array([
            _correlation(values, values[back], weights),
            _correlation(residuals, residuals[back], weights),
            weights @ _squared_gap(sums, counts, back) / weights.sum()])

    found = _jackknife(statistic, cells, ["correlation", "reciprocity", "difference"], level)
    found.loc["difference"] = np.sqrt(found.loc["difference"].clip(lower=0))
    return found


def _squared_gap(sums: np.ndarray, counts: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Squared differences (C,) between the two directions of pairs, without the noise of images.

    The mean of products of the differences at two different images.
    """
    both = (counts > 0) & (counts[back] > 0)
    gaps = np.where(both, _ratio(sums, counts) - _ratio(sums[back], counts[back]), 0)
    images = both.sum(1)
    products = gaps.sum(1) ** 2 - (gaps ** 2).sum(1)
    return np.where(images > 1, products / np.maximum(images * (images - 1), 1), 0)


def variance_explained(
    table: pd.DataFrame, *, value: str = "agrees", level: float = 0.95,
) -> pd.DataFrame:
    """Shares of the variance between pairs of models that generators and observers explain.

    Metamers shown to their own generator are left out. The share of a factor is what the additive
    model of generators and observers explains beyond the model without that factor. The rest is
    specific to pairs, or noise. Intervals are as in `asymmetry`. With few models, shares are biased
    upwards.

    Args:
        table, value, level: as in `means`.

    Returns:
        A table with the columns `estimate`, `low` and `high` and the rows `generator`, `observer`
        and `rest`.

    Raises:
        ValueError: a column that the table lacks, or no value for two different models.
    """
    cells = _Pairs(table, value, shared=False)

    def statistic(sums, counts):
        values = _ratio(sums.sum(1), counts.sum(1))
        weights = 1.0 * np.isfinite(values)
        values = np.where(weights > 0, values, 0)
        centred = values - (weights * values).sum() / weights.sum()
        total = (weights * centred ** 2).sum()
        total = total if total > 1e-9 * weights.sum() else np.nan  # nothing to explain
        left = [(weights * _additive(values, weights, cells, roles) ** 2).sum() / total
                for roles in ("go", "o", "g")]
        return np.array([left[1] - left[0], left[2] - left[0], left[0]])

    found = _jackknife(statistic, cells, ["generator", "observer", "rest"], level)
    return found.clip(0, 1)


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
    matrix: pd.DataFrame, labels: Mapping[Any, Any], *, kinds: Mapping[Any, Any] | None = None,
    permutations: int = 10_000, seed: int = 0,
) -> dict[str, float]:
    """Do kinds of models with the same label share more?

    The mean similarity of pairs of kinds with the same label minus that of pairs with different
    labels. Models of one kind are averaged: they have the same label whatever it means, and labels
    are exchangeable between kinds only.

    Args:
        matrix: generators x observers, as `matrix` returns it; symmetrised by this function.
        labels: the label of each model, such as its training.
        kinds: the kind of each model, such as its architecture and training; None makes each a
            kind of its own.
        permutations: the number of random reassignments of labels to kinds. The observed labels
            are counted as one more (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585).
        seed: the seed of the permutations.

    Returns:
        `difference`, `p` (one-sided), `floor`, the smallest p that there can be, `kinds`, and
        `pairs`, the number of pairs of kinds with the same label. `difference`, `p` and `floor` are
        missing where all pairs have the same label, or none has.

    Raises:
        ValueError: models of one kind with different labels.
    """
    similarity = _symmetrised(matrix)
    kind = [str(kinds[name]) if kinds else str(name) for name in similarity.index]
    of_kinds: Any = pd.Series([str(labels[name]) for name in similarity.index]).groupby(
        kind, sort=False)
    if (of_kinds.nunique() > 1).any():
        raise ValueError("models of one kind have different labels; a kind is what labels are "
                         "given to")
    label, values = pd.factorize(of_kinds.first())[0], _between(similarity, kind)
    pairs = np.triu_indices(len(label), 1)
    values = values[pairs]
    rng = np.random.default_rng(seed)
    orders = np.stack([np.arange(len(label)),
                       *(rng.permutation(len(label)) for _ in range(permutations))])
    same = label[orders][:, pairs[0]] == label[orders][:, pairs[1]]
    sizes = {"kinds": len(label), "pairs": int(same[0].sum())}
    if sizes["pairs"] in (0, len(values)):
        return {"difference": np.nan, "p": np.nan, "floor": np.nan, **sizes}
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = [(np.where(known, values, 0) * choice).sum(1) / (known * choice).sum(1)
               for choice in (same, ~same)]
    gap = gap[0] - gap[1]
    floor = max(1 / (permutations + 1), 1 / _partitions(np.bincount(label)))
    return {"difference": float(gap[0]), "p": float((gap >= gap[0] - 1e-12).mean()),
            "floor": floor, **sizes}


def _between(similarity: pd.DataFrame, kind: Sequence[str]) -> np.ndarray:
    """Mean similarity of models of two kinds, (kinds, kinds), in the order in which kinds occur."""
    code = pd.factorize(np.array(kind))[0]
    of = np.eye(code.max() + 1)[code]
    values = similarity.to_numpy()
    known = np.isfinite(values)
    return _ratio(of.T @ np.where(known, values, 0) @ of, of.T @ (1.0 * known) @ of)


def _partitions(sizes: np.ndarray) -> float:
    """In how many ways things can be parted into groups of these sizes."""
    alike = np.unique(sizes, return_counts=True)[1]
    return factorial(sizes.sum()) / prod(map(factorial, sizes)) / prod(map(factorial, alike))


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


def _boolean(table: Any, value: str) -> bool:
    """Whether there is such a column, and it is true or false."""
    return value in table and table[value].dtype in (bool, "boolean")


def _kinds(table: Any, role: str) -> Any:
    """The kind of each row's generator or observer; see the module's docstring."""
    if f"{role}_kind" in table:
        return table[f"{role}_kind"].astype(str)
    words = [f"{role}_architecture", f"{role}_training"]
    if not set(words) <= set(table.columns) or table[words].isna().any(axis=None):
        return table[role].astype(str)
    return table[words[0]].astype(str) + ", " + table[words[1]].astype(str)


def _coded(first: Any, second: Any) -> list[np.ndarray]:
    """Numbers of two columns, the same ones for the same values, in the order of the names."""
    both = pd.factorize(np.concatenate([first.astype(str), second.astype(str)]), sort=True)[0]
    return np.split(both, 2)


def _by_image(
    codes: Sequence[np.ndarray], image: Any, values: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The combinations of codes (K, C), and sums and counts (C, images) of their values."""
    cells, cell = np.unique(np.stack(codes), axis=1, return_inverse=True)
    image = pd.factorize(image)[0]
    shape = cells.shape[1], image.max() + 1
    place: Any = np.ravel_multi_index((cell.reshape(-1), image), shape)
    sums, counts = (np.bincount(place, weights, minlength=shape[0] * shape[1]).reshape(shape)
                    for weights in (values, None))
    return cells, sums, counts


class _Cells:
    """Means of a table's values by generator, observer and group, and their deviations by image.

    Args:
        table: rows with values, without missing ones.
        group: (rows,) numbers of groups.
        value: the column.
    """

    def __init__(self, table: Any, group: np.ndarray, value: str):
        y = table[value].to_numpy(float)
        if "stage" in table:
            within = _average(y, pd.factorize(table["stage"])[0] * (group.max() + 1) + group)
            y = y - within + _average(y, group)
        roles = _coded(table["generator"], table["observer"])
        kinds = _coded(*(_kinds(table, role) for role in ROLES))
        cells, sums, counts = _by_image([*roles, *kinds, group], table["image"], y)
        sizes, images = counts.sum(1), counts.shape[1]
        self.values = sums.sum(1) / sizes
        self.deviations = (sums - counts * self.values[:, None]) * (images / sizes)[:, None]
        self.design, self.group = Design.of(*cells), cells[-1]
        self.shares = sizes / np.bincount(self.group, sizes)[self.group]

    def combined(self, coefficients: Any) -> Found:
        """The sum of the means of groups with coefficients (K,)."""
        weights = np.asarray(coefficients)[self.group] * self.shares
        return self.design.combination(weights).of(self.values, self.deviations)


def _average(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """For each value the mean of those with the same code."""
    return (np.bincount(codes, values) / np.maximum(np.bincount(codes), 1))[codes]


def _interval(found: Found, level: float) -> tuple[float, float]:
    """Student's interval."""
    quantile = float(stats.t.ppf((1 + level) / 2, found.freedom))
    half = quantile * found.error if found.error else 0.0
    return found.estimate - half, found.estimate + half


def _p_value(found: Found) -> float:
    """Student's, two-sided; missing where nothing varies."""
    if not found.error > 0:
        return np.nan
    return float(2 * stats.t.sf(abs(found.estimate) / found.error, found.freedom))


def _limit(found: Found) -> str:
    """The source of the largest share of the variance."""
    return max(found.parts, key=lambda name: found.parts[name]) if found.parts else ""


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / counts


class _Pairs:
    """Pairs of different models, with sums and counts (C, images) of their values.

    If `shared`, only models that are both generators and observers are kept.
    """

    def __init__(self, table: Any, value: str, shared: bool):
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
        self.models = generators
        codes = [pd.Index(names).get_indexer(table[role])
                 for names, role in ((generators, "generator"), (observers, "observer"))]
        kinds = _coded(*(_kinds(table, role) for role in ROLES))
        cells, self.sums, self.counts = _by_image(
            [*codes, *kinds], table["image"], table[value].to_numpy(float))
        self.first, self.second, self.kinds = cells[0], cells[1], cells[2:]


def _jackknife(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], cells: _Pairs, names: list[str],
    level: float,
) -> pd.DataFrame:
    """A statistic (K,) of sums and counts (C, images), with Student's intervals: K named rows.

    The variance over kinds, left out in both roles, and that over images are added. The degrees of
    freedom are those of the kinds.
    """
    sums, counts = cells.sums, cells.counts
    kinds = sorted(set(cells.kinds[0]) | set(cells.kinds[1]))
    kept = [(cells.kinds[0] != kind) & (cells.kinds[1] != kind) for kind in kinds]
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = statistic(sums, counts)
        without = [[statistic(sums * rows[:, None], counts * rows[:, None]) for rows in kept],
                   [statistic(np.delete(sums, image, 1), np.delete(counts, image, 1))
                    for image in range(sums.shape[1])]]
        square = sum((len(draws) - 1) * np.var(draws, axis=0) for draws in without)
    half = stats.t.ppf((1 + level) / 2, len(kinds) - 1) * np.sqrt(square)
    return pd.DataFrame({"estimate": estimate, "low": estimate - half, "high": estimate + half},
                        index=names)


def _additive(
    values: np.ndarray, weights: np.ndarray, cells: _Pairs, roles: str = "go",
) -> np.ndarray:
    """Residuals (C,) of least squares on generators and observers, weighted by 0 or 1."""
    design = np.concatenate([np.eye(codes.max() + 1)[codes] for role, codes
                             in (("g", cells.first), ("o", cells.second)) if role in roles], 1)
    fitted = np.linalg.lstsq(design * weights[:, None], weights * values, rcond=None)[0]
    return values - design @ fitted


def _correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """Weighted Pearson correlation."""
    a, b = (x - weights @ x / weights.sum() for x in (a, b))
    return float(weights @ (a * b) / np.sqrt((weights @ (a * a)) * (weights @ (b * b))))


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
