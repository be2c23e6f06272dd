"""What a study knows of its models and nulls while they are not loaded.

    load = Loader(device, allow_pickle, cards)
    entries = load.entries(["zoo/vgg-standard-0", model], images, "observers")
    model = load(entries[0])                      # one at a time
"""

import functools
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from metalib.data import ImageSet
from metalib.devices import device_of
from metalib.evaluation.criterion import NullDistribution
from metalib.evaluation.nulls import load_null, shipped_stages
from metalib.models import Model, load_model
from metalib.models.registry import null_file
from metalib.store import fingerprint


@dataclass(frozen=True)
class Entry:
    """What is to be known of a model when it is not loaded.

    Attributes:
        name, stages, card: as in `Model`, the card completed by the user.
        given: the model or its name, as the user gave it.
        fingerprint: see `metalib.store.fingerprint`.
        units: of each stage.
    """

    name: str
    given: str | Model
    fingerprint: str
    stages: tuple[str, ...]
    card: dict
    units: dict[str, int]


class Loader:
    """Loads models by name, one at a time, and describes each once.

    Args:
        device, allow_pickle: as in `load_model`; None is the CPU.
        cards: dicts that complete or replace the models' cards, by name.
    """

    def __init__(self, device: Any, allow_pickle: bool, cards: Mapping[str, dict]):
        self.device = device_of("cpu" if device is None else device)
        self.allow_pickle, self.cards = allow_pickle, cards
        self.known: dict[str, Entry] = {}
        self.latest: tuple[Entry, Model] | None = None

    def entries(self, models: Any, images: ImageSet, role: str) -> list[Entry]:
        """Describe models, which are loaded for it. Those whose role is "observers" take any size.

        Raises:
            ValueError: none, one given twice, two under one name, or images that one cannot take.
        """
        models = [models] if isinstance(models, (str, Model)) else list(models)
        names = [model.name if isinstance(model, Model) else model for model in models]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{role} must be one or more different models, not "
                             f"{', '.join(map(str, names)) or 'none'}")
        return [self._entry(model, name, images, role == "observers")
                for model, name in zip(models, names)]

    def _entry(self, given: Any, name: str, images: ImageSet, fitted: bool) -> Entry:
        if isinstance(given, str) and given in self.known and self.known[given].given == given:
            return self.known[given]
        if not isinstance(given, (str, Model)):
            raise ValueError("a model is given by its name or as a Model (see wrap_model), "
                             f"not as {type(given).__name__}")
        model = self._load(given)
        model.check_images(model.fitted(images.images[:1]) if fitted else images.images)
        card = {**model.card, **self.cards.get(name, {})}
        units = {stage: math.prod(shape) for stage, shape in model.shapes.items()}
        entry = Entry(name, given, fingerprint(model), model.stages, card, units)
        if self.known.setdefault(name, entry).fingerprint != entry.fingerprint:
            raise ValueError(f"two different models are called {name}; "
                             "give one of them another name in wrap_model")
        return self.known[name]

    def _load(self, given: str | Model) -> Model:
        if isinstance(given, str):
            return load_model(given, device=self.device, allow_pickle=self.allow_pickle)
        return given if self.device.type == "cpu" else given.to(self.device)

    def __call__(self, entry: Entry) -> Model:
        """The model; the one that was loaded before is let go first."""
        if self.latest is None or self.latest[0] is not entry:
            self.latest = None
            self.latest = entry, self._load(entry.given)
        return self.latest[1]


class Nulls:
    """Nulls that are given, that come with a model, or that are computed when they are needed.

    They are looked for in this order.

    Args:
        given: a dict from (model name, stage) to NullDistribution.
        images: natural images for nulls that have to be computed, or None.
    """

    def __init__(self, given: Mapping[tuple[str, str], NullDistribution], images: Any):
        self.given, self.images, self.known = given, images, dict(given)
        self.hashes: dict[Any, str] = {}
        self.shipped = functools.cache(shipped_stages)  # asked for every generator and observer
        if images is not None and not isinstance(images, ImageSet):
            raise ValueError("null_images is an ImageSet, as load_images returns it")

    def check(self, wanted: Iterable[tuple[Entry, str]]) -> None:
        """Raise a ValueError unless there is or can be a null for each model and stage."""
        for entry, stage in wanted:
            null = self.given.get((entry.name, stage))
            if null is not None:
                null.check_origin(entry.name, stage, entry.fingerprint, entry.units[stage])
            elif self.images is None and stage not in self.shipped(entry.name):
                raise ValueError(
                    f"no null ships for {entry.name}, {stage}: pass null_images=, a few thousand "
                    f"natural images, or nulls={{({entry.name!r}, {stage!r}): "
                    "null_distribution(...)}")

    def identity(self, entry: Entry, stage: str) -> Any:
        """What names the null in an address, without computing it."""
        null = self.given.get((entry.name, stage))
        if null is not None:
            content = [hashlib.sha256(values.tobytes()).hexdigest()
                       for _, values in sorted(null.values.items())]
            return [null.pairs, null.units, null.maximum, content]
        path = null_file(entry.name) if stage in self.shipped(entry.name) else None
        if path not in self.hashes:
            self.hashes[path] = (hashlib.sha256(path.read_bytes()).hexdigest() if path
                                 else self.images.sha256)
        return self.hashes[path]

    def __call__(self, model: Model, stage: str) -> NullDistribution:
        key = model.name, stage
        if key not in self.known:
            images = None if stage in self.shipped(model.name) else self.images
            if images is not None:
                images = replace(images, images=model.fitted(images.images))
            self.known[key] = load_null(model, stage, images=images)
        self.known[key].check(model, stage)
        return self.known[key]
