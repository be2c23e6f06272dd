"""From references to metamers, for one model or several at once.

    metamers = generate(model, images, "group3", steps=200)
    metamers = generate(model, images, "group3", optimizer="published", steps=24_000, stop=null)
    metamers = generate([model, other], images, ["group3", "layer3"], stop=[null, other_null])
"""

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metalib.data import ImageSet, to_8_bits
from metalib.generation import arguments
from metalib.generation.arguments import Request
from metalib.generation.compute import (
    PRECISIONS,
    Compute,
    gathered,
    keep_freed_memory,
    of_any_rank,
    process_rank,
)
from metalib.generation.interrupts import received
from metalib.generation.loop import Record, optimise, stored_steps
from metalib.generation.metamers import Metamers, Position, Progress
from metalib.generation.objective import Agreement, Group, Objective, grouped, window_shifts
from metalib.models import Model
from metalib.progress import bar

__all__ = ["PRECISIONS", "Metamers", "Progress", "generate", "keep_freed_memory", "process_rank"]


@arguments.with_old_keywords
def generate(
    model_or_models: Model | Sequence[Model], images: ImageSet | Tensor,
    stage: str | Sequence[str], *, optimizer: Any = "spectral_lbfgs", start: Any = "noise",
    prior: Any = None, jitter: int = 0, steps: int = 200, seed: int = 0, stop: Any = None,
    check_every: int = 5, combine: str = "worst", device: str | torch.device | None = None,
    compute: Compute = Compute(), progress: bool | None = None,  # noqa: B008, it is frozen
    pause: int | None = None, resume: Metamers | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None, store_every: int | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> Metamers:
    """Make metamers: change starting images until a stage's activations equal the references'.

    The loss of an image is the Euclidean norm of the difference of its activations from those of
    its reference, divided by the norm of the latter (Feather et al. 2023,
    doi:10.1038/s41593-023-01442-0, Methods). Every image has its own state and stops by itself, so
    that its result does not depend on the others in the batch.

    With a prior it inverts a representation: of the images with these activations it looks for a
    natural one. What is lowered then is the sum of the squared loss and the prior (Mahendran &
    Vedaldi 2016, doi:10.1007/s11263-016-0911-8); update rules are given its root and the gradient
    of that. `Metamers.loss` stays the loss without the prior; its square is their normalised error.

    With several models an image is made for all of them at once, and a gradient evaluation is one
    of every model. Models are visited in turn, at the memory of one; each may live on a device of
    its own. Where `torch.distributed` is initialised (see `metalib.runs.recipe`) and every rank
    makes the same call, the models are spread over the ranks, or the images of a single model; all
    ranks return the same Metamers.

    From the first call on a CPU on, a process keeps the memory that it frees, see
    `metalib.generation.compute.keep_freed_memory`.

    Args:
        model_or_models: a Model, or a list of them whose input sizes agree.
        images: the references, an ImageSet or a tensor (B, 3, H, W) in [0, 1].
        stage: name of the stage to match; with several models a list, one per model.
        optimizer: a name in `metalib.generation.optimizers.OPTIMIZERS`, or a function like those
            there; with options as a pair, such as ("adam", {"learning_rate": 0.02}).
        start: a name in `metalib.generation.starts.STARTS`, with options as a pair, such as
            ("blend", {"fraction": 0.3}); or a tensor (B, 3, H, W) in [0, 1].
        prior: a name in `metalib.generation.priors.PRIORS`, with options as a pair, such as
            ("natural", {"weight": 0.01}); or None.
        jitter: each evaluation sees the image shifted by up to so many pixels in either direction,
            at random, its border repeated. An image that must match so has fewer artefacts of the
            network's grid (Mahendran & Vedaldi 2016). The loss is that of the shifted image. Not
            for rules with a line search.
        steps: the number of gradient evaluations per image, at most.
        seed: with a reference's pixels, this fixes its starting image and jitter.
        stop: a NullDistribution or a Criterion (with several models a list): an image is done as
            soon as it, rounded to 8 bits, passes. None does all steps.
        check_every: how many evaluations apart images that are done leave the batch.
        combine: how the losses of several models become one, a name in
            `metalib.generation.combinations.COMBINATIONS`. "against" divides models: the first one
            is matched, and the others are to tell the image from its reference.
        device: where to compute, such as "cuda"; the models are moved there. None leaves them
            where they are.
        compute: precision, batch size and the like, see `Compute`.
        progress: show a progress bar; None shows one where somebody is watching.
        pause: return, as if interrupted, after so many evaluations of a batch: for a checkpoint,
            from which `resume` goes on.
        resume: Metamers of the same call that was interrupted: images that were done are kept, the
            others go on.
        loss: an objective of your own in place of the one above: a function of `activations` and
            `target`, the reference's, both (b, D) with units in the order of `Model.activations`,
            that gives (b,): the loss of each image by itself, 0 at a match and never below. It is
            tried at the start. `Metamers.loss` is this loss then, and the prior is added to its
            square. `stop` is not affected. The recipe has its name, and a hash of its code, which
            `resume` compares.
        store_every: keep the images after each so many evaluations, and after the last: see
            `Metamers.history`. This takes S B 3 H W bytes, of one batch on the device and of all
            on the CPU: 20 images of 224 x 224 pixels, 200 steps and `store_every=10` take 60 MB.
        callback: a function that is called with a `Progress` (see there) at each check, thus every
            `check_every` evaluations of a batch and after its last one. If it returns True,
            the run ends as if interrupted, and can be resumed; so it does, with a warning, if it
            raises an error. With several ranks each calls it, any of them may end the run, and an
            error is an error.

    Returns:
        Metamers, on the CPU. An interrupt (Ctrl-C) ends the loop and returns what is done so far;
        with several ranks it is an error, but see `metalib.runs.recipe`.

    Raises:
        ValueError: unknown stage, optimizer, start or prior, numbers or options that are none, a
            device that is not there, jitter in a line search, a null of another model or stage,
            images that a model cannot take, a loss that is not one, or `resume` of another call or
            of other weights, normalisation or code of a model. Nothing has been moved or computed
            then, but for a loss. Or a stage through which no gradient passes.

    Warns:
        RuntimeWarning: all references evoke nothing but zeros, so that losses are undefined.

    Example:
        >>> from metalib import generate, load_images, load_model
        >>> model, images = load_model("zoo/vgg-standard-0"), load_images("cifar10-samples", n=2)
        >>> generate(model, images, "group2", steps=3)
        <2 metamers of ['zoo/vgg-standard-0'] at ['group2'] by spectral_lbfgs: 2 steps>
    """
    request = arguments.checked(
        model_or_models, images, stage, optimizer=optimizer, start=start, prior=prior,
        jitter=jitter, steps=steps, seed=seed, stop=stop, check_every=check_every,
        combine=combine, device=device, compute=compute, pause=pause, resume=resume, loss=loss,
        store_every=store_every, callback=callback)
    request.bring_models()
    began = time.perf_counter()
    records = _records(request, request.pause, resume, progress, callback)
    parts = [records[first] for first in sorted(records)]
    return Metamers(
        images=to_8_bits(torch.cat([part.images for part in parts])),
        references=request.references.cpu(), starts=request.starts.cpu(),
        loss=torch.cat([part.loss for part in parts], 1),
        member_loss=torch.cat([part.member_loss for part in parts], 2),
        evaluations=torch.cat([part.evaluations for part in parts]),
        status=tuple(status for part in parts for status in part.status),
        seconds=time.perf_counter() - began + (resume.seconds if resume is not None else 0),
        recipe=request.recipe,
        frames=torch.cat([part.frames for part in parts], 1) if request.store_every else None,
        history_steps=(torch.tensor(stored_steps(request.steps, request.store_every))
                       if request.store_every else None),
        unfinished={first: part.position for first, part in records.items()
                    if part.position is not None},
        files=images.files if isinstance(images, ImageSet) else ())


def _records(
    request: Request, pause: int | None, resume: Metamers | None, progress: bool | None,
    callback: Callable[[Progress], object] | None,
) -> dict[int, Record]:
    """The record of each batch, of all ranks, by the number of its first image."""
    rank, ranks = process_rank()
    alone = len(request.members) == 1
    groups = grouped(request.rank_members, request.jitter, request.compute,
                     request.device if request.compute.sequential else None, request.loss, alone)
    records, stopped, watcher = {}, False, Watcher(request, callback)
    batches = torch.arange(len(request.references)).split(request.compute.batch_size)
    for number, rows in enumerate(batches):
        if alone and number % ranks != rank:
            continue  # another rank's
        record = (Record.of(resume, rows, request.store_every) if resume is not None
                  else Record.begin(request.starts[rows], request.steps, len(request.members),
                                    request.store_every))
        if record.interrupted and not stopped:
            with bar(request.steps, "metamers", progress if rank == 0 else False) as progress_bar:
                record = _optimised(request, groups, record, rows, pause,
                                    partial(watcher, progress_bar, rows))
            stopped = record.interrupted or watcher.stopped
        records[int(rows[0])] = record
    return gathered(records) if alone and ranks > 1 else records


def _optimised(
    request: Request, groups: Sequence[Group], record: Record, rows: Tensor, pause: int | None,
    report: Callable[[Position, Record], object],
) -> Record:
    """The record of a batch, continued from where it stands."""
    references, starts = (images[rows].to(request.device)
                          for images in (request.references, request.starts))
    shifts = None
    if request.jitter:
        shifts = window_shifts(
            references, request.jitter, request.steps, request.seed).to(request.device)
    count = len(request.members)
    objective = Objective(groups, references, count=count, combine=request.combine,
                          prior=request.prior, shifts=shifts)
    return optimise(
        record, starts, objective, request.rule, Agreement(groups, references, count=count),
        steps=request.steps, check_every=request.check_every, pause=pause, report=report)


class Watcher:
    """Shows where a batch stands, and tells the callback: on a GPU at checks, when it is read.

    Args:
        request: what is carried out.
        callback: as in `generate`.

    Attributes:
        stopped: whether the callback or a signal (see `metalib.generation.interrupts`) has ended
            the run. Ranks that go step by step together agree on that, at checks.
    """

    def __init__(self, request: Request, callback: Callable[[Progress], object] | None):
        self.request, self.callback, self.stopped = request, callback, False
        self.together = process_rank()[1] > 1 and len(request.members) > 1

    def __call__(self, progress_bar: Any, rows: Tensor, position: Position, record: Record) -> bool:
        """Report on the batch of `rows`; whether the run is to end."""
        step = position.step
        checked = step % self.request.check_every == 0 or step == self.request.steps
        if checked:
            loss = record.loss[step - 1]
            if not progress_bar.disable:
                progress_bar.set_postfix_str(self._in_words(loss, record), refresh=False)
            if self.callback is not None:
                self.stopped = self._called(
                    Progress(step, rows, to_8_bits(record.images), loss.clone()))
        progress_bar.update(step - progress_bar.n)
        if checked or not self.together:
            ended = self.stopped or received() > 0
            self.stopped = bool(of_any_rank(ended)) if self.together else ended
        return self.stopped

    def _in_words(self, loss: Tensor, record: Record) -> str:
        """The loss and, if there is a criterion, how many images have passed."""
        words = f"median loss {loss.nanmedian().item():.3g}"
        if self.request.recipe["stop"]:
            words += f", {record.status.count('passed')} of {len(record.status)} passed"
        return words

    def _called(self, progress: Progress) -> bool:
        """Whether the callback ends the run."""
        assert self.callback is not None
        try:
            answer = self.callback(progress)
            kind = str(getattr(answer, "dtype", type(answer).__name__))
            return kind in ("bool", "torch.bool") and bool(answer)  # also of NumPy and torch
        except Exception as error:  # the function of a user can raise anything
            if process_rank()[1] > 1:
                raise
            warnings.warn(f"the callback failed ({type(error).__name__}: {error}), and the run "
                          "ended as if it was interrupted: resume= goes on with it",
                          RuntimeWarning, stacklevel=2)
            return True
