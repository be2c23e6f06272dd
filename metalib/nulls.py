"""How similar are two unrelated images to a model? Null distributions, and the criterion that a metamer has to pass.

    null = null_distribution(model, "group3", images)       # a million random pairs of natural images
    null = load_null(model, "group3")                       # the one that ships with a model of the bundled zoo
    table = judge(model, "group3", metamers, null)
"""
import math
import warnings
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open

from metalib import metrics, zoo
from metalib.data import ImageSet, pixels, to_8_bits

METRICS = {"pearson": metrics.pearson, "spearman": metrics.spearman, "snr_db": metrics.snr_db}

RANK_UNITS = 50  # below so many units Spearman is reported but does not gate: some unrelated images share a ranking


@dataclass(frozen=True)
class NullDistribution:
    """Similarities of random pairs of natural images at one stage of a model, for each metric of `METRICS`.

    Attributes:
        values: for each metric, float32 order statistics (K,) in descending order.
        order: (K,) int64, which order statistic each of them is; the first is 1, the maximum. All of 1 to `pairs`, or for
            the bundled nulls the first 300 and a selection of the others.
        pairs: the number of pairs.
        units: the number of units of the stage.
        about: a plain dict: model, stage, images, seed.
    """
    values: dict[str, np.ndarray]
    order: np.ndarray
    pairs: int
    units: int
    about: dict = field(default_factory=dict)

    @property
    def gates(self):
        """The metrics that the criterion asks for: all three, without Spearman where there are fewer than `RANK_UNITS` units."""
        return tuple(metric for metric in METRICS if metric != "spearman" or self.units >= RANK_UNITS)

    @property
    def maximum(self):
        """The largest similarity of all pairs, by metric: the threshold of the published criterion."""
        return {metric: float(values[0]) for metric, values in self.values.items()}

    def quantile(self, q):
        """The q-quantile (between 0 and 1) by metric, interpolated linearly as numpy.quantile does."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is asked for by a number between 0 and 1, not {q}")
        position = 1 + (1 - q) * (self.pairs - 1)
        return {metric: float(np.interp(position, self.order, values)) for metric, values in self.values.items()}

    def p_value(self, metric, values):
        """Share of pairs at least as similar as each of `values`, (b + 1) / (pairs + 1); one-sided, never 0.

        Where only some order statistics are kept, the p-value is at most the distance of two of them too large.
        Phipson & Smyth 2010, doi:10.2202/1544-6115.1585. NaN gives 1.
        """
        if metric not in self.values:
            raise ValueError(f"unknown metric {metric!r}; choose one of {', '.join(self.values)}")
        values = np.nan_to_num(np.asarray(values, dtype=np.float32), nan=-np.inf)
        at_least = np.searchsorted(-self.values[metric], -values, side="right")  # how many of the kept ones
        return (np.append(self.order, self.pairs + 1)[at_least]) / (self.pairs + 1)

    def check(self, model, stage):
        """Raise a ValueError unless this is a null of that stage of that model."""
        ours = self.about.get("model", model.name), self.about.get("stage", stage), self.units
        theirs = model.name, stage, math.prod(model.shapes[stage])
        if ours != theirs:
            raise ValueError("the null is of {}, {} ({:,} units), not of {}, {} ({:,} units)".format(*ours, *theirs))

    def passes(self, model, stage, images, target, label):
        """The published criterion, one bool per image (B,), on the device of the images.

        The model gives the image the class that it gives the reference, and at the stage every metric of `gates` is at
        least the maximum of the null. (Feather et al. 2023, doi:10.1038/s41593-023-01442-0, Methods.)

        Args:
            model, stage, images: whose activations, and the images (B, 3, H, W) to be judged.
            target, label: the activations (B, D) of the references there, and the model's answers (B,) to them.
        """
        with torch.no_grad():
            activations = model.activations(images, stage)
            passed = torch.ones(len(images), dtype=torch.bool, device=images.device)
            for metric in sorted(self.gates, key="spearman".__eq__):  # what costs most last, and only for the images left
                rows = passed.nonzero().flatten()
                passed[rows] = METRICS[metric](target[rows], activations[rows]) >= self.maximum[metric]
            if len(rows := passed.nonzero().flatten()):
                passed[rows] = model.answer(images[rows]) == label[rows]
        return passed

    def thinned(self, keep=300):
        """The same null with only the first `keep` order statistics and as many more spread evenly over the others."""
        rest = np.linspace(keep, self.pairs - 1, keep + 1).round().astype(np.int64)
        index = np.unique(np.concatenate([np.arange(min(keep, self.pairs)), rest[rest < self.pairs]]))
        return NullDistribution({metric: values[index] for metric, values in self.values.items()},
                                self.order[index], self.pairs, self.units, self.about)

    def describe(self):
        """A plain dict for a record: what the null is of, and its thresholds."""
        return {**self.about, "pairs": self.pairs, "units": self.units, "maximum": self.maximum, "gates": list(self.gates)}


def null_distribution(model, stage, images, *, pairs=1_000_000, seed=0, batch_size=500):
    """Similarities, at a stage of a model, of random pairs of different natural images.

    Correlations of a million pairs are matrix products of standardised activations (for Spearman: of standardised ranks),
    computed for the drawn pairs only. The ratio of signal to noise follows from the same products.

    Args:
        model, stage: whose activations.
        images: natural images, an ImageSet or a tensor (B, 3, H, W) in [0, 1], B at least 2.
        pairs: how many ordered pairs to draw, without replacement; all of them if there are not more.
        seed: of the draw.
        batch_size: images that go through the model together.

    Returns:
        NullDistribution. Memory: about five times B x D float32 numbers.

    Raises:
        ValueError: fewer than two images, images that the model cannot take, or activations that are not finite.

    Example:
        >>> from metalib import load_images, load_model, null_distribution
        >>> model, images = load_model("zoo/vgg-standard-0"), load_images("cifar10-samples")
        >>> null = null_distribution(model, "group3", images)
        >>> null.pairs, null.maximum["pearson"] < 1
        (380, True)
    """
    name = images.name if isinstance(images, ImageSet) else "given"
    images = pixels(images)
    if len(images) < 2 or pairs < 1:
        raise ValueError(f"a null needs at least two images and one pair, not {len(images)} images and {pairs} pairs")
    with torch.no_grad():
        activations = torch.cat([model.activations(batch.to(model.device), stage) for batch in images.split(batch_size)])
        activations = activations if activations.is_cuda else activations.cpu()  # sampled products run on these two
    if not activations.isfinite().all():
        raise ValueError(f"{model.name}, {stage}: the activations of some images are not finite")
    first, second = _draw_pairs(len(images), pairs, seed, activations.device)

    length = torch.linalg.vector_norm(activations, dim=1)
    mean, spread = activations.mean(1), activations.std(1, correction=0)
    units = activations.shape[1]
    pearson = _products(metrics.standardise(activations), first, second)
    for batch in activations.split(batch_size):  # in place: the activations themselves are no longer needed
        batch.copy_(metrics.standardise(metrics.ranks(batch)))
    spearman = _products(activations, first, second)
    product = units * (pearson * spread[first] * spread[second] + mean[first] * mean[second])
    difference = (length[first] ** 2 + length[second] ** 2 - 2 * product).clamp_min(0).sqrt()
    snr_db = 20 * torch.log10(length[first] / difference)
    snr_db = torch.where((length[first] == 0) | (length[second] == 0), 0, snr_db)
    values = {"pearson": pearson, "spearman": spearman, "snr_db": snr_db}
    return NullDistribution({metric: value.sort(descending=True).values.cpu().numpy() for metric, value in values.items()},
                            np.arange(1, len(first) + 1), len(first), units,
                            {"model": model.name, "stage": stage, "images": f"{len(images)} of {name}", "seed": seed})


def judge(model, stage, metamers, null):
    """Judge metamers by the published criterion. The image judged is the 8-bit image.

    Args:
        model, stage: where to judge; the generating model and stage, or others.
        metamers: Metamers, or anything with `images` and `references` (B, 3, H, W) in [0, 1].
        null: the NullDistribution of that model and stage.

    Returns:
        pandas.DataFrame, one row per image: `image` (its number), `pearson`, `spearman`, `snr_db` (20 log10), `class_match`,
        `passed` (see `NullDistribution.passes`), `p_value` (the largest of those of the gating metrics, so that it is small
        only if all are), `distance` and `distance_from_start` (root mean square over pixels in [0, 1], the second NaN where
        the start is not known), `evaluations` (NaN where not known).

    Raises:
        ValueError: an unknown stage, a null of another model or stage, or images that the model cannot take.
    """
    model.check_stage(stage)
    null.check(model, stage)
    images, references = to_8_bits(pixels(metamers.images)).cpu(), pixels(metamers.references).cpu()
    there = references.to(model.device)
    with torch.no_grad():
        target, activations = model.activations(there, stage), model.activations(images.to(model.device), stage)
        same_class = model.answer(images.to(model.device)) == model.answer(there)
    similarity = {metric: function(target, activations) for metric, function in METRICS.items()}
    table = pd.DataFrame({"image": range(len(images)), **{metric: value.cpu().double() for metric, value in similarity.items()}})
    table["class_match"] = same_class.cpu().numpy()
    gates = [similarity[metric] >= null.maximum[metric] for metric in null.gates]
    table["passed"] = torch.stack([same_class, *gates]).all(0).cpu().numpy()
    table["p_value"] = np.max([null.p_value(metric, table[metric]) for metric in null.gates], axis=0)
    table["distance"] = metrics.rms_distance(images, references).double().numpy()
    start, evaluations = getattr(metamers, "starts", None), getattr(metamers, "evaluations", None)
    table["distance_from_start"] = math.nan if start is None else metrics.rms_distance(images, start).double().numpy()
    table["evaluations"] = math.nan if evaluations is None else evaluations.numpy()
    return table


def load_null(model, stage, *, images=None):
    """The null that ships with a model of the bundled zoo: a million pairs of the CIFAR-10 test images.

    Args:
        model, stage: whose null.
        images: natural images from which to compute a null where none ships; None raises an error instead.

    Raises:
        ValueError: a model that has none, an unknown stage, or a null that was made for other weights.
    """
    model.check_stage(stage)
    path = zoo.null_path(model.name)
    if path is None or not path.is_file() or stage not in zoo.STAGES:
        if images is not None:
            return null_distribution(model, stage, images)
        raise ValueError(f"no null ships for {model.name}, {stage}; compute one with null_distribution(model, stage, images)")
    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata()
            values = {metric: file.get_tensor(f"{stage}/{metric}") for metric in METRICS}
            order = file.get_tensor("order")
    except SafetensorError as error:
        raise ValueError(f"the null {path} is damaged ({error}); restore it from the repository") from error
    if about["weights_sha256"] != model.card["sha256"]:
        raise ValueError(f"the null {path} belongs to other weights; run python -m metalib.zoo.train")
    return NullDistribution(values, order, int(about["pairs"]), math.prod(model.shapes[stage]),
                            {"model": model.name, "stage": stage, "images": about["images"], "seed": int(about["seed"])})


def _draw_pairs(count, pairs, seed, device):
    """Two index tensors of ordered pairs of different images, without repetition, sorted; all pairs if not more are there."""
    possible = count * (count - 1)
    generator = torch.Generator().manual_seed(seed)
    if pairs >= possible:
        code = torch.arange(possible)
    elif 4 * pairs >= possible:
        code = torch.randperm(possible, generator=generator)[:pairs].sort().values
    else:  # more than are needed, of which repetitions and then the surplus are dropped
        code = torch.randint(possible, (pairs + pairs // 3,), generator=generator).unique()
        code = code[torch.randperm(len(code), generator=generator)[:pairs]].sort().values
    first, second = code // (count - 1), code % (count - 1)
    second = second + (second >= first)
    return first.to(device), second.to(device)


def _products(rows, first, second):
    """Inner products of the pairs of rows: a dense-dense product sampled at the pairs, which are sorted by `first`."""
    count = len(rows)
    starts = torch.zeros(count + 1, dtype=torch.int64, device=rows.device)
    starts[1:] = torch.bincount(first, minlength=count).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")  # that it is in beta state, and in torch 2.11 about checks that are asked for
        at_pairs = torch.sparse_csr_tensor(starts, second, torch.zeros(len(second), device=rows.device, dtype=rows.dtype),
                                           size=(count, count), check_invariants=True)
        return torch.sparse.sampled_addmm(at_pairs, rows, rows.T, beta=0).values()
