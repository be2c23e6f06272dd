"""Intervals of means and shares over observers and images, two crossed random factors.

    mean, low, high = mean_interval(values)     # values (observers, images)
    share, low, high = share_interval(hits)     # booleans (observers, images)

The variance of a mean over both factors adds those of the means over either (Clark 1973,
doi:10.1016/S0022-5371(73)80014-3).
"""

from typing import Any

import numpy as np
from scipy import stats

from metalib.deprecated import renamed


@renamed(confidence="level")
def mean_interval(values: Any, level: float = 0.95) -> tuple[float, float, float]:
    """Mean, low and high end for values (observers, images), both of them random factors.

    The interval is Student's, with the degrees of freedom of the rarer factor. A single value has
    NaN ends.
    """
    mean, error, freedom = _crossed(values)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error if freedom > 0 else np.nan
    return mean, mean - half, mean + half


@renamed(confidence="level")
def share_interval(hits: Any, level: float = 0.95) -> tuple[float, float, float]:
    """Share, low and high end for booleans (observers, images), both of them random factors.

    The interval is Clopper and Pearson's at the effective number of observations (Korn & Graubard
    1998, Survey Methodology 24, 193). That is the number of the rarer factor where fewer
    observations than that differ from the rest.
    """
    from statsmodels.stats.proportion import proportion_confint  # metalib imports without it
    share, error, freedom = _crossed(np.asarray(hits, dtype=float))
    fewest, most = sorted(np.shape(hits))
    fewest = most if fewest == 1 else fewest  # with one observer, the sample is one of images
    if min(np.sum(hits), np.size(hits) - np.sum(hits)) < fewest:  # too few to tell their spread
        count = fewest
    else:
        upper = (1 + level) / 2
        count = share * (1 - share) / error ** 2
        count *= (stats.norm.ppf(upper) / stats.t.ppf(upper, freedom)) ** 2
        count = min(max(count, 1), np.size(hits))
    ends: Any = proportion_confint(share * count, count, alpha=1 - level, method="beta")
    return share, float(ends[0]), float(ends[1])


def _crossed(values: Any) -> tuple[float, float, int]:
    """Mean over both factors of values (observers, images), its error, degrees of freedom.

    The error is the standard error over both factors; the degrees of freedom are those of the
    rarer one.
    """
    values = np.asarray(values, dtype=float)
    observers, images = values.shape
    if not values.size:
        return np.nan, np.nan, 0
    mean = values.mean()
    if 1 in (observers, images):
        count = max(observers, images)
        return mean, values.std(ddof=1) / count ** 0.5 if count > 1 else np.nan, count - 1
    rows = values.mean(1, keepdims=True) - mean
    columns = values.mean(0, keepdims=True) - mean
    of_observers = images * (rows ** 2).sum() / (observers - 1)
    of_images = observers * (columns ** 2).sum() / (images - 1)
    rest = ((values - mean - rows - columns) ** 2).sum() / ((observers - 1) * (images - 1))
    square = max(of_observers + of_images - rest, of_observers, of_images)
    return mean, (square / values.size) ** 0.5, min(observers, images) - 1
