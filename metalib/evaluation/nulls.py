"""How similar are two unrelated images to a model? Null distributions, computed and loaded.

    null = null_distribution(model, "group3", images)       # a million random pairs of images
    null = load_null(model, "group3")                       # one that comes with a model
"""

import math
import warnings

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metalib import metrics
from metalib.data import ImageSet, pixels
from metalib.evaluation.criterion import METRICS, RANK_UNITS, NullDistribution, judge
from metalib.models import Model
from metalib.models.registry import null_file
from metalib.plain import SEEDS, whole

__all__ = ["METRICS", "RANK_UNITS", "NullDistribution", "judge", "load_null", "null_distribution"]


def null_distribution(
    model: Model, stage: str, images: ImageSet | Tensor, *, pairs: int = 1_000_000, seed: int = 0,
    batch_size: int = 500,
) -> NullDistribution:
    """Similarities, at a stage of a model, of random pairs of different natural images.

    Correlations of a million pairs are matrix products of standardised activations (for Spearman,
    of standardised ranks), computed for the drawn pairs only. The ratio of signal to noise follows
    from the same products.

    Args:
        model, stage: whose activations.
        images: natural images, an ImageSet or a tensor (B, 3, H, W) in [0, 1], B at least 2.
        pairs: how many ordered pairs to draw, without replacement; all if there are not more.
        seed: of the draw.
        batch_size: images that go through the model together.

    Returns:
        NullDistribution. Memory: about five times B x D float32 numbers.

    Raises:
        ValueError: fewer than two images, numbers that are not whole, images that the model cannot
            take, or activations that are not finite.

    Example:
        >>> from metalib import load_images, load_model, null_distribution
        >>> model, images = load_model("zoo/vgg-standard-0"), load_images("cifar10-samples")
        >>> null = null_distribution(model, "group3", images)
        >>> null.pairs, null.maximum["pearson"] < 1
        (380, True)
    """
    name = images.name if isinstance(images, ImageSet) else "given"
    images, seed = pixels(images), whole("seed", seed, *SEEDS)
    pairs, batch_size = whole("pairs", pairs, 1), whole("batch_size", batch_size, 1)
    if len(images) < 2:
        raise ValueError(f"a null needs at least two images, not {len(images)}")
    with torch.no_grad():
        activations = torch.cat([model.activations(batch.to(model.device), stage)
                                 for batch in images.split(batch_size)])
    if not activations.is_cuda:  # sampled products run on these two only
        activations = activations.cpu()
    if not activations.isfinite().all():
        raise ValueError(f"{model.name}, {stage}: the activations of some images are not finite")
    first, second = _draw_pairs(len(images), pairs, seed, activations.device)

    units = activations.shape[1]
    norm = torch.linalg.vector_norm(activations, dim=1)
    mean, spread = activations.mean(1), activations.std(1, correction=0)
    pearson = _products(metrics.standardise(activations), first, second)
    for batch in activations.split(batch_size):  # in place: activations are no longer needed
        batch.copy_(metrics.standardise(metrics.ranks(batch)))
    spearman = _products(activations, first, second)
    product = units * (pearson * spread[first] * spread[second] + mean[first] * mean[second])
    snr_db = metrics.snr_db_of_products(norm[first], norm[second], product)
    values = {"pearson": pearson, "spearman": spearman, "snr_db": snr_db}
    return NullDistribution(
        {metric: value.sort(descending=True).values.cpu().numpy()
         for metric, value in values.items()},
        np.arange(1, len(first) + 1), len(first), units,
        {"model": model.name, "stage": stage, "images": f"{len(images)} of {name}", "seed": seed})


def load_null(
    model: Model, stage: str, *, images: ImageSet | Tensor | None = None,
) -> NullDistribution:
    """The null that comes with a model, as with those of the bundled zoo.

    Theirs are of a million pairs of the CIFAR-10 test images.

    Args:
        model, stage: whose null.
        images: natural images from which to compute a null where none ships; None raises an error
            instead.

    Raises:
        ValueError: a model that has none, an unknown stage, or a null that is damaged or was made
            for other weights.
    """
    model.check_stage(stage)
    if stage not in shipped_stages(model.name):
        if images is not None:
            return null_distribution(model, stage, images)
        raise ValueError(f"no null ships for {model.name}, {stage}; "
                         "compute one with null_distribution(model, stage, images)")
    path = null_file(model.name)
    with safe_open(path, "numpy") as file:
        about = file.metadata()
        values = {metric: file.get_tensor(f"{stage}/{metric}") for metric in METRICS}
        order = file.get_tensor("order")
    if about["weights_sha256"] != model.card["sha256"]:
        raise ValueError(f"the null {path} belongs to other weights; "
                         "run python -m metalib.runs.train_zoo")
    return NullDistribution(
        values, order, int(about["pairs"]), math.prod(model.shapes[stage]),
        {"model": model.name, "stage": stage, "images": about["images"],
         "seed": int(about["seed"])})


def shipped_stages(name: str) -> set[str]:
    """The stages of a model, by its name, for which a null comes with it.

    Raises:
        ValueError: the file of its nulls is damaged.
    """
    path = null_file(name)
    if path is None:
        return set()
    try:
        with safe_open(path, "numpy") as file:
            return {key.rpartition("/")[0] for key in file.keys()} - {""}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"the null {path} is damaged ({error}); "
                         "restore it from the repository") from error


def _draw_pairs(
    count: int, pairs: int, seed: int, device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Indices (pairs,) of ordered pairs of different images, without repetition, sorted.

    All pairs if there are not more.
    """
    possible = count * (count - 1)
    generator = torch.Generator().manual_seed(seed)
    if pairs >= possible:
        code = torch.arange(possible)
    elif 4 * pairs >= possible:
        code = torch.randperm(possible, generator=generator)[:pairs].sort().values
    else:  # more than are needed, without repetitions, and of these as many as are needed
        code = torch.randint(possible, (pairs + pairs // 3,), generator=generator).unique()
        code = code[torch.randperm(len(code), generator=generator)[:pairs]].sort().values
    first, second = code // (count - 1), code % (count - 1)
    second = second + (second >= first)
    return first.to(device), second.to(device)


def _products(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Inner products of pairs of rows: a dense-dense product sampled at the pairs.

    Pairs are sorted by `first`.
    """
    count = len(rows)
    starts = torch.zeros(count + 1, dtype=torch.int64, device=rows.device)
    starts[1:] = torch.bincount(first, minlength=count).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")  # that it is in beta state
        at_pairs = torch.sparse_csr_tensor(
            starts, second, torch.zeros(len(second), device=rows.device, dtype=rows.dtype),
            size=(count, count), check_invariants=True)
        return torch.sparse.sampled_addmm(at_pairs, rows, rows.T, beta=0).values()
