"""Stages of a network: found by tracing, checked, and read without running later layers.

A stage is the output of a submodule, by its name in `named_modules()`, or the input of one,
written `name:input`. The second form reaches what is computed between modules, such as the
features of a network that pools by a function. The main ones are found by
`metalib.models.default_stages`.
"""

import contextlib
import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from metalib.models.outputs import Layout, layout_of, tensor_of


class StageReached(BaseException):
    """Carries a stage's activations out of a forward pass, so that later layers are not run.

    No Exception, so that a network's own `except Exception` lets it through.
    """

    def __init__(self, output: Any):
        self.output = output


@contextlib.contextmanager
def hooked(module: nn.Module, stage: str, note: Callable[[Any], None]) -> Iterator[None]:
    """While this lasts, `note` is called with what a stage gives in each pass."""
    name, at_input = _parse(stage)
    submodule = module.get_submodule(name)
    handle = (
        submodule.register_forward_pre_hook(
            lambda _module, inputs, named: note(first_of(inputs, named)), with_kwargs=True)
        if at_input else submodule.register_forward_hook(lambda _module, _inputs, output: note(
            output)))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """For as long as this lasts the network is in evaluation mode, whatever was done to it."""
    training = [submodule for submodule in module.modules() if submodule.training]
    if training:
        module.eval()
        for submodule in training:  # also those that do not listen
            submodule.training = False
    try:
        yield
    finally:
        for submodule in training:
            submodule.training = True


