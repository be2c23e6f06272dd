"""Metamers of several networks at once: how they are seen, and what they cost.

    look(network, "group3", null, references, pictures)  # what one network makes of many pictures
    shares(table), gains(table)                          # of the table of the study `joint`
    prices(together, alone), combined(together)          # of `prices` and `alone`
    partners(table)                                      # of the study `partners`

Estimates come with intervals (95 %) that hold for other members, observers and images: all of them
are random (see `metalib.crossed` and `metalib.evaluation.intervals`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalib.data import to_8_bits
from metalib.evaluation import crossed
from metalib.evaluation.criterion import Evoked, NullDistribution, answers, published
from metalib.evaluation.intervals import mean_interval
from metalib.evaluation.nulls import load_null
from metalib.evaluation.reference import nested
from metalib.evaluation.transfer import RELATIONS, relation
from metalib.metrics import rms_distance
from metalib.models import Model

KINDS = ("joint", "single", "average", "noise", "joint, at one distance",
         "single, at one distance")
PARTNERS = {  # a name for what is compared: the first less the second kind of partner
    **{f"{kind} − none": (kind, "itself") for kind in RELATIONS[1:]},
    **{f"{kind} − other seed": (kind, "other seed") for kind in RELATIONS[2:]}}


def look(
    network: Model, stage: str, null: NullDistribution, references: Tensor, pictures: Tensor, *,
    batch_size: int = 200,
) -> pd.DataFrame:
    """What a network makes of several pictures of each reference.

    The verdicts are those of `judge`. The references are shown to the network once, and Spearman's
    correlation is computed only for what passes the rest, so that this is much faster.

    Args:
        network, stage, null: who looks where, and the null of that stage.
        references: (B, 3, H, W) in [0, 1].
        pictures: (K, B, 3, H, W) in [0, 1], rounded to 8 bits, of the network's size.
        batch_size: pictures that go through the network together.

    Returns:
        pandas.DataFrame, K x B rows, the pictures of one kind after those of another: `picture`
        (0 to K - 1), `image` (0 to B - 1), `class_match`, `passed`, `match` (Pearson's
        correlation) and `distance` (root mean square, pixels in [0, 1]).
    """
    criterion, count = published(null).on(network), len(references)
    criterion.check(network, stage)
    evoked, parts = Evoked.of(network, stage, references), []
    for number in torch.arange(pictures.shape[0] * count).split(batch_size):
        shown, rows = pictures.flatten(0, 1)[number], number % count
        with torch.no_grad():
            activations, given = network.activations(shown, stage), answers(network, shown)
        passed, _ = criterion.verdicts(
            evoked, rows, activations, given,
            lambda metric, some, a=activations, r=rows: evoked.similarity(metric, a[some], r[some]))
        parts.append(pd.DataFrame({
            "picture": number // count, "image": rows,
            "class_match": evoked.agrees(given, rows), "passed": passed,
            "match": evoked.similarity("pearson", activations, rows),
            "distance": rms_distance(shown, references[rows])}))
    return pd.concat(parts, ignore_index=True)


def told(
    networks: Sequence[Model], stage: str, references: Tensor, pictures: Iterable[Tensor],
) -> list[list[str]]:
    """How many networks give a picture the answer of its reference, and for how many it passes.

    Args:
        networks: of the bundled zoo, whose nulls ship with them.
        stage: where they look.
        references: (B, 3, H, W) in [0, 1].
        pictures: K times (B, 3, H, W) in [0, 1].

    Returns:
        K lists of B texts of two lines.
    """
    shown, count = to_8_bits(torch.stack(list(pictures))), len(networks)
    seen = pd.concat([look(network, stage, load_null(network, stage), references, shown)
                      for network in networks])
    sums: Any = seen.groupby(["picture", "image"])[["class_match", "passed"]].sum()
    return [[f"answer {row['class_match']} of {count}\npass {row['passed']} of {count}"
             for _, row in rows.iterrows()] for _, rows in sums.groupby("picture")]


def nearest(observer: Mapping, members: Sequence[Mapping]) -> str:
    """The closest of an observer's relations to members, all of them by their cards.

    One of `RELATIONS`, from "itself" (the closest) to "both differ".

    Raises:
        ValueError: a card that does not tell architecture and training.

    >>> nearest({"architecture": "vgg", "training": "robust"},
    ...         [{"architecture": "cct", "training": "robust"},
    ...          {"architecture": "vgg", "training": "standard"}])
    'other training'
    """
    found = [relation(observer, member) for member in members]
    if None in found:
        raise ValueError("networks are compared by their architecture and training, which a card "
                         "does not tell")
    return min((kind for kind in found if kind), key=RELATIONS.index)


# --- What networks held out make of joint metamers -----------------------------------------------

def held_out(table: Any, *, strangers: bool = False) -> Any:
    """The rows of observers that had no part in an image.

    Args:
        table: of the study `joint`.
        strangers: leave out observers, too, of which a member is another seed.
    """
    known = ["itself", "other seed"] if strangers else ["itself"]
    return table[~table["nearest"].isin(known)]


def shares(
    table: pd.DataFrame, *, value: str = "passed", strangers: bool = False,
) -> pd.DataFrame:
    """Shares of images and observers for which a column is true, by kind of image.

    Args:
        table: of the study `joint`.
        value: "passed" or "class_match".
        strangers: see `held_out`.

    Returns:
        pandas.DataFrame, one row per number of members, effort and kind: `evaluations` (of all
        members together), `share`, `low`, `high`, and `distance` (the median over images).
    """
    rows = held_out(table, strangers=strangers)
    found = []
    for (members, effort, kind), group in rows.groupby(["members", "effort", "kind"], sort=False):
        mean = _crossed(_by_image(group, value))
        found.append({"members": members, "effort": effort, "evaluations": members * effort,
                      "kind": kind, "share": mean["estimate"], "low": max(mean["low"], 0),
                      "high": min(mean["high"], 1), "distance": group["distance"].median()})
    found.sort(key=lambda row: (row["members"], row["effort"], KINDS.index(row["kind"])))
    return pd.DataFrame(found)


def gain(
    table: pd.DataFrame, *, members: int = 0, effort: int = 0, value: str = "passed",
    against: str = "single", strangers: bool = False,
) -> dict[str, Any]:
    """How much more often a column is true of joint metamers than of another kind of image.

    Both are compared for the same members, observer and image. Single metamers of several members
    count as their mean.

    Args:
        table: of the study `joint`.
        members: the number of members; 0 takes the largest that there is.
        effort: evaluations of each member; 0 takes the largest number that there is, and -1 the
            smallest.
        value, strangers: as in `shares`.
        against: a kind of image; "single, at one distance" is compared with "joint, at one
            distance".

    Returns:
        `estimate` (a difference of shares), `low`, `high`; `joint` and `other`, the two shares;
        `members`, `effort`, `evaluations` (of all members together); and the numbers of `draws`,
        `observers` and `images`, and `each`, how many observers there are in a draw.

    Raises:
        ValueError: there are no such rows.
    """
    one, other, members, effort = compared(
        table, members=members, effort=effort, value=value, against=against, strangers=strangers)
    return {**_crossed((one - other).dropna()), "joint": float(one.mean()),
            "other": float(other.mean()), "members": members, "effort": effort,
            "evaluations": members * effort}


def compared(
    table: pd.DataFrame, *, members: int = 0, effort: int = 0, value: str = "passed",
    against: str = "single", strangers: bool = False,
) -> tuple[Any, Any, int, int]:
    """What `gain` compares: shares by draw, observer and image, of joint metamers and others.

    Arguments are those of `gain`. Also returned are the numbers of members and of evaluations of
    each.
    """
    members = members or int(max(table["members"]))
    rows, effort = _at(held_out(table, strangers=strangers), members, effort)
    return (*_both(rows, value, against), members, effort)


def gain_by_effort(
    table: pd.DataFrame, *, members: int, value: str = "passed", against: str = "single",
    strangers: bool = False,
) -> dict[str, Any]:
    """How much larger `gain` is with the largest number of evaluations than with the smallest.

    For the same members, observer and image; arguments are those of `gain`.

    Returns:
        `estimate`, `low`, `high`; `least` and `most`, the evaluations of all members together; and
        the numbers of `draws`, `observers` and `images`, and `each`, as in `gain`.
    """
    both = [_at(held_out(table, strangers=strangers), members, effort) for effort in (0, -1)]
    most, least = (np.subtract(*_both(rows, value, against)) for rows, _ in both)
    return {**_crossed((most - least).dropna()), "members": members,
            "most": members * both[0][1], "least": members * both[1][1]}


def _at(rows: Any, members: int, effort: int) -> tuple[Any, int]:
    """The rows of a number of members and an effort (0: the largest, -1: the smallest)."""
    rows = rows[rows["members"] == members]
    if effort < 1 and len(rows):
        effort = int(rows["effort"].min() if effort else rows["effort"].max())
    return rows[rows["effort"] == effort], effort


def _both(rows: Any, value: str, against: str) -> list[Any]:
    """A column of joint metamers and of what they are compared with, see `gain`."""
    first = "joint, at one distance" if against == "single, at one distance" else "joint"
    found = [_by_image(rows[rows["kind"] == kind], value) for kind in (first, against)]
    if any(values.empty for values in found):
        raise ValueError(f"there are no {first} or {against} images of so many members and "
                         "evaluations")
    return found


def gains(
    table: pd.DataFrame, *, value: str = "passed", against: str = "single",
    strangers: bool = False,
) -> pd.DataFrame:
    """`gain` for all numbers of members and efforts, one row each."""
    keys = sorted(set(zip(table["members"], table["effort"])))
    return pd.DataFrame([gain(table, members=int(count), effort=int(effort), value=value,
                              against=against, strangers=strangers)
                         for count, effort in keys])


def own(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of joint metamers that pass for their members: for one, and for all of them.

    Args:
        table: of the study `joint`.

    Returns:
        pandas.DataFrame, one row per number of members and effort: `each`, `every`.
    """
    rows: Any = table[(table["nearest"] == "itself") & (table["kind"] == "joint")]
    keys = ["members", "effort"]
    every = rows.groupby([*keys, "draw", "image"])["passed"].all().groupby(keys).mean()
    return pd.DataFrame({"each": rows.groupby(keys)["passed"].mean(), "every": every}).reset_index()


