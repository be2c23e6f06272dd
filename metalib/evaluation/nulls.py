"""How similar are two unrelated images to a model? Null distributions, computed and loaded.

    null = null_distribution(model, "group3", images)       # a million random pairs of images
    null = load_null(model, "group3")                       # one that comes with a model
    keep_nulls("timm/resnet18", images)                     # for load_null, and all that asks it
"""

import contextlib
import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from metalib import metrics
from metalib.data import ImageSet, pixels
from metalib.evaluation.blocks import Rows, images_at_once, products
from metalib.evaluation.controls import repeated
from metalib.evaluation.criterion import METRICS, RANK_UNITS, NullDistribution, judge, published
from metalib.models import Model, load_model
from metalib.models.registry import kept_null_file, known_source, null_file
from metalib.notices import warn
from metalib.plain import SEEDS, whole
from metalib.store import atomic_write, fingerprint

FEW_IMAGES = 100  # with fewer, 4950 pairs, `null_distribution` warns

__all__ = ["METRICS", "RANK_UNITS", "NullDistribution", "judge", "keep_nulls", "load_null",
           "null_distribution", "save_nulls"]


def null_distribution(
    model: Model, stage: str, images: ImageSet | Tensor, *, pairs: int = 1_000_000, seed: int = 0,
    batch_size: int = 500, keep_copies: bool = False, memory: float = 2e9,
) -> NullDistribution:
    """Similarities, at a stage of a model, of random pairs of different natural images.

    Correlations of a million pairs are matrix products of standardised activations (for Spearman,
    of standardised ranks), of blocks of images that fit into `memory`. The ratio of signal to noise
    follows from the same products.

    Copies (see `metalib.evaluation.controls.are_copies`) are left out but for the first: a pair of
    them is no pair of unrelated images, and its similarity, near 1, would be the maximum. The fewer
    images, the more easily an unrelated one reaches the maximum by chance; take `FEW_IMAGES` at
    least, better some thousands. Below `criterion.LEAST_PAIRS` pairs there are no verdicts.

    Args:
        model, stage: whose activations.
        images: natural images, an ImageSet or a tensor (B, 3, H, W) in [0, 1], B at least 2.
        pairs: how many ordered pairs to draw, without replacement; all if there are not more.
        seed: of the draw.
        batch_size: images that go through the model together, at most.
        keep_copies: leave no image out.
        memory: bytes that may be in use beside the model and the images (of a GPU, those of the
            GPU). Activations that take more than half of it are kept in a temporary file; values
            are the same but for rounding.

    Returns:
        NullDistribution

    Raises:
        ValueError: fewer than two images, all copies of one, numbers that are not whole, images
            that the model cannot take, or activations that are not finite.
        OSError: no space for the temporary file.

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
    memory = whole("memory", memory, 1)
    model.check_stage(stage)
    count, where = len(images), f"{model.name}, {stage}"
    rows = torch.arange(count) if keep_copies else (~repeated(images)).nonzero().flatten()
    if count > 1 == len(rows):
        raise ValueError(f"all {count} images of the null are copies of one")
    if len(rows) < 2:
        raise ValueError(f"a null needs at least two images, not {len(rows)}")
    device = model.device if model.device.type == "cuda" else torch.device("cpu")
    first, second = _draw_pairs(len(rows), pairs, seed, device)
    at_once = images_at_once(
        [model.input_shape, *(model.shapes[name] for name in model.stages)], memory, batch_size)
    values = _similarities(
        model, stage, (images[some] for some in rows.split(at_once)), len(rows), first, second,
        memory)
    null = NullDistribution(
        {metric: value.sort(descending=True).values.cpu().numpy()
         for metric, value in values.items()},
        np.arange(1, len(first) + 1), len(first), math.prod(model.shapes[stage]),
        {"model": model.name, "fingerprint": fingerprint(model), "stage": stage,
         "images": f"{len(rows)} of {name}", "copies": count - len(rows), "seed": seed})
    _warn_of(null, where, len(rows))
    return null


@torch.no_grad()
def _similarities(
    model: Model, stage: str, batches: Iterable[Tensor], count: int, first: Tensor,
    second: Tensor, memory: float,
) -> dict[str, Tensor]:
    """Similarities (pairs,) by metric, of pairs of the `count` images in some batches."""
    device, units = first.device, math.prod(model.shapes[stage])
    norm, mean, spread = (torch.empty(count, device=device) for _ in range(3))
    with Rows(count, units, memory, device) as activations:
        done = 0
        for images in batches:
            batch = model.activations(images.to(model.device), stage).to(device)
            if not batch.isfinite().all():
                raise ValueError(f"{model.name}, {stage}: the activations of some images are not "
                                 "finite")
            activations.write(done, batch)
            part = slice(done, done := done + len(batch))
            norm[part] = torch.linalg.vector_norm(batch, dim=1)
            mean[part], spread[part] = batch.mean(1), batch.std(1, correction=0)
        pearson = products(activations, first, second, metrics.standardise)
        activations.change(lambda some: metrics.standardise(metrics.ranks(some)))
        spearman = products(activations, first, second)
    product = units * (pearson * spread[first] * spread[second] + mean[first] * mean[second])
    snr_db = metrics.snr_db_of_products(norm[first], norm[second], product)
    return {"pearson": pearson, "spearman": spearman, "snr_db": snr_db}


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


def keep_nulls(
    model: Model | str, images: ImageSet | Tensor, *, stages: Sequence[str] | None = None,
    **options: Any,
) -> Path:
    """Compute nulls of a model that comes with none, and keep them for `load_null`.

    From then on they stand where those of the bundled zoo do: in commands, studies and notebooks.
    Nulls of other stages that are kept already stay, if they are of the same model, images and
    seed.

    Args:
        model: one that `load_model` gives, or its name.
        images: natural images, best some thousand.
        stages: some of its stages; None takes all of them.
        options: as in `null_distribution`.

    Returns:
        The file, in the folder `nulls` of METALIB_DATA (default `~/.cache/metalib`).

    Raises:
        ValueError: a model with another name than `load_model` knows, one that comes with nulls,
            an unknown stage, or what `null_distribution` refuses.
        OSError: no space, or no right to write; what was kept before stays.
    """
    model = load_model(model) if isinstance(model, str) else model
    source, rest = known_source(model.name)
    if (shipped := source.nulls(rest)) is not None and shipped.is_file():
        raise ValueError(f"{model.name} comes with nulls, see load_null; to judge by others, pass "
                         "what null_distribution gives")
    wanted = list(stages or model.stages)
    for stage in wanted:
        model.check_stage(stage)
    nulls = [null_distribution(model, stage, images, **options).thinned() for stage in wanted]
    path = kept_null_file(model.name)
    kept = []
    for stage in shipped_stages(model.name) - set(wanted):
        with contextlib.suppress(ValueError):  # of weights that the model no longer has
            kept.append(load_null(model, stage))
    save_nulls(path, [*nulls, *(null for null in kept if _are_alike(null, nulls[0]))])
    return path


def _are_alike(null: NullDistribution, other: NullDistribution) -> bool:
    """Whether two nulls are of the same pairs of images."""
    return null.pairs == other.pairs and np.array_equal(null.order, other.order) and all(
        str(null.about[key]) == str(other.about[key]) for key in ("fingerprint", "images", "seed"))


def save_nulls(
    path: Path, nulls: Sequence[NullDistribution], about: dict[str, str] | None = None,
) -> None:
    """Write nulls of the stages of one model, of the same pairs of images, to one file.

    Args:
        path: of the file, which is replaced as a whole.
        nulls: as from `null_distribution`, best `thinned`.
        about: what else is to be known of the model; by default its fingerprint.
    """
    first = nulls[0]
    tensors = {f"{null.about['stage']}/{metric}": np.ascontiguousarray(values)
               for null in nulls for metric, values in null.values.items()}
    known = about or {"fingerprint": first.about["fingerprint"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        save_file(tensors | {"order": first.order}, temporary, known | {
            "pairs": str(first.pairs), "images": first.about["images"],
            "seed": str(first.about["seed"])})


def load_null(
    model: Model, stage: str, *, images: ImageSet | Tensor | None = None,
) -> NullDistribution:
    """The null that comes with a model, as with those of the bundled zoo, or that was kept.

    Those of the zoo are of a million pairs of the CIFAR-10 test images; for others see
    `keep_nulls`.

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
                         "compute one with null_distribution(model, stage, images), or once for "
                         f"all with metalib null {model.name} IMAGES")
    path = null_file(model.name)
    assert path is not None
    with safe_open(path, "numpy") as file:
        about = file.metadata()
        values = {metric: file.get_tensor(f"{stage}/{metric}") for metric in METRICS}
        order = file.get_tensor("order")
    if "weights_sha256" in about and about["weights_sha256"] != model.card.get("sha256"):
        raise ValueError(f"the null {path} belongs to other weights; "
                         "run python -m metalib.runs.train_zoo")
    identity = fingerprint(model)
    if identity != (about.get("fingerprint")
                    or _identity_as_loaded(model.name, path, path.stat().st_mtime_ns)):
        raise ValueError(f"the null that comes with {model.name} is of the network as load_model "
                         "gives it, and this one has other weights, another normalisation or other "
                         "code; compute one with null_distribution(model, stage, images)" + (
                             f", or once for all with metalib null {model.name} IMAGES"
                             if "fingerprint" in about else ""))
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

