"""Collections of models by name, those of the libraries and those that users add.

    # networks.py
    import metalib

    def load(name):
        return metalib.wrap_model(network(name), stages=["layer1", "fc"], input_size=224)

    metalib.add_models("mine", ["small", "large"], load)

In a notebook that is all: `load_model("mine/small")`. Commands, sweeps and their workers find it
where the environment variable METALIB_MODELS names the file (several, with colons between them):

    METALIB_MODELS=networks.py metalib check mine/small
"""

import functools
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalib.models.model import Model

VARIABLE = "METALIB_MODELS"


def _no_files(_name: str) -> list[Path]:
    return []


def _nothing(_name: str) -> None:
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
        size: the size of the images that a model takes, or None where it has to be loaded for it.
        added: by the user, see `add_models`.
    """

    names: Callable[[], list[str]]
    load: Callable[..., Model]
    files: Callable[[str], list[Path]] = _no_files
    nulls: Callable[[str], Path | None] = _nothing
    size: Callable[[str], int | None] = _nothing
    added: bool = False


SOURCES: dict[str, Source] = {}
_read: set[Path] = set()  # files of VARIABLE


def sources() -> dict[str, Source]:
    """All collections by the prefix of their models' names, after reading the user's files.

    Raises:
        FileNotFoundError: a file that the environment variable METALIB_MODELS names.
        ValueError: one that raises an error.
    """
    for text in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        path = Path(text).expanduser().resolve()
        if path not in _read:
            if not path.is_file():
                raise FileNotFoundError(f"the environment variable {VARIABLE} names {text}, which "
                                        "is no file: a Python file that calls metalib.add_models")
            _read.add(path)  # before it is run, since it may ask for names itself
            try:
                _run(path)
            except BaseException as error:
                _read.discard(path)
                if not isinstance(error, Exception):
                    raise
                raise ValueError(f"{text}, which the environment variable {VARIABLE} names, "
                                 f"raises {type(error).__name__}: {error}") from error
    return SOURCES


def read_also(path: Path) -> None:
    """Let this process and those that it starts read a file of networks, as `VARIABLE` does."""
    named = list(filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))
    if str(path) not in named:
        os.environ[VARIABLE] = os.pathsep.join([*named, str(path)])


def _run(path: Path) -> None:
    """Import a Python file as a module of its own."""
    name = f"models_{len(_read)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def add_models(
    prefix: str, names: Iterable[str], load: Callable[..., Model], *,
    files: Callable[[str], list[Path]] = _no_files,
    size: Callable[[str], int | None] = _nothing,
    nulls: Callable[[str], Path | None] = _nothing,
) -> None:
    """Give networks of your own names, which then stand wherever a model's name does.

    Tables, recipes and addresses of cells know such a network by its content: its weights,
    settings and code.

    Args:
        prefix: what stands before the slash, such as "mine". Added again, it is replaced.
        names: what may stand behind it.
        load: a function of a name that returns what `wrap_model` returns; with a parameter
            `stages`, `weights` or `pretrained` it is also given that argument of `load_model`.
        files: a function of a name that returns the paths of the files that `load` reads, so that
            it can be said where one is missing. By their bytes tables then know the network, and
            not by its code. Without it, a network is taken to be there.
        size: a function of a name that returns the network's `input_size`; without it, a network
            is loaded where only its size is asked for.
        nulls: a function of a name that returns the path of a file of null distributions that comes
            with the network, as `metalib null` makes it, or None.

    Raises:
        ValueError: a prefix that is no word or that a library has, names that are no texts, none,
            or twice the same, or a `load` that is no function.

    Example:
        >>> from torch import nn
        >>> import metalib
        >>> def load(name):
        ...     layers = nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 10)
        ...     return metalib.wrap_model(nn.Sequential(*layers), input_size=32)
        >>> metalib.add_models("mine", ["small"], load)
        >>> metalib.load_model("mine/small").name
        'mine/small'
    """
    names = [names] if isinstance(names, str) else list(names)
    if not isinstance(prefix, str) or not re.fullmatch(r"[\w.-]+", prefix):
        raise ValueError(f"the prefix of names is a word without a slash, not {prefix!r}")
    if prefix in SOURCES and not SOURCES[prefix].added:
        raise ValueError(f"{prefix}/... are names of a library; choose another prefix")
    if not names or not all(isinstance(name, str) and name for name in names) or (
            len(set(names)) < len(names)):
        raise ValueError(f"names are one or more different texts, not {names!r}")
    if not callable(load):
        raise ValueError("load is a function from a name to a Model (see wrap_model), not "
                         f"{type(load).__name__}")
    SOURCES[prefix] = Source(
        lambda: names, functools.partial(_loaded, prefix, load), files, nulls, size,
        added=True)


def _loaded(
    prefix: str, load: Callable[..., Model], name: str, *, allow_pickle: bool = False,
    **options: Any,
) -> Model:
    """A model of the user's own, by the user's function."""
    given = {key: value for key, value in options.items()
             if value is not (True if key == "pretrained" else None)}
    taken = inspect.signature(load).parameters
    if missing := [key for key in given if key not in taken]:
        raise ValueError(f"the function that loads {prefix}/{name} has no parameter "
                         f"{' or '.join(missing)}")
    model = load(name, **given)
    if not isinstance(model, Model):
        raise ValueError(f"the function that loads {prefix}/{name} returns "
                         f"{type(model).__name__}; it has to return what wrap_model returns")
    model.name = full_name(prefix, name, options.get("pretrained", True), options.get("weights"))
    return model


def full_name(prefix: str, name: str, pretrained: bool, weights: str | Path | None = None) -> str:
    """The name of a model in tables."""
    return f"{prefix}/{name}" + (f" ({Path(weights).name})" if weights is not None else
                                 "" if pretrained else " (untrained)")
