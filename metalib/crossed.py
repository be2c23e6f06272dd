"""Statistics of tables in which generators, observers and images are crossed: each row has one of each, and each is a sample.

    means(table, ["relation"], value="agrees")             # with intervals that resample all three factors
    differences(table, "relation", [("other training", "other architecture")], value="agrees")
    matrix(table, "agrees")                                # generators x observers

Tables have the columns `generator`, `observer` and `image`. What does not count is to be left out of them before. Rows that
share a model or an image are not independent: resampling rows would pretend that they are (Clark 1973,
doi:10.1016/S0022-5371(73)80014-3).
"""
import warnings

import numpy as np
import pandas as pd
from scipy import stats
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

FACTORS = ("generator", "observer", "image")


def means(table, by, *, value="agrees", resamples=2000, level=0.95, seed=0):
    """Means of a column by group, with intervals that hold for other generators, observers and images of the same kind.

    A bootstrap of crossed random effects. Each value is its group's mean, plus effects of its generator, of its observer, of its
    image and of each two of them (at each stage, where the table has a column `stage`), estimated by least squares and scaled
    by their degrees of freedom; resamples draw each kind of effect with replacement. Drawing rows by the product of how often
    their three were drawn (the pigeonhole bootstrap, Owen 2007, doi:10.1214/07-AOAS122) is up to several times too wide for
    `differences` between groups that share models, and no scheme is exact (McCullagh 2000, doi:10.2307/3318577). The
    interval is the mean plus and minus Student's t times the standard deviation over resamples, with the degrees of freedom of
    generators or of observers, whichever are fewer: with few models, percentiles are too narrow. Effects are taken to spread
    alike in all groups. Intervals of booleans are cut at 0 and 1.

    Args:
        table: see the module.
        by: a column or list of columns that make the groups; [] takes all rows as one.
        value: the column to average, of numbers or booleans; rows without a value do not count.
        resamples: how many times to draw.
        level: of the interval.
        seed: of the draws.

    Returns:
        pandas.DataFrame, one row per group in the order of the table: the columns of `by`, `mean`, `low`, `high` (missing where a
        group has fewer than two generators, observers or images), `generators`, `observers`, `images`, `rows`: how many of each.

    Raises:
        ValueError: a column that the table lacks, or no resamples.

    Example:
        >>> table = pd.DataFrame({"generator": list("aabb") * 2, "observer": list("cdcd") * 2, "image": [0] * 4 + [1] * 4,
        ...                       "agrees": [1, 0, 1, 1, 1, 0, 1, 1]})
        >>> float(means(table, [])["mean"].iloc[0])
        0.75
    """
    by = [by] if isinstance(by, str) else list(by)
    truth = value in table and table[value].dtype in (bool, "boolean")
    table, groups, group = _grouped(table, by, value)
    point, draws, freedom = _resampled(table, group, len(groups), value, resamples, seed)
    low, high = _interval(point, draws, freedom, level)
    if truth:
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    single = (groups[["generators", "observers", "images"]] < 2).any(axis=1).to_numpy()
    for place, (name, column) in enumerate((("mean", point), ("low", low), ("high", high))):
        groups.insert(len(by) + place, name, np.where(single & (name != "mean"), np.nan, column))
    return groups


