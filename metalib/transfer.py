"""The transfer study: metamers of every generator are shown to every observer.

    table = transfer_study(list_models("zoo/*"), list_models("zoo/*"), images, stages=["group1", "group3"], directory="study")
    counted = table[table["generator_passed"]]               # only what is a metamer of its own generator
    crossed.matrix(counted, "agrees"), crossed.means(counted, ["relation", "depth"])

Results land on disk as they are made, in files that are named by what went into them. A run that was stopped goes on, and
another model, stage or set of images adds files and leaves the others as they are.
"""
import contextlib
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from safetensors import safe_open

from metalib import metrics, starts, zoo
from metalib.data import ImageSet
from metalib.generate import generate
from metalib.models import Model, load_model
from metalib.nulls import judge, load_null
from metalib.progress import bar
from metalib.stages import hooked
from metalib.store import StoredFile, TableFile, address_of, fingerprint, sha256, written_whole
from metalib.version import __version__

RELATIONS = ("itself", "other seed", "other training", "other architecture", "both differ")


def transfer_study(generators, observers, images, *, stages=None, directory=None, nulls=None, null_images=None, steps=100, seed=0,
                   stop=False, generation=None, controls=True, cards=None, batch_size=100, device=None, allow_pickle=False,
                   progress=None):
    """Make metamers of every generator at every stage, show them to every observer, and report what each made of each.

    Args:
        generators, observers: names of models (see `load_model`) or Models; those given by name are loaded one at a time.
        images: the references, an ImageSet whose side all models take.
        stages: where metamers are matched: names of stages, or numbers in [0, 1] for relative depths, of which each generator's
            nearest stage is taken; a dict gives a list for each generator by name; None takes all.
        directory: where results are kept, and found again; None keeps nothing.
        nulls: a dict from (model name, stage) to NullDistribution, for models that ship none.
        null_images: natural images for the nulls of models that neither ship one nor have one in `nulls`, a few thousand.
        steps, seed: of `generate`.
        stop: False does all steps for each image: every metamer is given the same effort and none stands just above the
            threshold. True stops an image where it first passes its generator's criterion, which is cheaper.
        generation: a dict of further keywords of `generate`, such as {"optimizer": "adam"}.
        controls: show the observers, for each metamer, also its reference plus noise at the same distance.
        cards: a dict from names of models to dicts that complete or replace their cards: architecture, training, seed.
        batch_size: images that go through an observer together.
        device: where to compute.
        allow_pickle: of `load_model`.
        progress: as of `generate`.

    Returns:
        pandas.DataFrame, one row per generator, stage, observer and image (its number in the set), in the order of the arguments:

        - `generator`, `stage`, `depth` (of the stage among those of its generator, 0 the first and 1 the last),
          `observer`, `observer_stage` (see `corresponding_stage`), `relation` of the two (one of `RELATIONS`; missing where
          a card is), `image`;
        - `recognised`: the observer's answer is the true label (missing where the label is unknown to it);
          `reference_recognised`: so is its answer to the reference, which gives the observer's natural accuracy;
        - `agrees`: the observer's answer is its own answer to the reference; `confidence`: its largest softmax probability;
        - `match`: Pearson correlation of the observer's activations to metamer and reference at its stage; `p_value`: of that under
          the observer's null; `passed`: the observer agrees, and match and signal-to-noise ratio are at least the maxima of its
          null. That is the criterion of `judge` without Spearman's correlation, which takes longer than most networks;
        - `generator_passed`: whether the metamer passes the whole criterion at its own generator and stage. Only these count;
        - `distance`: from the reference, root mean square over pixels in [0, 1]; `evaluations`: gradient evaluations used;
        - `control_recognised`, `control_agrees`, `control_match`, `control_passed`: the same for the perturbation of the same
          reference at the same distance (without `controls`, these columns are not there);
        - `generator_` and `observer_` `architecture`, `training`, `seed`: from the model's card, or missing.

    Raises:
        ValueError: a model given twice or under another's name, unknown stages, images without labels or of another size, a null
            that is missing or not of that model. All models are loaded once before anything is made, so that this comes first.
        KeyboardInterrupt: what was done is in `directory`.

    Warns:
        RuntimeWarning: a damaged or foreign file in `directory`. It is renamed, and its content is computed anew.

    Example:
        >>> from metalib import load_images, transfer_study
        >>> table = transfer_study(["zoo/vgg-standard-0"], ["zoo/vgg-standard-0", "zoo/resnet-standard-0"],
        ...                        load_images("cifar10-samples", n=2), stages=["group1"], steps=20)
        >>> len(table), table["relation"].unique().tolist()
        (4, ['itself', 'other architecture'])
    """
    if not isinstance(images, ImageSet) or not len(images):
        raise ValueError("a transfer study needs references with labels: an ImageSet with at least one image, as of load_images")
    load = _Loader(device, allow_pickle, cards or {})
    generators, observers = load.entries(generators, images, "generators"), load.entries(observers, images, "observers")
    if stages is not None and not isinstance(stages, (dict, list, tuple)):
        raise ValueError(f"stages is a list of names or of depths in [0, 1], or a dict of such lists by generator, not {stages!r}")
    chosen = {entry.name: _chosen(entry, stages) for entry in generators}
    null_of = _Nulls(nulls or {}, null_images)
    pairs = [(observer, corresponding_stage(generator, stage, observer))
             for generator in generators for stage in chosen[generator.name] for observer in observers]
    null_of.check([(entry, stage) for entry in generators for stage in chosen[entry.name]] + pairs)
    options = {**(generation or {}), "steps": steps, "seed": seed}
    references = address_of(images.sha256, images.images)  # also what is beyond 8 bits

    with contextlib.ExitStack() as stack:
        folder = Path(directory or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        total = sum(map(len, chosen.values())) * (1 + len(observers))
        shown = stack.enter_context(bar(total, "transfer study", progress))
        made = {}
        for entry in generators:
            for stage in chosen[entry.name]:
                address = address_of(entry.fingerprint, stage, references, options, stop and null_of.identity(entry, stage),
                                     null_of.identity(entry, stage), __version__)
                file = _MetamerFile(folder, address, {"generator": entry.name, "stage": stage})
                if not file.there():
                    model = load(entry)
                    null = null_of(model, stage)
                    metamers = generate(model, images, stage, **options, stop=null if stop else None, progress=False)
                    if metamers.interrupted:
                        raise KeyboardInterrupt
                    file.write(metamers, judge(model, stage, metamers, null), seed)
                made[entry.name, stage] = file
                shown.update()
        parts = []
        for observer in observers:
            watch = None
            for generator in generators:
                for stage in chosen[generator.name]:
                    there, metamers = corresponding_stage(generator, stage, observer), made[generator.name, stage]
                    address = address_of(metamers.content(), observer.fingerprint, there, references, images.class_names,
                                         images.labels.tolist(), null_of.identity(observer, there), controls, batch_size,
                                         __version__)
                    part = TableFile(folder, address, {"generator": generator.name, "stage": stage, "observer": observer.name})
                    if not part.there():
                        watch = watch or _Watch(load(observer), images, batch_size)
                        part.write(watch.table(there, null_of(watch.model, there), metamers, controls))
                    parts.append(part.read().assign(**_about(generator, stage, observer, there)))
                    shown.update()
    order = {name: number for number, name in enumerate(made)}
    table = pd.concat(sorted(parts, key=lambda part: order[part["generator"].iloc[0], part["stage"].iloc[0]]), ignore_index=True)
    first = ["generator", "stage", "depth", "observer", "observer_stage", "relation", "image"]
    words = [f"{role}_{key}" for role in ("generator", "observer") for key in ("architecture", "training")]
    kinds = dict.fromkeys(["relation", *words], "str") | {"generator_seed": "Int64", "observer_seed": "Int64"}
    return table[[*first, *table.columns.drop(first)]].astype(kinds)


def corresponding_stage(generator, stage, observer):
    """The observer's stage at which a metamer of the generator's stage is looked at.

    The same stage where both models list the same stages, as within the bundled zoo; else the one whose relative depth (its
    position among the stages, from 0 for the first to 1 for the last) is nearest, the earlier of two that are as near.

    Args:
        generator, observer: Models, or anything with `stages`.
        stage: one of the generator's.

    Example:
        >>> from metalib import load_model
        >>> corresponding_stage(load_model("zoo/vgg-standard-0"), "group3", load_model("zoo/cct-standard-0"))
        'group3'
    """
    if tuple(generator.stages) == tuple(observer.stages):
        return stage
    depth = relative_depth(generator.stages, stage)
    return min(observer.stages, key=lambda other: round(abs(relative_depth(observer.stages, other) - depth), 9))


def relative_depth(stages, stage):
    """Position of a stage among the stages of its model, from 0 for the first to 1 for the last (and for an only one)."""
    return list(stages).index(stage) / (len(stages) - 1) if len(stages) > 1 else 1.0


def relation(a, b):
    """How two models are related, by their cards: one of `RELATIONS`, or None where a card lacks architecture or training.

    "other seed" shares architecture and training; "other training" the architecture only, whatever the seeds;
    "other architecture" the training only; "both differ" neither.

    Example:
        >>> relation({"architecture": "vgg", "training": "robust"}, {"architecture": "vgg", "training": "standard"})
        'other training'
    """
    if None in (a.get("architecture"), b.get("architecture"), a.get("training"), b.get("training")):
        return None
    architecture, training = (a[key] == b[key] for key in ("architecture", "training"))
    if architecture and training:
        return "itself" if a.get("seed") == b.get("seed") else "other seed"
    return "other training" if architecture else "other architecture" if training else "both differ"


# --- Models and nulls -------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Entry:
    """What is to be known of a model when it is not loaded."""
    name: str
    given: object
    fingerprint: str
    stages: tuple
    card: dict


class _Loader:
    """Loads models by name, one at a time, and describes each once."""

    def __init__(self, device, allow_pickle, cards):
        self.options, self.cards = {"device": device or "cpu", "allow_pickle": allow_pickle}, cards
        self.known, self.latest = {}, None

    def entries(self, models, images, role):
        models = [models] if isinstance(models, (str, Model)) else list(models)
        names = [model.name if isinstance(model, Model) else model for model in models]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{role} must be one or more different models, not {', '.join(map(str, names)) or 'none'}")
        return [self._entry(model, name, images) for model, name in zip(models, names)]

    def _entry(self, given, name, images):
        if isinstance(given, str) and given in self.known and self.known[given].given == given:
            return self.known[given]
        if not isinstance(given, (str, Model)):
            raise ValueError(f"a model is given by its name or as a Model (see wrap_model), not as {type(given).__name__}")
        model = self._load(given)
        model.check_images(images.images)
        entry = _Entry(name, given, fingerprint(model), model.stages, {**model.card, **self.cards.get(name, {})})
        if self.known.setdefault(name, entry).fingerprint != entry.fingerprint:
            raise ValueError(f"two different models are called {name}; give one of them another name in wrap_model")
        return self.known[name]

    def _load(self, given):
        if isinstance(given, str):
            return load_model(given, **self.options)
        return given if self.options["device"] == "cpu" else given.to(self.options["device"])

    def __call__(self, entry):
        if self.latest is None or self.latest[0] is not entry:
            self.latest = None  # the one before is let go first
            self.latest = entry, self._load(entry.given)
        return self.latest[1]


class _Nulls:
    """Nulls that were given, that ship with a model, or that are computed when they are needed: looked for in this order."""

    def __init__(self, given, images):
        self.given, self.images, self.known, self.hashes = given, images, dict(given), {}
        if images is not None and not isinstance(images, ImageSet):
            raise ValueError("null_images is an ImageSet, as of load_images")

    @staticmethod
    def _shipped(name, stage):
        path = zoo.null_path(name)
        return path if path is not None and path.is_file() and stage in zoo.STAGES else None

    def check(self, wanted):
        for entry, stage in wanted:
            null = self.given.get((entry.name, stage))
            theirs = null and (null.about.get("model", entry.name), null.about.get("stage", stage))
            if null and theirs != (entry.name, stage):
                raise ValueError("the null is of {}, {}, not of {}, {}".format(*theirs, entry.name, stage))
            if null is None and self.images is None and not self._shipped(entry.name, stage):
                raise ValueError(f"no null ships for {entry.name}, {stage}: pass null_images=, a few thousand natural images, "
                                 f"or nulls={{({entry.name!r}, {stage!r}): null_distribution(...)}}")

    def identity(self, entry, stage):
        """What names the null in an address, without computing it."""
        null = self.given.get((entry.name, stage))
        if null is not None:
            return [null.pairs, null.units, null.maximum, hashlib.sha256(null.values["pearson"].tobytes()).hexdigest()]
        shipped = self._shipped(entry.name, stage)
        if shipped not in self.hashes:
            self.hashes[shipped] = hashlib.sha256(shipped.read_bytes()).hexdigest() if shipped else self.images.sha256
        return self.hashes[shipped]

    def __call__(self, model, stage):
        key = model.name, stage
        if key not in self.known:
            self.known[key] = load_null(model, stage, images=self.images)
        self.known[key].check(model, stage)
        return self.known[key]


def _chosen(entry, stages):
    """The stages of a generator that are asked for, in its own order."""
    if isinstance(stages, dict):
        if entry.name not in stages:
            raise ValueError(f"stages has no list for {entry.name}; it has {', '.join(map(str, stages))}")
        stages = stages[entry.name]
    wanted = entry.stages if stages is None else [
        stage if isinstance(stage, str) else _nearest(entry.stages, stage) for stage in stages]
    unknown = [stage for stage in wanted if stage not in entry.stages]
    if unknown or not wanted:
        raise ValueError(f"{entry.name} has no stage {', '.join(unknown) or 'asked for'}; its stages are "
                         f"{', '.join(entry.stages)}. For models with different stages give depths in [0, 1], or a dict of lists")
    return [stage for stage in entry.stages if stage in wanted]


def _nearest(stages, depth):
    if not isinstance(depth, (int, float)) or not 0 <= depth <= 1:
        raise ValueError(f"a stage is a name, or a relative depth from 0 to 1, not {depth!r}")
    return min(stages, key=lambda stage: round(abs(relative_depth(stages, stage) - depth), 9))


def _about(generator, stage, observer, observer_stage):
    """The columns that are the same for all images of a part."""
    related = relation(generator.card, observer.card)
    if generator.name == observer.name or related == "itself":  # of two models with one card only the seed can differ
        related = "itself" if generator.name == observer.name else "other seed"
    return {"generator": generator.name, "stage": stage, "depth": relative_depth(generator.stages, stage),
            "observer": observer.name, "observer_stage": observer_stage,
            "relation": related,
            **{f"{role}_{key}": entry.card.get(key) for role, entry in (("generator", generator), ("observer", observer))
               for key in ("architecture", "training", "seed")}}


# --- Observing --------------------------------------------------------------------------------------------------------

class _Watch:
    """An observer and what the references evoke in it, computed once. A batch takes one forward pass for logits and stage."""

    def __init__(self, model, images, batch_size):
        self.model, self.images, self.batch_size, self.targets = model, images, batch_size, {}
        self.labels = _labels(model, images)
        self.references = None

    def table(self, stage, null, metamers, controls):
        """What the observer made of a set of metamers and of their controls: one row per image."""
        target, references = self._target(stage)
        content = metamers.read()
        shown = {"": content["images"], **({"control_": content["controls"]} if controls else {})}
        columns = {"image": np.arange(len(self.images))}
        for prefix, pictures in shown.items():
            columns |= self._seen(prefix, stage, null, pictures, target, references["answer"])
        own = {name: content[name].numpy() for name in ("distance", "evaluations")}
        table = pd.DataFrame({**columns, **own, "generator_passed": content["passed"].bool().numpy(),
                              "reference_recognised": references["recognised"]})
        table["p_value"] = null.p_value("pearson", table["match"])
        order = ["image", "recognised", "agrees", "confidence", "match", "p_value", "passed", "generator_passed", "distance",
                 "evaluations", "reference_recognised"]
        return table[[*order, *(column for column in table if column.startswith("control_"))]].drop(columns="control_confidence",
                                                                                                  errors="ignore")

    def _seen(self, prefix, stage, null, pictures, target, answers):
        similar, logits = [], []
        rows = torch.arange(len(pictures))
        for batch, here in zip(pictures.split(self.batch_size), rows.split(self.batch_size)):
            batch = batch.to(self.model.device).float() / 255
            with torch.no_grad(), hooked(self.model.module, stage, lambda output, here=here: similar.append(
                    target.similarity(output.flatten(1).float(), here))):  # in the hook: later layers may work in place
                logits.append(self.model(batch))
        pearson, snr_db = (torch.cat(values).cpu() for values in zip(*similar))
        answer, recognised, confidence = self._answers(torch.cat(logits))
        agrees = answer == answers
        passed = agrees & (pearson >= null.maximum["pearson"]) & (snr_db >= null.maximum["snr_db"])
        return {f"{prefix}recognised": recognised, f"{prefix}agrees": agrees.numpy(), f"{prefix}confidence": confidence.numpy(),
                f"{prefix}match": pearson.double().numpy(), f"{prefix}passed": passed.numpy()}

    def _target(self, stage):
        with torch.no_grad():
            batches = [batch.to(self.model.device) for batch in self.images.images.split(self.batch_size)]
            if stage not in self.targets:
                self.targets[stage] = _Target(torch.cat([self.model.activations(batch, stage) for batch in batches]))
            if self.references is None:
                answer, recognised, _ = self._answers(torch.cat([self.model(batch) for batch in batches]))
                self.references = {"answer": answer, "recognised": recognised}
        return self.targets[stage], self.references

    def _answers(self, logits):
        """Answers (coarse where the model has such classes), whether they are right, and confidence, on the CPU."""
        answer = (self.model.coarse(logits) if self.model.coarse_names else logits.argmax(1)).cpu()
        right = logits.argmax(1).cpu() == self.labels
        if self.model.coarse_names:
            coarse = self.model._coarse.cpu()[self.labels.clamp_min(0)]
            right = torch.where(coarse >= 0, answer == coarse, right)
        recognised = pd.array(right.numpy()) if (self.labels < 0).any() else right.numpy()
        if (self.labels < 0).any():
            recognised[(self.labels < 0).numpy()] = pd.NA
        return answer, recognised, logits.softmax(1).amax(1).cpu().double()


class _Target:
    """Activations (B, D) that references evoke, prepared so that a comparison is one pass over the others."""

    def __init__(self, activations):
        self.standard, self.mean = metrics.standardise(activations), activations.mean(1)
        self.length = torch.linalg.vector_norm(activations, dim=1)
        self.spread = torch.linalg.vector_norm(activations - self.mean[:, None], dim=1)

    def similarity(self, activations, rows):
        """Pearson correlation and signal-to-noise ratio (20 log10), (B,) each, as `metrics.pearson` and `metrics.snr_db`."""
        rows = rows.to(activations.device)
        units, mean = activations.shape[1], activations.mean(1)
        inner = torch.linalg.vecdot(self.standard[rows], activations)
        length = torch.linalg.vector_norm(activations, dim=1)
        spread = (length ** 2 - units * mean ** 2).clamp_min(0).sqrt()
        constant = spread <= 1e-4 * length
        pearson = torch.where(constant, 0, inner / torch.where(constant, 1, spread)).clamp(-1, 1)
        product = units * self.mean[rows] * mean + self.spread[rows] * inner
        difference = (self.length[rows] ** 2 + length ** 2 - 2 * product).clamp_min(0).sqrt()
        snr_db = 20 * torch.log10(self.length[rows] / difference)
        return pearson, torch.where((length == 0) | (self.length[rows] == 0), 0, snr_db)


def _labels(model, images):
    """The labels as classes of the model, by name where both have names; -1 where unknown."""
    if not images.class_names or not model.class_names:
        return images.labels
    place = {name: number for number, name in enumerate(model.class_names)}
    renamed = torch.tensor([place.get(name, -1) for name in images.class_names])
    return torch.where(images.labels >= 0, renamed[images.labels.clamp_min(0)], -1)


# --- Files ------------------------------------------------------------------------------------------------------------

class _MetamerFile(StoredFile):
    """Metamers and their controls (8-bit), and what their own generator makes of them."""
    ending, checked = "safetensors", False

    def write(self, metamers, verdict, seed):
        near = starts.perturbation(metamers.references, verdict["distance"], seed=seed)
        tensors = {name: (pictures * 255).round().to(torch.uint8)
                   for name, pictures in (("images", metamers.images), ("controls", near))}
        tensors["passed"] = torch.tensor(verdict["passed"].to_numpy(), dtype=torch.uint8)
        tensors |= {name: torch.tensor(verdict[name].to_numpy(), dtype=torch.float64) for name in ("distance", "evaluations")}
        about = {**self.about, "address": self.address, "content": sha256(tensors),
                 "recipe": json.dumps(metamers.recipe, default=str)}
        with written_whole(self.path) as path:
            safetensors.torch.save_file(tensors, path, about)

    def read(self):
        with safe_open(self.path, "pt") as file:
            about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not self.checked:
            if about.get("address") != self.address:
                raise ValueError("it holds another result than its name says")
            if about.get("content") != sha256(tensors):
                raise ValueError("its content was changed")
            self.hash, self.checked = about["content"], True
        return tensors

    def content(self):
        """Hash of the content, which the addresses of all that is made of it contain."""
        if not self.checked:
            self.read()
        return self.hash
