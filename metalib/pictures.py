"""One picture file as float32 pixels in [0, 1], whatever its format and depth, or a clear refusal.

    image = read_image("photograph.jpg", size=224)             # (3, 224, 224)
    image = read_image("stimulus.tif", (48, 64), grey=True)    # (1, 48, 64)

Pillow reads files of 8 bits, grey TIFFs of 16 bits, and pictures of any number of pixels: its guard
against files that unpack to huge pictures is off here, so keep files from strangers away. Of a deep
PNG Pillow gives the upper or the lower byte, so that it is read twice; other deep TIFFs are read by
tifffile.
"""

import contextlib
import io
import operator
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue: Rec. 601, as in Pillow
ORIENTATION = 0x0112  # this entry of a picture's EXIF data says how the camera was held
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how these files begin
DEEP_OF_PILLOW = (np.uint16, np.float32)  # of grey TIFFs
GUARD = threading.Lock()


def read_image(
    path: str | Path, size: int | tuple[int, int] | None = None, *, crop: float = 1.0,
    grey: bool = False,
) -> Tensor:
    """One picture file as float32 (3, H, W) in [0, 1], or (1, H, W) with `grey`.

    Its pixels are those that a viewer shows:

    - Whole numbers are divided by the largest that the file's depth can hold (255, 65535, ...);
      floating-point numbers must be in [0, 1], and are used as they are.
    - A photograph is turned upright, by the orientation in its EXIF data.
    - Transparent parts show white behind them.
    - Colours with a profile other than sRGB (Adobe RGB, Display P3, a printer's CMYK) are converted
      to sRGB, at 8 bits. Levels of grey, and CMYK without a profile, are taken as they are. The
      gamma entry of PNG files is not used.

    Args:
        path: the file. Its content counts, not its ending.
        size: side in pixels, or (height, width). The picture is resized (bilinear, antialiased) so
            that it just covers them, and cropped at the centre. None keeps its size.
        crop: the share of the shorter side that is kept; the picture is resized to cover
            `size` / `crop`.
        grey: give the luminance, .299 R + .587 G + .114 B, and levels of grey as they are.

    Raises:
        ValueError: a file that is damaged or no picture; one with several frames; or pixels whose
            meaning is not clear: signed numbers, floating-point numbers outside [0, 1], other
            channels than grey or RGB with or without transparency, more than 8 bits in a colour
            space other than sRGB.
        OSError: a file that is not there or may not be read.
    """
    size = sides_of(size)
    data = Path(path).read_bytes()
    try:
        values, orientation = _decoded(data)
    except Exception as error:  # a reader of damaged bytes can raise anything
        reason = ("it is empty" if not data else "it is no picture of a known kind"
                  if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split()))
        raise ValueError(
            f"cannot read the image {path}: {reason}; convert, remove or replace the file"
        ) from error
    image = fit(_upright(_on_white(values), orientation), size, crop)
    if grey:
        return luminance(image).clamp(0, 1)
    return (image.repeat(3, 1, 1) if len(image) == 1 else image).contiguous()


def sides_of(size: Any) -> tuple[int, int] | None:
    """The (height, width) that a `size` stands for.

    Raises:
        ValueError: neither a side in pixels, nor (height, width), nor None.
    """
    if size is None:
        return None
    try:
        height, width = map(operator.index, size if isinstance(size, (tuple, list)) else [size] * 2)
        if min(height, width) < 1:
            raise ValueError("too small")
    except (TypeError, ValueError) as error:
        raise ValueError(f"size is a side in pixels, such as 224, or (height, width), not {size!r}"
                         ) from error
    return height, width


