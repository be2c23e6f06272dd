"""Networks that others trained: their families, a series of widths, and a copy trained further.

    table = families(table)                    # networks of a family are no independent sample
    in_other_families(table)                   # the same for the table of a representation test
    of_widths(table, stage="features")         # a row for each generator of a series of widths
    wider(table, stage="features")             # do metamers of wider networks say more to others?
    same_architecture(table, stage="features") # and those of one to another of its architecture?
    by_origin(table, stage="features")         # generators by who trained them, and how
    accuracies(table)                          # of the task `accuracy`, as a table of a page
    under_attack(table, cards)                 # of those that were attacked, and of bundled ones

Tables are those of `metalib.transfer_study`. With one network for each width, and one pair of an
architecture, intervals are over observers and images, or over images: they speak for these
networks.
"""

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd

from metalib.evaluation import crossed
from metalib.evaluation.costs import typical_ratio
from metalib.evaluation.intervals import mean_interval
from metalib.evaluation.joint import compared
from metalib.evaluation.transferred import average, counted, excess

SERIES = r"(mobilenet_v1)_([\d.]+)"  # an architecture and the share of its channels


def short(architecture: str) -> str:
    """An architecture in a few letters.

    >>> short("mobilenet_v1_0.25_128"), short("squeezenet1_0_dc"), short("photo-efficientnet")
    ('v1_0.25', 'sq_1_0', 'effnet')
    """
    name = re.sub(r"^photo-|_\d{3}$|_dc$", "", architecture)
    name = name.replace("squeezenet", "sq_").split("net_")[-1]
    return name.replace("efficientnet", "effnet")


