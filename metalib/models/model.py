"""Frozen networks with named stages: pixels in [0, 1] in, logits or the activations of a stage out.

    model = wrap_model(module, stages=["layer1", "fc"], mean=..., std=..., input_size=224)
    model.activations(images, "layer1")           # (B, D); layers after layer1 are not run
    model.read(images, ["layer1", "fc"])          # several stages in one pass
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metalib.models.stages import LastReLU, StageReached, hooked, trace


class Model(nn.Module):
    """A frozen network in evaluation mode, with its input normalisation inside.

    Made by `load_model` or `wrap_model`.

    Attributes:
        name: the model's name in tables and figures.
        stages: names of the stages, in the order in which the network computes them.
        shapes: for each stage, the shape of one image's activations, for example (64, 16, 16).
        relu_stages: for each stage whose output is that of a ReLU, the number of that ReLU,
            counted from 1.
        input_size: side of the square input images, in pixels.
        class_names: names of the classes, possibly empty.
        coarse_names: names of the coarse classes, if the model answers with such; for ImageNet,
            sixteen.
        card: what is known of the model (training, accuracy, ...), a plain dict.
    """

    mean: Tensor
    std: Tensor
    _coarse: Tensor

    def __init__(
        self, module: nn.Module, *, stages, mean, std, input_size, class_names, coarse, name, card,
        channels_last,
    ):
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.module = module.to(memory_format=self.memory_format)
        self.name: str = name
        self.input_size: int = input_size
        self.class_names: tuple[str, ...] = tuple(class_names)
        self.coarse_names: tuple[str, ...] = tuple(coarse or ())
        self.card: dict = card or {}
        for key, values in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1))
        self.eval().requires_grad_(False)
        _check_weights(module, name)
        grey = torch.full((1, 3, input_size, input_size), 0.5)
        self.stages, self.shapes, self.relu_stages = trace(
            module, stages, self.normalised(grey), name)
        self.has_classes: bool = self(grey).ndim == 2  # False for encoders
        members = _membership(coarse, self(grey).shape[1], name) if coarse else torch.empty(0)
        self.register_buffer("_coarse", members)

    def train(self, mode: bool = True) -> "Model":
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.mean.device

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return 3, self.input_size, self.input_size

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K), float32, of images (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: images of another shape, or with values that are not finite or outside
                [0, 1].
        """
        self.check_images(images)
        return self.module(self.normalised(images)).float()

    def coarse(self, logits: Tensor) -> Tensor:
        """The coarse class (B,) of logits (B, K): that of the largest logit among its members.

        For ImageNet, the 16-way answer of Feather et al. 2023 (doi:10.1038/s41593-023-01442-0,
        Methods), with the classes of Geirhos et al. 2018 (arXiv:1808.08750).

        Raises:
            ValueError: a model without coarse classes.
        """
        if not self.coarse_names:
            raise ValueError(f"{self.name} has no coarse classes; pass "
                             "coarse={name: class indices} to wrap_model")
        return self._coarse[logits.masked_fill(self._coarse < 0, -torch.inf).argmax(1)]

    def answer(self, images: Tensor) -> Tensor:
        """The class (B,) that the model gives to images, by which the criterion compares.

        A coarse class where the model has such, otherwise a class.
        """
        return self.answer_of(self(images))

    def answer_of(self, logits: Tensor) -> Tensor:
        """The answer (B,) that logits (B, K) stand for, as in `answer`.

        -1 where no class is largest.
        """
        if not self.has_classes:
            raise ValueError(f"{self.name} has no classes")
        if logits.shape[1] == 1:
            return torch.where(logits[:, 0] == 0, -1, (logits[:, 0] > 0).long())
        tied = (logits == logits.amax(1, keepdim=True)).sum(1) > 1
        found = self.coarse(logits) if self.coarse_names else logits.argmax(1)
        return found.masked_fill(tied, -1)

    def coarse_of(self, labels: Tensor) -> Tensor:
        """The coarse class (B,) of classes (B,); -1 for a class in none, and for -1."""
        members = self._coarse.to(labels.device)[labels.clamp_min(0)]
        return torch.where(labels < 0, -1, members)

    def activations(self, images: Tensor, stage: str) -> Tensor:
        """Flattened activations (B, D), float32, of a stage. Layers after the stage are not run.

        Args:
            images: (B, 3, H, W) in [0, 1].
            stage: one of `stages`.

        Raises:
            ValueError: unknown stage, or images that the model cannot take (as in calling it).
        """
        self.check_stage(stage)
        self.check_images(images)
        return self.reach(self.normalised(images), stage).flatten(1).float()

    def read(
        self, images: Tensor, stages: Sequence[str], *, logits: bool = False,
    ) -> tuple[dict[str, Tensor], Any]:
        """Flattened activations of several stages in one pass, and on request the logits.

        Args:
            images: (B, 3, H, W) in [0, 1].
            stages: some of `stages`, in any order.
            logits: run the network to its end. Otherwise it runs to the last of the stages.

        Returns:
            The activations (B, D) by stage, float32, copies that later layers cannot change;
            and the logits (B, K), float32, or None.

        Raises:
            ValueError: no or unknown stages, or images that the model cannot take.
        """
        for stage in stages:
            self.check_stage(stage)
        self.check_images(images)
        last = None if logits else max(stages, key=self.stages.index)
        found = {}

        def keep(stage: str, output: Tensor) -> None:
            found[stage] = output.flatten(1).to(torch.float32, copy=True)
            if stage == last:
                raise StageReached(output)

        with contextlib.ExitStack() as hooks:
            for stage in stages:
                hooks.enter_context(hooked(
                    self.module, stage, lambda output, stage=stage: keep(stage, output)))
            try:
                end = self.module(self.normalised(images)).float()
            except StageReached:
                end = None
        return {stage: found[stage] for stage in stages}, end

    def unchecked_activations(
        self, images: Tensor, stage: str, identity_relu: bool = False,
    ) -> Tensor:
        """Activations (B, D) for inner loops: nothing is checked, so that no GPU is waited for.

        Units are in the order in which the network computes them. With `channels_last` that is
        not the order of `activations`. Norms do not depend on it, and reordering would cost a
        copy in the forward pass and a slower backward pass.

        With `identity_relu`, at a stage whose output is that of a ReLU, the backward pass lets
        the gradient through that ReLU unchanged, so that units that are off receive one too
        (Feather et al. 2023, doi:10.1038/s41593-023-01442-0, Methods). Values are the same;
        stages that do not end in a ReLU are not affected.
        """
        output = self.reach(self.normalised(images), stage, identity_relu)
        if self.memory_format == torch.channels_last and output.ndim == 4:
            output = output.movedim(1, -1)
        return output.flatten(1).float()

    def reach(self, inputs: Tensor, stage: str, identity_relu: bool = False) -> Tensor:
        """The output of a stage for `normalised` inputs.

        `identity_relu` is as in `unchecked_activations`.
        """
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

    @contextlib.contextmanager
    def visiting(self, device: torch.device | None) -> Iterator[torch.device]:
        """For as long as this lasts the model is on `device` (None leaves it where it is)."""
        home = self.device
        try:
            yield home if device is None else self.to(device).device
        finally:
            if device is not None:
                self.to(home)

    def check_stage(self, stage: str) -> None:
        """Raise a ValueError that lists the right names unless `stage` is one of them."""
        if stage not in self.stages:
            raise ValueError(f"{self.name} has no stage {stage!r}; "
                             f"its stages are {', '.join(self.stages)}")

    def check_images(self, images: Tensor) -> None:
        """Raise a ValueError that says what to mend unless the model can take these images.

        It takes (B, 3, H, W) with finite values in [0, 1].
        """
        side = self.input_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(f"{self.name} takes images of shape (B, 3, {side}, {side}), not "
                             f"{tuple(images.shape)}; load_images(..., size={side}) resizes")
        if not images.is_floating_point():
            raise ValueError(f"images must be floating point in [0, 1], not {images.dtype}; "
                             "divide 8-bit images by 255")
        low, high = images.detach().aminmax() if len(images) else (torch.zeros(()),) * 2
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise ValueError(
                f"pixels must be finite and in [0, 1], but reach from {low.item():.4g} to "
                f"{high.item():.4g}; normalisation is inside the model, so pass plain pixels")

    def normalised(self, images: Tensor) -> Tensor:
        """What the network takes, for images (B, 3, H, W) in [0, 1]."""
        standard = (images - self.mean) / self.std
        return standard.contiguous(memory_format=self.memory_format)

    def __repr__(self):
        return f"Model({self.name!r}, input_size={self.input_size}, stages={list(self.stages)})"


