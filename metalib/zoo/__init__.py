"""The bundled zoo: small classifiers of CIFAR-10, trained by `python -m metalib.zoo.train`.

Each model is three files in `weights/`: `<name>.safetensors` (half precision), `<name>.json` (its card) and
`<name>.null.safetensors` (its null distributions, see `metalib.nulls`).
"""
import hashlib
import json
from pathlib import Path

import safetensors
import safetensors.torch

from metalib.data import CIFAR10_CLASSES
from metalib.models import SOURCES, Source, wrap_model
from metalib.zoo.architectures import ARCHITECTURES, STAGES

FOLDER = Path(__file__).parent / "weights"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training pixels


def names():
    """Names of the models that have a card."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name):
    """Load a model of the zoo by its name without the prefix `zoo/`; the file is checked against its card."""
    path, card_path = FOLDER / f"{name}.safetensors", FOLDER / f"{name}.json"
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
    network = ARCHITECTURES[card["architecture"]](len(CIFAR10_CLASSES))
    weights = safetensors.torch.load(content)
    network.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in weights.items()})
    return wrap_model(network, stages=STAGES, mean=MEAN, std=STD, input_size=32, class_names=CIFAR10_CLASSES,
                      name=f"zoo/{name}", card=card, channels_last=True)


def null_path(name):
    """The file with the null distributions of a model, by its full name; None for a model that is not of the zoo."""
    prefix, _, rest = name.partition("/")
    return FOLDER / f"{rest}.null.safetensors" if prefix == "zoo" else None


SOURCES["zoo"] = Source(names, load)