def partners(table: pd.DataFrame, *, value: str = "passed") -> pd.DataFrame:
    """What one kind of partner changes over another one, or over none.

    Differences are taken for the same network, observer and image.

    Args:
        table: of the study `partners`.
        value: "passed" or "class_match".

    Returns:
        pandas.DataFrame, one row for each of `PARTNERS` that there is: `contrast`, and the entries
        of `partner`.
    """
    there = set(table["partner"])
    return pd.DataFrame([{"contrast": name, **partner(table, first=first, second=second,
                                                      value=value)}
                         for name, (first, second) in PARTNERS.items() if {first, second} <= there])


def partner(
    table: pd.DataFrame, *, first: str, second: str, value: str = "passed",
) -> dict[str, Any]:
    """How much more often a column is true with one kind of partner than with another.

    Args:
        table, value: as in `partners`.
        first, second: kinds of partner; "itself" is the network alone.

    Returns:
        `estimate` (a difference of shares), `low`, `high`, and the numbers of `networks`,
        `observers` and `images`, and `each`, how many observers a network has.
    """
    keys = ["network", "observer", "image"]
    rows: Any = table.set_index(keys)
    one, other = (rows.loc[rows["partner"] == kind, value].astype(float)
                  for kind in (first, second))
    return _crossed((one - other).dropna(), "networks")


