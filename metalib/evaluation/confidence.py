"""A network's confidence in images, and how well it tells two sets of images apart.

    natural, others = scores(model, photographs)["msp"], scores(model, metamers.images)["msp"]
    detection(natural, others)                       # AUROC and AUPR with intervals
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from metalib.data import ImageSet, pixels
from metalib.models.model import Model


def two_sided(logits: Tensor) -> Tensor:
    """Logits (B, K); of one logit (B, 1) for two classes the logits of both, -z / 2 and z / 2."""
    return torch.cat([-logits, logits], 1) / 2 if logits.shape[1] == 1 else logits


def confidence(logits: Tensor) -> Tensor:
    """The maximum softmax probability (B,), Hendrycks & Gimpel 2017, arXiv:1610.02136."""
    return two_sided(logits).softmax(1).amax(1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "msp": confidence,
    # Hendrycks et al. 2022, arXiv:1911.11132
    "max_logit": lambda logits: two_sided(logits).amax(1),
    # minus the energy of Liu et al. 2020, arXiv:2010.03759, at temperature 1
    "energy": lambda logits: two_sided(logits).logsumexp(1),
}


def scores(model: Model, images: ImageSet | Tensor, *, batch_size: int = 500) -> pd.DataFrame:
    """The `SCORES` of a model's logits, large where it is confident, and its answers.

    Args:
        model: a Model.
        images: an ImageSet or (B, 3, H, W) in [0, 1].
        batch_size: the number of images that go through the model together.

    Returns:
        One row per image: a column for each of `SCORES`, and `answer`, the class of the largest
        logit, -1 where none is the largest.

    Raises:
        ValueError: a model without classes.
    """
    if not model.has_classes:
        raise ValueError(f"{model.name} has no classes, in which it could be confident; compare "
                         "its activations with judge or representation_test")
    with torch.no_grad():
        logits = torch.cat([model(batch.to(model.device)).cpu()
                            for batch in pixels(images).split(batch_size)]).double()
    answers = model.answer_of(logits.to(model.device, torch.float32)).cpu()
    if model.coarse_names:
        answers = answers.where(answers < 0, logits.argmax(1))
    return pd.DataFrame({name: score(logits) for name, score in SCORES.items()}
                        | {"answer": answers})


def detection(
    positive: pd.Series, negative: pd.Series, *, resamples: int = 1000, seed: int = 0,
) -> dict[str, float]:
    """How well a score tells two sets of images apart: areas under the ROC and PR curves.

    As in Hendrycks & Gimpel 2017 (arXiv:1610.02136, section 2), computed by scikit-learn. Images
    from one reference are not independent and are resampled together. The index of both Series
    names the reference of each image, or the image itself. Intervals are 95 % percentiles over
    these resamples.

    If the sets separate perfectly, all resamples agree, and percentiles would have no width. The
    interval of the AUROC is then that of Clopper and Pearson for a share of n pairs, where n is the
    number of references of the set that has fewer. The variance of that share is not smaller than
    the variance of the AUROC. The interval of the AUPR is then missing.

    Args:
        positive, negative: scores of the two sets; positives are expected to have larger ones.
        resamples: the number of resamples.
        seed: the seed of the resamples.

    Returns:
        `auroc` and `aupr` (average precision in finding the positives), each also with `_low` and
        `_high`; `base`, the share of positives, which is the AUPR of a score without information;
        and the numbers of `positives` and `negatives`. The areas are NaN where a set is empty.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    counts = {"base": len(positive) / max(1, len(positive) + len(negative)),
              "positives": len(positive), "negatives": len(negative)}
    names = [f"{area}{end}" for area in ("auroc", "aupr") for end in ("", "_low", "_high")]
    if not len(positive) or not len(negative):
        return dict.fromkeys(names, np.nan) | counts
    values, truth = (
        np.concatenate([positive, negative]), np.repeat([1, 0], [len(positive), len(negative)]))
    clusters, member = np.unique(
        np.concatenate([positive.index, negative.index]), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(
        len(clusters), np.full(len(clusters), 1 / len(clusters)), resamples)
    areas = _areas(values, truth, drawn[:, member])
    found = [roc_auc_score(truth, values), average_precision_score(truth, values)]
    low, high = np.nanpercentile(areas, [2.5, 97.5], axis=1)
    if low[0] == high[0]:
        pairs = min(positive.index.nunique(), negative.index.nunique())
        limits = stats.binomtest(round(found[0] * pairs), pairs).proportion_ci()
        low, high = (limits.low, np.nan), (limits.high, np.nan)
    return dict(zip(names, [found[0], low[0], high[0], found[1], low[1], high[1]])) | counts


# Not scikit-learn's: it takes one row of weights per call. All rows at once are far faster.
def _areas(values: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC and average precision (2, R) for each row of weights (R, n), as in scikit-learn.

    NaN without positives or without negatives.
    """
    order = np.argsort(-values, kind="stable")
    values, truth, weights = values[order], truth[order], weights[:, order]
    ends = np.append(values[1:] != values[:-1], True)  # equal values share a threshold
    hits, alarms = (np.cumsum(weights * part, axis=1)[:, ends] for part in (truth, 1 - truth))
    steps = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        positives, negatives = hits[:, -1], alarms[:, -1]
        auroc = ((np.diff(alarms, axis=1, prepend=0) * (hits - steps / 2)).sum(1)
                 / (positives * negatives))
        precision = np.where(hits + alarms > 0, hits / (hits + alarms), 0)
        return np.stack([auroc, (steps * precision).sum(1) / positives])
