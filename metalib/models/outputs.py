"""What a module returns, as one real tensor with one row for each image.

    layout = layout_of(pair, single)      # where the images of a batch are, found once by tracing
    rows = layout.rows(tensor_of(output)) # (B, ...), whatever axis the module has them on

Networks return tensors, tuples, dicts and objects such as Hugging Face's. In most the images are on
the first axis; in transformers that are sequence-first they are not, and where windows or frames
are folded into the batch an image has several entries there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

FIELDS = ("logits", "out", "last_hidden_state")  # looked for in this order
LOGITS = ("logits", "out")  # of these, those that may be the logits of a classifier


@dataclass(frozen=True)
class Layout:
    """Where the images of a batch are in a tensor.

    Attributes:
        axis: the axis that grows with the batch.
        each: the number of entries that an image has on it.
        interleaved: whether entries of different images alternate there; otherwise those of an
            image follow each other.
    """

    axis: int = 0
    each: int = 1
    interleaved: bool = False

    def rows(self, tensor: Tensor) -> Tensor:
        """The tensor with a row for each image, (B, ...)."""
        if self.each > 1:
            sizes = (self.each, -1) if self.interleaved else (-1, self.each)
            tensor = tensor.unflatten(self.axis, sizes)
        axis = self.axis + (self.interleaved and self.each > 1)
        return tensor.movedim(axis, 0) if axis else tensor


def layout_of(pair: Tensor, single: Tensor) -> Layout:
    """The layout of a tensor, from its values for two images and for the second of them alone.

    Raises:
        ValueError: no axis grows with the batch, or the second image has other values alone.
    """
    grown = [axis for axis, (two, one) in enumerate(zip(pair.shape, single.shape)) if two != one]
    if pair.ndim != single.ndim:
        raise ValueError("loses or gains an axis when there is one image only (as by squeeze()): "
                         "keep the batch axis")
    if not grown:
        raise ValueError("has no axis for the images of a batch: name a stage before them or after")
    axis = grown[0]
    if len(grown) > 1 or pair.shape[axis] != 2 * single.shape[axis]:
        raise ValueError(f"has the shape {tuple(single.shape)} for one image and "
                         f"{tuple(pair.shape)} for two, so that their parts cannot be told apart")
    each = single.shape[axis]
    layouts = [Layout(axis, each, interleaved) for interleaved in (False, True)]
    misfit = {layout: _difference(layout.rows(pair)[1], layout.rows(single)[0])
              for layout in layouts}
    layout = min(layouts, key=misfit.__getitem__)
    if misfit[layout] > 1e-3:
        raise ValueError("gives an image other values alone than beside another: it depends on the "
                         "other images in the batch, on chance, or on earlier calls; freeze "
                         "statistics and randomness")
    return layout


def tensor_of(output: Any) -> Tensor:
    """The one tensor of what a module returned, real: both parts of complex numbers, side by side.

    Of dicts and objects it is that of `FIELDS`, or the only one; of tuples the first.

    Raises:
        ValueError: there is none, or it cannot be said which.
    """
    tensor = output if isinstance(output, Tensor) else _chosen(output)
    if tensor.layout != torch.strided or tensor.is_nested:
        raise ValueError("returns a sparse or nested tensor, not a plain one")
    if tensor.is_quantized:
        raise ValueError("returns quantised numbers, which pass no gradient: take the network "
                         "before it was quantised")
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def picked(output: Any, which: str | int | Callable[[Any], Any] | None) -> Any:
    """What is named of an output: a key or attribute, a number, or what a function returns."""
    if which is None:
        return output
    if callable(which):
        return which(output)
    try:
        if isinstance(which, str) and not isinstance(output, Mapping):
            return getattr(output, which)
        return output[which]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"output={which!r} is not in what the network returns, "
                         f"{_described(output)}") from error


def may_be_logits(output: Any) -> bool:
    """Whether what a network returns may be the logits of a classifier, by its name."""
    named = _named(output)
    return not named or any(name in named for name in LOGITS) or len(named) == 1 and not (
        set(named) & set(FIELDS))


def _chosen(output: Any) -> Tensor:
    named = _named(output)
    for name in FIELDS:
        if isinstance(named.get(name), Tensor):
            return named[name]
    if isinstance(output, (tuple, list)) and output:
        return output[0] if isinstance(output[0], Tensor) else _chosen(output[0])
    tensors = [value for value in named.values() if isinstance(value, Tensor)]
    if len(tensors) != 1:
        raise ValueError(f"returns {_described(output)}, not one tensor")
    return tensors[0]


def _named(output: Any) -> dict[str, Any]:
    """The named parts of an output, those that are not None."""
    if isinstance(output, Mapping):
        parts = dict(output)
    elif is_dataclass(output):
        parts = {field.name: getattr(output, field.name) for field in fields(output)}
    elif isinstance(output, tuple) and hasattr(output, "_asdict"):
        parts = output._asdict()  # type: ignore[attr-defined]
    else:
        parts = dict(vars(output)) if hasattr(output, "__dict__") and not isinstance(
            output, (Tensor, tuple, list)) else {}
    return {name: value for name, value in parts.items() if value is not None}


def _described(output: Any) -> str:
    names = list(_named(output))
    inside = f" with {', '.join(map(str, names))}" if names else (
        f" of {len(output)}" if isinstance(output, (tuple, list)) else "")
    return f"a {type(output).__name__}{inside}"


def _difference(a: Tensor, b: Tensor) -> float:
    """Root mean square difference relative to that of b; 0 where both are not finite alike."""
    a, b = (x.detach().double().nan_to_num() for x in (a, b))
    scale = b.square().mean()
    return 0.0 if torch.equal(a, b) else ((a - b).square().mean() / scale).sqrt().item()
