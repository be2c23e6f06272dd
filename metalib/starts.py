"""Starting images. Each is a function of one reference (3, H, W), its label and a random generator; `STARTS` names them.

Some know nothing of the reference (noise, uniform, grey, pink, other_class), some a little (same_class: its class;
phase_scrambled: its spectrum), some most of it (blurred, blend, perturbed): a metamer that begins near its reference is likely to
end near it, and has to be compared with a mere `perturbation` at the same distance.

To add one, write such a function and name it in `STARTS`.
"""
import hashlib
import math

import torch
from torchvision.transforms import functional as transforms

from metalib.data import ImageSet, pixels
from metalib.metrics import rms_distance
from metalib.spectra import falling, weighed


def noise(reference, label, generator, *, mean=0.5, std=0.05):
    """Gaussian noise around mid-grey, the published start: 0.5 + randn / 20 (Feather et al. 2023, as in their public code)."""
    return mean + std * torch.randn(reference.shape, generator=generator)


def uniform(reference, label, generator):
    """Every pixel and colour drawn evenly from [0, 1]."""
    return torch.rand(reference.shape, generator=generator)


def grey(reference, label, generator, *, level=0.5):
    """The same grey everywhere: no chance in it, the same start for all references."""
    return torch.full_like(reference, level)


def pink(reference, label, generator, *, exponent=1.0, contrast=0.2, saturation=0.3):
    """Noise with the average spectrum of natural images: amplitude falls with frequency to the power of -`exponent`.

    Field 1987, doi:10.1364/JOSAA.4.002379. `contrast` is its standard deviation before clipping, in pixels in [0, 1]; colours
    share their noise, but for a share `saturation` in amplitude that each has by itself.
    """
    own, shared = torch.randn(reference.shape, generator=generator), torch.randn(reference[:1].shape, generator=generator)
    field = weighed(math.sqrt(1 - saturation ** 2) * shared + saturation * own, falling(reference, exponent))
    field = field - field.mean((1, 2), keepdim=True)
    return 0.5 + contrast * field / field.std()


def phase_scrambled(reference, label, generator):
    """The amplitude spectrum of the reference with the phases of noise, the same for its colours: its layout is lost.

    The colours keep their relative phases, and so their correlation (Oppenheim & Lim 1981, doi:10.1109/PROC.1981.12022, on what
    phases carry). Clipping to [0, 1] changes the spectrum a little.
    """
    phase = torch.fft.rfft2(torch.randn(reference.shape[-2:], generator=generator)).angle()
    phase[0, 0] = 0  # the mean stays
    return weighed(reference, torch.exp(1j * phase))


def blurred(reference, label, generator, *, sigma=1 / 12):
    """The reference blurred by a Gaussian with a standard deviation of `sigma` times its side."""
    width = sigma * reference.shape[-1]
    return transforms.gaussian_blur(reference, 2 * math.ceil(3 * width) + 1, width)


def blend(reference, label, generator, *, fraction=0.5):
    """`fraction` of the reference mixed into 1 - `fraction` of the published noise."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of a blend must be in [0, 1], not {fraction}")
    return fraction * reference + (1 - fraction) * noise(reference, label, generator)


def same_class(reference, label, generator, *, pool=None):
    """Another image of the reference's class, drawn from the ImageSet `pool`."""
    return _another(reference, generator, pool, lambda labels: labels == label, label)


def other_class(reference, label, generator, *, pool=None):
    """An image of another class than the reference's, drawn from the ImageSet `pool`."""
    return _another(reference, generator, pool, lambda labels: (labels != label) & (labels >= 0), label)


def perturbed(reference, label, generator, *, std=0.05):
    """The reference plus Gaussian noise of standard deviation `std`."""
    return reference + std * torch.randn(reference.shape, generator=generator)


