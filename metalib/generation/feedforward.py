"""Images that share local statistics with their references, in one pass.

    made = one_pass(images, log_polar(256, scale=0.5))      # Metamers, after no gradient evaluation
    made = foveated(images, scale=0.5, encoder="zoo/vgg-standard-0")
    generate(model, images, "features", start=("one_pass", {"scale": 0.5}))

Walton et al. 2021 (doi:10.1145/3450626.3459943) make metamers of peripheral vision fast enough for
displays: noise is given the mean and standard deviation that the reference has, in each band of a
steerable pyramid, around each place. Nothing is optimised, so that what is matched is approximate:
bands overlap, and what they share is changed by all of them. Foveated style transfer does the like
with the features of a network, see `metalib.generation.foveation`.
"""

import time

import torch
from torch import Tensor

from metalib.data import ImageSet, pixels, to_8_bits
from metalib.generation.decoder import Autoencoder, autoencoder_of
from metalib.generation.foveation import restyle
from metalib.generation.local_statistics import layout_of, matched
from metalib.generation.metamers import Metamers
from metalib.generation.seeds import image_generator
from metalib.models.texture import scales_of
from metalib.models.windows import Windows


def one_pass(
    images: ImageSet | Tensor, windows: Windows, *, scales: int | None = None,
    orientations: int = 4, seed: int = 0,
) -> Metamers:
    """Match the local statistics of noise to those of images, in one pass.

    Args:
        images: (B, 3, H, W) in [0, 1], of the windows' size.
        windows: around which places statistics are taken.
        scales, orientations: of the steerable pyramid; by default as many scales as leave 8 pixels,
            4 at most.
        seed: of the noise, together with each reference's pixels.

    Returns:
        Metamers: with `seconds`, no loss, and 0 `evaluations`.

    Raises:
        ValueError: images of another size than the windows', or sides that cannot be halved so
            often.
        ImportError: plenoptic is not installed.

    Example:
        >>> from metalib import load_images
        >>> from metalib.models.windows import uniform
        >>> made = one_pass(load_images("cifar10-samples", n=2), uniform(32, 4))
        >>> made.images.shape, made.evaluations.tolist()
        (torch.Size([2, 3, 32, 32]), [0, 0])
    """
    references = pixels(images)
    _check(references, windows, scales)
    began = time.perf_counter()
    made = torch.stack([
        matched(reference, torch.randn(reference.shape, generator=image_generator(reference, seed)),
                windows, scales, orientations) for reference in references.cpu()])
    seconds = time.perf_counter() - began
    return _made(images, made, seconds, {
        "method": "one_pass", "windows": windows.about, "seed": seed,
        "scales": scales_of(windows, scales), "orientations": orientations})


def foveated(
    images: ImageSet | Tensor, *, scale: float | None = 0.5,
    fixation: tuple[float, float] | None = None, count: int = 4,
    encoder: str | Autoencoder | None = None, seed: int = 0,
) -> Metamers:
    """Metamers of peripheral vision by style transfer in windows, in one pass through a network.

    Deza, Jonnalagadda & Eckstein 2018, arXiv:1705.10041: see `metalib.generation.foveation`.

    Args:
        images: (B, 3, H, W) in [0, 1], of a size that the encoder takes, see
            `metalib.generation.decoder.Autoencoder`.
        scale: of log-polar windows; None takes `count` by `count` equal ones.
        fixation: (row, column) of the gaze in pixels; None for the centre.
        count: of equal windows along a side.
        encoder: a network for a decoder of which is bundled, by name; an Autoencoder, of
            `metalib.runs.train_decoder`; None for the bundled one of the largest images that are no
            larger than these.
        seed: of the noise, together with each reference's pixels.

    Returns:
        Metamers: with `seconds`, no loss, 0 `evaluations`, and `decoded`: what the decoder makes
        of the references' own features, with which metamers are to be compared as well.

    Raises:
        ValueError: no such decoder, or images of a size that the encoder does not take.
        FileNotFoundError: the encoder is not on this machine.

    Example:
        >>> from metalib import load_images
        >>> made = foveated(load_images("cifar10-samples", n=2), scale=None, count=4)
        >>> made.images.shape, made.decoded.shape, made.evaluations.tolist()
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 32, 32]), [0, 0])
    """
    references = pixels(images)
    coder = autoencoder_of(encoder, tuple(references.shape[2:]))
    windows = layout_of(tuple(references.shape[2:]), scale, fixation, count)
    began = time.perf_counter()
    made = restyle(references, [image_generator(one, seed) for one in references], coder, windows)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        decoded = coder.decode(coder.encode(references))
    return _made(images, made, seconds, {
        "method": "foveated", "windows": windows.about, "seed": seed,
        "encoder": coder.model.name, "stage": coder.stage}, decoded=to_8_bits(decoded.cpu()))


def _made(
    images: ImageSet | Tensor, made: Tensor, seconds: float, recipe: dict,
    decoded: Tensor | None = None,
) -> Metamers:
    """What was made of images without a gradient evaluation."""
    return Metamers(
        to_8_bits(made.clamp(0, 1)), pixels(images).cpu(), seconds=seconds, recipe=recipe,
        evaluations=torch.zeros(len(made), dtype=torch.int64),
        files=images.files if isinstance(images, ImageSet) else (), decoded=decoded)


def _check(references: Tensor, windows: Windows, scales: int | None) -> None:
    sides = tuple(windows.weights.shape[1:])
    if tuple(references.shape[2:]) != sides:
        raise ValueError(f"the images have {tuple(references.shape[2:])} pixels, and the windows "
                         f"{sides}")
    if any(side % 2 ** scales_of(windows, scales) for side in sides):
        raise ValueError(f"{sides[0]} x {sides[1]} pixels cannot be halved "
                         f"{scales_of(windows, scales)} times")
