"""Starting images. Each is a function of one reference (3, H, W), its label and a random generator.

`STARTS` names them, and `generate(..., start=("blend", {"fraction": 0.3}))` sets their options.

Some know nothing of the reference (noise, uniform, grey, pink, other_class), some a little
(same_class: its class; phase_scrambled: its spectrum; one_pass: its spectrum around each place;
texform: its textures there; foveated: an encoder's features there), some most of it (blurred,
blend, perturbed). A metamer that begins near its reference is likely to end near it, and has to be
compared with a mere `perturbation` at the same distance.

To add one, write such a function and name it in `STARTS`.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Generator, Tensor
from torchvision.transforms import functional as transforms

from metalib.data import ImageSet, pixels
from metalib.generation.decoder import Autoencoder, autoencoder_of
from metalib.generation.foveation import restyle
from metalib.generation.local_statistics import layout_of, matched
from metalib.generation.seeds import image_generator
from metalib.generation.spectra import falling, weighed
from metalib.generation.texforms import texform as texform_of
from metalib.metrics import rms_distance


def noise(
    reference: Tensor, label: int, generator: Generator, *, mean: float = 0.5, std: float = 0.05,
) -> Tensor:
    """Gaussian noise around mid-grey, the published start: 0.5 + randn / 20.

    Feather et al. 2023, doi:10.1038/s41593-023-01442-0, as in their public code.
    """
    return mean + std * torch.randn(reference.shape, generator=generator)


def uniform(reference: Tensor, label: int, generator: Generator) -> Tensor:
    """Every colour of every pixel drawn uniformly from [0, 1]."""
    return torch.rand(reference.shape, generator=generator)


def grey(reference: Tensor, label: int, generator: Generator, *, level: float = 0.5) -> Tensor:
    """The same grey everywhere. Nothing is random: the start is the same for all references."""
    return torch.full_like(reference, level)


def pink(
    reference: Tensor, label: int, generator: Generator, *, exponent: float = 1.0,
    contrast: float = 0.2, saturation: float = 0.3,
) -> Tensor:
    """Noise with the average spectrum of natural images.

    Amplitude falls with frequency to the power of -`exponent` (Field 1987,
    doi:10.1364/JOSAA.4.002379). `contrast` is the standard deviation before clipping, in units of
    pixels in [0, 1]. The colours share their noise, except for a share `saturation` of the
    amplitude, which is drawn for each colour separately.
    """
    separate, shared = (torch.randn(reference.shape, generator=generator),
                        torch.randn(reference[:1].shape, generator=generator))
    field = weighed(math.sqrt(1 - saturation ** 2) * shared + saturation * separate,
                    falling(reference, exponent))
    field = field - field.mean((1, 2), keepdim=True)
    return 0.5 + contrast * field / field.std()


def phase_scrambled(reference: Tensor, label: int, generator: Generator) -> Tensor:
    """The reference with the phases of noise added to its own, so that its layout is lost.

    Its amplitude spectrum stays. All colours get the same phases added, so they keep their relative
    phases, and with these their correlation (Oppenheim & Lim 1981, doi:10.1109/PROC.1981.12022, on
    what phases carry). Clipping to [0, 1] changes the spectrum a little.
    """
    phase = torch.fft.rfft2(torch.randn(reference.shape[-2:], generator=generator)).angle()
    phase[0, 0] = 0  # the mean stays
    return weighed(reference, torch.exp(1j * phase))


def blurred(
    reference: Tensor, label: int, generator: Generator, *, sigma: float = 1 / 12,
) -> Tensor:
    """The reference blurred by a Gaussian whose standard deviation is `sigma` times its side."""
    width = sigma * reference.shape[-1]
    return transforms.gaussian_blur(reference, [2 * math.ceil(3 * width) + 1] * 2, [width] * 2)


def blend(reference: Tensor, label: int, generator: Generator, *, fraction: float = 0.5) -> Tensor:
    """`fraction` of the reference mixed with 1 - `fraction` of the published noise.

    Raises:
        ValueError: a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of a blend must be in [0, 1], not {fraction}")
    return fraction * reference + (1 - fraction) * noise(reference, label, generator)


def same_class(
    reference: Tensor, label: int, generator: Generator, *, pool: ImageSet | None = None,
) -> Tensor:
    """Another image of the reference's class, drawn from the ImageSet `pool`.

    Raises:
        ValueError: no label, no pool, a pool of images of another shape, or no such image in it.
    """
    return _another(reference, generator, pool, lambda labels: labels == label, label)


def other_class(
    reference: Tensor, label: int, generator: Generator, *, pool: ImageSet | None = None,
) -> Tensor:
    """An image of a class other than the reference's, drawn from the ImageSet `pool`.

    Raises:
        ValueError: no label, no pool, a pool of images of another shape, or no such image in it.
    """
    return _another(
        reference, generator, pool, lambda labels: (labels != label) & (labels >= 0), label)


def perturbed(reference: Tensor, label: int, generator: Generator, *, std: float = 0.05) -> Tensor:
    """The reference plus Gaussian noise of standard deviation `std`."""
    return reference + std * torch.randn(reference.shape, generator=generator)


def one_pass(
    reference: Tensor, label: int, generator: Generator, *, scale: float | None = None,
    fixation: tuple[float, float] | None = None, count: int = 4,
) -> Tensor:
    """Noise with the local statistics of the reference, see `metalib.generation.feedforward`.

    They are taken in `count` by `count` equal windows, or with a `scale` in log-polar windows
    around the `fixation` (row, column).
    """
    windows = layout_of(tuple(reference.shape[1:]), scale, fixation, count)
    return matched(reference, torch.randn(reference.shape, generator=generator), windows)


