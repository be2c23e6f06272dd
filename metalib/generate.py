"""The generation loop: from references to metamers, for one model or several at once.

    metamers = generate(model, images, "group3", steps=200)
    metamers = generate(model, images, "group3", optimizer="published", steps=24_000, stop=null)
    metamers = generate([model, other], images, ["group3", "layer3"], stop=[null, other_null])
"""
import contextlib
import ctypes
import functools
import inspect
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import distributed

from metalib.combinations import COMBINATIONS
from metalib.data import ImageSet, pixels, to_8_bits
from metalib.graphs import Graphed
from metalib.models import Model
from metalib.nulls import NullDistribution
from metalib.optimizers import LINE_SEARCHES, OPTIMIZERS
from metalib.priors import PRIORS
from metalib.progress import bar
from metalib.stacked import Stacked, alike
from metalib.starts import STARTS, image_generator, start_images
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
        member_loss: (T, N, B), the loss of each of the N models by itself.
        evaluations: (B,) int64, gradient evaluations used for each image.
        status: why each image stopped: "steps" (all were done), "passed" (the criterion of `stop`), "non-finite" (its loss
            or gradient was not finite; the image is the last one before that) or "interrupted" (also by `pause`).
        seconds: wall-clock time of the loop.
        recipe: a plain dict of all that is needed to repeat the run.
        unfinished: where an interrupted run stands, for `generate(..., resume=...)`: for each batch that was begun and not
            ended, by its first image, a plain dict of tensors and numbers.
    """
    images: torch.Tensor
    references: torch.Tensor
    starts: torch.Tensor | None = None
    loss: torch.Tensor | None = None
    member_loss: torch.Tensor | None = None
    evaluations: torch.Tensor | None = None
    status: tuple[str, ...] = ()
    seconds: float = float("nan")
    recipe: dict = field(default_factory=dict)
    unfinished: dict = field(default_factory=dict)

    @property
    def interrupted(self):
        """Whether the run was interrupted (Ctrl-C) or paused before all images were done."""
        return "interrupted" in self.status

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        counts = ", ".join(f"{self.status.count(status)} {status}" for status in dict.fromkeys(self.status))
        made = f" of {self.recipe['models']} at {self.recipe['stages']} by {self.recipe['optimizer']}" if self.recipe else ""
        return f"<{len(self)} metamers{made}: {counts or 'made elsewhere'}>"


def generate(model_or_models, images, stage, *, optimizer="spectral_lbfgs", optimizer_options=None, start="noise",
             start_options=None, prior=None, prior_options=None, jitter=0, steps=200, seed=0, stop=None, check_every=5,
             combine="worst", identity_relu=True, precision="float32", batch_size=128, exact_batches=True, device=None,
             sequential=False, stacked=False, cuda_graphs=False, progress=None, pause=None, resume=None):
    """Make metamers: change starting images until the activations at a stage equal those of the references.

    The loss of an image is the Euclidean norm of the difference of its activations from those of its reference, divided by the
    norm of the latter (Feather et al. 2023, doi:10.1038/s41593-023-01442-0, Methods). Every image has its own state and stops by
    itself, so that its result does not depend on the others in the batch.

    With a prior it inverts a representation: of the images with these activations it looks for a natural one. What is lowered then
    is the sum of the squared loss and the prior (Mahendran & Vedaldi 2016, doi:10.1007/s11263-016-0911-8); update rules are given
    its root and the gradient of that. `Metamers.loss` stays the loss without the prior; its square is their normalised error.

    With several models an image is made for all of them at once, and a gradient evaluation is one of every model. Models are
    visited one after the other, at the memory of one; each may live on a device of its own. Where `torch.distributed` is
    initialised (see `metalib.run`) and every rank makes the same call, the models are spread over the ranks, or the images of a
    single model; all ranks return the same Metamers.

    From the first call on a CPU on, a process keeps the memory that it frees, see `keep_freed_memory`.

    Args:
        model_or_models: a Model, or a list of them whose input sizes agree.
        images: the references, an ImageSet or a tensor (B, 3, H, W) in [0, 1].
        stage: name of the stage to match; with several models a list, one per model.
        optimizer: a name in `metalib.optimizers.OPTIMIZERS`, or a function like those there.
        optimizer_options: keywords for it, such as {"learning_rate": 0.02}.
        start: a name in `metalib.starts.STARTS`, or a tensor (B, 3, H, W) in [0, 1].
        start_options: keywords for it, such as {"fraction": 0.3} for "blend".
        prior: a name in `metalib.priors.PRIORS`, or None.
        prior_options: keywords for it, such as {"weight": 0.01}.
        jitter: each evaluation sees the image shifted by up to so many pixels in either direction, at random, its border repeated:
            an image that must match so has fewer artefacts of the network's grid (Mahendran & Vedaldi 2016). The loss
            is that of the shifted image. Not for rules with a line search.
        steps: the number of gradient evaluations per image, at most.
        seed: with a reference's pixels, this fixes its starting image and jitter.
        stop: a NullDistribution (with several models a list): an image is done as soon as it, rounded to 8 bits, passes the
            criterion, which is looked at every `check_every` evaluations. None does all steps.
        check_every: how many evaluations apart images that are done leave the batch.
        combine: how the losses of several models become one, a name in `metalib.combinations.COMBINATIONS`.
        identity_relu: at a stage that ends in a ReLU, let the gradient through it unchanged, as published.
        precision: of the networks' arithmetic, one of `PRECISIONS`: "float32"; "tf32", faster on recent GPUs, nothing
            elsewhere; "bfloat16" (torch.autocast), faster on some processors too, but the match that can be reached is coarse.
            Criterion and judgement are float32 always.
        batch_size: images that are optimised together; it bounds the memory, not the result.
        exact_batches: on a CPU, let results be the same bit for bit whatever is in the batch; this repeats small images in
            small batches, and makes a lone image up to eight times as slow. False leaves roundings to depend on the batch.
        device: where to compute, such as "cuda"; the models are moved there. None leaves them where they are.
        sequential: of several models, have only the one that is visited on `device`, the others where they are.
        stacked: of several models, evaluate those of one architecture at one stage together (see `metalib.stacked`), which is
            faster for few small images and slower for many on a CPU (`benchmarks/joint.py`). Needs a copy of their weights, and
            leaves roundings to depend on the batch.
        cuda_graphs: on a GPU, record an evaluation once and then start all its kernels together (see `metalib.graphs`). Small
            networks, whose kernels take less time than starting them, are several times as fast so (`benchmarks/generation.py`);
            results are the same up to roundings. Nothing elsewhere. Not with `sequential`.
        progress: show a progress bar; None shows one where somebody is watching.
        pause: return, as if interrupted, after so many evaluations of a batch: for a checkpoint, from which `resume` goes on.
        resume: Metamers of the same call that was interrupted: images that were done are kept, the others go on.

    Returns:
        Metamers, on the CPU. An interrupt (Ctrl-C) ends the loop and returns what is done so far.

    Raises:
        ValueError: unknown stage, optimizer, start or prior, jitter in a line search, a null of another model or stage, images that
            a model cannot take, or `resume` of another call.

    Example:
        >>> from metalib import generate, load_images, load_model
        >>> model, images = load_model("zoo/vgg-standard-0"), load_images("cifar10-samples", n=2)
        >>> generate(model, images, "group2", steps=3)
        <2 metamers of ['zoo/vgg-standard-0'] at ['group2'] by spectral_lbfgs: 2 steps>
    """
    models = list(model_or_models) if isinstance(model_or_models, (list, tuple)) else [model_or_models]
    stages = [stage] if isinstance(stage, str) else list(stage)
    stops = [] if stop is None else list(stop) if isinstance(stop, (list, tuple)) else [stop]
    if not models or len(stages) != len(models) or len(stops) not in (0, len(models)):
        raise ValueError(f"{len(models)} models need as many stages and nulls, not {len(stages)} stages and {len(stops)} nulls")
    if min(steps, check_every, batch_size, pause or 1) < 1:
        raise ValueError("steps, check_every, batch_size and pause must be at least 1")
    for choice, what, choices in ((precision, "precision", PRECISIONS), (combine, "combination", COMBINATIONS)):
        if choice not in choices:
            raise ValueError(f"unknown {what} {choice!r}; choose one of {', '.join(choices)}")
    rank, ranks = process_rank()
    if 1 < len(models) < ranks:
        raise ValueError(f"{len(models)} models cannot be spread over {ranks} ranks; start at most {len(models)}")
    mine = range(rank, len(models), ranks) if len(models) > 1 else [0]
    references = pixels(images)
    for model, name in zip(models, stages):
        model.check_stage(name)
        model.check_images(references)
    for null, model, name in zip(stops, models, stages):
        null.check(model, name)
    if device is not None and not sequential:
        for k in mine:
            models[k].to(device)
    if len(models) == 1:
        batch_size = min(batch_size, -(-len(references) // ranks))
    if prior is not None and prior not in PRIORS:
        raise ValueError(f"unknown prior {prior!r}; choose one of {', '.join(PRIORS)}, or None")
    prior_options = _all_options(PRIORS[prior], prior, prior_options or {}) if prior else {}
    rule, rule_name, rule_options = _rule(optimizer, optimizer_options or {})
    if sequential and (stacked or cuda_graphs):
        raise ValueError("models that are visited one after the other are neither evaluated together nor recorded: leave out "
                         "sequential, or both stacked and cuda_graphs")
    if jitter < 0 or jitter and getattr(rule, "func", rule) in LINE_SEARCHES:
        raise ValueError("jitter must be 0 or more pixels, and a line search cannot compare what is seen shifted; "
                         "with jitter choose another rule, such as optimizer='adam'")
    starts, start_options = _starts(start, start_options or {}, images, seed)
    recipe = {
        "models": [model.name for model in models], "stages": stages,
        "optimizer": rule_name, "optimizer_options": rule_options,
        "start": start if isinstance(start, str) else "given", "start_options": start_options,
        "prior": prior, "prior_options": prior_options, "jitter": jitter,
        "steps": steps, "seed": seed, "stop": [null.describe() for null in stops], "check_every": check_every,
        "combine": combine, "identity_relu": identity_relu, "precision": precision, "batch_size": batch_size,
        "exact_batches": exact_batches, "stacked": stacked, "cuda_graphs": cuda_graphs,
        "device": str(device or models[mine[0]].device), "ranks": ranks,
        "versions": {"metalib": __version__, "torch": str(torch.__version__)},
    }
    if resume is not None:
        _check_resumed(resume, recipe, references, starts)

    members = [Member(k, models[k], stages[k], stops[k] if stops else None) for k in mine]
    kinds = alike([(member.model, member.stage) for member in members]) if stacked else [[k] for k in range(len(members))]
    groups = [[members[k] for k in kind] for kind in kinds]
    loop = functools.partial(_optimise, groups, len(models), device=torch.device(device or models[mine[0]].device),
                             rule=functools.partial(rule, **rule_options), steps=steps, check_every=check_every,
                             prior=functools.partial(PRIORS[prior], **prior_options) if prior else None, jitter=jitter, seed=seed,
                             combine=COMBINATIONS[combine], identity_relu=identity_relu, precision=precision, sequential=sequential,
                             filled=_filled if exact_batches and not stacked else lambda _shape, images: images,
                             recorded=Graphed if cuda_graphs else lambda function: function, pause=pause,
                             progress=progress if rank == 0 else False)
    if recipe["device"] == "cpu":
        keep_freed_memory()
    began = time.perf_counter()
    parts, stopped = {}, False
    for number, rows in enumerate(torch.arange(len(references)).split(batch_size)):
        if len(models) == 1 and number % ranks != rank:
            continue  # another rank's
        before = _not_begun(starts[rows], steps, len(models)) if resume is None else _part(resume, rows)
        if before.interrupted and not stopped:
            before = loop(references[rows], starts[rows], before)
            stopped = before.interrupted
        parts[int(rows[0])] = before
    if len(models) == 1 and ranks > 1:
        gathered = [None] * ranks
        distributed.all_gather_object(gathered, parts)
        parts = dict(sorted(item for some in gathered for item in some.items()))
    return Metamers(
        **{name: torch.cat([getattr(part, name) for part in parts.values()], dim)
           for name, dim in (("images", 0), ("loss", 1), ("member_loss", 2), ("evaluations", 0))},
        references=references.cpu(), starts=starts.cpu(), status=sum((part.status for part in parts.values()), ()),
        seconds=time.perf_counter() - began + (resume.seconds if resume is not None else 0), recipe=recipe,
        unfinished={first: part.unfinished for first, part in parts.items() if part.unfinished})


PRECISIONS = ("float32", "tf32", "bfloat16")


class Member(NamedTuple):
    """One of the models that an image is made for: its number among them, the stage to match, and the null to stop by, or None."""
    number: int
    model: Model
    stage: str
    null: NullDistribution | None


def _optimise(groups, count_members, references, starts, before, *, device, rule, steps, check_every, combine, prior, jitter, seed,
              identity_relu, precision, sequential, filled, recorded, pause, progress):
    """Optimise one batch. Images that are done leave it; on a GPU nothing is read back between two checks.

    `groups` are the lists of members of this rank that are evaluated together, of `count_members` of all ranks. `before` is where
    to begin. `position` is where the loop stands; it changes as a whole, after each step, so that an interrupt never falls in
    between.
    """
    shifts = jitter and torch.stack([torch.randint(2 * jitter + 1, (steps, 2), generator=image_generator(reference, seed))
                                     for reference in references]).to(device)
    references, starts = references.to(device), starts.to(device)
    count = len(starts)
    finished, history, by_member, evaluations = (
        tensor.to(device) for tensor in (before.images, before.loss, before.member_loss, before.evaluations))
    status = list(before.status)
    position = _moved(before.unfinished, device) if before.unfinished else {
        "step": 0, "images": starts, "state": {}, "here": torch.arange(count, device=device),  # which images are in the batch
        "fine": torch.ones(count, dtype=torch.bool, device=device)}  # of those, which have had finite losses only
    until = steps if pause is None else min(steps, position["step"] + pause)
    visited = functools.partial(_visited, device=device if sequential else None)
    evaluations_of, goals, exact, labels = [], [], {}, {}
    for group in groups:
        (_, model, stage, _), each = group[0], len(group)
        network = model if each == 1 else Stacked([member.model for member in group])
        evaluations_of.append(recorded(functools.partial(
            _evaluate, network, stage, each, jitter, identity_relu, precision, functools.partial(filled, model.shapes[stage]))))
        with torch.no_grad(), visited(model) as there:
            seen = references.to(there)
            with _arithmetic(precision, there):
                goal = network.unchecked_activations(filled(model.shapes[stage], seen.repeat(each, 1, 1, 1)), stage)[:each * count]
            goals.append(goal.unflatten(0, (each, count)).transpose(0, 1))
            for member in group:
                if member.null is not None:
                    exact[member.number] = member.model.activations(seen, stage)
                    labels[member.number] = member.model.answer(seen)
    members = sum(groups, [])

    def objective(images, here, step):
        losses, gradients = [], []
        for group, evaluate, goal in zip(groups, evaluations_of, goals):
            with visited(group[0].model) as there:
                shift = (shifts[here, step].to(there),) if jitter else ()
                target = goal if len(here) == count else goal[here.to(there)]
                loss, gradient = evaluate(images.to(there), target, *shift)
            losses.append(loss.T.to(device))
            gradients.append(gradient.transpose(0, 1).to(device))
        losses, gradients = together(torch.cat(losses)), together(torch.cat(gradients))
        return losses, *(combine(losses, gradients) if count_members > 1 else (losses[0], gradients[0]))

    def passed(images, here):
        passes = []
        for number, model, stage, null in members:
            with visited(model) as there:
                rows = here.to(there)
                passes.append(null.passes(model, stage, images.to(there), exact[number][rows], labels[number][rows]).to(device))
        return together(torch.stack(passes).float()).bool().all(0)

    def together(own):
        """Rows of all members (N, ...) on every rank, of those of this rank's. A sum with zeros, so that nothing is rounded."""
        numbers = [member.number for member in members]
        if numbers == list(range(count_members)):
            return own
        whole = own.new_zeros(count_members, *own.shape[1:])
        whole[numbers] = own
        if len(own) < count_members:
            distributed.all_reduce(whole)
        return whole

    with bar(steps, "metamers", progress) as shown:
        try:
            while len(position["here"]) and position["step"] < until:
                step, images, state, here, fine = position.values()
                state = dict(state)
                losses, loss, gradient = objective(images, here, step)
                fine = fine & (loss + torch.linalg.vector_norm(gradient.flatten(1), torch.inf, dim=1)).isfinite()
                total, slope = _with_prior(prior, images, loss, gradient) if prior else (loss, gradient)
                new = rule(images, slope, total, state, step, steps).clamp(0, 1)
                images = torch.where(fine.view(-1, 1, 1, 1), new, images)
                history[step].index_copy_(0, here, loss)
                by_member[step].index_copy_(1, here, losses)
                evaluations.index_copy_(0, here, torch.where(fine, step + 1, evaluations[here]))
                if (step + 1) % check_every == 0 or step + 1 == steps:
                    done = ~fine
                    if exact:
                        done |= passed(to_8_bits(images), here)
                    finished[here] = images
                    if done.any():
                        for index, was_fine in zip(here[done].tolist(), fine[done].tolist()):
                            status[index] = "passed" if was_fine else "non-finite"
                        images, here, fine = images[~done], here[~done], fine[~done]
                        state = {name: value[~done] for name, value in state.items()}
                    shown.update(step + 1 - shown.n)
                    shown.set_postfix_str(f"{len(here)} of {count} images in progress")
                position = dict(zip(position, (step + 1, images, state, here, fine)))
        except KeyboardInterrupt:
            if process_rank()[1] > 1:
                raise  # the other ranks would wait for this one
    here, step = position["here"], position["step"]
    if step < steps and len(here):
        finished[here] = position["images"]
        history[step:, here] = by_member[step:, :, here] = float("nan")
        evaluations[here[position["fine"]]] = step
    else:
        for index in here.tolist():
            status[index] = "steps"
        position = {}
    return Metamers(to_8_bits(finished).cpu(), references=None, loss=history.cpu(), member_loss=by_member.cpu(),
                    evaluations=evaluations.cpu(), status=tuple(status), unfinished=_moved(position, "cpu"))