def fit(image: Tensor, size: int | tuple[int, int] | None, crop: float = 1.0) -> Tensor:
    """Images (..., C, H, W) resized to cover `size` / `crop`, and cropped to `size` at the centre.

    Raises:
        ValueError: a `crop` that is not above 0 and at most 1, or one without a size.
    """
    size = sides_of(size)
    if not (isinstance(crop, (int, float)) and 0 < crop <= 1) or size is None and crop != 1:
        raise ValueError("crop is the share of a picture's shorter side that is kept, above 0 and "
                         f"at most 1, and needs a size; it is {crop!r}")
    if size is None or tuple(image.shape[-2:]) == size and crop == 1:
        return image
    covered = [side / crop for side in size]
    scale = max(wanted / side for wanted, side in zip(covered, image.shape[-2:]))
    sides = [max(wanted, int(side * scale + 0.5)) for wanted, side in zip(size, image.shape[-2:])]
    image = transforms.resize(image, sides, InterpolationMode.BILINEAR, antialias=True)
    return transforms.center_crop(image, list(size)).clamp(0, 1)


def luminance(images: Tensor) -> Tensor:
    """Luminance (..., 1, H, W) of images (..., 3, H, W); images with one channel as they are."""
    if images.shape[-3] == 1:
        return images
    weights = torch.tensor(LUMINANCE, dtype=images.dtype, device=images.device).view(3, 1, 1)
    return (images * weights).sum(-3, keepdim=True)


# --- From bytes to channels ---------------------------------------------------------------------

def _decoded(data: bytes) -> tuple[Tensor, int]:
    """Channels (C, H, W) in [0, 1], and the EXIF orientation (1 to 8) that they still have.

    They are grey, grey and opacity, RGB, or RGB and opacity.
    """
    if data[:4] in TIFF and (deep := _deep_tiff(data)):
        return deep
    with _opened(data) as file:
        if file.format != "MPO":  # a photograph, and smaller ones for the camera's own use
            _check_frames(getattr(file, "n_frames", 1))
        if file.format == "PNG" and data[24] == 16:  # bits a channel
            values = _deep_png(file, data)
        else:
            file.load()
            values = _values(file)
        return values, file.getexif().get(ORIENTATION, 1)


def _opened(data: bytes) -> Image.Image:
    """A file as Pillow opens it, whatever its size."""
    with GUARD:  # the limit is Pillow's, and others use it
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_frames(count: int) -> None:
    if count > 1:
        raise ValueError(f"it has {count} frames; save the one you mean as a picture of its own")


def _values(file: Image.Image) -> Tensor:
    """Channels of a file that Pillow reads without loss."""
    if file.mode[0] in "IF":  # more than 8 bits: of TIFF, or scaled to 16 by Pillow
        tags = getattr(file, "tag_v2", {})
        values = torch.from_numpy(np.array(file).astype(np.float32))[None]
        if file.mode == "F":
            values = _checked(values)
        else:
            values /= 2 ** tags.get(258, (16,))[0] - 1
        return 1 - values if tags.get(262) == 0 else values  # 0 is white
    mode = ("RGBA" if file.has_transparency_data else "L" if file.mode in ("1", "L") else "RGB")
    return transforms.pil_to_tensor(_in_srgb(file, mode)).float() / 255


def _deep_png(file: Any, data: bytes) -> Tensor:
    """Channels of a PNG file of 16 bits.

    Of colours Pillow keeps the upper byte, or the lower one if told that it comes first. Grey and
    opacity of 16 bits are read as if they were four numbers of 8.
    """
    *place, kind = file.tile[0]
    if kind == "LA;16B":
        file.tile = [(*place, "RGBA")]
        parts = np.asarray(file).astype(np.float32)
        levels = 256 * parts[..., ::2] + parts[..., 1::2]
    elif file.mode in ("RGB", "RGBA"):
        _check_srgb(file.info.get("icc_profile"))
        lower: Any = _opened(data)
        lower.tile = [(*place, kind.replace("16B", "16L"))]
        levels = 256 * np.asarray(file).astype(np.float32) + np.asarray(lower)
    else:
        levels = np.asarray(file).astype(np.float32)[..., None]
    values = levels / 65535
    if (clear := file.info.get("transparency")) is not None:  # the one colour that is transparent
        values = np.concatenate([values, (levels != clear).any(-1, keepdims=True)], -1)
    return torch.from_numpy(values).float().movedim(-1, 0)


