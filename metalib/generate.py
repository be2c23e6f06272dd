"""The generation loop: from references to metamers, for one model or several at once.

    metamers = generate(model, images, "group3", steps=200)
    metamers = generate(model, images, "group3", optimizer="published", steps=24_000, stop=null)
"""
import inspect
import time
from dataclasses import dataclass, field

import torch

from metalib.data import pixels, to_8_bits
from metalib.optimizers import OPTIMIZERS
from metalib.progress import bar
from metalib.starts import STARTS, start_images
from metalib.version import __version__


@dataclass(frozen=True)
class Metamers:
    """Images with the references whose activations they were made to match, and how they were made.

    Only `images` and `references` are needed to judge a set of images that was made elsewhere.

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1], rounded to 8 bits: what is judged is what would be stored.
        references: (B, 3, H, W) float32 in [0, 1].
        starts: (B, 3, H, W), the starting images.
        loss: (T, B), the loss (see `generate`) at each gradient evaluation; NaN after an image has stopped.
        evaluations: (B,) int64, gradient evaluations used for each image.
        status: why each image stopped: "steps" (all were done), "passed" (the criterion of `stop`), "non-finite" (its loss
            or gradient was not finite; the image is the last one before that) or "interrupted".
        seconds: wall-clock time of the loop.
        recipe: a plain dict of all that is needed to repeat the run.
    """
    images: torch.Tensor
    references: torch.Tensor
    starts: torch.Tensor | None = None
    loss: torch.Tensor | None = None
    evaluations: torch.Tensor | None = None
    status: tuple[str, ...] = ()
    seconds: float = float("nan")
    recipe: dict = field(default_factory=dict)

    @property
    def interrupted(self):
        """Whether the run was interrupted (Ctrl-C) before all images were done."""
        return "interrupted" in self.status

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        counts = ", ".join(f"{self.status.count(status)} {status}" for status in dict.fromkeys(self.status))
        made = f" of {self.recipe['models']} at {self.recipe['stages']} by {self.recipe['optimizer']}" if self.recipe else ""
        return f"<{len(self)} metamers{made}: {counts or 'made elsewhere'}>"


