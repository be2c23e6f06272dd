"""What an image has to reach to count as a metamer: null distributions and criteria, and `judge`.

    table = judge(model, "group3", metamers, null)                 # the published criterion
    table = judge(model, "group3", metamers, quantile(null, 1 - 1e-4))
    mine = Criterion("pearson 0.9", null, {"pearson": 0.9}, same_answer=False)
    generate(model, images, "group3", stop=mine)

One criterion serves the loop, which asks when an image is done, `judge`, and the transfer study.

Where what it asks for is not defined, there is no verdict, and nothing passes: where the
activations of a reference are all the same number, where those of unrelated images are the same, or
where no class is the largest.
"""

import dataclasses
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
from metalib.notices import warn
from metalib.store import fingerprint

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pearson": metrics.pearson, "spearman": metrics.spearman, "snr_db": metrics.snr_db}

RANK_UNITS = 50  # with fewer units Spearman does not gate: some unrelated images share a ranking

LEAST_PAIRS = 40  # each pair in both orders: with fewer, 1 unrelated image in 20 passes by chance
LEAST_UNITS = 3  # two numbers always correlate by 1 or -1
ALIKE = {"pearson": 1 - 1e-6, "spearman": 1 - 1e-6, "snr_db": 60.0}  # equal, in single precision


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
        about: a plain dict: model, its fingerprint (see `metalib.store.fingerprint`), stage,
            images, how many copies among them were left out, seed.
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

        One-sided, never 0. Where only some order statistics are kept, b is interpolated between
        them, as in `quantile`; in the upper tail, whose density falls, the p-value is then at most
        too large. Phipson & Smyth 2010, doi:10.2202/1544-6115.1585. NaN gives 1.
        """
        if metric not in self.values:
            raise ValueError(f"unknown metric {metric!r}; choose one of {', '.join(self.values)}")
        values = np.nan_to_num(np.asarray(values, dtype=np.float32), nan=-np.inf)
        kept = self.values[metric]
        at_least = np.searchsorted(-kept, -values, side="right")  # of those kept
        order = np.concatenate([[0], self.order, [self.pairs + 1]])
        ends = np.concatenate([kept[:1], kept, kept[-1:]]).astype(float)
        first, last, above, below = (x[at_least + k] for x in (order, ends) for k in (0, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.clip(np.nan_to_num((above - values) / (above - below)), 0, 1)
        return (first + 1 + part * (last - first - 1)) / (self.pairs + 1)

    def mean(self, metric: str) -> float:
        """The mean similarity of all pairs, interpolated where only some are kept."""
        every = np.interp(np.arange(1, self.pairs + 1), self.order, self.values[metric])
        return float(every.mean())

    def flaw(self, metric: str) -> str:
        """Why no verdict can rest on a metric here, in words; empty if one can.

        A null of fewer than `LEAST_PAIRS` pairs; a correlation of fewer than `LEAST_UNITS` units;
        a stage where unrelated images are alike: all pairs are equally similar, or one in twenty
        cannot be told from equal (`ALIKE`).
        """
        if self.pairs < LEAST_PAIRS:
            return f"a null of {self.pairs} pairs is too small, {LEAST_PAIRS} are the least"
        if metric != "snr_db" and self.units < LEAST_UNITS:
            return f"{self.units} units have no correlation"
        values = self.values[metric]
        if values[0] == values[-1] or not self.quantile(0.95)[metric] < ALIKE[metric]:
            return "the activations of unrelated images cannot be told apart"
        return ""

    def check(self, model: Model, stage: str) -> None:
        """Raise a ValueError unless this is a null of that stage of that model.

        Warns:
            UserWarning: no verdict can rest on it, see `flaw`.
        """
        published(self).check(model, stage)

    def check_origin(self, name: str, stage: str, identity: str, units: int) -> None:
        """Raise a ValueError unless this is a null of a model, by its fingerprint, and stage.

        A null of version 0.1 knows no fingerprint.
        """
        ours = self.about.get("model", name), self.about.get("stage", stage), self.units
        if ours != (name, stage, units):
            raise ValueError("the null is of {}, {} ({:,} units), not of {}, {} ({:,} units)"
                             .format(*ours, name, stage, units))
        if self.about.get("fingerprint", identity) != identity:
            raise ValueError(
                f"the null of {name}, {stage} was computed with other weights, another "
                "normalisation or other code of that model; compute it again with "
                "null_distribution(model, stage, images)")

    def on(self, model: Model) -> "NullDistribution | Criterion":
        """As in `Criterion`."""
        return self if model.has_classes else without_classes(self)

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
            Not asked of models that have no classes, see `on`.

    Raises:
        ValueError: an unknown metric, a threshold that everything reaches, or nothing asked for.
    """

    name: str
    null: NullDistribution
    thresholds: dict[str, float]
    same_answer: bool = True

    def __post_init__(self):
        if unknown := self.thresholds.keys() - METRICS:
            raise ValueError(f"unknown metrics {', '.join(sorted(unknown))} in the criterion "
                             f"{self.name}; choose from {', '.join(METRICS)}")
        if -math.inf in self.thresholds.values() or not (self.thresholds or self.same_answer):
            raise ValueError(f"everything would pass the criterion {self.name}; give it finite "
                             "thresholds, or same_answer=True")

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
        """Raise a ValueError unless this is a criterion for that stage of that model.

        Warns:
            UserWarning: it gives no verdicts there, see `flaw`.
        """
        self.null.check_origin(
            model.name, stage, fingerprint(model), math.prod(model.shapes[stage]))
        if flaw := self.flaw:
            warn(f"{model.name}, {stage}: {flaw}; verdicts are undefined, and nothing passes")

    @functools.cached_property
    def flaw(self) -> str:
        """Why the criterion gives no verdicts, in words; empty if it does."""
        flaws = [self.null.flaw(metric) for metric in self.thresholds]
        if any(math.isnan(threshold) for threshold in self.thresholds.values()):
            flaws.append("a threshold is not a number")
        return next(filter(None, flaws), "")

    def on(self, model: Model) -> "Criterion":
        """The same criterion, for a model without classes one that does not ask for an answer."""
        if model.has_classes or not self.same_answer:
            return self
        return dataclasses.replace(
            self, name=f"{self.name}, without classes", same_answer=False)

    def usable(self, activations: Tensor) -> Tensor:
        """For which activations (n, D) all that is asked for is defined, (n,) bool."""
        found = activations.isfinite().all(1) & (self.flaw == "")
        for metric in self.thresholds:
            found &= defined(metric, activations)
        return found

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

    def p_value(self, similarity: Any) -> np.ndarray:
        """The largest p-value of the metrics that are asked for, so that it is small if all are.

        The answer has no part in it.

        Args:
            similarity: values (n,) by the name of a metric, such as the columns of a table.

        Returns:
            (n,); NaN without metrics.
        """
        found = [self.null.p_value(metric, similarity[metric]) for metric in self.thresholds]
        return np.max(found, axis=0) if found else np.array(math.nan)

    def toward(self, model: Model, stage: str, references: Tensor) -> Callable[..., Tensor]:
        """A function that says which images pass, with what references evoke computed once.

        Args:
            model, stage: whose activations.
            references: (B, 3, H, W) in [0, 1], on the device of the model.

        Returns:
            A function of images (b, 3, H, W) and the rows (b,) of their references, which gives
            (b,) bool, on the device of the images.
        """
        criterion, evoked = self.on(model), Evoked.of(model, stage, references)
        usable = criterion.usable(evoked.activations)

        def passed(images: Tensor, rows: Tensor) -> Tensor:
            with torch.no_grad():
                activations = model.activations(images, stage)
                found = criterion.passes(
                    len(images), images.device,
                    lambda metric, some: evoked.similarity(metric, activations[some], rows[some]),
                    lambda some: evoked.agrees(answers(model, images[some]), rows[some]))
                return found & usable[rows] & criterion.usable(activations)

        return passed

    def verdicts(
        self, evoked: "Evoked", rows: Tensor, activations: Tensor, given: Tensor,
        similarity: Callable[[str, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Which images pass, and for which there is a verdict, (n,) bool each.

        Args:
            evoked, rows: by the references, and which of these belong to the images.
            activations, given: (n, D), of the images, and the answers (n,) to them.
            similarity: as in `passes`.
        """
        judged = self.usable(evoked.activations[rows]) & activations.isfinite().all(1)
        if self.same_answer:
            judged &= (given >= 0) & (evoked.answers[rows] >= 0)
        passed = self.passes(len(rows), rows.device, similarity,
                             lambda some: evoked.agrees(given[some], rows[some]))
        return passed & judged & self.usable(activations), judged


def published(null: NullDistribution) -> Criterion:
    """The class of the reference, and every metric of `null.gates` at least the null's maximum.

    Feather et al. 2023, doi:10.1038/s41593-023-01442-0, Methods.
    """
    maximum = null.maximum
    return Criterion("published", null, {metric: maximum[metric] for metric in null.gates})


def quantile(null: NullDistribution, q: float) -> Criterion:
    """As published, with the q-quantile of the null in place of its maximum, which is noisy.

    Raises:
        ValueError: q is not above 0, where every pair of unrelated images passes, and at most 1.

    Warns:
        UserWarning: the null has too few pairs for such a quantile, and its maximum stands for it.
    """
    if not 0 < q <= 1:
        raise ValueError(f"the criterion takes a quantile above 0 and at most 1, not {q}")
    smallest = 1 / (null.pairs + 1)
    if 0 < 1 - q < smallest:
        warn(f"a null of {null.pairs:,} pairs has no quantile {q:g}, for which its maximum stands, "
             f"and no p-value by it is below {smallest:.2g}; take more pairs, or more images")
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
        answers: (B,), the classes that the model gives to the references; -1 for none.
    """

    def __init__(self, activations: Tensor, answers: Tensor):
        self.activations, self.answers = activations, answers

    @classmethod
    def of(cls, model: Model, stage: str, references: Tensor) -> "Evoked":
        """What references (B, 3, H, W), on the device of the model, evoke there."""
        with torch.no_grad():
            return cls(model.activations(references, stage), answers(model, references))

    def agrees(self, given: Tensor, rows: Tensor | slice) -> Tensor:
        """Whether answers (n,) are those to the references in `rows`; not where there is none."""
        return (given == self.answers[rows]) & (given >= 0)

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


def defined(metric: str, activations: Tensor) -> Tensor:
    """For which activations (n, D) a metric is defined, (n,) bool.

    A correlation is not where they are all the same number, nor for fewer than `LEAST_UNITS`; a
    ratio of signal to noise is not where they are all zero; neither is where one is not finite.
    """
    low, high = activations.aminmax(dim=1)
    if metric == "snr_db":
        return (high - low).isfinite() & ((low < 0) | (high > 0))
    return (high - low).isfinite() & (low < high) & (activations.shape[1] >= LEAST_UNITS)


def answers(model: Model, images: Tensor) -> Tensor:
    """The answers (B,) of a model, as in `Model.answer`; -1 from a model without classes."""
    if model.has_classes:
        return model.answer(images)
    return torch.full((len(images),), -1, device=images.device)


def truths(values: Any, known: Any) -> Any:
    """Booleans (n,) for a table, missing where they are not known."""
    values, known = np.asarray(values, dtype=bool), np.asarray(known, dtype=bool)
    return values if known.all() else pd.arrays.BooleanArray(values, ~known)


def judge(
    model: Model, stage: str, metamers: Any, null: NullDistribution | Criterion,
) -> pd.DataFrame:
    """Judge metamers by a criterion. The image judged is the 8-bit image.

    There is no verdict where what the criterion asks for is not defined: no image passes at a stage
    where unrelated images are alike (see `NullDistribution.flaw`), none whose reference evokes no
    activations that differ, and none of whose two answers one is missing, since no class is the
    largest. A model without classes is judged by the criterion without them.

    Args:
        model, stage: where to judge; the generating model and stage, or others.
        metamers: Metamers, or anything with `images` and `references` (B, 3, H, W) in [0, 1].
        null: the NullDistribution of that model and stage, for the published criterion, or another
            Criterion.

    Returns:
        pandas.DataFrame, one row per image: `image` (its number), `passed` (see `Criterion`),
        `verdict` ("passed", "failed" or "undefined"), `pearson`, `spearman`, `snr_db`
        (20 log10; NaN where not defined for the reference), `class_match` (missing where an answer
        is), `p_value` (the largest of those of the metrics that gate, so that it is small only if
        all are; NaN without a verdict or such metrics), `distance` and
        `distance_from_start` (root mean square over pixels in [0, 1], the second NaN where the
        start is not known), `evaluations` (NaN where not known) and, where the metamers have
        `files`, the `file` of the reference. Its `attrs` name the `criterion`, and why there are
        no verdicts (`undefined`, empty if there are).

    Raises:
        ValueError: an unknown stage, a null of another model (or of other weights, normalisation or
            code) or stage, or images that the model cannot take.

    Warns:
        UserWarning: the criterion gives no verdicts at this stage.
    """
    model.check_stage(stage)
    criterion = (published(null) if isinstance(null, NullDistribution) else null).on(model)
    criterion.check(model, stage)
    images, references = to_8_bits(pixels(metamers.images)).cpu(), pixels(metamers.references).cpu()
    shown, rows = images.to(model.device), torch.arange(len(images), device=model.device)
    evoked = Evoked.of(model, stage, references.to(model.device))
    with torch.no_grad():
        activations, given = model.activations(shown, stage), answers(model, shown)
    similarity = {metric: evoked.similarity(metric, activations, rows) for metric in METRICS}
    passed, judged = (found.cpu().numpy() for found in criterion.verdicts(
        evoked, rows, activations, given, lambda metric, some: similarity[metric][some]))
    table = pd.DataFrame({
        "image": range(len(images)), "passed": passed,
        "verdict": np.where(judged, np.where(passed, "passed", "failed"), "undefined"),
        **{metric: value.where(defined(metric, evoked.activations), math.nan).cpu().double()
           for metric, value in similarity.items()}})
    table["class_match"] = truths(
        evoked.agrees(given, rows).cpu(), ((given >= 0) & (evoked.answers >= 0)).cpu())
    table["p_value"] = np.where(judged, criterion.p_value(table), math.nan)
    table["distance"] = metrics.rms_distance(images, references).double().numpy()
    start = getattr(metamers, "starts", None)
    evaluations = getattr(metamers, "evaluations", None)
    table["distance_from_start"] = (
        math.nan if start is None else metrics.rms_distance(images, start).double().numpy())
    table["evaluations"] = math.nan if evaluations is None else evaluations.numpy()
    if files := getattr(metamers, "files", ()):
        table["file"] = list(files)
    table.attrs = {"criterion": criterion.name, "undefined": criterion.flaw}
    return table
