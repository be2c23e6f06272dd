"""Stages of a network: found by tracing, checked, and read without running later layers.

A stage is the output of a submodule, by its name in `named_modules()`, or the input of one,
written `name:input`. The second form reaches what is computed between modules, such as the
features of a network that pools by a function. The main ones are found by
`metalib.models.default_stages`.
"""

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from metalib.models.outputs import Layout, layout_of, tensor_of


class StageReached(Exception):
    """Carries a stage's activations out of a forward pass, so that later layers are not run."""

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
    try:
        yield
    finally:
        for submodule in training:
            submodule.training = True


class LastReLU(TorchFunctionMode):
    """Counts ReLUs and remembers the input and output of the latest one.

    A ReLU may be called as a module, as a function or in place. With a `number`, counted from 1,
    only that ReLU is remembered, and others may still work in place. `relu` computes the ReLU.
    """

    NAMES = {"relu", "relu_"}
    input = output = None

    def __init__(
        self, number: int | None = None, relu: Callable[[Tensor], Tensor] = torch.relu,
    ):
        super().__init__()
        self.number, self.count, self.relu = number, 0, relu

    def __torch_function__(self, function, types, args=(), kwargs: Any = None) -> Any:
        is_relu = getattr(function, "__name__", "") in self.NAMES
        self.count += is_relu
        if not is_relu or self.number not in (None, self.count):
            return function(*args, **(kwargs or {}))
        self.input = args[0] if args else kwargs["input"]
        self.output = self.relu(self.input)  # out of place: the input is still needed
        return self.output


@dataclass(frozen=True)
class Stage:
    """A stage as tracing found it.

    Attributes:
        shape: of one image's activations.
        layout: where the images of a batch are in what its submodule returns.
        relu: where that is the output of a ReLU, the number of this ReLU, as in `LastReLU`; or 0.
    """

    shape: tuple[int, ...]
    layout: Layout
    relu: int

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
    found = {}
    for stage in sorted(stages, key=lambda stage: pair[stage][0].order if pair[stage] else 0):
        try:
            found[stage] = _stage(pair[stage], single[stage])
        except ValueError as error:
            if not lenient:
                raise ValueError(f"{name}: stage {stage!r} {error}") from error
    if not found:
        raise ValueError(f"{name} has no stage that can be read: name some, stages=[...]")
    return found, output, alone


class _Call(NamedTuple):
    """One call of a stage's submodule: which of all, what it gave, and the number of its ReLU."""

    order: int
    output: Any
    relu: int


def _calls(
    module: nn.Module, stages: Sequence[str], images: Tensor, name: str,
) -> tuple[dict[str, list[_Call]], Any]:
    """The calls of each stage in a forward pass, and what the network returns."""
    calls: dict[str, list[_Call]] = {stage: [] for stage in stages}
    with contextlib.ExitStack() as hooks, torch.no_grad(), LastReLU() as relu:

        def note(stage: str, output: Any) -> None:
            number = relu.count if output is relu.output else 0
            calls[stage].append(_Call(sum(map(len, calls.values())), output, number))

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
    return Stage(tuple(layout.rows(one).shape[1:]), layout, pair[0].relu)


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
    r"size|shape|match|dimension|[Ii]nput|Kernel": "if it takes images of another size, pass "
                                                   "input_size=side or (height, width)",
    r"device": "put all of it on one device",
}
TAKES = "wrap a module that takes normalised images alone, (B, {channels}, H, W)"


@contextlib.contextmanager
def explained(name: str, images: Tensor) -> Iterator[None]:
    """Whatever a forward pass raises is raised again as a ValueError that says what to do."""
    try:
        yield
    except StageReached:
        raise
    except Exception as error:
        channels, *size = images.shape[1:]
        text = " ".join(str(error).split())[:300]
        known = ADVICE if isinstance(error, (RuntimeError, ValueError, AssertionError)) else {}
        advice = next((known[words] for words in known if re.search(words, text)), TAKES)
        raise ValueError(
            f"{name} does not take images of {' x '.join(map(str, size))} pixels "
            f"({type(error).__name__}: {text}); {advice.format(channels=channels)}") from error