def generate(model_or_models, images, stage, *, optimizer="adam", optimizer_options=None, start="noise", start_options=None,
             steps=200, seed=0, stop=None, check_every=5, identity_relu=True, batch_size=128, device=None, progress=None):
    """Make metamers: change starting images until the activations at a stage equal those of the references.

    The loss of an image is the Euclidean norm of the difference of its activations from those of its reference, divided by the
    norm of the latter (Feather et al. 2023, doi:10.1038/s41593-023-01442-0, Methods); for several models the mean of theirs.
    Every image has its own state and stops by itself, so that its result does not depend on the others in the batch.

    Args:
        model_or_models: a Model, or a list of them whose input sizes agree.
        images: the references, an ImageSet or a tensor (B, 3, H, W) in [0, 1].
        stage: name of the stage to match; with several models a list, one per model.
        optimizer: a name in `metalib.optimizers.OPTIMIZERS`, or a function like those there.
        optimizer_options: keywords for it, such as {"learning_rate": 0.02}.
        start: a name in `metalib.starts.STARTS`, or a tensor (B, 3, H, W) in [0, 1].
        start_options: keywords for it, such as {"fraction": 0.3} for "blend".
        steps: the number of gradient evaluations per image, at most.
        seed: with a reference's pixels, this fixes its starting image.
        stop: a NullDistribution (with several models a list): an image is done as soon as it, rounded to 8 bits, passes the
            criterion, which is looked at every `check_every` evaluations. None does all steps.
        check_every: how many evaluations apart images that are done leave the batch.
        identity_relu: at a stage that ends in a ReLU, let the gradient through it unchanged, as published.
        batch_size: images that are optimised together; it bounds the memory, not the result.
        device: where to compute, such as "cuda"; the models are moved there. None leaves them where they are.
        progress: show a progress bar; None shows one where somebody is watching.

    Returns:
        Metamers, on the CPU. An interrupt (Ctrl-C) ends the loop and returns what is done so far.

    Raises:
        ValueError: unknown stage, optimizer or start, a null of another model or stage, or images that a model cannot take.

    Example:
        >>> from metalib import generate, load_images, load_model
        >>> model, images = load_model("zoo/vgg-standard-0"), load_images("cifar10-samples", n=2)
        >>> generate(model, images, "group2", steps=3)
        <2 metamers of ['zoo/vgg-standard-0'] at ['group2'] by adam: 2 steps>
    """
    models = list(model_or_models) if isinstance(model_or_models, (list, tuple)) else [model_or_models]
    stages = [stage] if isinstance(stage, str) else list(stage)
    stops = [] if stop is None else list(stop) if isinstance(stop, (list, tuple)) else [stop]
    if len(stages) != len(models) or len(stops) not in (0, len(models)):
        raise ValueError(f"{len(models)} models need as many stages and nulls, not {len(stages)} stages and {len(stops)} nulls")
    if steps < 1 or check_every < 1 or batch_size < 1:
        raise ValueError("steps, check_every and batch_size must be at least 1")
    if device is not None:
        models = [model.to(device) for model in models]
    references = pixels(images)
    for model, name in zip(models, stages):
        model.check_stage(name)
        model.check_images(references)
    for null, model, name in zip(stops, models, stages):
        null.check(model, name)
    rule, rule_name, rule_options = _rule(optimizer, optimizer_options or {})
    starts, start_options = _starts(start, start_options or {}, references, seed)
    recipe = {
        "models": [model.name for model in models], "stages": stages,
        "optimizer": rule_name, "optimizer_options": rule_options,
        "start": start if isinstance(start, str) else "given", "start_options": start_options,
        "steps": steps, "seed": seed, "stop": [null.describe() for null in stops], "check_every": check_every,
        "identity_relu": identity_relu, "device": str(models[0].device),
        "versions": {"metalib": __version__, "torch": str(torch.__version__)},
    }

    began = time.perf_counter()
    parts = []
    for batch_references, batch_starts in zip(references.split(batch_size), starts.split(batch_size)):
        if parts and parts[-1].interrupted:
            parts.append(_not_begun(batch_starts, steps))
            continue
        parts.append(_optimise(list(zip(models, stages)), batch_references, batch_starts, rule, rule_options, steps, stops,
                               check_every, identity_relu, progress))
    return Metamers(
        **{name: torch.cat([getattr(part, name) for part in parts], dim)
           for name, dim in (("images", 0), ("loss", 1), ("evaluations", 0))},
        references=references.cpu(), starts=starts.cpu(), status=sum((part.status for part in parts), ()),
        seconds=time.perf_counter() - began, recipe=recipe)


