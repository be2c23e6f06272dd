"""How often the representation test is wrong, and finds what is there, in made-up experiments.

    rejected(100)                          # nothing is shared: each should reject 5 in 100
    rejected(100, of_class=True)           # only the class is shared
    rejected(100, similarity=0.8)          # an effect is planted
    rates(table)                           # shares rejected, of a table of such rows
    discoveries(100, planted=0.1)          # what q-values find in families of tests
    discovery_rates(table)                 # shares of it that are false, of a table of such rows
"""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from metalib import metrics
from metalib.evaluation.intervals import share_interval
from metalib.evaluation.representation import representation_test
from metalib.evaluation.simulated import simulated_responses

LEVEL = 0.05  # of the tests
NAIVE = "naive RSA"  # entries of dissimilarity matrices taken for independent
SHOWN = [  # seven tests that a figure can hold
    "random_p", "same-class_p", "identification_p", "one image, same-class",
    "correlation_pearson_p_within", "euclidean_pearson_p_within", "cka_p_within"]
UNCORRECTED, DEBIASED = "CKA, uncorrected", "CKA, debiased"


def rejected(
    experiments: int, *, similarity: float = 0.0, of_class: bool = False, n: int = 20,
    units: int = 300, natural: int = 20, draws: int = 19, permutations: int = 99, seed: int = 0,
) -> pd.DataFrame:
    """The p-values of a representation test in made-up experiments, and how often they reject.

    Args:
        experiments, similarity, of_class, n, units, natural, draws, seed: as in
            `simulated_responses`.
        permutations: of each test.

    Returns:
        pandas.DataFrame, a row for each `test`: `experiments`, and `rejected`, in how many of
        them the p-value is at most `LEVEL`. The tests are that of the first image against each
        null ("one image, random"), those of the summary, and one that should not be used, naive
        RSA (see `naive_p_value`). Two rows more, for CKA uncorrected and debiased, have a `mean`
        over experiments instead.

    Example:
        >>> rejected(20, n=10, units=50)["test"].tail(3).tolist()
        ['naive RSA', 'CKA, uncorrected', 'CKA, debiased']
    """
    observer, labels = simulated_responses(
        experiments, n=n, units=units, natural=natural, draws=draws, similarity=similarity,
        of_class=of_class, seed=seed)
    table = representation_test(observer, None, None, labels=labels, seed=seed,
                                permutations=permutations, resamples=2, correction=None)
    pairs = [(torch.from_numpy(observer.references[stage]).double(),
              torch.from_numpy(observer.metamers[stage]).double()) for stage in observer.stages]
    p_values = _p_values(table, table.summary()).assign(
        **{NAIVE: [naive_p_value(*pair) for pair in pairs]})
    counts = pd.DataFrame({"test": p_values.columns, "rejected": (p_values <= LEVEL).sum(),
                           "experiments": experiments})
    means = pd.DataFrame({"test": [UNCORRECTED, DEBIASED], "experiments": experiments, "mean": [
        float(np.mean([measure(*pair) for pair in pairs]))
        for measure in (metrics.cka, metrics.debiased_cka)]})
    return pd.concat([counts, means], ignore_index=True)


def rates(table: pd.DataFrame, *, of_class: bool = False) -> pd.DataFrame:
    """The share of experiments that each test rejects.

    Args:
        table: rows of `rejected` for several seeds, with the columns `similarity` and `of_class`.
        of_class: whether metamers share the class of their reference.

    Returns:
        A row for each planted similarity and a column for each test.
    """
    rows: Any = table[(table["of_class"] == of_class) & table["rejected"].notna()]
    sums = rows.groupby(["similarity", "test"], sort=False)[["rejected", "experiments"]].sum()
    shares: Any = (sums["rejected"] / sums["experiments"]).unstack(sort=False)
    return shares


