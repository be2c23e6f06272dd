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
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.models import ResNet50_Weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from metalib.labels import CIFAR10
from metalib.previews import preview

PICTURES: set[str] = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1].
        labels: (B,) int64, indices into `class_names`; -1 where the class is unknown.
        class_names: names of the classes, possibly empty.
        name: where the images come from.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    name: str

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
        """The subset at `index`: an integer, slice, or list or tensor of indices or booleans."""
        if not isinstance(index, slice) and torch.as_tensor(index).ndim == 0:
            index = [int(index)]
        return replace(self, images=self.images[index], labels=self.labels[index])

    @property
    def sha256(self) -> str:
        """Hash of the 8-bit pixels and the labels, which identifies these images in a record."""
        values = (self.images * 255).round().to(torch.uint8).contiguous().numpy()
        return hashlib.sha256(values.tobytes() + self.labels.numpy().tobytes()).hexdigest()


def load_images(
    source: str, *, split: str | None = None, n: int | None = None, seed: int = 0,
    size: int | None = None, root: str | Path | None = None,
) -> ImageSet:
    """Load a set of images, in a fixed order.

    Args:
        source: "cifar10-samples", "imagenet-samples", "cifar10" or "folder:PATH".
        split: for "cifar10", "train" or "test" (the default); for a folder, the name of a
            sub-folder that holds the classes. The samples have no splits.
        n: number of images to keep, with equally many of each class as far as possible; None keeps
            all.
        seed: seed of the choice of these n.
        size: side in pixels. Pictures of another size are resized so that their shortest side has
            this length (bilinear, antialiased), and cropped at the centre. None keeps the size of
            each picture, but stands for 224 with "imagenet-samples".
        root: for "cifar10", the directory that holds or receives `cifar-10-batches-py` (default:
            the environment variable METALIB_DATA, or `~/.cache/metalib`).

    Raises:
        ValueError: an unknown source or split, an image that cannot be read, images of different
            sizes without `size`, or more images asked for than there are.
        FileNotFoundError: a folder that does not exist, CIFAR-10 if it is neither there nor can be
            downloaded, or samples without the package foolbox.

    Example:
        >>> images = load_images("cifar10-samples", n=10)
        >>> images.images.shape, images.class_names[images.labels[0]]
        (torch.Size([10, 3, 32, 32]), 'ship')
    """
    if source in ("cifar10-samples", "imagenet-samples"):
        if split is not None:
            raise ValueError(f"{source!r} has no splits; leave `split` out")
        images = _samples(source.removesuffix("-samples"),
                          size or (224 if source.startswith("imagenet") else 32))
    elif source == "cifar10":
        images = _cifar10(split or "test", size, root)
    elif source.startswith("folder:"):
        images = _folder(Path(source.removeprefix("folder:")).expanduser(), split, size)
    else:
        raise ValueError(f"unknown images {source!r}; "
                         "choose 'cifar10-samples', 'imagenet-samples', 'cifar10' or 'folder:PATH'")
    return images if n is None else images[stratified(images.labels, n, seed)]


def pixels(images: Any) -> Tensor:
    """The tensor (B, 3, H, W) of an ImageSet; a tensor is returned as it is."""
    return images.images if isinstance(images, ImageSet) else torch.as_tensor(images)


