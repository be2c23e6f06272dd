"""Frozen networks with named stages: pixels in [0, 1] in, logits or the activations of a stage out.

    model = load_model("zoo/resnet-standard-0")
    model = wrap_model(module, stages=["layer1", "fc"], mean=..., std=..., input_size=224, name="mine")
    model.activations(images, "layer1")          # (B, D); layers after layer1 are not run
"""
import difflib
import fnmatch
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Model(nn.Module):
    """A frozen network in evaluation mode, with its input normalisation inside. Made by `load_model` or `wrap_model`.

    Attributes:
        name: the model's name in tables and figures.
        stages: names of the stages, in the order in which the network computes them.
        shapes: for each stage, the shape of one image's activations, for example (64, 16, 16).
        relu_stages: the stages whose output is that of a ReLU.
        input_size: side of the square images that it takes, in pixels.
        class_names: names of the classes, possibly empty.
        card: what is known of the model (training, accuracy, ...), a plain dict.
    """

    def __init__(self, module, *, stages, mean, std, input_size, class_names, name, card, channels_last):
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.module = module.to(memory_format=self.memory_format)
        self.name = name
        self.input_size = input_size
        self.class_names = tuple(class_names)
        self.card = card or {}
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).view(-1, 1, 1))
        self.eval().requires_grad_(False)
        _check_weights(module, name)
        self.stages, self.shapes, self.relu_stages = _trace(self, stages)

    def train(self, mode=True):
        """A model of this library stays in evaluation mode, whatever is asked."""
        return super().train(False)

    @property
    def device(self):
        """The device that the model is on."""
        return self.mean.device

    def forward(self, images):
        """Logits (B, K), float32, of images (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: images of another shape, or with values that are not finite or outside [0, 1].
        """
        self.check_images(images)
        return self.module(self._normalised(images)).float()

    def activations(self, images, stage):
        """Flattened activations (B, D), float32, of a stage. Layers after the stage are not run.

        Args:
            images: (B, 3, H, W) in [0, 1].
            stage: one of `stages`.

        Raises:
            ValueError: unknown stage, or images that the model cannot take (as in calling the model).
        """
        self.check_stage(stage)
        self.check_images(images)
        return self.unchecked_activations(images, stage)

    def unchecked_activations(self, images, stage, identity_relu=False):
        """`activations` for inner loops: nothing is checked, so that a GPU is never waited for.

        With `identity_relu`, at a stage whose output is that of a ReLU, the backward pass lets the gradient through that
        ReLU unchanged, so that units which are off receive one too (Feather et al. 2023, doi:10.1038/s41593-023-01442-0,
        Methods). Values are the same; stages that do not end in a ReLU are not affected.
        """
        module = self.module.get_submodule(stage)

        def leave(_module, _inputs, output):
            raise _StageReached(output)

        handle = module.register_forward_hook(leave)
        try:
            if identity_relu and stage in self.relu_stages:
                with _LastReLU() as relu:
                    self.module(self._normalised(images))
            else:
                self.module(self._normalised(images))
        except _StageReached as reached:
            output = reached.output
            if identity_relu and stage in self.relu_stages:
                output = _IdentityBackwardReLU.apply(relu.input)
        finally:
            handle.remove()
        return output.flatten(1).float()

    def check_stage(self, stage):
        """Raise a ValueError that lists the right names unless `stage` is one of them."""
        if stage not in self.stages:
            raise ValueError(f"{self.name} has no stage {stage!r}; its stages are {', '.join(self.stages)}")

    def check_images(self, images):
        """Raise a ValueError that says what to mend unless `images` is (B, 3, H, W) with finite values in [0, 1]."""
        side = self.input_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(f"{self.name} takes images of shape (B, 3, {side}, {side}), not {tuple(images.shape)}; "
                             f"load_images(..., size={side}) resizes")
        if not images.is_floating_point():
            raise ValueError(f"images must be floating point in [0, 1], not {images.dtype}; divide 8-bit images by 255")
        low, high = images.detach().aminmax() if len(images) else (torch.zeros(()), torch.zeros(()))
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise ValueError(f"pixels must be finite and in [0, 1], but reach from {low.item():.4g} to {high.item():.4g}; "
                             "normalisation is inside the model, so pass plain pixels")

    def _normalised(self, images):
        return ((images - self.mean) / self.std).contiguous(memory_format=self.memory_format)

    def __repr__(self):
        return f"Model({self.name!r}, input_size={self.input_size}, stages={list(self.stages)})"


