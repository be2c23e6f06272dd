"""What metamers keep of their references in other networks: estimates of representation tests.

    cells = primary(table)                                    # the primary test, by observer, stage
    auc(table, training="robust", matched="features", stage="features")    # with its interval
    singles(table, stage="features")                          # shares of single metamers

The table is that of the study `representation` (see `metalib.tasks.representation`), whose columns
`generator` and `matched` say for which network and stage the metamers were made. Observers are
other networks than the generator. Intervals (95 %) treat observers and images as random, and
generators as given, since there are few of them.
"""

from typing import Any

import numpy as np
import pandas as pd

from metalib.evaluation.corrections import corrected, smallest_detectable, warn_of_floors
from metalib.evaluation.intervals import mean_interval, share_interval
from metalib.evaluation.reference import standard_first

ALPHA = 0.05  # of all tests


class NoRows(ValueError):
    """The table has no rows of the networks that an estimate needs."""


def of_images(
    table: pd.DataFrame, *, training: str = "", matched: str = "", stage: str = "", null: str = "",
) -> pd.DataFrame:
    """Rows of single metamers in other networks.

    Args:
        table: of the study.
        training: of the generators.
        matched: the stage at which metamers were made.
        stage: of the observers.
        null: one of `metalib.representation.NULLS`. "" takes all, of this as of the others.

    Raises:
        NoRows: there is no such row.
    """
    rows: Any = table[(table["part"] == "image") & (table["observer"] != table["generator"])]
    for name, value in (("generator_training", training), ("matched", matched), ("stage", stage),
                        ("null", null)):
        rows = rows[rows[name] == value] if value else rows
    rows.attrs = {}  # which each step would copy
    if rows.empty:
        raise NoRows(f"no row has {training or 'any'} generators, metamers of "
                         f"{matched or 'any stage'}, the stage {stage or 'any'} of another network "
                         f"and the null {null or 'any'}")
    return rows


def primary(table: pd.DataFrame) -> pd.DataFrame:
    """The test of all metamers together against the same class, in other networks.

    Returns:
        The rows of the study whose `part` is "stage" and whose observer is another network, with
        `primary_p`, corrected by Holm's method over the observers and stages of one set of
        metamers, and `beyond`, whether it is at most 5 %.

    Warns:
        UserWarning: permutations are so few that their number decides what is significant. The
            smallest p-value that they allow is taken to be the smallest of the table.
    """
    rows: Any = table[(table["part"] == "stage") & (table["observer"] != table["generator"])]
    rows.attrs = {}
    sets = rows.groupby(["generator", "matched"], sort=False)["same-class_p"]
    rows = rows.assign(primary_p=sets.transform(lambda p: corrected(p, "holm")))
    largest = sets.count().max()
    warn_of_floors("primary_p, for all images together,", {"observers and stages": np.full(
        largest, rows["same-class_p"].min())}, "holm", "More permutations lower that", ALPHA)
    return rows.assign(beyond=rows["primary_p"] <= ALPHA)


def beyond(table: pd.DataFrame, *, training: str, matched: str) -> dict[str, int]:
    """In how many `cells`, stages of other networks, the primary test is significant: `count`."""
    cells: Any = primary(table)
    chosen = cells[(cells["generator_training"] == training) & (cells["matched"] == matched)]
    return {"count": int(chosen["beyond"].sum()), "cells": len(chosen)}


def by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """What metamers keep beyond the class, by training of generator and observer.

    Returns:
        A row for each `generator_training`, `matched`, `observer_training` and `stage`: `kept`,
        the mean share of the way from photographs of the class to copies of the reference;
        `beyond`, the share of networks in which the primary test is significant; and the number of
        `cells`, pairs of networks.
    """
    by = ["generator_training", "matched", "observer_training", "stage"]
    return standard_first(primary(table).groupby(by, sort=False).agg(
        kept=("same-class_kept", "mean"), beyond=("beyond", "mean"), cells=("beyond", "size"),
    ).reset_index(), "observer_training")


def by_observer(table: pd.DataFrame, *, matched: str) -> pd.DataFrame:
    """What metamers of one stage keep beyond the class, by training of generators and observer.

    Returns:
        A row for each `generator_training`, `observer` and `stage`: `kept` and `beyond` as in
        `by_kind`; and `nearest`, the share of references that are the nearest of all to their
        metamer, mean over the stages of the observer.
    """
    cells: Any = primary(table)
    cells = cells[cells["matched"] == matched].sort_values("observer", kind="stable")
    by = ["generator_training", "observer", "stage"]
    found: Any = cells.groupby(by, sort=False).agg(
        kept=("same-class_kept", "mean"), beyond=("beyond", "mean"), nearest=("top1", "mean"))
    found["nearest"] = found.groupby(by[:2])["nearest"].transform("mean")
    return found.reset_index()


