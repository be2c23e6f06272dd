"""Arguments as plain values, which a recipe, a header or an address can hold: checked at the door.

    whole("steps", np.int64(60), least=1)            # 60
    plain("options", {"to": (1, Path("run"))})       # {'to': [1, 'run']}
    fitting("models", "zoo/x", list[str])            # ValueError: models is a list, not 'zoo/x'
"""

import collections.abc
import inspect
import math
import numbers
import operator
import os
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text",
         types.NoneType: "None", list: "a list", dict: "keys and values"}
LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)
LARGEST = 2 ** 63 - 1  # of the integers that torch and files hold
SEEDS = -2 ** 63, 2 ** 64 - 1  # what torch takes as a seed, the first and the last


def whole(name: str, value: Any, least: int = -LARGEST, most: int = LARGEST) -> int:
    """A whole number as an int: of Python, NumPy or torch, or a float without a fraction.

    Raises:
        ValueError: anything else (True and "3" too), or a number below `least` or above `most`.

    Example:
        >>> whole("steps", np.int64(60)), whole("steps", 1e2)
        (60, 100)
    """
    scalar: Any = _scalar(value)
    found: Any = int(scalar) if isinstance(scalar, float) and scalar.is_integer() else scalar
    try:
        number = None if isinstance(found, bool) else operator.index(found)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        bound = f" of at least {least}" if least > -LARGEST else ""
        if number is not None and number > most:
            bound += f", at most {most}"
        raise ValueError(f"{name} must be a whole number{bound}, not {reprlib.repr(found)}")
    return number


def plain(name: str, value: Any) -> Any:
    """A value as JSON has it: numbers, text, True, False, None, and lists and dicts of them.

    Scalars of NumPy and torch become numbers, paths text, and tuples lists.

    Raises:
        ValueError: a value of any other type, or a key that is no text; `name` says whose.
    """
    value = _scalar(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): plain(f"{name}, {key}", item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain(name, item) for item in value]
    raise ValueError(f"{name} takes plain values (numbers, text, true or false, lists, and dicts "
                     f"with text as keys), not a {type(value).__name__}: {reprlib.repr(value)}")


def fitting(name: str, value: Any, wanted: Any) -> Any:
    """A value of the type that an annotation wants.

    Whole numbers become an int where one is wanted. Annotations that say nothing of plain values
    let everything pass.

    Raises:
        ValueError: a value of another type: a text for a list, a text for a number, not a number.

    Example:
        >>> fitting("seeds", [0, 1.0], list[int]), fitting("stage", None, str | None)
        ([0, 1], None)
    """
    kind, inside = typing.get_origin(wanted) or wanted, typing.get_args(wanted)
    kind = next((common for common, others in ((list, LISTS), (dict, (dict, Mapping)))
                 if kind in others), kind)
    if kind in (typing.Union, types.UnionType):
        return _fitting_one(name, value, inside)
    if kind is int:
        return whole(name, value)
    value = _scalar(value)
    if kind is list and isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        every = inside[0] if len(inside) == 1 or inside[1:] == (...,) else Any
        return [fitting(f"each of {name}", item, every) for item in value]
    fits = {
        bool: isinstance(value, bool), str: isinstance(value, (str, os.PathLike)),
        float: isinstance(value, numbers.Real) and not isinstance(value, bool)
        and not math.isnan(value),
        types.NoneType: value is None, None: value is None, list: False,
        dict: isinstance(value, Mapping), collections.abc.Callable: callable(value)}
    if not (fits.get(kind, True) if isinstance(kind, collections.abc.Hashable) else True):
        raise ValueError(f"{name} is {_in_words(wanted)}, not {reprlib.repr(value)}")
    return value


def _fitting_one(name: str, value: Any, kinds: Sequence[Any]) -> Any:
    """The value as one of several annotations wants it."""
    for kind in kinds:
        try:
            return fitting(name, value, kind)
        except ValueError:
            continue
    raise ValueError(f"{name} is {' or '.join(map(_in_words, kinds))}, not {reprlib.repr(value)}")


def _in_words(wanted: Any) -> str:
    kind = typing.get_origin(wanted) or wanted
    if kind in LISTS:
        return "a list" + (f" ({typing.get_args(wanted)[0].__name__})" if any(
            isinstance(part, type) for part in typing.get_args(wanted)[:1]) else "")
    kind = dict if kind is Mapping else kind
    return WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def kinds_of(function: Callable) -> dict[str, Any]:
    """What each parameter of a function wants, by its name, for `fitting`.

    That is its annotation or else what its default tells; Any where neither does.
    """
    try:
        known = typing.get_type_hints(getattr(function, "func", function))
    except (NameError, TypeError, AttributeError):  # names of a module that is not imported here
        known = {}
    return {name: known.get(name, _kind_like(parameter.default))
            for name, parameter in inspect.signature(function).parameters.items()}


def _kind_like(default: Any) -> Any:
    """The annotation that a default value stands for."""
    return {bool: bool, int: float, float: float, str: str}.get(type(default), Any)


def _scalar(value: Any) -> Any:
    """A scalar of NumPy, or an array or tensor without axes, as a number of Python."""
    if isinstance(value, np.generic) or isinstance(value, (np.ndarray, Tensor)) and not value.ndim:
        return value.item()
    return value


def remembered(known: dict, key: Any, make: Callable[[], Any], most: int = 200) -> Any:
    """What `make` gives, made once for a key; beyond `most` keys, the oldest is forgotten."""
    if key not in known:
        known[key] = make()
        if len(known) > most:
            del known[next(iter(known))]
    return known[key]
