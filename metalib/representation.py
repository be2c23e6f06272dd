"""Do metamers keep more similarity to their references, in the representations of observers, than chance would give?

    table = representation_test(observers, references, metamers, natural=load_images("cifar10"))
    table                     # one row per observer, stage, image and null
    table.summary()           # one row per observer and stage: identification, second order, ceiling, intervals
    verdict(table)            # one row per stage and null: the share of images, over images and observers
"""
import contextlib
import hashlib
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import functional as transforms

from metalib import metrics
from metalib.data import ImageSet, pixels, to_8_bits
from metalib.models import Model
from metalib.stages import StageReached, hooked
from metalib.starts import at_distance, image_generator
from metalib.store import fingerprint, sha256, written_whole

NULLS = ("random", "same-class", "distance", "noise", "blend")
SECOND_ORDER = ("correlation_pearson", "correlation_spearman", "euclidean_pearson", "euclidean_spearman", "cka")
TIE = 1e-6  # similarities that differ by less are ties, which count against the metamer
MEMORY = 250_000_000  # numbers that activations of natural images may take to be computed in one pass
COPY = 0.06  # natural images within this distance (RMS, pixels in [0, 1]) of a reference are copies of it, and left out


@dataclass(frozen=True)
class Responses:
    """Responses to references and metamers that stand in place of a model: neural recordings, or activations made elsewhere.

    Each attribute but the name and labels is a dict from names of stages (areas, layers, time windows) to arrays or tensors; D
    may differ between stages.

    Attributes:
        name: of the observer.
        references, metamers: (n, D).
        natural: (M, D), responses to other natural images, which enlarge the nulls.
        natural_labels: (M,), their classes.
        perturbed: (n, m, D), to m perturbations of each reference, for the null "distance".
        copies: (n, c, D), to c copies of each reference, or in c repetitions, for the ceiling.
    """
    name: str
    references: dict
    metamers: dict
    natural: dict | None = None
    natural_labels: object = None
    perturbed: dict | None = None
    copies: dict | None = None

    @property
    def stages(self):
        """The names of the stages."""
        return tuple(self.references)


class RepresentationTable(pd.DataFrame):
    """The table of a `representation_test`: a pandas.DataFrame with `summary()`. What is selected from it is a plain DataFrame."""
    _metadata = ["_summary"]
    _summary = None

    @property
    def _constructor(self):
        return pd.DataFrame

    def summary(self):
        """One row per observer and stage; see `representation_test`."""
        return self._summary.copy()