def auc(
    table: pd.DataFrame, *, training: str = "", matched: str, stage: str, null: str = "same-class",
) -> dict[str, Any]:
    """The mean share of a null that is less similar to the reference than its metamer is.

    One half is chance; against perturbations, less than that is worse than the perturbation.

    Args:
        table, training, matched, stage, null: as in `of_images`.

    Returns:
        `estimate`, `low`, `high`, and the numbers of `generators`, `observers` and `images`; with
        a training also `count` and `cells` of `beyond`.
    """
    rows: Any = of_images(table, training=training, matched=matched, stage=stage, null=null)
    found = _found(mean_interval(_crossed(rows, "auc")), rows)
    found |= {name: min(max(found[name], 0.0), 1.0) for name in ("low", "high")}
    return found | (beyond(table, training=training, matched=matched) if training else {})


def aucs(table: pd.DataFrame, *, matched: str) -> pd.DataFrame:
    """`auc` for metamers of one stage, by training of the generator, stage and null."""
    rows: Any = of_images(table, matched=matched)
    keys: Any = rows[["generator_training", "stage", "null"]].drop_duplicates()
    found = [auc(table, training=training, matched=matched, stage=stage, null=null)
             for training, stage, null in keys.itertuples(index=False)]
    ends = pd.DataFrame(found)[["estimate", "low", "high"]].set_index(keys.index)
    return keys.join(ends).rename(columns={"estimate": "auc"}).reset_index(drop=True)


def better_and_worse(table: pd.DataFrame, *, matched: str) -> pd.DataFrame:
    """At how many stages metamers are more, or less, similar than perturbations.

    Returns:
        A row for each training of the generators and each of "noise" and "blend": the numbers of
        stages whose interval lies above one half (`better`) and below it (`worse`), and of all
        `stages`.
    """
    rows: Any = aucs(table, matched=matched)
    rows = rows[rows["null"].isin(["noise", "blend"])]
    rows = rows.assign(better=rows["low"] > 0.5, worse=rows["high"] < 0.5)
    return rows.groupby(["generator_training", "null"], sort=False).agg(
        better=("better", "sum"), worse=("worse", "sum"), stages=("stage", "size")).reset_index()


def gain_of_training(
    table: pd.DataFrame, *, matched: str, stage: str, null: str = "same-class",
    first: str = "robust", second: str = "standard",
) -> dict[str, Any]:
    """`auc` of generators of a training less that of another, in the same networks and images."""
    rows: Any = of_images(table, matched=matched, stage=stage, null=null)
    one, other = (_crossed(rows[rows["generator_training"] == training], "auc", frame=True)
                  for training in (first, second))
    difference = (one - other).dropna(how="any").to_numpy()
    return _found(mean_interval(difference), rows)


def single(
    table: pd.DataFrame, *, training: str = "", matched: str, stage: str, null: str = "same-class",
    q: float = ALPHA,
) -> dict[str, Any]:
    """The share of single metamers that are significantly more similar than a null.

    Args:
        table, training, matched, stage, null: as in `of_images`.
        q: the false discovery rate over images and stages of an observer.

    Returns:
        A dict as of `auc`, with `floor`, the smallest p-value that the null allows; `detectable`,
        the largest of `detectable_shares` for these generators and metamers; and `first`, the
        share of metamers that are more similar than all of the null.
    """
    families: Any = of_images(table, training=training, matched=matched, null=null)
    rows: Any = families[families["stage"] == stage]
    rows = rows.assign(hit=(rows["q_value"] <= q).where(rows["q_value"].notna()))
    first = (rows["auc"] > 1 - 1e-6).where(rows["auc"].notna()).astype(float)
    return _found(share_interval(_crossed(rows, "hit")), rows) | {
        "floor": float(1 / (1 + rows["draws"].max())),
        "detectable": float(detectable_shares(families, q).max()), "first": float(first.mean())}


def singles(table: pd.DataFrame, *, stage: str) -> pd.DataFrame:
    """Shares (%) of single metamers at a stage of other networks.

    Returns:
        A row for each training of the generators and matched stage: `significant` against the
        class, with `low` and `high`; `detectable`, the smallest share of the images and stages of
        an observer that could have been found; `first`, more similar than all photographs of the
        class; `nearest`, those whose reference is the nearest of all references; `recognised`.
    """
    rows: Any = of_images(table, stage=stage, null="same-class")
    found = []
    for (training, matched), part in rows.groupby(["generator_training", "matched"], sort=False):
        test = single(table, training=str(training), matched=str(matched), stage=stage)
        shares = [test["estimate"], test["low"], test["high"], test["detectable"], test["first"],
                  (part["rank"] == 1).mean(), part["recognised"].astype(float).mean()]
        found.append((training, matched, *(100 * share for share in shares)))
    return pd.DataFrame(found, columns=["generator_training", "matched", "significant", "low",
                                        "high", "detectable", "first", "nearest", "recognised"])


