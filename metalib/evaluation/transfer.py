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

import pandas as pd
import torch

from metalib.data import ImageSet, to_bytes
from metalib.evaluation.correspondence import (
    Correspondence,
    corresponding_stage,
    nearest,
    relative_depth,
)
from metalib.evaluation.criterion import NullDistribution, judge
from metalib.evaluation.inventory import Entry, Loader, Nulls
from metalib.evaluation.shown import Observer
from metalib.generation import starts
from metalib.generation.generate import generate
from metalib.plain import SEEDS, whole
from metalib.progress import bar
from metalib.store import TableFile, TensorFile, address_of
from metalib.version import __version__

__all__ = ["RELATIONS", "Observer", "Plan", "corresponding_stage", "relation", "relative_depth",
           "transfer_study"]
RELATIONS = ("itself", "other seed", "other training", "other architecture", "both differ")


def transfer_study(
    generators: Any, observers: Any, images: ImageSet, *, stages: Any = None,
    directory: str | Path | None = None,
    nulls: Mapping[tuple[str, str], NullDistribution] | None = None,
    null_images: ImageSet | None = None, steps: int = 100, seed: int = 0, stop: bool = False,
    generation: dict | None = None, controls: bool = True,
    correspondences: Sequence[str] = ("name",), correspondence_images: ImageSet | None = None,
    cards: dict[str, dict] | None = None, batch_size: int = 100, device: Any = None,
    allow_pickle: bool = False, progress: bool | None = None,
) -> pd.DataFrame:
    """Make metamers of every generator at every stage, show them to every observer, and report.

    Args:
        generators, observers: names of models (see `load_model`) or Models; those given by name
            are loaded one at a time.
        images: the references, an ImageSet of the size that all generators take. Observers of
            another size resize what they are shown, see `Model.fitted`, and images of nulls.
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
        correspondences: how the observer's stage is chosen, one or more of "name", "depth" and
            "cka", see `metalib.evaluation.correspondence`. Each after the first adds columns.
        correspondence_images: natural images for "cka", some hundreds; copies of references among
            them are left out.
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
          1 the last), `observer`, `observer_stage` (by the first correspondence), `relation` of the
          two (one of `RELATIONS`; missing where a card is), `image`;
        - `recognised`: the observer's answer is the true label (missing where the label is unknown
          to it, or where it gives no answer, since no class is the largest or it has no classes);
          `reference_recognised`: so is its answer to the reference, which gives the
          observer's natural accuracy;
        - `agrees`: the observer's answer is its own answer to the reference (missing where it gives
          none); `confidence`: its largest softmax probability (NaN without classes);
        - `match`: Pearson correlation of the observer's activations to metamer and reference at
          its stage (NaN where it is not defined); `scaled_match`: the same on a scale from 0, that
          of unrelated images, to 1, that of copies of the reference, see
          `metalib.evaluation.shown.Scale`, with its ends `null_mean` and `ceiling`;
        - `passed`: whether the metamer passes the published criterion (see `Criterion`) there
          (missing where that gives no verdict, see `judge`); `p_value`: the largest p-value of the
          measures that count there, under the observer's null. At another threshold p, those pass
          whose `p_value` is at most p and with which the observer `agrees`;
        - `generator_passed`: whether the metamer passes it at its own generator and stage. Only
          these count;
        - `distance`: from the reference, root mean square over pixels in [0, 1]; `evaluations`:
          gradient evaluations used;
        - `control_recognised`, `control_agrees`, `control_match`, `control_scaled_match`,
          `control_p_value`, `control_passed`: the same for the perturbation of the same reference
          at the same distance (without `controls`, these columns are not there);
        - for each correspondence after the first, such as "depth", `observer_stage_depth`,
          `match_depth`, `scaled_match_depth`, `p_value_depth` and `passed_depth`;
        - `generator_` and `observer_` `architecture`, `training`, `seed`: from the model's card,
          or missing.

    Raises:
        ValueError: a model given twice or under another's name, unknown stages or
            correspondences, images without labels or of another size than a generator's, a null
            that is missing or not of that model. All models are loaded once before anything is
            made, so that this comes first.
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
        Nulls(nulls or {}, null_images), Correspondence(load, correspondence_images, images),
        correspondences, stop,
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
        stages: by correspondence, for each source the stage of each observer.
        observers: the models that are shown the metamers.
        images: the references; `references`: their hash, also of what is beyond 8 bits.
        nulls, stop, generation, controls, batch_size: see `transfer_study`.
    """

    sources: list[tuple[Entry, str]]
    stages: dict[str, list[list[str]]]
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
        nulls: Nulls, correspondence: Correspondence, rules: Sequence[str], stop: bool,
        generation: dict, controls: bool, batch_size: int,
    ) -> "Plan":
        """Check what was asked for.

        Raises:
            ValueError: unknown stages or correspondences, or a null that is missing or of another
                model.
        """
        if stages is not None and not isinstance(stages, (dict, list, tuple)):
            raise ValueError("stages is a list of names or of depths in [0, 1], or a dict of such "
                             f"lists by generator, not {stages!r}")
        sources = [(entry, stage) for entry in generators for stage in _chosen(entry, stages)]
        rules = [rules] if isinstance(rules, str) else list(rules)
        correspondence.check(rules)
        at = {rule: [[correspondence(rule, entry, stage, observer) for observer in observers]
                     for entry, stage in sources] for rule in rules}
        nulls.check(sources + [pair for rows in at.values() for row in rows
                               for pair in zip(observers, row)])
        references = address_of(images.sha256, images.images)
        return cls(sources, at, observers, images, references, nulls, stop, generation, controls,
                   batch_size)

    @property
    def size(self) -> int:
        """The number of files to be made."""
        return len(self.sources) * (1 + len(self.observers))

    def looked_at(self, column: int) -> list[str]:
        """The stages of an observer, by its number, that are looked at."""
        return list(dict.fromkeys(row[column] for rows in self.stages.values() for row in rows))

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
    return nearest({stage: relative_depth(stages, stage) for stage in stages}, depth)


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
                "images": to_bytes(metamers.images), "controls": to_bytes(controls),
                "passed": torch.tensor(verdict["passed"].to_numpy(), dtype=torch.uint8),
                **{name: torch.tensor(verdict[name].to_numpy(), dtype=torch.float64)
                   for name in ("distance", "evaluations")}}, recipe=metamers.recipe)
        files.append(file)
        done()
    return files


