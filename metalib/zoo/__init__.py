"""The bundled zoo: small classifiers of CIFAR-10, trained by `python -m metalib.zoo.train`.

Each model is three files in `weights/`: `<name>.safetensors` (half precision), `<name>.json` (its card) and
`<name>.null.safetensors` (its null distributions, see `metalib.nulls`).
"""
import hashlib
import json
from pathlib import Path

import safetensors
import safetensors.torch

from metalib import classes
from metalib.models import SOURCES, Source, full_name, wrap_model
from metalib.zoo.architectures import ARCHITECTURES, STAGES

FOLDER = Path(__file__).parent / "weights"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training pixels


def names():
    """Names of the models that have a card."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def cards():
    """The cards of all models of the zoo, plain dicts, by name; no weights are read."""
    return [json.loads((FOLDER / f"{name}.json").read_text()) for name in names()]


def files(name):
    """Weights and card of a model."""
    return [FOLDER / f"{name}.safetensors", FOLDER / f"{name}.json"]


def load(name, *, stages=None, allow_pickle=False, pretrained=True):
    """Load a model of the zoo by its name without the prefix `zoo/`; the file is checked against its card."""
    network = ARCHITECTURES[name.partition("-")[0]](len(classes.CIFAR10))
    card = _load_weights(network, name) if pretrained else {}
    return wrap_model(network, stages=stages or STAGES, mean=MEAN, std=STD, input_size=32, class_names=classes.CIFAR10,
                      name=full_name("zoo", name, pretrained), card=card, channels_last=True)


def _load_weights(network, name):
    """Put the stored weights into a network and return their card."""
    path, card_path = files(name)
    remedy = f"restore it from the repository, or train it: python -m metalib.zoo.train {name}"
    try:
        card = json.loads(card_path.read_text())
    except ValueError as error:
        raise ValueError(f"the card {card_path} is damaged ({error}); {remedy}") from error
    if not path.is_file():
        raise FileNotFoundError(f"the weights {path} are missing; {remedy}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise ValueError(f"the weights {path} are damaged or not those of the card (another SHA-256); {remedy}")
    weights = safetensors.torch.load(content)
    network.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in weights.items()})
    return card


def null_path(name):
    """The file with the null distributions of a model, by its full name; None for a model that is not of the zoo."""
    prefix, _, rest = name.partition("/")
    return FOLDER / f"{rest}.null.safetensors" if prefix == "zoo" else None


SOURCES["zoo"] = Source(names, load, files)
