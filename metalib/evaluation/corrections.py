"""Corrections for multiple comparisons, and what they can find at all.

    corrected(p_values, "fdr_bh")              # of which some may be missing
    smallest_detectable(floors, "fdr_bh")      # the share of tests that must be at their floor

A p-value from m draws or permutations is at least 1 / (m + 1), its *floor*. After correction a
floor that is too high makes of many tests a single switch: none is significant, until so many are
at the floor that all of these are, at once.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from metalib.notices import warn

TO_BE_FOUND = 0.05  # the share of a family that a corrected test should be able to find


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


def smallest_detectable(
    floors: ArrayLike, method: str = "fdr_bh", alpha: float = 0.05,
) -> float:
    """The smallest share of a family of tests at its floor with which anything is significant.

    All other p-values are taken to be 1, and the tests with the lowest floors are the first to be
    there. For n tests with one floor f, the number of tests is the smallest whole number of at
    least n f / alpha for "fdr_bh", c times that for "fdr_by" with c = 1 + 1/2 + ... + 1/n, and for
    "holm" and "bonferroni" one test, or never if n f > alpha. It is found by applying the method.

    Args:
        floors: (n,), the smallest p-value that each test can have, such as 1 / (m + 1) with m draws
            or permutations; NaN where there is no test.
        method: as in `corrected`.
        alpha: corrected p-values of at most this are significant.

    Returns:
        Between 1 / n and 1; infinity if nothing is significant even with all at their floors; NaN
        of a family without a test.

    Raises:
        ValueError: a floor that is not above 0 and at most 1, or a method that there is not.

    >>> smallest_detectable([1 / 100] * 240)      # a hundred class-mates: a fifth of 240 tests
    0.2
    >>> smallest_detectable([1 / 1000] * 240)
    0.020833333333333332
    >>> smallest_detectable([1 / 200] * 20, "holm")                  # 199 permutations, 20 tests
    inf
    """
    floors = np.sort(np.asarray(floors, dtype=float))[:np.sum(~np.isnan(floors))]
    if not ((floors > 0) & (floors <= 1)).all():
        raise ValueError("the smallest p-value of a test is above 0 and at most 1, not "
                         f"{floors.min():g} or {floors.max():g}")
    return _smallest_detectable(tuple(floors.tolist()), method, alpha)


@functools.lru_cache(maxsize=256)  # observers and stages have the same floors
def _smallest_detectable(floors: tuple[float, ...], method: str, alpha: float) -> float:
    """As `smallest_detectable`, of sorted floors."""
    n = len(floors)

    def significant(count: int) -> bool:
        p_values = [*floors[:count], *[1.0] * (n - count)]
        with np.errstate(divide="ignore"):  # of which some methods take the logarithm of 1 - p
            return corrected(p_values, method).min() <= alpha

    if not n:
        return np.nan
    if not significant(n):
        return np.inf
    low, high = 0, n  # with `low` nothing is significant, with `high` something is
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if significant(middle) else (middle, high)
    return high / n


def is_switch(floors: ArrayLike, method: str = "fdr_bh", alpha: float = 0.05) -> bool:
    """Whether floors decide what a family of tests can find.

    They do if neither a lone test at its floor is significant, nor a share `TO_BE_FOUND` of all.

    >>> is_switch([1 / 100] * 240), is_switch([1 / 1000] * 240), is_switch([0.05])
    (True, False, False)
    """
    share, n = smallest_detectable(floors, method, alpha), np.sum(~np.isnan(floors))
    return bool(share > max(TO_BE_FOUND, 1 / max(n, 1)))


def warn_of_floors(
    what: str, families: Mapping[str, ArrayLike], method: str, remedy: str, alpha: float = 0.05,
) -> None:
    """Warn, in one message, of families of tests of which floors decide what they can find.

    Args:
        what: the corrected p-values, in words.
        families: the floors (n,) of each, by its name.
        method, alpha: as in `smallest_detectable`.
        remedy: what lowers the floors, in words.

    Warns:
        UserWarning: some are switches, see `is_switch`.
    """
    told = [f"{name}: {_limit(floors, method, alpha)}" for name, floors in families.items()
            if is_switch(floors, method, alpha)]
    if told:
        warn(f"{what} cannot tell much at {alpha:.3g} ({method}), since p-values have a smallest "
             f"value. {'; '.join(told)}. {remedy}")


def _limit(floors: ArrayLike, method: str, alpha: float) -> str:
    floors = np.asarray(floors, dtype=float)
    share, n = smallest_detectable(floors, method, alpha), int(np.sum(~np.isnan(floors)))
    needed = ("none can be significant" if np.isinf(share) else
              f"none is significant before {share:.0%} of them are as small as possible")
    return (f"{n} test{'' if n == 1 else 's'}, p at least {np.nanmin(floors):.2g}, {needed}"
            .replace("%", " %"))
