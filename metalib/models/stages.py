"""Stages of a network: found by tracing, checked, and read without running later layers.

A stage is the output of a submodule, by its name in `named_modules()`, or the input of one,
written `name:input`. The second form reaches what is computed between modules, such as the
features of a network that pools by a function.
"""

import contextlib
import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import networkx
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class StageReached(Exception):
    """Carries a stage's activations out of a forward pass, so that later layers are not run."""

    def __init__(self, output: Tensor):
        self.output = output


@contextlib.contextmanager
def hooked(module: nn.Module, stage: str, note: Callable[[Any], object]) -> Iterator[None]:
    """While this lasts, `note` is called with the activations of a stage in each pass."""
    name, at_input = _parse(stage)
    submodule = module.get_submodule(name)
    handle = (
        submodule.register_forward_pre_hook(lambda _module, inputs: note(inputs[0])) if at_input
        else submodule.register_forward_hook(lambda _module, _inputs, output: note(output)))
    try:
        yield
    finally:
        handle.remove()


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


def trace(
    module: nn.Module, stages: Sequence[str] | None, image: Tensor, name: str,
) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]], dict[str, int]]:
    """Run one image through the network and note the order and the shapes of its stages.

    Args:
        module: the network.
        stages: names of stages, in any order; None for `default_stages`.
        image: (1, 3, H, W), normalised.
        name: the model's name, for error messages.

    Returns:
        The stages in order of execution; a dict from stages to the shapes of one image's
        activations; and a dict from each stage whose output is that of a ReLU to the number of
        that ReLU, as in `LastReLU`.

    Raises:
        ValueError: a stage that does not exist, is not computed exactly once or is not one
            tensor; or a network that does not take such an image.
    """
    with _explained(name, image):
        stages = default_stages(module, image) if stages is None else list(stages)
    if len(set(stages)) < len(stages):
        raise ValueError(f"{name}: stages are named twice in {stages}")
    modules = dict(module.named_modules())
    for stage in stages:
        if _parse(stage)[0] not in modules or not _parse(stage)[0]:
            near = (difflib.get_close_matches(stage, modules, n=5, cutoff=0.3)
                    or [key for key in modules if key][:8])
            raise ValueError(f"{name} has no submodule {stage!r} for a stage; "
                             f"did you mean {', '.join(near)}?")
    calls = []
    with (contextlib.ExitStack() as hooks, torch.no_grad(), LastReLU() as relu,
          _explained(name, image)):
        for stage in stages:
            hooks.enter_context(hooked(module, stage, lambda output, stage=stage: calls.append(
                (stage, output, relu.count if output is relu.output else 0))))
        module(image)
    order = [stage for stage, _, _ in calls]
    for stage in stages:
        if order.count(stage) != 1:
            raise ValueError(
                f"{name}: stage {stage!r} is computed {order.count(stage)} times in a forward "
                "pass, but a stage is computed once; name the block around it")
    for stage, output, _ in calls:
        if not isinstance(output, torch.Tensor):
            raise ValueError(
                f"{name}: stage {stage!r} returns a {type(output).__name__}, not one tensor")
    return (tuple(order), {stage: tuple(output.shape[1:]) for stage, output, _ in calls},
            {stage: number for stage, _, number in calls if number})


def _parse(stage: str) -> tuple[str, bool]:
    """The name of a stage's submodule, and whether the stage is the input of that submodule."""
    name, _, side = stage.partition(":")
    return (name, True) if side == "input" else (stage, False)


