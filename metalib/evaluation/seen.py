"""What networks see in metamers: estimates of the tables of studies on inversions and confidence.

    auroc(sure, photographs, stage="group3")         # are own metamers told from photographs?
    doubt(sure, photographs, stage="group3")         # does another network doubt more?
    inversion(table, stage="stem", value="ssim")     # what an inversion keeps
    training_gap(table, stage="group3", value="layout")

The area under the ROC curve is the chance that a photograph has a larger score than a metamer. So
it is a mean over metamers of the share of photographs above each (ties count by half), and has the
intervals (95 %) of such a mean, for other networks and images.
"""

from typing import Any

import numpy as np
import pandas as pd

from metalib.evaluation import crossed
from metalib.evaluation.intervals import mean_interval
from metalib.evaluation.reference import at_equal_accuracy, nested

OWN, OTHERS, NOISE = "own metamers", "metamers of others", "noise of the same size"
BOUNDS = {"ssim": (-1.0, 1.0), "layout": (-1.0, 1.0), "own": (0.0, 1.0), "others": (0.0, 1.0)}
PRIOR, NO_PRIOR = "pink noise, prior", "pink noise, no prior"


def below(sure: pd.DataFrame, photographs: pd.DataFrame, score: str = "msp") -> pd.Series:
    """For each row the share of photographs of which its observer is surer, ties by half.

    Args:
        sure: of the study `confidence`.
        photographs: of the study of that name.
        score: one of `metalib.confidence.SCORES`.
    """
    natural: Any = photographs[photographs["kind"] == "photographs"]
    known = {name: np.sort(rows[score].to_numpy()) for name, rows in natural.groupby("observer")}
    found = pd.Series(np.nan, index=sure.index)
    for name, rows in sure.groupby("observer"):
        scores = known[name]
        left, right = (np.searchsorted(scores, rows[score].to_numpy(), side)
                       for side in ("left", "right"))
        found[rows.index] = 1 - (left + right) / 2 / len(scores)
    return found


def auroc(
    sure: pd.DataFrame, photographs: pd.DataFrame, *, stage: str, kind: str = OWN,
    score: str = "msp",
) -> dict[str, Any]:
    """The area under the ROC curve for telling photographs from one kind of image by confidence.

    Args:
        sure, photographs, score: as in `below`.
        stage: at which the metamers were matched.
        kind: "own metamers", "metamers of others" or "noise of the same size".

    Returns:
        `estimate`, a mean over networks and images (0.5: they cannot be told apart), `low`, `high`,
        and the numbers of `networks`, `images`, and `photographs` of each network.

    Raises:
        ValueError: there are no such rows.
    """
    rows: Any = sure[(sure["stage"] == stage) & (sure["kind"] == kind)]
    if rows.empty:
        raise ValueError(f"the table has no {kind} of {stage}")
    area = rows.assign(area=below(rows, photographs, score))
    natural = _photographs(photographs)
    if kind != OTHERS:
        return {**_over(area.pivot_table("area", "observer", "image")), **natural}
    found = crossed.estimate(nested(area.rename(columns={"network": "generator"})), value="area")
    return {**found, "low": max(found["low"], 0.0), "high": min(found["high"], 1.0),
            "networks": found["observers"], **natural}


def _photographs(table: Any) -> dict[str, int]:
    """How many photographs each network was shown."""
    natural = table[table["kind"] == "photographs"]
    return {"photographs": int(natural.groupby("observer").size().min())}


def doubt(
    sure: pd.DataFrame, photographs: pd.DataFrame, *, stage: str, kind: str = OTHERS,
    score: str = "msp",
) -> dict[str, Any]:
    """How much better a kind of image is told from photographs than a network's own metamers.

    The difference of `auroc` in the same networks and for the same references; arguments and
    result are as there.
    """
    rows: Any = sure[sure["stage"] == stage]
    area = rows.assign(area=below(rows, photographs, score))
    cells: Any = area.pivot_table("area", ["observer", "image"], "kind")
    if missing := {OWN, kind} - set(cells):
        raise ValueError(f"the table has no {', '.join(missing)} of {stage}")
    return {**_over((cells[kind] - cells[OWN]).unstack().dropna()), **_photographs(photographs)}


def doubts(
    sure: pd.DataFrame, photographs: pd.DataFrame, *, score: str = "msp",
) -> pd.DataFrame:
    """`doubt` of all kinds but own metamers, and all stages, one row each."""
    keys = dict.fromkeys(zip(sure["kind"], sure["stage"]))
    return pd.DataFrame([{"kind": kind, "stage": stage,
                          **doubt(sure, photographs, stage=stage, kind=kind, score=score)}
                         for kind, stage in keys if kind != OWN])


def areas(
    sure: pd.DataFrame, photographs: pd.DataFrame, *, score: str = "msp",
) -> pd.DataFrame:
    """`auroc` of all kinds and stages, one row each, with `kind` and `stage`."""
    keys = dict.fromkeys(zip(sure["kind"], sure["stage"]))
    return pd.DataFrame([{"kind": kind, "stage": stage,
                          **auroc(sure, photographs, stage=stage, kind=kind, score=score)}
                         for kind, stage in keys])


