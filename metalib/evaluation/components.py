"""Variance of what is estimated from pairs of networks, from components of variance.

    design = Design.of(generators, observers, kinds_of_generators, kinds_of_observers, groups)
    found = design.combination(weights).of(values)     # estimate, error, degrees of freedom, parts

The model is that of round robins, the social relations model (Warner, Kenny & Stoto 1979,
doi:10.1037/0022-3514.37.10.1742), with networks nested in kinds, such as the seeds of one
architecture and training. A value is the mean of its group plus random effects of

- the generator and the observer, each of its kind and of itself; what a network does in both roles
  may be correlated;
- the pair, of both kinds and of both networks; the two directions of a pair may have something in
  common;
- the image, and the image with each of these.

Components are estimated by MINQUE (Rao 1971, doi:10.1016/0047-259X(71)90001-7), which is unbiased
also where cells are missing. A variance is a sum of them, and has the degrees of freedom of
Satterthwaite 1946 (doi:10.2307/3002019), but at least half of those of the kinds of the role that
has fewer: where components are estimated as 0, Satterthwaite's can be near 0 by chance. Degrees of
freedom are approximate; `metalib.evaluation.coverage` tells how often intervals hold in the designs
that are run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

MOST_CELLS = 5000  # pairs of networks; matrices of so many rows take 200 megabytes each
ROUNDING = 1e-12  # errors below this share of the values are those of floating point
RANK = 1e-9  # singular values below this share of the largest count as 0


class Found(NamedTuple):
    """A combination of means.

    Attributes:
        estimate: of the combination.
        error: its standard error; NaN if the design does not tell it.
        freedom: the degrees of freedom of the error.
        parts: shares of the variance by source, as in `SOURCES`, and "images".
    """

    estimate: float
    error: float
    freedom: float
    parts: Mapping[str, float]


SOURCES = {  # of variance, by component
    "kind of generator": "kinds of generators", "kind of observer": "kinds of observers",
    "both roles of a kind": "kinds in both roles", "pair of kinds": "pairs of kinds",
    "directed pair of kinds": "pairs of kinds", "generator": "generators", "observer": "observers",
    "both roles": "networks in both roles", "pair": "pairs of networks",
    "rest": "pairs of networks"}

BOTH = {"both roles of a kind": ("kind of generator", "kind of observer"),
        "both roles": ("generator", "observer")}


@dataclass(frozen=True, eq=False)
class Design:
    """Cells of generators and observers, and how their random effects are shared.

    Attributes:
        components: (cells, cells) for each component of variance, by name: its covariance; first
            "rest", which cells do not share.
        groups: (cells, K), indicators of the groups whose means are fixed.
        kinds: of generators or of observers, whichever are fewer.
    """

    components: dict[str, np.ndarray]
    groups: np.ndarray
    kinds: int

    @classmethod
    def of(
        cls, generators: np.ndarray, observers: np.ndarray, generator_kinds: np.ndarray,
        observer_kinds: np.ndarray, groups: np.ndarray,
    ) -> "Design":
        """The design of cells; the last ones that were asked for are kept.

        Args:
            generators, observers: (cells,) numbers of networks, the same for the same network.
            generator_kinds, observer_kinds: (cells,) numbers of their kinds, likewise.
            groups: (cells,) numbers of groups.

        Raises:
            ValueError: more than `MOST_CELLS` cells.
        """
        if len(generators) > MOST_CELLS:
            raise ValueError(
                f"{len(generators)} pairs of networks are too many for an interval, which takes "
                f"{MOST_CELLS} at most; choose fewer networks, or average those of one kind first")
        codes = generators, observers, generator_kinds, observer_kinds, groups
        return _design(*(np.asarray(code, np.int64).tobytes() for code in codes))

    def combination(self, weights: np.ndarray) -> "Combination":
        """A sum of cells with weights (cells,); the last ones that were asked for are kept."""
        return _combination(self, np.asarray(weights, float).tobytes())

    @cached_property
    def projection(self) -> np.ndarray:
        """(cells, cells): takes the means of groups out, and weights by the inverse covariance.

        For the weights all components but the correlations are supposed to be equally large.
        """
        weight = sum(matrix for name, matrix in self.components.items() if name not in BOTH)
        inverse = np.linalg.inv(weight)
        fixed = inverse @ self.groups
        return inverse - fixed @ np.linalg.pinv(self.groups.T @ fixed, hermitian=True) @ fixed.T

    @cached_property
    def expected(self) -> np.ndarray:
        """(C, C): what each component contributes to each quadratic form of MINQUE."""
        return _traces([self.projection @ matrix for matrix in self.components.values()])


@lru_cache(maxsize=8)
def _design(*codes: bytes) -> Design:
    generators, observers, generator_kinds, observer_kinds, groups = (
        np.frombuffer(code, np.int64) for code in codes)
    components = {"rest": np.eye(len(generators))} | _components(
        generators, observers, ("generator", "observer", "both roles", "pair"))
    if (len(set(generators)), len(set(observers))) != (
            len(set(generator_kinds)), len(set(observer_kinds))):
        components |= _components(generator_kinds, observer_kinds, (
            "kind of generator", "kind of observer", "both roles of a kind", "pair of kinds",
            "directed pair of kinds"))
    distinct: dict[str, np.ndarray] = {}
    for name, matrix in components.items():
        if matrix.any() and not any(np.array_equal(matrix, other) for other in distinct.values()):
            distinct[name] = matrix
    fewest = min(len(set(codes)) for codes in (generator_kinds, observer_kinds))
    return Design(distinct, np.eye(groups.max() + 1)[groups], fewest)


def _components(
    first: np.ndarray, second: np.ndarray, names: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """Which cells share the first, the second, one in both roles, both in any order, and both."""
    def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a[:, None] == b).astype(float)

    alike = same(first, first) * same(second, second)
    turned = same(first, second)
    crossed = turned * turned.T
    return dict(zip(names, (same(first, first), same(second, second), turned + turned.T,
                            np.maximum(alike, crossed), alike)))


@lru_cache(maxsize=32)
def _combination(design: Design, weights: bytes) -> "Combination":
    return Combination(design, np.frombuffer(weights))


@dataclass(frozen=True, eq=False)
class Combination:
    """A sum of cells with weights (cells,), and the quadratic form that estimates its variance."""

    design: Design
    weights: np.ndarray

    @cached_property
    def shares(self) -> np.ndarray:
        """(C,): how much of each component is in the variance of the sum."""
        return np.array([self.weights @ matrix @ self.weights
                         for matrix in self.design.components.values()])

    @cached_property
    def form(self) -> np.ndarray | None:
        """(cells, cells): its quadratic form estimates the variance; None if none does."""
        expected = self.design.expected
        weights = np.linalg.lstsq(expected, self.shares, rcond=RANK)[0]
        if not np.allclose(expected @ weights, self.shares, atol=1e-6 * self.shares.max()):
            return None
        middle = sum(weight * matrix for weight, matrix
                     in zip(weights, self.design.components.values()))
        return self.design.projection @ middle @ self.design.projection

    @cached_property
    def spread(self) -> np.ndarray:
        """(C, C): half the variance of the estimated variance is a sum over pairs of components."""
        return _traces([self.form @ matrix for matrix in self.design.components.values()])

    def of(self, values: np.ndarray, deviations: np.ndarray) -> Found:
        """The sum of values, its standard error and degrees of freedom.

        Args:
            values: (cells,) means over images.
            deviations: (cells, images), those of images from them, scaled so that the sum of
                weighted deviations of an image is its influence on the estimate.
        """
        estimate, images = float(self.weights @ values), deviations.shape[1]
        if images < 2 or self.form is None:
            return Found(estimate, np.nan, np.nan, {})
        scale = images * (images - 1)
        of_cells = max(values @ self.form @ values, 0)
        of_images = ((self.weights @ deviations) ** 2).sum() / scale
        in_both = max((deviations * (self.form @ deviations)).sum() / scale, 0)
        beyond = max(of_images - in_both, 0)  # what networks do not explain
        sizes = self._sizes(values)
        rest = (sizes * self.shares)[0]
        # components that are estimated below 0 do not take more than what is seen without them
        variance = max(of_cells + beyond, of_images, rest)
        if variance ** 0.5 <= ROUNDING * np.abs(values).max():  # nothing varies
            return Found(estimate, 0.0, np.inf, {})
        uncertain = sizes @ self.spread @ sizes
        if beyond or variance == of_images:
            uncertain += of_images ** 2 / (images - 1)
        freedom = max(variance ** 2 / uncertain if uncertain > 0 else 0,
                      (self.design.kinds - 1) / 2)
        return Found(estimate, variance ** 0.5, freedom,
                     self._parts(sizes, deviations, of_images))

    def _sizes(self, values: np.ndarray) -> np.ndarray:
        """Components (C,) or, with values (cells, images), their sums over images."""
        seen = self.design.projection @ values
        forms = [(seen * (matrix @ seen)).sum() for matrix in self.design.components.values()]
        found = np.linalg.lstsq(self.design.expected, np.array(forms), rcond=RANK)[0]
        sizes = {name: size if name in BOTH else max(size, 0)
                 for name, size in zip(self.design.components, found)}
        for both, roles in BOTH.items():  # no correlation is larger than 1
            most = np.sqrt(np.prod([sizes.get(role, 0) for role in roles]))
            if both in sizes:
                sizes[both] = np.clip(sizes[both], -most, most)
        return np.array(list(sizes.values()))

    def _parts(
        self, sizes: np.ndarray, deviations: np.ndarray, of_images: float,
    ) -> dict[str, float]:
        images = deviations.shape[1]
        noise = self._sizes(deviations) / (images * (images - 1))
        parts = dict.fromkeys([*SOURCES.values(), "images"], 0.0)
        for name, part in zip(self.design.components, (sizes - noise) * self.shares):
            parts[SOURCES[name]] += float(part)
        parts["images"] = float(of_images)
        total = sum(max(part, 0) for part in parts.values())
        return {name: max(part, 0) / total for name, part in parts.items() if part > 0}


def _traces(matrices: list[np.ndarray]) -> np.ndarray:
    """The traces of all products of two matrices."""
    flat = np.stack([matrix.ravel() for matrix in matrices])
    turned = np.stack([matrix.T.ravel() for matrix in matrices])
    return flat @ turned.T
