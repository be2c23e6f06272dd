"""Resampling of stimuli: permutations for p-values, samples with replacement for intervals.

    chance = Chance(permutations=10_000, resamples=1_000, level=0.95, seed=0)
    chance.stand_ins(classes, n)        # (permutations, n): images in the place of references
    chance.interval(values)             # of the mean of one value per image
    p_value(observed, null)
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np


class Chance:
    """Permutations and resamples of stimuli, the same for all observers and stages.

    Args:
        permutations, resamples: how many.
        level: of intervals.
        seed: of all draws.
    """

    def __init__(self, permutations: int, resamples: int, level: float, seed: int):
        self.permutations, self.resamples = permutations, resamples
        self.level, self.seed = level, seed
        self._known: dict[tuple, Any] = {}

    def stand_ins(self, strata: np.ndarray, n: int) -> np.ndarray:
        """(permutations, n): see the function `stand_ins`."""
        return self._once(("stand-ins", n, strata.tobytes()),
                          lambda: stand_ins(strata, n, self.permutations, self.seed))

    def floor(self, strata: np.ndarray, n: int) -> float:
        """The smallest p-value of a test with these stand-ins.

        They are no more than the permutations, and than there are different ones.
        """
        log_number = sum(
            math.lgamma(count + 1) - math.lgamma(count - references + 1)
            for count, references in ((np.sum(strata == one), np.sum(strata[:n] == one))
                                      for one in np.unique(strata[:n])))
        return max(1 / (self.permutations + 1), math.exp(-log_number))

    def floor_of_choices(self, n: int, m: int) -> float:
        """The same with `choices`."""
        return max(1 / (self.permutations + 1), math.exp(-n * math.log(m + 1)))

    def orders(self, strata: np.ndarray) -> "Orders":
        """`Orders` of the references, within strata."""
        return self._once(("orders", strata.tobytes()),
                          lambda: Orders(self.stand_ins(strata, len(strata))))

    def weights(self, n: int) -> np.ndarray:
        """(resamples, n): how often each stimulus is in a sample with replacement."""
        draw = np.random.default_rng([self.seed, 1]).multinomial
        return self._once(("weights", n), lambda: draw(
            n, np.full(n, 1 / n), self.resamples).astype(float))

    def choices(self, n: int, m: int) -> np.ndarray:
        """(permutations, n): which of m + 1 exchangeable images takes each metamer's place."""
        draw = np.random.default_rng([self.seed, 2]).integers
        return self._once(("choices", n, m),
                          lambda: draw(m + 1, size=(self.permutations, n)))

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Percentile interval of the mean of one value per image (n,)."""
        return self.quantiles(self.weights(len(values)) @ values / len(values))

    def quantiles(self, values: np.ndarray) -> tuple[float, float]:
        """Low and high end of the interval between quantiles; NaN where no value is finite."""
        values = values[np.isfinite(values)]
        if not len(values):
            return np.nan, np.nan
        low, high = np.quantile(values, ((1 - self.level) / 2, (1 + self.level) / 2))
        return low, high

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def stand_ins(strata: np.ndarray, n: int, count: int, seed: int) -> np.ndarray:
    """Which natural image takes the place of each reference, within its stratum.

    Args:
        strata: (N,), one number for each natural image; the references come first.
        n: the number of references.
        count: how many permutations of the N images.
        seed: of the permutations.

    Returns:
        (count, n) int32: of each permutation the first n places.
    """
    generator, chosen = np.random.default_rng([seed, 0]), np.empty((count, n), dtype=np.int32)
    rank = np.unique(strata, return_inverse=True)[1]
    members = [np.flatnonzero(rank == stratum) for stratum in np.unique(rank[:n])]
    step = max(1, 2_000_000 // len(strata))
    for start in range(0, count, step):
        random = generator.random((min(step, count - start), len(strata)))
        for images in members:
            references = images[images < n]
            chosen[start:start + step, references] = images[_first(
                rank[images[0]] + random[:, images], len(references))]
    return chosen


def _first(keys: np.ndarray, count: int) -> np.ndarray:
    """(rows, count): where the first of each row (rows, N) would be, if it were sorted.

    The rest is not sorted, of which with many images there is most.
    """
    some = np.argpartition(keys, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(keys, some, axis=1), axis=1)
    return np.take_along_axis(some, order, axis=1)


class Orders:
    """Permutations (count, n) of n stimuli, for rows and columns of dissimilarity matrices."""

    def __init__(self, orders: np.ndarray):
        n = orders.shape[1]
        self.orders = orders
        self.flat: np.ndarray | None = None
        if len(orders) * n * (n - 1) // 2 <= 10_000_000:  # more would take too much memory
            self.pairs = np.triu_indices(n, 1)
            self.flat = orders[:, self.pairs[0]] * np.int32(n) + orders[:, self.pairs[1]]

    def products(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(count,): sums of a_ij b_kl over the pairs i < j, where k and l take their places."""
        if self.flat is not None:
            return b.ravel()[self.flat] @ a[self.pairs]  # np.take would be half as fast
        return np.array([sum(
            np.einsum("ij,ij->", a[rows], b[order[rows]][:, order], dtype=np.float64)
            for rows in row_blocks(len(a))) / 2 for order in self.orders])


def row_blocks(n: int, size: int = 500) -> list[slice]:
    """Slices of n rows, so that a large matrix can be taken block by block."""
    return [slice(start, start + size) for start in range(0, n, size)]


def p_value(observed: Any, null: Any) -> np.ndarray:
    """(b + 1) / (m + 1) for one number against a null (m,), or for rows of them.

    b counts what is at least as large; values that differ by rounding alone are equal.
    """
    null = np.asarray(null)
    slack = 1e-9 * max(1.0, np.abs(null).max(initial=0))
    at_least = (null >= np.expand_dims(observed, -1) - slack).sum(-1)
    return (1 + at_least) / (null.shape[-1] + 1)
