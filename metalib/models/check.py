"""Does a model behave as metamers need it to? One test for bundled and for wrapped models."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metalib.models.model import Model
from metalib.models.stages import evaluating, trace


def check_model(
    model: Model, *, batch_size: int = 4, seed: int = 0, tolerance: float = 1e-3,
) -> Model:
    """Check that a model conforms to all that generation and judgement take for granted.

    - Its weights are frozen.
    - Stages are unique and in the order of execution.
    - The same images give the same answer twice, and an image's activations do not depend on the
      others in the batch. Stopping at a stage gives what a whole forward pass gives.
    - Activations are finite for pixels at both ends of [0, 1]; other pixels are refused.
    - Every stage passes a gradient to the pixels that is finite and not zero.

    Args:
        model: from `wrap_model` or `load_model`.
        batch_size: number of images of uniform noise, at least 2; a black and a white image are
            added.
        seed: of the noise.
        tolerance: the largest difference that counts as rounding, relative to the root mean
            square of the activations.

    Returns:
        The model, so that the call can stand around it.

    Raises:
        ValueError: the model does not conform; the message says for each failure what to mend.

    Example:
        >>> from metalib import check_model, load_model
        >>> check_model(load_model("zoo/vgg-standard-0")).name
        'zoo/vgg-standard-0'
    """
    device = model.device
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch_size, *model.input_shape, generator=generator).to(device)
    images[0] *= torch.linspace(0, 1, images.shape[-1], device=device)

    problems = _network_problems(model, images)
    logits = _quietly(model, images)
    problems += _logits_problems(model, images, logits, tolerance)
    problems += _pixel_problems(model, images)
    seen, whole = _quietly(
        functools.partial(model.read, stages=model.stages, logits=True), images)
    for stage in model.stages:
        problems += _activation_problems(model, images, stage, seen[stage], tolerance)
        problems += _gradient_problems(model, images, stage)
    if not _alike(whole, logits, tolerance):
        problems.append(
            "the network keeps a state between calls: make `forward` free of side effects")
    if problems:
        raise ValueError(f"{model.name} does not conform:\n"
                         + "\n".join(f"- {problem}" for problem in problems))
    return model


def _quietly(function: Callable[[Tensor], Any], images: Tensor) -> Any:
    with torch.no_grad():
        return function(images)


def _alike(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and bool(
        (a - b).square().mean().sqrt() <= tolerance * a.square().mean().sqrt())


def _network_problems(model: Model, images: Tensor) -> list[str]:
    problems = []
    if any(parameter.requires_grad for parameter in model.module.parameters()):
        problems.append("some weights ask for a gradient, which costs time and memory: "
                        "call model.requires_grad_(False)")
    with evaluating(model.module):
        found, _, _ = trace(model.module, model.stages, model.normalised(images[:2]), model.name)
    order = tuple(found)
    if order != tuple(model.stages):
        problems.append(f"stages are listed as {', '.join(model.stages)} but computed as "
                        f"{', '.join(order)}: wrap the module again")
    return problems


def _logits_problems(
    model: Model, images: Tensor, logits: Tensor, tolerance: float,
) -> list[str]:
    problems = []
    if not _alike(logits, _quietly(model, images), tolerance):
        problems.append("the same images give other logits the second time: make the network "
                        "deterministic (functional dropout, noise or random crops in `forward`)")
    return problems


def _pixel_problems(model: Model, images: Tensor) -> list[str]:
    for outside in (images + 1, images - 1, images * float("nan")):
        try:
            _quietly(model, outside)
        except ValueError:
            continue
        return ["pixels outside [0, 1] are accepted: keep Model.check_images in Model.forward"]
    return []


def _activation_problems(
    model: Model, images: Tensor, stage: str, seen: Tensor, tolerance: float,
) -> list[str]:
    """Compare early exit with the activations `seen` in a whole pass, and look at its values."""
    activate = functools.partial(model.activations, stage=stage)
    extremes = torch.stack([torch.zeros_like(images[0]), torch.ones_like(images[0])])
    activations, at_extremes = _quietly(activate, images), _quietly(activate, extremes)
    alone = torch.cat([_quietly(activate, image[None]) for image in images])
    if not (activations.isfinite().all() and at_extremes.isfinite().all()):
        return [f"{stage}: activations are not finite for pixels in [0, 1]: "
                "look at mean, std and the weights"]
    if not _alike(activations, alone, tolerance):
        return [f"{stage}: an image's activations depend on the other images in the batch: "
                "freeze normalisation statistics and normalise images one by one"]
    if not _alike(activations, seen, tolerance):
        return [f"{stage}: stopping at the stage gives other activations than a whole forward "
                "pass: the network keeps a state between calls"]
    return []


def _gradient_problems(model: Model, images: Tensor, stage: str) -> list[str]:
    pixels = images.clone().requires_grad_()
    activations = model.unchecked_activations(pixels, stage)
    if not activations.requires_grad:
        return [f"{stage}: no gradient reaches the pixels: "
                "remove torch.no_grad, detach or conversions to numpy"]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(activations.shape, generator=generator).to(activations.device)
    try:
        gradient, = torch.autograd.grad((activations * direction).sum(), pixels, allow_unused=True)
    except RuntimeError as error:
        return [f"{stage}: the backward pass fails ({str(error).splitlines()[0]})"]
    if gradient is None:
        return [f"{stage}: no gradient reaches the pixels: take the network before it was "
                "quantised, and no custom operator without a backward pass"]
    if not gradient.isfinite().all():
        return [f"{stage}: the gradient at the pixels is not finite: "
                "look for square roots or logarithms of 0"]
    if not gradient.flatten(1).any(1).all():
        return [f"{stage}: the gradient at the pixels is zero: "
                "rounding, thresholds, argmax or weights that are all zero stop it"]
    return []
