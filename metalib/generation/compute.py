"""Where and how a gradient evaluation is computed: precision, batches, devices, ranks.

Nothing here changes what is optimised. Options that change roundings say so.
"""

import contextlib
import ctypes
import functools
from dataclasses import dataclass, fields

import torch
from torch import Tensor, distributed

from metalib.plain import fitting, whole

PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True)
class Compute:
    """How a gradient evaluation is computed; an argument of `generate`.

    Attributes:
        precision: of the networks' arithmetic, one of `PRECISIONS`: "float32"; "tf32", faster on
            recent GPUs and nothing elsewhere; "bfloat16" (torch.autocast), faster on some
            processors too, but the match that can be reached is coarse. Criterion and judgement
            are always float32.
        batch_size: images that are optimised together; it bounds the memory, not the result.
        exact_batches: on a CPU, let results be the same bit for bit whatever is in the batch.
            This repeats small images in small batches, and makes a lone image up to eight times
            as slow. With False, roundings depend on the batch.
        identity_relu: at a stage that ends in a ReLU, let the gradient through it unchanged, as
            published (see `Model.unchecked_activations`).
        sequential: of several models, keep only the one that is evaluated on the device of the
            run, and the others where they are.
        stacked: of several models, evaluate those of one architecture at one stage together (see
            `metalib.generation.stacked`). On a CPU this is faster for few small images and slower
            for many (`benchmarks/joint.py`). It needs a copy of their weights, and roundings
            depend on the batch.
        cuda_graphs: on a GPU, record an evaluation once and then start all its kernels together
            (see `metalib.generation.graphs`). Small networks, whose kernels take less time than
            starting them, become several times as fast (`benchmarks/generation.py`); results are
            the same up to roundings. It does nothing elsewhere.

    Raises:
        ValueError: a value of another type, an unknown precision, a batch size below 1, or
            `sequential` together with `stacked` or `cuda_graphs`.
    """

    precision: str = "float32"
    batch_size: int = 128
    exact_batches: bool = True
    identity_relu: bool = True
    sequential: bool = False
    stacked: bool = False
    cuda_graphs: bool = False

    def __post_init__(self):
        for field in fields(self):  # set in this way, since the object is frozen
            value = fitting(field.name, getattr(self, field.name), field.type)
            object.__setattr__(self, field.name, value)
        whole("batch_size", self.batch_size, least=1)
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; "
                             f"choose one of {', '.join(PRECISIONS)}")
        if self.sequential and (self.stacked or self.cuda_graphs):
            raise ValueError(
                "models that are visited one after the other are neither evaluated together nor "
                "recorded: leave out sequential, or both stacked and cuda_graphs")

    def arithmetic(self, device: torch.device) -> contextlib.AbstractContextManager:
        """Deterministic kernels in this precision, for as long as the context lasts."""
        autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        return autocast if device.type == "cpu" else _on_a_gpu(autocast, self.precision == "tf32")

    def filled(self, shape: tuple[int, ...], images: Tensor) -> Tensor:
        """Images as the network is given them, for a stage of this shape: see `exact_batches`."""
        return _filled(shape, images) if self.exact_batches and not self.stacked else images


@contextlib.contextmanager
def _on_a_gpu(autocast, tf32: bool):
    matmul, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    flags = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32)
    with flags, autocast:
        matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            matmul.allow_tf32 = before


def _filled(shape: tuple[int, ...], images: Tensor) -> Tensor:
    """On a CPU, small images with the last one repeated until kernels are those of larger batches.

    Kernels are chosen by the size of the batch: convolutions differ for a lone image, strided
    ones also between even and odd batches, and products with a matrix below six rows. The
    differences are roundings, but a trajectory through ReLUs amplifies them, and an image's result
    would depend on how many others are in the batch. Above 20,480 numbers an image, torch takes
    the same convolutions for any batch.
    """
    if images.device.type != "cpu" or images[0].numel() > 20_480:
        return images
    count = len(images)
    missing = max(count + count % 2, 8 if len(shape) == 1 else 2) - count
    if not missing:
        return images
    return torch.cat([images, images[-1:].detach().expand(missing, -1, -1, -1)])


# --- Processes ----------------------------------------------------------------------------------

def process_rank() -> tuple[int, int]:
    """This process's rank and the number of ranks; 0 of 1 without torch.distributed."""
    spread = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if spread else (0, 1)


def of_all_ranks(rows: Tensor, numbers: list[int], count: int) -> Tensor:
    """Rows (N, ...) of all N = `count` members, on every rank, from those of this rank's members.

    Args:
        rows: (n, ...), of this rank's members, whose `numbers` among all are given.
        numbers, count: see above.

    Returns:
        (N, ...). Other ranks' rows are added to zeros, so that nothing is rounded.
    """
    if numbers == list(range(count)):
        return rows
    everyones = rows.new_zeros(count, *rows.shape[1:])
    everyones[numbers] = rows
    if len(rows) < count:
        distributed.all_reduce(everyones)
    return everyones


def of_any_rank(number: int) -> int:
    """The largest of the numbers that the ranks give; all have to ask at the same point."""
    if process_rank()[1] == 1:
        return number
    largest = torch.tensor(
        number, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def gathered(parts: dict) -> dict:
    """The entries of all ranks' dicts, in the order of their keys."""
    everyones: list = [None] * process_rank()[1]
    distributed.all_gather_object(everyones, parts)
    return dict(sorted(item for rank in everyones for item in rank.items()))


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where glibc (Linux) allocates it.

    Every step frees the activations and asks for as much again. By default large ones are given
    back to the system, which clears every page before it returns: up to half of the time of a step
    (`benchmarks/generation.py`). The most memory that is in use stays about the same; less of it
    is given back in between. mallopt(3): M_MMAP_MAX (-4) of 0, M_TRIM_THRESHOLD (-1) of -1.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another system or allocator
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)
        libc.mallopt(-1, -1)
