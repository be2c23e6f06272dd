"""Sets of images as float32 pixels in [0, 1]: bundled samples, CIFAR-10, and folders of pictures.

    images = load_images("cifar10-samples")             # 20 original CIFAR-10 test images
    images = load_images("imagenet-samples", size=224)  # 20 ImageNet validation images
    images = load_images("cifar10", split="test", n=400, seed=0)  # torchvision's CIFAR-10
    images = load_images("folder:PATH", size=32)  # any folder of pictures; sub-folders are classes

The samples need no network.
"""

import hashlib
import importlib.util
import math
import operator
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from metalib.folders import Found, data_folder, pictures_in
from metalib.labels import CIFAR10, IMAGENET
from metalib.pictures import fit, luminance, read_image, sides_of
from metalib.previews import preview

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1]; (B, 1, H, W) for networks that see grey.
        labels: (B,) int64, indices into `class_names`; -1 where the class is unknown.
        class_names: names of the classes, possibly empty.
        name: where the images come from.
        files: (B,) names of the files that the images come from, relative to the folder; empty
            where they are not known.

    Raises:
        ValueError: images, labels or files that are not as described.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    name: str
    files: tuple[str, ...] = ()

    def __post_init__(self):
        if pixels(self.images) is not self.images:
            raise ValueError("the images of an ImageSet are a float32 tensor, not "
                             f"{_kind(self.images)}; torch.as_tensor(images).float() makes one")
        check_range(self.images)
        count = len(self.images)
        if (not isinstance(self.labels, Tensor) or self.labels.dtype != torch.int64
                or self.labels.shape != (count,)):
            raise ValueError(f"the labels of {count} images are an int64 tensor ({count},), with "
                             f"-1 where the class is not known, not {_kind(self.labels)}")
        if isinstance(self.class_names, str):
            raise ValueError("class_names is a tuple of names, such as ('cat', 'dog')")
        if count and (self.labels.min() < -1 or self.class_names
                      and self.labels.max() >= len(self.class_names)):
            raise ValueError(f"labels reach from {self.labels.min()} to {self.labels.max()}, but "
                             f"there are {len(self.class_names)} class names; -1 stands for none")
        if len(self.files) not in (0, count):
            raise ValueError(f"{count} images cannot come from {len(self.files)} files")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self):
        height, width = self.images.shape[-2:]
        grey = ", grey" if self.images.shape[1] == 1 else ""
        known = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"<{len(self)} images of {self.name}: {height} x {width} pixels{grey}{known}>"

    def _repr_html_(self) -> str:
        return preview(repr(self), [self.images])

    def __getitem__(self, index: Any) -> Self:
        """The subset at `index`: an integer, slice, or array of integers or booleans.

        Raises:
            IndexError: images that are not there, or an index of another kind.
        """
        rows = rows_at(index, len(self))
        files = tuple(self.files[row] for row in rows.tolist()) if self.files else ()
        return replace(self, images=self.images[rows], labels=self.labels[rows], files=files)

    @property
    def sha256(self) -> str:
        """Hash of the 8-bit pixels and the labels, which identifies these images in a record."""
        values = to_bytes(self.images).contiguous().cpu().numpy()
        return hashlib.sha256(values.tobytes() + self.labels.cpu().numpy().tobytes()).hexdigest()


def rows_at(index: Any, count: int) -> Tensor:
    """Which of `count` images an index means, (n,) int64 from 0 up.

    Args:
        index: an integer, a slice, or a list, array or tensor (n,) of integers or (count,) of
            booleans. Negative numbers count from the end.

    Raises:
        IndexError: images that are not there, or an index of another kind.
    """
    if isinstance(index, slice):
        return torch.tensor(range(count)[index], dtype=torch.int64)
    try:
        rows = index.cpu() if isinstance(index, Tensor) else torch.tensor(np.asarray(index))
    except (TypeError, ValueError, RuntimeError):
        rows = torch.empty(0, 0)
    if rows.dtype == torch.bool and rows.shape == (count,):
        return rows.nonzero().flatten()
    if rows.ndim > 1 or rows.dtype in (torch.bool, *FLOATS) and rows.shape != (0,):
        raise IndexError("images are chosen by an integer, a slice, or a list or array of integers "
                         f"or of {count} booleans, not by {_kind(index)}")
    rows = rows.reshape(-1).long()
    if len(wrong := rows[(rows < -count) | (rows >= count)]):
        raise IndexError(f"there is no image {wrong[0]}: there are {count}")
    return torch.where(rows < 0, rows + count, rows)


