"""What a reference is compared with beside its metamer: perturbations of it, and copies.

    perturbations(references, metamers, natural, draws=60)  # (n, 60, 3, H, W): changed as much
    copies(references)                                      # (n, 2, 3, H, W): hardly changed
    COPIES["mirror image"](references)                      # (n, 3, H, W): one way to change them
    are_copies(images, others)                              # (A, B): which are the same picture
    repeated(images)                                        # (B,): which are copies of others
"""

import io
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from metalib import metrics
from metalib.data import to_bytes
from metalib.generation.seeds import image_generator
from metalib.generation.starts import at_distance

COPY = 0.06  # images within this distance of each other (RMS, pixels in [0, 1]) are copies
GREY = 0.02  # images within this distance of their own luminance are grey
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601, as in Pillow
SIDE = 64  # pixels to which images are averaged before they are compared
BLOCK = 200  # images that are compared with as many others at a time


def perturbations(
    references: Tensor, metamers: Tensor, natural: Tensor, draws: int, seed: int = 0,
) -> Tensor:
    """References changed in other ways as much as their metamers.

    Draws are in turn Gaussian noise and a blend with another natural image.

    Args:
        references, metamers: (n, 3, H, W) in [0, 1]; a perturbation is as far from its reference
            as the metamer.
        natural: (N, 3, H, W) in [0, 1]. The other image of a blend is drawn from those that are
            at least as far from the reference as the metamer, and is mirrored and shifted by up
            to an eighth of its side at random. If none is as far, the blend overshoots.
        draws: how many for each reference.
        seed: with a reference's pixels, this fixes its perturbations.

    Returns:
        (n, draws, 3, H, W) uint8.
    """
    distance = metrics.rms_distance(references, metamers)
    apart = distances(references, natural)
    drawn = []
    for draw in range(draws):
        generators = [image_generator(image, seed * draws + draw) for image in references]
        if draw % 2 == 0:
            directions = [torch.randn(image.shape, generator=generator)
                          for image, generator in zip(references, generators)]
        else:
            directions = [_distractor(natural, apart[i], distance[i], generators[i]) - image
                          for i, image in enumerate(references)]
        changed = at_distance(references, torch.stack(directions), distance)
        drawn.append(to_bytes(changed))
    return torch.stack(drawn, 1)


def copies(references: Tensor) -> Tensor:
    """Copies of references (n, 3, H, W) in [0, 1]; their similarity is the ceiling for metamers.

    Returns:
        (n, 2, 3, H, W) in [0, 1]: shifted by one pixel, and compressed as JPEG.
    """
    return torch.stack([COPIES[name](references) for name in CEILING], 1)


def distances(images: Tensor, others: Tensor) -> Tensor:
    """(A, B): root mean square distance of each of A images from each of B, pixels in [0, 1]."""
    return torch.cdist(images.flatten(1), others.flatten(1)) / images[0].numel() ** 0.5


def are_copies(images: Tensor, others: Tensor) -> Tensor:
    """Which of A images are copies of which of B others, (A, B) bool.

    They are within `COPY` of each other, as they are or mirrored; in luminance where one of them is
    grey, so that a grey and a colour version of one photograph are copies. Mirrored images count
    since networks are trained not to tell them apart. Images of more than `SIDE` pixels are
    averaged to as many.

    Args:
        images, others: (A, 3, H, W) and (B, 3, H, W) in [0, 1].
    """
    return _copies(_reduced(images), _reduced(others))


def repeated(images: Tensor) -> Tensor:
    """Which of images (B, 3, H, W) are copies (see `are_copies`) of earlier ones, (B,) bool.

    What is a copy only of one that is a copy itself is none. Images are compared in blocks.
    """
    found = torch.zeros(len(images), dtype=torch.bool)
    reduced = _reduced(images)
    for rows in torch.arange(len(images)).split(BLOCK):
        for others in torch.arange(int(rows[-1]) + 1).split(BLOCK):
            rows, others = rows[~found[rows]], others[~found[others]]
            if not len(rows):
                break
            pairs = _copies(*([x[some] for x in reduced] for some in (rows, others))).cpu()
            pairs &= rows[:, None] > others
            for row, copied in zip(rows[pairs.any(1)], pairs[pairs.any(1)]):
                found[row] = bool((copied & ~found[others]).any())
    return found


