"""How similar are two unrelated images to a model? Null distributions, computed and loaded.

    null = null_distribution(model, "group3", images)       # a million random pairs of images
    null = load_null(model, "group3")                       # one that comes with a model
"""

import functools
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metalib import metrics
from metalib.data import ImageSet, pixels
from metalib.evaluation.controls import repeated
from metalib.evaluation.criterion import METRICS, RANK_UNITS, NullDistribution, judge, published
from metalib.models import Model, load_model
from metalib.models.registry import null_file
from metalib.notices import warn
from metalib.plain import SEEDS, whole
from metalib.store import fingerprint

FEW_IMAGES = 100  # with fewer, 4950 pairs, `null_distribution` warns

__all__ = ["METRICS", "RANK_UNITS", "NullDistribution", "judge", "load_null", "null_distribution"]


def null_distribution(
    model: Model, stage: str, images: ImageSet | Tensor, *, pairs: int = 1_000_000, seed: int = 0,
    batch_size: int = 500, keep_copies: bool = False,
) -> NullDistribution:
    """Similarities, at a stage of a model, of random pairs of different natural images.

    Correlations of a million pairs are matrix products of standardised activations (for Spearman,
    of standardised ranks), computed for the drawn pairs only. The ratio of signal to noise follows
    from the same products.

    Copies (see `metalib.evaluation.controls.are_copies`) are left out but for the first: a pair of
    them is no pair of unrelated images, and its similarity, near 1, would be the maximum. The fewer
    images, the more easily an unrelated one reaches the maximum by chance; take `FEW_IMAGES` at
    least, better some thousands. Below `criterion.LEAST_PAIRS` pairs there are no verdicts.

    Args:
        model, stage: whose activations.
        images: natural images, an ImageSet or a tensor (B, 3, H, W) in [0, 1], B at least 2.
        pairs: how many ordered pairs to draw, without replacement; all if there are not more.
        seed: of the draw.
        batch_size: images that go through the model together.
        keep_copies: leave no image out.

    Returns:
        NullDistribution. Memory: about five times B x D float32 numbers.

    Raises:
        ValueError: fewer than two images, all copies of one, numbers that are not whole, images
            that the model cannot take, or activations that are not finite.

    Warns:
        UserWarning: copies were left out; there are few images; or no verdict can rest on the null,
            see `NullDistribution.flaw`.

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
    model.check_stage(stage)
    count, where = len(images), f"{model.name}, {stage}"
    if not keep_copies:
        images = images[~repeated(images)]
    if count > 1 == len(images):
        raise ValueError(f"all {count} images of the null are copies of one")
    if len(images) < 2:
        raise ValueError(f"a null needs at least two images, not {len(images)}")
    with torch.no_grad():
        activations = torch.cat([model.activations(batch.to(model.device), stage)
                                 for batch in images.split(batch_size)])
    if not activations.is_cuda:  # sampled products run on these two only
        activations = activations.cpu()
    if not activations.isfinite().all():
        raise ValueError(f"{where}: the activations of some images are not finite")
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
    null = NullDistribution(
        {metric: value.sort(descending=True).values.cpu().numpy()
         for metric, value in values.items()},
        np.arange(1, len(first) + 1), len(first), units,
        {"model": model.name, "fingerprint": fingerprint(model), "stage": stage,
         "images": f"{len(images)} of {name}", "copies": count - len(images), "seed": seed})
    _warn_of(null, where, len(images))
    return null


def _warn_of(null: NullDistribution, where: str, count: int) -> None:
    """Warn, in a line each, of what is to be known of a null of so many images."""
    if copies := null.about["copies"]:
        warn(f"{where}: {copies} of {count + copies} images are copies of others and were left "
             "out of the null; keep_copies=True keeps them")
    if flaw := published(null).flaw:
        warn(f"{where}: {flaw}; verdicts by this null are undefined, and nothing passes")
    elif count < FEW_IMAGES:
        warn(f"{where}: the null is of {count} images only, so that its maximum is easily reached "
             f"by chance, and no p-value by it is below {1 / (null.pairs + 1):.2g}; take "
             f"{FEW_IMAGES} at least, better some thousands")


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
            for other weights, another normalisation or other code than the model has now.
    """
    model.check_stage(stage)
    if stage not in shipped_stages(model.name):
        if images is not None:
            return null_distribution(model, stage, images)
        raise ValueError(f"no null ships for {model.name}, {stage}; "
                         "compute one with null_distribution(model, stage, images)")
    path = null_file(model.name)
    assert path is not None
    with safe_open(path, "numpy") as file:
        about = file.metadata()
        values = {metric: file.get_tensor(f"{stage}/{metric}") for metric in METRICS}
        order = file.get_tensor("order")
    if about["weights_sha256"] != model.card["sha256"]:
        raise ValueError(f"the null {path} belongs to other weights; "
                         "run python -m metalib.runs.train_zoo")
    identity = fingerprint(model)
    if identity != _identity_as_loaded(model.name, path, path.stat().st_mtime_ns):
        raise ValueError(f"the null that comes with {model.name} is of the network as load_model "
                         "gives it, and this one has other weights, another normalisation or other "
                         "code; compute one with null_distribution(model, stage, images)")
    return NullDistribution(
        values, order, int(about["pairs"]), math.prod(model.shapes[stage]),
        {"model": model.name, "fingerprint": identity, "stage": stage,
         "images": about["images"], "seed": int(about["seed"])})


@functools.lru_cache(maxsize=64)
def _identity_as_loaded(name: str, _null: Path, _changed: int) -> str:
    """The fingerprint of a model as it is on disk, beside the file of its nulls as it is now."""
    return fingerprint(load_model(name))


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