def representation_test(observers, references, metamers, *, stages=None, nulls=("random", "same-class", "distance"), natural=None,
                        labels=None, draws=59, permutations=10_000, bootstraps=1_000, confidence=0.95, correction="fdr_bh", seed=0,
                        cache=None, batch_size=100):
    """Test whether metamers are more similar to their references than chance, for each observer and stage.

    Similarity is the Pearson correlation of activations, centred by their mean over all natural images (references and
    `natural`). The nulls, each with what is exchangeable if it holds:

    - "random": the metamer with every other natural image. The reference is one of the natural images, drawn at random,
      and the metamer was made without regard to which.
    - "same-class": the same within the class of the reference.
    - "distance": the reference with perturbations of it at the same pixel distance as the metamer, in turn Gaussian noise
      ("noise") and a blend with another natural image ("blend"), which can be named by themselves. The metamer is one more of them.

    Args:
        observers: a Model, `Responses`, or a list of them.
        references: the references, an ImageSet or a tensor (n, 3, H, W) in [0, 1]; None if all observers are Responses.
        metamers: Metamers, or a tensor of the same shape; row i belongs to reference i. What is judged is the 8-bit image.
        stages: names of stages, for every observer; None takes all of each.
        nulls: of `NULLS`. The primary test takes "same-class", or the first one if that is not asked for.
        natural: more natural images of the same population, an ImageSet: the nulls are as fine as these are many. Copies of
            references are left out. None: the references are all there is.
        labels: classes (n,) of the references; those of the ImageSet if None.
        draws: perturbations of each reference.
        permutations, bootstraps: how many, of stimuli.
        confidence: of the intervals.
        correction: of the p-values of all images and stages of an observer and null: a method of statsmodels' `multipletests`,
            such as "fdr_bh" (Benjamini & Hochberg 1995), "fdr_by" or "holm".
        seed: of permutations, bootstraps and, with a reference's pixels, of its perturbations.
        cache: the folder in which activations of natural images are kept (default: the environment variable METALIB_CACHE, or
            `~/.cache/metalib/activations`); False keeps none.
        batch_size: images that go through a model together.

    Returns:
        RepresentationTable, a pandas.DataFrame with one row per observer, stage, image and null:
        `similarity`; `null_similarity`, the mean of the null, and `draws`, its number m; `auc`, the share of the null that is less
        similar; `p_value`, (b + 1) / (m + 1) (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585); `q_value`, corrected over
        images and stages; `spearman`; `rank` of the reference among all references, by similarity to the metamer;
        `ceiling`, the similarity to copies of the reference shifted by a pixel and compressed as JPEG;
        `recognised`, whether the observer gives the metamer the class that it gives the reference (None without a model).

        Its `summary()` has one row per observer and stage:
        means over images with intervals (`_low`, `_high`) of similarity and ceiling; `natural_95`, which one natural pair in 20
        exceeds; for each null the mean `auc`, the share `kept` of the way from the mean of the null to the ceiling, and the
        p-value of the mean similarity; `primary_p`, that of the primary test
        corrected by Holm's method over all rows; `top1`, the share of references that are the nearest to their metamer,
        its `chance`, `mean_rank`, and the p-value of the latter, `identification_p`; for each of `SECOND_ORDER`, the
        correlation between the dissimilarity matrices of references and of metamers or debiased CKA, with interval, p-value
        permuting stimuli (Mantel) and within classes (`_p_within`); `cka_score`, which is 0 at the mean of the permutations
        and 1 at identity.

    Raises:
        ValueError: an unknown stage or null, images without labels for "same-class", sets of different length, fewer than two
            images, activations that are not finite, or responses that lack what a null needs.

    Example:
        >>> from metalib import load_images, load_model, representation_test
        >>> model, images = load_model("zoo/vgg-standard-0"), load_images("cifar10-samples")
        >>> dim = images.images * 0.9  # a user's own pairs: images, and the same at lower contrast
        >>> table = representation_test(model, images, dim, stages=["features"], nulls=["random", "same-class"], cache=False)
        >>> len(table), len(table.summary())
        (40, 1)
    """
    from statsmodels.stats.multitest import multipletests  # here, so that metalib can be imported where statsmodels is missing

    observers = [observers] if isinstance(observers, (Model, Responses)) else list(observers)
    nulls = [nulls] if isinstance(nulls, str) else list(nulls)
    if not nulls or set(nulls) - set(NULLS):
        raise ValueError(f"unknown nulls {sorted(set(nulls) - set(NULLS))}; choose from {', '.join(NULLS)}")
    if not observers or len({observer.name for observer in observers}) < len(observers):
        raise ValueError("pass at least one observer, each with a name of its own")
    labels = _labels(references, labels)
    stimuli = None
    if any(isinstance(observer, Model) for observer in observers):
        stimuli = _Stimuli(references, metamers, natural, labels, draws if set(nulls) & set(NULLS[2:]) else 0, seed)
    chance = _Chance(permutations, bootstraps, confidence, seed)
    rows, cells = [], []
    for observer in observers:
        of_stages = stages if stages is not None else observer.stages
        for stage in of_stages:
            if stage not in observer.stages:
                raise ValueError(f"{observer.name} has no stage {stage!r}; its stages are {', '.join(observer.stages)}")
        if isinstance(observer, Model):
            read = _read_model(observer, stimuli, of_stages, _cache_folder(cache), batch_size)
        else:
            read = _read_responses(observer, of_stages, labels, set(nulls))
        table = []
        for stage, reading in read:
            columns, cell = _test(reading, nulls, chance, f"{observer.name}, {stage}")
            table += [{"observer": observer.name, "stage": stage, **column} for column in columns]
            cells.append({"observer": observer.name, "stage": stage, **cell})
        rows.append(_frame(table))
        for _, family in rows[-1].groupby("null"):
            rows[-1].loc[family.index, "q_value"] = multipletests(family["p_value"], method=correction)[1]
    summary = pd.DataFrame(cells)
    primary = "same-class" if "same-class" in nulls else nulls[0]
    summary["primary_p"] = multipletests(summary[f"{primary}_p"], method="holm")[1]
    table = pd.concat(rows, ignore_index=True)
    first = ["observer", "stage", "image", "null", "similarity", "p_value", "q_value"]
    result = RepresentationTable(table[first + [name for name in table if name not in first]])
    result._summary = summary
    return result


def similarities(observer, references, metamers, *, stages=None, natural=None, draws=19, seed=0, cache=None, batch_size=100):
    """All similarities of first order that a `representation_test` compares, to be looked at.

    Returns:
        pandas.DataFrame, one row per stage, image and pair: `kind` ("metamer", "random", "same-class", which "random" contains,
        "noise", "blend", "ceiling") and `similarity`.
    """
    labels = _labels(references, None)
    stimuli = _Stimuli(references, metamers, natural, labels, draws, seed)
    tables = []
    for stage, reading in _read_model(observer, stimuli, stages or observer.stages, _cache_folder(cache), batch_size):
        n, total = reading.to_natural.shape
        apart = ~np.eye(n, total, dtype=bool)
        kinds = {"metamer": (reading.to_natural, ~apart), "random": (reading.to_natural, apart)}
        if labels is not None:
            kinds["same-class"] = reading.to_natural, apart & (stimuli.labels[:n, None] == stimuli.labels)
        for kind, values in (("noise", reading.drawn[:, 0::2]), ("blend", reading.drawn[:, 1::2]), ("ceiling", reading.copies)):
            kinds[kind] = values, np.ones(values.shape, dtype=bool)
        tables += [pd.DataFrame({"stage": stage, "image": np.nonzero(pick)[0], "kind": kind, "similarity": values[pick]})
                   for kind, (values, pick) in kinds.items()]
    return pd.concat(tables, ignore_index=True)


