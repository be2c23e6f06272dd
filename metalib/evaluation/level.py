"""How often the p-values of the representation test reject, in experiments that are made up.

    rejected(100)                          # nothing is shared: each should reject 5 in 100
    rejected(100, of_class=True)           # only the class is shared
    rejected(100, similarity=0.8)          # an effect is planted
    rates(table)                           # shares rejected, of a table of such rows
"""

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
                                permutations=permutations, resamples=2)
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
