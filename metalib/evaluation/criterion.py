"""What an image has to reach to count as a metamer: null distributions and criteria, and `judge`.

    table = judge(model, "group3", metamers, null)                 # the published criterion
    table = judge(model, "group3", metamers, quantile(null, 1 - 1e-4))
    mine = Criterion("pearson 0.9", null, {"pearson": 0.9}, same_answer=False)
    generate(model, images, "group3", stop=mine)

One criterion serves the loop, which asks when an image is done, `judge`, and the transfer study.
"""

import functools
import html
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalib import metrics
from metalib.data import pixels, to_8_bits
from metalib.models import Model

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pearson": metrics.pearson, "spearman": metrics.spearman, "snr_db": metrics.snr_db}

RANK_UNITS = 50  # with fewer units Spearman does not gate: some unrelated images share a ranking


@dataclass(frozen=True)
class NullDistribution:
    """Similarities of random pairs of natural images at one stage of a model.

    Where a criterion is asked for, a null stands for the published one, `published(null)`.

    Attributes:
        values: for each metric of `METRICS`, float32 order statistics (K,) in descending order.
        order: (K,) int64, which order statistic each of them is; the first is 1, the maximum. All
            of 1 to `pairs`, or for the bundled nulls the first 300 and a selection of the others.
        pairs: the number of pairs.
        units: the number of units of the stage.
        about: a plain dict: model, stage, images, seed.
    """

    values: dict[str, np.ndarray]
    order: np.ndarray
    pairs: int
    units: int
    about: dict = field(default_factory=dict)

    @property
    def gates(self) -> tuple[str, ...]:
        """The metrics that the published criterion asks for.

        All three, without Spearman where there are fewer than `RANK_UNITS` units.
        """
        return tuple(metric for metric in METRICS
                     if metric != "spearman" or self.units >= RANK_UNITS)

    @property
    def maximum(self) -> dict[str, float]:
        """The largest similarity of all pairs, by metric: the published threshold."""
        return {metric: float(values[0]) for metric, values in self.values.items()}

    def quantile(self, q: float) -> dict[str, float]:
        """The q-quantile (between 0 and 1) by metric, interpolated as in numpy.quantile."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is asked for by a number between 0 and 1, not {q}")
        position = 1 + (1 - q) * (self.pairs - 1)
        return {metric: float(np.interp(position, self.order, values))
                for metric, values in self.values.items()}

    def p_value(self, metric: str, values: Any) -> np.ndarray:
        """Share of pairs at least as similar as each of `values`, (b + 1) / (pairs + 1).

        One-sided, never 0. Where only some order statistics are kept, the p-value is too large by
        at most the distance between two of them. Phipson & Smyth 2010,
        doi:10.2202/1544-6115.1585. NaN gives 1.
        """
        if metric not in self.values:
            raise ValueError(f"unknown metric {metric!r}; choose one of {', '.join(self.values)}")
        values = np.nan_to_num(np.asarray(values, dtype=np.float32), nan=-np.inf)
        at_least = np.searchsorted(-self.values[metric], -values, side="right")  # of those kept
        return (np.append(self.order, self.pairs + 1)[at_least]) / (self.pairs + 1)

    def check(self, model: Model, stage: str) -> None:
        """Raise a ValueError unless this is a null of that stage of that model."""
        ours = self.about.get("model", model.name), self.about.get("stage", stage), self.units
        theirs = model.name, stage, math.prod(model.shapes[stage])
        if ours != theirs:
            raise ValueError("the null is of {}, {} ({:,} units), not of {}, {} ({:,} units)"
                             .format(*ours, *theirs))

    def toward(self, model: Model, stage: str, references: Tensor) -> Callable[..., Tensor]:
        """As in `Criterion`, for the published one."""
        return published(self).toward(model, stage, references)

    def thinned(self, keep: int = 300) -> "NullDistribution":
        """The same null with the first `keep` order statistics and as many more, evenly spread."""
        rest = np.linspace(keep, self.pairs - 1, keep + 1).round().astype(np.int64)
        first = np.arange(min(keep, self.pairs))
        index = np.unique(np.concatenate([first, rest[rest < self.pairs]]))
        return NullDistribution({metric: values[index] for metric, values in self.values.items()},
                                self.order[index], self.pairs, self.units, self.about)

    def __repr__(self):
        of = ", ".join(str(self.about[key]) for key in ("model", "stage") if key in self.about)
        images = f" of {self.about['images']}" if "images" in self.about else ""
        return (f"<null{f' of {of}' if of else ''}: {self.pairs:,} pairs{images}, "
                f"{self.units:,} units, largest {_in_words(self.maximum)}>")

    def _repr_html_(self) -> str:
        small = self.quantile(1 - 1e-4)
        rows = "".join(
            f"<tr><th>{metric}</th><td>{self.maximum[metric]:.4g}</td>"
            f"<td>{small[metric]:.4g}</td><td>{'yes' if metric in self.gates else 'no'}</td></tr>"
            for metric in self.values)
        return (f"<div><code>{html.escape(repr(self))}</code></div><table><tr><th></th>"
                "<th>largest of all pairs</th><th>1 pair in 10,000</th><th>has to be reached</th>"
                f"</tr>{rows}</table>")

    def describe(self) -> dict:
        """A plain dict for a record: what the null is of, and its thresholds."""
        return {**self.about, "pairs": self.pairs, "units": self.units, "maximum": self.maximum,
                "gates": list(self.gates)}


@dataclass(frozen=True)
class Criterion:
    """What an image has to reach at a stage of a model to count as a metamer of its reference.

    Attributes:
        name: in tables and recipes.
        null: the null distribution of that stage of that model.
        thresholds: for each metric that gates, the least similarity of activations.
        same_answer: whether the model has to give the image the class that it gives the reference.
    """

    name: str
    null: NullDistribution
    thresholds: dict[str, float]
    same_answer: bool = True

    def __repr__(self):
        of = ", ".join(str(self.null.about[key]) for key in ("model", "stage")
                       if key in self.null.about)
        answer = ", and the class of the reference" if self.same_answer else ""
        return (f"<criterion {self.name!r}{f' of {of}' if of else ''}: at least "
                f"{_in_words(self.thresholds)}{answer}>")

    def __and__(self, other: "Criterion") -> "Criterion":
        """The criterion that asks for what both ask for; they are of one null."""
        if self.null is not other.null:
            raise ValueError(f"{self.name} and {other.name} are of different nulls")
        thresholds = {metric: max(c.thresholds[metric] for c in (self, other)
                                  if metric in c.thresholds)
                      for metric in self.thresholds | other.thresholds}
        return Criterion(f"{self.name} and {other.name}", self.null, thresholds,
                         self.same_answer or other.same_answer)

    def check(self, model: Model, stage: str) -> None:
        """Raise a ValueError unless this is a criterion for that stage of that model."""
        self.null.check(model, stage)

    def describe(self) -> dict:
        """A plain dict for a record."""
        return {**self.null.describe(), "criterion": self.name, "thresholds": self.thresholds,
                "same_answer": self.same_answer}

    def passes(
        self, count: int, device: torch.device | str, similarity: Callable[[str, Tensor], Tensor],
        agrees: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Which of `count` images pass, (count,) bool on a device.

        What costs most is asked for last, and only for the images that are left.

        Args:
            similarity: gives the similarity (n,) by the name of a metric and rows (n,) of images.
            agrees: says of rows (n,) whether the model gives them the class of their reference.
        """
        passed = torch.ones(count, dtype=torch.bool, device=device)
        for metric in sorted(self.thresholds, key="spearman".__eq__):
            rows = passed.nonzero().flatten()
            passed[rows] = similarity(metric, rows) >= self.thresholds[metric]
        if self.same_answer and len(rows := passed.nonzero().flatten()):
            passed[rows] = agrees(rows)
        return passed

    def toward(self, model: Model, stage: str, references: Tensor) -> Callable[..., Tensor]:
        """A function that says which images pass, with what references evoke computed once.

        Args:
            model, stage: whose activations.
            references: (B, 3, H, W) in [0, 1], on the device of the model.

        Returns:
            A function of images (b, 3, H, W) and the rows (b,) of their references, which gives
            (b,) bool, on the device of the images.
        """
        with torch.no_grad():
            evoked = Evoked(model.activations(references, stage), model.answer(references))

        def passed(images: Tensor, rows: Tensor) -> Tensor:
            with torch.no_grad():
                activations = model.activations(images, stage)
                return self.passes(
                    len(images), images.device,
                    lambda metric, some: evoked.similarity(metric, activations[some], rows[some]),
                    lambda some: model.answer(images[some]) == evoked.answers[rows[some]])

        return passed