def _deep_tiff(data: bytes) -> tuple[Tensor, int] | None:
    """What `_decoded` gives, of a TIFF of more than 8 bits; None for one that Pillow can read."""
    import tifffile  # takes a moment, and most pictures are others

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        extra, kind = page.extrasamples, page.dtype
        channels = page.samplesperpixel - len(extra)  # without opacity
        if len(extra) > 1 or channels == 1 and extra == (0,):  # 0 is anything but opacity
            raise ValueError(f"it has {page.samplesperpixel} channels, which are neither grey nor "
                             "RGB with or without opacity")
        if kind in (bool, np.uint8) or channels == 1 and not extra and kind in DEEP_OF_PILLOW:
            return None
        _check_frames(len(file.pages))
        if channels != {0: 1, 1: 1, 2: 3}.get(page.photometric) or "Z" in page.axes:
            raise ValueError("it has more than 8 bits a channel, and is neither grey nor RGB")
        if kind.kind not in "uf":
            raise ValueError(f"its pixels are of type {kind}, where 0 is not black")
        values = torch.from_numpy(page.asarray().astype(np.float32))
        orientation = page.tags.valueof(ORIENTATION, 1)
    values = values.movedim(-1, 0) if page.axes == "YXS" else values.view(-1, *values.shape[-2:])
    if kind.kind == "u":
        values = values / (2 ** int(np.max(page.bitspersample)) - 1)
    values = _checked(values)
    if channels == 3:
        _check_srgb(page.iccprofile)
    colours, opacity = values[:channels], values[channels:]
    if page.photometric == 0:  # 0 is white
        colours = 1 - colours
    if extra == (1,):  # the colours are multiplied by the opacity
        colours = (colours + 1 - opacity).clamp(0, 1)
    return torch.cat([colours, opacity]) if extra == (2,) else colours, orientation


def _checked(values: Tensor) -> Tensor:
    low, high = values.aminmax()
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"its floating-point pixels reach from {low:.4g} to {high:.4g}, not from "
                         "0 (black) to 1 (white)")
    return values


# --- Colour, opacity, orientation ---------------------------------------------------------------

def _profile(data: bytes | None) -> Any:
    """A colour profile, if there is a sound one and it is not sRGB's."""
    with contextlib.suppress(ImageCms.PyCMSError, OSError):  # viewers leave a damaged one aside
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data)) if data else None
        name = ImageCms.getProfileDescription(profile) if profile else "sRGB"
        return profile if "sRGB" not in name or "linear" in name.lower() else None
    return None


def _in_srgb(file: Image.Image, mode: str) -> Image.Image:
    """An 8-bit picture in the mode L, RGB or RGBA; its colours, by their profile, in sRGB."""
    picture, profile = file.convert(mode), _profile(file.info.get("icc_profile"))
    space = "CMYK" if file.mode == "CMYK" else "RGB"
    if mode == "L" or profile is None or profile.profile.xcolor_space.strip() != space:
        return picture
    converted = ImageCms.profileToProfile(
        file if space == "CMYK" else picture.convert("RGB"), profile,
        ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    if mode == "RGBA":
        converted.putalpha(picture.getchannel("A"))
    return converted


def _check_srgb(data: bytes | None) -> None:
    if profile := _profile(data):
        name = ImageCms.getProfileDescription(profile).strip()
        raise ValueError(f"it has more than 8 bits a channel in the colour space {name}; "
                         "save it in sRGB or with 8 bits")


def _on_white(values: Tensor) -> Tensor:
    """Grey or RGB, of channels with or without opacity."""
    if len(values) in (1, 3):
        return values
    return values[:-1] * values[-1:] + (1 - values[-1:])


def _upright(image: Tensor, orientation: int) -> Tensor:
    """An image (C, H, W) turned and mirrored as its EXIF orientation asks."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 2)
    mirrored = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return image.flip(mirrored) if mirrored else image
