"""Frozen networks with named stages: pixels in [0, 1] in, logits or the activations of a stage out.

    model.activations(images, "layer1")           # (B, D); layers after layer1 are not run
    model.read(images, ["layer1", "fc"])          # several stages in one pass
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metalib.data import check_range
from metalib.labels import IMAGENET, IMAGENET16
from metalib.models.default_stages import default_stages
from metalib.models.outputs import Layout, end_of, layout_of, may_be_logits, picked
from metalib.models.stages import ReLUs, StageReached, evaluating, hooked, trace
from metalib.pictures import fit, luminance


class Model(nn.Module):
    """A frozen network, with its input normalisation inside. Made by `load_model` or `wrap_model`.

    It is in evaluation mode in every pass, whatever is done to the network outside.

    Attributes:
        name: the model's name in tables and figures.
        stages: names of the stages, in the order in which the network computes them.
        shapes: for each stage, the shape of one image's activations, for example (64, 16, 16).
        relu_stages: for each stage whose output is that of a ReLU or ReLU6, or a concatenation of
            such, the numbers of these ReLUs, counted from 1.
        relu_ceilings: for each of these stages, the largest value of its ReLUs (6, or infinity),
            if it is the same for all.
        input_size: side of the square input images, in pixels, or their (height, width).
        input_shape: (channels, height, width) of the images that the network takes. A network of
            grey-scale images takes colour images, too, as their luminance.
        has_classes: whether the network classifies, by logits (B, K).
        class_names: names of the classes, possibly empty.
        coarse_names: names of the coarse classes, if the model answers with such; for ImageNet,
            sixteen.
        card: what is known of the model (training, accuracy, ...), a plain dict.
    """

    mean: Tensor
    std: Tensor
    _coarse: Tensor

    def __init__(
        self, module: nn.Module, *, stages, mean, std, sides, dtype, class_names, coarse, name,
        card, channels_last, classes, output,
    ):
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.module = module.to(memory_format=self.memory_format)
        self.name: str = name
        self.dtype: torch.dtype = dtype  # of the network's numbers
        self.input_shape: tuple[int, int, int] = (len(mean), *sides)
        self.input_size: Any = sides[0] if sides[0] == sides[1] else tuple(sides)
        self.class_names: tuple[str, ...] = tuple(class_names)
        self.coarse_names: tuple[str, ...] = tuple(coarse or ())
        self.card: dict = card or {}
        self._output = output
        device = next((tensor.device for tensor in module.parameters()), None)
        for key, values in (("mean", mean), ("std", std)):
            self.register_buffer(
                key, torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1))
        self.eval().requires_grad_(False)
        probes = self.normalised(_probes(self.input_shape).to(self.device))
        default = stages is None
        if default:
            stages = default_stages(module, probes[:1], name=name, end_of=self._end)
        self._stages, returned, alone = trace(module, stages, probes, name, lenient=default)
        self.stages: tuple[str, ...] = tuple(self._stages)
        self.shapes = {key: stage.shape for key, stage in self._stages.items()}
        self.relu_stages = {
            key: stage.relus for key, stage in self._stages.items() if stage.relus}
        self.relu_ceilings = {key: stage.ceiling for key, stage in self._stages.items()
                              if stage.ceiling is not None}
        self._end_layout = self._layout_of_end(returned, alone)
        logits = self._end_layout.rows(self._end(returned))
        may_classify = logits.ndim == 2 and may_be_logits(picked(returned, output))
        self.has_classes: bool = may_classify if classes is None else classes
        self._check_classes(logits)
        self._blind = self.has_classes and self._sees_nothing(logits)
        members = _membership(coarse, logits.shape[1], name) if coarse else torch.empty(0)
        self.register_buffer("_coarse", members.to(self.device))

    def train(self, mode: bool = True) -> "Model":
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.mean.device

    def forward(self, images: Tensor, *, outside: bool = False) -> Tensor:
        """Logits (B, K), float32, of images (B, 3, H, W) in [0, 1].

        Of a network without classes, whatever it returns, (B, ...).

        Args:
            images: (B, 3, H, W) in [0, 1].
            outside: take finite pixels outside [0, 1], too, as they are.

        Raises:
            ValueError: images of another shape, or with values that are not finite or outside
                [0, 1].
        """
        self.check_images(images, outside=outside)
        return self._logits(self._pass(self.normalised(images)))

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
        return self._coarse[self._among_coarse(logits).argmax(1)]

    def _among_coarse(self, logits: Tensor) -> Tensor:
        """Logits (B, K) without those of classes that belong to no coarse one."""
        return logits.masked_fill(self._coarse < 0, -torch.inf)

    def answer(self, images: Tensor) -> Tensor:
        """The class (B,) that the model gives to images, by which the criterion compares.

        A coarse class where the model has such, otherwise a class; -1 where it gives none, since
        several logits are the largest or logits do not depend on the image. A single logit says
        by its sign which of two classes.

        Raises:
            ValueError: a network without classes.
        """
        self.check_classes()
        return self.answer_of(self(images))

    def answer_of(self, logits: Tensor) -> Tensor:
        """The answer (B,) that logits (B, K) stand for, as in `answer`."""
        self.check_classes()
        if logits.shape[1] == 1:
            logits = torch.cat([-logits, logits], 1)
        if self.coarse_names:
            logits = self._among_coarse(logits)
        undecided = (logits == logits.amax(1, keepdim=True)).sum(1) != 1
        answers = logits.argmax(1)
        answers = self._coarse[answers] if self.coarse_names else answers
        return answers.masked_fill(undecided | self._blind, -1)

    def check_classes(self) -> None:
        """Raise a ValueError that says what to do if the network has no classes."""
        if not self.has_classes:
            raise ValueError(
                f"{self.name} has no classes, so that it gives no answers: judge by "
                "metalib.evaluation.criterion.without_classes(null), or pass output= or "
                "classes=True to wrap_model if it classifies")

    def coarse_of(self, labels: Tensor) -> Tensor:
        """The coarse class (B,) of classes (B,); -1 for a class in none, and for -1."""
        members = self._coarse.to(labels.device)[labels.clamp_min(0)]
        return torch.where(labels < 0, -1, members)

    def activations(self, images: Tensor, stage: str, *, outside: bool = False) -> Tensor:
        """Flattened activations (B, D), float32, of a stage. Layers after the stage are not run.

        Of complex numbers both parts are units.

        Args:
            images: (B, 3, H, W) in [0, 1].
            stage: one of `stages`.
            outside: take finite pixels outside [0, 1], too, as they are: other programs optimise
                images without bounds.

        Raises:
            ValueError: unknown stage, or images that the model cannot take (as in calling it).
        """
        self.check_stage(stage)
        self.check_images(images, outside=outside)
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
            and the logits (B, K), float32, or None (as in calling the model).

        Raises:
            ValueError: no or unknown stages, or images that the model cannot take.
        """
        for stage in stages:
            self.check_stage(stage)
        self.check_images(images)
        last = None if logits else max(stages, key=self.stages.index)
        found = {}

        def keep(stage: str, output: Any) -> None:
            rows = self._rows(stage, output, len(images))
            found[stage] = rows.flatten(1).to(torch.float32, copy=True)
            if stage == last:
                raise StageReached(output)

        with contextlib.ExitStack() as hooks:
            for stage in stages:
                hooks.enter_context(hooked(
                    self.module, stage, lambda output, stage=stage: keep(stage, output)))
            try:
                output = self._pass(self.normalised(images))
                end = self._logits(output) if logits else None
            except StageReached:
                end = None
        for stage in stages:
            if stage not in found:
                raise self._not_reached(stage)
        return {stage: found[stage] for stage in stages}, end

    def unchecked_activations(
        self, images: Tensor, stage: str, identity_relu: bool = False, *,
        before_relu: bool = False,
    ) -> Tensor:
        """Activations (B, D) for inner loops: nothing is checked, so that no GPU is waited for.

        Units are in the order in which the network computes them. With `channels_last` that is
        not the order of `activations`. Norms do not depend on it, and reordering would cost a
        copy in the forward pass and a slower backward pass.

        With `identity_relu`, at a stage whose output is that of a ReLU, the backward pass lets
        the gradient through that ReLU unchanged, so that units that are off receive one too
        (Feather et al. 2023, doi:10.1038/s41593-023-01442-0, Methods). Values are the same. Of a
        concatenation it is all ReLUs, and ReLU6 counts as one: its units that are at 6 receive a
        gradient, too. Stages that end otherwise are not affected, see `relu_stages`. With
        `before_relu` it is what these ReLUs take that is returned.
        """
        output = self.reach(self.normalised(images), stage, identity_relu, before_relu)
        if self.memory_format == torch.channels_last and output.ndim == 4:
            output = output.movedim(1, -1)
        return output.flatten(1).float()

    def reach(
        self, inputs: Tensor, stage: str, identity_relu: bool = False, before_relu: bool = False,
    ) -> Tensor:
        """The output of a stage for `normalised` inputs.

        `identity_relu` and `before_relu` are as in `unchecked_activations`.
        """
        def leave(output):
            raise StageReached(output)

        numbers = self.relu_stages.get(stage) if identity_relu or before_relu else None
        relus = ReLUs(numbers, before_relu) if numbers else contextlib.nullcontext()
        with relus, hooked(self.module, stage, leave):
            try:
                self._pass(inputs)
            except StageReached as reached:
                return self._rows(stage, reached.output, len(inputs))
        raise self._not_reached(stage)

    def _rows(self, stage: str, output: Any, count: int) -> Tensor:
        """What a stage's submodule returned, as a tensor with a row for each of `count` images."""
        rows = self._stages[stage].rows(output)
        if len(rows) != count:
            raise ValueError(f"{self.name}: stage {stage!r} gives {len(rows)} rows for {count} "
                             "images: a network that cuts its batch into pieces has no stages "
                             "inside them")
        return rows

    def _pass(self, inputs: Tensor) -> Any:
        """What the network returns."""
        with evaluating(self.module):
            return self.module(inputs)

    def _end(self, output: Any) -> Tensor:
        """The tensor at the end of the network, of what it returns."""
        try:
            return end_of(picked(output, self._output), len(self.class_names))
        except ValueError as error:
            raise ValueError(f"{self.name} {error}; pass output= to wrap_model: a key, a number, "
                             "or a function of what it returns") from error

    def _logits(self, output: Any) -> Tensor:
        return self._end_layout.rows(self._end(output)).float()

    def _layout_of_end(self, pair: Any, single: Any) -> Layout:
        try:
            return layout_of(self._end(pair), self._end(single))
        except ValueError as error:
            raise ValueError(f"{self.name}: what the network returns {error}") from error

    def _check_classes(self, logits: Tensor) -> None:
        """Raise a ValueError unless what is said of classes fits the logits (2, K)."""
        if not self.has_classes and (self.class_names or self.coarse_names):
            raise ValueError(f"{self.name} returns {tuple(logits.shape[1:])} numbers for an image, "
                             "no logits of classes: leave class_names and coarse out, or pass "
                             "output= to say where its logits are")
        if self.has_classes and logits.ndim != 2:
            raise ValueError(f"{self.name} returns {tuple(logits.shape[1:])} numbers for an image, "
                             "and a classifier one for each class: pass classes=False or output=")
        names, count = len(self.class_names), logits.shape[-1]
        if names and names != count and (names, count) != (2, 1):
            raise ValueError(
                f"{self.name} has {count} logits, and {names} class names: give one for each"
                + (", or pass output= to leave out the background class"
                   if count == names + 1 else ""))

    def _sees_nothing(self, logits: Tensor) -> bool:
        """Whether logits (2, K) are the same for all images, as those of an untrained head."""
        if not torch.equal(*logits):
            return False
        ends = torch.linspace(0, 1, 3, device=self.device).view(-1, 1, 1, 1)
        with torch.no_grad():
            others = self(ends.expand(-1, *self.input_shape))
        return bool((others == logits[:1].float()).all())

    def _not_reached(self, stage: str) -> ValueError:
        return ValueError(f"{self.name} did not compute the stage {stage!r} in this pass: "
                            "name one that it computes for every batch")

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

    def check_images(self, images: Tensor, *, outside: bool = False) -> None:
        """Raise a ValueError that says what to mend unless the model can take these images.

        It takes (B, 3, H, W) with finite values in [0, 1]; with `outside`, any finite values.
        """
        channels, height, width = self.input_shape
        taken = {(3, height, width), self.input_shape}
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1:] not in taken:
            given = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            size = height if height == width else (height, width)
            raise ValueError(
                f"{self.name} takes images of shape (B, {channels}, {height}, {width}), not "
                f"{given}; load_images(..., size={size}) resizes")
        if not images.is_floating_point():
            raise ValueError(f"images must be floating point in [0, 1], not {images.dtype}; "
                             "divide 8-bit images by 255")
        check_range(images, outside=outside)

    def fitted(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) of any size at the size that the model takes, as observers see them.

        They are resized (bilinear, antialiased) so that they just cover it, and cropped at the
        centre; those that have it are the same.
        """
        return fit(images, self.input_shape[1:])

    def normalised(self, images: Tensor) -> Tensor:
        """What the network takes, for images (B, 3, H, W) in [0, 1], in the type of its weights."""
        if images.shape[1] > len(self.mean):
            images = luminance(images)
        standard = (images.to(self.dtype) - self.mean) / self.std
        return standard.to(self.dtype).contiguous(memory_format=self.memory_format)

    def __repr__(self):
        return f"Model({self.name!r}, input_size={self.input_size}, stages={list(self.stages)})"


def _probes(shape: tuple[int, int, int]) -> Tensor:
    """Two different images, (2, C, H, W): grey, and uniform noise."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return torch.stack([torch.full(shape, 0.5), noise])


def _membership(coarse: Mapping[str, Sequence[int]], classes: int, name: str) -> Tensor:
    """For each of the classes the number of its coarse class, -1 for none."""
    if coarse == IMAGENET16 and classes != len(IMAGENET):
        raise ValueError(
            f"{name} has {classes} classes, and the coarse classes are of the {len(IMAGENET)} of "
            "ImageNet" + ("; pass output= to leave out the background class"
                          if classes == len(IMAGENET) + 1 else ""))
    members = torch.full((classes,), -1)
    for number, indices in enumerate(coarse.values()):
        if not all(0 <= index < classes for index in indices):
            raise ValueError(f"{name} has {classes} classes; "
                             "the coarse classes have members beyond")
        members[list(indices)] = number
    return members
