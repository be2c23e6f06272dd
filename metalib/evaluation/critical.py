"""The critical scale of a stage: up to which windows it takes a synthesis for its reference.

    critical_scale(rows)                       # of one stage of one network
    critical_scales(table, ["observer", "stage", "comparison"])
    half_scale(rows)                           # where half of a graded match is left
    pooling_scale(rows)                        # the windows of an observer that keeps as much

The share of images that pass falls as windows grow. A psychometric function says where: its
midpoint is the critical scale, and its lapse rate the share of images that pass at no scale, since
a method is never exact. For people it is the scale at which they no longer tell two images apart
(Freeman & Simoncelli 2011, doi:10.1038/nn.2889; Wallis et al. 2019, doi:10.7554/eLife.42512), and
depends on whether a synthesis is compared with its reference or with another synthesis.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

HALF_AT = 1.25  # the scale at which half a match is left to an observer that pools, over its own


def critical_scale(
    table: pd.DataFrame, *, scale: str = "scale", resamples: int = 1000, level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """The midpoint of the psychometric function of passes by scale, with an interval over images.

    It is fitted by psignifit (Schütt et al. 2016, doi:10.1016/j.visres.2016.02.002): a cumulative
    normal of the logarithm of the scale, with a lapse rate and no guessing, whose most probable
    parameters are given. All scales have the same images, so that passes are not independent, and
    psignifit's own interval would be too narrow. The interval here resamples images, for the
    estimate without a form: `moment`, the mean of the logarithm of the scale up to which images
    pass, among those that pass at the smallest (Spearman 1908 and Kärber 1931); its width is
    centred on the midpoint.

    Args:
        table: a row for each scale and image, with `image`, `passed` (without missing values) and
            the scale, positive.
        scale: the name of that column.
        resamples, level, seed: of the interval.

    Returns:
        `estimate`, `low`, `high` (scales), `bound` ("above" where most images pass at the largest
        scale, "below" where most fail at the smallest, and `estimate` is that scale; else ""),
        `lapse`, `width` (octaves in which the function falls from 95 to 5 % of its height),
        `moment`, and the numbers of `scales` and `images`.

    Raises:
        ValueError: fewer than three scales, or images that are not the same at all of them.
    """
    wide = _wide(table, scale)
    octaves, shares = np.log2(wide.columns.to_numpy(float)), wide.to_numpy(float).mean(0)
    found = {"scales": wide.shape[1], "images": wide.shape[0]}
    if bound := "above" if shares[-1] >= 0.5 else "below" if shares[0] < 0.5 else "":
        end = 2.0 ** octaves[-1 if bound == "above" else 0]
        low, high = (end, np.inf) if bound == "above" else (0.0, end)
        return {"estimate": end, "low": low, "high": high, "bound": bound,
                "lapse": 1 - shares[0], "width": np.nan, "moment": np.nan, **found}
    fitted = _fitted(octaves, shares, len(wide))
    moments = _moments(wide.to_numpy(float), octaves, resamples, seed)
    half = np.nanquantile(moments - moments[0], [(1 - level) / 2, (1 + level) / 2])
    return {"estimate": 2 ** fitted["midpoint"], "low": 2 ** (fitted["midpoint"] + half[0]),
            "high": 2 ** (fitted["midpoint"] + half[1]), "bound": "", "lapse": fitted["lapse"],
            "width": fitted["width"], "moment": 2 ** moments[0], **found}


def critical_scales(
    table: pd.DataFrame, by: Sequence[str], **options: Any,
) -> pd.DataFrame:
    """`critical_scale` of each group of rows; `options` are its keywords."""
    groups = table.groupby(list(by), sort=False)
    return pd.DataFrame([{**dict(zip(by, key if isinstance(key, tuple) else (key,))),
                          **critical_scale(rows, **options)} for key, rows in groups])


def half_scale(
    table: pd.DataFrame, *, scale: str = "scale", value: str = "scaled_match", share: float = 0.5,
    resamples: int = 1000, level: float = 0.95, seed: int = 0,
) -> dict[str, Any]:
    """The scale at which a mean that falls as windows grow has fallen to a share.

    It needs no criterion that images pass or fail. Means are made monotone by isotonic regression
    and interpolated over the logarithm of the scale. The interval resamples observers and images.

    Args:
        table: a row for each observer, image and scale, with `observer`, `image`, the scale,
            positive, and the value.
        scale, value: the names of these columns.
        share: of a copy, where 0 is for unrelated images.
        resamples, level, seed: of the interval.

    Returns:
        `estimate`, `low`, `high` (scales), `bound` as in `critical_scale`, and the numbers of
        `scales`, `observers` and `images`. An end of the interval that lies beyond the scales that
        were tried is 0 or infinite.

    Raises:
        ValueError: fewer than two scales, or missing values.
    """
    wide: Any = table.pivot(index=["observer", "image"], columns=scale, values=value).sort_index()
    values = wide.to_numpy(float)
    observers, images = (wide.index.get_level_values(name).unique() for name in wide.index.names)
    if (len(values) != len(observers) * len(images) or wide.shape[1] < 2 or np.isnan(values).any()
            or min(wide.columns) <= 0):
        raise ValueError("half a scale takes values of the same images at two or more positive "
                         f"scales, not those of {len(observers)} observers, {len(images)} images "
                         f"and the scales {', '.join(map(str, wide.columns))}")
    values, octaves = (values.reshape(len(observers), len(images), -1),
                       np.log2(wide.columns.to_numpy(float)))
    random = np.random.default_rng(seed)
    means = [values[random.integers(len(observers), size=len(observers))]
             [:, random.integers(len(images), size=len(images))].mean((0, 1))
             for _ in range(resamples)]
    found, *drawn = (_crossing(mean, octaves, share) for mean in (values.mean((0, 1)), *means))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    bound = {-np.inf: "below", np.inf: "above"}.get(found, "")
    return {"estimate": 2.0 ** np.clip(found, octaves[0], octaves[-1]), "low": 2.0 ** low,
            "high": 2.0 ** high, "bound": bound, "scales": len(octaves),
            "observers": len(observers), "images": len(images)}


def pooling_scale(table: pd.DataFrame, **options: Any) -> dict[str, Any]:
    """The scale of windows in which an observer would pool that keeps as much of a match.

    An observer that takes local means in log-polar windows, with overlaps as here, has half of the
    match left when images have the means of windows 1.25 times as large as its own. This was
    measured on such observers; a test recovers scales from .3 to .6 within 10 %. If smaller windows
    were parts of larger ones, half would be lost at the square root of two: what is lost would be 1
    less the square of the ratio of scales, as in Freeman & Simoncelli's fit of people's (2011).

    Args:
        table: as of `half_scale`.
        **options: its keywords but `share`, which is one half.

    Returns:
        What `half_scale` gives, with `estimate`, `low` and `high` over 1.25.
    """
    found = half_scale(table, share=0.5, **options)  # of no other share HALF_AT is known
    return found | {name: found[name] / HALF_AT for name in ("estimate", "low", "high")}


def _crossing(mean: np.ndarray, octaves: np.ndarray, share: float) -> float:
    """Where means fall below a share: infinite where they never do, or always have."""
    falling = optimize.isotonic_regression(mean, increasing=False).x
    if falling[0] < share:
        return -np.inf
    return np.inf if falling[-1] >= share else float(
        np.interp(-share, -falling, octaves))


def curve(found: dict[str, Any], scales: Any) -> np.ndarray:
    """The share of images that pass at scales, by what `critical_scale` found."""
    from scipy import stats
    spread = found["width"] / (2 * stats.norm.ppf(0.95))
    return (1 - found["lapse"]) * stats.norm.sf(
        (np.log2(scales) - np.log2(found["estimate"])) / spread)


def _wide(table: Any, scale: str) -> Any:
    wide = table.assign(passed=table["passed"].astype(float)).pivot(
        index="image", columns=scale, values="passed").sort_index(axis=1)
    if wide.shape[1] < 3 or wide.isna().to_numpy().any() or min(wide.columns) <= 0:
        raise ValueError("a critical scale takes verdicts on the same images at three or more "
                         f"positive scales, not a table of {wide.shape[0]} images and the scales "
                         f"{', '.join(map(str, wide.columns))}")
    return wide


def _fitted(octaves: np.ndarray, shares: np.ndarray, count: int) -> dict[str, float]:
    """Midpoint and width in octaves, and the lapse rate."""
    import psignifit  # metalib imports without it
    passes = np.round(shares * count)
    data = np.column_stack([-octaves, passes, np.full(len(octaves), count)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few trials at a block
        fit = psignifit.psignifit(
            data, experiment_type="yes/no", sigmoid="norm", verbose=False,
            fixed_parameters={"gamma": 0.0, "eta": 1e-4})
    found = fit.parameter_estimate
    return {"midpoint": -found["threshold"], "width": found["width"], "lapse": found["lambda"]}


def _moments(passes: np.ndarray, octaves: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Mean log2 of the scale up to which images pass: of the sample, then of resamples.

    The share that passes falls linearly between scales, from half a step below the smallest one to
    half a step above the largest.
    """
    draw = np.random.default_rng(seed).integers(len(passes), size=(resamples, len(passes)))
    shares = np.concatenate([passes.mean(0)[None], passes[draw].mean(1)])
    steps = np.gradient(octaves)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = shares / shares[:, :1]
    return octaves[0] - steps[0] / 2 + (relative * steps).sum(1)