def _by_image(rows: Any, value: str) -> Any:
    """Means by draw, observer and image, over the members of which single metamers were made."""
    return rows[value].astype(float).groupby(
        [rows[key] for key in ("draw", "observer", "image")]).mean()


def _crossed(values: Any, units: str = "draws") -> dict[str, Any]:
    """The mean of values by draw (or network), observer and image, all of them random.

    Bundled networks are nested in their kinds.
    """
    table = values.rename("value").reset_index()
    table.columns = ["generator", "observer", "image", "value"]
    each = sorted(set(table.groupby("generator")["observer"].nunique()))
    found = crossed.estimate(nested(table), value="value")
    return {units: found.pop("generators"), **found,
            "limit": found["limit"].replace("generators", units),
            "each": f"{each[0]} to {each[-1]}" if len(each) > 1 else f"{each[0]}"}


# --- What they cost ------------------------------------------------------------------------------

def price(
    together: pd.DataFrame, alone: pd.DataFrame, *, members: int, of: str = "most expensive",
) -> dict[str, Any]:
    """Evaluations of every member to a joint metamer, over those that members need by themselves.

    A geometric mean over draws and images, with Student's interval for both as random factors. An
    image that never passed counts with the limit.

    Args:
        together: of the study `prices`; only the combination "worst" counts.
        alone: of the study `alone`.
        members: the number of members.
        of: "most expensive", the member that needs the most evaluations for that image by itself;
            or "one", the geometric mean of all members.

    Returns:
        `estimate`, `low`, `high`; `members`, and the numbers of `draws` and `images`.

    Raises:
        ValueError: there are no such rows, or `of` is another word.
    """
    if of not in ("most expensive", "one"):
        raise ValueError(f"of is 'most expensive' or 'one', not {of!r}")
    rows: Any = together[(together["combine"] == "worst") & (together["members"] == members)]
    if rows.empty:
        raise ValueError(f"the table has no joint metamers of {members} members")
    single: Any = np.log(alone.pivot_table("evaluations", "model", "image"))
    by_itself = [getattr(single.loc[names.split(), image], "max" if of != "one" else "mean")()
                 for names, image in zip(rows["names"], rows["image"])]
    ratio = np.log(rows["evaluations"]) - by_itself
    return {**_geometric(ratio, rows), "members": members}