def differences(table, by, pairs, *, value="agrees", resamples=2000, level=0.95, seed=0):
    """Differences between the means of groups, from the same resamples, so that what two groups share does not widen them.

    Args:
        table, value, resamples, level, seed: as of `means`.
        by: the column of the groups.
        pairs: a list of pairs of groups; the mean of the second is subtracted from that of the first.

    Returns:
        pandas.DataFrame, one row per pair: `first`, `second`, `difference`, `low`, `high`, and `empty`, which says of which groups
        the table has no rows; then there are no numbers. Intervals as of `means`, with the degrees of freedom of the smaller group.

    Raises:
        ValueError: as of `means`; or rows of one generator, observer, image (and stage) in two groups, whose effects would cancel.
    """
    table, groups, group = _grouped(table, [by], value)
    cells = pd.DataFrame({"group": group}).groupby([table[name].to_numpy() for name in (*FACTORS, "stage") if name in table])
    if (cells["group"].nunique() > 1).any():
        raise ValueError(f"groups of {by} share generator, observer and image; subtract these rows first, and take `means` of what "
                         "is left")
    point, draws, freedom = _resampled(table, group, len(groups), value, resamples, seed)
    number = {name: place for place, name in enumerate(groups[by])}
    rows = []
    for first, second in pairs:
        empty = [name for name in (first, second) if name not in number]
        a, b = number.get(first), number.get(second)
        difference, low, high = [np.nan] * 3 if empty else [float(np.squeeze(x)) for x in (
            point[a] - point[b], *_interval(point[a] - point[b], draws[:, a] - draws[:, b], min(freedom[a], freedom[b]), level))]
        rows.append((first, second, difference, low, high, ", ".join(empty)))
    return pd.DataFrame(rows, columns=["first", "second", "difference", "low", "high", "empty"])


def resampled_means(values, *, resamples=2000, seed=0):
    """Means of a matrix of two crossed factors, such as draws of members and images, with rows and columns drawn again.

    Matrices of one shape get the same rows and columns, so that differences of two results are paired. An interval from them
    is somewhat too wide for many levels (Owen 2007, doi:10.1214/07-AOAS122) and too narrow for a few.

    Args:
        values: a matrix (R, C) of numbers, none missing.

    Returns:
        (resamples,) means.

    Raises:
        ValueError: a matrix that is empty, or has missing values.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or not values.size or np.isnan(values).any():
        raise ValueError(f"a matrix of numbers is needed, none missing, and not one of shape {values.shape} "
                         f"with {np.isnan(values).sum()} missing")
    rng = np.random.default_rng(seed)
    rows, columns = (_weights(count, resamples, rng) for count in values.shape)
    return (rows @ values * columns).sum(1) / values.size


def matrix(table, value="agrees"):
    """Means by generator (rows) and observer (columns), in the order of the table; missing where nothing counts."""
    _check(table, [value])
    means = table.assign(value=_numbers(table[value])).pivot_table("value", "generator", "observer", sort=False)
    return means.reindex(index=table["generator"].unique(), columns=table["observer"].unique())


def asymmetry(table, *, value="agrees", resamples=1000, level=0.95, seed=0):
    """Is A's metamer good for B where B's is good for A? Over pairs of models that are both generators and observers.

    Intervals are percentiles over resamples that draw models, each with both of its roles, and images.

    Returns:
        pandas.DataFrame with the columns `estimate`, `low`, `high` and the rows `correlation` (Pearson's, of the value from A to
        B with that from B to A), `reciprocity` (the same after the means of generators and of observers were taken out, so that
        a model that is good with everybody does not count) and `difference` (mean absolute, in units of the value).

    Raises:
        ValueError: fewer than three models that are both.
    """
    cells = _Cells(table, value, shared=True)
    models, first, second = len(cells.models), cells.first, cells.second
    if models < 3:
        raise ValueError(f"asymmetry needs at least three models that are both generators and observers, not {models}")
    place = {pair: k for k, pair in enumerate(zip(first, second))}
    back = np.array([place.get((b, a), -1) for a, b in zip(first, second)])
    both = back >= 0

    def of(values, weights):
        weights = weights * both * np.isfinite(values) * np.isfinite(values[:, back])
        values = np.where(weights > 0, values, 0)
        apart = _additive(values, weights, cells)[0]
        gap = np.abs(values - values[:, back])
        return np.stack([_correlation(values, values[:, back], weights), _correlation(apart, apart[:, back], weights),
                         (weights * gap).sum(1) / weights.sum(1)], 1)

    return _percentiles(of, cells, ["correlation", "reciprocity", "difference"], resamples, level, seed)


def variance_explained(table, *, value="agrees", resamples=1000, level=0.95, seed=0):
    """Shares of the variance of the matrix generators x observers that generators and observers explain, without own metamers.

    The share of a factor is what the additive model with both explains above the one without it. The rest is what pairs have of
    their own, and noise.
    Intervals are percentiles over resamples that draw generators, observers and images; with few models shares are biased upwards.

    Returns:
        pandas.DataFrame with the columns `estimate`, `low`, `high` and the rows `generator`, `observer`, `rest`.
    """
    cells = _Cells(table, value, shared=False)

    def of(values, weights):
        weights = weights * np.isfinite(values)
        values = np.where(weights > 0, values, 0)
        centre = (weights * values).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            total = (weights * (values - centre) ** 2).sum(1)
            total = np.where(total > 1e-9 * weights.sum(1), total, np.nan)  # nothing to explain
            left = [(weights * _additive(values, weights, cells, roles)[0] ** 2).sum(1) / total for roles in ("go", "o", "g")]
        return np.stack([left[1] - left[0], left[2] - left[0], left[0]], 1)

    return _percentiles(of, cells, ["generator", "observer", "rest"], resamples, level, seed)


def correlation(table, x, y, *, clusters, given=None, within=None, method="spearman", resamples=2000, level=0.95, seed=0):
    """Correlation of two columns over rows that come in clusters, with an interval that resamples clusters and not rows.

    Args:
        table: pandas.DataFrame; rows with a missing x or y are left out.
        x, y: names of columns.
        clusters: name of the column whose values are drawn with replacement, with all of their rows.
        given: a column whose linear effect is taken out of both (of ranks out of ranks, for Spearman): a partial correlation.
        within: a column (or list) of which the means by value are taken out of both: the pooled correlation within groups.
        method: "spearman" or "pearson".
        resamples, level, seed: of the percentile interval.

    Returns:
        A dict with `estimate`, `low`, `high`, `rows` and `clusters`.

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
    group = table.groupby(within, sort=False).ngroup().to_numpy() if within else np.zeros(len(table), int)
    cluster, names = pd.factorize(table[clusters])
    if len(names) < 2:
        raise ValueError(f"a correlation over {clusters} needs at least two of them, not {len(names)}")
    members = [np.flatnonzero(cluster == k) for k in range(len(names))]

    def of(rows):
        values = stats.rankdata(columns[rows], axis=0) if method == "spearman" else columns[rows]
        here = np.bincount(group[rows])
        means = np.stack([np.bincount(group[rows], column) / np.maximum(here, 1) for column in values.T], 1)
        values = values - means[group[rows]]
        if given:
            values = values - values[:, 2:] @ (values[:, 2:].T @ values / max((values[:, 2] ** 2).sum(), 1e-12))
        length = np.sqrt((values[:, 0] ** 2).sum() * (values[:, 1] ** 2).sum())
        return values[:, 0] @ values[:, 1] / length if length > 0 else np.nan

    rng = np.random.default_rng(seed)
    draws = [of(np.concatenate([members[k] for k in rng.integers(len(names), size=len(names))])) for _ in range(resamples)]
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return {"estimate": float(of(np.arange(len(table)))), "low": float(low), "high": float(high), "rows": len(table),
            "clusters": len(names)}


