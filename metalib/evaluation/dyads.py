"""Regression of what pairs of networks share on what the two have in common, and on each of them.

    table = explained(matrix, {"same training": same, "generator: accuracy": accuracy})

Cells of a matrix that share a row or a column are not independent: they share a network. The rows
that were sampled are networks, or kinds of them, so that these are what is permuted.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

ALL = 5_000  # up to so many permutations, all are taken


def explained(
    matrix: Any, predictors: Mapping[str, Any], *, permutations: int = 1999, level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Coefficients of a linear regression of the cells of a matrix, with inference over its rows.

    A multiple regression quadratic assignment procedure with double semi-partialling: the part of a
    predictor that the others do not explain is permuted, rows and columns together (Dekker,
    Krackhardt & Snijders 2007, doi:10.1007/s11336-007-9016-1). Test statistic is the partial
    correlation, which is a function of t, and so pivotal, as they advise. The interval holds the
    values that the same test does not reject.

    Args:
        matrix: (K, K), row for generators and column for observers, in one order; NaN is left out.
            The diagonal counts.
        predictors: by name, matrices (K, K) without NaN. A property of generators is the same in
            each row, one of observers in each column.
        permutations: how many random permutations; all, where there are not more than `ALL`.
        level: of the intervals.
        seed: of the permutations.

    Returns:
        A row for each predictor, with the index `predictor`: `estimate`, `low`, `high` and `p`
        (two-sided), and `floor`, the smallest p-value that any data could give it: symmetric
        predictors look the same after many permutations. An end that the test never rejects is
        infinite.

    Raises:
        ValueError: matrices of other shapes, or predictors that the others determine, or too many
            for so few cells.

    Example:
        >>> one = np.arange(5.0)[:, None] * np.ones(5)
        >>> noise = np.random.default_rng(0).normal(size=(5, 5)) / 100
        >>> found = explained(2 * one + noise, {"row": one, "column": one.T})
        >>> found["estimate"].round(1).tolist(), found["p"].round(2).tolist()[0] < 0.05
        ([2.0, -0.0], True)
    """
    matrix, names = np.asarray(matrix, float), list(predictors)
    others = np.stack([np.asarray(predictors[name], float) for name in names])
    if matrix.ndim != 2 or len(set(matrix.shape)) > 1 or others.shape[1:] != matrix.shape:
        raise ValueError(f"a square matrix and predictors of its shape are needed, not "
                         f"{matrix.shape} and {others.shape[1:]}")
    known = np.isfinite(matrix).ravel()
    design = np.concatenate([np.ones((1, matrix.size)), others.reshape(len(names), -1)])
    if np.linalg.matrix_rank(design[:, known]) < len(design) or known.sum() <= len(design) + 1:
        raise ValueError(f"{len(names)} predictors are too many, or some determine others, among "
                         f"{known.sum()} cells: {', '.join(names)}")
    orders = _orders(len(matrix), permutations, seed)
    rows = [_tested(matrix, design, k, known, orders, 1 - level) for k in range(1, len(design))]
    return pd.DataFrame(rows, index=pd.Index(names, name="predictor"))


def _orders(count: int, permutations: int, seed: int) -> np.ndarray:
    """Permutations (P, K); the first leaves all in place."""
    if math.factorial(count) <= ALL:
        return np.array(list(itertools.permutations(range(count))))
    rng = np.random.default_rng(seed)
    return np.stack([np.arange(count), *(rng.permutation(count) for _ in range(permutations))])


def _tested(
    matrix: np.ndarray, design: np.ndarray, k: int, known: np.ndarray, orders: np.ndarray,
    alpha: float,
) -> dict[str, float]:
    """The row of the predictor number `k` of a design (1 + p, K K)."""
    size = len(matrix)
    others = np.delete(design, k, 0)
    own = (design[k] - _fit(others, design[k])).reshape(size, size)
    base = np.linalg.qr(others[:, known].T)[0]

    def left(values: np.ndarray) -> np.ndarray:
        values = values.reshape(-1, size * size)[:, known]
        return values - values @ base @ base.T

    permuted = left(own[orders[:, :, None], orders[:, None, :]])
    x, y = left(design[k])[0], left(np.where(known, matrix.ravel(), 0))[0]
    lengths = np.linalg.norm(permuted, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_x, of_y = (np.nan_to_num(permuted @ z / lengths) for z in (x, y))

    def p_value(value: float) -> float:
        found = np.abs(of_y - value * of_x)
        return (found >= found[0] - 1e-9 * max(found.max(), 1e-300)).mean()

    estimate = of_y[0] / of_x[0]
    step = float(np.linalg.norm(y) / np.linalg.norm(x))
    ends = [_end(p_value, estimate, side * step, alpha) for side in (-1, 1)]
    floor = (np.abs(of_x) >= np.abs(of_x[0]) * (1 - 1e-9)).mean()
    return {"estimate": estimate, "low": ends[0], "high": ends[1], "p": p_value(0.0),
            "floor": floor}


def _fit(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(design.T, values, rcond=None)[0] @ design


def _end(p_value: Any, estimate: float, step: float, alpha: float) -> float:
    """How far from the estimate, in the direction of `step`, a value is not rejected."""
    inside, outside = estimate, estimate + step
    for _ in range(12):
        if p_value(outside) <= alpha:
            break
        inside, outside = outside, estimate + 2 * (outside - estimate)
    else:
        return math.copysign(math.inf, step)
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if p_value(middle) <= alpha else (middle, outside)
    return outside