# --- Show ---------------------------------------------------------------------------------------

def _show(
    plan: Plan, load: Loader, made: list[TensorFile], folder: Path, done: Any,
) -> dict[tuple[int, int], pd.DataFrame]:
    """What each observer makes of each source's metamers, by their numbers in the plan."""
    parts = {}
    for column, entry in enumerate(plan.observers):
        observer = None
        for row, ((generator, stage), metamers) in enumerate(zip(plan.sources, made)):
            stages = {rule: at[row][column] for rule, at in plan.stages.items()}
            files = {at: plan.part(folder, generator, stage, entry, at, metamers)
                     for at in dict.fromkeys(stages.values())}
            if missing := [at for at in files if not files[at].is_stored()]:
                observer = observer or Observer(
                    load(entry), plan.images, plan.batch_size, plan.looked_at(column))
                nulls = {at: plan.nulls(observer.model, at) for at in missing}
                for at, table in observer.tables(nulls, metamers.read(), plan.controls).items():
                    files[at].write(table)
            parts[row, column] = _beside({rule: files[at].read().assign(observer_stage=at)
                                          for rule, at in stages.items()}).assign(
                                              **_about(generator, stage, entry))
            done()
    return parts


def _beside(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The table of the first correspondence, and what differs in the others as more columns."""
    (_, table), *others = found.items()
    more = {f"{name}_{rule}": other[name] for rule, other in others for name in (
        "observer_stage", "match", "scaled_match", "p_value", "passed")}
    return table.assign(**more)


def _about(generator: Entry, stage: str, observer: Entry) -> dict:
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
            "relation": related, **cards}


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
