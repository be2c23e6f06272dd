"""Confidence of networks in natural images, metamers and others, and how well it tells them apart.

    natural, others = scores(model, photographs)["msp"], scores(model, metamers.images)["msp"]
    detection(natural, others)                       # AUROC and AUPR with intervals
"""
import numpy as np
import pandas as pd
import torch
from scipy import stats

from metalib.data import pixels

SCORES = {
    "msp": lambda logits: logits.softmax(1).amax(1),  # maximum softmax probability, Hendrycks & Gimpel 2017, arXiv:1610.02136
    "max_logit": lambda logits: logits.amax(1),       # Hendrycks et al. 2022, arXiv:1911.11132
    "energy": lambda logits: logits.logsumexp(1),     # minus the energy of Liu et al. 2020, arXiv:2010.03759, at temperature 1
}


def scores(model, images, *, batch_size=500):
    """The `SCORES` of a model's logits, large where it is confident, and its answers: a DataFrame with a row per image.

    Args:
        model: a Model.
        images: an ImageSet or (B, 3, H, W) in [0, 1].
    """
    with torch.no_grad():
        logits = torch.cat([model(batch.to(model.device)).cpu() for batch in pixels(images).split(batch_size)]).double()
    return pd.DataFrame({name: score(logits) for name, score in SCORES.items()} | {"answer": logits.argmax(1)})


def detection(positive, negative, *, resamples=1000, seed=0):
    """How well a score tells two sets of images apart: areas under the ROC and precision-recall curves, by scikit-learn.

    As in Hendrycks & Gimpel 2017 (arXiv:1610.02136, section 2). Images that stem from one reference are not independent and are
    resampled together: the index of both Series names the reference that an image stems from, or the image itself. Intervals
    are 95 % percentiles of such resamples. After perfect separation all resamples agree, and the interval would have no width: then
    that of the AUROC is Clopper and Pearson's for a share of as many pairs as the smaller set has references, whose variance is
    not smaller, and that of the AUPR is missing.

    Args:
        positive, negative: Series of scores; a positive is expected to have the larger one.
        resamples: how many.
        seed: of the resamples.

    Returns:
        dict with `auroc`, `aupr` (average precision, positives being what is looked for), their `_low` and `_high`; `base`, the
        share of positives, which is the AUPR of a score without information; the numbers `positives` and `negatives`. NaN
        where a set is empty.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score
    counts = {"base": len(positive) / max(1, len(positive) + len(negative)), "positives": len(positive), "negatives": len(negative)}
    names = [f"{area}{end}" for area in ("auroc", "aupr") for end in ("", "_low", "_high")]
    if not len(positive) or not len(negative):
        return dict.fromkeys(names, np.nan) | counts
    values, truth = np.concatenate([positive, negative]), np.repeat([1, 0], [len(positive), len(negative)])
    clusters, member = np.unique(np.concatenate([positive.index, negative.index]), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)), resamples)
    areas = _areas(values, truth, drawn[:, member])
    found = [roc_auc_score(truth, values), average_precision_score(truth, values)]
    low, high = np.nanpercentile(areas, [2.5, 97.5], axis=1)
    if low[0] == high[0]:
        pairs = min(positive.index.nunique(), negative.index.nunique())
        limits = stats.binomtest(round(found[0] * pairs), pairs).proportion_ci()
        low, high = (limits.low, np.nan), (limits.high, np.nan)
    return dict(zip(names, [found[0], low[0], high[0], found[1], low[1], high[1]])) | counts


def _areas(values, truth, weights):
    """AUROC and average precision (2, R) of scikit-learn for each row of weights (R, n); NaN without positives or negatives."""
    order = np.argsort(-values, kind="stable")
    values, truth, weights = values[order], truth[order], weights[:, order]
    ends = np.append(values[1:] != values[:-1], True)  # equal values share a threshold
    hits, alarms = (np.cumsum(weights * part, axis=1)[:, ends] for part in (truth, 1 - truth))
    steps = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        total, false = hits[:, -1], alarms[:, -1]
        auroc = (np.diff(alarms, axis=1, prepend=0) * (hits - steps / 2)).sum(1) / (total * false)
        precision = np.where(hits + alarms > 0, hits / (hits + alarms), 0)
        return np.stack([auroc, (steps * precision).sum(1) / total])
