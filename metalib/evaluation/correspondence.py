"""At which of its stages an observer is looked at: by name, by depth, or by representation.

    at = Correspondence(load, natural_images, references)
    at("cka", generator, "group3", observer)       # a name of one of the observer's stages
    layer_depths(model)                            # share of the weighted layers up to each stage

No rule is the right one for all networks, so that a conclusion should hold with each of them.
`CORRESPONDENCES` names the rules.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metalib import metrics
from metalib.data import ImageSet
from metalib.evaluation.controls import are_copies
from metalib.evaluation.inventory import Entry, Loader
from metalib.models import Model
from metalib.models.stages import StageReached, evaluating, hooked
from metalib.plain import remembered

CKA_IMAGES = 10  # fewer natural images tell little of a representation
MEMORY = 250_000_000  # most activations that are computed in one pass
_DEPTHS: dict[Any, dict[str, float]] = {}
_KERNELS: dict[Any, dict[str, Tensor]] = {}


class Correspondence:
    """Stages of observers that correspond to a generator's, by any of `CORRESPONDENCES`.

    Args:
        load: gives the models, which "depth" and "cka" have to look into.
        images: natural images for "cka", some hundreds; None without.
        references: copies of these among them are left out, so that a stage is not chosen by the
            images that it is then judged by.
    """

    def __init__(self, load: Loader, images: ImageSet | None, references: ImageSet):
        self.load, self.images = load, images
        if images is not None:
            self.images = images[~are_copies(images.images, references.images).any(1)]

    def check(self, rules: Sequence[str]) -> None:
        """Raise a ValueError unless rules are known, different, and have what they need."""
        if not rules or len(set(rules)) < len(rules) or not set(rules) <= set(CORRESPONDENCES):
            raise ValueError(f"correspondences are one or more of {', '.join(CORRESPONDENCES)}, "
                             f"not {', '.join(map(repr, rules)) or 'none'}")
        if "cka" in rules and (self.images is None or len(self.images) < CKA_IMAGES):
            raise ValueError('the correspondence "cka" compares representations of natural images: '
                             f"pass correspondence_images=, {CKA_IMAGES} at least, better some "
                             "hundreds, that are no copies of references")

    def __call__(self, rule: str, generator: Entry, stage: str, observer: Entry) -> str:
        """The stage of the observer; the generator's own where both are one model."""
        if generator.fingerprint == observer.fingerprint:
            return stage
        return CORRESPONDENCES[rule](self, generator, stage, observer)

    def depths(self, entry: Entry) -> dict[str, float]:
        """`layer_depths`, computed once for a model."""
        return remembered(_DEPTHS, (entry.fingerprint, entry.stages),
                          lambda: layer_depths(self.load(entry)))

    def kernels(self, entry: Entry) -> dict[str, Tensor]:
        """`kernels` of the natural images, computed once for a model."""
        images: Any = self.images
        return remembered(_KERNELS, (entry.fingerprint, entry.stages, images.sha256),
                          lambda: kernels(self.load(entry), images.images))


def corresponding_stage(generator: Any, stage: str, observer: Any) -> str:
    """The observer's stage for a stage of the generator, by name.

    The same stage where both models list the same stages, as within the bundled zoo; otherwise the
    one whose position among the stages (0 for the first, 1 for the last) is nearest, the earlier of
    two that are equally near.

    Args:
        generator, observer: Models, or anything with `stages`.
        stage: one of the generator's.

    Example:
        >>> from metalib import load_model
        >>> corresponding_stage(load_model("zoo/vgg-standard-0"), "group3",
        ...                     load_model("zoo/cct-standard-0"))
        'group3'
    """
    if tuple(generator.stages) == tuple(observer.stages):
        return stage
    places = {name: relative_depth(observer.stages, name) for name in observer.stages}
    return nearest(places, relative_depth(generator.stages, stage))


def relative_depth(stages: Sequence[str], stage: str) -> float:
    """Position of a stage among those of its model, from 0 for the first to 1 for the last.

    1 for an only one.
    """
    return list(stages).index(stage) / (len(stages) - 1) if len(stages) > 1 else 1.0


def nearest(places: dict[str, float], place: float) -> str:
    """The stage whose place is nearest, the earlier of two that are equally near."""
    return min(places, key=lambda stage: round(abs(places[stage] - place), 9))


