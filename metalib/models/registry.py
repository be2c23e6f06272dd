"""Models by name: every collection is a `Source`, reached by the prefix of its models' names.

    model = load_model("zoo/resnet-standard-0")
    list_models("robustbench/cifar10/L2/*")       # names only; nothing is loaded or downloaded
"""

import difflib
import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metalib.devices import device_of
from metalib.models.model import Model


def _no_nulls(_name: str) -> None:
    return None


@dataclass(frozen=True)
class Source:
    """A collection of models.

    Attributes:
        names: lists the names that follow the prefix.
        load: makes a Model of one of them; takes `stages` (None for the default),
            `allow_pickle`, `pretrained` and `weights`.
        files: the files that a model needs; those that are missing are downloaded on loading.
        nulls: the file of null distributions that comes with a model, or None
            (see `metalib.evaluation.nulls`).
    """

    names: Callable[[], list[str]]
    load: Callable[..., Model]
    files: Callable[[str], list[Path]]
    nulls: Callable[[str], Path | None] = _no_nulls


SOURCES: dict[str, Source] = {}


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
    for prefix, source in SOURCES.items():
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
            "robustbench/<dataset>/<threat model>/<name>".
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
        known = list_models(f"{prefix}/*" if prefix in SOURCES else "*")
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or known[:8]
        raise ValueError(f"unknown model {name!r}; did you mean {', '.join(near)}? "
                         "list_models() lists all")
    return found


def source_of(name: str) -> tuple[Source, str] | None:
    """The Source of a model and its name there; None for a name that no Source has."""
    prefix, _, rest = name.partition("/")
    known = prefix in SOURCES and rest in SOURCES[prefix].names()
    return (SOURCES[prefix], rest) if known else None


def null_file(name: str) -> Path | None:
    """The file of null distributions that comes with a model, if there is one."""
    prefix, _, rest = name.partition("/")
    path = SOURCES[prefix].nulls(rest) if prefix in SOURCES else None
    return path if path is not None and path.is_file() else None


def missing_files(source: Source, name: str) -> list[Path]:
    """Those files of a model that are not on this machine."""
    return [path for path in source.files(name) if not path.is_file()]


def full_name(prefix: str, name: str, pretrained: bool, weights: str | Path | None = None) -> str:
    """The name of a model in tables."""
    return f"{prefix}/{name}" + (f" ({Path(weights).name})" if weights is not None else
                                 "" if pretrained else " (untrained)")