def prices(
    together: pd.DataFrame, alone: pd.DataFrame, *, of: str = "most expensive",
) -> pd.DataFrame:
    """`price` for all numbers of members, one row each, with the shares that `passed`."""
    rows: Any = together[together["combine"] == "worst"]
    shares = rows.groupby("members")["passed"].mean()
    return pd.DataFrame([{**price(together, alone, members=int(count), of=of), "passed": share}
                         for count, share in shares.items()])


def combination(
    together: pd.DataFrame, *, combine: str = "mean", base: str = "worst",
) -> dict[str, Any]:
    """Evaluations of every member with one combination of losses, over those with another.

    Args:
        together: of the study `prices`.
        combine, base: names in `metalib.combinations.COMBINATIONS`. The numbers of members are
            those that both have.

    Returns:
        As `price`, and `passed`, the share of images that pass with the first.
    """
    keys = ["members", "draw", "image"]
    rows: Any = together.set_index(keys)
    one, other = (rows[rows["combine"] == name] for name in (combine, base))
    ratio = (np.log(one["evaluations"]) - np.log(other["evaluations"])).dropna()
    if ratio.empty:
        raise ValueError(f"the table has no images of both {combine} and {base}")
    return {**_geometric(ratio.to_numpy(), ratio.reset_index()),
            "members": int(ratio.index.get_level_values("members").max()),
            "passed": float(one["passed"].mean())}


def in_order(
    values: Mapping[tuple[str, str], float], *, key: Callable[[str], Any],
) -> dict[tuple[str, str], float]:
    """Values of unordered pairs of names, with the names in the order of `key`.

    >>> in_order({("b", "a"): 1.0, ("b", "b"): 2.0, ("a", "a"): 3.0}, key=str)
    {('a', 'a'): 3.0, ('a', 'b'): 1.0, ('b', 'b'): 2.0}
    """
    found = {tuple(sorted(pair, key=key)): value for pair, value in values.items()}
    return {(one, other): found[one, other]
            for one, other in sorted(found, key=lambda pair: (key(pair[0]), key(pair[1])))}


def by_training(pairs: pd.DataFrame) -> dict[str, str]:
    """Median evaluations of pairs of different networks: of one training ("alike"), and "mixed".

    Args:
        pairs: of the study `pairs`, whose names tell the training ("robust" or another).

    Returns:
        Two texts, whole numbers or "no pair".
    """
    rows: Any = pairs[pairs["network"] != pairs["other"]]
    same = rows["network"].str.contains("robust") == rows["other"].str.contains("robust")
    found = {"alike": rows.loc[same, "evaluations"], "mixed": rows.loc[~same, "evaluations"]}
    return {name: f"{values.median():.0f}" if len(values) else "no pair"
            for name, values in found.items()}


def _geometric(logs: Any, rows: Any) -> dict[str, Any]:
    """A geometric mean of ratios, given as logarithms, over draws and images, and its interval."""
    cells = rows[["draw", "image"]].assign(log=np.asarray(logs))
    matrix = cells.pivot_table("log", "draw", "image").to_numpy()
    mean, low, high = np.exp(mean_interval(matrix))
    return {"estimate": float(mean), "low": float(low), "high": float(high),
            "draws": matrix.shape[0], "images": matrix.shape[1]}
