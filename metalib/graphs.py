"""Functions of tensors as CUDA graphs: all their kernels are recorded once, and then started together.

`generate(..., cuda_graphs=True)` does so with a gradient evaluation. A graph needs a function whose kernels do not depend on
numbers in its tensors, and weights that stay where they are.
"""
import torch


class Graphed:
    """A function of tensors that have the batch as their first dimension, and so have its results.

    It is recorded once for batches of 1, 2, 4, 8, ...; a batch between two of these runs in the larger one, whose other rows are
    not read. On a CPU the function is called as it is.

    Args:
        function: takes and returns tensors (B, ...), each row by itself.
    """

    def __init__(self, function):
        self.function, self.recorded = function, {}

    def __call__(self, *inputs):
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

    def _record(self, places):
        """A graph, the tensors that it reads, and those that it writes."""
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries choose and load their kernels before they are recorded
            for _ in range(3):
                self.function(*places)
        torch.cuda.current_stream().wait_stream(aside)
        try:
            with torch.cuda.graph(graph):
                results = self.function(*places)
        except RuntimeError as error:
            raise RuntimeError(f"this cannot be recorded as a CUDA graph ({error}); generate without cuda_graphs") from error
        return graph, places, results


def _extended(tensor, size):
    """A copy (size, ...) of a tensor, its last row repeated."""
    return torch.cat([tensor, tensor[-1:].expand(size - len(tensor), *tensor.shape[1:])]).contiguous()
