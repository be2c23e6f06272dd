"""Images made as metamers for people are, shown to networks: what they save, and what they give up.

    by_method(table, generator="zoo/vgg-robust-0")      # a row for each method
    by_stage(table, value="scaled_match")               # and by stage and training of observers
    half_scales(table, scale="scale")                   # up to which windows half a match is left

Tables are those of `metalib.tasks.human`, of several methods or scales. Intervals (95 %) are over
observers and images.
"""

from typing import Any

import numpy as np
import pandas as pd

from metalib.evaluation.critical import half_scale
from metalib.evaluation.intervals import mean_interval
from metalib.evaluation.reference import standard_first

VISION = "early vision"  # the observer that pools texture statistics


def of_networks(table: pd.DataFrame, *, comparison: str = "reference", **values: str) -> Any:
    """Rows of networks, and of a comparison; `values` are those of further columns.

    Raises:
        ValueError: there is no such row.
    """
    rows: Any = table[(table["observer"] != VISION) & (table["comparison"] == comparison)]
    for name, value in values.items():
        rows = rows[rows[name] == value]
    if rows.empty:
        raise ValueError(f"no row of a network has {comparison}, {', '.join(values.values())}")
    rows.attrs = {}  # which each step would copy
    return rows


def by_method(table: pd.DataFrame, *, stage: str = "features", generator: str = "") -> pd.DataFrame:
    """What a method takes, and what is left of the reference at a stage.

    Args:
        table: with the column `method`.
        stage: of the networks.
        generator: the network of "iterative", which is no observer of its own metamers.

    Returns:
        A row for each `method`: `evaluations` and `seconds` of an image; its `distance` from the
        reference and structural similarity, `ssim`; the mean scaled match in networks, `match`,
        with its interval, `low` to `high`; the shares (%) that `passed` and that get the answer of
        the reference, `agrees`; and the scaled match in the model of early vision, `vision`, with
        the share (%) that passes there, `vision_passed`; missing where it did not look.
    """
    rows = of_networks(table, stage=stage)
    rows = rows[~((rows["method"] == "iterative") & (rows["observer"] == generator))]
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
    generator: str = "",
) -> pd.DataFrame:
    """Means over networks of a training and images, by method, training and stage.

    Args:
        table: with the column `method`.
        value: "scaled_match", "passed" or "agrees".
        comparison: "reference" or "synthesis".
        generator: as in `by_method`.

    Returns:
        A row for each `training` and `method`, a column for each stage.
    """
    rows = of_networks(table, comparison=comparison)
    rows = rows[~((rows["method"] == "iterative") & (rows["observer"] == generator))]
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
