"""Frozen networks with named stages: pixels in [0, 1] in, logits or the activations of a stage out.

    model = load_model("zoo/resnet-standard-0")
    model = wrap_model(module, stages=["layer1", "fc"], mean=..., std=..., input_size=224, name="mine")
    model.activations(images, "layer1")          # (B, D); layers after layer1 are not run
"""
import contextlib
import difflib
import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from metalib.stages import LastReLU, StageReached, hooked, trace


class Model(nn.Module):
    """A frozen network in evaluation mode, with its input normalisation inside. Made by `load_model` or `wrap_model`.

    Attributes:
        name: the model's name in tables and figures.
        stages: names of the stages, in the order in which the network computes them.
        shapes: for each stage, the shape of one image's activations, for example (64, 16, 16).
        relu_stages: a dict from the stages whose output is that of a ReLU to the number of that ReLU, counted from 1.
        input_size: side of the square images that it takes, in pixels.
        class_names: names of the classes, possibly empty.
        coarse_names: names of the coarse classes, if the model answers with such; for ImageNet, sixteen.
        card: what is known of the model (training, accuracy, ...), a plain dict.
    """

    def __init__(self, module, *, stages, mean, std, input_size, class_names, coarse, name, card, channels_last):
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.module = module.to(memory_format=self.memory_format)
        self.name = name
        self.input_size = input_size
        self.class_names = tuple(class_names)
        self.coarse_names = tuple(coarse or ())
        self.card = card or {}
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).view(-1, 1, 1))
        self.eval().requires_grad_(False)
        _check_weights(module, name)
        grey = torch.full((1, 3, input_size, input_size), 0.5)
        self.stages, self.shapes, self.relu_stages = trace(module, stages, self.normalised(grey), name)
        self.register_buffer("_coarse", _membership(coarse, self(grey).shape[1], name) if coarse else torch.empty(0))

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
        return self.module(self.normalised(images)).float()

    def coarse(self, logits):
        """The coarse class (B,) of logits (B, K): that of the largest logit among the members of all coarse classes.

        For ImageNet, the 16-way answer of Feather et al. 2023 (doi:10.1038/s41593-023-01442-0, Methods), with the classes of
        Geirhos et al. 2018 (arXiv:1808.08750).

        Raises:
            ValueError: a model without coarse classes.
        """
        if not self.coarse_names:
            raise ValueError(f"{self.name} has no coarse classes; pass coarse={{name: class indices}} to wrap_model")
        return self._coarse[logits.masked_fill(self._coarse < 0, -torch.inf).argmax(1)]

    def answer(self, images):
        """The model's answer (B,) to images, by which the criterion compares: a coarse class where it has such, else a class."""
        logits = self(images)
        return self.coarse(logits) if self.coarse_names else logits.argmax(1)

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
        return self.reach(self.normalised(images), stage).flatten(1).float()

    def unchecked_activations(self, images, stage, identity_relu=False):
        """Activations (B, D) for inner loops: nothing is checked, so that a GPU is never waited for.

        Units are in the order in which the network computes them, with `channels_last` another than that of `activations`.
        Norms do not depend on it, and bringing them into one order would cost a copy on the way there and a slower way back.

        With `identity_relu`, at a stage whose output is that of a ReLU, the backward pass lets the gradient through that
        ReLU unchanged, so that units which are off receive one too (Feather et al. 2023, doi:10.1038/s41593-023-01442-0,
        Methods). Values are the same; stages that do not end in a ReLU are not affected.
        """
        output = self.reach(self.normalised(images), stage, identity_relu)
        if self.memory_format == torch.channels_last and output.ndim == 4:
            output = output.movedim(1, -1)
        return output.flatten(1).float()

    def reach(self, inputs, stage, identity_relu=False):
        """The output of a stage, of inputs that are `normalised`; `identity_relu` as of `unchecked_activations`."""
        def leave(output):
            raise StageReached(output)

        number = self.relu_stages.get(stage) if identity_relu else None
        relu = LastReLU(number, _identity_relu) if number else contextlib.nullcontext()
        with relu, hooked(self.module, stage, leave):
            try:
                output = self.module(inputs)
            except StageReached as reached:
                output = reached.output
        return output

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

    def normalised(self, images):
        """What the network takes, of images (B, 3, H, W) in [0, 1]."""
        return ((images - self.mean) / self.std).contiguous(memory_format=self.memory_format)

    def __repr__(self):
        return f"Model({self.name!r}, input_size={self.input_size}, stages={list(self.stages)})"


