"""Spatial frequencies of images, for starting images and update rules."""

import functools

import torch
from torch import Tensor


def frequencies(images: Tensor) -> Tensor:
    """Frequencies (H, W // 2 + 1) of the coefficients of `torch.fft.rfft2(images)`.

    They are in cycles per pixel. The frequency of the mean, 0, is given as 1 / max(H, W), the
    lowest of the others, so that powers below zero are finite.
    """
    return _frequencies(*images.shape[-2:], images.device)


@functools.lru_cache(16)  # copying them to a GPU in each call would make the CPU wait for it
def _frequencies(height: int, width: int, device: torch.device) -> Tensor:
    frequency = torch.hypot(
        torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :])
    return frequency.clamp_min(1 / max(height, width)).to(device)


def falling(images: Tensor, exponent: float) -> Tensor:
    """Weights (H, W // 2 + 1): frequency to the power of -`exponent`, with a mean square of one."""
    weights = frequencies(images).pow(-exponent)
    return weights / weights.square().mean().sqrt()


def weighed(images: Tensor, weights: Tensor) -> Tensor:
    """Images (..., H, W) with Fourier coefficients multiplied by weights (..., H, W // 2 + 1)."""
    return torch.fft.irfft2(torch.fft.rfft2(images) * weights, s=images.shape[-2:])