def texform(
    reference: Tensor, label: int, generator: Generator, *, scale: float | None = None,
    fixation: tuple[float, float] | None = None, count: int = 4, steps: int = 50,
    colour: bool = False,
) -> Tensor:
    """A metamer for a model of early human vision, grey as published, see `texture_model`.

    Windows are those of `one_pass`. It takes `steps` gradient evaluations of that model, which do
    not count among the network's. With `colour` opponent colours are matched, too, an extension.
    """
    return texform_of(reference, noise(reference, label, generator), scale=scale,
                      fixation=fixation, count=count, steps=steps, colour=colour)


def foveated(
    reference: Tensor, label: int, generator: Generator, *, scale: float | None = 0.5,
    fixation: tuple[float, float] | None = None, count: int = 4,
    encoder: str | Autoencoder | None = None,
) -> Tensor:
    """Foveated style transfer of the reference, see `metalib.generation.feedforward`."""
    sides = tuple(reference.shape[1:])
    return restyle(reference[None], [generator], autoencoder_of(encoder, sides),
                   layout_of(sides, scale, fixation, count))[0]


STARTS: dict[str, Callable[..., Tensor]] = {
    "noise": noise, "uniform": uniform, "grey": grey, "pink": pink,
    "phase_scrambled": phase_scrambled, "blurred": blurred, "blend": blend,
    "same_class": same_class, "other_class": other_class, "perturbed": perturbed,
    "one_pass": one_pass, "texform": texform, "foveated": foveated}


def start_images(
    name: str, references: ImageSet | Tensor, *, seed: int = 0, **options: Any,
) -> Tensor:
    """Starting images (B, 3, H, W) in [0, 1], drawn on the CPU and so the same on every device.

    Args:
        name: one of `STARTS`.
        references: an ImageSet, or a tensor (B, 3, H, W) where labels are not needed.
        seed: together with a reference's pixels, this fixes its start, whatever else is in the
            batch.
        options: keywords of the start.

    Raises:
        ValueError: an unknown name, an option out of range, or a start that lacks the labels or
            other images that it needs.
    """
    if name not in STARTS:
        raise ValueError(f"unknown start {name!r}; choose one of {', '.join(STARTS)}")
    images = pixels(references)
    labels = (references.labels if isinstance(references, ImageSet)
              else torch.full((len(images),), -1))
    starts = [STARTS[name](reference, int(label), image_generator(reference, seed), **options)
              for reference, label in zip(images.cpu(), labels)]
    return torch.stack(starts).clamp(0, 1).to(images.device)


def perturbation(
    references: Tensor, distance: Tensor | Iterable[float], *, seed: int = 0,
) -> Tensor:
    """References changed by Gaussian noise only.

    This is the control for metamers at the same distance from their references.

    Args:
        references: (B, 3, H, W) in [0, 1].
        distance: (B,), the root mean square difference to reach after clipping to [0, 1].
        seed: together with a reference's pixels, this fixes its noise.

    Returns:
        (B, 3, H, W) in [0, 1]. The distance is met to 1e-4, or as far as clipping allows (it
        cannot exceed about 0.5).
    """
    noises = torch.stack([torch.randn(reference.shape, generator=image_generator(reference, seed))
                          for reference in references])
    return at_distance(references, noises, distance)


def nearer(images: Tensor, references: Tensor, distance: Tensor) -> Tensor:
    """Images moved straight towards their references until they are at `distance`.

    Images that are nearer than that stay as they are.

    Args:
        images, references: (B, 3, H, W) in [0, 1].
        distance: (B,), root mean square differences.
    """
    share = distance / rms_distance(images, references).clamp_min(1e-12)
    return torch.lerp(references, images, share.clamp(max=1).view(-1, 1, 1, 1))


def at_distance(
    references: Tensor, directions: Tensor, distance: Tensor | Iterable[float],
) -> Tensor:
    """References moved along directions until they are at `distance`, after clipping to [0, 1].

    Args:
        references, directions: (B, 3, H, W).
        distance: (B,), root mean square differences.

    Returns:
        (B, 3, H, W) in [0, 1]. The distance is met to 1e-4, or as far as clipping allows.
    """
    distance = torch.tensor([float(value) for value in distance])
    low, high = torch.zeros(len(references)), torch.full((len(references),), 1e3)
    for _ in range(40):  # bisection on the scale; the distance grows with it
        scale = (low + high) / 2
        images = (references + scale.view(-1, 1, 1, 1) * directions).clamp(0, 1)
        far = rms_distance(images, references) > distance
        low, high = torch.where(far, low, scale), torch.where(far, scale, high)
    return images


def _another(
    reference: Tensor, generator: Generator, pool: ImageSet | None,
    eligible: Callable[[Tensor], Tensor], label: int,
) -> Tensor:
    """An image of the pool that differs from the reference and whose label is `eligible`."""
    if label < 0 or not isinstance(pool, ImageSet):
        raise ValueError(
            "a start from another image needs references with labels (an ImageSet) and a pool of "
            "images: start=(\"same_class\", {\"pool\": load_images('cifar10-samples')})")
    if pool.images.shape[1:] != reference.shape:
        raise ValueError("the pool's images must have the shape of the references, "
                         f"{tuple(reference.shape)}")
    # neither the reference itself nor a recompressed copy of it
    apart = (pool.images - reference).abs().amax((1, 2, 3)) > 0.1
    candidates = (eligible(pool.labels) & apart).nonzero().flatten()
    if not len(candidates):
        raise ValueError(f"the pool {pool.name} has no other image of that kind for label {label}")
    return pool.images[candidates[torch.randint(len(candidates), (), generator=generator)]]