def verdict(table, *, alpha=0.05, confidence=0.95):
    """For a set of observers: at each stage and for each null, the share of images that are significantly more similar.

    Images and observers are crossed random factors (Clark 1973, doi:10.1016/S0022-5371(73)80014-3): the variance of a mean over
    both adds those of the means over either. Intervals of shares are Clopper and Pearson's at the effective number of observations
    (Korn & Graubard 1998, Survey Methodology 24, 193), which is that of the rarer factor where fewer observations than that differ
    from the rest; those of the mean area under the curve are Student's, with the degrees of freedom of the rarer factor.

    Args:
        table: rows of a `representation_test`, or a selection of them, such as those of observers other than the generator.
        alpha: a row is significant if its `q_value` is at most this.

    Returns:
        pandas.DataFrame, one row per stage and null: `observers`, `images`, `share`, `share_low`, `share_high`, `auc`,
        `auc_low`, `auc_high`.
    """
    rows = []
    for (stage, null), cell in table.groupby(["stage", "null"], sort=False):
        significant = cell.pivot(index="observer", columns="image", values="q_value").to_numpy() <= alpha
        auc = cell.pivot(index="observer", columns="image", values="auc").dropna(axis=1, how="any").to_numpy()
        share, *share_ends = share_interval(significant, confidence)
        mean, *mean_ends = mean_interval(auc, confidence)
        rows.append((stage, null, *significant.shape, share, *share_ends, mean, *np.clip(mean_ends, 0, 1)))
    return pd.DataFrame(rows, columns=["stage", "null", "observers", "images", "share", "share_low", "share_high",
                                       "auc", "auc_low", "auc_high"])


def mean_interval(values, confidence=0.95):
    """Mean, lower and upper end for values (observers, images), both of them random factors; NaN ends for a single value."""
    mean, error, freedom = _crossed(values)
    half = stats.t.ppf((1 + confidence) / 2, freedom) * error if freedom > 0 else np.nan
    return mean, mean - half, mean + half


def share_interval(hits, confidence=0.95):
    """Share, lower and upper end for booleans (observers, images), both of them random factors."""
    share, error, freedom = _crossed(np.asarray(hits, dtype=float))
    fewest, most = sorted(np.shape(hits))
    fewest = most if fewest == 1 else fewest  # of one observer, the images are what was drawn
    if min(np.sum(hits), np.size(hits) - np.sum(hits)) < fewest:  # too few differ from the rest to tell how they are spread
        count = fewest
    else:
        count = share * (1 - share) / error ** 2
        count *= (stats.norm.ppf((1 + confidence) / 2) / stats.t.ppf((1 + confidence) / 2, freedom)) ** 2
        count = min(max(count, 1), np.size(hits))
    low = stats.beta.ppf((1 - confidence) / 2, share * count, count - share * count + 1) if share > 0 else 0.0
    high = stats.beta.ppf((1 + confidence) / 2, share * count + 1, count - share * count) if share < 1 else 1.0
    return share, float(low), float(high)


def _crossed(values):
    """Mean, its standard error over both factors of (observers, images), and the degrees of freedom of the rarer one."""
    values = np.asarray(values, dtype=float)
    observers, images = values.shape
    if not values.size:
        return np.nan, np.nan, 0
    mean = values.mean()
    if 1 in (observers, images):
        count = max(observers, images)
        return mean, values.std(ddof=1) / count ** 0.5 if count > 1 else np.nan, count - 1
    rows, columns = values.mean(1, keepdims=True) - mean, values.mean(0, keepdims=True) - mean
    of_observers, of_images = images * (rows ** 2).sum() / (observers - 1), observers * (columns ** 2).sum() / (images - 1)
    rest = ((values - mean - rows - columns) ** 2).sum() / ((observers - 1) * (images - 1))
    square = max(of_observers + of_images - rest, of_observers, of_images)
    return mean, (square / values.size) ** 0.5, min(observers, images) - 1


def simulated_responses(experiments, *, n=10, units=1_000, natural=70, draws=39, classes=2, similarity=0.0, of_class=False,
                        decay=0.5, seed=0):
    """Made-up `Responses` of which everything is known, to see how often the tests reject: one experiment for each stage.

    An image is a class, a contrast of its own (log-normal) and Gaussian noise, whose standard deviation falls with the number k of
    the unit as k ** -decay, as along principal components of natural images. Metamers also share a shift that natural images do not
    have, so that they are no sample of those.

    Args:
        experiments: how many, named "0", "1", ...
        n, units, natural, draws: references, D, further natural images, perturbations of each reference.
        classes: how many there are; image i is of class i modulo this.
        similarity: of metamers and their references in noise and in log-contrast, as a correlation; 0 is no effect.
        of_class: whether metamers share the class of their reference, and otherwise nothing if `similarity` is 0.
        decay: of the spectrum; 0 is flat, so that all D units are independent.
        seed: of the draw.

    Returns:
        Responses, and the labels (n,) of the references.

    Example:
        >>> responses, labels = simulated_responses(3, n=10, units=50)
        >>> table = representation_test(responses, None, None, labels=labels)
        >>> table.groupby("stage").size().tolist()
        [30, 30, 30]
    """
    generator = np.random.default_rng(seed)
    labels = np.arange(n + natural) % classes
    scale = np.arange(1, units + 1) ** -float(decay)
    held = {name: {} for name in ("references", "metamers", "natural", "perturbed")}
    for stage in map(str, range(experiments)):
        mean, shift, of_classes = (generator.standard_normal(shape) for shape in (units, units, (classes, units)))
        noise, contrast = (generator.standard_normal((n + natural, size)) for size in (units, 1))
        images = mean + np.exp(0.4 * contrast) * scale * (of_classes[labels] / 2 + noise)
        own, its_contrast = (generator.standard_normal((n, draws + 1, size)) for size in (units, 1))
        for ours, theirs in ((own, noise), (its_contrast, contrast)):
            ours[:, 0] = similarity * theirs[:n] + (1 - similarity ** 2) ** 0.5 * ours[:, 0]
        made = own + (of_classes[labels[:n], None] / 2 if of_class else 0)
        made = mean + scale * (shift / 2 + np.exp(0.4 * its_contrast) * made)
        for name, rows in zip(held, (images[:n], made[:, 0], images[n:], made[:, 1:])):
            held[name][stage] = rows.astype(np.float32)
    return Responses("simulated", **held, natural_labels=labels[n:]), labels[:n]


