"""Foveated style transfer: in windows around a gaze, the features of noise in place of an image's.

Deza, Jonnalagadda & Eckstein 2018 (arXiv:1705.10041) make metamers of peripheral vision in one
pass: an encoder's features of noise are given, in each pooling window, the mean and standard
deviation that those of the image have there (Huang & Belongie 2017, arXiv:1703.06868), the more of
them replace the image's own the larger the window is, and a decoder makes an image of the result.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from metalib.generation.decoder import Autoencoder
from metalib.models.windows import Windows

DEGREES = 26  # of the visual field that an image spans in the paper
STEEPNESS = 1.281  # of the share of texture, for each degree of a window's radius
LEAST = 1e-6  # standard deviation of noise below which it is not scaled


@torch.no_grad()
def restyle(
    references: Tensor, generators: Sequence[Generator], coder: Autoencoder, windows: Windows,
) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with the local statistics that references have in an encoder.

    Args:
        references: (B, 3, H, W) in [0, 1], of the windows' size.
        generators: a random generator for each, of its noise.
        coder: the encoder and the decoder.
        windows: in which statistics are taken.

    Raises:
        ValueError: images of a size that the coder does not take.
    """
    coder.check_images(references)
    noise = torch.stack([coloured_noise(one, generator)
                         for one, generator in zip(references.cpu(), generators)])
    content, grains = (coder.encode(one.to(coder.model.device)) for one in (references, noise))
    made = coder.decode(restyled(content, grains, windows, texture_share(windows)))
    return made.to(references.device)


def coloured_noise(reference: Tensor, generator: Generator) -> Tensor:
    """Gaussian noise (3, H, W) with the means and covariances of an image's colours, in [0, 1].

    Before clipping they are met exactly (Sun et al. 2016, arXiv:1511.05547, algorithm 1).
    """
    noise = torch.randn(reference.shape, generator=generator).flatten(1)
    pixels = reference.flatten(1)
    ours, theirs = noise.cov(), pixels.cov()
    whitened = _root(ours, -0.5) @ (noise - noise.mean(1, keepdim=True))
    coloured = _root(theirs, 0.5) @ whitened + pixels.mean(1, keepdim=True)
    return coloured.view_as(reference).clamp(0, 1)


def _root(covariance: Tensor, power: float) -> Tensor:
    """A power of a symmetric matrix; directions without variance stay without."""
    values, vectors = torch.linalg.eigh(covariance)
    powers = torch.where(values > 1e-12, values.clamp_min(1e-12) ** power, 0.0)
    return vectors * powers @ vectors.T


def texture_share(windows: Windows) -> Tensor:
    """How much of a window is texture, (n,) from 0 to 1: the paper's alpha.

    It is -1 + 2 / (1 + exp(-1.281 r)), where r is the radius of a circle with the window's area, in
    degrees of an image that spans 26; and 0 in the window on which the gaze rests.
    """
    radius = windows.diameters / 2 * DEGREES / max(windows.weights.shape[1:])
    share = 2 / (1 + torch.exp(-STEEPNESS * radius)) - 1
    if (gaze := windows.about.get("fixation")) is not None:
        row, column = (round(place) for place in gaze)
        height, width = windows.weights.shape[1:]
        if 0 <= row < height and 0 <= column < width:
            share[windows.weights[:, row, column].argmax()] = 0
    return share


def restyled(content: Tensor, noise: Tensor, windows: Windows, share: Tensor) -> Tensor:
    """Maps (B, C, h, w) in whose windows those of noise stand with the content's local statistics.

    In each window the noise is given the content's mean and standard deviation, channel by channel
    (adaptive instance normalisation), and mixed with the content by the window's share of texture.
    Windows are blended by their weights; in the paper later ones are written over earlier ones.

    Args:
        content, noise: (B, C, h, w), maps of images and of noise, at a resolution by which that of
            the windows can be divided.
        windows: of the size of the images.
        share: (n,), of texture in each window.
    """
    factor = windows.weights.shape[1] // content.shape[2]
    cover = windows.shrunk(factor).flatten(1).to(content)
    weights = cover / cover.sum(1, keepdim=True)
    flat, grains = content.flatten(2), noise.flatten(2)
    (mean, spread), (own, of_noise) = (_moments(maps, weights) for maps in (flat, grains))
    gain = torch.where(of_noise > LEAST, spread / of_noise, 0.0) * share.to(content)
    offset = mean * share.to(content) - gain * own
    kept = (1 - share.to(content)) @ cover
    return (flat * kept + grains * (gain @ cover) + offset @ cover).view_as(content)


def _moments(maps: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (B, C, n) of maps (B, C, places), weighted."""
    mean = maps @ weights.T
    square = maps.double().square() @ weights.double().T - mean.double().square()
    return mean, square.clamp_min(0).sqrt().to(mean)