STARTS = {"noise": noise, "uniform": uniform, "grey": grey, "pink": pink, "phase_scrambled": phase_scrambled, "blurred": blurred,
          "blend": blend, "same_class": same_class, "other_class": other_class, "perturbed": perturbed}


def start_images(name, references, *, seed=0, **options):
    """Starting images (B, 3, H, W) in [0, 1], drawn on the CPU and so equal on every device.

    Args:
        name: one of `STARTS`.
        references: an ImageSet, or a tensor (B, 3, H, W) where labels are not needed.
        seed: with a reference's pixels, this fixes its start, whatever else is in the batch.
        options: keywords of the start.

    Raises:
        ValueError: an unknown name, or a start that needs labels or other images and has none.
    """
    if name not in STARTS:
        raise ValueError(f"unknown start {name!r}; choose one of {', '.join(STARTS)}")
    images = pixels(references)
    labels = references.labels if isinstance(references, ImageSet) else torch.full((len(images),), -1)
    starts = [STARTS[name](reference, int(label), image_generator(reference, seed), **options)
              for reference, label in zip(images.cpu(), labels)]
    return torch.stack(starts).clamp(0, 1).to(images.device)


def perturbation(references, distance, *, seed=0):
    """References changed by Gaussian noise only: the control for metamers at the same distance from their references.

    Args:
        references: (B, 3, H, W) in [0, 1].
        distance: (B,), the root mean square difference to reach after clipping to [0, 1].

    Returns:
        (B, 3, H, W) in [0, 1]; the distance is met to 1e-4, or as far as clipping allows (it cannot exceed about 0.5).
    """
    noises = torch.stack([torch.randn(reference.shape, generator=image_generator(reference, seed)) for reference in references])
    return at_distance(references, noises, distance)


def nearer(images, references, distance):
    """Images moved on the straight line to their references until they are as near as `distance` asks; nearer ones stay.

    Args:
        images, references: (B, 3, H, W) in [0, 1].
        distance: (B,), root mean square differences.
    """
    share = distance / rms_distance(images, references).clamp_min(1e-12)
    return torch.lerp(references, images, share.clamp(max=1).view(-1, 1, 1, 1))


def at_distance(references, directions, distance):
    """References moved along directions (B, 3, H, W) as far as the root mean square `distance` (B,) asks, after clipping to [0, 1].

    The distance is met to 1e-4, or as far as clipping allows.
    """
    distance = torch.tensor([float(value) for value in distance])
    low, high = torch.zeros(len(references)), torch.full((len(references),), 1e3)
    for _ in range(40):  # bisection on the scale; the distance grows with it
        scale = (low + high) / 2
        images = (references + scale.view(-1, 1, 1, 1) * directions).clamp(0, 1)
        far = rms_distance(images, references) > distance
        low, high = torch.where(far, low, scale), torch.where(far, scale, high)
    return images


def image_generator(reference, seed):
    """A random generator for one reference: the same for the same 8-bit image and seed, whatever else is in the batch."""
    pixels = (reference.cpu() * 255).round().to(torch.uint8).contiguous().numpy().tobytes()
    digest = hashlib.sha256(str(int(seed)).encode() + b":" + pixels).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _another(reference, generator, pool, eligible, label):
    if label < 0 or not isinstance(pool, ImageSet):
        raise ValueError("a start from another image needs references with labels (an ImageSet) and a pool of images: "
                         "start_options={'pool': load_images('cifar10-samples')}")
    if pool.images.shape[1:] != reference.shape:
        raise ValueError(f"the pool's images must have the shape of the references, {tuple(reference.shape)}")
    apart = (pool.images - reference).abs().amax((1, 2, 3)) > 0.1  # not the reference itself, also in a recompressed copy
    candidates = (eligible(pool.labels) & apart).nonzero().flatten()
    if not len(candidates):
        raise ValueError(f"the pool {pool.name} has no other image of that kind for label {label}")
    return pool.images[candidates[torch.randint(len(candidates), (), generator=generator)]]
