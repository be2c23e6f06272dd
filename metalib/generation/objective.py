"""What is lowered: how far an image's activations are from those of its reference.

    groups = grouped(members, jitter, compute, device)           # once for a run
    objective = Objective(groups, references, ...)               # for each batch
    member_losses, loss, value, gradient = objective(images, rows, step)
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metalib.generation.compute import Compute, of_all_ranks
from metalib.generation.graphs import Graphed
from metalib.generation.seeds import image_generator
from metalib.generation.stacked import Stacked, alike
from metalib.models import Model
from metalib.notices import warn


class Criterion(Protocol):
    """What generation asks of a criterion; those of `metalib.evaluation.criterion` have it."""

    def check(self, model: Model, stage: str) -> None:
        """Raise a ValueError unless the criterion is of that stage of that model."""

    def on(self, model: Model) -> "Criterion":
        """The criterion as it is for that model, which may have no classes."""
        ...

    def describe(self) -> dict:
        """A plain dict for the recipe."""
        ...

    def toward(self, model: Model, stage: str, references: Tensor) -> Callable[..., Tensor]:
        """A function of images (b, 3, H, W) and their rows (b,) that says which pass, (b,) bool."""
        ...


class Member(NamedTuple):
    """One of the models that an image is made for.

    Attributes:
        number: its place among all members.
        model, stage: whose activations are matched.
        criterion: by which it counts as matched, or None.
    """

    number: int
    model: Model
    stage: str
    criterion: Criterion | None


class Evaluation(NamedTuple):
    """One gradient evaluation of b images for N members.

    Attributes:
        member_losses: (N, b), the loss of each member by itself.
        loss: (b,), the losses of all members combined.
        value: (b,), what the update rule lowers: the loss, for one member at a stage that ends in
            ReLUs its `matching_loss`, or with a prior the root of the sum of that squared and the
            prior.
        gradient: (b, 3, H, W), of the value.
    """

    member_losses: Tensor
    loss: Tensor
    value: Tensor
    gradient: Tensor


def relative_distance(activations: Tensor, target: Tensor) -> Tensor:
    """The loss (b,) unless another is given: the norm of the difference, by that of the target.

    Feather et al. 2023, doi:10.1038/s41593-023-01442-0, Methods. Both are (b, D).
    """
    difference = torch.linalg.vector_norm(activations - target, dim=1)
    return difference / torch.linalg.vector_norm(target, dim=1)


def matching_loss(before: Tensor, target: Tensor, ceiling: float) -> tuple[Tensor, Tensor]:
    """The loss of which the identity-backward ReLU is the gradient, and its gradient.

    With that ReLU (Feather et al. 2023) the backward pass has not the gradient of the distance, and
    a line search can find no length of a step that lowers it: rules with one stood still at stages
    with many units that are off. It has the gradient of the Fenchel-Young loss of which the ReLU is
    the prediction (Blondel, Martins & Niculae 2020, arXiv:1901.02324, definition 2, with half the
    squared norm between 0 and the ceiling as regulariser), a convex function of what the ReLU
    takes: half the squared distance, plus the sum over units of (activation - target) (before -
    activation). The root of twice that is taken here, by the norm of the target. It is not smaller
    than the relative distance, and both are 0 at a match.

    Args:
        before: (b, D), what the ReLUs take.
        target: (b, D), activations that they are to give.
        ceiling: their largest value, 6 or infinity.

    Returns:
        The loss (b,), by the norm of the target, and its gradient (b, D) with respect to `before`.
    """
    activations = before.clamp(0, ceiling)
    difference, norm = activations - target, torch.linalg.vector_norm(target, dim=1)
    beyond = (difference * (before - activations)).sum(1)
    value = (difference.square().sum(1) + 2 * beyond).sqrt() / norm
    scale = (value * norm.square()).clamp_min(torch.finfo(value.dtype).tiny)
    return value, difference / scale[:, None]


class Objective:
    """The objective of one batch of images.

    Args:
        groups: this rank's members, see `grouped`.
        references: (B, 3, H, W), on the device of the run.
        count: the number of members of all ranks.
        combine: a function of `metalib.generation.combinations`; not called for one member.
        prior: a function of images (b, 3, H, W) that gives a penalty (b,), or None.
        shifts: (B, T, 2), by how much each image is shifted in each evaluation (see
            `window_shifts`), or None.
    """

    def __init__(
        self, groups: Sequence["Group"], references: Tensor, *, count: int, combine: Callable,
        prior: Callable | None = None, shifts: Tensor | None = None,
    ):
        self.groups, self.count, self.combine, self.prior = groups, count, combine, prior
        self.size, self.device, self.shifts = len(references), references.device, shifts
        self.numbers = [member.number for group in groups for member in group.members]
        self.goals = [group.goal(references) for group in groups]

    def __call__(self, images: Tensor, rows: Tensor, step: int) -> Evaluation:
        """Evaluate images (b, 3, H, W), whose places in the batch are `rows` (b,)."""
        losses, values, gradients = [], [], []
        for group, goal in zip(self.groups, self.goals):
            with group.visited() as device:
                target = goal if len(rows) == self.size else goal[rows.to(device)]
                shift = () if self.shifts is None else (self.shifts[rows, step].to(device),)
                loss, value, gradient = group.evaluate(images.to(device), target, *shift)
            losses.append(loss.T.to(self.device))
            values.append(value.T.to(self.device))
            gradients.append(gradient.transpose(0, 1).to(self.device))
        member_losses = of_all_ranks(torch.cat(losses), self.numbers, self.count)
        gradient = of_all_ranks(torch.cat(gradients), self.numbers, self.count)
        if self.count > 1:
            loss, gradient = self.combine(member_losses, gradient)
            value = loss
        else:
            loss, value, gradient = member_losses[0], values[0][0], gradient[0]
        if self.prior is not None:
            value, gradient = _with_prior(self.prior, images, value, gradient)
        return Evaluation(member_losses, loss, value, gradient)


class Agreement:
    """Says which images satisfy every member's criterion.

    Args:
        groups, references, count: as in `Objective`.
    """

    def __init__(self, groups: Sequence["Group"], references: Tensor, *, count: int):
        self.count, self.device = count, references.device
        self.judged = []
        for group in groups:
            with group.visited() as device:
                self.judged += [
                    (member, group, member.criterion.toward(
                        member.model, member.stage, references.to(device)))
                    for member in group.members if member.criterion is not None]

    def __bool__(self) -> bool:
        return bool(self.judged)

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        """Which of the images (b, 3, H, W), whose places in the batch are `rows`, pass: (b,)."""
        passes, numbers = [], []
        for member, group, passed in self.judged:
            with group.visited() as device:
                passes.append(passed(images.to(device), rows.to(device)).to(self.device))
            numbers.append(member.number)
        return of_all_ranks(torch.stack(passes).float(), numbers, self.count).bool().all(0)


class Group:
    """Members that are evaluated together: one, or several of one architecture.

    Args:
        members: more than one only if they are `alike`.
        jitter: the largest shift, in pixels.
        compute: how.
        device: where to bring a model while it is evaluated; None leaves it where it is.
        loss: a function of activations (b, D) and target (b, D) that gives (b,).
        alone: whether this member is the only one, whose `matching_loss` is lowered.
    """

    def __init__(
        self, members: Sequence[Member], jitter: int, compute: Compute,
        device: torch.device | None, loss: Callable[[Tensor, Tensor], Tensor] = relative_distance,
        alone: bool = False,
    ):
        self.members, self.compute, self.jitter, self.loss = members, compute, jitter, loss
        self.model, self.stage = members[0].model, members[0].stage
        several = len(members) > 1
        channels_last = self.model.memory_format == torch.channels_last and not several
        # the default does not tell units apart, and is spared the copy
        self.reordered = (channels_last and len(self.model.shapes[self.stage]) == 3
                          and loss is not relative_distance)
        self.ceiling = self.model.relu_ceilings.get(self.stage) if (
            alone and compute.identity_relu and loss is relative_distance) else None
        self.network = Stacked([member.model for member in members]) if several else self.model
        self.visited = functools.partial(self.model.visiting, device)
        self.evaluate = Graphed(self._evaluate) if compute.cuda_graphs else self._evaluate

    def goal(self, references: Tensor) -> Tensor:
        """The activations (B, n, D) that the n members are to have, those of the references."""
        count, each = len(references), len(self.members)
        with torch.no_grad(), self.visited() as device, self.compute.arithmetic(device):
            copies = references.to(device).repeat(each, 1, 1, 1)
            shown = self.compute.filled(self.model.shapes[self.stage], copies)
            goal = self._activations(shown, False)[:each * count]
        if self.loss is relative_distance and not goal.any():
            warn(f"{self.model.name}, {self.stage}: all references evoke zeros only, to "
                          "which no distance is relative: their losses are undefined; choose "
                          "another stage", RuntimeWarning)
        return goal.unflatten(0, (each, count)).transpose(0, 1)

    def _activations(self, images: Tensor, identity_relu: bool) -> Tensor:
        """Activations (b, D); for a loss that is given, in the order of `Model.activations`.

        With `identity_relu`, for a `matching_loss`, what the ReLUs at the end take.
        """
        if identity_relu and self.ceiling is not None:
            return self.model.unchecked_activations(images, self.stage, before_relu=True)
        found = self.network.unchecked_activations(images, self.stage, identity_relu)
        if not self.reordered:
            return found
        channels, height, width = self.model.shapes[self.stage]
        return found.unflatten(1, (height, width, channels)).movedim(-1, 1).flatten(1)

    def _evaluate(self, images: Tensor, target: Tensor, shift: Tensor | None = None):
        """Losses, values to lower (b, n) and their gradients (b, n, 3, H, W) of b images.

        `target` is (b, n, D); `shift` is (b, 2), see `_shifted`.
        """
        each = len(self.members)
        with self.compute.arithmetic(images.device):
            pixels = images.detach() if each == 1 else images.detach().repeat(each, 1, 1, 1)
            pixels.requires_grad_()
            shown = pixels
            if shift is not None:
                shown = _shifted(pixels, shift.repeat(each, 1), self.jitter)
            shown = self.compute.filled(self.model.shapes[self.stage], shown)
            activations = self._activations(shown, self.compute.identity_relu)
            if len(activations) > len(pixels):  # a slice of all rows would cost a copy going back
                activations = activations[:len(pixels)]
            goal = target.transpose(0, 1).flatten(0, 1)
            if self.ceiling is None:
                loss = value = self.loss(activations, goal).float()
                lowered = loss.sum()
            else:  # these are what the ReLUs take
                before = activations.detach()
                loss = self.loss(before.clamp(0, self.ceiling), goal)
                value, slope = matching_loss(before, goal, self.ceiling)
                lowered = (activations * slope).sum()
            gradient = self._gradient(lowered, pixels)
        gradient = gradient.contiguous()  # one layout, so that rules round alike in every batch
        return (loss.detach().unflatten(0, (each, -1)).T, value.detach().unflatten(0, (each, -1)).T,
                gradient.unflatten(0, (each, -1)).transpose(0, 1))

    def _gradient(self, loss: Tensor, pixels: Tensor) -> Tensor:
        try:
            found = (torch.autograd.grad(loss, pixels, allow_unused=True)[0] if loss.requires_grad
                     else None)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            advice = "; generate without stacked" if len(self.members) > 1 else ""
            raise ValueError(f"{self.model.name}, {self.stage}: the backward pass fails "
                             f"({str(error).splitlines()[0]}){advice}") from error
        if found is None:
            raise ValueError(f"{self.model.name}, {self.stage}: no gradient reaches the pixels; "
                             "check_model(model) says what to mend")
        return found


def grouped(
    members: Sequence[Member], jitter: int, compute: Compute, device: torch.device | None,
    loss: Callable[[Tensor, Tensor], Tensor] = relative_distance, alone: bool = False,
) -> list[Group]:
    """Members as groups: each by itself or, with `compute.stacked`, all that are alike together."""
    kinds = [[k] for k in range(len(members))]
    if compute.stacked:
        kinds = alike([(member.model, member.stage) for member in members])
    return [Group([members[k] for k in kind], jitter, compute, device, loss, alone)
            for kind in kinds]


def check_loss(loss: Callable, name: str, activations: Tensor, target: Tensor) -> None:
    """Raise a ValueError that says what is wrong with a loss, if something is.

    It is tried on three rows, together and one by one.

    Args:
        loss, name: the function, and what to call it.
        activations, target: (1, D), of a starting image and of its reference.
    """
    target = torch.cat([target, target, 1.5 * target])
    rows = torch.cat([activations, (activations + target[:1]) / 2, activations])
    rows, given = rows.requires_grad_(), target.clone()
    try:
        together = loss(rows * 1, target)
        alone = [loss(rows[k:k + 1] * 1, target[k:k + 1]) for k in range(3)]
    except Exception as error:  # the function of a user can raise anything
        raise ValueError(f"the loss {name!r} fails on activations and target of the shape "
                         f"{tuple(rows.shape)}: {type(error).__name__}: {error}") from error
    for value, count in ((together, 3), *((value, 1) for value in alone)):
        if not isinstance(value, Tensor) or value.shape != (count,) or value.is_complex():
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the loss {name!r} must give a number for each of {count} images, a "
                             f"tensor ({count},), not {shape}: take sums and means over dim=1 only")
    if not torch.equal(given, target):
        raise ValueError(f"the loss {name!r} changes the target in place; let it work on a copy")
    if not torch.allclose(together, torch.cat(alone), rtol=1e-3, atol=1e-6, equal_nan=True):
        raise ValueError(f"the loss {name!r} of an image depends on the others in the batch or on "
                         "chance: it must be computed row by row")
    if not together.requires_grad:
        raise ValueError(f"the loss {name!r} has no gradient with respect to the activations")
    gradient, = torch.autograd.grad(together.sum(), rows, allow_unused=True)
    if not (together.isfinite().all() and (together >= 0).all()):
        raise ValueError(f"the loss {name!r} must be finite and not below 0, which stands for a "
                         f"match, but is {together.min().item():.3g} for the first image")
    if gradient is None or not (gradient.isfinite().all() and gradient.any()):
        raise ValueError(f"the gradient of the loss {name!r} is zero or not finite for the first "
                         "image")


def window_shifts(references: Tensor, jitter: int, steps: int, seed: int) -> Tensor:
    """Shifts (B, steps, 2) from 0 to 2 `jitter`, fixed by each image's pixels and the seed."""
    return torch.stack([
        torch.randint(2 * jitter + 1, (steps, 2), generator=image_generator(reference, seed))
        for reference in references])


def _with_prior(
    prior: Callable, images: Tensor, loss: Tensor, gradient: Tensor,
) -> tuple[Tensor, Tensor]:
    """The root of the sum of the squared loss and the prior (b,), and its gradient."""
    pixels = images.detach().requires_grad_()
    penalty = prior(pixels)
    slope, = torch.autograd.grad(penalty.sum(), pixels)
    total = (loss.square() + penalty.detach()).sqrt().clamp_min(1e-30)
    each = (-1, 1, 1, 1)
    return total, (loss.view(each) * gradient + slope / 2) / total.view(each)


def _shifted(images: Tensor, shifts: Tensor, jitter: int) -> Tensor:
    """Images seen through a window that is shifted over their repeated borders.

    `shifts` (b, 2) are from 0 to 2 `jitter`; `jitter` itself is no shift.
    """
    height, width = images.shape[-2:]
    rows, columns = (shifts[:, k, None] + torch.arange(side, device=images.device) - jitter
                     for k, side in enumerate((height, width)))
    each = torch.arange(len(images), device=images.device)[:, None, None]
    rows, columns = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    return images.movedim(1, -1)[each, rows, columns].movedim(-1, 1)