def wrap_model(module, *, stages=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), input_size=32, class_names=(),
               coarse=None, name=None, card=None, channels_last=False):
    """Make a `Model` of any network, by the names of its submodules. The network is frozen, in place.

    Args:
        module: nn.Module from normalised images (B, 3, H, W) to logits (B, K).
        stages: names of submodules (as in `module.named_modules()`), each called once in a forward pass and returning
            one tensor, or `name:input` for what a submodule takes; sorted into the order of execution. None finds the main
            ones by tracing, see `metalib.stages.default_stages`.
        mean, std: of each colour channel, in units of pixels in [0, 1]; subtracted and divided by before the network.
        input_size: side of the square images, in pixels.
        class_names: names of the K classes.
        coarse: a dict from names of coarse classes to the indices of their members, for models that are to be compared by
            coarse answers, such as `metalib.classes.IMAGENET16`.
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
    return Model(module, stages=stages, mean=mean, std=std, input_size=input_size, class_names=class_names, coarse=coarse,
                 name=name or type(module).__name__, card=card, channels_last=channels_last)


# --- The registry -----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Source:
    """A collection of models, reached by the prefix of their names.

    Attributes:
        names: lists the names that follow the prefix.
        load: makes a Model of one of them; takes `stages` (None for the default), `allow_pickle` and `pretrained`.
        files: the files that a model needs; those that are missing are downloaded when it is loaded.
    """
    names: Callable[[], list[str]]
    load: Callable[..., Model]
    files: Callable[[str], list[Path]]


SOURCES: dict[str, Source] = {}


def list_models(pattern="*", *, offline=False):
    """Names of the models that match a shell pattern, sorted; nothing is loaded or downloaded.

    Args:
        pattern: such as "zoo/*" or "robustbench/cifar10/L2/*". Libraries that are not installed are passed over, unless the
            pattern names them.
        offline: list only those whose files are all on this machine.

    Raises:
        ImportError: a library that the pattern names and that is not installed.

    Example:
        >>> "zoo/resnet-standard-0" in list_models("zoo/*")
        True
    """
    names, named = [], pattern.partition("/")[0]  # a prefix that is spelled out leaves the other libraries alone
    for prefix, source in SOURCES.items():
        if prefix == named or set("*?[") & set(named):
            try:
                names += [f"{prefix}/{name}" for name in source.names() if fnmatch.fnmatchcase(f"{prefix}/{name}", pattern)
                          and not (offline and missing_files(source, name))]
            except ImportError:
                if prefix == named:
                    raise
    return sorted(names)


def full_name(prefix, name, pretrained):
    """The name of a model in tables."""
    return f"{prefix}/{name}" + ("" if pretrained else " (untrained)")


def missing_files(source, name):
    """Those files of a model that are not on this machine."""
    return [path for path in source.files(name) if not path.is_file()]


def load_model(name, *, stages=None, device="cpu", allow_pickle=False, pretrained=True):
    """Load a model by name. Weights that are not on this machine are downloaded into the cache of the library they belong to.

    Args:
        name: one of `list_models()`: "zoo/<name>", "torchvision/<name>" or "torchvision/<name>.<weights>", "timm/<name>",
            "robustbench/<dataset>/<threat model>/<name>".
        stages: names of submodules, as of `wrap_model`. None takes the stages of the zoo, or finds the main ones.
        device: where to put it.
        allow_pickle: unpickle checkpoints that hold more than tensors. This runs whatever code they contain: allow it only
            for files whose origin you trust.
        pretrained: False gives the architecture with random weights, by torch's generator, and "(untrained)" in its name: a
            control that needs no file.

    Raises:
        ValueError: unknown name (the message has the nearest ones), a weights file that is damaged, or one that holds more
            than tensors.
        FileNotFoundError: a weights file that is missing and cannot be downloaded; the message says where to put it.
        ImportError: a library that is not installed.

    Example:
        >>> load_model("zoo/resnet-standard-0").stages
        ('stem', 'group1', 'group2', 'group3', 'features', 'logits')
    """
    prefix, _, rest = name.partition("/")
    if prefix not in SOURCES or rest not in SOURCES[prefix].names():
        known = list_models(f"{prefix}/*" if prefix in SOURCES else "*")
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or known[:8]
        raise ValueError(f"unknown model {name!r}; did you mean {', '.join(near)}? list_models() lists all")
    return SOURCES[prefix].load(rest, stages=stages, allow_pickle=allow_pickle, pretrained=pretrained).to(device)


def _membership(coarse, classes, name):
    """For each of the classes the number of its coarse class, -1 for none."""
    members = torch.full((classes,), -1)
    for number, indices in enumerate(coarse.values()):
        if not all(0 <= index < classes for index in indices):
            raise ValueError(f"{name} has {classes} classes; the coarse classes have members beyond")
        members[list(indices)] = number
    return members


def _identity_relu(x):
    """A ReLU that passes the gradient on unchanged."""
    return x - x.detach().clamp_max(0)


def _check_weights(module, name):
    for key, value in module.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name}: the weights {key!r} are not finite; the file or the training is broken")