def mixed_model(table, by, *, value="agrees", level=0.95):
    """Means by group from a linear mixed model with crossed random intercepts of generators, observers and images.

    A second opinion beside `means`: another way to the same intervals, with other assumptions (normal effects that add up).
    Fitted by restricted maximum likelihood with statsmodels. Booleans are taken as 0 and 1; a variance may be estimated as 0.

    Args:
        table, value: as of `means`.
        by: the column of the groups.

    Returns:
        pandas.DataFrame, one row per group: `by`, `mean`, `low`, `high` and `converged`; without numbers where the fit failed.
    """
    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import ConvergenceWarning
    table, groups, group = _grouped(table, [by], value)
    result = groups[[by]].assign(mean=np.nan, low=np.nan, high=np.nan, converged=False)
    design = pd.get_dummies(pd.Series(group), dtype=float)
    effects = {factor: f"0 + C({factor})" for factor in FACTORS}
    data = table[list(FACTORS)].astype(str).reset_index(drop=True)
    components, names = [], []
    for factor in effects:
        components.append([pd.get_dummies(data[factor], dtype=float).to_numpy()])
        names.append([list(pd.unique(data[factor]))])
    structure = sm.regression.mixed_linear_model.VCSpec(list(effects), names, components)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit = sm.MixedLM(table[value].to_numpy(float), design.to_numpy(), groups=np.ones(len(table)), exog_vc=structure).fit()
        except (np.linalg.LinAlgError, ValueError):
            return result
    bad = any(issubclass(warning.category, ConvergenceWarning) and "boundary" not in str(warning.message) for warning in caught)
    z = stats.norm.ppf((1 + level) / 2)
    if fit.converged and not bad and np.isfinite(fit.bse_fe).all():
        result = result.assign(mean=fit.fe_params, low=fit.fe_params - z * fit.bse_fe, high=fit.fe_params + z * fit.bse_fe,
                               converged=True)
    return result


