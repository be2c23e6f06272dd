"""Pooling windows of vision: smooth regions of an image that together cover it once.

    windows = log_polar(256, scale=0.5)                          # larger with eccentricity
    windows = log_polar(256, scale=0.5, fixation=(128, -400))    # the gaze is left of the image
    windows = uniform(32, 4)                                     # a grid of four by four
    windows.weights                                              # (n, H, W), summing to one
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metalib.plain import whole

TRANSITION = 0.5  # the share of a window in which it rises and falls
FOVEA = 0.025  # of half the image: the centre of the first ring lies one ring outside


@dataclass(frozen=True, eq=False)  # one object is one key of a cache
class Windows:
    """Pooling windows.

    Attributes:
        weights: (n, H, W) float32, from 0 to 1, which sum to one at every pixel.
        centres: (n, 2), row and column of the centre of mass, in pixels.
        about: how they were laid out, a plain dict.
    """

    weights: Tensor
    centres: Tensor
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self):
        height, width = self.weights.shape[1:]
        return f"<{len(self)} pooling windows of {height} x {width} pixels: {self.about['layout']}>"

    @property
    def diameters(self) -> Tensor:
        """(n,), of circles with the windows' areas, in pixels."""
        return 2 * (self.weights.sum((1, 2)) / math.pi).sqrt()

    def local_means(self, maps: Tensor, factor: int = 1) -> Tensor:
        """Local means (B, C, h, w) of maps (B, C, h, w), which are shrunk by a factor.

        At each pixel they are the means in the windows, weighted as the windows are there.
        """
        cover = self.shrunk(factor).flatten(1).to(maps)
        pooled = maps.flatten(2) @ (cover / cover.sum(1, keepdim=True)).T
        return (pooled @ cover).view_as(maps)

    def shrunk(self, factor: int) -> Tensor:
        """Weights (n, H / factor, W / factor), averaged over squares."""
        return F.avg_pool2d(self.weights[:, None], factor)[:, 0] if factor > 1 else self.weights


def log_polar(
    size: int | tuple[int, int], scale: float, *, aspect: float = 1.0,
    fixation: tuple[float, float] | None = None,
) -> Windows:
    """Windows that grow with the distance from the gaze, those of Freeman & Simoncelli 2011.

    doi:10.1038/nn.2889, equations 9 to 11 of its online methods: products of raised cosines of the
    angle and of the logarithm of the eccentricity. What is inside of the first ring is a window of
    its own, the fovea, if the image reaches there.

    Args:
        size: side of the image in pixels, or (height, width).
        scale: the radial width of a window, at half of its height, over its eccentricity: about
            .25 in V1 and .5 in V2 by that paper.
        aspect: the radial width over the circumferential one.
        fixation: (row, column) of the gaze, in pixels, also outside of the image; None for the
            centre.

    Raises:
        ValueError: a scale or aspect that is not positive, or with which fewer than three windows
            would go round.

    Example:
        >>> len(log_polar(512, 0.5)), len(log_polar(512, 0.5, fixation=(255.5, -400)))
        (111, 11)
    """
    height, width = (size, size) if isinstance(size, int) else size
    for name, side in (("height", height), ("width", width)):
        whole(name, side, 2)
    if not scale > 0 or not aspect > 0:
        raise ValueError(f"scale and aspect are positive, not {scale} and {aspect}")
    around = round(aspect * 2 * math.pi / scale)
    if around < 3:
        raise ValueError(f"with the scale {scale} and the aspect {aspect} only {around} windows "
                         "would go round; take a smaller scale or a larger aspect")
    row, column = fixation or ((height - 1) / 2, (width - 1) / 2)
    rows = torch.arange(height, dtype=torch.float64)[:, None] - row
    columns = torch.arange(width, dtype=torch.float64)[None] - column
    first = max(1, round(FOVEA * min(height, width) / 2))
    octaves = (torch.hypot(rows, columns).clamp_min(1e-9) / first).log2()
    step = 2 * math.log2((scale + math.sqrt(scale ** 2 + 4)) / 2)  # of rings, in octaves
    angle = torch.atan2(rows, columns)
    turn = 2 * math.pi / around
    off = [torch.remainder(angle - turn * (place + 0.25) + math.pi, 2 * math.pi) - math.pi
           for place in range(around)]
    sectors = [_raised_cosine(one / turn) for one in off]
    found = []
    for ring in range(math.ceil(float(octaves.max()) / step) + 1):
        radial = _raised_cosine(octaves / step - (ring + 1))
        if not radial.any():
            continue
        found += [window for sector in sectors if (window := sector * radial).any()]
    return _windows(torch.stack(found), {
        "layout": f"log-polar, scale {scale:g}", "scale": scale, "aspect": aspect,
        "fixation": (row, column)})


def uniform(size: int | tuple[int, int], count: int) -> Windows:
    """A grid of `count` by `count` equal windows: pooling where the gaze is not known.

    Args:
        size: side of the image in pixels, or (height, width).
        count: of windows along a side; 1 is one window with equal weights.

    Raises:
        ValueError: a count that is not whole, or more windows than two pixels each.
    """
    height, width = (size, size) if isinstance(size, int) else size
    whole("count", count, 1, min(height, width) // 2)

    def along(side: int) -> Tensor:
        place = (torch.arange(side, dtype=torch.float64) + 0.5) * count / side - 0.5
        off = place[None] - torch.arange(count, dtype=torch.float64)[:, None]
        weights = _raised_cosine(off)
        return weights / weights.sum(0)

    grid = torch.einsum("ah,bw->abhw", along(height), along(width)).flatten(0, 1)
    return _windows(grid, {"layout": f"uniform, {count} by {count}", "count": count})


def _windows(weights: Tensor, about: dict[str, Any]) -> Windows:
    """Windows from weights (n, H, W) that sum to one at most; what is missing is another one."""
    rest = (1 - weights.sum(0)).clamp_min(0)
    if rest.max() > 1e-6:
        weights = torch.cat([rest[None], weights])
    weights = weights / weights.sum(0)
    mass = weights.sum((1, 2))
    grids = torch.meshgrid(*(torch.arange(side, dtype=weights.dtype)
                             for side in weights.shape[1:]), indexing="ij")
    centres = torch.stack([(weights * grid).sum((1, 2)) / mass for grid in grids], 1)
    return Windows(weights.float(), centres.float(), about)


def _raised_cosine(x: Tensor) -> Tensor:
    """One around zero, falling to zero at (1 + t) / 2; copies one apart sum to one."""
    distance, t = x.abs(), TRANSITION
    falling = torch.cos(np.pi / 2 * (distance - (1 - t) / 2) / t).square()
    return torch.where(distance <= (1 - t) / 2, 1.0, torch.where(
        distance < (1 + t) / 2, falling, 0.0))