def rejection(
    table: pd.DataFrame, *, test: str, similarity: float = 0.0, of_class: bool = False,
) -> dict[str, Any]:
    """The share of experiments that a test rejects, with the interval of Clopper and Pearson.

    Args:
        table, of_class: as in `rates`.
        test: its name; several, separated by "|", give the share of the worst.
        similarity: what was planted.

    Returns:
        `estimate`, `low`, `high`, the number of `experiments`, and the `test`.
    """
    rows: Any = table[(table["of_class"] == of_class) & np.isclose(table["similarity"], similarity)
                 & table["test"].isin(test.split("|"))]
    sums = rows.groupby("test", sort=False)[["rejected", "experiments"]].sum()
    name = sums["rejected"].idxmax()
    count, of = int(sums.loc[name, "rejected"]), int(sums.loc[name, "experiments"])
    share, low, high = share_interval(np.arange(of)[None] < count)
    return {"estimate": share, "low": low, "high": high, "experiments": of, "test": name}


def kept(table: pd.DataFrame) -> dict[str, int]:
    """How many of the tests keep their level where nothing is shared: `count`, `of`.

    A test keeps it if its share of rejections is one of the 99 % that are likeliest at 5 %. Naive
    RSA does not count.
    """
    shares = rates(table).loc[0.0].drop(NAIVE)
    experiments = table.loc[(table["similarity"] == 0) & ~table["of_class"]
                            & (table["test"] == NAIVE), "experiments"].sum()
    low, high = stats.binom.interval(0.99, experiments, LEVEL)
    return {"count": int((shares * experiments).round().between(low, high).sum()),
            "of": len(shares), "experiments": int(experiments)}


def discoveries(
    families: int, *, planted: float = 0.0, shared: float = 0.0, n: int = 40, stages: int = 2,
    units: int = 100, natural: int = 160, similarity: float = 0.9, seed: int = 0,
) -> pd.DataFrame:
    """What q-values of the null "same-class" find in made-up families of tests.

    A family is all images and stages of an observer. Some metamers keep much of their reference, at
    all stages, and the others its class alone. All tests of a stage use the same natural images.

    Args:
        families: how many.
        planted: the share of the metamers that keep much.
        shared: as in `simulated_responses`, between stages.
        n, stages: images and stages of a family, n x stages tests.
        units, natural: as in `simulated_responses`, of two classes: p-values are at least
            2 / (n + natural).
        similarity: of metamers that keep much.
        seed: of the draw.

    Returns:
        pandas.DataFrame, a row for each `family`: the numbers of its `tests`, of `effects` planted
        among them, of tests `significant` (q at most `LEVEL`), and of `false_discoveries`, those of
        them without an effect; the `detectable` share of tests (see `representation_test`); and
        whether a warning `announced` that it is large.

    Example:
        >>> found = discoveries(2, planted=0.5, natural=1960)
        >>> found["tests"].tolist(), found["effects"].tolist(), found["announced"].tolist()
        ([80, 80], [40, 40], [False, False])
    """
    effect, rows = np.arange(n) < round(planted * n), []
    for family in range(families):
        observer, labels = simulated_responses(
            stages, n=n, units=units, natural=natural, draws=1, of_class=True, shared=shared,
            similarity=np.where(effect, similarity, 0), seed=families * seed + family)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            table: Any = representation_test(observer, None, None, nulls="same-class", seed=seed,
                                             labels=labels, permutations=1, resamples=1)
        found = table["q_value"] <= LEVEL
        rows.append((family, len(table), stages * effect.sum(), found.sum(),
                     (found & ~effect[table["image"]]).sum(), table["detectable"].max(),
                     any(str(one.message).startswith("q_value") for one in told)))
    return pd.DataFrame(rows, columns=["family", "tests", "effects", "significant",
                                       "false_discoveries", "detectable", "announced"])


def discovery_rates(table: pd.DataFrame) -> pd.DataFrame:
    """False discovery rate and power of q-values.

    Args:
        table: rows of `discoveries` with the columns `natural`, `shared` and `planted`.

    Returns:
        A row for each of these: `families`; `fdr`, the mean over families of the share of false
        discoveries among the significant tests, 0 where there is none; `power`, that of the share
        of effects that are found (missing without effects), both with their ends (`_low`, `_high`)
        of `mean_of_shares`; `empty`, the share of families in which nothing is significant;
        `detectable` and `announced`, means.
    """
    rows = []
    groups: Any = table.groupby(["natural", "shared", "planted"], sort=False)
    for keys, part in groups:
        false = part["false_discoveries"] / part["significant"].clip(lower=1)
        true = part["significant"] - part["false_discoveries"]
        power = true / part["effects"].replace(0, np.nan)
        ends = [mean_of_shares(values) for values in (false, power)]
        rows.append((*keys, len(part), *ends[0], *ends[1], (part["significant"] == 0).mean(),
                     part["detectable"].mean(), part["announced"].mean()))
    return pd.DataFrame(rows, columns=[
        "natural", "shared", "planted", "families", "fdr", "fdr_low", "fdr_high", "power",
        "power_low", "power_high", "empty", "detectable", "announced"])


