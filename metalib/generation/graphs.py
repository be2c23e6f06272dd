"""Functions of tensors as CUDA graphs: their kernels are recorded once, then started together.

`generate(..., compute=Compute(cuda_graphs=True))` does this with a gradient evaluation. A graph
needs a function whose kernels do not depend on the values in its tensors, and weights that stay in
place in memory.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class Graphed:
    """A function of tensors (B, ...), recorded as CUDA graphs.

    It is recorded once for each of the batch sizes 1, 2, 4, 8, ... that are needed. A batch of
    another size runs in the next larger graph, and the additional rows of the results are dropped.
    On a CPU the function is called as it is.

    Args:
        function: takes and returns tensors (B, ...), each row by itself.

    Raises:
        RuntimeError: on a call, a function that cannot be recorded.
    """

    function: Callable[..., tuple[Tensor, ...]]
    recorded: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], tuple[Tensor, ...]]]

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]):
        self.function, self.recorded = function, {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not inputs[0].is_cuda:
            return self.function(*inputs)
        count = len(inputs[0])
        size = 1 << (count - 1).bit_length()
        if size not in self.recorded:
            self.recorded[size] = self._record([_extended(tensor, size) for tensor in inputs])
        graph, places, results = self.recorded[size]
        for place, tensor in zip(places, inputs):
            place[:count] = tensor
        graph.replay()
        return tuple(result[:count].clone() for result in results)

    def _record(
        self, places: list[Tensor],
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], tuple[Tensor, ...]]:
        """A graph, the tensors that it reads, and those that it writes."""
        graph, side_stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):  # libraries choose and load kernels before recording
            for _ in range(3):
                self.function(*places)
        torch.cuda.current_stream().wait_stream(side_stream)
        try:
            with torch.cuda.graph(graph):
                results = self.function(*places)
        except RuntimeError as error:
            raise RuntimeError(f"this cannot be recorded as a CUDA graph ({error}); "
                               "generate without cuda_graphs") from error
        return graph, places, results


def _extended(tensor: Tensor, size: int) -> Tensor:
    """A copy (size, ...) of a tensor (B, ...), with its last row repeated."""
    return torch.cat([
        tensor, tensor[-1:].expand(size - len(tensor), *tensor.shape[1:])]).contiguous()
