"""What a recipe may hold: checked, key by key, before a model is loaded.

    recipe = checked({"models": "zoo/vgg-robust-0", "stages": "group3", "images": "folder:PATH"})
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metalib.data import load_images
from metalib.devices import device_of
from metalib.generation.arguments import (
    OLD_COMPUTE,
    OLD_OPTIONS,
    combination_of,
    optimizer_of,
    prior_of,
    start_of,
)
from metalib.generation.compute import Compute
from metalib.generation.generate import generate
from metalib.models.registry import known_source
from metalib.plain import fitting, kinds_of, whole

OWN = {"models", "stages", "images", "stop", "null_images", "compute"}
PASSED_ON = {name for name, parameter in inspect.signature(generate).parameters.items()
             if parameter.kind is parameter.KEYWORD_ONLY}
PASSED_ON |= set(OLD_OPTIONS) | OLD_COMPUTE
PASSED_ON -= {*OWN, "pause", "resume", "progress", "callback"}
KINDS = kinds_of(generate) | dict.fromkeys(OLD_OPTIONS, dict) | {
    "models": list[str], "stages": list[str],
    **{field.name: field.type for field in dataclasses.fields(Compute)}}
LEAST = {"steps": 1, "check_every": 1, "store_every": 1, "jitter": 0}


def checked(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that can be carried out, as `metalib.runs.recipe.run` takes it.

    A model, a stage or a source of images that is given as a text becomes a list of it, or a dict;
    `compute` becomes a Compute.

    Raises:
        ValueError: keys that are unknown or missing, or values that are not what they have to be,
            with one line for each.
    """
    if not isinstance(recipe, Mapping):
        raise ValueError(f"a recipe is a dict, not {recipe!r}")
    if unknown := set(recipe) - OWN - PASSED_ON:
        raise ValueError(f"unknown keys in the recipe: {', '.join(sorted(map(str, unknown)))}; "
                         f"known: {', '.join(sorted(OWN | PASSED_ON))}")
    if missing := {"models", "stages", "images"} - set(recipe):
        raise ValueError(f"the recipe lacks {', '.join(sorted(missing))}")
    found, wrong = {}, []
    for key, value in recipe.items():
        try:
            found[key] = _value(key, value)
        except ValueError as error:
            wrong.append(f"{error}")
    if not wrong:
        try:
            _fit_together(found)
        except ValueError as error:
            wrong.append(f"{error}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def _value(key: str, value: Any) -> Any:
    """The value of a key, if it is of the kind that it has to be."""
    if key in ("images", "null_images"):
        return _images(key, {"source": value} if isinstance(value, str) else value)
    if key == "stop":
        if value not in (None, False, "criterion"):
            raise ValueError(f"stop: {value!r} is not known; say stop: criterion, or leave it out")
        return value or None
    if key == "compute":
        return _compute(value)
    if key in ("models", "stages") and isinstance(value, str):
        value = [value]
    if key in LEAST and value is not None:
        return whole(key, value, LEAST[key])
    if key == "device" and value is not None:
        device_of(value)
    value = fitting(key, value, KINDS[key])
    if key == "models":
        for name in value:
            known_source(name)
    return value


def _images(key: str, options: Any) -> dict[str, Any]:
    """The keywords of `load_images`."""
    kinds, options = kinds_of(load_images), fitting(key, options, dict)
    if unknown := set(options) - set(kinds):
        raise ValueError(f"{key} has unknown keys: {', '.join(sorted(map(str, unknown)))}; "
                         f"known: {', '.join(kinds)}")
    if "source" not in options:
        raise ValueError(f"{key} lacks source, such as cifar10-samples or folder:PATH")
    return {name: fitting(f"{key}, {name}", value, kinds[name])
            for name, value in options.items()}


def _compute(options: Any) -> Compute:
    if isinstance(options, Compute):
        return options
    try:
        return Compute(**fitting("compute", options, dict))
    except TypeError as error:
        raise ValueError(f"compute: {options!r} is not understood; its keys are "
                         f"{', '.join(sorted(OLD_COMPUTE))}") from error


def _fit_together(recipe: Mapping[str, Any]) -> None:
    """Raise a ValueError unless names are known and there is a stage for each model."""
    if len(recipe["models"]) != len(recipe["stages"]) or not recipe["models"]:
        raise ValueError(f"the recipe needs a stage for each of one or more models, not "
                         f"{len(recipe['stages'])} for {len(recipe['models'])}")
    optimizer_of(recipe.get("optimizer", "spectral_lbfgs"), recipe.get("jitter", 0))
    if not isinstance(recipe.get("start", "noise"), Tensor):
        start_of(recipe.get("start", "noise"))
    combination_of(recipe.get("combine", "worst"))
    prior_of(recipe.get("prior"))
