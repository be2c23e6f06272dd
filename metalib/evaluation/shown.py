"""What observers make of pictures that are shown to them, beside what the references evoke.

    observer = Observer(model, references, batch_size=100)
    observer.tables({"group3": null}, metamers, controls=True)["group3"]
    positive_controls(["zoo/vgg-standard-0"], references)       # of copies of the references

A *match* is the Pearson correlation of an observer's activations to a picture and to its reference.
`Scale` says what it amounts to at that stage of that observer.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalib.data import ImageSet, to_bytes
from metalib.evaluation.confidence import confidence
from metalib.evaluation.controls import CEILING, COPIES
from metalib.evaluation.correspondence import relative_depth
from metalib.evaluation.criterion import (
    LEAST_PAIRS,
    Evoked,
    NullDistribution,
    defined,
    published,
    truths,
)
from metalib.evaluation.inventory import Loader, Nulls
from metalib.labels import places
from metalib.metrics import pearson
from metalib.models import Model
from metalib.notices import warn
from metalib.plain import remembered, whole
from metalib.store import fingerprint

_CEILINGS: dict[Any, float] = {}


@dataclass(frozen=True)
class Scale:
    """What a match amounts to at a stage of an observer: 0 for unrelated images, 1 for copies.

    The scaled match is (match - `null`) / (`ceiling` - `null`). A raw correlation of .9 may be
    what any two photographs have at one stage, and far below what a photograph moved by a pixel has
    at another; scaled, stages and observers can be averaged. It is the idea of a noise ceiling
    (Nili et al. 2014, doi:10.1371/journal.pcbi.1003553): a match is read against the highest that
    can be expected. There, noise between measurements sets it, and here a change of the picture
    that leaves what it shows.

    Both ends are means over images: one pair of numbers for each observer and stage. Since the
    scale is linear then, the mean of scaled matches is the scaled mean: a ratio of means. Ends for
    each image would give a mean of ratios, in which images whose copies match badly weigh most.

    The correlation is raw, as that of the criterion and its null, so that one number is scaled,
    judged and published. What all images evoke alike raises the null and both ends together, and
    the scale takes it out.

    A metamer may lie above 1, if it is more like its reference than the copies are, and below 0.

    Attributes:
        null: the mean correlation of pairs of unrelated natural images, those of the null.
        ceiling: the mean correlation of references with copies of them, shifted by one pixel and
            compressed as JPEG (see `metalib.evaluation.controls.copies`).
        least: the null's 95 % quantile. Where the ceiling is not above it, copies are hardly more
            alike than unrelated images, the scale has no length, and scaled matches are NaN.
    """

    null: float
    ceiling: float
    least: float

    def __call__(self, match: Any) -> Any:
        """Scaled matches, of any shape."""
        length = self.ceiling - self.null if self.ceiling > self.least else np.nan
        return (match - self.null) / length


class Observer:
    """A model that looks at pictures, and what the references evoke in it, computed once.

    Pictures of another size than the model takes are resized, see `Model.fitted`.

    Args:
        model: the observer.
        images: the references.
        batch_size: images that go through the model together.
        stages: to be looked at; others are read when they are needed.
    """

    def __init__(
        self, model: Model, images: ImageSet, batch_size: int, stages: Collection[str] = (),
    ):
        self.model, self.images, self.batch_size = model, images, batch_size
        self.labels = labels_of(model, images)
        batches = self._batches(images.images)
        with torch.no_grad():
            read = [model.read(batch, [*stages], logits=model.has_classes) for batch in batches
                    ] if model.has_classes or stages else []
        logits = [given for _, given in read] if model.has_classes else []
        self.answers, self.reference_recognised, _ = self._said(logits, len(images))
        self.known = {stage: Evoked(torch.cat([found[stage] for found, _ in read]), self.answers)
                      for stage in stages}

    def tables(
        self, nulls: Mapping[str, NullDistribution], metamers: dict[str, Tensor], controls: bool,
    ) -> dict[str, pd.DataFrame]:
        """What the observer makes of metamers and of their controls: by stage, a row per image.

        Args:
            nulls: by stage of the observer.
            metamers: 8-bit `images` and `controls` (B, 3, H, W); `passed`, `distance` and
                `evaluations` (B,), which go through.
            controls: whether to look at the controls, too.
        """
        seen = self.look(nulls, metamers["images"])
        others = self.look(nulls, metamers["controls"]) if controls else {}
        return {stage: self._table(stage, null, metamers, seen[stage], others.get(stage))
                for stage, null in nulls.items()}

    def _table(
        self, stage: str, null: NullDistribution, metamers: dict[str, Tensor],
        seen: dict[str, Any], controls: dict[str, Any] | None,
    ) -> pd.DataFrame:
        scale = self.scale(stage, null)
        columns = {"image": np.arange(len(self.images)),
                   **{name: seen[name] for name in ("recognised", "agrees", "confidence", "match")},
                   "scaled_match": scale(seen["match"]), "p_value": seen["p_value"],
                   "passed": seen["passed"],
                   "generator_passed": metamers["passed"].bool().numpy(),
                   "distance": metamers["distance"].numpy(),
                   "evaluations": metamers["evaluations"].numpy(),
                   "reference_recognised": self.reference_recognised,
                   "null_mean": scale.null, "ceiling": scale.ceiling}
        if controls:
            columns |= {f"control_{name}": controls[name] for name in (
                "recognised", "agrees", "match", "p_value", "passed")}
            columns["control_scaled_match"] = scale(controls["match"])
        return pd.DataFrame(columns)

    def scale(self, stage: str, null: NullDistribution) -> Scale:
        """The scale of matches at a stage, with the ceiling of these references."""
        key = fingerprint(self.model), stage, self.images.sha256
        return Scale(null.mean("pearson"), remembered(_CEILINGS, key, lambda: self._ceiling(stage)),
                     null.quantile(0.95)["pearson"])

    def _ceiling(self, stage: str) -> float:
        evoked, found = self._evoked(stage).activations, []
        for name in CEILING:
            with torch.no_grad():
                found += [self.model.activations(batch, stage) for batch in self._batches(
                    COPIES[name](self.images.images))]
        similar = pearson(evoked.repeat(len(CEILING), 1), torch.cat(found)).double()
        known = defined("pearson", evoked).repeat(len(CEILING))
        return similar[known].mean().item()

    def look(
        self, nulls: Mapping[str, NullDistribution], pictures: Tensor,
    ) -> dict[str, dict[str, Any]]:
        """Columns of tables for pictures (B, 3, H, W) of 8 bits, in the references' order.

        Args:
            nulls: by stage; all stages are read in one pass.

        Returns:
            By stage, `recognised`, `confidence`, `agrees`, `match`, `p_value` and `passed`, (B,)
            each, as in `transfer_study`.
        """
        classes, stages, said = self.model.has_classes, list(nulls), []
        every = torch.arange(len(pictures), device=self.model.device)
        found: dict[str, list] = {stage: [] for stage in stages}
        for batch, rows in zip(self._batches(pictures), every.split(self.batch_size)):
            with torch.no_grad():
                read, logits = self.model.read(batch, stages, logits=classes)
            given = self.model.answer_of(logits) if classes else torch.full_like(rows, -1)
            said += [logits] if classes else []
            for stage in stages:
                found[stage].append(self._compared(stage, nulls[stage], read[stage], given, rows))
        answers, recognised, confident = self._said(said, len(pictures))
        there = (answers >= 0) & (self.answers >= 0)
        about = {"recognised": recognised, "confidence": confident,
                 "agrees": truths((there & (answers == self.answers)).cpu(), there.cpu())}
        return {stage: about | self._columns(stage, nulls[stage], parts)
                for stage, parts in found.items()}

    def _compared(
        self, stage: str, null: NullDistribution, activations: Tensor, given: Tensor, rows: Tensor,
    ) -> tuple[Tensor, ...]:
        """Match, p-value, whether it passes and whether there is a verdict, (n,) each, of a batch.

        Args:
            stage, null: of the observer.
            activations, given: (n, D) and the answers (n,), of the pictures.
            rows: (n,), the numbers of their references.
        """
        criterion, evoked = published(null).on(self.model), self._evoked(stage)
        similar = evoked.similarity_from_products(activations, rows)
        similar |= {metric: evoked.similarity(metric, activations, rows)
                    for metric in criterion.thresholds if metric not in similar}
        p_value = criterion.p_value({name: values.cpu() for name, values in similar.items()})
        return (similar["pearson"], torch.as_tensor(p_value).expand(len(rows)),
                *criterion.verdicts(evoked, rows, activations, given,
                                    lambda metric, some: similar[metric][some]))

    def _columns(self, stage: str, null: NullDistribution, parts: list) -> dict[str, Any]:
        match, p_value, passed, judged = (torch.cat(some).cpu() for some in zip(*parts))
        alike = null.flaw("pearson") if null.pairs >= LEAST_PAIRS else ""
        known = defined("pearson", self._evoked(stage).activations).cpu() & (alike == "")
        return {"match": match.double().where(known, np.nan).numpy(),
                "p_value": p_value.double().where(known, np.nan).numpy(),
                "passed": truths(passed, judged)}

    def _evoked(self, stage: str) -> Evoked:
        if stage not in self.known:
            with torch.no_grad():
                activations = [self.model.activations(batch, stage)
                               for batch in self._batches(self.images.images)]
            self.known[stage] = Evoked(torch.cat(activations), self.answers)
        return self.known[stage]

    def _said(self, logits: list[Tensor], count: int) -> tuple[Tensor, Any, np.ndarray]:
        """Answers (count,), whether they are the true ones, and the confidence in them.

        Whether they are true is missing where the truth or the answer is; of models without
        classes, whose list of logits is empty, all is.
        """
        if not logits:
            none = torch.full((count,), -1, device=self.model.device)
            return none, truths(np.zeros(count), np.zeros(count)), np.full(count, np.nan)
        every = torch.cat(logits)
        answers = self.model.answer_of(every)
        given, right = answers.cpu(), answers.cpu() == self.labels
        if self.model.coarse_names:
            truth = self.model.coarse_of(self.labels)
            right = torch.where(truth >= 0, given == truth, every.cpu().argmax(1) == self.labels)
        return (answers, truths(right, (self.labels >= 0) & (given >= 0)),
                confidence(every).cpu().double().numpy())

    def _batches(self, pictures: Tensor) -> list[Tensor]:
        """Pictures in [0, 1], also of 8 bits, as the model takes them."""
        return [self.model.fitted(batch.float() / (1 if batch.is_floating_point() else 255))
                for batch in pictures.to(self.model.device).split(self.batch_size)]


def labels_of(model: Model, images: ImageSet) -> Tensor:
    """The labels as classes of the model, -1 where unknown: by name where images have names.

    Raises:
        ValueError: labels without names that are no classes of the model.

    Warns:
        UserWarning: no class of the images is one of the model.
    """
    known = images.labels >= 0
    if not model.has_classes or not known.any():
        return images.labels
    if not images.class_names:
        if model.class_names and images.labels.max() >= len(model.class_names):
            raise ValueError(f"labels reach to {images.labels.max()}, and {model.name} has "
                             f"{len(model.class_names)} classes: give the images class_names")
        return images.labels
    place = torch.tensor(places(images.class_names, model.class_names))
    labels = torch.where(known, place[images.labels.clamp_min(0)], -1)
    if (labels < 0).all():
        warn(f"{model.name} knows none of the classes of {images.name}, so that nothing is said "
             "to be recognised: " + (
                 "its classes are " + ", ".join(model.class_names[:4]) + ", ..."
                 if model.class_names else "pass class_names= to wrap_model"))
    return labels


# --- Positive controls --------------------------------------------------------------------------

def positive_controls(
    observers: Any, images: ImageSet, *, stages: Any = None,
    nulls: Mapping[tuple[str, str], NullDistribution] | None = None,
    null_images: ImageSet | None = None, batch_size: int = 100, device: Any = None,
    allow_pickle: bool = False,
) -> pd.DataFrame:
    """What observers make of copies of the references, which any sensible yardstick lets pass.

    Args:
        observers, images, nulls, null_images, batch_size, device, allow_pickle: as in
            `metalib.transfer_study`.
        stages: names of stages that all observers have; None takes all of each.

    Returns:
        pandas.DataFrame, one row per observer, stage, kind of copy and image:

        - `observer`, `stage`, `depth` (its position among the stages, 0 to 1), `image`, and
          `control`, a name of `metalib.evaluation.controls.COPIES`;
        - `match`, `scaled_match`, `p_value`, `agrees`, `passed`: as in `metalib.transfer_study`.
          The mean of scaled matches over shifted and compressed copies is 1 by definition;
        - `null_mean`, `null_1e-3`, `null_1e-4`, `null_maximum` and `ceiling` of the observer's
          Pearson correlations at this stage;
        - `observer_architecture`, `observer_training`: from its card, or missing.

    Raises:
        ValueError: as in `metalib.transfer_study`.
    """
    load = Loader(device, allow_pickle, {})
    known, parts = Nulls(nulls or {}, null_images), []
    entries = load.entries(observers, images, "observers")
    known.check([(entry, stage) for entry in entries for stage in stages or entry.stages
                 if stage in entry.stages])
    batch_size = whole("batch_size", batch_size, 1)
    for entry in entries:
        observer = Observer(load(entry), images, batch_size)
        about = {f"observer_{key}": entry.card.get(key) for key in ("architecture", "training")}
        for stage in stages or entry.stages:
            observer.model.check_stage(stage)
            parts.append(_copies_seen(observer, stage, known(observer.model, stage)).assign(
                observer=entry.name, stage=stage, depth=relative_depth(entry.stages, stage),
                **about))
    table: Any = pd.concat(parts, ignore_index=True)
    first = ["observer", "stage", "depth", "control", "image"]
    return table[[*first, *table.columns.drop(first)]].astype(
        {"observer_architecture": "str", "observer_training": "str"})


def _copies_seen(observer: Observer, stage: str, null: NullDistribution) -> pd.DataFrame:
    """The rows of one observer and stage."""
    scale, parts = observer.scale(stage, null), []
    ends = {"null_mean": scale.null, "null_1e-3": null.quantile(1 - 1e-3)["pearson"],
            "null_1e-4": null.quantile(1 - 1e-4)["pearson"],
            "null_maximum": null.maximum["pearson"], "ceiling": scale.ceiling}
    for name, change in COPIES.items():
        pictures = to_bytes(change(observer.images.images))
        seen = observer.look({stage: null}, pictures)[stage]
        parts.append(pd.DataFrame({
            "control": name, "image": range(len(pictures)), "match": seen["match"],
            "scaled_match": scale(seen["match"]),
            **{key: seen[key] for key in ("p_value", "agrees", "passed")}, **ends}))
    return pd.concat(parts, ignore_index=True)