# --- What is shown, and what is read ------------------------------------------------------------------------------------

class _Stimuli:
    """The images of a test: metamers, natural images (the references first), perturbations and copies of the references."""

    def __init__(self, references, metamers, natural, labels, draws, seed):
        if references is None or metamers is None:
            raise ValueError("a model needs the images: pass references and metamers")
        self.references = pixels(references).cpu()
        metamers = pixels(metamers.images if hasattr(metamers, "starts") else metamers).cpu()
        if self.references.shape != metamers.shape:
            raise ValueError(f"references and metamers differ in shape, {tuple(self.references.shape)} and {tuple(metamers.shape)}")
        self.metamers = to_8_bits(metamers)
        self.natural, self.labels = self.references, labels
        if natural is not None:
            others = pixels(natural).cpu()
            if others.shape[1:] != self.references.shape[1:]:
                raise ValueError(f"natural images have the shape {tuple(others.shape[1:])}, references "
                                 f"{tuple(self.references.shape[1:])}; load both with the same size=")
            distance = torch.cdist(others.flatten(1), self.references.flatten(1)) / others[0].numel() ** 0.5
            apart = distance.amin(1) > COPY
            self.natural = torch.cat([self.references, others[apart]])
            if labels is not None:
                others = natural.labels if isinstance(natural, ImageSet) else torch.full((len(others),), -1)
                self.labels = np.concatenate([labels, others.numpy()[apart.numpy()]])
        self.perturbed = perturbations(self.references, self.metamers, self.natural, draws, seed) if draws else None
        self.copies = torch.stack([_shifted(self.references), _as_jpeg(self.references)], 1)


def perturbations(references, metamers, natural, draws, seed=0):
    """References changed in other ways as much as their metamers: Gaussian noise and blends with another natural image, in turn.

    Args:
        references, metamers: (n, 3, H, W) in [0, 1]; a perturbation is as far from its reference as the metamer.
        natural: (N, 3, H, W), from which the other image of a blend is drawn, of those that are at least as far, and mirrored
            and shifted by up to an eighth of its side at random. If none is as far, the blend overshoots.
        draws: how many of each reference.
        seed: with a reference's pixels, this fixes its perturbations.

    Returns:
        (n, draws, 3, H, W) uint8.
    """
    distance = metrics.rms_distance(references, metamers)
    apart = torch.cdist(references.flatten(1), natural.flatten(1)) / references[0].numel() ** 0.5
    made = []
    for draw in range(draws):
        generators = [image_generator(reference, seed * draws + draw) for reference in references]
        if draw % 2 == 0:
            towards = [torch.randn(reference.shape, generator=generator) for reference, generator in zip(references, generators)]
        else:
            towards = [_distractor(natural, apart[i], distance[i], generators[i]) - references[i] for i in range(len(references))]
        made.append((at_distance(references, torch.stack(towards), distance) * 255).round().to(torch.uint8))
    return torch.stack(made, 1)


def _distractor(natural, apart, distance, generator):
    """Another natural image, at least as far as `distance` if there is any, mirrored and shifted at random so that draws differ."""
    far = ((apart > COPY) & (apart >= distance)).nonzero().flatten()
    if not len(far):
        far = apart.argmax()[None]
    image = natural[far[torch.randint(len(far), (), generator=generator)]]
    if torch.rand((), generator=generator) < 0.5:
        image = image.flip(-1)
    height, width = image.shape[-2:]
    margin = height // 8
    top, left = torch.randint(2 * margin + 1, (2,), generator=generator).tolist()
    return transforms.pad(image, margin, padding_mode="reflect")[:, top:top + height, left:left + width]


def _shifted(images):
    """Images moved to the right by one pixel; the first column is repeated."""
    return torch.cat([images[..., :1], images[..., :-1]], -1)


def _as_jpeg(images, quality=90):
    """Images after compression as JPEG."""
    decoded = []
    for image in images:
        file = io.BytesIO()
        transforms.to_pil_image((image * 255).round().to(torch.uint8)).save(file, "JPEG", quality=quality)
        decoded.append(transforms.pil_to_tensor(Image.open(file)).float() / 255)
    return torch.stack(decoded)


