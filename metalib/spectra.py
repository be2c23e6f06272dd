"""Spatial frequencies of images: what starting images and update rules share."""
import functools

import torch


def frequencies(images):
    """Frequencies (H, W // 2 + 1) of the coefficients of `torch.fft.rfft2(images)`, in cycles per pixel.

    That of the mean, 0, is given as the lowest other one, so that powers below zero are finite.
    """
    return _frequencies(*images.shape[-2:], images.device)


@functools.lru_cache(16)  # a GPU would be waited for whenever they are brought there
def _frequencies(height, width, device):
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :])
    return frequency.clamp_min(1 / max(height, width)).to(device)


def falling(images, exponent):
    """Weights (H, W // 2 + 1), frequency to the power of -`exponent`, scaled to a mean square of one."""
    weights = frequencies(images).pow(-exponent)
    return weights / weights.square().mean().sqrt()


def weighed(images, weights):
    """Images (..., H, W) whose Fourier coefficients are multiplied by weights (..., H, W // 2 + 1)."""
    return torch.fft.irfft2(torch.fft.rfft2(images) * weights, s=images.shape[-2:])
