"""The loop: evaluate, step, project, record, let finished images leave.

    record = Record.begin(starts, steps, members)
    record = optimise(record, starts, objective, rule, passed, steps=200, check_every=5)

Every image has its own row in all that is kept, so that its trajectory does not depend on the
others. On a GPU nothing is read back between two checks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metalib.data import to_8_bits, to_bytes
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
        frames, every: (S, B, 3, H, W) uint8, the images after each `every` evaluations and after
            the last one; S is 0 without `store_every`.
    """

    images: Tensor
    loss: Tensor
    member_loss: Tensor
    evaluations: Tensor
    status: list[str]
    position: Position | None
    frames: Tensor
    every: int

    @classmethod
    def begin(
        cls, starts: Tensor, steps: int, members: int, store_every: int | None = None,
    ) -> "Record":
        """A batch of which nothing is done."""
        count, stored = len(starts), len(stored_steps(steps, store_every))
        first = to_bytes(starts.cpu())
        return cls(starts.cpu(), torch.full((steps, count), float("nan")),
                   torch.full((steps, members, count), float("nan")),
                   torch.zeros(count, dtype=torch.int64), ["interrupted"] * count, None,
                   first.repeat(stored, *[1] * first.ndim), store_every or steps)

    @classmethod
    def of(cls, metamers: Metamers, rows: Tensor, store_every: int | None = None) -> "Record":
        """The batch of some rows of a run that was interrupted."""
        if metamers.loss is None or metamers.member_loss is None or metamers.evaluations is None:
            raise ValueError("these metamers were made elsewhere and cannot be resumed")
        steps = len(metamers.loss)
        frames = metamers.images.new_zeros(0, len(metamers), dtype=torch.uint8)
        return cls(metamers.images[rows], metamers.loss[:, rows], metamers.member_loss[:, :, rows],
                   metamers.evaluations[rows], [metamers.status[row] for row in rows.tolist()],
                   metamers.unfinished.get(int(rows[0])),
                   (frames if metamers.frames is None else metamers.frames)[:, rows],
                   store_every or steps)

    @property
    def interrupted(self) -> bool:
        """Whether images are left to be done."""
        return "interrupted" in self.status

    def to(self, device: torch.device | str) -> "Record":
        """The same record on a device."""
        position = self.position and self.position.to(device, copy=True)
        return replace(
            self, images=self.images.to(device), loss=self.loss.to(device),
            member_loss=self.member_loss.to(device), evaluations=self.evaluations.to(device),
            status=list(self.status), position=position, frames=self.frames.to(device))

    def note(self, position: Position, found: Evaluation, finite: Tensor) -> None:
        """Write down what an evaluation found."""
        self.loss[position.step].index_copy_(0, position.rows, found.loss)
        self.member_loss[position.step].index_copy_(1, position.rows, found.member_losses)
        used = torch.where(finite, position.step + 1, self.evaluations[position.rows])
        self.evaluations.index_copy_(0, position.rows, used)

    def store(self, position: Position, steps: int) -> None:
        """Keep the images for the history, if it is time."""
        if len(self.frames) and (position.step % self.every == 0 or position.step == steps):
            self.frames[(position.step - 1) // self.every].index_copy_(
                0, position.rows, to_bytes(position.images))

    def _store_last(self, position: Position, rows: Tensor) -> None:
        """From here on, the history shows images that go no further as they are now."""
        if len(self.frames):
            self.frames[position.step // self.every:, rows] = to_bytes(self.images[rows])

    def leave(self, position: Position, done: Tensor) -> Position:
        """Keep all images as they are; those that are done leave."""
        self.images[position.rows] = position.images
        if not done.any():
            return position
        self._store_last(position, position.rows[done])
        for row, finite in zip(position.rows[done].tolist(), position.finite[done].tolist()):
            self.status[row] = "passed" if finite else "non-finite"
        state = {name: value[~done] for name, value in position.state.items()}
        return Position(position.step, position.images[~done], state, position.rows[~done],
                        position.finite[~done])

    def close(self, position: Position, steps: int) -> None:
        """End after the last step, or note where to go on."""
        if position.step < steps and len(position.rows):
            self.images[position.rows] = position.images
            for row in position.rows.tolist():
                self.status[row] = "interrupted"  # also where an interrupt fell into `leave`
            self._store_last(position, position.rows)
            self.loss[position.step:, position.rows] = float("nan")
            self.member_loss[position.step:, :, position.rows] = float("nan")
            self.evaluations[position.rows[position.finite]] = position.step
            self.position = position
        else:
            for row in position.rows.tolist():
                self.status[row] = "steps"
            self.position = None


def stored_steps(steps: int, every: int | None) -> list[int]:
    """After which evaluations the history keeps the images; none without `every`."""
    return [*range(every, steps, every), steps] if every else []


def optimise(
    record: Record, starts: Tensor, objective: Objective, rule: Callable, passed: Agreement, *,
    steps: int, check_every: int, pause: int | None = None,
    report: Callable[[Position, Record], object] = lambda _position, _record: None,
) -> Record:
    """Optimise a batch until all of its images are done, or a pause or an interrupt (Ctrl-C).

    Args:
        record: of the batch, where to begin.
        starts: (B, 3, H, W), on the device of the run.
        objective, passed: what is lowered, and which images are done.
        rule: an update rule, see `metalib.generation.optimizers`.
        steps, check_every, pause: as in `generate`.
        report: is called with the position and the record after each step; what is true ends the
            run, as an interrupt does.

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
            # it changes as a whole, so that an interrupt never falls in between
            if report(position, record):
                break
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
    record.store(position, steps)
    if position.step % check_every and position.step < steps:
        return position
    done = ~position.finite
    if passed:
        done |= passed(to_8_bits(position.images), position.rows)
    return record.leave(position, done)
