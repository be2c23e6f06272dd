"""Inner products of pairs of long rows, in blocks that a given memory can hold.

    with Rows(count, width, memory) as rows:
        rows.write(0, some)                           # in memory, or in a temporary file
        products(rows, first, second, change=metrics.standardise)
"""

import math
import tempfile
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

FLOAT = 4  # bytes
WORK = 60  # bytes of `metrics.ranks` and `standardise` for each number that they take
DENSE = 0.1  # share of a block's pairs from which on it is faster to compute all of them
MOST = 250e6  # bytes that all products of a block may take


class Rows:
    """Rows (count, width) of float32: in memory if they take up to half of it, else in a file.

    The file is a temporary one, which is gone with the block `with Rows(...) as rows`.

    Args:
        count, width: how many rows of how many numbers.
        memory: bytes that may be in use at a time, these rows included.
        device: where rows are in memory, and where `read` puts them.
    """

    def __init__(
        self, count: int, width: int, memory: float, device: torch.device | str = "cpu",
    ):
        size = FLOAT * count * width
        self.count, self.width, self.device = count, width, device
        self._values: Any = None
        self._file: Any = None
        if size <= memory / 2:
            self._values = torch.empty(count, width, device=device)
            memory -= size
        else:
            self._file = tempfile.TemporaryFile()
        # an eighth of the room is for work on few rows, the rest for two blocks
        self.few = max(1, int(memory / 8 / (WORK * width)))
        self.block = max(1, min(count, int(memory * 7 / 8 / (2 * FLOAT * width))))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, start: int, values: Tensor) -> None:
        """Store rows (n, width) from row `start` on.

        Raises:
            OSError: no space for the file; the message says where.
        """
        if self._file is None:
            self._values[start:start + len(values)] = values
            return
        try:
            self._file.seek(FLOAT * start * self.width)
            self._file.write(values.contiguous().cpu().numpy().data)
            self._file.flush()
        except OSError as error:
            raise OSError(
                f"no space for {FLOAT * self.count * self.width / 1e9:.1f} GB of activations in "
                f"{tempfile.gettempdir()} ({error.strerror}): name another folder in the "
                "environment variable TMPDIR, allow more memory, or take fewer images") from error

    def read(self, start: int, stop: int) -> Tensor:
        """Rows (n, width), a copy."""
        stop = min(stop, self.count)
        if self._file is None:
            return self._values[start:stop].clone()
        found = np.empty((stop - start, self.width), np.float32)
        self._file.seek(FLOAT * start * self.width)
        self._file.readinto(found.reshape(-1).data)
        return torch.from_numpy(found).to(self.device)

    def change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put in the place of each row what a function of rows (n, width) makes of it."""
        for start in range(0, self.count, self.few):
            self.write(start, change(self.read(start, start + self.few)))


def products(
    rows: Rows, first: Tensor, second: Tensor,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Inner products of pairs of different rows.

    Args:
        rows: the Rows.
        first, second: (pairs,), numbers of rows.
        change: a function of rows (n, width), whose values take the place of the rows.

    Returns:
        (pairs,). They do not depend on the memory but for rounding.
    """
    def block(start: int) -> Tensor:
        found = rows.read(start, start + rows.block)
        if change is not None:
            for some in found.split(rows.few):
                some.copy_(change(some))
        return found

    code = torch.minimum(first, second) * rows.count + torch.maximum(first, second)
    code, place = code.unique(return_inverse=True)  # sorted
    low, high = code // rows.count, code % rows.count
    found = torch.empty(len(code), device=code.device)
    for top in range(0, rows.count, rows.block):
        begin, end = torch.searchsorted(
            low, torch.tensor([top, top + rows.block], device=low.device)).tolist()
        upper = block(top) if begin < end else torch.empty(0)
        for left in range(top, rows.count, rows.block) if begin < end else ():
            inside = (high[begin:end] >= left) & (high[begin:end] < left + rows.block)
            if inside.any():
                lower = upper if left == top else block(left)
                found[begin:end][inside] = _products(
                    upper, lower, low[begin:end][inside] - top, high[begin:end][inside] - left)
    return found[place]


def _products(a: Tensor, b: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Inner products (pairs,) of rows of a and b; pairs are sorted, and none is there twice.

    Where they are few, the product of matrices is sampled at the pairs.
    """
    if len(first) >= DENSE * len(a) * len(b) and FLOAT * len(a) * len(b) <= MOST:
        return (a @ b.T)[first, second]
    starts = torch.zeros(len(a) + 1, dtype=torch.int64, device=a.device)
    starts[1:] = torch.bincount(first, minlength=len(a)).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")  # that it is in beta state
        at_pairs = torch.sparse_csr_tensor(
            starts, second, torch.zeros(len(second), device=a.device, dtype=a.dtype),
            size=(len(a), len(b)), check_invariants=True)
        return torch.sparse.sampled_addmm(at_pairs, a, b.T, beta=0).values()


def images_at_once(shapes: list[tuple[int, ...]], memory: float, most: int) -> int:
    """How many images may go through a network together: an eighth of the memory, for some layers.

    Args:
        shapes: of one image, at all stages that it passes.
        memory: bytes.
        most: images.
    """
    largest = max(math.prod(shape) for shape in shapes)
    return max(1, min(most, int(memory / 8 / (8 * FLOAT * largest))))
