"""Corrections for multiple comparisons, for p-values some of which are missing."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def corrected(p_values: ArrayLike, method: str) -> np.ndarray:
    """Corrected p-values; missing ones stay missing, and are no tests that were made.

    The methods are those of statsmodels' `multipletests`, by its names. The common ones do not go
    there, since each of its calls collects garbage, for up to a third of a second: "fdr_bh" and
    "fdr_by" are scipy's `false_discovery_control`, and "holm" (Holm 1979) is here.

    Args:
        p_values: (n,), NaN where there is none.
        method: such as "holm", "fdr_bh", "fdr_by" or "bonferroni".

    Raises:
        ValueError: a method that there is not.

    >>> corrected([0.01, float("nan"), 0.04, 0.03], "holm").round(2).tolist()
    [0.03, nan, 0.06, 0.06]
    """
    found = np.array(p_values, dtype=float)
    known = ~np.isnan(found)
    if known.any():
        found[known] = _corrected(found[known], method)
    return found


def _corrected(p_values: np.ndarray, method: str) -> Any:
    if method in ("fdr_bh", "fdr_by"):
        return stats.false_discovery_control(p_values, method=method.removeprefix("fdr_"))
    if method == "holm":
        order = np.argsort(p_values)
        steps = p_values[order] * np.arange(len(p_values), 0, -1)
        return np.minimum(np.maximum.accumulate(steps), 1)[np.argsort(order)]
    from statsmodels.stats.multitest import multipletests  # metalib imports without it
    return multipletests(p_values, method=method)[1]