def published(null: NullDistribution) -> Criterion:
    """The class of the reference, and every metric of `null.gates` at least the null's maximum.

    Feather et al. 2023, doi:10.1038/s41593-023-01442-0, Methods.
    """
    maximum = null.maximum
    return Criterion("published", null, {metric: maximum[metric] for metric in null.gates})


def quantile(null: NullDistribution, q: float) -> Criterion:
    """As published, with the q-quantile of the null in place of its maximum, which is noisy."""
    thresholds = null.quantile(q)
    return Criterion(f"quantile {q:g}", null, {metric: thresholds[metric] for metric in null.gates})


def without_classes(null: NullDistribution) -> Criterion:
    """As published, but for networks that have no classes, such as encoders."""
    return Criterion("without classes", null, published(null).thresholds, same_answer=False)


CRITERIA = {"published": published, "quantile": quantile, "without_classes": without_classes}


def _in_words(thresholds: dict[str, float]) -> str:
    return ", ".join(f"{metric} {value:.4g}" for metric, value in thresholds.items())


class Evoked:
    """What references evoke at a stage of a model, prepared to be compared with other images.

    Args:
        activations: (B, D).
        answers: (B,), the classes that the model gives to the references.
    """

    def __init__(self, activations: Tensor, answers: Tensor):
        self.activations, self.answers = activations, answers

    def similarity(self, metric: str, activations: Tensor, rows: Tensor | slice) -> Tensor:
        """Similarity (n,) of activations (n, D) to those of the references in `rows` (n,)."""
        if metric == "spearman":  # the references' ranks are computed once
            return (self._ranks[rows] * metrics.standardise(metrics.ranks(activations))).sum(-1)
        return METRICS[metric](self.activations[rows], activations)

    def similarity_from_products(self, activations: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Pearson correlation and signal-to-noise ratio, (n,) each, in one pass.

        As in `similarity`, up to roundings.
        """
        standard, mean, norm, spread = (values[rows] for values in self._moments)
        means = activations.mean(1)
        inner = torch.linalg.vecdot(standard, activations)
        norms = torch.linalg.vector_norm(activations, dim=1)
        units = activations.shape[1]
        spreads = (norms ** 2 - units * means ** 2).clamp_min(0).sqrt()
        constant = spreads <= 1e-4 * norms
        pearson = torch.where(constant, 0, inner / torch.where(constant, 1, spreads)).clamp(-1, 1)
        product = units * mean * means + spread * inner
        return {"pearson": pearson, "snr_db": metrics.snr_db_of_products(norm, norms, product)}

    @functools.cached_property
    def _ranks(self) -> Tensor:
        return metrics.standardise(metrics.ranks(self.activations))

    @functools.cached_property
    def _moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Standardised activations, their means, norms, and norms about the mean."""
        mean = self.activations.mean(1)
        return (metrics.standardise(self.activations), mean,
                torch.linalg.vector_norm(self.activations, dim=1),
                torch.linalg.vector_norm(self.activations - mean[:, None], dim=1))


def judge(
    model: Model, stage: str, metamers: Any, null: NullDistribution | Criterion,
) -> pd.DataFrame:
    """Judge metamers by a criterion. The image judged is the 8-bit image.

    Args:
        model, stage: where to judge; the generating model and stage, or others.
        metamers: Metamers, or anything with `images` and `references` (B, 3, H, W) in [0, 1].
        null: the NullDistribution of that model and stage, for the published criterion, or another
            Criterion.

    Returns:
        pandas.DataFrame, one row per image: `image` (its number), `pearson`, `spearman`, `snr_db`
        (20 log10), `class_match`, `passed` (see `Criterion`), `p_value` (the largest of those of
        the metrics that gate, so that it is small only if all are), `distance` and
        `distance_from_start` (root mean square over pixels in [0, 1], the second NaN where the
        start is not known), `evaluations` (NaN where not known), and, where the metamers have
        `files`, the `file` of the reference.

    Raises:
        ValueError: an unknown stage, a null of another model or stage, or images that the model
            cannot take.
    """
    criterion = published(null) if isinstance(null, NullDistribution) else null
    model.check_stage(stage)
    criterion.check(model, stage)
    images, references = to_8_bits(pixels(metamers.images)).cpu(), pixels(metamers.references).cpu()
    count, shown, against = len(images), images.to(model.device), references.to(model.device)
    with torch.no_grad():
        evoked = Evoked(model.activations(against, stage), model.answer(against))
        activations = model.activations(shown, stage)
        agrees = model.answer(shown) == evoked.answers
    similarity = {metric: evoked.similarity(metric, activations, slice(None))
                  for metric in METRICS}
    passed = criterion.passes(count, model.device, lambda metric, some: similarity[metric][some],
                              lambda some: agrees[some])
    table = pd.DataFrame({"image": range(count), **{
        metric: value.cpu().double() for metric, value in similarity.items()}})
    table["class_match"], table["passed"] = agrees.cpu().numpy(), passed.cpu().numpy()
    table["p_value"] = np.max([criterion.null.p_value(metric, table[metric])
                               for metric in criterion.thresholds], axis=0)
    table["distance"] = metrics.rms_distance(images, references).double().numpy()
    start = getattr(metamers, "starts", None)
    evaluations = getattr(metamers, "evaluations", None)
    table["distance_from_start"] = (
        math.nan if start is None else metrics.rms_distance(images, start).double().numpy())
    table["evaluations"] = math.nan if evaluations is None else evaluations.numpy()
    if files := getattr(metamers, "files", ()):
        table["file"] = list(files)
    return table