@dataclass
class _Reading:
    """What one stage of one observer gives: centred activations, and similarities by first order."""
    labels: np.ndarray | None  # (N,), of the natural images
    references: torch.Tensor  # (n, D), centred
    metamers: torch.Tensor  # (n, D), centred
    to_natural: np.ndarray  # (n, N): of each metamer with each natural image, its reference at the diagonal
    natural_95: float
    spearman: np.ndarray  # (n,)
    drawn: np.ndarray | None = None  # (n, m): of each reference with its perturbations
    copies: np.ndarray | None = None  # (n, c)
    recognised: np.ndarray | None = None  # (n,)


def _read_model(model, stimuli, stages, folder, batch_size):
    """Yield each stage with its `_Reading`. Natural images are read stage by stage, the others in one pass."""
    with torch.no_grad():
        references, metamers = stimuli.references.to(model.device), stimuli.metamers.to(model.device)
        recognised = (model.answer(references) == model.answer(metamers)).cpu().numpy()
        changed = dict(_run(model, stimuli.metamers, stages, batch_size))
        readings, units, centres = {}, {}, {}
        for stage, natural in _natural(model, stimuli.natural, stages, folder, batch_size):
            readings[stage], centres[stage] = _reading(natural, changed.pop(stage), len(references), stimuli.labels,
                                                       f"{model.name}, {stage}")
            readings[stage].recognised = recognised
            centres[stage] = centres[stage].float()
            units[stage] = _directions(natural[:len(references)], centres[stage])
        drawn = 0 if stimuli.perturbed is None else stimuli.perturbed.shape[1]
        similarity = {stage: [] for stage in stages}
        for i, images in enumerate(stimuli.copies):
            images = torch.cat([stimuli.perturbed[i] / 255, images]) if drawn else images
            for stage, activations in _run(model, images, stages, batch_size):
                similarity[stage].append((_directions(activations, centres[stage]) @ units[stage][i]).numpy())
        for stage in stages:
            values = np.stack(similarity[stage])
            readings[stage].drawn, readings[stage].copies = values[:, :drawn] if drawn else None, values[:, drawn:]
    for stage in stages:
        yield stage, readings.pop(stage)


def _read_responses(responses, stages, labels, nulls):
    """Yield each stage with its `_Reading`, of responses that were recorded before."""
    if nulls & {"noise", "blend"} or ("distance" in nulls and not responses.perturbed):
        raise ValueError(f"{responses.name} has no responses to perturbations: pass Responses(perturbed=...) for the null "
                         "'distance', or nulls=('random', 'same-class')")
    for stage in stages:
        arrays = {name: {stage: torch.as_tensor(np.asarray(held[stage]))} for name in
                  ("references", "metamers", "natural", "perturbed", "copies") if (held := getattr(responses, name))}
        shown, changed = arrays["references"][stage], arrays["metamers"][stage]
        if shown.ndim != 2 or shown.shape != changed.shape:
            raise ValueError(f"{responses.name}, {stage}: references and metamers must be (n, D) alike, not "
                             f"{tuple(shown.shape)} and {tuple(changed.shape)}")
        natural, classes = shown, labels
        if "natural" in arrays:
            natural = torch.cat([shown, arrays["natural"][stage].to(shown.dtype)])
            if labels is not None:
                others = np.full(len(natural) - len(shown), -1) if responses.natural_labels is None else responses.natural_labels
                classes = np.concatenate([labels, np.asarray(others)])
        where = f"{responses.name}, {stage}"
        reading, centre = _reading(natural, changed, len(shown), classes, where)
        unit = _directions(shown.float(), centre.float())
        for name, field in (("perturbed", "drawn"), ("copies", "copies")):
            if name in arrays:
                rows = _directions(_finite(arrays[name][stage], where).float(), centre.float())
                setattr(reading, field, torch.einsum("nmd,nd->nm", rows, unit).numpy())
        yield stage, reading


def _reading(natural, metamers, n, labels, where):
    """Activations centred by their mean over the natural images, the first n of which are the references; and the mean."""
    if labels is not None and len(labels) != len(natural):
        raise ValueError(f"{where}: {len(natural)} natural images, but {len(labels)} labels")
    if n < 2:
        raise ValueError(f"{where}: a test needs at least two references, not {n}")
    precision = torch.float64 if len(natural) <= 2_000 else torch.float32  # for many images half the memory
    centre = _finite(natural, where).mean(0, dtype=torch.float64).to(precision)
    references, metamers = natural[:n].to(precision), _finite(metamers, where).to(precision)
    units = _directions(metamers, centre), _directions(references[:200], centre)
    similarity, pairs = [], []
    for block in natural.split(500):
        rows = _directions(block.to(precision), centre).T
        similarity.append(units[0] @ rows)
        pairs.append(units[1] @ rows)
    pairs = torch.cat(pairs, 1).fill_diagonal_(torch.nan)
    spearman = [metrics.pearson(*(metrics.ranks(_directions(rows, centre)) for rows in both))
                for both in zip(references.split(100), metamers.split(100))]
    return _Reading(labels, references - centre, metamers - centre, torch.cat(similarity, 1).numpy(),
                    float(np.nanquantile(pairs, 0.95)), torch.cat(spearman).numpy()), centre