def _evaluate(network, stage, each, jitter, identity_relu, precision, filled, images, target, shift=None):
    """One gradient evaluation of `each` models that are evaluated together.

    Args:
        network: a Model, or Stacked ones.
        images, target, shift: (B, 3, H, W), (B, each, D), and with jitter (B, 2), see `_shifted`.

    Returns:
        loss (B, each) and its gradient (B, each, 3, H, W)
    """
    with _arithmetic(precision, images.device):
        pixels = (images.detach() if each == 1 else images.detach().repeat(each, 1, 1, 1)).requires_grad_()
        shown = _shifted(pixels, shift.repeat(each, 1), jitter) if jitter else pixels
        activations = network.unchecked_activations(filled(shown), stage, identity_relu)
        if len(activations) > len(pixels):  # a slice of all rows would cost a copy of them on the way back
            activations = activations[:len(pixels)]
        target = target.transpose(0, 1).flatten(0, 1)
        loss = torch.linalg.vector_norm(activations - target, dim=1) / torch.linalg.vector_norm(target, dim=1)
        gradient, = torch.autograd.grad(loss.sum(), pixels)
    gradient = gradient.contiguous()  # one layout, so that rules round alike in every batch
    return loss.detach().unflatten(0, (each, -1)).T, gradient.unflatten(0, (each, -1)).transpose(0, 1)


