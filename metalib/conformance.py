"""Does a model behave as metamers need it to? The same test for the bundled models and for any that a user wraps."""
import contextlib
import functools

import torch

from metalib.stages import hooked, trace


def check_model(model, *, batch_size=4, seed=0, tolerance=1e-3):
    """Check that a model conforms: all that generation and judgement take for granted.

    Evaluation mode and frozen weights; stages unique and in the order of execution; the same answer twice; an image's
    activations independent of the others in the batch; early exit equal to a whole forward pass; finite activations for
    pixels at both ends of [0, 1]; other pixels refused; a finite gradient from every stage to the pixels; logits (B, K) with a
    name for each class, or none.

    Args:
        model: from `wrap_model` or `load_model`.
        batch_size: number of images of uniform noise, at least 2; a black and a white one come on top.
        seed: of the noise.
        tolerance: the largest difference that counts as rounding, relative to the root mean square of the activations.

    Returns:
        The model, so that the call can stand around it.

    Raises:
        ValueError: the model does not conform; the message says for each failure what to mend.

    Example:
        >>> from metalib import check_model, load_model
        >>> check_model(load_model("zoo/vgg-standard-0")).name
        'zoo/vgg-standard-0'
    """
    side, device = model.input_size, model.device
    images = torch.rand(batch_size, 3, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
    images[0] *= torch.linspace(0, 1, side, device=device)
    flat = torch.stack([torch.zeros_like(images[0]), torch.ones_like(images[0])])
    problems = []

    if any(module.training for module in model.module.modules()):
        problems.append("some submodules are in training mode, so that dropout or batch statistics are active: "
                        "call model.module.eval()")
    if any(parameter.requires_grad for parameter in model.module.parameters()):
        problems.append("some weights ask for a gradient, which costs time and memory: call model.requires_grad_(False)")
    order, _, _ = trace(model.module, model.stages, model.normalised(images[:1]), model.name)
    if order != tuple(model.stages):
        problems.append(f"stages are listed as {', '.join(model.stages)} but computed as {', '.join(order)}: wrap the module anew")

    logits = _quietly(model, images)
    if logits.ndim != 2 or (model.class_names and logits.shape[1] != len(model.class_names)):
        problems.append(f"logits have the shape {tuple(logits.shape)}, not (B, K) with K = {len(model.class_names) or 'classes'}: "
                        "wrap a module that returns logits only, and give one class name for each")
    if not _alike(logits, _quietly(model, images), tolerance):
        problems.append("the same images give other logits the second time: make the network deterministic (functional "
                        "dropout, noise or random crops in `forward`)")
    for outside in (images + 1, images - 1, images * float("nan")):
        try:
            _quietly(model, outside)
        except ValueError:
            continue
        problems.append("pixels outside [0, 1] are accepted: keep Model.check_images in Model.forward")
        break

    whole, seen = _whole_pass(model, images)
    for stage in model.stages:
        activate = functools.partial(model.activations, stage=stage)
        activations, ends = _quietly(activate, images), _quietly(activate, flat)
        alone = torch.cat([_quietly(activate, image[None]) for image in images])
        if not (activations.isfinite().all() and ends.isfinite().all()):
            problems.append(f"{stage}: activations are not finite for pixels in [0, 1]: look at mean, std and the weights")
        elif not _alike(activations, alone, tolerance):
            problems.append(f"{stage}: an image's activations depend on the other images in the batch: freeze normalisation "
                            "statistics and normalise images one by one")
        elif not _alike(activations, seen[stage], tolerance):
            problems.append(f"{stage}: stopping at the stage gives other activations than a whole forward pass: the network "
                            "keeps a state between calls")
        problems += _gradient_problems(model, images, stage)
    if not _alike(whole, logits, tolerance):
        problems.append("the network keeps a state between calls: make `forward` free of side effects")
    if problems:
        raise ValueError(f"{model.name} does not conform:\n" + "\n".join(f"- {problem}" for problem in problems))
    return model


def _quietly(function, images):
    with torch.no_grad():
        return function(images)


def _alike(a, b, tolerance):
    return a.shape == b.shape and bool((a - b).square().mean().sqrt() <= tolerance * a.square().mean().sqrt())


def _whole_pass(model, images):
    """Logits, and the activations of each stage as a hook sees them in a whole pass."""
    seen = {}
    with contextlib.ExitStack() as hooks:
        for stage in model.stages:
            hooks.enter_context(hooked(model.module, stage, lambda output, stage=stage: seen.__setitem__(stage, output.clone())))
        logits = _quietly(model, images)
    return logits, {stage: output.flatten(1).float() for stage, output in seen.items()}


def _gradient_problems(model, images, stage):
    pixels = images.clone().requires_grad_()
    activations = model.unchecked_activations(pixels, stage)
    if not activations.requires_grad:
        return [f"{stage}: no gradient reaches the pixels: remove torch.no_grad, detach or conversions to numpy"]
    direction = torch.randn(activations.shape, generator=torch.Generator().manual_seed(0)).to(activations.device)
    gradient, = torch.autograd.grad((activations * direction).sum(), pixels)
    if not gradient.isfinite().all():
        return [f"{stage}: the gradient at the pixels is not finite: look for square roots or logarithms of 0"]
    if not gradient.flatten(1).any(1).all():
        return [f"{stage}: the gradient at the pixels is zero: rounding, thresholds, argmax or weights that are all zero stop it"]
    return []
