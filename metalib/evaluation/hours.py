"""Machine hours of a study that was not run, from costs that were measured and evaluations counted.

    needed = evaluations_needed(criterion, match, published)
    machine_hours(needed, n_models=30, n_images=400)         # by procedure, with intervals

Costs are those of `benchmarks/scaling.py`, evaluations those of the studies of chapter 1. Both are
interpolated by relative depth, from the first stage (0) to the last (1). The sum is over models,
stages and images of evaluations times the seconds of one and of the update rule.
"""

from typing import Any

import numpy as np
import pandas as pd

from metalib.evaluation import costs, ends

LARGE = 224  # pixels of the side of images of ImageNet networks
ALL, TO_MATCH, TO_CRITERION = (
    "published, all steps", "default, to the published match", "default, to the criterion")
SHOW = "to show all to all"


def evaluations_needed(
    criterion: pd.DataFrame, match: pd.DataFrame, published: pd.DataFrame, *, n_stages: int = 8,
    default_steps: int = 200,
) -> pd.DataFrame:
    """Gradient evaluations of an image, by procedure (columns) and relative depth (rows).

    To the criterion they are means over images and networks, in which an image that did not pass
    counts with the limit. To the published match they are those of `ends.times_fewer`, or the
    limit at a stage where the median image did not get there.
    """
    depths = np.linspace(0, 1, n_stages)
    means: Any = criterion.groupby(["optimizer", "stage"], sort=False)["evaluations"].mean()
    fewer: Any = ends.times_fewer(match, published, resamples=0)
    limit: Any = match["evaluations"].max()
    near = fewer["evaluations"].clip(upper=limit).groupby(fewer["stage"], sort=False).mean()
    steps: Any = published["evaluations"].max()
    order = list(means["published"].index)
    places = np.array([order.index(stage) for stage in near.index]) / max(len(order) - 1, 1)
    return pd.DataFrame({
        ALL: float(steps), "published, to the criterion": _at(depths, means["published"]),
        "default, all evaluations": float(default_steps),
        TO_MATCH: np.interp(depths, places, near),
        TO_CRITERION: _at(depths, means[costs.DEFAULT])}, index=pd.Index(depths, name="depth"))


def _at(depths: np.ndarray, values: Any) -> np.ndarray:
    """Values at relative depths, of values at evenly spaced ones."""
    return np.interp(depths, np.linspace(0, 1, len(values)), np.asarray(values, dtype=float))


def per_evaluation(
    depths: Any, *, device: str = "cpu", value: str = "seconds", side: int = LARGE,
) -> pd.DataFrame:
    """What an evaluation of one image costs: a row for each network, a column for each depth."""
    rows = part("evaluation", device=device, side=side)
    found = {name: _at(np.asarray(depths), one[value])
             for name, one in rows.groupby("model", sort=False)}
    return pd.DataFrame(found, index=depths).T


def part(name: str, *, device: str = "cpu", side: int = LARGE) -> Any:
    """Rows of a part of `benchmarks/scaling.py`: "rule", "show", "batch" or "evaluation"."""
    rows: Any = costs.measured("scaling")
    return rows[(rows["part"] == name) & (rows["device"] == device) & (rows["side"] == side)]


def slower(way: str, other: str) -> pd.Series:
    """How many times as long as a step of another way a step takes, on a CPU.

    Args:
        way, other: of `benchmarks/generation.py`, such as "metalib, adam".

    Returns:
        A number for each stage of networks of 224 pixels, in batches of several images.
    """
    speed: Any = costs.measured("speed")
    rows = speed[~speed["hardware"].str.contains("NVIDIA") & (speed["batch"] > 1)
                 & ~speed["model"].str.startswith("zoo/")]
    wide = rows.pivot(index=["model", "stage"], columns="way", values="image-steps a second")
    return wide[other] / wide[way]