def mean_of_shares(shares: Any, level: float = 0.95) -> tuple[float, float, float]:
    """Mean, low and high end for independent shares (n,) between 0 and 1.

    The interval is Clopper and Pearson's at the effective number of observations (Korn & Graubard
    1998, Survey Methodology 24, 193): that of booleans whose mean has this standard error, at least
    n. All are NaN if a share is.
    """
    from statsmodels.stats.proportion import proportion_confint  # metalib imports without it
    shares = np.asarray(shares, dtype=float)
    if np.isnan(shares).any():
        return np.nan, np.nan, np.nan
    mean, square = float(shares.mean()), shares.var() / len(shares)
    count = max(len(shares), mean * (1 - mean) / square if square else 0)
    ends: Any = proportion_confint(mean * count, count, alpha=1 - level, method="beta")
    return mean, float(ends[0]), float(ends[1])


def discovery(table: pd.DataFrame) -> dict[str, Any]:
    """The largest false discovery rate of `discovery_rates`.

    Returns:
        `estimate`, `low`, `high`, the number of `families` of which it is the mean, and the number
        of `settings` of which it is the largest.
    """
    rates = discovery_rates(table)
    worst: Any = rates.to_dict("records")[int(rates["fdr"].argmax())]
    return {"estimate": worst["fdr"], "low": worst["fdr_low"], "high": worst["fdr_high"],
            "families": int(worst["families"]), "settings": len(rates)}


def kept_rates(table: pd.DataFrame) -> dict[str, int]:
    """In how many settings of `discovery_rates` q-values keep their rate: `count`, `of`.

    They do if the interval of the false discovery rate reaches down to 5 %.
    """
    rates = discovery_rates(table)
    return {"count": int(np.sum(rates["fdr_low"].to_numpy() <= LEVEL)), "of": len(rates)}


def found(table: pd.DataFrame, *, planted: float) -> dict[str, Any]:
    """The share of planted effects that q-values find with the fewest natural images.

    Args:
        table: as in `discovery_rates`.
        planted: the share of metamers with an effect.

    Returns:
        `estimate`, `low`, `high`, over all families; `most`, the share with the most natural
        images; `detectable` and `most_detectable`, shares of tests; and the number of `families`.
    """
    rows: Any = table[np.isclose(table["planted"], planted)].assign(shared=0)
    few, most = (discovery_rates(rows[rows["natural"] == natural]).to_dict("records")[0]
                 for natural in (rows["natural"].min(), rows["natural"].max()))
    return {"estimate": few["power"], "low": few["power_low"], "high": few["power_high"],
            "most": most["power"], "detectable": few["detectable"],
            "most_detectable": most["detectable"], "families": int(few["families"])}


def _p_values(table: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """One row per experiment and one column per test."""
    image = table[table["image"] == 0].pivot(index="stage", columns="null", values="p_value")
    names = [name for name in summary
             if name.endswith(("_p", "_p_within")) and name != "primary_p"]
    return image.add_prefix("one image, ").join(summary.set_index("stage")[names])


def naive_p_value(references: Tensor, metamers: Tensor) -> float:
    """The p-value of representational similarity, if its entries were independent.

    They are not: each image is part of n - 1 entries of a dissimilarity matrix. So this test
    rejects too often. Here to be compared with.

    Args:
        references, metamers: activations (n, D).

    Returns:
        The one-sided p-value of Pearson's correlation between the entries (n (n - 1) / 2,) of the
        matrices of Euclidean distances.
    """
    first, second = torch.triu_indices(len(references), len(references), 1)
    entries = [metrics.rdm(activations, "euclidean")[first, second]
               for activations in (references, metamers)]
    found: Any = stats.pearsonr(*entries, alternative="greater")
    return float(found.pvalue)