def _directions(activations, centre):
    """Rows (..., D) centred and scaled to unit length; zero where the activations of an image are all the same: no response."""
    silent = activations.amax(-1, keepdim=True) == activations.amin(-1, keepdim=True)
    return metrics.standardise(activations - centre).masked_fill_(silent, 0)


def _finite(activations, where):
    if not activations.isfinite().all():
        raise ValueError(f"{where}: some activations are not finite (NaN or infinite); leave those images or units out")
    return activations


def _labels(references, labels):
    if labels is None and isinstance(references, ImageSet):
        labels = references.labels
    return None if labels is None else np.asarray(labels)


def _run(model, images, stages, batch_size):
    """Pairs of stage and activations (B, D) on the CPU, all in one pass that ends at the last of the stages."""
    model.check_images(images)
    last = max(stages, key=model.stages.index)
    kept = {stage: [] for stage in stages}

    def keep(stage, output):
        kept[stage].append(output.flatten(1).float().to("cpu", copy=True))  # later layers may work in place
        if stage == last:
            raise StageReached(output)

    with torch.no_grad(), contextlib.ExitStack() as stack:
        for stage in stages:
            stack.enter_context(hooked(model.module, stage, lambda output, stage=stage: keep(stage, output)))
        for batch in images.split(batch_size):
            with contextlib.suppress(StageReached):
                model(batch.to(model.device))
    for stage in stages:
        yield stage, torch.cat(kept.pop(stage))


# --- Activations of natural images, kept on disk by content -------------------------------------------------------------

def _natural(model, images, stages, folder, batch_size):
    """Yield each stage with the activations of natural images, from the cache where it has them."""
    content = _content(model, images) if folder else ""
    path = {stage: folder and folder / f"{hashlib.sha256((content + stage).encode()).hexdigest()[:40]}.npy" for stage in stages}
    units = sum(math.prod(model.shapes[stage]) for stage in stages)
    at_once = {}
    for stage in stages:
        activations = at_once.pop(stage, None)
        if activations is None and folder and (stored := _from_cache(path[stage])) is not None:
            activations = torch.from_numpy(stored)
        if activations is None:
            left = stages[list(stages).index(stage):]
            at_once = dict(_run(model, images, left if len(images) * units < MEMORY else [stage], batch_size))
            for computed in at_once if folder else ():
                _to_cache(path[computed], at_once[computed].numpy())
            activations = at_once.pop(stage)
        yield stage, activations


def _cache_folder(cache):
    if cache is False:
        return None
    return Path(cache or os.environ.get("METALIB_CACHE") or Path.home() / ".cache" / "metalib" / "activations").expanduser()


def _content(model, images):
    """What decides the activations: the model, with its answer to the first of the images, and the images."""
    with torch.no_grad():
        answer = model(images[:1].to(model.device)).round(decimals=2)
    return fingerprint(model) + sha256({"images": images, "answer": answer})


def _from_cache(path):
    """The array in a file of the cache, or None where there is none or it is damaged."""
    try:
        with open(path, "rb") as file:
            array = np.load(file, allow_pickle=False)
            return array if file.read() == hashlib.sha256(array.data).digest() else None
    except (OSError, ValueError, EOFError, MemoryError):
        return None