def _reduced(images: Tensor) -> list[Tensor]:
    """Images (B, C, H, W) averaged to at most `SIDE` pixels, and their luminance to 16."""
    sides = min(images.shape[-2], SIDE), min(images.shape[-1], SIDE)
    pool = torch.nn.functional.adaptive_avg_pool2d
    reduced = torch.cat([pool(some, sides) for some in images.split(BLOCK)])
    return [reduced, pool(_luminance(reduced), 16)]


def _copies(images: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """As `are_copies`, of `_reduced` images."""
    near = torch.zeros(len(images[0]), len(others[0]), dtype=torch.bool, device=images[0].device)
    for mirrored in (False, True):  # means over pixels are not farther apart than the pixels
        full, small = (x.flip(-1) if mirrored else x for x in others)
        rows, columns = (distances(images[1], small) <= 1.2 * COPY).nonzero(as_tuple=True)
        if len(rows):
            rows, columns = rows.unique(), columns.unique()
            near[rows[:, None], columns] |= _near(images[0][rows], full[columns])
    return near


def _near(images: Tensor, others: Tensor) -> Tensor:
    """(A, B) bool: within `COPY` of each other, in luminance where one of both is grey."""
    near = distances(images, others) <= COPY
    if images.shape[1] == 1:
        return near
    plain = [_luminance(x) for x in (images, others)]
    grey = [(x - y).flatten(1).square().mean(1).sqrt() <= GREY
            for x, y in zip((images, others), plain)]
    return near | (distances(*plain) <= COPY) & (grey[0][:, None] | grey[1])


def _luminance(images: Tensor) -> Tensor:
    """(B, 1, H, W): of colour images their luminance; grey ones as they are."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = torch.tensor(LUMINANCE, device=images.device, dtype=images.dtype)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None]


def _distractor(
    natural: Tensor, apart: Tensor, distance: Tensor, generator: torch.Generator,
) -> Tensor:
    """Another natural image, mirrored and shifted at random so that draws differ.

    It is at least as far as `distance` if there is any; otherwise it is the farthest.
    """
    far = ((apart > COPY) & (apart >= distance)).nonzero().flatten()
    if not len(far):
        far = apart.argmax()[None]
    image = natural[far[torch.randint(len(far), (), generator=generator)]]
    if torch.rand((), generator=generator) < 0.5:
        image = image.flip(-1)
    height, width = image.shape[-2:]
    margin = height // 8
    top, left = torch.randint(2 * margin + 1, (2,), generator=generator).tolist()
    padded = transforms.pad(image, [margin], padding_mode="reflect")
    return padded[:, top:top + height, left:left + width]


def _shifted(images: Tensor) -> Tensor:
    """Images moved to the right by one pixel; the first column is repeated."""
    return torch.cat([images[..., :1], images[..., :-1]], -1)


def _as_jpeg(images: Tensor, quality: int = 90) -> Tensor:
    """Images after compression as JPEG."""
    decoded = []
    for image in images:
        file = io.BytesIO()
        picture = transforms.to_pil_image(to_bytes(image))
        picture.save(file, "JPEG", quality=quality)
        decoded.append(transforms.pil_to_tensor(Image.open(file)).float() / 255)
    return torch.stack(decoded)


COPIES: dict[str, Callable[[Tensor], Tensor]] = {  # changes that leave what an image shows
    "shifted by one pixel": _shifted, "JPEG": _as_jpeg,
    "mirror image": lambda images: images.flip(-1)}
CEILING = ("shifted by one pixel", "JPEG")  # those that hardly change it
