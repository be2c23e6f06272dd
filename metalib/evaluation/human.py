"""Images made as metamers for people are, shown to networks: what they save, and what they give up.

    by_method(table)                       # a row for each method
    by_stage(table, value="scaled_match")  # and by stage and training of observers
    half_scales(table, scale="scale")      # up to which windows half a match is left
    left(table, methods=["texform"], stage="features", beyond="noise")  # with an interval

Tables are those of `metalib.tasks.human`, of several methods or scales. Where they have a column
`generator`, iterative metamers are told apart by its training, and it is no observer of its own.
Intervals (95 %) are over observers and images.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from metalib.evaluation.critical import half_scale
from metalib.evaluation.intervals import mean_interval
from metalib.evaluation.reference import standard_first

VISION = "early vision"  # the observer that pools texture statistics


def named(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose methods are named with the training of the generator, where there is one."""
    if "generator" not in table:
        return table
    training = table["generator"].str.split("-").str[-2]
    return table.assign(method=table["method"].where(
        training.isna(), table["method"] + ", " + training.fillna("")))


def of_networks(table: pd.DataFrame, *, comparison: str = "reference", **values: str) -> Any:
    """Rows of other networks, and of a comparison; `values` are those of further columns.

    Raises:
        ValueError: there is no such row.
    """
    rows: Any = table[(table["observer"] != VISION) & (table["comparison"] == comparison)]
    if "generator" in rows:
        rows = rows[rows["observer"] != rows["generator"]]
    for name, value in values.items():
        rows = rows[rows[name] == value]
    if rows.empty:
        raise ValueError(f"no row of a network has {comparison}, {', '.join(values.values())}")
    rows.attrs = {}  # which each step would copy
    return rows


def by_method(table: pd.DataFrame, *, stage: str = "features") -> pd.DataFrame:
    """What a method takes, and what is left of the reference at a stage.

    Args:
        table: with the column `method`.
        stage: of the networks.

    Returns:
        A row for each `method`: `evaluations` and `seconds` of an image; its `distance` from the
        reference and structural similarity, `ssim`; the mean scaled match in networks, `match`,
        with its interval, `low` to `high`; the shares (%) that `passed` and that get the answer of
        the reference, `agrees`; and the scaled match in the model of early vision, `vision`, with
        the share (%) that passes there, `vision_passed`; missing where it did not look.
    """
    table = named(table)
    rows = of_networks(table, stage=stage)
    sight: Any = table[(table["observer"] == VISION) & (table["comparison"] == "reference")]
    sight = sight.groupby("method", sort=False)[["scaled_match", "passed"]].mean()
    found = []
    for method, part in rows.groupby("method", sort=False):
        wide = part.pivot(index="observer", columns="image", values="scaled_match")
        match, low, high = mean_interval(wide.dropna(axis=1).to_numpy(float))
        means = part[["evaluations", "seconds", "distance", "ssim"]].astype(float).mean()
        vision = sight.loc[method] if method in sight.index else {}
        found.append({"method": method, **means, "match": match, "low": low, "high": high,
                      **{name: 100 * part[name].astype(float).mean() for name in (
                          "passed", "agrees")},
                      "vision": vision.get("scaled_match", np.nan),
                      "vision_passed": 100 * vision.get("passed", np.nan)})
    return pd.DataFrame(found)


def by_stage(
    table: pd.DataFrame, *, value: str = "scaled_match", comparison: str = "reference",
) -> pd.DataFrame:
    """Means over networks of a training and images, by method, training and stage.

    Args:
        table: with the column `method`.
        value: "scaled_match", "passed" or "agrees".
        comparison: "reference" or "synthesis".

    Returns:
        A row for each `training` and `method`, a column for each stage.
    """
    rows = of_networks(named(table), comparison=comparison)
    rows = rows.assign(value=rows[value].astype(float))
    stages = rows.drop_duplicates("stage").sort_values("depth")["stage"]
    wide = rows.pivot_table("value", ["training", "method"], "stage", sort=False)
    return standard_first(wide[list(stages)].reset_index(), "training")


