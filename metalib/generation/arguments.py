"""What `generate` is asked for: checked before anything is moved or computed.

A choice is a name, or a pair of it and its options: "lbfgs", or ("lbfgs", {"history": 30}).
"""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalib.data import ImageSet, pixels
from metalib.devices import device_of
from metalib.generation.combinations import COMBINATIONS
from metalib.generation.compute import Compute, keep_freed_memory, process_rank
from metalib.generation.metamers import Metamers
from metalib.generation.objective import Member, check_loss, relative_distance
from metalib.generation.optimizers import LINE_SEARCHES, OPTIMIZERS
from metalib.generation.priors import PRIORS
from metalib.generation.starts import STARTS, start_images
from metalib.identity import code_of, fingerprint
from metalib.models import Model
from metalib.plain import SEEDS, fitting, kinds_of, plain, whole
from metalib.version import __version__


class Choice(NamedTuple):
    """A part that can be exchanged for others.

    Attributes:
        name: in the recipe.
        function: the part itself, without its options.
        options: all of them, with their values.
    """

    name: str | None
    function: Any
    options: dict


@dataclass(frozen=True)
class Request:
    """A call of `generate` that can be carried out.

    Attributes:
        references, starts: (B, 3, H, W).
        members: all of them; `rank_members`: those of this rank.
        rule, combine, prior: functions with their options bound; `prior` may be None.
        loss: a function of activations (b, D) and target (b, D) that gives (b,).
        jitter, steps, seed, check_every, store_every, pause, compute: as in `generate`.
        device: where to compute; `bring`: whether the models are to be moved there.
        recipe: all of this as a plain dict.
    """

    references: Tensor
    starts: Tensor
    members: list[Member]
    rank_members: list[Member]
    rule: Callable
    combine: Callable
    prior: Callable | None
    loss: Callable[[Tensor, Tensor], Tensor]
    jitter: int
    steps: int
    seed: int
    check_every: int
    store_every: int | None
    pause: int | None
    compute: Compute
    device: torch.device
    bring: bool
    recipe: dict

    def bring_models(self) -> None:
        """Bring this rank's models to the device, if that was asked for."""
        if self.bring:
            for member in self.rank_members:
                member.model.to(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()


def checked(
    model_or_models: Any, images: ImageSet | Tensor, stage: Any, *, optimizer: Any, start: Any,
    prior: Any, jitter: int, steps: int, seed: int, stop: Any, check_every: int, combine: str,
    device: Any, compute: Compute, pause: int | None, resume: Metamers | None,
    loss: Callable | None, store_every: int | None, callback: Callable | None,
) -> Request:
    """Check the arguments of `generate`, without moving or computing anything but the starts.

    A loss that is given is tried on the activations of the first reference and its start.

    Raises:
        ValueError: as in `generate`.
    """
    steps, check_every = whole("steps", steps, 1), whole("check_every", check_every, 1)
    pause = None if pause is None else whole("pause", pause, 1)
    store_every = None if store_every is None else whole("store_every", store_every, 1)
    jitter, seed = whole("jitter", jitter, 0), whole("seed", seed, *SEEDS)
    _check_kinds(compute, loss=loss, callback=callback)
    references = pixels(images)
    if not len(references):
        raise ValueError("there are no references to make metamers of")
    members = members_of(model_or_models, stage, stop, references)
    rank, ranks = process_rank()
    if 1 < len(members) < ranks:
        raise ValueError(f"{len(members)} models cannot be spread over {ranks} ranks; "
                         f"start at most {len(members)}")
    rank_members = members[rank::ranks] if len(members) > 1 else members
    if len(members) == 1:
        share = -(-len(references) // ranks)
        compute = dataclasses.replace(compute, batch_size=min(compute.batch_size, share))
    combination = combination_of(combine)
    rule, penalty = optimizer_of(optimizer, jitter), prior_of(prior)
    device_used = rank_members[0].model.device if device is None else device_of(device)
    starts, chosen = starts_of(start, images, seed)
    recipe = {
        "models": [member.model.name for member in members],
        "fingerprints": [fingerprint(member.model) for member in members],
        "stages": [member.stage for member in members],
        "optimizer": rule.name, "optimizer_options": rule.options,
        "start": chosen.name, "start_options": chosen.options,
        "prior": penalty.name, "prior_options": penalty.options, "jitter": jitter,
        "steps": steps, "seed": seed,
        "stop": [member.criterion.describe() for member in members if member.criterion],
        "check_every": check_every, "store_every": store_every, "combine": combine,
        "loss": _name_of(loss) if loss else None,
        "code": {name: code_of(function) for name, function in (
            ("optimizer", _split(optimizer)[0]), ("loss", loss)) if callable(function)} or None,
        **dataclasses.asdict(compute),
        "device": str(device_used), "ranks": ranks,
        "versions": {"metalib": __version__, "torch": str(torch.__version__)},
    }
    recipe = {key: plain(f"{key} of the recipe", value) for key, value in recipe.items()}
    if resume is not None:
        check_resumed(resume, recipe, references, starts)
    bring = device is not None and not compute.sequential
    if loss is not None:
        for member in rank_members:
            place = device_used if bring or compute.sequential else member.model.device
            check_loss(loss, _name_of(loss), *_first_activations(member, place, starts, references))
    return Request(
        references, starts, members, rank_members, partial(rule.function, **rule.options),
        combination, partial(penalty.function, **penalty.options) if penalty.name else None,
        loss or relative_distance, jitter, steps, seed, check_every, store_every, pause, compute,
        device_used, bring, recipe)


def _check_kinds(compute: Any, **functions: Any) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ValueError(f"{name} is a function, see help(metalib.generate), not {function!r}")
    if not isinstance(compute, Compute):
        raise ValueError(f"compute is a Compute, such as Compute(batch_size=64), not {compute!r}")


def _first_activations(member: Member, device: torch.device, *images: Tensor) -> list[Tensor]:
    """The activations (1, D) of the first of each of some sets of images, on a device."""
    with torch.no_grad():
        return [member.model.activations(some[:1].to(member.model.device), member.stage).to(device)
                for some in images]


def members_of(
    model_or_models: Model | Sequence[Model], stage: str | Sequence[str], stop: Any,
    references: Tensor,
) -> list[Member]:
    """The members that images are made for, each checked with its stage, criterion and images."""
    several = isinstance(model_or_models, (list, tuple))
    models: list[Any] = list(model_or_models) if several else [model_or_models]
    for model in models:
        if not isinstance(model, Model):
            raise ValueError(f"a {type(model).__name__} is not a Model: wrap_model(network, ...) "
                             "makes one of it")
    stages = [stage] if isinstance(stage, str) else list(stage)
    stops = [] if stop is None else list(stop) if isinstance(stop, (list, tuple)) else [stop]
    if not models or len(stages) != len(models) or len(stops) not in (0, len(models)):
        raise ValueError(f"{len(models)} models need as many stages and nulls, not {len(stages)} "
                         f"stages and {len(stops)} nulls")
    members = [Member(number, model, name, criterion and criterion.on(model))
               for number, (model, name, criterion)
               in enumerate(zip(models, stages, stops or [None] * len(models)))]
    for member in members:
        member.model.check_stage(member.stage)
        member.model.check_images(references)
        if member.criterion is not None:
            member.criterion.check(member.model, member.stage)
    return members


def optimizer_of(optimizer: Any, jitter: int) -> Choice:
    """The update rule: a name of `OPTIMIZERS` or a function like those there, with its options."""
    rule, options = _split(optimizer)
    if isinstance(rule, str):
        name, function = rule, _named(rule, OPTIMIZERS, "optimizer")
    elif callable(rule):
        name, function = _name_of(rule), rule
    else:
        raise ValueError("an optimizer is a name, a function, or a pair of one and its options, "
                         f"such as ('adam', {{'learning_rate': 0.02}}), not {optimizer!r}")
    if jitter and getattr(function, "func", function) in LINE_SEARCHES:
        raise ValueError("a line search cannot compare what is seen shifted; with jitter choose "
                         "another rule, such as optimizer='adam'")
    return Choice(name, function, _all_options(function, name, options))


def prior_of(prior: Any) -> Choice:
    """The prior: a name of `PRIORS` with its options, or none."""
    prior, options = _split(prior)
    if prior is None:
        return Choice(None, None, {})
    function = _named(prior, PRIORS, "prior", ", or None")
    return Choice(prior, function, _all_options(function, prior, options))


def starts_of(start: Any, images: ImageSet | Tensor, seed: int) -> tuple[Tensor, Choice]:
    """The starting images, on the device of the references, and how they were chosen.

    The options are as plain as a recipe is.
    """
    if not isinstance(start, Tensor):
        chosen = start_of(start)
        described = {key: f"{value.name}, SHA-256 {value.sha256}" if isinstance(value, ImageSet)
                     else value for key, value in chosen.options.items()}
        return (start_images(str(chosen.name), images, seed=seed, **chosen.options),
                chosen._replace(options=described))
    references = pixels(images)
    if start.shape != references.shape or not (start.min() >= 0 and start.max() <= 1):
        raise ValueError(f"a given start must have the references' shape "
                         f"{tuple(references.shape)} and pixels in [0, 1]")
    return start.to(references), Choice("given", None, {})


def start_of(start: Any) -> Choice:
    """The start: a name of `STARTS` with its options."""
    name, options = _split(start)
    if not isinstance(name, str):
        raise ValueError("a start is a name, with options as in ('blend', {'fraction': 0.3}), or a "
                         f"tensor without options, not a {type(name).__name__}")
    function = _named(name, STARTS, "start")
    return Choice(name, function, _all_options(function, name, options))


def combination_of(combine: Any) -> Callable:
    """The combination: a name of `COMBINATIONS`."""
    return _named(combine, COMBINATIONS, "combination")


def check_resumed(
    resume: Metamers, recipe: Mapping, references: Tensor, starts: Tensor,
) -> None:
    """Raise a ValueError unless `resume` comes from the same call."""
    if resume.starts is None or not resume.recipe:
        raise ValueError("these metamers were made elsewhere and cannot be resumed")
    before = resume.recipe.get("fingerprints")
    if recipe["models"] == resume.recipe.get("models") and recipe["fingerprints"] != before:
        other = [name for name, *both in zip(recipe["models"], recipe["fingerprints"], before or [])
                 if both[0] != both[1]]
        raise ValueError(
            f"the run was begun with other weights, another normalisation or other code of "
            f"{', '.join(other)}; load the same network, or begin anew" if before else
            "the run was begun before it was noted with which weights; begin anew")
    different = [key for key in recipe
                 if key not in ("device", "fingerprints") and recipe[key] != resume.recipe.get(key)]
    for name, now, then in (("images", references, resume.references),
                            ("start", starts, resume.starts)):
        if now.shape != then.shape or not torch.equal(now.cpu(), then):
            different.append(name)
    if "code" in different:
        different[different.index("code")] = "code (of a given loss or rule, or what it uses)"
    if different:
        raise ValueError("a run is resumed with the arguments that it was begun with; "
                         f"these differ: {', '.join(different)}")


def _name_of(function: Any) -> str:
    if isinstance(function, partial):
        return _name_of(function.func)
    return getattr(function, "__name__", type(function).__name__)


def _split(choice: Any) -> tuple[Any, dict]:
    """A choice and its options, of either form."""
    paired = isinstance(choice, (tuple, list)) and len(choice) == 2
    if paired and isinstance(choice[1], Mapping):
        return choice[0], dict(choice[1])
    return choice, {}


def _named(name: Any, choices: Mapping[str, Any], what: str, besides: str = "") -> Any:
    if not isinstance(name, str) or name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(choices)}{besides}")
    return choices[name]


def _all_options(function: Callable, name: str | None, options: Mapping) -> dict:
    """The options that a function takes, those given with their values, the others by default.

    Those given are made plain, so that a recipe can hold them; only image sets stay what they are.

    Raises:
        ValueError: an unknown option, or a value of another kind than the option's.
    """
    parameters = inspect.signature(function).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items()
                if parameter.kind is parameter.KEYWORD_ONLY}
    if unknown := set(options) - set(defaults):
        raise ValueError(f"{name!r} has no option {', '.join(sorted(unknown))}; "
                         f"its options are {', '.join(defaults) or 'none'}")
    kinds, given = kinds_of(function), {}
    for key, value in options.items():
        what = f"the option {key} of {name!r}"
        given[key] = (value if isinstance(value, ImageSet)
                      else plain(what, fitting(what, value, kinds[key])))
    return defaults | given