def wrap_model(module, *, stages=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), input_size=32, class_names=(),
               name=None, card=None, channels_last=False):
    """Make a `Model` of any network, by the names of its submodules. The network is frozen, in place.

    Args:
        module: nn.Module from normalised images (B, 3, H, W) to logits (B, K).
        stages: names of submodules (as in `module.named_modules()`), each called once in a forward pass and returning
            one tensor; sorted into the order of execution. None takes the module's direct children.
        mean, std: of each colour channel, in units of pixels in [0, 1]; subtracted and divided by before the network.
        input_size: side of the square images, in pixels.
        class_names: names of the K classes.
        name: the model's name; the class name of `module` if None.
        card: a plain dict of facts about the model.
        channels_last: hold weights and images with the channels last in memory, which makes most convolutional networks faster;
            a network that calls `view` on its activations does not work with it.

    Returns:
        Model

    Raises:
        ValueError: a stage that is no submodule, or is not called exactly once, or does not return a tensor; weights
            that are not finite; a network that does not take such images.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 10))
        >>> model = wrap_model(network, stages=["1", "3"], name="tiny")
        >>> model.stages, model.shapes["1"]
        (('1', '3'), (8, 30, 30))
    """
    return Model(module, stages=stages, mean=mean, std=std, input_size=input_size, class_names=class_names,
                 name=name or type(module).__name__, card=card, channels_last=channels_last)


# --- The registry -----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Source:
    """A collection of models: how to list the names that follow its prefix, and how to load one of them."""
    names: Callable[[], list[str]]
    load: Callable[..., Model]


SOURCES: dict[str, Source] = {}


def list_models(pattern="*"):
    """Names of the models that match a shell pattern, sorted; nothing is loaded.

    Example:
        >>> "zoo/resnet-standard-0" in list_models("zoo/*")
        True
    """
    names = [f"{prefix}/{name}" for prefix, source in SOURCES.items() for name in source.names()]
    return sorted(fnmatch.filter(names, pattern))


def load_model(name, *, device="cpu"):
    """Load a model by name.

    Args:
        name: one of `list_models()`.
        device: where to put it.

    Raises:
        ValueError: unknown name (the message has the nearest ones), or a weights file that is damaged.
        FileNotFoundError: a weights file that is missing.

    Example:
        >>> load_model("zoo/resnet-standard-0").stages
        ('stem', 'group1', 'group2', 'group3', 'features', 'logits')
    """
    prefix, _, rest = name.partition("/")
    if prefix not in SOURCES or rest not in SOURCES[prefix].names():
        near = difflib.get_close_matches(name, list_models(), n=4, cutoff=0.4) or list_models()
        raise ValueError(f"unknown model {name!r}; did you mean {', '.join(near)}? list_models() lists all")
    return SOURCES[prefix].load(rest).to(device)


# --- How stages are found and left early ------------------------------------------------------------------------------

class _StageReached(Exception):
    """Carries a stage's output out of a forward pass, so that later layers are not run."""

    def __init__(self, output):
        self.output = output


class _LastReLU(TorchFunctionMode):
    """Remembers input and output of the latest ReLU, whether called as a module, a function or in place."""
    NAMES = {"relu", "relu_"}
    input = output = None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") not in self.NAMES:
            return function(*args, **(kwargs or {}))
        self.input = args[0] if args else kwargs["input"]
        self.output = torch.relu(self.input)  # out of place: the input is still needed
        return self.output


class _IdentityBackwardReLU(torch.autograd.Function):
    @staticmethod
    def forward(_context, x):
        return x.relu()

    @staticmethod
    def backward(_context, gradient):
        return gradient


def _trace(model, stages):
    """Run one grey image through and note in which order, how often and with which shape the stages are computed."""
    modules = dict(model.module.named_modules())
    stages = [name for name, _ in model.module.named_children()] if stages is None else list(stages)
    if len(set(stages)) < len(stages):
        raise ValueError(f"{model.name}: stages are named twice in {stages}")
    for stage in stages:
        if stage not in modules or not stage:
            near = difflib.get_close_matches(stage, modules, n=5, cutoff=0.3) or [name for name in modules if name][:8]
            raise ValueError(f"{model.name} has no submodule {stage!r} for a stage; did you mean {', '.join(near)}?")
    calls = []

    def note(stage):
        return lambda _module, _inputs, output: calls.append((stage, output, output is relu.output))

    handles = [modules[stage].register_forward_hook(note(stage)) for stage in stages]
    try:
        with torch.no_grad(), _LastReLU() as relu:
            model.module(model._normalised(torch.full((1, 3, model.input_size, model.input_size), 0.5)))
    except RuntimeError as error:
        raise ValueError(f"{model.name} does not take images of {model.input_size} x {model.input_size} pixels "
                         f"({error}); pass input_size") from error
    finally:
        for handle in handles:
            handle.remove()
    order = [stage for stage, _, _ in calls]
    for stage in stages:
        if order.count(stage) != 1:
            raise ValueError(f"{model.name}: stage {stage!r} is computed {order.count(stage)} times in a forward pass, "
                             "but a stage is computed once; name the block around it")
    for stage, output, _ in calls:
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"{model.name}: stage {stage!r} returns a {type(output).__name__}, not one tensor")
    return (tuple(order), {stage: tuple(output.shape[1:]) for stage, output, _ in calls},
            frozenset(stage for stage, _, is_relu in calls if is_relu))


def _check_weights(module, name):
    for key, value in module.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name}: the weights {key!r} are not finite; the file or the training is broken")