def layer_depths(model: Model) -> dict[str, float]:
    """How deep each stage lies: the share of the network's weighted layers that it has behind it.

    Names of stages are conventions, and networks have different numbers of blocks between them.
    This depth asks instead how many learned maps an image has been through. A weighted layer is a
    module without submodules that owns a parameter of two or more dimensions: a convolution or a
    linear layer, those of shortcuts and of attention included, but no normalisation and no
    embedding of positions. `nn.MultiheadAttention` counts as one, since it computes without calling
    its parts. Layers count in the order in which they are computed, as often as they are called.

    Args:
        model: the network.

    Returns:
        A number in [0, 1] for each of the model's stages; 1 after the last weighted layer. Without
        weighted layers, `relative_depth`.

    Example:
        >>> from metalib import load_model
        >>> depths = layer_depths(load_model("zoo/vgg-standard-0"))
        >>> round(depths["stem"] * 8), round(depths["features"] * 8), depths["logits"]
        (1, 7, 1.0)
    """
    called, at = [], {}
    layers = [module for module in model.module.modules() if _weighted(module)]
    handles = [layer.register_forward_hook(lambda *_: called.append(1)) for layer in layers]
    try:
        for stage in model.stages:
            at[stage] = _calls_until(model, stage, called)
        total = _calls_until(model, None, called)
    finally:
        for handle in handles:
            handle.remove()
    return {stage: count / total if total else relative_depth(model.stages, stage)
            for stage, count in at.items()}


def _calls_until(model: Model, stage: str | None, called: list) -> int:
    """How many weighted layers are called before a stage is reached; None is the network's end."""
    called.clear()

    def leave(output: Any) -> None:
        raise StageReached(output)

    inputs = model.normalised(torch.full((1, *model.input_shape), 0.5, device=model.device))
    with torch.no_grad(), evaluating(model.module):
        try:
            if stage is None:
                model.module(inputs)
            else:
                with hooked(model.module, stage, leave):
                    model.module(inputs)
        except StageReached:
            pass
    return len(called)


def _weighted(module: nn.Module) -> bool:
    own = any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
    return isinstance(module, nn.MultiheadAttention) or own and not any(module.children())


@torch.no_grad()
def kernels(model: Model, images: Tensor, *, batch_size: int = 100) -> dict[str, Tensor]:
    """The U-centred kernel (n, n) of natural images at each stage, as `metrics.u_centred` gives it.

    Args:
        model: whose activations.
        images: (n, 3, H, W) in [0, 1], of any size, see `Model.fitted`.
        batch_size: images that go through the model together.
    """
    units = sum(math.prod(shape) for shape in model.shapes.values())
    few = len(images) * units < MEMORY
    found = {}
    for stages in [list(model.stages)] if few else [[stage] for stage in model.stages]:
        read = [model.read(model.fitted(batch.to(model.device)), stages)[0]
                for batch in images.split(batch_size)]
        for stage in stages:
            activations = torch.cat([part[stage].cpu() for part in read])
            found[stage] = metrics.u_centred(activations @ activations.T)
    return found


# --- The rules ----------------------------------------------------------------------------------

def by_name(_: Correspondence, generator: Entry, stage: str, observer: Entry) -> str:
    """The stage of the same name, see `corresponding_stage`."""
    return corresponding_stage(generator, stage, observer)


def by_depth(at: Correspondence, generator: Entry, stage: str, observer: Entry) -> str:
    """The stage whose share of weighted layers is nearest, see `layer_depths`.

    Of stages that are equally near, as those before and after a pooling are, the one whose position
    among the stages is nearest.
    """
    depth, there = at.depths(generator)[stage], at.depths(observer)
    gaps = {name: round(abs(there[name] - depth), 9) for name in there}
    near = [name for name in gaps if gaps[name] == min(gaps.values())]
    return nearest({name: relative_depth(observer.stages, name) for name in near},
                   relative_depth(generator.stages, stage))


def by_cka(at: Correspondence, generator: Entry, stage: str, observer: Entry) -> str:
    """The stage whose representation of natural images is most like that of the generator's stage.

    By debiased centred kernel alignment, see `metrics.debiased_cka`.
    """
    own, others = at.kernels(generator)[stage], at.kernels(observer)
    return max(others, key=lambda name: metrics.cosine(own, others[name]).item())


CORRESPONDENCES: dict[str, Callable[[Correspondence, Entry, str, Entry], str]] = {
    "name": by_name, "depth": by_depth, "cka": by_cka}