def _to_cache(path, array):
    """Write beside, then rename: another process sees the whole file or none. A folder that cannot be written keeps nothing."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary, open(temporary, "wb") as file:
            np.save(file, array)
            file.write(hashlib.sha256(array.data).digest())


# --- Statistics ---------------------------------------------------------------------------------------------------------

class _Chance:
    """Permutations and bootstraps of stimuli, the same for all observers and stages."""

    def __init__(self, permutations, bootstraps, confidence, seed):
        self.permutations, self.bootstraps, self.seed = permutations, bootstraps, seed
        self.ends = (1 - confidence) / 2, (1 + confidence) / 2
        self.confidence = confidence
        self.known = {}

    def stand_ins(self, strata, n):
        """(permutations, n): which natural image takes the place of each of the n references, within its stratum."""
        return self._once(("stand-ins", n, strata.tobytes()), lambda: _stand_ins(strata, n, self.permutations, self.seed))

    def orders(self, strata):
        """`_Orders` of the references, within strata."""
        return self._once(("orders", strata.tobytes()), lambda: _Orders(self.stand_ins(strata, len(strata))))

    def weights(self, n):
        """(bootstraps, n): how often each stimulus is in a sample with replacement."""
        draw = np.random.default_rng([self.seed, 1]).multinomial
        return self._once(("weights", n), lambda: draw(n, np.full(n, 1 / n), self.bootstraps).astype(float))

    def choices(self, n, m):
        """(permutations, n): which of m + 1 exchangeable images takes the place of each metamer."""
        draw = np.random.default_rng([self.seed, 2]).integers
        return self._once(("choices", n, m), lambda: draw(m + 1, size=(self.permutations, n)))

    def interval(self, values):
        """Percentile interval of the mean of one number per image (n,)."""
        return self.quantiles(self.weights(len(values)) @ values / len(values))

    def quantiles(self, values):
        """Ends of the interval between quantiles; NaN where nothing is defined."""
        values = values[np.isfinite(values)]
        return np.quantile(values, self.ends) if len(values) else (np.nan, np.nan)

    def _once(self, key, make):
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]


def _stand_ins(strata, n, count, seed):
    """Random permutations of N natural images within their strata, of which the first n places (the references') are returned."""
    generator, place = np.random.default_rng([seed, 0]), np.argsort(strata, kind="stable")
    rank = np.unique(strata, return_inverse=True)[1]
    chosen = np.empty((count, n), dtype=np.int32)
    at_reference = place < n
    step = max(1, 2_000_000 // len(strata))
    for start in range(0, count, step):
        order = np.argsort(rank + generator.random((min(step, count - start), len(strata))), axis=1)
        chosen[start:start + step, place[at_reference]] = order[:, at_reference]
    return chosen


class _Orders:
    """Permutations of n stimuli, applied to rows and columns of dissimilarity matrices."""

    def __init__(self, orders):
        n = orders.shape[1]
        self.orders, self.flat = orders, None
        if len(orders) * n * (n - 1) // 2 <= 10_000_000:  # else they would take too much memory
            self.pairs = np.triu_indices(n, 1)
            self.flat = orders[:, self.pairs[0]] * np.int32(n) + orders[:, self.pairs[1]]

    def products(self, a, b):
        """Sums of a_ij b_kl over the pairs i < j, k and l standing in their places, one for each permutation."""
        if self.flat is not None:
            return b.ravel()[self.flat] @ a[self.pairs]  # np.take would be half as fast
        return np.array([sum(np.einsum("ij,ij->", a[rows], b[order[rows]][:, order], dtype=np.float64)
                             for rows in _blocks(len(a))) / 2 for order in self.orders])


def _blocks(n, size=500):
    return [slice(start, start + size) for start in range(0, n, size)]


def _p_value(observed, null):
    """(b + 1) / (m + 1), for one number against a null (m,), or rows of them; what is equal but for rounding counts as a tie."""
    null = np.asarray(null)
    slack = 1e-9 * max(1.0, np.abs(null).max(initial=0))
    return (1 + (null >= np.expand_dims(observed, -1) - slack).sum(-1)) / (null.shape[-1] + 1)


def _test(reading, nulls, chance, where):
    """All tests at one stage of one observer: columns of the table, a dict for each null, and a dict for the summary."""
    n = len(reading.references)
    similarity = reading.to_natural.diagonal().astype(float)
    rank = _ranks(reading.to_natural[:, :n])
    ceiling = reading.copies.mean(1) if reading.copies is not None else np.full(n, np.nan)
    common = {"image": range(n), "similarity": similarity, "spearman": reading.spearman, "rank": rank.diagonal().copy(),
              "ceiling": ceiling, "recognised": reading.recognised if reading.recognised is not None else np.full(n, None)}
    cell = {"images": n, "similarity": similarity.mean(), **_ends("similarity", chance.interval(similarity)),
            "ceiling": ceiling.mean(), **_ends("ceiling", chance.interval(ceiling)), "natural_95": reading.natural_95,
            "recognised": reading.recognised.mean() if reading.recognised is not None else np.nan}
    tables = []
    for null in nulls:
        first, p = _first_order(reading, null, similarity, chance, where)
        tables.append({**common, "null": null, **first})
        defined = first["draws"] > 0
        level, top = first["null_similarity"][defined].sum() / max(1, defined.sum()), ceiling[defined].sum() / max(1, defined.sum())
        gain = similarity[defined].sum() / max(1, defined.sum()) - level
        cell |= {f"{null}_auc": first["auc"][defined].mean() if defined.any() else np.nan,
                 f"{null}_kept": gain / (top - level) if top > level else np.nan, f"{null}_p": p}
    cell |= _identification(reading.to_natural, rank, chance)
    reading.to_natural = rank = None  # with many images the largest there is, and no longer needed
    return tables, cell | _second_order(reading, chance)


def _frame(tables):
    """A DataFrame of dicts of columns below each other; a single value stands in every row of its own."""
    rows = [len(table["image"]) for table in tables]
    return pd.DataFrame({name: np.repeat([table[name] for table in tables], rows) if np.ndim(tables[0][name]) == 0 else
                         np.concatenate([table[name] for table in tables]) for name in tables[0]})


def _first_order(reading, null, similarity, chance, where):
    """Columns of the table for one null, and the p-value of the mean similarity."""
    n = len(similarity)
    if null in ("random", "same-class"):
        strata = _strata(reading, null, where)
        values = reading.to_natural
        counted = (strata[:n, None] == strata) & ~np.eye(n, len(strata), dtype=bool)
        chosen = chance.stand_ins(strata, n)
    else:
        drawn = {"distance": reading.drawn, "noise": reading.drawn[:, 0::2], "blend": reading.drawn[:, 1::2]}[null]
        values, counted = np.column_stack([similarity, drawn]), np.ones((n, drawn.shape[1] + 1), dtype=bool)
        counted[:, 0] = False
        chosen = chance.choices(n, drawn.shape[1])
    m, own = counted.sum(1), similarity[:, None]
    at_least = (counted & (values >= own - TIE)).sum(1)
    ties = at_least - (counted & (values > own + TIE)).sum(1)
    with np.errstate(invalid="ignore"):
        first = {"null_similarity": np.where(counted, values, 0).sum(1) / m, "draws": m, "auc": 1 - (at_least - ties / 2) / m,
                 "p_value": (at_least + 1) / (m + 1)}
    return first, float(_p_value(similarity.sum(), values[np.arange(n), chosen].sum(1)))


def _strata(reading, null, where):
    """The class of each natural image, or one stratum for all."""
    if null == "random" or (null is None and reading.labels is None):
        return np.zeros(reading.to_natural.shape[1], dtype=np.int64)
    if reading.labels is None or (reading.labels[:len(reading.references)] < 0).any():
        raise ValueError(f"{where}: the null 'same-class' needs the classes of the references: pass an ImageSet, or labels=, or "
                         "leave it out of nulls=")
    return np.asarray(reading.labels, dtype=np.int64)


def _ranks(similarity):
    """(n, n): the rank of each reference (column) by similarity to each metamer (row), from 1; ties take the worst."""
    ranks = np.empty(similarity.shape, dtype=np.int32)
    for row, values in enumerate(similarity):
        ranks[row] = len(values) - np.searchsorted(np.sort(values), values - TIE)
    return ranks


def _identification(similarity, rank, chance):
    n = len(rank)
    rows, orders = np.arange(n), chance.stand_ins(np.zeros(n, dtype=np.int64), n)
    own = rank.diagonal()
    share, low, high = share_interval((own == 1)[None], chance.confidence)
    score = similarity[:, :n] / (2 * n) - rank  # equal sums of ranks are told apart by similarity
    null = np.concatenate([score[rows, order].sum(1) for order in np.array_split(orders, max(1, orders.size // 2_000_000))])
    return {"top1": share, "top1_low": low, "top1_high": high, "chance": 1 / n, "mean_rank": own.mean(),
            "identification_p": float(_p_value(score.diagonal().sum(), null))}


def _second_order(reading, chance):
    """Correlations between dissimilarity matrices, and debiased CKA: values, intervals, permutation p-values."""
    n, cell = len(reading.references), {}
    everywhere = chance.orders(np.zeros(n, dtype=np.int64))
    within = chance.orders(reading.labels[:n].astype(np.int64)) if reading.labels is not None else None
    for measure, a, b in _geometries(reading):
        if n < (4 if measure == "cka" else 3):
            cell |= {measure: np.nan, **_ends(measure, (np.nan, np.nan)), f"{measure}_p": 1.0, f"{measure}_p_within": 1.0}
            continue
        value = np.einsum("ij,ij->", a, b, dtype=np.float64) / 2
        permuted = everywhere.products(a, b)
        cell |= {measure: value, **_ends(measure, chance.quantiles(_resampled(a, b, chance.weights(n), measure != "cka"))),
                 f"{measure}_p": float(_p_value(value, permuted)),
                 f"{measure}_p_within": float(_p_value(value, within.products(a, b))) if within else np.nan}
        if measure == "cka":
            cell["cka_score"] = (value - permuted.mean()) / (1 - permuted.mean())
        del a, b  # before the next ones are made
    return cell


def _geometries(reading):
    """Yield each measure of `SECOND_ORDER` with the matrices of references and metamers, which it scales to unit length, so that
    products over pairs add up to the similarity of both."""
    both = reading.references, reading.metamers
    for distance in ("correlation", "euclidean"):
        pairs = [_above(metrics.rdm(x, distance)) for x in both]
        for correlation in ("pearson", "spearman"):
            yield f"{distance}_{correlation}", *(_symmetric(x, len(both[0])) for x in [
                metrics.standardise(metrics.ranks(x) if correlation == "spearman" else x) for x in pairs])
        del pairs
    few = len(both[0]) < 4
    yield "cka", *(None if few else _unit(metrics.u_centred(x @ x.T).numpy()) for x in both)


def _above(matrix):
    """The entries (n (n - 1) / 2,) above the diagonal, row by row."""
    return torch.from_numpy(matrix.numpy()[~np.tri(len(matrix), dtype=bool)])  # a mask: indices would be larger than the matrix


def _symmetric(above, n):
    """The matrix (n, n) with these entries above the diagonal and below, and zeros on it."""
    matrix, mask = np.zeros((n, n), dtype=above.numpy().dtype), ~np.tri(n, dtype=bool)
    matrix[mask] = matrix.T[mask] = above.numpy()
    return matrix


def _unit(matrix):
    length = float(np.sqrt(np.einsum("ij,ij->", matrix, matrix, dtype=np.float64) / 2))  # a plain number keeps the precision
    return matrix / (length if length > 0 else 1)


def _resampled(a, b, weights, centre):
    """Similarities of two geometries over bootstrap samples of stimuli; pairs of a stimulus with itself are left out."""
    sums = np.zeros((6, len(weights)))
    for rows in _blocks(len(a)):
        x, y = a[rows], b[rows]
        off = np.ones_like(x)
        off[np.arange(len(x)), np.arange(len(a))[rows]] = 0
        for k, values in enumerate((off, x, y, x * y, x * x, y * y)):
            sums[k] += np.einsum("bi,bi->b", weights[:, rows], weights @ values.T.astype(float))
    count, x, y, xy, xx, yy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        if centre:
            xy, xx, yy = xy - x * y / count, xx - x * x / count, yy - y * y / count
        return xy / np.sqrt(xx * yy)


def _ends(name, ends):
    return {f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}