def shortened(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the architectures of its networks in a few letters, for a matrix."""
    names = [name for name in table if str(name).endswith("_architecture")]
    return table.assign(**{str(name): table[name].map(short) for name in names})


def family(architecture: str) -> str:
    """The family of an architecture: its name without number, width and size.

    >>> [family(name) for name in ("mobilenet_v1_0.25_128", "squeezenet1_1", "cifar_cnn_a", "vgg")]
    ['mobilenet_v1', 'squeezenet', 'cifar_cnn', 'vgg']
    """
    found = re.match(r"[a-z]+(?:_v\d+|_[a-z]+)?", architecture)
    return found[0] if found else architecture


def families(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the kinds in which generators and observers are nested: family and training.

    Adds `generator_kind` and `observer_kind`, see `metalib.evaluation.crossed`.
    """
    return table.assign(**{
        f"{role}_kind": table[f"{role}_architecture"].map(family) + ", "
        + table[f"{role}_training"].fillna("") for role in crossed.ROLES})


def in_other_families(table: pd.DataFrame) -> pd.DataFrame:
    """A table of the study `representation` as one in which families are observers.

    Rows of a generator's own family are left out, and networks of a family are one observer, so
    that the estimates of `metalib.evaluation.kept` are means over them and intervals over families.
    """
    of: Any = {role: table[role].str.split("/").str[-1].map(family) for role in crossed.ROLES}
    return table.assign(observer=of["observer"]).loc[of["observer"] != of["generator"]]


def of_widths(
    table: pd.DataFrame, *, stage: str, value: str = "scaled_match", series: str = SERIES,
) -> pd.DataFrame:
    """What observers of other families make of metamers of a series, by width.

    Args:
        table, stage, value: as in `metalib.evaluation.transferred.average`.
        series: a regular expression of architectures, with a group for the name of the series and
            one for the width.

    Returns:
        A row for each width, narrow to wide: `width`, the share of channels; `generator`; the mean
        of `value`, `estimate`, with its 95 % interval `low` to `high` over observers and images;
        the numbers of `observers` and `images`.
    """
    rows = []
    for width, (generator, values) in _series(table, stage, value, series).items():
        estimate, low, high = mean_interval(values)
        rows.append({"width": width, "generator": generator, "estimate": estimate, "low": low,
                     "high": high, "observers": len(values), "images": values.shape[1]})
    return pd.DataFrame(rows, columns=["width", "generator", "estimate", "low", "high", "observers",
                                       "images"])


def wider(
    table: pd.DataFrame, *, stage: str, value: str = "scaled_match", series: str = SERIES,
) -> dict[str, Any]:
    """By how much a mean rises where a network of a series is twice as wide.

    The slope of a least-squares line over the logarithm of the width, by observer and image.

    Args:
        table, stage, value, series: as in `of_widths`. Images count whose metamers pass at all
            generators of the series.

    Returns:
        `estimate`, `low`, `high` over observers and images, and the numbers of `widths`,
        `observers` and `images`; missing with fewer than two widths.
    """
    found = _series(table, stage, value, series)
    if len(found) < 2:
        return {**dict.fromkeys(("estimate", "low", "high"), np.nan), "widths": len(found),
                "observers": 0, "images": 0}
    doublings = np.log2(list(found))
    weights = (doublings - doublings.mean()) / np.square(doublings - doublings.mean()).sum()
    slopes: Any = sum(weight * values for weight, (_, values) in zip(weights, found.values()))
    slopes = slopes.dropna(axis=1)
    estimate, low, high = mean_interval(slopes)
    return {"estimate": estimate, "low": low, "high": high, "widths": len(found),
            "observers": len(slopes), "images": slopes.shape[1]}


def _series(table: pd.DataFrame, stage: str, value: str, series: str) -> dict[float, Any]:
    """By width the generator's name and its values, observers of other families (rows) by image."""
    rows: Any = counted(table, stage=stage)
    parts: Any = rows["generator_architecture"].str.extract(series)
    rows = rows.assign(width=pd.to_numeric(parts[1]), value=rows[value].astype(float))
    own = parts[0].dropna().unique()
    others = ~rows["observer_architecture"].map(family).isin(own)
    found = {}
    for width, part in rows[rows["width"].notna() & others].groupby("width"):
        wide: Any = part.pivot(index="observer", columns="image", values="value")
        found[float(width)] = part["generator"].iloc[0], wide.dropna(axis=1)
    return found


def same_architecture(
    table: pd.DataFrame, *, stage: str, value: str = "scaled_match",
) -> dict[str, Any]:
    """What another network of the architecture makes of metamers, beyond what others make of them.

    The mean at networks of the same architecture and training less that at all other networks, by
    image, then over generators.

    Args:
        table, stage, value: as in `metalib.evaluation.transferred.average`.

    Returns:
        `estimate`, and its 95 % interval over images, `low` to `high`; `twin` and `others`, the two
        means; the numbers of `generators` and `images`. Missing where no network has such a twin.
    """
    rows: Any = counted(table, stage=stage)
    rows = rows.assign(value=rows[value].astype(float), twin=rows["relation"] == "other seed")
    means: Any = rows.groupby(["generator", "image", "twin"])["value"].mean().unstack()
    means = means.reindex(columns=[False, True]).dropna()
    if means.empty:
        return {**dict.fromkeys(("estimate", "low", "high", "twin", "others"), np.nan),
                "generators": 0, "images": 0}
    by_image: Any = means.groupby("image").mean()
    estimate, low, high = mean_interval((by_image[True] - by_image[False]).to_numpy()[None])
    return {"estimate": estimate, "low": low, "high": high, "twin": by_image[True].mean(),
            "others": by_image[False].mean(), "images": len(by_image),
            "generators": means.index.get_level_values("generator").nunique()}


def cost_ratio(table: pd.DataFrame, *, rule: str) -> dict[str, Any]:
    """A rule's evaluations over the default's, of so few images that single stages are not tested.

    Args:
        table, rule: as in `metalib.evaluation.costs.typical_ratio`, of which the dict is.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return typical_ratio(table, rule)


def like_copies(table: pd.DataFrame, *, stage: str) -> dict[str, Any]:
    """The scaled match of metamers in other networks, over families, networks and images.

    Args:
        table, stage: as in `metalib.evaluation.transferred.average`, of which the dict is.
    """
    return average(families(table), stage=stage)


def beyond_noise(table: pd.DataFrame, *, stage: str) -> dict[str, Any]:
    """By how much their scaled match exceeds that of references with noise at the same distance.

    Args:
        table, stage: as in `metalib.evaluation.transferred.excess`, of which the dict is.
    """
    return excess(families(table), stage=stage)


def together(table: pd.DataFrame, *, value: str, against: str = "single") -> dict[str, Any]:
    """How much more often a column is true of joint metamers, of the one set of members there is.

    It is a statement about these members, over observers and images.

    Args:
        table, value, against: as in `metalib.evaluation.joint.gain`, of a study with one draw.

    Returns:
        `estimate` (a difference of shares), `low`, `high`; `joint` and `other`, the two shares; and
        the numbers of `members`, `observers` and `images`.
    """
    one, other, members, _ = compared(table, value=value, against=against)
    values: Any = (one - other).dropna().droplevel("draw").unstack("image")
    estimate, low, high = mean_interval(values.to_numpy())
    return {"estimate": estimate, "low": low, "high": high, "joint": float(one.mean()),
            "other": float(other.mean()), "members": members, "observers": len(values),
            "images": values.shape[1]}


ORIGINS = ("robust, by others", "robust, bundled", "standard, bundled")  # of generators


def by_origin(table: pd.DataFrame, *, stage: str, value: str = "scaled_match") -> pd.DataFrame:
    """What other networks make of metamers, by who trained the generator, and how.

    Args:
        table, stage, value: as in `metalib.evaluation.transferred.average`; of `ORIGINS` are the
            networks of the bundled zoo, and others that were trained adversarially.

    Returns:
        The rows of `crossed.means` by `origin`, in the order of `ORIGINS`.
    """
    rows = _by_origin(table, stage)
    means: Any = crossed.means(rows, "origin", value=value).set_index("origin")
    return means.reindex([name for name in ORIGINS if name in means.index]).reset_index()


def robust_by_others(
    table: pd.DataFrame, *, stage: str, second: str = "standard, bundled",
    value: str = "scaled_match",
) -> dict[str, Any]:
    """How much more others keep of metamers of networks that others trained adversarially.

    Args:
        table, stage, value: as in `by_origin`.
        second: the generators with which they are compared, one of `ORIGINS`.

    Returns:
        A difference of means as of `crossed.differences`: `estimate`, `low`, `high`, and the
        numbers of `generators`, `observers` and `images`; missing where a group has no rows.
    """
    rows, first = _by_origin(table, stage), ORIGINS[0]
    sizes = {f"{name}s": len(set(rows[name])) for name in crossed.FACTORS}
    if not {first, second} <= set(rows["origin"]):
        return {**dict.fromkeys(("estimate", "low", "high"), np.nan), **sizes}
    found: Any = crossed.differences(rows, "origin", [(first, second)], value=value).iloc[0]
    return {"estimate": found["difference"], **found[["low", "high"]], **sizes}


def _by_origin(table: pd.DataFrame, stage: str) -> pd.DataFrame:
    rows: Any = families(counted(table, stage=stage))
    training = rows["generator_training"].str.partition(",")[0]
    bundled = rows["generator"].str.startswith("zoo/")
    return rows.assign(origin=training + np.where(bundled, ", bundled", ", by others"))


# --- Accuracy -----------------------------------------------------------------------------------

def accuracies(table: pd.DataFrame) -> pd.DataFrame:
    """Right answers (%) by network (rows), source of the images and way of counting (two levels).

    Args:
        table: of `metalib.tasks.accuracy`, with the columns `model` and `image_set`.
    """
    shown: Any = table.assign(
        share=100 * table["accuracy"], network=table["model"].str.rpartition("/")[2],
        images=table["image_set"].str.removeprefix("folder:").str.partition("/")[0])
    wide: Any = shown.pivot_table("share", "network", ["images", "answer"], sort=False)
    return wide.rename_axis(columns=[None, None])


def under_attack(table: pd.DataFrame, cards: pd.DataFrame) -> pd.DataFrame:
    """Right answers (%), as images are and under attack, of networks by others and bundled ones.

    Args:
        table: of `metalib.tasks.accuracy`; only networks count that were attacked there.
        cards: of bundled networks, as of `metalib.evaluation.reference.cards`.

    Returns:
        A row for each network: `images`, their number, `right` and `under attack`.
    """
    wide: Any = table.pivot(index="model", columns="answer", values="accuracy")
    wide = wide.reindex(columns=["class", "class, under attack"]).dropna()
    numbers: Any = table.groupby("model")["images"].max()
    found = pd.concat([
        pd.DataFrame({"images": cards["n"].to_numpy(), "right": cards["accuracy"].to_numpy(),
                      "under attack": cards["robust"].to_numpy()}, index=cards["name"].to_list()),
        pd.DataFrame({"images": numbers.reindex(wide.index), "right": wide["class"],
                      "under attack": wide["class, under attack"]})]).rename_axis("network")
    found[["right", "under attack"]] *= 100
    return found


def widest(table: pd.DataFrame) -> float:
    """The largest half-width of an interval of accuracies, in percentage points."""
    widths: Any = table["high"] - table["low"]
    return 50 * float(widths.max())
