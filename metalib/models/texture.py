"""A model of early human vision: statistics of textures, pooled in windows.

    model = texture_model(log_polar(256, scale=0.5), natural)
    texforms = metalib.generate(model, images, "statistics", steps=500)

Portilla & Simoncelli 2000 (doi:10.1023/A:1026553619983) describe a texture by statistics of the
coefficients of a steerable pyramid; Freeman & Simoncelli 2011 (doi:10.1038/nn.2889) pool them in
windows that grow with eccentricity, as a model of V2; Long et al. 2018
(doi:10.1073/pnas.1719616115) and Deza et al. 2019 make texforms with it, with the gaze beside the
image. The pyramid is plenoptic's.
"""

import functools
import importlib
import math
import types
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalib.data import ImageSet, pixels
from metalib.models.model import Model
from metalib.models.windows import Windows
from metalib.models.wrap import wrap_model
from metalib.plain import whole

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
LEAST_VARIANCE = 1e-12
OPPONENT = (LUMINANCE, (0.5, -0.5, 0.0), (-0.25, -0.25, 0.5))  # and red-green, blue-yellow


class PooledStatistics(nn.Module):
    """Statistics of images in windows: (B, windows x statistics).

    They are those of plenoptic's PortillaSimoncelli, in its order, with averages weighted by each
    window in place of those over the image; with one window of equal weights they are the same.
    Moments are about the local mean: at each pixel the windows' means, weighted as the windows are
    there. Variances of pixels are corrected for the window's effective number of pixels, and its
    smallest and largest pixel are sought where its weight is at least half of the largest.

    Args:
        windows: of the size of the images.
        scales, orientations: of the pyramid.
        width: of the square of displacements of autocorrelations, odd, in pixels of each scale.
        least: statistics of a window at a scale are left out where it has fewer effective pixels
            (1 / sum of its squared normalised weights) there.
        grain: windows are constant over squares of so many pixels of the image, a power of two,
            which makes pooling fast; 1 keeps them as they are.

    Raises:
        ValueError: sides that cannot be halved so often, a width that is even, or windows that are
            all too small.
    """

    pixels: Tensor
    inside: Tensor
    kept: Tensor

    def __init__(
        self, windows: Windows, scales: int = 4, orientations: int = 4, width: int = 7,
        least: float = 16.0, grain: int = 4,
    ):
        super().__init__()
        sides = tuple(windows.weights.shape[1:])
        if any(side % 2 ** max(scales, int(math.log2(grain))) for side in sides):
            raise ValueError(f"{sides[0]} x {sides[1]} pixels cannot be halved {scales} times")
        if whole("width", width, 1) % 2 == 0:
            raise ValueError(f"width is odd, not {width}")
        self.scales, self.orientations, self.reach, self.grain = (
            scales, orientations, width // 2, grain)
        self.pyramid = plenoptic_parts().SteerablePyramidFreq(
            sides, height=scales, order=orientations - 1, is_complex=True)
        size = []
        for level in range(scales + 1):
            cover = windows.shrunk(2 ** level * self._side(level)).flatten(1)
            self.register_buffer(f"cover{level}", cover, persistent=False)
            weights = cover.double() / cover.double().sum(1, keepdim=True)
            self.register_buffer(f"weights{level}", weights.float().T.contiguous(),
                                 persistent=False)
            size.append(self._side(level) ** 2 / weights.square().sum(1))
        self.register_buffer("pixels", size[0], persistent=False)
        peak = self.cover(0).amax(1, keepdim=True)
        self.register_buffer("inside", self.cover(0) >= peak / 2, persistent=False)
        kept = torch.cat([size[level][None].expand(count, -1) >= least
                          for level, count in self._levels()]).T
        if not kept.any():
            raise ValueError("all windows are too small for any statistic; take fewer, larger ones")
        self.register_buffer("kept", kept.flatten().nonzero().flatten(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Statistics (B, D) of images (B, 1, H, W)."""
        coefficients = self.pyramid(images)
        bands = [coefficients[level][:, 0] for level in range(self.scales)]  # (B, O, h, w)
        lowpass = coefficients["residual_lowpass"]
        coefficients["residual_lowpass"] = lowpass - lowpass.mean((-2, -1), keepdim=True)
        pixel = self._of_pixels(images)
        lows = [self._centred(one, level) for level, one in enumerate(
            self._lowpass_at_each_scale(coefficients))]
        magnitudes = [self._centred(band.abs(), level) for level, band in enumerate(bands)]
        variances, low_variances = ([self._variance(maps, level)
                                     for level, maps in enumerate(each)]
                                    for each in (magnitudes, lows))
        moments = [self._skew_and_kurtosis(*each, pixel[..., 1:2], level)
                   for level, each in enumerate(zip(lows, low_variances))]
        parts = [
            pixel, self._autocorrelations(magnitudes, variances),
            *(torch.cat(each, -1) for each in zip(*moments)),
            self._autocorrelations(lows, low_variances),
            torch.cat([variance.sqrt() for variance in low_variances], -1),
            self._across_orientations(magnitudes, variances),
            torch.stack([variance.sqrt() for variance in variances], -1).flatten(2)]
        if self.scales > 1:
            parts += self._across_scales(bands, magnitudes, variances)
        parts.append(self._mean(coefficients["residual_highpass"].square(), 0))
        return torch.cat(parts, -1).flatten(1).index_select(1, self.kept)

    def _levels(self) -> list[tuple[int, int]]:
        """In the order of the statistics: the scale whose windows pool them, and how many."""
        shifts, o = len(self._shifts()), self.orientations
        scales, lows = range(self.scales), range(self.scales + 1)
        found = [(0, 6), *[(s, 1) for _ in range(shifts * o) for s in scales],
                 *[(s, 1) for s in lows] * 2, *[(s, 1) for _ in range(shifts) for s in lows],
                 *[(s, 1) for s in lows],
                 *[(s, 1) for _ in range(o * (o - 1) // 2) for s in scales],
                 *[(s, 1) for _ in range(o) for s in scales]]
        if self.scales > 1:
            found += [(s, 1) for _ in range(3 * o * o) for s in scales[:-1]]
        return [*found, (0, 1)]

    def _shifts(self) -> list[tuple[int, int]]:
        """Displacements whose opposites are left out, in plenoptic's order."""
        reach = self.reach
        square = [(a, b) for a in range(2 * reach + 1) for b in range(2 * reach + 1)
                  if b < a or a == b < reach]
        return [(a - reach, b - reach) for a, b in square]

    # --- Pooling ----------------------------------------------------------------------------------

    def _side(self, level: int) -> int:
        """Of the squares over which windows are constant, in pixels of a scale."""
        return max(1, self.grain // 2 ** level)

    def cover(self, level: int) -> Tensor:
        """Windows (n, squares of the scale), which sum to one in each square."""
        return getattr(self, f"cover{level}")

    def _mean(self, maps: Tensor, level: int) -> Tensor:
        """Means in windows, (B, n, C), of maps (B, C, h, w)."""
        side, weights = self._side(level), getattr(self, f"weights{level}").to(maps.dtype)
        flat = (F.avg_pool2d(maps, side) if side > 1 else maps).flatten(2)
        return (flat @ weights).transpose(1, 2)

    def _variance(self, centred: Tensor, level: int) -> Tensor:
        """Of centred maps; not below what single precision can tell from none."""
        return self._mean(centred.square(), level).clamp_min(LEAST_VARIANCE)

    def _centred(self, maps: Tensor, level: int) -> Tensor:
        """Maps (B, C, h, w) without their local means."""
        side, (height, width) = self._side(level), maps.shape[2:]
        local = self._mean(maps, level).transpose(1, 2) @ self.cover(level).to(maps.dtype)
        local = local.unflatten(2, (height // side, width // side))
        if side > 1:
            local = local.repeat_interleave(side, 2).repeat_interleave(side, 3)
        return maps - local

    # --- Statistics, (B, n, number) ---------------------------------------------------------------

    def _of_pixels(self, images: Tensor) -> Tensor:
        """Mean, variance, skew, kurtosis, smallest and largest pixel."""
        pixels = self.pixels.to(images.dtype)[:, None]
        centred, side = self._centred(images, 0), self._side(0)
        third, fourth = (self._mean(centred ** power, 0) for power in (3, 4))
        variance = self._variance(centred, 0) * pixels / (pixels - 1)
        extremes = [sign * F.max_pool2d(sign * images, side).flatten(1)[:, None].masked_fill(
            ~self.inside, -math.inf).amax(-1, keepdim=True) for sign in (-1, 1)]
        return torch.cat([self._mean(images, 0), variance, third / variance ** 1.5,
                          fourth / variance ** 2, *extremes], -1)

    def _lowpass_at_each_scale(self, coefficients: Any) -> list[Tensor]:
        """The image below each scale, from fine to coarse, in the size of the scale."""
        image = self.pyramid.recon_pyr(coefficients, levels=["residual_lowpass"])
        found = [image]
        for level in range(self.scales - 1, -1, -1):
            image = image + self.pyramid.recon_pyr(coefficients, levels=[level])
            found.append(image)
        return [plenoptic_parts().shrink(one, 2 ** level) * 4 ** level if level else one
                for level, one in enumerate(reversed(found))]

    def _autocorrelations(self, scales: Sequence[Tensor], variances: Sequence[Tensor]) -> Tensor:
        """Of centred maps (B, C, h, w) at each scale; displacement, map, scale."""
        found = [torch.stack([self._mean(maps * maps.roll(shift, (-2, -1)), level) / variance
                              for shift in self._shifts()], 2)
                 for level, (maps, variance) in enumerate(zip(scales, variances))]
        return torch.stack(found, -1).flatten(2)

    def _skew_and_kurtosis(
        self, low: Tensor, variance: Tensor, of_pixels: Tensor, level: int,
    ) -> tuple[Tensor, Tensor]:
        """Of a centred image below a scale; 0 and 3 where it hardly varies."""
        third, fourth = (self._mean(low ** power, level) for power in (3, 4))
        flat = variance / of_pixels < torch.finfo(low.dtype).resolution
        return (torch.where(flat, 0.0, third / variance ** 1.5),
                torch.where(flat, 3.0, fourth / variance ** 2))

    def _across_orientations(
        self, magnitudes: Sequence[Tensor], variances: Sequence[Tensor],
    ) -> Tensor:
        """Correlations of the magnitudes of two orientations; pair, scale."""
        pairs = [(a, b) for a in range(self.orientations) for b in range(a)]
        first, second = zip(*pairs) if pairs else ((), ())
        return torch.stack([
            self._mean(maps[:, first] * maps[:, second], level)
            / (variance[..., first] * variance[..., second]).sqrt()
            for level, (maps, variance) in enumerate(zip(magnitudes, variances))], -1).flatten(2)

    def _across_scales(
        self, bands: Sequence[Tensor], magnitudes: Sequence[Tensor], variances: Sequence[Tensor],
    ) -> list[Tensor]:
        """Correlations with the next coarser scale, of magnitudes and of parts; pair, scale."""
        of_magnitudes, of_parts = [], []
        for level in range(self.scales - 1):
            doubled = plenoptic_parts().expand(bands[level + 1], 2) / 4.0
            doubled = plenoptic_parts().modulate_phase(doubled, 2)
            size, real = self._centred(doubled.abs(), level), bands[level].real
            of_magnitudes.append(self._correlations(
                magnitudes[level], size, variances[level], level))
            of_parts.append(self._correlations(
                real, torch.cat([doubled.real, doubled.imag], 1), self._variance(real, level),
                level))
        return [torch.stack(each, -1).flatten(2) for each in (of_magnitudes, of_parts)]

    def _correlations(self, a: Tensor, b: Tensor, variance: Tensor, level: int) -> Tensor:
        """(B, n, C K), of maps (B, C, h, w), with their variances (B, n, C), and (B, K, h, w)."""
        products = self._mean((a[:, :, None] * b[:, None]).flatten(1, 2), level)
        other = self._variance(b, level)
        return products / (variance[..., :, None] * other[..., None, :]).flatten(2).sqrt()


class Standardised(nn.Module):
    """Numbers (B, D) less their means, over their standard deviations, among natural images."""

    mean: Tensor
    std: Tensor

    def __init__(self, values: Tensor):
        super().__init__()
        std = values.std(0)
        self.register_buffer("mean", values.mean(0))
        self.register_buffer("std", std.clamp_min(1e-3 * std[std > 0].median()))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std


class Colours(nn.Module):
    """Grey images (B, 1, H, W) of luminance, or of luminance and two opponent colours in turn."""

    matrix: Tensor

    def __init__(self, colour: bool):
        super().__init__()
        self.register_buffer("matrix", torch.tensor(OPPONENT if colour else OPPONENT[:1]))

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("kc,bchw->bkhw", self.matrix, images).flatten(0, 1)[:, None]


class EachColour(nn.Module):
    """Statistics of each colour channel, one after the other: (B, channels x D)."""

    def __init__(self, statistics: PooledStatistics, channels: int):
        super().__init__()
        self.statistics, self.channels = statistics, channels

    def forward(self, images: Tensor) -> Tensor:
        return self.statistics(images).unflatten(0, (-1, self.channels)).flatten(1)


def scales_of(windows: Windows, scales: int | None) -> int:
    """How many scales a pyramid has: as many as leave 8 pixels, 4 at most, unless it is said."""
    if scales is not None:
        return scales
    return max(1, min(4, int(math.log2(min(windows.weights.shape[1:]) / 8))))


def texture_model(
    windows: Windows, natural: ImageSet | Tensor | None = None, *, scales: int | None = None,
    orientations: int = 4, width: int | None = None, colour: bool = False, least: float = 16.0,
    grain: int | None = None, name: str | None = None,
) -> Model:
    """Texture statistics in pooling windows as a Model with one stage, "statistics".

    Its metamers are texforms. It has no classes, so that a criterion asks for the activations only.

    Args:
        windows: of the size of the images.
        natural: images (B, 3, H, W), some hundred at least, among which each statistic is
            standardised. Without them statistics are as published, in units that differ: those with
            large numbers (kurtosis) then weigh most in the loss, and all images are similar.
        scales, width: as in `PooledStatistics`; by default as many scales as leave 8 pixels, 4 at
            most, and displacements of 7 pixels, or 5 below 64.
        orientations, least: as in `PooledStatistics`.
        colour: take statistics of two opponent colours beside the luminance. The published model
            is of grey images; this is an extension.
        grain: as in `PooledStatistics`; by default 4 from 128 pixels on, 1 below.
        name: of the model in tables.

    Raises:
        ValueError: as `PooledStatistics`, or images that are not of the windows' size.
        ImportError: plenoptic is not installed.

    Example:
        >>> from metalib.models.windows import uniform
        >>> texture_model(uniform(64, 2)).stages
        ('statistics',)
    """
    sides: Any = tuple(windows.weights.shape[1:])
    scales = scales_of(windows, scales)
    statistics = PooledStatistics(
        windows, scales, orientations, width or (7 if min(sides) >= 64 else 5), least,
        grain or (4 if min(sides) >= 128 else 1))
    pooled, last = nn.Sequential(Colours(colour), EachColour(statistics, 3 if colour else 1)), None
    if natural is not None:
        images = pixels(natural)
        if tuple(images.shape[2:]) != sides:
            raise ValueError(f"the natural images have {tuple(images.shape[2:])} pixels, and the "
                             f"windows {sides}")
        with torch.no_grad():
            last = Standardised(torch.cat([
                pooled(some) for some in images.expand(-1, 3, -1, -1).split(20)]))
    network = nn.Sequential(OrderedDict(pooled=pooled, statistics=last or nn.Identity()))
    return wrap_model(
        network, stages=["statistics"], mean=(0.0,) * 3, std=(1.0,) * 3, input_size=sides,
        classes=False, name=name or f"texture/{windows.about['layout']}",
        card={"windows": windows.about, "scales": scales, "orientations": orientations,
              "colour": colour})


@functools.cache
def plenoptic_parts() -> types.SimpleNamespace:
    """What is used of plenoptic, under one name."""
    try:
        pyramid = importlib.import_module("plenoptic.process.steerable_pyramid_freq")
        signal = importlib.import_module("plenoptic.process.signal")
    except ModuleNotFoundError as error:
        raise ImportError("the texture model needs plenoptic: pip install 'metalib[texture]', or "
                          "pip install plenoptic") from error
    return types.SimpleNamespace(
        SteerablePyramidFreq=pyramid.SteerablePyramidFreq, shrink=signal.shrink,
        expand=signal.expand, modulate_phase=signal.modulate_phase)
