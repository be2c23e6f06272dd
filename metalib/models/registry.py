"""Models by name: every collection is a `Source`, reached by the prefix of its models' names.

    model = load_model("zoo/resnet-standard-0")
    list_models("robustbench/cifar10/L2/*")       # names only; nothing is loaded or downloaded
"""

import difflib
import fnmatch
import functools
from pathlib import Path
from typing import Any

import torch

from metalib.devices import device_of
from metalib.folders import data_folder
from metalib.models.model import Model
from metalib.models.sources import Source, sources


def list_models(pattern: str = "*", *, offline: bool = False) -> list[str]:
    """Names of the models that match a shell pattern, sorted; nothing is loaded or downloaded.

    Args:
        pattern: such as ``zoo/*`` or ``robustbench/cifar10/L2/*``. Libraries not installed
            are passed over, unless the pattern names them.
        offline: list only those whose files are all on this machine.

    Raises:
        ImportError: a library that the pattern names and that is not installed.

    Example:
        >>> "zoo/resnet-standard-0" in list_models("zoo/*")
        True
    """
    names, named = [], pattern.partition("/")[0]  # a prefix that is spelled out is the only one
    for prefix, source in sources().items():
        if prefix == named or set("*?[") & set(named):
            try:
                names += [
                    f"{prefix}/{name}" for name in source.names()
                    if fnmatch.fnmatchcase(f"{prefix}/{name}", pattern)
                    and not (offline and missing_files(source, name))]
            except ImportError:
                if prefix == named:
                    raise
    return sorted(names)


def load_model(
    name: str, *, stages: Any = None, device: str | torch.device = "cpu",
    allow_pickle: bool = False, pretrained: bool = True, weights: str | Path | None = None,
) -> Model:
    """Load a model by name.

    Weights that are not on this machine are downloaded into the cache of their library. Those of
    timm/tf_efficientnet_lite0, a network of ImageNet, come with a package that is installed with
    this one.

    Args:
        name: one of `list_models()`: "zoo/<name>", "torchvision/<name>" or
            "torchvision/<name>.<weights>", "timm/<name>",
            "robustbench/<dataset>/<threat model>/<name>", or one that was given by `add_models`.
        stages: names of submodules, as in `wrap_model`. None takes the stages of the zoo, or
            finds the main ones.
        device: where to put it, such as "cuda".
        allow_pickle: unpickle checkpoints that hold more than tensors. This runs whatever code
            they contain: allow it only for files whose origin you trust.
        pretrained: False gives the architecture with random weights, by torch's generator, and
            "(untrained)" in its name: a control that needs no file.
        weights: a file of weights for this architecture, safetensors or a state dict, in place of
            the library's own; its name stands in the model's. Normalisation, size and classes stay
            those of the library's (see `metalib.models.weights.load_weights`).

    Raises:
        ValueError: unknown name (the message has the nearest ones), a device that is not there, a
            weights file that is damaged, holds more than tensors, or is of another network.
        FileNotFoundError: a weights file that is missing and cannot be downloaded; the message
            says where to put it.
        ImportError: a library that is not installed.

    Example:
        >>> load_model("zoo/resnet-standard-0").stages
        ('stem', 'group1', 'group2', 'group3', 'features', 'logits')
    """
    device = device_of("cpu" if device is None else device)
    source, rest = known_source(name)
    if weights is not None and not pretrained:
        raise ValueError("weights=PATH loads weights, and pretrained=False none: leave one out")
    return source.load(rest, stages=stages, allow_pickle=allow_pickle, pretrained=pretrained,
                       weights=weights).to(device)


def known_source(name: str) -> tuple[Source, str]:
    """The Source of a model and its name there.

    Raises:
        ValueError: a name that no Source has; the message has the nearest ones.
    """
    if not isinstance(name, str):
        raise ValueError(f"a model is loaded by its name, a text, not {name!r}")
    if (found := source_of(name)) is None:
        prefix = name.partition("/")[0]
        known = list_models(f"{prefix}/*" if prefix in sources() else "*")
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or known[:8]
        raise ValueError(f"unknown model {name!r}; did you mean {', '.join(near)}? "
                         "list_models() lists all")
    return found


def source_of(name: str) -> tuple[Source, str] | None:
    """The Source of a model and its name there; None for a name that no Source has."""
    prefix, _, rest = name.partition("/")
    source = sources().get(prefix)
    return (source, rest) if source and rest in source.names() else None


def size_of(name: str) -> int | tuple[int, int]:
    """The size of the images that a model takes, as its `input_size`.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `load_model`.
    """
    return _size_of(*known_source(name))


@functools.lru_cache(maxsize=100)
def _size_of(source: Source, rest: str) -> int | tuple[int, int]:
    """For a collection as it is now: added again, it is another."""
    return source.size(rest) or source.load(rest).input_size


def null_file(name: str) -> Path | None:
    """The file of null distributions of a model, if there is one: it comes with it, or was kept."""
    prefix, _, rest = name.partition("/")
    if (source := sources().get(prefix)) is None:
        return None
    found = (source.nulls(rest), kept_null_file(name))
    return next((path for path in found if path is not None and path.is_file()), None)


def kept_null_file(name: str) -> Path:
    """Where null distributions of a model are kept that does not come with any."""
    return data_folder() / "nulls" / f"{name}.safetensors"


def missing_files(source: Source, name: str) -> list[Path]:
    """Those files of a model that are not on this machine."""
    return [path for path in source.files(name) if not path.is_file()]
