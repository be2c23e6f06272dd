"""Stages of a network: found by tracing, checked, and left early.

A stage is the output of a submodule, by its name in `named_modules()`, or the input of one, written `name:input`. The
second form reaches what is computed between modules, such as pooled features in a network that pools by a function.
"""
import contextlib
import difflib
import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class StageReached(Exception):
    """Carries the activations of a stage out of a forward pass, so that later layers are not run."""

    def __init__(self, output):
        self.output = output


@contextlib.contextmanager
def hooked(module, stage, note):
    """While this lasts, `note(tensor)` is called with the activations of a stage when the network computes them."""
    name, at_input = _parse(stage)
    submodule = module.get_submodule(name)
    handle = (submodule.register_forward_pre_hook(lambda _module, inputs: note(inputs[0])) if at_input
              else submodule.register_forward_hook(lambda _module, _inputs, output: note(output)))
    try:
        yield
    finally:
        handle.remove()


class LastReLU(TorchFunctionMode):
    """Remembers input and output of the latest ReLU, whether called as a module, a function or in place, and counts them.

    With a `number` it does so for that ReLU only, counted from 1, and leaves others to work in place; `relu` is what computes it.
    """
    NAMES = {"relu", "relu_"}
    input = output = None

    def __init__(self, number=None, relu=torch.relu):
        super().__init__()
        self.number, self.count, self.relu = number, 0, relu

    def __torch_function__(self, function, types, args=(), kwargs=None):
        is_relu = getattr(function, "__name__", "") in self.NAMES
        self.count += is_relu
        if not is_relu or self.number not in (None, self.count):
            return function(*args, **(kwargs or {}))
        self.input = args[0] if args else kwargs["input"]
        self.output = self.relu(self.input)  # out of place: the input is still needed
        return self.output


def trace(module, stages, image, name):
    """Run one image through and note in which order and with which shape the stages are computed.

    Args:
        module: the network.
        stages: names of stages, in any order; None for `default_stages`.
        image: (1, 3, H, W), normalised.
        name: of the model, for error messages.

    Returns:
        The stages in order of execution, a dict of their shapes, and a dict from those that a ReLU ends to its number, see
        `LastReLU`.

    Raises:
        ValueError: a stage that does not exist, is not computed exactly once or is not one tensor; or a network that does
            not take such an image.
    """
    with _explained(name, image):
        stages = default_stages(module, image) if stages is None else list(stages)
    if len(set(stages)) < len(stages):
        raise ValueError(f"{name}: stages are named twice in {stages}")
    modules = dict(module.named_modules())
    for stage in stages:
        if _parse(stage)[0] not in modules or not _parse(stage)[0]:
            near = difflib.get_close_matches(stage, modules, n=5, cutoff=0.3) or [key for key in modules if key][:8]
            raise ValueError(f"{name} has no submodule {stage!r} for a stage; did you mean {', '.join(near)}?")
    calls = []
    with contextlib.ExitStack() as hooks, torch.no_grad(), LastReLU() as relu, _explained(name, image):
        for stage in stages:
            hooks.enter_context(hooked(module, stage, lambda output, stage=stage: calls.append(
                (stage, output, relu.count if output is relu.output else 0))))
        module(image)
    order = [stage for stage, _, _ in calls]
    for stage in stages:
        if order.count(stage) != 1:
            raise ValueError(f"{name}: stage {stage!r} is computed {order.count(stage)} times in a forward pass, "
                             "but a stage is computed once; name the block around it")
    for stage, output, _ in calls:
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"{name}: stage {stage!r} returns a {type(output).__name__}, not one tensor")
    return (tuple(order), {stage: tuple(output.shape[1:]) for stage, output, _ in calls},
            {stage: number for stage, _, number in calls if number})


def _parse(stage):
    name, _, side = stage.partition(":")
    return (name, True) if side == "input" else (stage, False)


@contextlib.contextmanager
def _explained(name, image):
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"{name} does not take images of {' x '.join(map(str, image.shape[2:]))} pixels ({error}); "
                         "pass input_size") from error


# --- Default stages ---------------------------------------------------------------------------------------------------

@dataclass
class _Output:
    """The output of a module, or the input of one."""
    name: str
    shape: tuple     # of one image's activations, without the sides of length 1 at its end
    layers: int      # how many layers with weights were run up to here
    inside: int      # how many of them inside the module
    node: object     # of the autograd graph
    values: torch.Tensor

    def equals(self, other):
        return self.values.numel() == other.values.numel() and torch.equal(self.values.flatten(), other.values.flatten())