def right_from_wrong(
    sure: pd.DataFrame, photographs: pd.DataFrame, *, score: str = "msp",
) -> pd.DataFrame:
    """Does confidence tell what an observer recognises from what it does not?

    For photographs and for metamers of other networks, by stage.

    Returns:
        pandas.DataFrame, one row per stage ("photographs" for these): `estimate`, the mean over
        observers of the area under the ROC curve, `low`, `high` (Student's, over observers), and
        the number of `networks`, those that have both right and wrong answers.
    """
    others: Any = sure[sure["kind"] == OTHERS]
    natural: Any = photographs[photographs["kind"] == "photographs"]
    natural = natural.assign(stage="photographs")
    found = []
    for stage, rows in pd.concat([natural, others]).groupby("stage", sort=False):
        each = [_area(one[score], one["right"]) for _, one in rows.groupby("observer")]
        each = np.array([area for area in each if np.isfinite(area)])
        mean, low, high = mean_interval(each[:, None]) if len(each) else [np.nan] * 3
        found.append({"stage": stage, "estimate": mean, "low": max(low, 0), "high": min(high, 1),
                      "networks": len(each)})
    return pd.DataFrame(found)


def _area(scores: Any, right: Any) -> float:
    from sklearn.metrics import roc_auc_score
    return float(roc_auc_score(right, scores)) if right.nunique() == 2 else np.nan


# --- Inversions ----------------------------------------------------------------------------------

def inversion(
    table: pd.DataFrame, *, stage: str, value: str = "ssim", kind: str = PRIOR, training: str = "",
) -> dict[str, Any]:
    """The mean of a column over networks and images, at one stage.

    Args:
        table: of the study `inversions`.
        stage: which one was inverted.
        value: a column, such as "ssim", "layout", "own" or "others".
        kind: one of `metalib.runs.tasks.seeing.KINDS`.
        training: only of networks that were trained in this way; "" takes all.

    Returns:
        `estimate`, `low`, `high`, `least` and `most` (the means of the networks that have the
        smallest and the largest), and the numbers of `networks` and `images`.
    """
    found = _over(_inverted(table, stage, value, kind, training))
    low, high = BOUNDS.get(value, (-np.inf, np.inf))
    return {**found, "low": max(found["low"], low), "high": min(found["high"], high)}


def inversions(table: pd.DataFrame, *, value: str = "ssim", kind: str = PRIOR) -> pd.DataFrame:
    """`inversion` for all stages and trainings, one row each, with `stage` and `training`."""
    keys = dict.fromkeys(zip(table["stage"], table["training"]))
    return pd.DataFrame([{"stage": stage, "training": training, **inversion(
        table, stage=stage, training=training, value=value, kind=kind)}
        for stage, training in sorted(keys, key=lambda pair: pair[1] != "standard")])


def training_gap(
    table: pd.DataFrame, *, stage: str, value: str = "layout", kind: str = PRIOR,
) -> dict[str, Any]:
    """The difference of a column between robust and standard networks of one architecture.

    Architectures and images are random. Arguments are those of `inversion`.

    Returns:
        As `inversion`; `networks` counts pairs of networks.
    """
    robust, standard = (_inverted(table, stage, value, kind, one) for one in ("robust", "standard"))
    for cells, one in ((robust, "robust"), (standard, "standard")):
        cells.index = cells.index.str.replace(f"-{one}", "")
    return _over((robust - standard).dropna())


def gap_at_equal_accuracy(
    table: pd.DataFrame, *, stage: str, value: str = "layout", kind: str = PRIOR,
) -> dict[str, Any]:
    """`training_gap` at equal accuracy of the networks, see `reference.at_equal_accuracy`."""
    means = _inverted(table, stage, value, kind).mean(axis=1)
    found = at_equal_accuracy(means, "robust", "standard")
    return {**found, "networks": len(means), "images": table["image"].nunique()}


def nearer_to_photographs(
    table: pd.DataFrame, natural: pd.DataFrame, *, stage: str, value: str = "slope",
) -> dict[str, Any]:
    """How much nearer to the median photograph the prior brings a statistic of an inversion.

    The absolute distance without prior less that with it, from the same start.

    Args:
        table, stage: as in `inversion`.
        natural: of the study `statistics`.
        value: one of its columns.
    """
    middle = natural[value].median()
    off = table.assign(off=(table[value] - middle).abs())
    with_prior, without = (_inverted(off, stage, "off", kind) for kind in (PRIOR, NO_PRIOR))
    return _over((without - with_prior).dropna())


def _inverted(
    table: Any, stage: str, value: str, kind: str, training: str = "",
) -> Any:
    """A column by network and image."""
    rows = table[(table["stage"] == stage) & (table["kind"] == kind)]
    rows = rows[rows["training"] == training] if training else rows
    if rows.empty:
        raise ValueError(f"the table has no {kind} of {stage}{' ' * bool(training)}{training}")
    return rows.assign(value=rows[value].astype(float)).pivot_table("value", "network", "image")


def _over(cells: Any) -> dict[str, Any]:
    """The mean of networks x images, with Student's interval for both as random factors."""
    mean, low, high = mean_interval(cells.to_numpy())
    each = cells.mean(axis=1)
    return {"estimate": float(mean), "low": float(low), "high": float(high),
            "least": float(each.min()), "most": float(each.max()),
            "networks": len(cells), "images": cells.shape[1]}