def half_scales(
    table: pd.DataFrame, *, scale: str, value: str = "scaled_match",
    comparison: str = "reference", **options: Any,
) -> pd.DataFrame:
    """At which windows half of the match is left, by training of the networks and stage.

    Args:
        table: with a column of scales.
        scale, value: names of columns; the value is 0 for unrelated images and 1 for copies.
        comparison: "reference" or "synthesis".
        **options: keywords of `metalib.evaluation.critical.half_scale`.

    Returns:
        A row for each `training` and `stage`, with what `half_scale` gives.
    """
    rows = of_networks(table, comparison=comparison)
    found = [{"training": training, "stage": stage, "depth": part["depth"].iloc[0],
              **half_scale(part, scale=scale, value=value, **options)}
             for (training, stage), part in rows.groupby(["training", "stage"], sort=False)]
    return standard_first(pd.DataFrame(found).sort_values("depth", kind="stable"), "training")


# --- Estimates for claims -----------------------------------------------------------------------

def left(
    table: pd.DataFrame, *, methods: Sequence[str], stage: str, value: str = "scaled_match",
    beyond: str = "",
) -> dict[str, Any]:
    """What networks find of the reference in images of some methods, in the mean.

    Args:
        table: with the column `method`.
        methods: which of them.
        stage: of the networks.
        value: "scaled_match", "passed" or "agrees".
        beyond: a method whose value is taken off, by network and image; "" takes none off.

    Returns:
        `estimate`, `low`, `high`, and the numbers of `observers` and `images`.
    """
    rows = of_networks(table, stage=stage)
    rows = rows.assign(value=rows[value].astype(float))
    wide: Any = rows.pivot_table("value", "observer", ["method", "image"])
    mean = sum(wide[method] for method in methods) / len(methods)
    return _found(mean - wide[beyond] if beyond else mean)


def at_all_scales(
    table: pd.DataFrame, *, stage: str, scale: str, first: str = "robust",
    second: str = "standard", value: str = "scaled_match", comparison: str = "reference",
) -> dict[str, Any]:
    """How much more networks of a training find than those of another, in the mean over scales.

    A network is compared with that of the same architecture and seed.

    Args:
        table: with a column of scales.
        stage, scale, value, comparison: as in `half_scales`.
        first, second: the trainings.

    Returns:
        `estimate`, `low`, `high`, and the numbers of `observers`, pairs of them, `images` and
        `scales`.
    """
    rows = of_networks(table, comparison=comparison, stage=stage)
    rows = rows.assign(value=rows[value].astype(float), pair=[
        name.replace(training, "") for name, training in zip(rows["observer"], rows["training"])])
    one, other = (rows[rows["training"] == training].pivot_table("value", "pair", "image")
                  for training in (first, second))
    return _found(one - other) | {"scales": rows[scale].nunique()}


def in_early_vision(table: pd.DataFrame, *, value: str = "passed") -> dict[str, Any]:
    """What the model of early vision finds of the reference in metamers of networks.

    Args:
        table: of iterative metamers, with the column `generator`.
        value: "scaled_match" or "passed".

    Returns:
        `estimate`, `low`, `high` over generators and images, and the numbers of `generators` and
        `images`.
    """
    rows: Any = table[(table["observer"] == VISION) & (table["comparison"] == "reference")]
    rows = rows.assign(value=rows[value].astype(float))
    found = _found(rows.pivot_table("value", "generator", "image"))
    found["generators"] = found.pop("observers")
    return found


def _found(wide: Any) -> dict[str, Any]:
    """Mean and interval of values by observer (rows) and image, of those that all have."""
    values = wide.dropna(axis=1).to_numpy(float)
    estimate, low, high = mean_interval(values)
    return {"estimate": estimate, "low": low, "high": high, "observers": values.shape[0],
            "images": values.shape[1]}
