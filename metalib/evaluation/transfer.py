"""The transfer study: metamers of every generator are shown to every observer.

    names = list_models("zoo/*")
    table = transfer_study(names, names, images, stages=["group1", "group3"], directory="study")
    counted = table[table["generator_passed"]]     # only metamers of their own generators
    crossed.matrix(counted, "agrees"), crossed.means(counted, ["relation", "depth"])

A study is planned, its metamers are made, they are shown, and what observers made of them is
collected. Results land on disk as they are made, in files that are named by what went into them. A
run that was stopped goes on, and another model, stage or set of images adds files and leaves the
others as they are.
"""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalib.data import ImageSet
from metalib.evaluation.confidence import confidence
from metalib.evaluation.criterion import (
    LEAST_PAIRS,
    Criterion,
    Evoked,
    NullDistribution,
    defined,
    judge,
    published,
    truths,
)
from metalib.evaluation.inventory import Entry, Loader, Nulls
from metalib.generation import starts
from metalib.generation.generate import generate
from metalib.models import Model
from metalib.plain import SEEDS, whole
from metalib.progress import bar
from metalib.store import TableFile, TensorFile, address_of
from metalib.version import __version__

RELATIONS = ("itself", "other seed", "other training", "other architecture", "both differ")


def transfer_study(
    generators: Any, observers: Any, images: ImageSet, *, stages: Any = None,
    directory: str | Path | None = None,
    nulls: Mapping[tuple[str, str], NullDistribution] | None = None,
    null_images: ImageSet | None = None, steps: int = 100, seed: int = 0, stop: bool = False,
    generation: dict | None = None, controls: bool = True, cards: dict[str, dict] | None = None,
    batch_size: int = 100, device: Any = None, allow_pickle: bool = False,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Make metamers of every generator at every stage, show them to every observer, and report.

    Args:
        generators, observers: names of models (see `load_model`) or Models; those given by name
            are loaded one at a time.
        images: the references, an ImageSet whose side all models take.
        stages: where metamers are matched: names of stages, or numbers in [0, 1] for relative
            depths, for which each generator's nearest stage is taken; a dict gives a list for each
            generator by name; None takes all.
        directory: where results are kept, and found again; None keeps nothing.
        nulls: a dict from (model name, stage) to NullDistribution, for models that ship none.
        null_images: natural images for the nulls of models that neither ship one nor have one in
            `nulls`, a few thousand.
        steps, seed: as in `generate`.
        stop: False does all steps for each image: every metamer is given the same effort and none
            stands just above the threshold. True stops an image where it first passes its
            generator's criterion, which is cheaper.
        generation: a dict of further keywords of `generate`, such as {"optimizer": "adam"}.
        controls: show the observers, for each metamer, also its reference plus noise at the same
            distance.
        cards: a dict from names of models to dicts that complete or replace their cards:
            architecture, training, seed.
        batch_size: images that go through an observer together.
        device: where to compute.
        allow_pickle: as in `load_model`.
        progress: as in `generate`.

    Returns:
        pandas.DataFrame, one row per generator, stage, observer and image (its number in the set),
        in the order of the arguments:

        - `generator`, `stage`, `depth` (of the stage among those of its generator, 0 the first and
          1 the last), `observer`, `observer_stage` (see `corresponding_stage`), `relation` of the
          two (one of `RELATIONS`; missing where a card is), `image`;
        - `recognised`: the observer's answer is the true label (missing where the label is unknown
          to it, or where it gives no answer, since no class is the largest or it has no classes);
          `reference_recognised`: so is its answer to the reference, which gives the
          observer's natural accuracy;
        - `agrees`: the observer's answer is its own answer to the reference (missing where it gives
          none); `confidence`: its largest softmax probability (NaN without classes);
        - `match`: Pearson correlation of the observer's activations to metamer and reference at
          its stage (NaN where it is not defined); `p_value`: its p-value under the observer's
          null; `passed`: whether the metamer passes the published criterion (see `Criterion`)
          there (missing where that gives no verdict, see `judge`);
        - `generator_passed`: whether the metamer passes it at its own generator and stage. Only
          these count;
        - `distance`: from the reference, root mean square over pixels in [0, 1]; `evaluations`:
          gradient evaluations used;
        - `control_recognised`, `control_agrees`, `control_match`, `control_passed`: the same for
          the perturbation of the same reference at the same distance (without `controls`, these
          columns are not there);
        - `generator_` and `observer_` `architecture`, `training`, `seed`: from the model's card,
          or missing.

    Raises:
        ValueError: a model given twice or under another's name, unknown stages, images without
            labels or of another size, a null that is missing or not of that model. All models are
            loaded once before anything is made, so that this comes first.
        KeyboardInterrupt: what was done is in `directory`.

    Warns:
        RuntimeWarning: a damaged or foreign file in `directory`. It is renamed, and its content is
            computed anew.

    Example:
        >>> from metalib import load_images, transfer_study
        >>> table = transfer_study(
        ...     ["zoo/vgg-standard-0"], ["zoo/vgg-standard-0", "zoo/resnet-standard-0"],
        ...     load_images("cifar10-samples", n=2), stages=["group1"], steps=20)
        >>> len(table), table["relation"].unique().tolist()
        (4, ['itself', 'other architecture'])
    """
    if not isinstance(images, ImageSet) or not len(images):
        raise ValueError("a transfer study needs references with labels: an ImageSet with at least "
                         "one image, as load_images returns it")
    steps, seed = whole("steps", steps, 1), whole("seed", seed, *SEEDS)
    batch_size = whole("batch_size", batch_size, 1)
    load = Loader(device, allow_pickle, cards or {})
    plan = Plan.of(
        load.entries(generators, images, "generators"),
        load.entries(observers, images, "observers"), images, stages,
        Nulls(nulls or {}, null_images), stop,
        {**(generation or {}), "steps": steps, "seed": seed}, controls, batch_size)
    with contextlib.ExitStack() as stack:
        folder = Path(directory or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        shown = stack.enter_context(bar(plan.size, "transfer study", progress))
        made = _make(plan, load, folder, shown.update)
        parts = _show(plan, load, made, folder, shown.update)
    return _collect(plan, parts)


# --- Plan ---------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Plan:
    """A study that can be carried out: everything is known and checked, nothing is made.

    Attributes:
        sources: pairs of a generator and one of its stages.
        observers: the models that are shown the metamers.
        images: the references; `references`: their hash, also of what is beyond 8 bits.
        nulls, stop, generation, controls, batch_size: see `transfer_study`.
    """

    sources: list[tuple[Entry, str]]
    observers: list[Entry]
    images: ImageSet
    references: str
    nulls: Nulls
    stop: bool
    generation: dict
    controls: bool
    batch_size: int

    @classmethod
    def of(
        cls, generators: list[Entry], observers: list[Entry], images: ImageSet, stages: Any,
        nulls: Nulls, stop: bool, generation: dict, controls: bool, batch_size: int,
    ) -> "Plan":
        """Check what was asked for.

        Raises:
            ValueError: unknown stages, or a null that is missing or of another model.
        """
        if stages is not None and not isinstance(stages, (dict, list, tuple)):
            raise ValueError("stages is a list of names or of depths in [0, 1], or a dict of such "
                             f"lists by generator, not {stages!r}")
        sources = [(entry, stage) for entry in generators for stage in _chosen(entry, stages)]
        nulls.check(sources + [(observer, corresponding_stage(entry, stage, observer))
                               for entry, stage in sources for observer in observers])
        references = address_of(images.sha256, images.images)
        return cls(sources, observers, images, references, nulls, stop, generation, controls,
                   batch_size)

    @property
    def size(self) -> int:
        """The number of files to be made."""
        return len(self.sources) * (1 + len(self.observers))

    def metamers(self, folder: Path, entry: Entry, stage: str) -> TensorFile:
        """The file of the metamers of a generator at a stage."""
        null = self.nulls.identity(entry, stage)
        address = address_of(entry.fingerprint, stage, self.references, self.generation,
                             self.stop and null, null, __version__)
        return TensorFile(folder, address, {"generator": entry.name, "stage": stage})

    def part(
        self, folder: Path, entry: Entry, stage: str, observer: Entry, observer_stage: str,
        metamers: TensorFile,
    ) -> TableFile:
        """The file of what an observer makes of metamers at one of its stages."""
        address = address_of(
            metamers.content(), observer.fingerprint, observer_stage, self.references,
            self.images.class_names, self.images.labels.tolist(),
            self.nulls.identity(observer, observer_stage), self.controls, self.batch_size,
            __version__)
        return TableFile(folder, address, {
            "generator": entry.name, "stage": stage, "observer": observer.name})


def corresponding_stage(generator: Any, stage: str, observer: Any) -> str:
    """The observer's stage at which a metamer of the generator's stage is looked at.

    The same stage where both models list the same stages, as within the bundled zoo; otherwise the
    one whose relative depth (its position among the stages, from 0 for the first to 1 for the
    last) is nearest, the earlier of two that are equally near.

    Args:
        generator, observer: Models, or anything with `stages`.
        stage: one of the generator's.

    Example:
        >>> from metalib import load_model
        >>> corresponding_stage(load_model("zoo/vgg-standard-0"), "group3",
        ...                     load_model("zoo/cct-standard-0"))
        'group3'
    """
    if tuple(generator.stages) == tuple(observer.stages):
        return stage
    return _nearest(observer.stages, relative_depth(generator.stages, stage))


def relative_depth(stages: Sequence[str], stage: str) -> float:
    """Position of a stage among those of its model, from 0 for the first to 1 for the last.

    1 for an only one.
    """
    return list(stages).index(stage) / (len(stages) - 1) if len(stages) > 1 else 1.0


def relation(a: Mapping, b: Mapping) -> str | None:
    """How two models are related, by their cards: one of `RELATIONS`.

    None where a card lacks architecture or training. "other seed" shares architecture and
    training; "other training" the architecture only, whatever the seeds; "other architecture" the
    training only; "both differ" neither.

    Example:
        >>> relation({"architecture": "vgg", "training": "robust"},
        ...          {"architecture": "vgg", "training": "standard"})
        'other training'
    """
    keys = ("architecture", "training")
    if any(card.get(key) is None for card in (a, b) for key in keys):
        return None
    architecture, training = (a[key] == b[key] for key in keys)
    if architecture and training:
        return "itself" if a.get("seed") == b.get("seed") else "other seed"
    return "other training" if architecture else (
        "other architecture" if training else "both differ")


def _chosen(entry: Entry, stages: Any) -> list[str]:
    """The stages of a generator that are asked for, in its own order."""
    if isinstance(stages, dict):
        if entry.name not in stages:
            raise ValueError(f"stages has no list for {entry.name}; "
                             f"it has {', '.join(map(str, stages))}")
        stages = stages[entry.name]
    wanted = entry.stages if stages is None else [
        stage if isinstance(stage, str) else _at_depth(entry.stages, stage) for stage in stages]
    unknown = [stage for stage in wanted if stage not in entry.stages]
    if unknown or not wanted:
        raise ValueError(
            f"{entry.name} has no stage {', '.join(unknown) or 'asked for'}; its stages are "
            f"{', '.join(entry.stages)}. For models with different stages give depths in [0, 1], "
            "or a dict of lists")
    return [stage for stage in entry.stages if stage in wanted]


def _at_depth(stages: Sequence[str], depth: Any) -> str:
    if not isinstance(depth, (int, float)) or not 0 <= depth <= 1:
        raise ValueError(f"a stage is a name, or a relative depth from 0 to 1, not {depth!r}")
    return _nearest(stages, depth)


def _nearest(stages: Sequence[str], depth: float) -> str:
    """The stage whose relative depth is nearest, the earlier of two that are equally near."""
    return min(stages, key=lambda stage: round(abs(relative_depth(stages, stage) - depth), 9))


# --- Make ---------------------------------------------------------------------------------------

def _make(plan: Plan, load: Loader, folder: Path, done: Any) -> list[TensorFile]:
    """The files of the metamers of all sources, made where they are missing.

    Each holds 8-bit `images` and `controls`, and what their own generator makes of the metamers:
    `passed`, `distance`, `evaluations`.
    """
    files = []
    for entry, stage in plan.sources:
        file = plan.metamers(folder, entry, stage)
        if not file.is_stored():
            model = load(entry)
            null = plan.nulls(model, stage)
            metamers = generate(model, plan.images, stage, **plan.generation,
                                stop=null if plan.stop else None, progress=False)
            if metamers.interrupted:
                raise KeyboardInterrupt
            verdict = judge(model, stage, metamers, null)
            controls = starts.perturbation(
                metamers.references, verdict["distance"], seed=plan.generation["seed"])
            file.write({
                "images": _bytes(metamers.images), "controls": _bytes(controls),
                "passed": torch.tensor(verdict["passed"].to_numpy(), dtype=torch.uint8),
                **{name: torch.tensor(verdict[name].to_numpy(), dtype=torch.float64)
                   for name in ("distance", "evaluations")}}, recipe=metamers.recipe)
        files.append(file)
        done()
    return files


def _bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().to(torch.uint8)


# --- Show ---------------------------------------------------------------------------------------

def _show(
    plan: Plan, load: Loader, made: list[TensorFile], folder: Path, done: Any,
) -> dict[tuple[int, int], pd.DataFrame]:
    """What each observer makes of each source's metamers, by their numbers in the plan."""
    parts = {}
    for column, entry in enumerate(plan.observers):
        observer = None
        for row, ((generator, stage), metamers) in enumerate(zip(plan.sources, made)):
            at = corresponding_stage(generator, stage, entry)
            part = plan.part(folder, generator, stage, entry, at, metamers)
            if not part.is_stored():
                observer = observer or Observer(load(entry), plan.images, plan.batch_size)
                null = plan.nulls(observer.model, at)
                part.write(observer.table(at, null, metamers.read(), plan.controls))
            parts[row, column] = part.read().assign(**_about(generator, stage, entry, at))
            done()
    return parts