def cluster(matrix):
    """Hierarchical clustering (average linkage) of the models that are both generators and observers, by what they share.

    Args:
        matrix: generators x observers, values in [0, 1], as of `matrix`.

    Returns:
        (names, similarity, linkage): the models in the order of the leaves, the symmetrised matrix (the mean of both
        directions) in that order, and scipy's linkage, whose leaf numbers refer to the models in the order of the matrix.

    Raises:
        ValueError: fewer than two models, or a pair of models without a value in either direction.
    """
    similarity = _symmetrised(matrix)
    if len(similarity) < 2:
        raise ValueError("clustering needs at least two models that are both generators and observers")
    away = 1 - similarity.to_numpy()
    if not np.isfinite(away).all():
        raise ValueError("some pair of models has no metamer that counts in either direction; leave one of them out")
    linkage = hierarchy.linkage(squareform(away, checks=False), "average", optimal_ordering=True)
    names = list(similarity.index[hierarchy.leaves_list(linkage)])
    return names, similarity.loc[names, names], linkage


def grouping(matrix, labels, *, permutations=10_000, seed=0):
    """Do models with the same label share more? The mean similarity of pairs with one label less that of pairs with two.

    Args:
        matrix: generators x observers, as of `matrix`; symmetrised here.
        labels: a dict from models to labels, such as their training.
        permutations: labels are dealt out anew to the models so many times; the arrangement observed is counted among them
            (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585).

    Returns:
        A dict with `difference`, `p` (one-sided) and `pairs` with the same label; numbers are missing where all or no pairs do.
    """
    similarity = _symmetrised(matrix)
    upper = np.triu_indices(len(similarity), 1)
    values = similarity.to_numpy()[upper]
    label = pd.factorize(np.array([str(labels[name]) for name in similarity.index]))[0]
    rng = np.random.default_rng(seed)
    orders = np.stack([np.arange(len(label)), *(rng.permutation(len(label)) for _ in range(permutations))])
    same = label[orders][:, upper[0]] == label[orders][:, upper[1]]
    pairs = int(same[0].sum())
    if pairs in (0, len(values)):
        return {"difference": np.nan, "p": np.nan, "pairs": pairs}
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = [(np.where(known, values, 0) * choice).sum(1) / (known * choice).sum(1) for choice in (same, ~same)]
    gap = gap[0] - gap[1]
    return {"difference": float(gap[0]), "p": float((gap >= gap[0] - 1e-12).mean()), "pairs": pairs}


def _numbers(column):
    return pd.to_numeric(column.astype("Float64") if column.dtype == "boolean" else column).astype(float)


def _check(table, columns, needed=FACTORS):
    missing = [column for column in (*needed, *columns) if column not in table.columns]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")


def _grouped(table, by, value):
    """The rows that have a value, a frame of groups with their sizes, and the number of each row's group."""
    _check(table, [*by, value])
    table = table.assign(**{value: _numbers(table[value])}).dropna(subset=[value, *by])
    if table.empty:
        raise ValueError(f"no row of the table has a value of {value}: did any metamer pass?")
    grouped = table.groupby(by, sort=False, observed=True) if by else table.groupby(np.zeros(len(table), int))
    sizes = grouped.agg(generators=("generator", "nunique"), observers=("observer", "nunique"), images=("image", "nunique"),
                        rows=("image", "size"))
    return table, sizes.reset_index(drop=not by), grouped.ngroup().to_numpy()


