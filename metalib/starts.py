"""Starting images. Each is a function of one reference (3, H, W) and a random generator; `STARTS` names them.

To add one, write such a function and name it in `STARTS`.
"""
import hashlib

import torch


def noise(reference, generator, *, mean=0.5, std=0.05):
    """Gaussian noise around mid-grey, the published start: 0.5 + randn / 20 (Feather et al. 2023, as in their public code)."""
    return mean + std * torch.randn(reference.shape, generator=generator)


def blend(reference, generator, *, fraction=0.5):
    """`fraction` of the reference mixed into 1 - `fraction` of the published noise."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of a blend must be in [0, 1], not {fraction}")
    return fraction * reference + (1 - fraction) * noise(reference, generator)


def perturbation(references, distance, *, seed=0):
    """References changed by Gaussian noise only: the control for metamers at the same distance from their references.

    Args:
        references: (B, 3, H, W) in [0, 1].
        distance: (B,), the root mean square difference to reach after clipping to [0, 1].

    Returns:
        (B, 3, H, W) in [0, 1]; the distance is met to 1e-4, or as far as clipping allows (it cannot exceed about 0.5).
    """
    noises = torch.stack([torch.randn(reference.shape, generator=image_generator(reference, seed)) for reference in references])
    distance = torch.tensor([float(value) for value in distance])
    low, high = torch.zeros(len(references)), torch.full((len(references),), 1e3)
    for _ in range(40):  # bisection on the noise's scale; the distance grows with it
        scale = (low + high) / 2
        images = (references + scale.view(-1, 1, 1, 1) * noises).clamp(0, 1)
        far = (images - references).flatten(1).square().mean(1).sqrt() > distance
        low, high = torch.where(far, low, scale), torch.where(far, scale, high)
    return images


STARTS = {"noise": noise, "blend": blend}


def image_generator(reference, seed):
    """A random generator for one reference: the same for the same 8-bit image and seed, whatever else is in the batch."""
    pixels = (reference.cpu() * 255).round().to(torch.uint8).contiguous().numpy().tobytes()
    digest = hashlib.sha256(str(int(seed)).encode() + b":" + pixels).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def start_images(name, references, *, seed=0, **options):
    """Starting images (B, 3, H, W) in [0, 1] for references (B, 3, H, W), drawn on the CPU and so equal on every device.

    Raises:
        ValueError: unknown name.
    """
    if name not in STARTS:
        raise ValueError(f"unknown start {name!r}; choose one of {', '.join(STARTS)}")
    start = STARTS[name]
    return torch.stack([start(reference, image_generator(reference, seed), **options)
                        for reference in references.cpu()]).clamp(0, 1).to(references.device)