# --- Keywords of 0.1, which work until 0.3 ------------------------------------------------------

OLD_OPTIONS = {f"{name}_options": name for name in ("optimizer", "start", "prior")}
OLD_COMPUTE = {field.name for field in dataclasses.fields(Compute)}


def with_old_keywords(function: Callable) -> Callable:
    """Let `generate` take `optimizer_options`, `precision`, ... as it did in version 0.1."""
    defaults = {name: parameter.default
                for name, parameter in inspect.signature(function).parameters.items()}

    @functools.wraps(function)
    def wrapper(*arguments, **keywords):
        old = sorted(name for name in keywords if name in OLD_OPTIONS or name in OLD_COMPUTE)
        if old:
            warnings.warn(
                f"{', '.join(old)}: from 0.3 on, options are given with what they belong to, as "
                "in optimizer=('lbfgs', {'history': 30}) or compute=Compute(batch_size=64)",
                DeprecationWarning, stacklevel=2)
        for name, choice in OLD_OPTIONS.items():
            if options := keywords.pop(name, None):
                keywords[choice] = keywords.get(choice, defaults[choice]), options
        if found := {name: keywords.pop(name) for name in old if name in OLD_COMPUTE}:
            compute = keywords.get("compute", defaults["compute"])
            keywords["compute"] = dataclasses.replace(compute, **found)
        return function(*arguments, **keywords)

    return wrapper
