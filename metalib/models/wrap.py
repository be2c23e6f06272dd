"""Any network as a `Model`: what is taken, and what is said about what is not.

    model = wrap_model(network, stages=["layer1", "fc"], mean=..., std=..., input_size=224)
"""

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from metalib.models.model import Model
from metalib.notices import warn


def wrap_model(
    module: nn.Module, *, stages: Sequence[str] | None = None,
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    input_size: int | tuple[int, int] = 32, class_names: Sequence[str] = (),
    coarse: Mapping[str, Sequence[int]] | None = None, name: str | None = None,
    card: dict | None = None, channels_last: bool | None = None, classes: bool | None = None,
    output: str | int | Callable[[Any], Any] | None = None,
) -> Model:
    """Make a `Model` of any network, by the names of its submodules. It is frozen, in place.

    Weights of half precision are the exception: the model then holds a copy of the network in
    float32.

    Args:
        module: nn.Module from normalised images (B, 3, H, W) to logits (B, K), to embeddings or
            to feature maps.
        stages: names of submodules (as in `module.named_modules()`), each called once in a
            forward pass, or `name:input` for what a submodule takes; sorted into the order of
            execution. Of a submodule that returns a tuple the first tensor counts; of one that
            returns a dict or an object, `logits` or `last_hidden_state`. Where the images are on
            another axis than the first is found by tracing. None finds the main stages, see
            `metalib.models.default_stages`.
        mean, std: of each colour channel, in units of pixels in [0, 1]; subtracted and divided
            by before the network. Without them pixels are passed as they are. One number each is
            for a network of grey-scale images (B, 1, H, W).
        input_size: side of the square images, in pixels, or their (height, width).
        class_names: names of the K classes. By these, or by WordNet ids at their beginnings, the
            classes of images are found among them (`metalib.labels.places`), never by position;
            `metalib.labels.IMAGENET` has those of ImageNet.
        coarse: a dict from names of coarse classes to the indices of their members, such as
            `metalib.labels.IMAGENET16`, for models that are compared by coarse answers.
        name: the model's name; the class name of `module` if None.
        card: a plain dict of facts about the model.
        channels_last: hold weights and images with the channels last in memory, which changes
            roundings only. None does so for networks with convolutions that work with it, most of
            which are faster then (`benchmarks/layouts.py` measures it); one that calls `view` on
            its activations does not.
        classes: whether the network classifies. None takes an output (B, K) for logits; pass False
            for an encoder that returns embeddings.
        output: what to take of the network's output: a key or attribute, a number, or a function
            of it. None takes `logits` of a dict or an object, and of a tuple the only tensor or the
            one that has a number for each of `class_names`.

    Raises:
        ValueError: a stage that is no submodule, is not called exactly once, or does not return a
            tensor with a row for each image; weights that are not finite; a network that does not
            take such images, or whose output is not understood.

    Warns:
        UserWarning: neither `mean` nor `std` is given; said once.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(),
        ...                         nn.Linear(8 * 30 * 30, 10))
        >>> model = wrap_model(network, stages=["1", "3"], name="tiny", mean=(0.5,) * 3,
        ...                    std=(0.25,) * 3)
        >>> model.stages, model.shapes["1"]
        (('1', '3'), (8, 30, 30))
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"a {type(module).__name__} is not a torch.nn.Module: put the call into "
                         "the `forward` of one")
    if mean is None and std is None:
        _mention_normalisation()
    mean, std = _normalisation(mean, std)
    if isinstance(stages, str):
        raise ValueError(f"stages is a list of names, such as [{stages!r}]")
    name = name or type(module).__name__
    network, dtype = _adopted(module, name)
    make = functools.partial(
        Model, network, stages=stages, mean=mean, std=std, sides=_sides(input_size), dtype=dtype,
        class_names=class_names, coarse=coarse, name=name, card=card, classes=classes,
        output=output)
    if channels_last is None and any(isinstance(part, nn.Conv2d) for part in network.modules()):
        with contextlib.suppress(ValueError, RuntimeError):  # said below, if it is no matter of it
            return make(channels_last=True)
    return make(channels_last=bool(channels_last))


@functools.cache
def _mention_normalisation() -> None:
    warn("neither mean nor std is given: the network is given pixels in [0, 1] as they "
         "are; most were trained on (pixels - mean) / std")


def _normalisation(mean: Any, std: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, checked."""
    try:
        given = [values if values is None else [float(value) for value in values]
                 for values in (mean, std)]
    except TypeError as error:
        raise ValueError(f"mean and std are one number for each channel, such as (0.5, 0.5, 0.5), "
                         f"not {mean!r} and {std!r}") from error
    channels = len(given[0] or given[1] or (0,) * 3)
    means, stds = given[0] or [0.0] * channels, given[1] or [1.0] * channels
    if len(means) != len(stds) or channels not in (1, 3):
        raise ValueError(f"mean and std are of three colour channels, or of one in a network of "
                         f"grey-scale images, not of {len(means)} and {len(stds)}")
    if not all(math.isfinite(value) and value > 0 for value in stds):
        raise ValueError(f"std must be positive, not {std!r}")
    if not all(-1 <= value <= 1 for value in means):
        raise ValueError(f"mean is in units of pixels in [0, 1], not {mean!r}; for a network of "
                         "pixels up to 255 divide mean and std by 255")
    return means, stds


def _sides(size: Any) -> tuple[int, int]:
    """Height and width."""
    sides = size if isinstance(size, (tuple, list, torch.Size)) else (size, size)
    if len(sides) != 2 or not all(int(side) == side and side > 0 for side in sides):
        raise ValueError(f"input_size is a side in pixels or (height, width), not {size!r}")
    return int(sides[0]), int(sides[1])


def _adopted(module: nn.Module, name: str) -> tuple[nn.Module, torch.dtype]:
    """The network that is run for this module, and the type of its numbers: 32 or 64 bits.

    Of a compiled or parallel module it is the one inside, whose submodules can be read.
    """
    module = getattr(module, "_orig_mod", module)  # torch.compile
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = module.module
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"{name} is scripted or traced by torch.jit, which hides its submodules: "
                         "wrap the network that it was made of")
    _check_weights(module, name)
    types = {weights.dtype for weights in module.parameters() if weights.is_floating_point()}
    if types & {torch.float16, torch.bfloat16}:  # exact in float32
        try:
            module = copy.deepcopy(module).float()
        except RuntimeError as error:
            raise ValueError(f"{name} has weights of half precision and cannot be copied ({error}):"
                             " wrap network.float()") from error
    try:
        module.eval()
    except NotImplementedError as error:
        raise ValueError(f"{name} is exported and stays in the mode in which it was ({error}): "
                         "wrap the network that it was made of") from error
    return module, torch.float64 if types == {torch.float64} else torch.float32


def _check_weights(module: nn.Module, name: str) -> None:
    """Raise a ValueError unless weights are there and finite, and buffers are no NaN.

    Buffers may be infinite, as the masks of attention are.
    """
    for key, value in [*module.named_parameters(), *module.named_buffers()]:
        if nn.parameter.is_lazy(value):
            raise ValueError(f"{name}: the weights {key!r} are not there yet: run one batch of "
                             "images through the network first")
        if value.is_meta:
            raise ValueError(f"{name}: the weights {key!r} are on the meta device: load them first")
        if not (value.is_floating_point() or value.is_complex()):
            continue
        wrong = value.isnan() if not isinstance(value, nn.Parameter) else ~value.isfinite()
        if wrong.any():
            raise ValueError(f"{name}: the weights {key!r} are not finite; "
                             "the file or the training is broken")
