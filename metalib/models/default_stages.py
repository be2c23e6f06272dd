"""The main stages of a network, found by tracing one image through it."""

import contextlib
import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import networkx
import torch
from torch import Tensor, nn

from metalib.models.outputs import tensor_of
from metalib.models.stages import ReLUs, explained, first_of


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


def default_stages(
    module: nn.Module, image: Tensor, finest: int = 4, name: str = "the network",
    end_of: Callable[[Any], Tensor] = tensor_of,
) -> list[str]:
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
       A network whose last layer with weights is a convolution (SqueezeNet) pools its class maps,
       and has no pooled features: the stage before its logits is a map.
    5. A stage is not named by a module that holds another stage, if one inside it returns the
       same: of `features.10` and `features` the latter becomes `features.12`.

    Args:
        module: a network whose weights need no gradient.
        image: (1, C, H, W), normalised.
        finest: the number of pieces into which a run of all layers would be divided.
        name: of the network, for error messages.
        end_of: gives the tensor at the end of the network, of what it returns.

    Returns:
        list of stage names

    Raises:
        ValueError: a network without submodules between pixels and logits, that passes no gradient,
            or that does not take such an image.
    """
    outputs, features, total = _outputs(module, image, name, end_of)
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
    return _names(list(dict.fromkeys(candidate.name for candidate in stages)), outputs)


def _names(stages: list[str], outputs: list[_Output]) -> list[str]:
    """The stages, named so that none holds another, where a module inside it returns the same."""
    nodes = {output.name: output.node for output in outputs}

    def holds_another(name: str) -> bool:
        return any(other.startswith(f"{name}.") for other in stages)

    def inner(name: str) -> str:
        same = [other for other in nodes if other.startswith(f"{name}.")
                and nodes[other] is nodes[name] and not holds_another(other)]
        return min(same, key=lambda other: other.count("."), default=name)

    return [inner(name) if name in nodes and holds_another(name) else name for name in stages]


def _outputs(
    module: nn.Module, image: Tensor, name: str, end_of: Callable[[Any], Tensor],
) -> tuple[list[_Output], _Output | None, int]:
    """Trace an image: outputs that are bottlenecks, the features, and the number of layers.

    Modules that run more than once give no output. The features are the input of the last layer
    with weights, if that layer is linear and its input is a bottleneck; otherwise None.
    """
    seen, layers, linear, entered = [], 0, None, {}

    def enter(name, submodule):
        def hook(_module, inputs, named):
            nonlocal layers, linear
            entered[name] = layers
            if any(parameter.ndim > 1 for parameter in submodule.parameters(recurse=False)):
                taken, linear = _readable(first_of(inputs, named)), None
                if isinstance(submodule, nn.Linear) and taken is not None:
                    linear = _output(f"{name}:input", taken, layers, 0)
                layers += 1
        return hook

    def leave(name):
        def hook(_module, _inputs, output):
            tensor = _readable(output)
            if tensor is not None and tensor.grad_fn is not None:
                seen.append(_output(name, tensor, layers, layers - entered[name]))
        return hook

    with contextlib.ExitStack() as hooks, torch.enable_grad(), ReLUs():
        for inner, submodule in module.named_modules():
            if inner and not isinstance(submodule, torch.jit.ScriptModule):  # takes no hooks
                hooks.callback(submodule.register_forward_pre_hook(
                    enter(inner, submodule), with_kwargs=True).remove)
                hooks.callback(submodule.register_forward_hook(leave(inner)).remove)
        pixels = image.detach().clone().requires_grad_()
        with explained(name, image):
            output = module(pixels.clone())  # it may work in place
    end = end_of(output)
    if not _passes_gradient(end, pixels, name):
        raise ValueError(f"{name} passes no gradient from its output to the pixels, and metamers "
                         "need one: remove torch.no_grad, detach, rounding or quantised layers, "
                         "or name stages before them: stages=[...]")
    bottlenecks = _bottlenecks(end.grad_fn)
    times = Counter(output.name for output in seen)
    outputs = [
        output for output in seen if output.node in bottlenecks and times[output.name] == 1]
    if not outputs:
        raise ValueError(
            f"no stages were found in {name}: name some, stages=[...]; a network without "
            "submodules is wrapped as torch.nn.Sequential(network), whose stage is '0'")
    return (outputs, linear if linear is not None and linear.node in bottlenecks else None,
            layers)


def _readable(output: Any) -> Tensor | None:
    """The tensor of an output, or None where there is none that can be a stage."""
    try:
        return tensor_of(output)
    except ValueError:
        return None


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


def _passes_gradient(end: Tensor, pixels: Tensor, name: str) -> bool:
    if end.grad_fn is None:
        return False
    with explained(name, pixels), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an operator has no derivative
        return torch.autograd.grad(
            end.sum(), pixels, retain_graph=True, allow_unused=True)[0] is not None


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
