"""The loop: evaluate, step, project, record, let finished images leave.

    record = Record.begin(starts, steps, members)
    record = optimise(record, starts, objective, rule, passed, steps=200, check_every=5)

Every image has its own row in all that is kept, so that its trajectory does not depend on the
others. On a GPU nothing is read back between two checks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metalib.data import to_8_bits
from metalib.generation.compute import process_rank
from metalib.generation.metamers import Metamers, Position
from metalib.generation.objective import Agreement, Evaluation, Objective


@dataclass
class Record:
    """What is known of each image of a batch, and where those stand that are not done.

    Attributes:
        images: (B, 3, H, W), as they were when they left the batch.
        loss, member_loss, evaluations, status: as in `Metamers`.
        position: of the images that are not done; None if all are, or none was begun.
    """

    images: Tensor
    loss: Tensor
    member_loss: Tensor
    evaluations: Tensor
    status: list[str]
    position: Position | None = None

    @classmethod
    def begin(cls, starts: Tensor, steps: int, members: int) -> "Record":
        """A batch of which nothing is done."""
        count = len(starts)
        return cls(starts.cpu(), torch.full((steps, count), float("nan")),
                   torch.full((steps, members, count), float("nan")),
                   torch.zeros(count, dtype=torch.int64), ["interrupted"] * count)

    @classmethod
    def of(cls, metamers: Metamers, rows: Tensor) -> "Record":
        """The batch of some rows of a run that was interrupted."""
        if metamers.loss is None or metamers.member_loss is None or metamers.evaluations is None:
            raise ValueError("these metamers were made elsewhere and cannot be resumed")
        return cls(metamers.images[rows], metamers.loss[:, rows], metamers.member_loss[:, :, rows],
                   metamers.evaluations[rows], [metamers.status[row] for row in rows.tolist()],
                   metamers.unfinished.get(int(rows[0])))

    @property
    def interrupted(self) -> bool:
        """Whether images are left to be done."""
        return "interrupted" in self.status

    def to(self, device: torch.device | str) -> "Record":
        """The same record on a device."""
        position = self.position and self.position.to(device, copy=True)
        return Record(self.images.to(device), self.loss.to(device), self.member_loss.to(device),
                      self.evaluations.to(device), list(self.status), position)

    def note(self, position: Position, found: Evaluation, finite: Tensor) -> None:
        """Write down what an evaluation found."""
        self.loss[position.step].index_copy_(0, position.rows, found.loss)
        self.member_loss[position.step].index_copy_(1, position.rows, found.member_losses)
        used = torch.where(finite, position.step + 1, self.evaluations[position.rows])
        self.evaluations.index_copy_(0, position.rows, used)

    def leave(self, position: Position, done: Tensor) -> Position:
        """Keep all images as they are; those that are done leave."""
        self.images[position.rows] = position.images
        if not done.any():
            return position
        for row, finite in zip(position.rows[done].tolist(), position.finite[done].tolist()):
            self.status[row] = "passed" if finite else "non-finite"
        state = {name: value[~done] for name, value in position.state.items()}
        return Position(position.step, position.images[~done], state, position.rows[~done],
                        position.finite[~done])

    def close(self, position: Position, steps: int) -> None:
        """End after the last step, or note where to go on."""
        if position.step < steps and len(position.rows):
            self.images[position.rows] = position.images
            self.loss[position.step:, position.rows] = float("nan")
            self.member_loss[position.step:, :, position.rows] = float("nan")
            self.evaluations[position.rows[position.finite]] = position.step
            self.position = position
        else:
            for row in position.rows.tolist():
                self.status[row] = "steps"
            self.position = None


def optimise(
    record: Record, starts: Tensor, objective: Objective, rule: Callable, passed: Agreement, *,
    steps: int, check_every: int, pause: int | None = None,
    report: Callable[[Position], object] = lambda _position: None,
) -> Record:
    """Optimise a batch until all of its images are done, or a pause or an interrupt (Ctrl-C).

    Args:
        record: of the batch, where to begin.
        starts: (B, 3, H, W), on the device of the run.
        objective, passed: what is lowered, and which images are done.
        rule: an update rule, see `metalib.generation.optimizers`.
        steps, check_every, pause: as in `generate`.
        report: is called with the position after each step.

    Returns:
        Record, on the CPU.
    """
    record = record.to(starts.device)
    rows, finite = (torch.arange(len(starts), device=starts.device),
                    torch.ones(len(starts), dtype=torch.bool, device=starts.device))
    position = record.position or Position(0, starts, {}, rows, finite)
    until = steps if pause is None else min(steps, position.step + pause)
    try:
        while len(position.rows) and position.step < until:
            position = advance(position, record, objective, rule, passed, steps, check_every)
            report(position)  # it changes as a whole, so that an interrupt never falls in between
    except KeyboardInterrupt:
        if process_rank()[1] > 1:
            raise  # the other ranks would wait for this one
    record.close(position, steps)
    return record.to("cpu")


def advance(
    position: Position, record: Record, objective: Objective, rule: Callable, passed: Agreement,
    steps: int, check_every: int,
) -> Position:
    """Evaluate, step, project, record, and let finished images leave."""
    found = objective(position.images, position.rows, position.step)
    steepest = torch.linalg.vector_norm(found.gradient.flatten(1), torch.inf, dim=1)
    finite = position.finite & (found.value + steepest).isfinite()
    state = dict(position.state)
    images = rule(position.images, found.gradient, found.value, state, position.step, steps)
    images = torch.where(finite.view(-1, 1, 1, 1), images.clamp(0, 1), position.images)
    record.note(position, found, finite)
    position = Position(position.step + 1, images, state, position.rows, finite)
    if position.step % check_every and position.step < steps:
        return position
    done = ~position.finite
    if passed:
        done |= passed(to_8_bits(position.images), position.rows)
    return record.leave(position, done)