def _with_prior(prior, images, loss, gradient):
    """The root of the sum of the squared loss and the prior (B,), and its gradient (B, 3, H, W)."""
    pixels = images.detach().requires_grad_()
    penalty = prior(pixels)
    slope, = torch.autograd.grad(penalty.sum(), pixels)
    total = (loss.square() + penalty.detach()).sqrt().clamp_min(1e-30)
    each = (-1, 1, 1, 1)
    return total, (loss.view(each) * gradient + slope / 2) / total.view(each)


def _shifted(images, shifts, jitter):
    """Images seen through a window that is shifted by shifts (B, 2), from 0 to 2 `jitter`, over their repeated borders."""
    height, width = images.shape[-2:]
    rows, columns = (shifts[:, k, None] + torch.arange(side, device=images.device) - jitter
                     for k, side in enumerate((height, width)))
    each = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images.movedim(1, -1)[each, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    return moved.movedim(-1, 1)


def process_rank():
    """This process's rank and the number of ranks; 0 of 1 where torch.distributed is not initialised."""
    here = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if here else (0, 1)


@contextlib.contextmanager
def _visited(model, device):
    """A model where it is, or for as long as this lasts on a device; gives the device."""
    home = model.device
    if device is None:
        yield home
        return
    try:
        yield model.to(device).device
    finally:
        model.to(home)


def _arithmetic(precision, device):
    """Deterministic kernels in the precision asked for; what was set before is set again afterwards."""
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    return autocast if device.type == "cpu" else _on_a_gpu(autocast, precision == "tf32")


@contextlib.contextmanager
def _on_a_gpu(autocast, tf32):
    matmul, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32), autocast:
        matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            matmul.allow_tf32 = before


