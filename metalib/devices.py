"""Where to compute: a device by its name, if it is really there."""

from typing import Any

import torch


def device_of(device: Any) -> torch.device:
    """The device of a name such as "cpu", "cuda", "cuda:1" or "mps", or of a torch.device.

    Raises:
        ValueError: no name of a device, or a device that this machine does not have.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
    """
    try:
        if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
            raise TypeError
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{device!r} is no device: give a name such as 'cpu', 'cuda', 'cuda:1' or "
                         "'mps', or leave device out to compute on the CPU") from error
    count = _count(found.type)
    if (found.index or 0) >= count:
        there = (f"there {'is' if count == 1 else 'are'} {count}, from {found.type}:0 on"
                 if count else "torch finds no such hardware, or was built without it")
        raise ValueError(f"there is no {found} device here: {there}; leave device out to compute "
                         "on the CPU")
    return found


def _count(kind: str) -> int:
    """How many devices of a kind there are."""
    if kind == "mps":  # before 2.7, torch.mps does not say whether it is there
        return int(torch.backends.mps.is_available())
    try:
        module = torch.get_device_module(kind)
        return module.device_count() if module.is_available() else 0
    except (RuntimeError, AttributeError):  # kinds that only shape tensors, such as "meta"
        return 0