def _about(generator: Entry, stage: str, observer: Entry, observer_stage: str) -> dict:
    """The columns that are the same for all images of a part."""
    related = relation(generator.card, observer.card)
    if generator.fingerprint == observer.fingerprint:
        related = "itself"
    elif related == "itself":  # two models with one card: they can differ in their seeds only
        related = "other seed"
    cards = {f"{role}_{key}": entry.card.get(key)
             for role, entry in (("generator", generator), ("observer", observer))
             for key in ("architecture", "training", "seed")}
    return {"generator": generator.name, "stage": stage,
            "depth": relative_depth(generator.stages, stage), "observer": observer.name,
            "observer_stage": observer_stage, "relation": related, **cards}


class Observer:
    """A model that looks at metamers, and what the references evoke in it, computed once.

    Args:
        model: the observer.
        images: the references.
        batch_size: images that go through the model together.
    """

    def __init__(self, model: Model, images: ImageSet, batch_size: int):
        self.model, self.images, self.batch_size = model, images, batch_size
        self.labels = _labels(model, images)
        self.known: dict[str, Evoked] = {}
        with torch.no_grad():
            logits = [model(batch) for batch in self._batches(images.images)
                      ] if model.has_classes else []
        self.answers, self.reference_recognised, _ = self._said(logits, len(images))

    def table(
        self, stage: str, null: NullDistribution, metamers: dict[str, Tensor], controls: bool,
    ) -> pd.DataFrame:
        """What the observer makes of metamers and of their controls: one row per image.

        Args:
            stage, null: of the observer.
            metamers: see `_make`.
            controls: whether to look at the controls, too.
        """
        criterion = published(null).on(self.model)
        seen = self._look(stage, criterion, metamers["images"])
        columns = {"image": np.arange(len(self.images)),
                   **{name: seen[name] for name in ("recognised", "agrees", "confidence", "match")},
                   "p_value": np.where(np.isnan(seen["match"]), np.nan,
                                       null.p_value("pearson", seen["match"])),
                   "passed": seen["passed"],
                   "generator_passed": metamers["passed"].bool().numpy(),
                   "distance": metamers["distance"].numpy(),
                   "evaluations": metamers["evaluations"].numpy(),
                   "reference_recognised": self.reference_recognised}
        if controls:
            seen = self._look(stage, criterion, metamers["controls"])
            columns |= {f"control_{name}": seen[name]
                        for name in ("recognised", "agrees", "match", "passed")}
        return pd.DataFrame(columns)

    def _look(self, stage: str, criterion: Criterion, pictures: Tensor) -> dict[str, Any]:
        """Columns of the table for pictures (B, 3, H, W) of 8 bits, in the references' order."""
        evoked, classes, found = self._evoked(stage), self.model.has_classes, []
        every, said = torch.arange(len(pictures), device=self.model.device), []
        for batch, rows in zip(self._batches(pictures), every.split(self.batch_size)):
            with torch.no_grad():
                read, logits = self.model.read(batch.float() / 255, [stage], logits=classes)
            activations, given = read[stage], torch.full_like(rows, -1)
            if classes:
                said.append(logits)
                given = self.model.answer_of(logits)
            similar = evoked.similarity_from_products(activations, rows)

            def similarity(metric, some, similar=similar, activations=activations, rows=rows):
                if metric in similar:
                    return similar[metric][some]
                return evoked.similarity(metric, activations[some], rows[some])

            found.append((similar["pearson"],
                          *criterion.verdicts(evoked, rows, activations, given, similarity)))
        match, passed, judged = (torch.cat(parts).cpu() for parts in zip(*found))
        answers, recognised, confident = self._said(said, len(pictures))
        alike = criterion.null.flaw("pearson") if criterion.null.pairs >= LEAST_PAIRS else ""
        known = defined("pearson", evoked.activations).cpu() & (alike == "")
        return {"recognised": recognised, "confidence": confident,
                "agrees": truths(evoked.agrees(answers, every).cpu(),
                                 ((answers >= 0) & (evoked.answers >= 0)).cpu()),
                "match": match.double().where(known, np.nan).numpy(),
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
        return [batch.to(self.model.device) for batch in pictures.split(self.batch_size)]


def _labels(model: Model, images: ImageSet) -> Tensor:
    """The labels as classes of the model, by name where both have names; -1 where unknown."""
    if not images.class_names or not model.class_names:
        return images.labels
    place = {name: number for number, name in enumerate(model.class_names)}
    renamed = torch.tensor([place.get(name, -1) for name in images.class_names])
    return torch.where(images.labels >= 0, renamed[images.labels.clamp_min(0)], -1)


# --- Collect ------------------------------------------------------------------------------------

def _collect(plan: Plan, parts: dict[tuple[int, int], pd.DataFrame]) -> pd.DataFrame:
    """One table, sources in the order of the plan, and within each the observers."""
    table: Any = pd.concat([parts[place] for place in sorted(parts)], ignore_index=True)
    first = ["generator", "stage", "depth", "observer", "observer_stage", "relation", "image"]
    words = [f"{role}_{key}" for role in ("generator", "observer")
             for key in ("architecture", "training")]
    kinds = dict.fromkeys(["relation", *words], "str")
    kinds |= dict.fromkeys(["generator_seed", "observer_seed"], "Int64")
    return table[[*first, *table.columns.drop(first)]].astype(kinds)