@functools.cache
def keep_freed_memory():
    """Let this process keep the memory that it frees, where glibc (Linux) allocates it; elsewhere nothing changes.

    Every step frees the activations and asks for as much again. By default large ones are given back to the system, which clears
    every page before it returns: up to half of the time of a step (`benchmarks/generation.py`). The most memory that is in use
    stays about the same; less of it goes back in between. mallopt(3): M_MMAP_MAX (-4) of 0, M_TRIM_THRESHOLD (-1) of -1.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another system, or another allocator
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)
        libc.mallopt(-1, -1)


def _moved(position, device):
    """A position of the loop, on a device."""
    return {name: {key: value.to(device, copy=True) for key, value in part.items()} if name == "state" else
            part if name == "step" else part.to(device) for name, part in position.items()}


def _part(metamers, rows):
    """Some rows of an interrupted run: one of its batches, with where that stands if it was begun and not ended."""
    return Metamers(metamers.images[rows], references=None, loss=metamers.loss[:, rows],
                    member_loss=metamers.member_loss[:, :, rows], evaluations=metamers.evaluations[rows],
                    status=tuple(metamers.status[row] for row in rows.tolist()),
                    unfinished=metamers.unfinished.get(int(rows[0]), {}))


def _check_resumed(resume, recipe, references, starts):
    """Raise a ValueError unless `resume` comes from the same call."""
    if resume.starts is None or not resume.recipe:
        raise ValueError("these metamers were made elsewhere and cannot be resumed")
    different = [key for key in recipe if key != "device" and recipe[key] != resume.recipe.get(key)]
    different += [name for name, mine, theirs in (("images", references, resume.references), ("start", starts, resume.starts))
                  if mine.shape != theirs.shape or not torch.equal(mine.cpu(), theirs)]
    if different:
        raise ValueError(f"a run is resumed with the arguments that it was begun with; these differ: {', '.join(different)}")


def _filled(shape, images):
    """On a CPU, small images with the last one repeated until the kernels are those of any larger batch.

    Kernels are chosen by the size of the batch: convolutions differ for a lone image, strided ones also between even and odd
    batches, and products with a matrix below six rows. The differences are roundings, but a trajectory through ReLUs amplifies
    them, and an image's result would depend on how many others are in the batch. Above 20,480 numbers an image torch takes the
    same convolutions for any batch.
    """
    if images.device.type != "cpu" or images[0].numel() > 20_480:
        return images
    count = len(images)
    missing = max(count + count % 2, 8 if len(shape) == 1 else 2) - count
    return torch.cat([images, images[-1:].detach().expand(missing, -1, -1, -1)]) if missing else images


def _not_begun(starts, steps, members):
    count = len(starts)
    return Metamers(to_8_bits(starts).cpu(), references=None, loss=torch.full((steps, count), float("nan")),
                    member_loss=torch.full((steps, members, count), float("nan")),
                    evaluations=torch.zeros(count, dtype=torch.int64), status=("interrupted",) * count)


def _rule(optimizer, options):
    """The update rule, its name, and all its options with their values."""
    if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    rule = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    name = optimizer if isinstance(optimizer, str) else getattr(rule, "__name__", "given")
    return rule, name, _all_options(rule, name, options)


def _starts(start, options, images, seed):
    """The starting images, on the device of the references, and all options with their values, as plain as a recipe is."""
    if isinstance(start, str):
        if start not in STARTS:
            raise ValueError(f"unknown start {start!r}; choose one of {', '.join(STARTS)}")
        options = _all_options(STARTS[start], start, options)
        plain = {key: f"{value.name}, SHA-256 {value.sha256}" if isinstance(value, ImageSet) else value
                 for key, value in options.items()}
        return start_images(start, images, seed=seed, **options), plain
    references = pixels(images)
    if start.shape != references.shape or not (start.min() >= 0 and start.max() <= 1):
        raise ValueError(f"a given start must have the references' shape {tuple(references.shape)} and pixels in [0, 1]")
    return start.to(references), options


def _all_options(function, name, options):
    defaults = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()
                if parameter.kind is parameter.KEYWORD_ONLY}
    if unknown := set(options) - set(defaults):
        raise ValueError(f"{name!r} has no option {', '.join(sorted(unknown))}; its options are {', '.join(defaults) or 'none'}")
    return defaults | options