def _weights(count, resamples, rng):
    """How often each of `count` levels is drawn, (resamples, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)


def _resampled(table, group, groups, value, resamples, seed):
    """Means by group: of the table (K,) and of resamples of the effects of its three factors (R, K), and degrees of freedom (K,).

    A mean is linear in the effects, so that a resample is a product of drawn effects with the shares that they have in each group.
    The degrees of freedom are those with which the effects of generators or of observers are known, whichever are fewer.
    """
    if resamples < 2:
        raise ValueError("an interval needs at least two resamples")
    rng = np.random.default_rng(seed)
    y = table[value].to_numpy(float)
    stage = pd.factorize(table["stage"])[0] if "stage" in table else np.zeros(len(table), int)
    levels = {name: pd.factorize(table[name], sort=True)[0] for name in FACTORS}
    point = _average(y, group, groups)
    draws = np.tile(point, (resamples, 1))
    sizes, least = np.bincount(group, minlength=groups), np.full(groups, np.inf)
    for effect, level, freedom, counts in _effects(y - point[group], stage, levels, group):
        drawn = rng.integers(effect.shape[1], size=(resamples, effect.shape[1]))  # a level brings its effects at all stages
        for s, effects in enumerate(effect):
            here = stage == s
            share = np.zeros((groups, effect.shape[1]))
            np.add.at(share, (group[here], level[here]), 1 / sizes[group[here]])
            known = np.bincount(level[here], minlength=effect.shape[1]) > 0
            scale = np.sqrt(effect.shape[1] / max(freedom[s], 1))  # over those that are known, and up to all that are drawn
            if counts:
                least[group[here]] = np.minimum(least[group[here]], freedom[s])
            centred = np.where(known, effects - effects[known].mean(), 0) * scale
            draws += centred[drawn] @ share.T
    return point, draws, least


def _effects(rest, stage, levels, group):
    """Effects (S, L) at each stage of the factors, then of their pairs; the levels of rows, and degrees of freedom (S,).

    With each comes whether its degrees of freedom are those of the interval: so for generators and observers.
    """
    stages = stage.max() + 1

    def mean(values, level):
        return _average(values, stage * (level.max() + 1) + level, stages * (level.max() + 1)).reshape(stages, -1)

    scale = np.abs(rest).max()
    mains = {name: np.zeros((stages, level.max() + 1)) for name, level in levels.items()}
    for _ in range(20):  # backfitting: factors are not balanced where some metamers do not count
        rest, change = rest - _average(rest, group, group.max() + 1)[group], 0.0
        for name, level in levels.items():
            update = mean(rest, level)
            mains[name] += update
            rest = rest - update[stage, level]
            change = max(change, np.abs(update).max())
        if change < 1e-6 * scale:
            break
    for name, level in levels.items():
        yield mains[name], level, [len(set(level[stage == s])) - _confounded(level[stage == s], group[stage == s])
                                   for s in range(stages)], name != "image"
    for first, second in (("generator", "observer"), ("generator", "image"), ("observer", "image")):
        level = np.unique(np.stack([levels[first], levels[second]]), axis=1, return_inverse=True)[1].reshape(-1)
        effect = mean(rest, level)
        rest = rest - effect[stage, level]
        freedom = [len(set(level[here])) - len(set(levels[first][here])) - len(set(levels[second][here]))
                   - len(set(group[here])) + 2 for here in (stage == s for s in range(stages))]
        yield effect, level, freedom, False


def _confounded(level, group):
    """How many means of groups the effects of a factor cannot be told from: the rank of the shares of groups in its levels."""
    counts = np.zeros((level.max() + 1, group.max() + 1))
    np.add.at(counts, (level, group), 1)
    counts = counts[counts.any(1)]
    return np.linalg.matrix_rank(counts / counts.sum(1, keepdims=True), tol=0.2)


def _average(values, codes, count):
    """Means of values by code; 0 for a code that does not occur."""
    return np.bincount(codes, values, count) / np.maximum(np.bincount(codes, minlength=count), 1)


def _interval(point, draws, freedom, level):
    """Student's interval around a point from the spread of its resamples; missing where there are no degrees of freedom."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a group that no resample has is missing, and stays so
        spread = np.nanstd(draws, axis=0, ddof=1)
    half = stats.t.ppf((1 + level) / 2, np.maximum(freedom, 1)) * spread
    half = np.where(np.asarray(freedom) >= 1, half, np.nan)
    return point - half, point + half