def wrap_model(
    module: nn.Module, *, stages: Sequence[str] | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0), std: Sequence[float] = (1.0, 1.0, 1.0),
    input_size: int = 32, class_names: Sequence[str] = (),
    coarse: Mapping[str, Sequence[int]] | None = None, name: str | None = None,
    card: dict | None = None, channels_last: bool = False,
) -> Model:
    """Make a `Model` of any network, by the names of its submodules. It is frozen, in place.

    Args:
        module: nn.Module from normalised images (B, 3, H, W) to logits (B, K).
        stages: names of submodules (as in `module.named_modules()`), each called once in a
            forward pass and returning one tensor, or `name:input` for what a submodule takes;
            sorted into the order of execution. None finds the main ones by tracing, see
            `metalib.models.stages.default_stages`.
        mean, std: of each colour channel, in units of pixels in [0, 1]; subtracted and divided
            by before the network.
        input_size: side of the square images, in pixels.
        class_names: names of the K classes.
        coarse: a dict from names of coarse classes to the indices of their members, such as
            `metalib.labels.IMAGENET16`, for models that are compared by coarse answers.
        name: the model's name; the class name of `module` if None.
        card: a plain dict of facts about the model.
        channels_last: hold weights and images with the channels last in memory. This makes most
            convolutional networks faster; a network that calls `view` on its activations does
            not work with it.

    Raises:
        ValueError: a stage that is no submodule, or is not called exactly once, or does not
            return a tensor; weights that are not finite; a network that does not take such
            images.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(),
        ...                         nn.Linear(8 * 30 * 30, 10))
        >>> model = wrap_model(network, stages=["1", "3"], name="tiny")
        >>> model.stages, model.shapes["1"]
        (('1', '3'), (8, 30, 30))
    """
    return Model(
        module, stages=stages, mean=mean, std=std, input_size=input_size, class_names=class_names,
        coarse=coarse, name=name or type(module).__name__, card=card, channels_last=channels_last)


def _membership(coarse: Mapping[str, Sequence[int]], classes: int, name: str) -> Tensor:
    """For each of the classes the number of its coarse class, -1 for none."""
    members = torch.full((classes,), -1)
    for number, indices in enumerate(coarse.values()):
        if not all(0 <= index < classes for index in indices):
            raise ValueError(f"{name} has {classes} classes; "
                             "the coarse classes have members beyond")
        members[list(indices)] = number
    return members


def _identity_relu(x: Tensor) -> Tensor:
    """A ReLU that passes the gradient on unchanged."""
    return x - x.detach().clamp_max(0)


def _check_weights(module: nn.Module, name: str) -> None:
    for key, value in module.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name}: the weights {key!r} are not finite; "
                             "the file or the training is broken")