def load_images(
    source: str, *, split: str | None = None, n: int | None = None, seed: int = 0,
    size: int | tuple[int, int] | None = None, crop: float = 1.0, grey: bool = False,
    labels: str | Path | None = None, root: str | Path | None = None,
) -> ImageSet:
    """Load a set of images, in a fixed order.

    Pictures show what a viewer shows, see `metalib.pictures.read_image`: photographs upright, any
    depth scaled to [0, 1], transparent parts on white, colours in sRGB. What cannot be read so is
    refused. In a folder, hidden files are left out, links are followed, and a warning says in one
    line what else is no picture.

    Args:
        source: "cifar10-samples", "imagenet-samples", "cifar10" or "folder:PATH". The classes of a
            folder are its sub-folders; pictures further down belong to the class above them.
        split: for "cifar10", "train" or "test" (the default); for a folder, the name of a
            sub-folder that holds the classes. The samples have no splits.
        n: number of images to keep, with equally many of each class as far as possible; None keeps
            all.
        seed: seed of the choice of these n.
        size: side in pixels, or (height, width). Pictures of another size are resized so that they
            just cover it (bilinear, antialiased), and cropped at the centre. None keeps the size of
            each picture, but stands for 224 with "imagenet-samples".
        crop: the share of a picture's shorter side that is kept: pictures are resized to cover
            `size` / `crop`, whatever their size. .875 is usual for ImageNet (256 pixels, of which
            224).
        grey: give the luminance, (B, 1, H, W), for networks with one input channel.
        labels: for a folder, a table of its pictures' classes, in place of its sub-folders: a CSV
            file with a header, whose column `file` has their names (with their path in the folder,
            or without) and whose column `class` has classes: names, WordNet ids, or whole numbers,
            which are taken as they are. Without columns of these names the first two are meant.
            A relative path is one from the folder, or else from here.
        root: for "cifar10", the directory that holds or receives `cifar-10-batches-py` (default:
            the environment variable METALIB_DATA, or `~/.cache/metalib`).

    Raises:
        ValueError: an unknown source or split, a file that is damaged or not understood, images of
            different sizes without `size`, more images asked for than there are, a folder of
            splits without `split`, or a table of labels that is not understood or misses pictures.
        FileNotFoundError: a folder or a table that does not exist, CIFAR-10 if it is neither there
            nor can be downloaded, or samples without the package foolbox.
        OSError: a file where a folder should be, or what may not be read.

    Example:
        >>> images = load_images("cifar10-samples", n=10)
        >>> images.images.shape, images.class_names[images.labels[0]]
        (torch.Size([10, 3, 32, 32]), 'ship')
    """
    sides, folder = sides_of(size), isinstance(source, str) and source.startswith("folder:")
    if labels is not None and not folder:
        raise ValueError(f"a table of labels is for the pictures of a folder, not for {source!r}")
    if source == "cifar10":
        images = _cifar10(split or "test", root)
        chosen = images if n is None else images[stratified(images.labels, n, seed)]
        values = fit(chosen.images, sides, crop)
        return replace(chosen, images=luminance(values).clamp(0, 1) if grey else values)
    if source in ("cifar10-samples", "imagenet-samples"):
        if split is not None:
            raise ValueError(f"{source!r} has no splits; leave `split` out")
        found = _samples(source.removesuffix("-samples"))
        sides = sides or ((224, 224) if source.startswith("imagenet") else (32, 32))
    elif folder and source != "folder:":
        top = _folder(source.removeprefix("folder:"))
        table = labels and (top / labels if (top / labels).exists() else Path(labels))
        found = pictures_in(top, split, table or None)
    else:
        raise ValueError(f"unknown images {source!r}; "
                         "choose 'cifar10-samples', 'imagenet-samples', 'cifar10' or 'folder:PATH'")
    rows = (torch.arange(len(found.labels)) if n is None
            else stratified(found.labels, n, seed)).tolist()
    return ImageSet(_read_all([found.paths[row] for row in rows], sides, crop, grey),
                    found.labels[rows], found.class_names, found.name,
                    tuple(found.files[row] for row in rows))


def pixels(images: Any) -> Tensor:
    """The tensor (B, 3, H, W) or (B, 1, H, W) of an ImageSet; such a tensor as it is.

    Other floating-point tensors, and NumPy arrays, become float32 tensors.

    Raises:
        ValueError: not floating point, or another shape.
    """
    if isinstance(images, ImageSet):
        return images.images
    if not (isinstance(images, Tensor) or hasattr(images, "__array__")) or isinstance(
            images, Image.Image):
        raise ValueError("images are an ImageSet, as load_images returns it, or a tensor "
                         f"(B, 3, H, W) in [0, 1], not {_kind(images)}")
    tensor = torch.as_tensor(images)
    if not tensor.is_floating_point():
        raise ValueError(f"images must be floating point in [0, 1], not {tensor.dtype}; "
                         "divide 8-bit images by 255")
    if tensor.ndim != 4 or tensor.shape[1] not in (1, 3):
        last = tensor.ndim == 4 and tensor.shape[-1] in (1, 3)
        raise ValueError(
            f"images have the shape (B, 3, H, W), not {tuple(tensor.shape)}" + (
                "; images.permute(0, 3, 1, 2) brings the channels to the front" if last else
                "; images[None] makes a batch of one image" if tensor.ndim == 3 else ""))
    return tensor.float()


