"""The reference networks of the bundled zoo, by their cards.

    table = cards()               # a row for each network
    standard_first(table, "training")    # its rows, by training
    nested(table)                 # a table of generators and observers, with their kinds
    robustness_gap()              # of adversarial training to every other
    accuracy_cost("robust")       # of a training, beside the standard one
    at_equal_accuracy(values, "robust", "standard")    # networks' values, adjusted
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from metalib.models import zoo

PERTURBATION = frozenset({"epsilon", "start", "attack_steps"})  # what trainings may differ in


def cards(pattern: str = zoo.SMALL) -> pd.DataFrame:
    """The cards of the bundled networks whose names match: a row for each.

    Returns:
        pandas.DataFrame: `name`, `architecture`, `training`, `seed`, `parameters`, `optimizer`,
        `epochs`; `accuracy` and `robust`, shares of `n` test images, unaltered and under attack;
        `foolbox` and `ours`, shares of `images` that withstand two implementations of the attack.

    Raises:
        ValueError: no network matches.
    """
    found = zoo.cards(pattern)
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


def standard_first(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A table whose rows are sorted by a column of trainings: standard first, others by name.

    Rows of one training keep their order.
    """
    return table.sort_values(column, kind="stable", ignore_index=True,
                             key=lambda names: names.where(names != "standard", ""))


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


def robustness_gap(pattern: str = zoo.SMALL, training: str = "robust") -> dict[str, Any]:
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


def differences_of_recipes(pattern: str = zoo.SMALL) -> set[str]:
    """The settings in which trainings of one architecture differ, by the cards of its networks.

    >>> differences_of_recipes() <= PERTURBATION
    True
    """
    found: set[str] = set()
    recipes: dict[str, list[dict[str, Any]]] = {}
    for card in zoo.cards(pattern):
        recipes.setdefault(card["architecture"], []).append(card["recipe"])
    for several in recipes.values():
        found |= {key for one in several for key in several[0].keys() | one.keys()
                  if one.get(key) != several[0].get(key)}
    return found


def accuracy_cost(training: str, *, than: str = "standard", of: str = "accuracy") -> dict[str, Any]:
    """By how much a training lowers a share of right answers, with Student's interval.

    Networks of the same architecture and seed are compared. Architectures are the sample; seeds are
    nested in them, and count by their mean.

    Args:
        training, than: two trainings.
        of: "accuracy" or "robust", as in `cards`.

    Returns:
        `estimate`, `low`, `high`, and the numbers of `pairs` and `architectures`. NaN where one of
        the trainings is missing.
    """
    wide: Any = cards().pivot(index=["architecture", "seed"], columns="training", values=of)
    if not {training, than} <= set(wide):
        return {"estimate": np.nan, "low": np.nan, "high": np.nan, "pairs": 0, "architectures": 0}
    lost: Any = (wide[than] - wide[training]).dropna()
    means = lost.groupby("architecture").mean()
    low, high = stats.ttest_1samp(means, 0).confidence_interval()
    return {"estimate": float(means.mean()), "low": float(low), "high": float(high),
            "pairs": len(lost), "architectures": len(means)}


def at_equal_accuracy(
    values: pd.Series, first: str, second: str, *, level: float = 0.95,
) -> dict[str, Any]:
    """How a value of networks differs between two trainings when accuracy is held equal.

    Analysis of covariance: means of kinds of networks (architecture and training) are fitted by
    one level for each training and one slope of accuracy on plain images for all (Fisher 1932,
    Statistical Methods for Research Workers, section 49.1). Kinds are the sample.

    Args:
        values: by name of a bundled network.
        first, second: two trainings; the first less the second.
        level: of the interval.

    Returns:
        `estimate`, `low`, `high` and `p`, two-sided; `raw`, the difference without the adjustment;
        `slope`, by a point of accuracy (a hundredth); `freedom` and the number of `kinds`. NaN
        where there are too few kinds, or none of a training.

    Raises:
        ValueError: a value of another network.
    """
    table = cards().set_index("name")
    if unknown := sorted(set(values.index) - set(table.index)):
        raise ValueError(f"no bundled networks: {', '.join(unknown)}")
    kinds: Any = table.loc[values.index].assign(value=values).groupby(
        ["architecture", "training"])[["value", "accuracy"]].mean().reset_index()
    means = kinds.groupby("training")["value"].mean()
    raw = float(means.get(first, np.nan) - means.get(second, np.nan))
    freedom = len(kinds) - len(means) - 1
    if freedom < 1 or np.isnan(raw):
        return {**dict.fromkeys(("estimate", "low", "high", "p", "slope"), np.nan), "raw": raw,
                "freedom": freedom, "kinds": len(kinds)}
    import statsmodels.api as models  # metalib imports without it
    design = pd.get_dummies(kinds["training"], dtype=float).assign(
        accuracy=100 * (kinds["accuracy"] - kinds["accuracy"].mean()))
    fitted: Any = models.OLS(kinds["value"], design).fit()
    weights = [(name == first) - float(name == second) for name in design]
    contrast = fitted.t_test(weights)
    low, high = contrast.conf_int(alpha=1 - level)[0]
    return {"estimate": float(contrast.effect[0]), "low": float(low), "high": float(high),
            "p": float(contrast.pvalue), "raw": raw, "slope": float(fitted.params["accuracy"]),
            "freedom": freedom, "kinds": len(kinds)}
