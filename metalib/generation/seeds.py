"""Random numbers that depend on an image and a seed, not on what else is in a batch."""

import hashlib

from torch import Generator, Tensor

from metalib.data import to_bytes


def image_generator(reference: Tensor, seed: int) -> Generator:
    """A random generator for one reference (3, H, W).

    It is the same for the same 8-bit image and seed, whatever else is in the batch.
    """
    content = to_bytes(reference.cpu()).contiguous().numpy().tobytes()
    digest = hashlib.sha256(str(int(seed)).encode() + b":" + content).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