class ReLUs(TorchFunctionMode):
    """Counts ReLUs, and knows of which ones a tensor is the output.

    A ReLU may be called as a module, as a function or in place; ReLU6, and Hardtanh from 0 up, are
    such. Of a concatenation of outputs of ReLUs, as in an Inception module, it is all of them.

    Args:
        straight_through: the numbers, counted from 1, of ReLUs that pass the gradient on unchanged;
            others are left as they are. None computes all of them out of place, as plain ReLUs.
        left_out: of these ReLUs, give what they take.

    Attributes:
        ceilings: the largest value of each ReLU, by its number.
    """

    CONCATENATIONS = {"cat", "concat", "concatenate"}

    def __init__(self, straight_through: Sequence[int] | None = None, left_out: bool = False):
        super().__init__()
        self.count, self._straight, self._left_out = 0, straight_through, left_out
        self.ceilings: dict[int, float] = {}
        self._outputs: Any = WeakTensorKeyDictionary()

    def __torch_function__(self, function, types, args=(), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if (ceiling := _ceiling(name, kwargs)) is None:
            output = function(*args, **kwargs)
            if name in self.CONCATENATIONS:
                parts = [self.of(part) for part in (args[0] if args else kwargs["tensors"])]
                self._note(output, sum(parts, ()) if all(parts) else ())
            return output
        self.count += 1
        self.ceilings[self.count] = ceiling
        if self._straight is not None and self.count not in self._straight:
            return function(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        if self._straight:
            return x if self._left_out else _straight_through(x, ceiling)
        output = torch.relu(x) if ceiling == math.inf else x.clamp(0, ceiling)
        self._note(output, (self.count,))
        return output

    def _note(self, output: Tensor, numbers: tuple[int, ...]) -> None:
        if numbers:
            self._outputs[output] = numbers, _version(output)

    def of(self, output: Any) -> tuple[int, ...]:
        """The numbers of the ReLUs whose output this is, unless it was changed in place since."""
        if not isinstance(output, Tensor) or output not in self._outputs:
            return ()
        numbers, version = self._outputs[output]
        return numbers if _version(output) == version else ()


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; in inference mode that is not counted."""
    return 0 if tensor.is_inference() else tensor._version


def _straight_through(x: Tensor, ceiling: float) -> Tensor:
    """A ReLU that passes the gradient on unchanged; its values are the same to the bit."""
    value = x.detach()
    if ceiling == math.inf:
        return x - value.clamp_max(0)
    return value.clamp(0, ceiling) + (x - value)


def _ceiling(name: str, kwargs: dict[str, Any]) -> float | None:
    """The largest value of a ReLU, by the name of the function; None for any other function."""
    if name.startswith("hardtanh"):
        return kwargs["max_val"] if kwargs.get("min_val") == 0 else None
    return {"relu": math.inf, "relu_": math.inf, "relu6": 6.0, "relu6_": 6.0}.get(name)


@dataclass(frozen=True)
class Stage:
    """A stage as tracing found it.

    Attributes:
        shape: of one image's activations.
        layout: where the images of a batch are in what its submodule returns.
        relus: where that is the output of a ReLU, or a concatenation of such, their numbers, as in
            `ReLUs`.
        ceiling: the largest value of these ReLUs; None without any, and where they differ.
    """

    shape: tuple[int, ...]
    layout: Layout
    relus: tuple[int, ...]
    ceiling: float | None = None

    def rows(self, output: Any) -> Tensor:
        """What the submodule returned, as a tensor with a row for each image."""
        return self.layout.rows(tensor_of(output))


def trace(
    module: nn.Module, stages: Sequence[str], images: Tensor, name: str, *, lenient: bool = False,
) -> tuple[dict[str, Stage], Any, Any]:
    """Run two images through a network, and the second one alone, and note what its stages give.

    Args:
        module: the network, in evaluation mode.
        stages: names of stages, in any order.
        images: (2, C, H, W), different and normalised.
        name: the model's name, for error messages.
        lenient: leave out stages that cannot be read, rather than raise an error.

    Returns:
        The stages, in the order in which they are computed; and what the network returns for two
        images and for one.

    Raises:
        ValueError: a stage that does not exist, is not computed exactly once or does not return
            one tensor with a row for each image; or a network that does not take such images.
    """
    if len(set(stages)) < len(stages):
        raise ValueError(f"{name}: stages are named twice in {list(stages)}")
    _check_names(module, stages, name)
    single, alone = _calls(module, stages, images[1:], name)
    try:
        pair, output = _calls(module, stages, images, name)
    except ValueError as error:
        raise ValueError(f"{name} takes one image, but not two: let its batch axis have any "
                         f"length ({error})") from error
    found, refused = {}, None
    for stage in sorted(stages, key=lambda stage: pair[stage][0].order if pair[stage] else 0):
        try:
            found[stage] = _stage(pair[stage], single[stage])
        except ValueError as error:
            refused = ValueError(f"{name}: stage {stage!r} {error}")
            if not lenient:
                raise refused from error
    if not found:
        raise refused or ValueError(f"{name}: stages=[] names none")
    return found, output, alone


class _Call(NamedTuple):
    """One call of a stage's submodule: which of all, what it gave, the numbers of its ReLUs, and
    their ceilings.
    """

    order: int
    output: Any
    relus: tuple[int, ...]
    ceilings: set[float]


def _calls(
    module: nn.Module, stages: Sequence[str], images: Tensor, name: str,
) -> tuple[dict[str, list[_Call]], Any]:
    """The calls of each stage in a forward pass, and what the network returns."""
    calls: dict[str, list[_Call]] = {stage: [] for stage in stages}
    with contextlib.ExitStack() as hooks, torch.no_grad(), ReLUs() as relus:

        def note(stage: str, output: Any) -> None:
            numbers = relus.of(output)
            calls[stage].append(_Call(sum(map(len, calls.values())), output, numbers,
                                      {relus.ceilings[number] for number in numbers}))

        for stage in stages:
            hooks.enter_context(hooked(module, stage, partial(note, stage)))
        with explained(name, images):
            return calls, module(images.clone())  # it may work in place


def _stage(pair: list[_Call], single: list[_Call]) -> Stage:
    if len(pair) != 1 or len(single) != 1:
        advice = "name the block around it" if pair else "name one that is"
        raise ValueError(f"is computed {len(pair)} times in a forward pass, but a stage is "
                         f"computed once; {advice}")
    two, one = tensor_of(pair[0].output), tensor_of(single[0].output)
    layout = layout_of(two, one)
    found = pair[0]
    ceiling = next(iter(found.ceilings)) if len(found.ceilings) == 1 else None
    return Stage(tuple(layout.rows(one).shape[1:]), layout, found.relus, ceiling)


def _check_names(module: nn.Module, stages: Sequence[str], name: str) -> None:
    modules = dict(module.named_modules(remove_duplicate=False))
    for stage in stages:
        if not isinstance(stage, str) or not _parse(stage)[0] or _parse(stage)[0] not in modules:
            near = (difflib.get_close_matches(str(stage), modules, n=5, cutoff=0.3)
                    or [key for key in modules if key][:8])
            raise ValueError(f"{name} has no submodule {stage!r} for a stage; "
                             f"did you mean {', '.join(near)}?")
        if isinstance(modules[_parse(stage)[0]], torch.jit.ScriptModule):
            raise ValueError(f"{name}: stage {stage!r} is scripted and takes no hooks: wrap the "
                             "network that it was made of")


def _parse(stage: str) -> tuple[str, bool]:
    """The name of a stage's submodule, and whether the stage is the input of that submodule."""
    name, _, side = stage.partition(":")
    return (name, True) if side == "input" else (stage, False)


def first_of(inputs: tuple, named: dict[str, Any]) -> Any:
    """What a module was called with first, by position or by keyword."""
    for value in (*inputs, *named.values()):
        if isinstance(value, Tensor):
            return value
    return inputs[0] if inputs else named


ADVICE = {  # what to do about errors of a forward pass, by words in them; the first that fits
    r"inplace operation": "let it compute out of place what is named there",
    r"to have 1 channels": "for a network of grey-scale images pass mean=(m,) and std=(s,), one "
                           "number each",
    r"to have \d+ channels": "it is given images of {channels} channels; wrap a module that takes "
                             "these",
    r"^$|size|shape|match|dimension|[Ii]nput|Kernel": "if it takes images of another size, pass "
                                                   "input_size=side or (height, width)",
    r"device": "put all of it on one device",
}
TAKES = "wrap a module that takes normalised images alone, (B, {channels}, H, W)"


@contextlib.contextmanager
def explained(name: str, images: Tensor) -> Iterator[None]:
    """Whatever a forward pass raises is raised again as a ValueError that says what to do."""
    try:
        yield
    except Exception as error:
        channels, *size = images.shape[1:]
        text = " ".join(str(error).split())[:300]
        known = ADVICE if isinstance(error, (RuntimeError, ValueError, AssertionError)) else {}
        advice = next((known[words] for words in known if re.search(words, text)), TAKES)
        raise ValueError(
            f"{name} does not take images of {' x '.join(map(str, size))} pixels "
            f"({type(error).__name__}: {text}); {advice.format(channels=channels)}") from error
