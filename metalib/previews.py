"""What a notebook shows of an object that holds images: its line, and a strip of thumbnails.

    html = preview("<20 images of cifar10-samples>", [images])
"""

import base64
import html
import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

MOST = 10  # thumbnails in a row
LARGEST = 70_000  # bytes of the strip, which base64 makes a third more
GAP = 2  # pixels between thumbnails


def preview(line: str, rows: Sequence[Tensor]) -> str:
    """HTML of a line of text and, below it, a row of thumbnails for each tensor of images.

    Args:
        line: what `repr` says of the object.
        rows: tensors (B, C, H, W) in [0, 1] of one shape; the first `MOST` images are shown.
    """
    text = f"<div><code>{html.escape(line)}</code></div>"
    if not all(len(images) and images[0].numel() for images in rows):
        return text
    strip = strip_of(rows)
    height = Image.open(io.BytesIO(strip)).height
    scale = max(1, round(64 * len(rows) / height))  # small pictures are enlarged by the browser
    content = base64.b64encode(strip).decode()
    return (f'{text}<img alt="{html.escape(line)}" src="data:image/png;base64,{content}" '
            f'style="height:{scale * height}px;max-width:100%;object-fit:contain;'
            f'object-position:left;image-rendering:pixelated">')


def strip_of(rows: Sequence[Tensor]) -> bytes:
    """Rows of thumbnails as a PNG file of at most `LARGEST` bytes: the larger, the smaller each."""
    for side in (64, 48, 32, 16):
        file = io.BytesIO()
        _pasted([[_thumbnail(image, side) for image in images[:MOST]] for images in rows]).save(
            file, "PNG", optimize=True)
        if len(file.getvalue()) <= LARGEST:
            break
    return file.getvalue()


def _pasted(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures of one size on white, row by row."""
    width, height = (side + GAP for side in rows[0][0].size)
    canvas = Image.new("RGB", (max(map(len, rows)) * width - GAP, len(rows) * height - GAP),
                       "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            canvas.paste(picture, (column * width, row * height))
    return canvas


def _thumbnail(image: Tensor, side: int) -> Image.Image:
    """An image (C, H, W) as a picture of which no side is longer than `side` pixels.

    One channel is grey; of more than three the first three are shown.
    """
    image = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    image = (image.detach().cpu().float().nan_to_num().clamp(0, 1) * 255).round()
    picture = Image.fromarray(image.to(torch.uint8).movedim(0, -1).contiguous().numpy())
    picture.thumbnail((side, side))
    return picture