def fewest_significant(table: pd.DataFrame) -> float:
    """The share of an observer's tests that must be at the smallest p-value to be significant.

    Against the class, and of the observer and metamers for which it is largest.
    """
    return float(detectable_shares(of_images(table, null="same-class")).max())


def detectable_shares(rows: pd.DataFrame, alpha: float = ALPHA) -> pd.Series:
    """The smallest shares that can be found, see `metalib.evaluation.corrections`.

    Args:
        rows: of `of_images`. A family is what a `representation_test` corrects together by the
            method of Benjamini and Hochberg: all images and stages of an observer, for a null.
        alpha: corrected p-values of at most this are significant.

    Returns:
        Shares, by generator, matched stage, observer and null.
    """
    families: Any = rows.dropna(subset="q_value").groupby(
        ["generator", "matched", "observer", "null"], sort=False)["draws"]
    return families.agg(lambda draws: smallest_detectable(1 / (1 + draws), alpha=alpha))


def disagreements(table: pd.DataFrame, *, matched: str, stage: str) -> dict[str, Any]:
    """How often recognition and representation disagree about a metamer.

    A reference is identified where it is the nearest of all references.

    Args:
        table, matched, stage: as in `of_images`.

    Returns:
        `estimate`, `low`, `high`: the share recognised but not identified less the share identified
        but not recognised; the counts `both`, `recognised`, `identified` (only) and `neither`; and
        the numbers of `generators`, `observers` and `images`.
    """
    rows: Any = of_images(table, matched=matched, stage=stage, null="random").dropna(
        subset=["recognised", "rank"])
    known, nearest = rows["recognised"].astype(bool), rows["rank"] == 1
    rows = rows.assign(difference=known.astype(float) - nearest.astype(float))
    return _found(mean_interval(_crossed(rows, "difference")), rows) | {
        "both": int((known & nearest).sum()), "recognised": int((known & ~nearest).sum()),
        "identified": int((~known & nearest).sum()), "neither": int((~known & ~nearest).sum())}


def disagreeing(table: pd.DataFrame, *, stage: str, beyond: int = 3) -> dict[str, pd.DataFrame]:
    """The metamers about which recognition and representation disagree most.

    Args:
        table: of `representation_test`, with the null "random".
        stage: of the observers.
        beyond: how many references must be nearer than the metamer's own.

    Returns:
        The rows of both kinds, by their names: those whose reference is the nearest, but whose
        class is another; and those that are recognised, but not among the nearest.
    """
    rows: Any = table[(table["stage"] == stage) & (table["null"] == "random")]
    rows = rows.dropna(subset=["recognised", "rank"])
    known = rows["recognised"].astype(bool)
    return {"nearest to its reference, another class": rows[~known & (rows["rank"] == 1)],
            f"the right class, {beyond} or more references nearer":
                rows[known & (rows["rank"] > beyond)]}


def second_order(table: pd.DataFrame, *, stage: str) -> pd.DataFrame:
    """Means over other networks of measures at a stage, by training and matched stage.

    Returns:
        A row for each `generator_training` and `matched`: `similarity`, `natural_95` (which one
        pair of unrelated photographs in 20 exceeds), `ceiling`, and the second-order measures
        `correlation_pearson`, `euclidean_pearson` and `cka_score` (see `representation_test`).
    """
    by = ["generator_training", "matched"]
    rows: Any = of_images(table, stage=stage, null="random")
    images = rows.groupby(by, sort=False)
    stages: Any = primary(table)
    stages = stages[stages["stage"] == stage].groupby(by, sort=False)
    means = images[["similarity", "ceiling"]].mean().join(stages[[
        "natural_95", "correlation_pearson", "euclidean_pearson", "cka_score"]].mean())
    return means[["similarity", "natural_95", "ceiling", "correlation_pearson",
                  "euclidean_pearson", "cka_score"]].reset_index()


def _crossed(rows: pd.DataFrame, value: str, frame: bool = False) -> Any:
    """Means over generators, (observers, images); images without a value in one are left out."""
    cells: Any = rows.assign(value=rows[value].astype(float)).pivot_table(
        "value", "observer", "image")
    return cells if frame else cells.dropna(axis=1).to_numpy()


def _found(interval: tuple[float, float, float], rows: Any) -> dict[str, Any]:
    return {**dict(zip(("estimate", "low", "high"), map(float, interval))),
            **{f"{name}s": int(rows[name].nunique()) for name in (
                "generator", "observer", "image")}}
