"""The reference networks of the bundled zoo, by their cards.

    table = cards()               # a row for each network
    nested(table)                 # a table of generators and observers, with their kinds
    robustness_gap()              # of adversarial training to every other
"""

import fnmatch
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from metalib.models import zoo


def cards(pattern: str = "zoo/*") -> pd.DataFrame:
    """The cards of the bundled networks whose names match: a row for each.

    Returns:
        pandas.DataFrame: `name`, `architecture`, `training`, `seed`, `parameters`, `optimizer`,
        `epochs`; `accuracy` and `robust`, shares of `n` test images, unaltered and under attack;
        `foolbox` and `ours`, shares of `images` that withstand two implementations of the attack.

    Raises:
        ValueError: no network matches.
    """
    found = [card for card in zoo.cards() if fnmatch.fnmatch(card["name"], pattern)]
    if not found:
        raise ValueError(f"no bundled network matches {pattern!r}; zoo/* takes all of them")
    return pd.DataFrame([_row(card) for card in found])


def _row(card: dict[str, Any]) -> dict[str, Any]:
    attacked = card["robust_accuracy"]
    crossed = attacked.get("cross_check") or {}
    return {**{key: card[key] for key in
               ("name", "architecture", "training", "seed", "parameters")},
            **{key: card["recipe"][key] for key in ("optimizer", "epochs")},
            "accuracy": card["test_accuracy"], "robust": attacked["value"],
            "n": int(card["data"]["test"].split()[0]), "foolbox": crossed.get("value", np.nan),
            "ours": crossed.get("ours", np.nan), "images": crossed.get("images", 0)}


def nested(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the kinds of its bundled generators and observers, in which they are nested.

    Returns:
        The table with the columns `generator_kind` and `observer_kind` (those that it has a role
        for), such as "vgg, robust". A network that is not bundled is a kind of its own.
    """
    kinds = {card["name"]: f"{card['architecture']}, {card['training']}" for card in zoo.cards()}
    roles: Any = [role for role in ("generator", "observer") if role in table]
    return table.assign(**{f"{role}_kind": table[role].map(lambda name: kinds.get(name, name))
                           for role in roles})


def robustness_gap(pattern: str = "zoo/*", training: str = "robust") -> dict[str, Any]:
    """By how much the least robust network of a training beats the most robust of the others.

    The accuracies under attack differ by `estimate`; `low` and `high` are its 95 % interval over
    test images, as if each network had images of its own (Wald), which is wide. NaN where one of
    the two kinds is missing. `networks` and `images` are counted.
    """
    table: Any = cards(pattern)
    ours, others = table[table["training"] == training], table[table["training"] != training]
    sizes = {"networks": len(table), "images": int(table["n"].min())}
    if ours.empty or others.empty:
        return {"estimate": np.nan, "low": np.nan, "high": np.nan, **sizes}
    shares = np.array([ours["robust"].min(), others["robust"].max()])
    error = np.sqrt((shares * (1 - shares) / sizes["images"]).sum())
    gap, half = shares[0] - shares[1], stats.norm.ppf(0.975) * error
    return {"estimate": gap, "low": gap - half, "high": gap + half, **sizes}