class _Cells:
    """Pairs of different models with sums and counts of their values by image, ready to be resampled.

    With `shared`, models that are both generators and observers only, and a draw takes both roles of a model together.
    """

    def __init__(self, table, value, shared):
        _check(table, [value])
        table = table.assign(**{value: _numbers(table[value])}).dropna(subset=[value])
        table = table[table["generator"] != table["observer"]]
        generators, observers = table["generator"].unique(), table["observer"].unique()
        if shared:
            generators = observers = [name for name in generators if name in set(observers)]
            table = table[table["generator"].isin(generators) & table["observer"].isin(observers)]
        if table.empty:
            raise ValueError(f"no row of the table has a value of {value} for two different models: did any metamer pass?")
        self.shared, self.models, self.observers = shared, generators, observers
        codes = [pd.Index(names).get_indexer(table[role]) for names, role in ((generators, "generator"), (observers, "observer"))]
        image = pd.factorize(table["image"])[0]
        cells, cell = np.unique(np.stack(codes), axis=1, return_inverse=True)
        self.first, self.second = cells
        self.sums, self.counts = (np.bincount(cell.reshape(-1) * (image.max() + 1) + image, w,
                                              minlength=cells.shape[1] * (image.max() + 1)).reshape(cells.shape[1], -1)
                                  for w in (table[value].to_numpy(float), None))

    def whole(self):
        return self.sums.sum(1)[None] / self.counts.sum(1)[None], np.ones((1, len(self.first)))

    def draws(self, resamples, seed):
        rng = np.random.default_rng(seed)
        of_generators = _weights(len(self.models), resamples, rng)
        of_observers = of_generators if self.shared else _weights(len(self.observers), resamples, rng)
        of_images = _weights(self.sums.shape[1], resamples, rng)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = (of_images @ self.sums.T) / (of_images @ self.counts.T)
        return values, of_generators[:, self.first] * of_observers[:, self.second]


def _percentiles(statistic, cells, names, resamples, level, seed):
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate, draws = statistic(*cells.whole())[0], statistic(*cells.draws(resamples, seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        draws = np.where(np.isfinite(draws), draws, np.nan)
        low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame({"estimate": estimate, "low": low, "high": high}, index=names)


def _additive(values, weights, cells, roles="go"):
    """Residuals (R, C) and fit of weighted least squares on generators and observers, for each of R weightings at once."""
    parts = [np.eye(codes.max() + 1)[codes] for role, codes in (("g", cells.first), ("o", cells.second)) if role in roles]
    design = np.concatenate(parts, 1)
    normal = np.einsum("rc,cp,cq->rpq", weights, design, design, optimize=True)
    solution = np.einsum("rpq,rq->rp", np.linalg.pinv(normal, hermitian=True), (weights * values) @ design)
    fit = solution @ design.T
    return values - fit, fit


def _correlation(a, b, weights):
    """Weighted Pearson correlation of rows."""
    total = weights.sum(1, keepdims=True)
    a, b = (x - (weights * x).sum(1, keepdims=True) / total for x in (a, b))
    return (weights * a * b).sum(1) / np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))


def _symmetrised(matrix):
    names = [name for name in matrix.index if name in matrix.columns]
    values = matrix.loc[names, names].to_numpy(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        values = np.nanmean(np.stack([values, values.T]), axis=0)  # one direction where the other has no metamer that counts
    np.fill_diagonal(values, 1)
    return pd.DataFrame(values, names, names)