def _optimise(members, references, starts, rule, options, steps, stops, check_every, identity_relu, progress):
    """Optimise one batch. Images that are done leave it; on a GPU nothing is read back between two checks."""
    device = members[0][0].device
    references, images = references.to(device), starts.to(device)
    with torch.no_grad():
        targets = [model.unchecked_activations(_filled(references, model.shapes[stage]), stage)[:len(references)]
                   for model, stage in members]
        labels = [model.answer(references) for model, _ in members] if stops else []
    count = len(images)
    status = ["interrupted"] * count
    finished = images.clone()
    history = torch.full((steps, count), float("nan"), device=device)
    evaluations = torch.zeros(count, dtype=torch.int64, device=device)
    here = torch.arange(count, device=device)                     # which images are still in the batch
    fine = torch.ones(count, dtype=torch.bool, device=device)     # of those, which have had finite losses only
    state = {}

    def objective(images):
        images = images.requires_grad_()
        losses = []
        for (model, stage), target in zip(members, targets):
            activations = model.unchecked_activations(_filled(images, model.shapes[stage]), stage, identity_relu)
            difference = activations[:len(images)] - target
            losses.append(torch.linalg.vector_norm(difference, dim=1) / torch.linalg.vector_norm(target, dim=1))
        loss = torch.stack(losses).mean(0)
        gradient, = torch.autograd.grad(loss.sum(), images)
        return loss.detach(), gradient

    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with exact, bar(steps, "metamers", progress) as shown:
        try:
            for step in range(steps):
                loss, gradient = objective(images)
                fine &= loss.isfinite() & gradient.flatten(1).isfinite().all(1)
                new = rule(images.detach(), gradient, loss, state, step, steps, **options).clamp(0, 1)
                images = torch.where(fine.view(-1, 1, 1, 1), new, images.detach())
                history[step, here] = loss
                evaluations[here] += fine
                if (step + 1) % check_every and step + 1 < steps:
                    continue
                done = ~fine
                if stops:
                    stored = to_8_bits(images)
                    done |= torch.stack([null.passes(model, stage, stored, target, label) for null, (model, stage), target, label
                                         in zip(stops, members, targets, labels)]).all(0)
                finished[here] = images
                if done.any():
                    for index, was_fine in zip(here[done].tolist(), fine[done].tolist()):
                        status[index] = "passed" if was_fine else "non-finite"
                    keep = ~done
                    here, fine, images = here[keep], fine[keep], images[keep]
                    targets, labels = ([tensor[keep] for tensor in tensors] for tensors in (targets, labels))
                    state = {name: value[keep] for name, value in state.items()}
                shown.update(step + 1 - shown.n)
                shown.set_postfix_str(f"{len(here)} of {count} images in progress")
                if not len(here):
                    break
            for index in here.tolist():
                status[index] = "steps"
        except KeyboardInterrupt:
            finished[here] = images.detach()
    return Metamers(to_8_bits(finished).cpu(), references=None, loss=history.cpu(), evaluations=evaluations.cpu(),
                    status=tuple(status))


def _filled(images, shape):
    """On a CPU, the images with the last one repeated until the kernels are those of any larger batch.

    Kernels are chosen by the size of the batch: convolutions differ for a lone image, strided ones also between even and odd
    batches, and products with a matrix below six rows. The differences are roundings, but a trajectory through ReLUs amplifies
    them, and an image's result would depend on how many others are in the batch.
    """
    if images.device.type != "cpu":
        return images
    count = len(images)
    missing = max(count + count % 2, 8 if len(shape) == 1 else 2) - count
    return torch.cat([images, images[-1:].detach().expand(missing, -1, -1, -1)]) if missing else images


def _not_begun(starts, steps):
    count = len(starts)
    return Metamers(to_8_bits(starts).cpu(), references=None, loss=torch.full((steps, count), float("nan")),
                    evaluations=torch.zeros(count, dtype=torch.int64), status=("interrupted",) * count)


def _rule(optimizer, options):
    """The update rule, its name, and all its options with their values."""
    if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    rule = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    name = optimizer if isinstance(optimizer, str) else getattr(rule, "__name__", "given")
    return rule, name, _all_options(rule, name, options)


def _starts(start, options, references, seed):
    """The starting images, on the device of the references, and all options with their values."""
    if isinstance(start, str):
        if start not in STARTS:
            raise ValueError(f"unknown start {start!r}; choose one of {', '.join(STARTS)}")
        options = _all_options(STARTS[start], start, options)
        return start_images(start, references, seed=seed, **options), options
    if start.shape != references.shape or not (start.min() >= 0 and start.max() <= 1):
        raise ValueError(f"a given start must have the references' shape {tuple(references.shape)} and pixels in [0, 1]")
    return start.to(references), options


def _all_options(function, name, options):
    defaults = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()
                if parameter.kind is parameter.KEYWORD_ONLY}
    if unknown := set(options) - set(defaults):
        raise ValueError(f"{name!r} has no option {', '.join(sorted(unknown))}; its options are {', '.join(defaults) or 'none'}")
    return defaults | options