@contextlib.contextmanager
def _explained(name: str, image: Tensor) -> Iterator[None]:
    """Errors of a forward pass are raised again as one that names the size of the image."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(
            f"{name} does not take images of {' x '.join(map(str, image.shape[2:]))} pixels "
            f"({error}); pass input_size") from error


# --- Default stages -------------------------------------------------------------------------------

@dataclass
class _Output:
    """The output of a module, or the input of one.

    Attributes:
        name: the stage that it would be.
        shape: of one image's activations, without the sides of length 1 at its end.
        layers: how many layers with weights were run up to it.
        inside: how many of these are inside the module.
        node: its node in the autograd graph.
        values: the activations.
    """

    name: str
    shape: tuple[int, ...]
    layers: int
    inside: int
    node: Any
    values: Tensor

    def equals(self, other: "_Output") -> bool:
        return (self.values.numel() == other.values.numel()
                and torch.equal(self.values.flatten(), other.values.flatten()))


def default_stages(module: nn.Module, image: Tensor, finest: int = 4) -> list[str]:
    """Main stages of a network, in order of execution, found by tracing one image through it.

    It knows no architecture by name.

    1. Candidates are bottlenecks: outputs of submodules that lie on every path from pixels to
       logits in the graph of the computation. Outputs inside residual branches or attention are
       not. A block with at most 1 / `finest` of the layers that have weights is not looked into.
    2. Successive candidates of one shape form a run. A run that contains a layer with weights
       gives a stage, and so does the last run: the last of its candidates, among those with the
       fewest dots in their names. This is the block before the shape changes.
    3. A run with more than half of the layers (a vision transformer, a very deep group) is
       divided. Further candidates inside it become stages, so that each piece holds about
       1 / `finest` of the network's layers.
    4. The features, which are the input of the last linear layer, are a stage, written
       `name:input` if no submodule returns them. So are the logits, if a submodule returns them.

    Args:
        module: a network whose weights need no gradient.
        image: (1, 3, H, W), normalised.
        finest: the number of pieces into which a run of all layers would be divided.

    Returns:
        list of stage names

    Raises:
        ValueError: a network without submodules between pixels and logits, or that passes no
            gradient.
    """
    outputs, features, total = _outputs(module, image)
    small_blocks = tuple(f"{output.name}." for output in outputs if output.inside <= total / finest)
    runs = []
    for candidate in _outermost(
            [output for output in outputs if not output.name.startswith(small_blocks)]):
        if not runs or runs[-1][-1].shape != candidate.shape:
            runs.append([])
        runs[-1].append(candidate)
    stages, before = [], 0
    for position, run in enumerate(runs):
        layers, is_last = run[-1].layers - before, position == len(runs) - 1
        pieces = math.ceil(finest * layers / total - 0.5) if layers > total / 2 else 1
        for piece in range(1, pieces):
            target = before + piece * layers / pieces
            stages.append(min(run, key=lambda candidate: (
                abs(candidate.layers - target), candidate.name.count("."))))
        if layers or is_last:
            depth = min(candidate.name.count(".") for candidate in run)
            stages.append(
                [candidate for candidate in run if candidate.name.count(".") == depth][-1])
        before = run[-1].layers
    if features is not None and not any(features.equals(stage) for stage in stages):
        equal = [output for output in outputs if features.equals(output)]
        stages.insert(-1, min(
            equal, key=lambda output: output.name.count("."), default=features))
    return list(dict.fromkeys(candidate.name for candidate in stages))


def _outputs(module: nn.Module, image: Tensor) -> tuple[list[_Output], _Output | None, int]:
    """Trace an image: outputs that are bottlenecks, the features, and the number of layers.

    Modules that run more than once give no output. The features are the input of the last layer
    with weights, if that layer is linear and its input is a bottleneck; otherwise None.
    """
    seen, layers, linear, entered = [], 0, None, {}

    def enter(name, submodule):
        def hook(_module, inputs):
            nonlocal layers, linear
            entered[name] = layers
            if any(parameter.ndim > 1 for parameter in submodule.parameters(recurse=False)):
                if isinstance(submodule, nn.Linear):
                    linear = _output(f"{name}:input", inputs[0], layers, 0)
                else:
                    linear = None
                layers += 1
        return hook

    def leave(name):
        def hook(_module, _inputs, output):
            if isinstance(output, torch.Tensor) and output.grad_fn is not None:
                seen.append(_output(name, output, layers, layers - entered[name]))
        return hook

    with contextlib.ExitStack() as hooks, torch.enable_grad(), LastReLU():
        for name, submodule in module.named_modules():
            if name:
                hooks.callback(
                    submodule.register_forward_pre_hook(enter(name, submodule)).remove)
                hooks.callback(submodule.register_forward_hook(leave(name)).remove)
        logits = module(image.detach().requires_grad_())
    if not isinstance(logits, torch.Tensor) or logits.grad_fn is None:
        raise ValueError(f"{type(module).__name__} passes no gradient from logits to pixels: "
                         "metamers need one")
    bottlenecks = _bottlenecks(logits.grad_fn)
    times = Counter(output.name for output in seen)
    outputs = [
        output for output in seen if output.node in bottlenecks and times[output.name] == 1]
    if not outputs:
        raise ValueError(f"no stages were found in {type(module).__name__}; "
                         "name some: stages=[...]")
    return (outputs, linear if linear is not None and linear.node in bottlenecks else None,
            layers)


def _outermost(outputs: list[_Output]) -> list[_Output]:
    """One output for each tensor: of the outermost module around the one that computed it."""
    by_node = {}
    for output in outputs:
        first = by_node.setdefault(output.node, output)
        if first.name.startswith(f"{output.name}."):
            by_node[output.node] = output
    return list(by_node.values())


def _output(name: str, tensor: Tensor, layers: int, inside: int) -> _Output:
    shape = list(tensor.shape[1:])
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return _Output(name, tuple(shape), layers, inside, tensor.grad_fn, tensor.detach())


def _bottlenecks(end: Any) -> set[Any]:
    """The nodes of an autograd graph that lie on every path from `end` to the leaves.

    These are the dominators of a sink to which all leaves are joined.
    """
    graph, sink, stack = networkx.DiGraph(), object(), [end]
    while stack:
        node = stack.pop()
        used = {target for target, _ in node.next_functions if target is not None}
        stack += [target for target in used if target not in graph]
        graph.add_edges_from((node, target) for target in used or {sink})
    dominators = networkx.immediate_dominators(graph, end)
    node, bottlenecks = sink, set()
    while node is not end:  # whose own entry is not read: not every version of networkx has one
        node = dominators[node]
        bottlenecks.add(node)
    return bottlenecks