def check_range(images: Tensor, *, outside: bool = False) -> None:
    """Raise a ValueError unless pixels are finite and, but with `outside`, in [0, 1]."""
    low, high = images.detach().aminmax() if images.numel() else (torch.zeros(()),) * 2
    finite = math.isfinite(low) and math.isfinite(high)
    if not finite or not outside and (low < 0 or high > 1):
        raise ValueError(f"pixels must be finite and in [0, 1], but reach from {low.item():.4g} to "
                         f"{high.item():.4g}; normalisation is inside the model, so pass plain "
                         "pixels")


def _kind(value: Any) -> str:
    """What kind of thing a value is, for a message."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, (list, tuple)) and len(value):
        return f"a {type(value).__name__} of {type(value[0]).__name__}"
    return f"{type(value).__name__} {value!r}"[:80]


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as the uint8 that an 8-bit file would hold."""
    return (images * 255).round().to(torch.uint8)


def to_8_bits(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to what an 8-bit file can hold, still as float32 in [0, 1]."""
    return (images * 255).round() / 255


def stratified(labels: Tensor, n: int, seed: int = 0) -> Tensor:
    """Ascending indices (n,) of a random subset, with equally many images of each class.

    Where n or the size of a class does not allow equal numbers, they are as equal as possible.

    Raises:
        ValueError: n is not between 1 and the number of labels, or no whole number.
    """
    try:
        n, seed = operator.index(n), operator.index(seed)
    except TypeError as error:
        raise ValueError(f"n and seed are whole numbers, not {n!r} and {seed!r}") from error
    if not 1 <= n <= len(labels):
        raise ValueError(f"cannot choose n={n} of {len(labels)} images")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    turn = torch.empty_like(order)  # for each image in this order: how many of its class precede it
    for label in labels.unique():
        members = (labels[order] == label).nonzero().flatten()
        turn[members] = torch.arange(len(members))
    return order[turn.argsort(stable=True)[:n]].sort().values


def _read_all(
    paths: list[Path], size: tuple[int, int] | None, crop: float, grey: bool,
) -> Tensor:
    images = [read_image(path, size, crop=crop, grey=grey) for path in paths]
    shapes = sorted({tuple(image.shape[1:]) for image in images})
    if len(shapes) > 1:
        raise ValueError(f"the images have different sizes, such as {shapes[0]} and {shapes[-1]}; "
                         "pass `size`")
    return torch.stack(images)


def _samples(dataset: str) -> Found:
    """The images `<dataset>_<number>_<label>.<ending>` that the package foolbox ships.

    Foolbox itself is not imported.
    """
    foolbox = importlib.util.find_spec("foolbox")
    places = (foolbox.submodule_search_locations or []) if foolbox else []
    paths = sorted(path for place in places
                   for path in (Path(place) / "data").glob(f"{dataset}_??_*.*"))
    if len(paths) < 20:
        raise FileNotFoundError("the sample images come with the package foolbox, which is not "
                                "installed or not complete: pip install foolbox==3.3.4")
    labels = torch.tensor([int(path.stem.rpartition("_")[2]) for path in paths])
    class_names = CIFAR10 if dataset == "cifar10" else IMAGENET
    return Found(paths, [path.name for path in paths], labels, class_names, f"{dataset}-samples")


def _folder(path: str) -> Path:
    """A folder by its path, from here or else from the folder METALIB_DATA."""
    here, data = Path(path).expanduser(), os.environ.get("METALIB_DATA")
    there = Path(data).expanduser() / path if data else here
    return here if here.exists() or not there.exists() else there


def _cifar10(split: str, root: str | Path | None) -> ImageSet:
    if split not in ("train", "test"):
        raise ValueError(f"'cifar10' has the splits 'train' and 'test', not {split!r}")
    root = Path(root).expanduser() if root else data_folder()
    try:
        files = datasets.CIFAR10(
            root, train=split == "train", download=not (root / "cifar-10-batches-py").is_dir())
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"CIFAR-10 is not complete in {root} and could not be downloaded ({error}). "
            "Get cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html, "
            f"unpack it so that {root / 'cifar-10-batches-py'} exists, "
            "or name the directory that holds it with root=... or the environment variable "
            "METALIB_DATA. Without a network, load_images('cifar10-samples') has 20 of its images."
        ) from error
    images = torch.from_numpy(files.data).permute(0, 3, 1, 2).contiguous().float() / 255
    return ImageSet(images, torch.tensor(files.targets), CIFAR10, f"cifar10-{split}")
