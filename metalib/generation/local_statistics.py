"""Noise that is given the local statistics of an image, in the bands of a steerable pyramid."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metalib.models.texture import OPPONENT, plenoptic_parts, scales_of
from metalib.models.windows import Windows, log_polar, uniform

LEAST = 1e-6  # standard deviation of a band below which noise is not scaled up to it


def matched(
    reference: Tensor, noise: Tensor, windows: Windows, scales: int | None = None,
    orientations: int = 4,
) -> Tensor:
    """Noise (3, H, W) with the local means and deviations of a reference (3, H, W) in each band."""
    deepest = scales_of(windows, scales)
    pyramid = _pyramid(tuple(reference.shape[1:]), deepest, orientations)
    colours = torch.tensor(OPPONENT).to(reference)
    ours, theirs = (pyramid(torch.einsum("kc,chw->khw", colours, one)[None])
                    for one in (noise, reference))
    for name, band in ours.items():
        level: Any = {"residual_highpass": 0, "residual_lowpass": deepest}.get(name, name)
        maps = [one.flatten(1, -3) if one.ndim == 5 else one for one in (band, theirs[name])]
        (mean, spread), (wanted, target) = (_moments(one, windows, 2 ** level) for one in maps)
        scaled = (maps[0] - mean) * torch.where(spread > LEAST, target / spread, 0.0) + wanted
        ours[name] = scaled.view_as(band)
    made = torch.linalg.solve(colours, pyramid.recon_pyr(ours)[0].flatten(1)).view_as(reference)
    return made + windows.local_means((reference - made)[None])[0]  # bands have changed it a little


def _moments(maps: Tensor, windows: Windows, factor: int) -> tuple[Tensor, Tensor]:
    """Local means and standard deviations of maps (1, C, h, w)."""
    mean = windows.local_means(maps, factor)
    return mean, windows.local_means((maps - mean).square(), factor).clamp_min(0).sqrt()


@functools.lru_cache(maxsize=8)
def _pyramid(sides: tuple[int, int], scales: int, orientations: int) -> Any:
    return plenoptic_parts().SteerablePyramidFreq(
        sides, height=scales, order=orientations - 1, is_complex=False)


def layout_of(
    sides: tuple[int, ...], scale: float | None, fixation: Sequence[float] | None, count: int,
) -> Windows:
    """Log-polar windows of a scale around a gaze, or without a scale a uniform grid."""
    return _layout(sides, scale, None if fixation is None else tuple(fixation), count)


@functools.lru_cache(maxsize=8)
def _layout(sides: Any, scale: float | None, fixation: Any, count: int) -> Windows:
    return uniform(sides, count) if scale is None else log_polar(sides, scale, fixation=fixation)