def hours_by_model(
    needed: pd.DataFrame, *, n_models: int, n_images: int, device: str = "cpu",
) -> pd.DataFrame:
    """Hours of a study if all models cost as much as one: a row for each that was timed.

    Columns are the procedures of `needed`, and to show every metamer to every model.
    """
    each = per_evaluation(needed.index, device=device)
    rule: Any = part("rule", device=device)["seconds"].iloc[0]
    shown = part("show", device=device).set_index("model")["seconds"].reindex(each.index)
    found = {name: n_models * n_images / 3600 * (
        (each + rule * name.startswith("default")) * needed[name]).sum(axis=1) for name in needed}
    return pd.DataFrame(found).assign(
        **{SHOW: n_models ** 2 * len(needed) * n_images * shown / 3600})


def machine_hours(
    needed: pd.DataFrame, *, n_models: int = 30, n_images: int = 400, resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Hours of a study, by procedure.

    Returns:
        pandas.DataFrame with `core_hours`, `low` and `high`, the mean over the networks that were
        timed and its 95 % bootstrap interval over them; `gpu_hours` and `evaluations` of an image
        at a stage, a mean.
    """
    cores, gpu = (hours_by_model(needed, n_models=n_models, n_images=n_images, device=device)
                  for device in ("cpu", "cuda"))
    draws = np.random.default_rng(seed).integers(len(cores), size=(resamples, len(cores)))
    low, high = np.quantile(cores.to_numpy()[draws].mean(1), [0.025, 0.975], axis=0)
    return pd.DataFrame({
        "core_hours": cores.mean(), "low": pd.Series(low, cores.columns),
        "high": pd.Series(high, cores.columns), "gpu_hours": gpu.mean(),
        "evaluations": needed.mean()}).reindex(cores.columns)


def times_cheaper(
    criterion: pd.DataFrame, match: pd.DataFrame, published: pd.DataFrame, *,
    procedure: str = TO_MATCH, n_models: int = 30, n_stages: int = 8, n_images: int = 400,
) -> dict[str, Any]:
    """How many times the core hours of a procedure the published one takes with all its steps.

    The interval is a bootstrap over the `timed` networks; evaluations, of `counted` others, are
    taken as they are. `hours` are those of the published procedure, `cheap` those of the other.
    """
    needed = evaluations_needed(criterion, match, published, n_stages=n_stages)
    each = hours_by_model(needed, n_models=n_models, n_images=n_images).to_numpy()
    names = [*needed, SHOW]
    draws = np.random.default_rng(0).integers(len(each), size=(2000, len(each)))
    means = np.concatenate([each.mean(0)[None], each[draws].mean(1)])
    ratio = means[:, names.index(ALL)] / means[:, names.index(procedure)]
    low, high = np.quantile(ratio[1:], [0.025, 0.975])
    return {"estimate": float(ratio[0]), "low": float(low), "high": float(high),
            "hours": round_to_two(means[0, names.index(ALL)]),
            "cheap": round_to_two(means[0, names.index(procedure)]),
            "models": n_models, "stages": n_stages, "images": n_images, "timed": len(each),
            "counted": len({*criterion["model"], *match["model"]})}


def round_to_two(number: float) -> str:
    """A number with two digits that are not zero.

    >>> round_to_two(41832.7), round_to_two(0.1234)
    ('42,000', '0.12')
    """
    return f"{float(f'{number:.2g}'):,.10g}"


def predicted() -> pd.DataFrame:
    """Core hours that the published procedure should take, and hours that it took.

    Of the record of chapter 1: one row per model and stage, with `hours` of the clock on two
    cores, `predicted` core hours, and `ratio`, the second over the first. A robust network costs
    what the standard one of its architecture does.
    """
    taken: Any = costs.measured("published")
    small: Any = part("evaluation", side=32).set_index(["model", "stage"])["seconds"]
    like = [(name.replace("robust", "standard"), stage)
            for name, stage in zip(taken["model"], taken["stage"])]
    core_hours = taken["steps"] * taken["images"] * small[like].to_numpy() / 3600
    return taken.assign(predicted=core_hours, ratio=core_hours / taken["hours"])