def default_stages(module, image, finest=4):
    """Main stages of a network, in order of execution, found by tracing one image through it; no names are known here.

    1. Candidates are the outputs of submodules that everything later depends on alone: in the graph of the computation
       from pixels to logits, every path passes through them. Insides of residual branches or attention are none. A block
       with at most 1 / `finest` of the layers that have weights is not looked into.
    2. Candidates follow each other in runs of one shape. Of every run in which a layer with weights is run the last
       candidate is a stage, among those with the shortest dotted name: the block before the shape changes.
    3. A run that holds more than half of the layers (a vision transformer, a very deep group) is divided: further
       candidates inside it become stages so that each piece holds about 1 / `finest` of the layers of the network.
    4. Features, which are what the last linear layer takes, are a stage, written `name:input` if no submodule returns them;
       and logits, if a submodule returns them.

    Args:
        module: a network whose weights need no gradient.
        image: (1, 3, H, W), normalised.

    Returns:
        list of stage names

    Raises:
        ValueError: a network without submodules between pixels and logits, or that passes no gradient.
    """
    outputs, features, total = _outputs(module, image)
    blocks = tuple(f"{output.name}." for output in outputs if output.inside <= total / finest)
    runs = []
    for candidate in _outermost([output for output in outputs if not output.name.startswith(blocks)]):
        if not runs or runs[-1][-1].shape != candidate.shape:
            runs.append([])
        runs[-1].append(candidate)
    stages, before = [], 0
    for position, run in enumerate(runs):
        layers, last = run[-1].layers - before, position == len(runs) - 1
        pieces = math.ceil(finest * layers / total - 0.5) if layers > total / 2 else 1
        for piece in range(1, pieces):
            target = before + piece * layers / pieces
            stages.append(min(run, key=lambda candidate: (abs(candidate.layers - target), candidate.name.count("."))))
        if layers or last:
            depth = min(candidate.name.count(".") for candidate in run)
            stages.append([candidate for candidate in run if candidate.name.count(".") == depth][-1])
        before = run[-1].layers
    if features is not None and not any(features.equals(stage) for stage in stages):
        same = [output for output in outputs if features.equals(output)]
        stages.insert(-1, min(same, key=lambda output: output.name.count("."), default=features))
    return list(dict.fromkeys(candidate.name for candidate in stages))


def _outputs(module, image):
    """Of the modules run once: the outputs that are bottlenecks; the input of the last linear layer; the number of layers."""
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
                hooks.callback(submodule.register_forward_pre_hook(enter(name, submodule)).remove)
                hooks.callback(submodule.register_forward_hook(leave(name)).remove)
        logits = module(image.detach().requires_grad_())
    if not isinstance(logits, torch.Tensor) or logits.grad_fn is None:
        raise ValueError(f"{type(module).__name__} passes no gradient from logits to pixels: metamers need one")
    necks = _bottlenecks(logits.grad_fn)
    times = Counter(output.name for output in seen)
    outputs = [output for output in seen if output.node in necks and times[output.name] == 1]
    if not outputs:
        raise ValueError(f"no stages were found in {type(module).__name__}; name some: stages=[...]")
    return outputs, linear if linear is not None and linear.node in necks else None, layers


def _outermost(outputs):
    """Of modules that return the same tensor, the outermost one around the module that made it."""
    by_node = {}
    for output in outputs:
        first = by_node.setdefault(output.node, output)
        if first.name.startswith(f"{output.name}."):
            by_node[output.node] = output
    return list(by_node.values())


def _output(name, tensor, layers, inside):
    shape = list(tensor.shape[1:])
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return _Output(name, tuple(shape), layers, inside, tensor.grad_fn, tensor.detach())


def _bottlenecks(end):
    """The nodes of an autograd graph through which every path from `end` to the leaves passes."""
    users, stack, nodes = {}, [end], {end}
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                users[node] = users.get(node, 0) + 1
                if node not in nodes:
                    nodes.add(node)
                    stack.append(node)
    remaining, necks, ready, open_edges = dict(users), set(), [end], 1
    while ready:  # users before the used; a node is a bottleneck if no other edge is open when it is reached
        node = ready.pop()
        open_edges -= users.get(node, 1)
        if open_edges == 0:
            necks.add(node)
        for used, _ in node.next_functions:
            if used is not None:
                open_edges += 1
                remaining[used] -= 1
                if remaining[used] == 0:
                    ready.append(used)
    return necks
