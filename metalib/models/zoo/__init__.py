"""The bundled zoo: small classifiers of CIFAR-10, trained by `python -m metalib.runs.train_zoo`.

Each model is three files in `weights/`: `<name>.safetensors` (half precision), `<name>.json`
(its card) and `<name>.null.safetensors` (its null distributions, see `metalib.evaluation.nulls`).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
from torch import nn

from metalib import labels
from metalib.models.model import Model
from metalib.models.registry import SOURCES, Source, full_name
from metalib.models.weights import load_weights
from metalib.models.wrap import wrap_model
from metalib.models.zoo.architectures import ARCHITECTURES, STAGES

FOLDER: Path = Path(__file__).parent / "weights"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training pixels


def names() -> list[str]:
    """Names of the models that have a card."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def cards() -> list[dict]:
    """The cards of all models of the zoo, plain dicts, sorted by name; no weights are read."""
    return [json.loads((FOLDER / f"{name}.json").read_text()) for name in names()]


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
    network = ARCHITECTURES[name.partition("-")[0]](len(labels.CIFAR10))
    card = _load_weights(network, name) if pretrained and weights is None else {}
    if weights is not None:
        load_weights(network, weights, f"zoo/{name}", allow_pickle)
    return wrap_model(
        network, stages=stages or STAGES, mean=MEAN, std=STD, input_size=32,
        class_names=labels.CIFAR10, name=full_name("zoo", name, pretrained, weights),
        card=card, channels_last=True)


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


SOURCES["zoo"] = Source(names, load, files, null_file)
