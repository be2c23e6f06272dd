"""What people said of the test images of CIFAR-10, where a user has the data.

    table = cifar10h("cifar10h-counts.npy", metalib.load_images("cifar10", split="test"))
    table["recognised"].mean()          # what networks may be measured by on natural images

CIFAR-10H (Peterson et al. 2019, doi:10.1109/ICCV.2019.00971) has about fifty judgements of each of
the 10,000 images. Its licence is CC BY-NC-SA 4.0, so that it does not come with this package:
github.com/jcpeterson/cifar-10h.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from metalib.data import ImageSet
from metalib.labels import CIFAR10, places


def cifar10h(path: str | Path, images: ImageSet) -> pd.DataFrame:
    """The judgements of CIFAR-10H, image by image.

    Args:
        path: `cifar10h-counts.npy`, (10000, 10), how many people chose each class for each image.
        images: the whole test set in its own order, with the classes of CIFAR-10.

    Returns:
        pandas.DataFrame, one row for each image: `image`, `category`, `answer` (that of most
        people), `recognised` (the share of right judgements), `agreement` (the share of the answer
        of most), `entropy` (of the judgements, in bits), `judgements` (their number), and
        `reliability`, the correlation that the shares of right judgements would have with those of
        as many other people: a binomial estimate, the same in each row.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table, or images of another number or other classes.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; cifar10h-counts.npy is in the "
                                "repository jcpeterson/cifar-10h, in its folder data")
    try:
        counts = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as an array of numpy ({error})") from error
    if counts.ndim != 2 or counts.shape[1] != len(CIFAR10) or (counts < 0).any() or (
            counts != counts.round()).any() or (counts.sum(1) < 2).any():
        raise ValueError(f"{path} holds no counts of ten classes, two judgements an image at least "
                         f"(its shape is {counts.shape}); take cifar10h-counts.npy, not the shares")
    if len(images) != len(counts):
        raise ValueError(f"{path} is of {len(counts):,} images, and there are {len(images):,}: "
                         "load the whole test set, in its own order")
    own = places(images.class_names, CIFAR10)
    if -1 in own or (images.labels < 0).any():
        raise ValueError("the images have to have the classes of CIFAR-10")
    label = np.asarray(own)[images.labels.numpy()]
    number = counts.sum(1)
    share = counts / number[:, None]
    right = share[np.arange(len(counts)), label]
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -np.where(share > 0, share * np.log2(share), 0).sum(1)
    noise = (right * (1 - right) / (number - 1)).mean()  # unbiased, of the shares about the truth
    spread = right.var(ddof=1) if len(right) > 1 else 0.0
    names = np.asarray(CIFAR10)
    return pd.DataFrame({
        "image": np.arange(len(counts)), "category": names[label],
        "answer": names[share.argmax(1)], "recognised": right, "agreement": share.max(1),
        "entropy": bits, "judgements": number.astype(int),
        "reliability": max(0.0, 1 - noise / spread) if spread else float("nan")})