def to_8_bits(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to what an 8-bit file can hold, still as float32 in [0, 1]."""
    return (images * 255).round() / 255


def stratified(labels: Tensor, n: int, seed: int = 0) -> Tensor:
    """Ascending indices (n,) of a random subset, with equally many images of each class.

    Where n or the size of a class does not allow equal numbers, they are as equal as possible.

    Raises:
        ValueError: n is not between 1 and the number of labels.
    """
    if not 1 <= n <= len(labels):
        raise ValueError(f"cannot choose n={n} of {len(labels)} images")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    turn = torch.empty_like(order)  # for each image in this order: how many of its class precede it
    for label in labels.unique():
        members = (labels[order] == label).nonzero().flatten()
        turn[members] = torch.arange(len(members))
    return order[turn.argsort(stable=True)[:n]].sort().values


def read_image(path: str | Path, size: int | None = None) -> Tensor:
    """One picture file as float32 (3, H, W) in [0, 1].

    With `size`, its shortest side is resized to this length and the rest is cropped at the centre.

    Raises:
        ValueError: a file that cannot be read.
    """
    try:
        with Image.open(path) as file:
            values = transforms.pil_to_tensor(file.convert("RGB"))
    except OSError as error:
        raise ValueError(
            f"cannot read the image {path}: {error}; remove or replace the file") from error
    return _fit(values.float() / 255, size)


def _fit(image: Tensor, size: int | None) -> Tensor:
    """Images (..., 3, H, W) resized and centre-cropped to (..., 3, size, size)."""
    if size is None or image.shape[-2:] == (size, size):
        return image
    scale = size / min(image.shape[-2:])
    sides = [max(size, math.floor(side * scale + 0.5)) for side in image.shape[-2:]]
    image = transforms.resize(image, sides, InterpolationMode.BILINEAR, antialias=True)
    return transforms.center_crop(image, [size, size]).clamp(0, 1)


def _read_all(paths: list[Path], size: int | None) -> Tensor:
    images = [read_image(path, size) for path in paths]
    shapes = sorted({tuple(image.shape[1:]) for image in images})
    if len(shapes) > 1:
        raise ValueError(f"the images have different sizes, such as {shapes[0]} and {shapes[-1]}; "
                         "pass `size`")
    return torch.stack(images)


def _samples(dataset: str, size: int) -> ImageSet:
    """The images `<dataset>_<number>_<label>.<ending>` that the package foolbox ships.

    Foolbox itself is not imported.
    """
    foolbox: Any = importlib.util.find_spec("foolbox")
    paths = sorted(
        (Path(foolbox.origin).parent / "data").glob(f"{dataset}_??_*.*")) if foolbox else []
    if not paths:
        raise FileNotFoundError("the sample images come with the package foolbox, which is not "
                                "installed or not complete: pip install foolbox==3.3.4")
    labels = torch.tensor([int(path.stem.rpartition("_")[2]) for path in paths])
    class_names = CIFAR10 if dataset == "cifar10" else tuple(
        ResNet50_Weights.DEFAULT.meta["categories"])
    return ImageSet(_read_all(paths, size), labels, class_names, f"{dataset}-samples")


def _cifar10(split: str, size: int | None, root: str | Path | None) -> ImageSet:
    if split not in ("train", "test"):
        raise ValueError(f"'cifar10' has the splits 'train' and 'test', not {split!r}")
    root = Path(
        root or os.environ.get("METALIB_DATA") or Path.home() / ".cache" / "metalib").expanduser()
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
    return ImageSet(_fit(images, size), torch.tensor(files.targets), CIFAR10, f"cifar10-{split}")


def _folder(folder: Path, split: str | None, size: int | None) -> ImageSet:
    """All pictures below `folder/split`.

    They are in alphabetical order of their classes, then in natural order of their file names
    ("2.png" before "10.png").
    """
    folder = folder / split if split else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in PICTURES]
    if not paths:
        raise ValueError(f"{folder} holds no pictures ({', '.join(sorted(PICTURES))})")
    class_of = {path: path.relative_to(folder).parts[0] if path.parent != folder else ""
                for path in paths}
    class_names = tuple(sorted(set(class_of.values()) - {""}))
    paths.sort(key=lambda path: (class_of[path], [
        int(part) if part.isdigit() else part
        for part in re.split(r"(\d+)", str(path.relative_to(folder)))]))
    labels = torch.tensor(
        [class_names.index(class_of[path]) if class_of[path] else -1 for path in paths])
    return ImageSet(_read_all(paths, size), labels, class_names,
                    f"folder:{folder.name if not split else folder.parent.name}")
