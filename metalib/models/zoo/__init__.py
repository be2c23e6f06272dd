"""The bundled zoo: small classifiers, trained by `python -m metalib.runs.train_zoo`.

Those of CIFAR-10 are called <architecture>-<training>-<seed>; before the names of those of
photographs (Imagenette, ten classes of ImageNet) stands `photo-`. Each model is three files in
`weights/`: `<name>.safetensors` (half precision), `<name>.json` (its card) and
`<name>.null.safetensors` (its null distributions, see `metalib.evaluation.nulls`).
"""

import fnmatch
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import nn

from metalib import labels
from metalib.models.model import Model
from metalib.models.sources import SOURCES, Source, full_name
from metalib.models.weights import load_weights
from metalib.models.wrap import wrap_model
from metalib.models.zoo.architectures import ARCHITECTURES, PHOTO_ARCHITECTURES, STAGES

SMALL: str = "zoo/[!p]*"  # a pattern of the names of the networks of CIFAR-10, with 32 pixels
PHOTOS: str = "zoo/photo-*"  # and of those of photographs, with 128
FOLDER: Path = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Part:
    """A part of the zoo: the networks of one set of images.

    Attributes:
        architectures: by name, functions that make a network for a number of classes.
        side: of the images, in pixels.
        mean, std: of the pixels in [0, 1], by colour.
        class_names: of the images.
    """

    architectures: dict[str, Callable[..., nn.Sequential]]
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...]


PARTS: tuple[Part, ...] = (
    Part(ARCHITECTURES, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), labels.CIFAR10),
    Part(PHOTO_ARCHITECTURES, 128, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
         labels.IMAGENETTE))


def part_of(name: str) -> Part:
    """The part of the zoo that a model belongs to, by its name or that of its architecture."""
    return next(part for part in PARTS for architecture in part.architectures
                if f"{name}-".startswith(f"{architecture}-"))


def names() -> list[str]:
    """Names of the models that have a card."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def cards(pattern: str = "zoo/*") -> list[dict]:
    """The cards of the models whose names match, plain dicts, by name; no weights are read."""
    return [json.loads((FOLDER / f"{name}.json").read_text()) for name in names()
            if fnmatch.fnmatch(f"zoo/{name}", pattern)]


def files(name: str) -> list[Path]:
    """The weights and the card of a model."""
    return [FOLDER / f"{name}.safetensors", FOLDER / f"{name}.json"]


def load(
    name: str, *, stages: Sequence[str] | None = None, allow_pickle: bool = False,
    pretrained: bool = True, weights: str | Path | None = None,
) -> Model:
    """Load a model of the zoo by its name without the prefix `zoo/`.

    Its weights are checked against its card. Parameters are those of `load_model`.

    Raises:
        ValueError: a damaged card, or weights that are damaged or not those of the card.
        FileNotFoundError: missing weights.
    """
    part = part_of(name)
    network = part.architectures[name.rsplit("-", 2)[0]](len(part.class_names))
    card = _load_weights(network, name) if pretrained and weights is None else {}
    if weights is not None:
        load_weights(network, weights, f"zoo/{name}", allow_pickle)
    return wrap_model(
        network, stages=stages or STAGES, mean=part.mean, std=part.std, input_size=part.side,
        class_names=part.class_names, name=full_name("zoo", name, pretrained, weights), card=card,
        channels_last=True)


def _load_weights(network: nn.Module, name: str) -> dict:
    """Put the stored weights into a network and return their card."""
    path, card_path = files(name)
    remedy = f"restore it from the repository, or train it: python -m metalib.runs.train_zoo {name}"
    try:
        card = json.loads(card_path.read_text())
    except ValueError as error:
        raise ValueError(f"the card {card_path} is damaged ({error}); {remedy}") from error
    if not path.is_file():
        raise FileNotFoundError(f"the weights {path} are missing; {remedy}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise ValueError(f"the weights {path} are damaged or not those of the card "
                         f"(another SHA-256); {remedy}")
    weights = safetensors.torch.load(content)
    network.load_state_dict({key: value.float() if value.is_floating_point() else value
                             for key, value in weights.items()})
    return card


def null_file(name: str) -> Path:
    """The file with the null distributions of a model."""
    return FOLDER / f"{name}.null.safetensors"


SOURCES["zoo"] = Source(names, load, files, null_file, lambda name: part_of(name).side)
