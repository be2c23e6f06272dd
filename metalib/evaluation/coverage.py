"""How often intervals of crossed designs hold the truth, in studies that are made up.

    table = simulated_study(share=0.5)            # 24 networks of 12 kinds; nothing differs
    covered(200, share=0.5)                       # how often each contrast is found to differ
    coverage(rows, share=0.5)                     # with its interval, of rows of several seeds

A network is an architecture, a training and a seed. `share` is how much of the variance between
networks, and between pairs of them, lies between kinds; the rest lies between the seeds of a kind.
An interval holds the truth exactly where it does not exclude 0, since nothing differs.
"""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from metalib.evaluation import crossed, transfer
from metalib.evaluation.intervals import share_interval

LEVEL = 0.05
RELATIONS = transfer.RELATIONS[1:]  # of two networks
PAIRS = [(a, b) for k, a in enumerate(RELATIONS) for b in RELATIONS[k + 1:]]
NESTED, FLAT = "nested in kinds", "taken for independent"
# standard deviations of what a network does as generator and as observer, of pairs, images, images
# with generators, with observers and with pairs; and how alike both directions of a pair are
SPREAD = {"generator": 0.6, "observer": 0.4, "pair": 0.4, "image": 0.6, "generator image": 0.4,
          "observer image": 0.3, "rest": 1.0}
ALIKE = 0.5


def simulated_study(
    *, share: float, architectures: int = 4, trainings: int = 3, seeds: int = 2, images: int = 30,
    boolean: bool = False, dropped: float = 0.0, seed: int = 0,
) -> pd.DataFrame:
    """A made-up table as of `transfer_study`, in which no group differs from another.

    Args:
        share: of the variance of networks and pairs that lies between kinds, 0 to 1.
        architectures, trainings, seeds: how many there are; networks are their combinations.
        images: how many.
        boolean: whether values are true or false (three in ten are true) in place of numbers.
        dropped: the share of metamers that do not count, for any observer.
        seed: of the draw.

    Returns:
        pandas.DataFrame, one row per generator, other observer and image: `generator`, `observer`,
        `image`, `relation`, `value`, and architecture and training of both networks.
    """
    rng = np.random.default_rng(seed)
    names = np.array(list(product(range(architectures), range(trainings), range(seeds))))
    kind, count = names[:, 0] * trainings + names[:, 1], len(names)
    kinds = architectures * trainings

    def mixed(draw: Any, size: str) -> np.ndarray:
        """Effects of kinds and of networks, along the first axis."""
        return SPREAD[size] * (share ** 0.5 * draw(kinds)[kind] + (1 - share) ** 0.5 * draw(count))

    def pairs(n: int) -> np.ndarray:
        both, one = rng.standard_normal((2, n, n))
        both = np.where(np.tri(n, dtype=bool), both, both.T)
        return ALIKE ** 0.5 * both + (1 - ALIKE) ** 0.5 * one

    by_image = lambda n: rng.standard_normal((n, images))  # noqa: E731
    of_pairs = SPREAD["pair"] * (share ** 0.5 * pairs(kinds)[kind][:, kind]
                                 + (1 - share) ** 0.5 * pairs(count))
    values = (mixed(rng.standard_normal, "generator")[:, None, None]
              + mixed(rng.standard_normal, "observer")[:, None] + of_pairs[..., None]
              + SPREAD["image"] * rng.standard_normal(images)
              + mixed(by_image, "generator image")[:, None] + mixed(by_image, "observer image")
              + SPREAD["rest"] * rng.standard_normal((count, count, images)))
    counts = rng.random((count, 1, images)) >= dropped
    shown = np.nonzero(counts & ~np.eye(count, dtype=bool)[..., None])
    generator, observer, image = shown
    same = names[generator] == names[observer]
    relation = np.array(RELATIONS)[3 - 2 * same[:, 0] - same[:, 1]]
    limit = stats.norm.isf(0.3) * np.sqrt(sum(size ** 2 for size in SPREAD.values()))
    return pd.DataFrame({
        "generator": generator, "observer": observer, "image": image, "relation": relation,
        "value": values[shown] > limit if boolean else values[shown],
        **{f"{role}_{word}": names[who, place]
           for role, who in (("generator", generator), ("observer", observer))
           for place, word in enumerate(("architecture", "training"))}})


def covered(
    studies: int, *, share: float, boolean: bool = False, seed: int = 0, **options: Any,
) -> pd.DataFrame:
    """How often contrasts of made-up studies are found to differ at 5 %, though they do not.

    Args:
        studies: how many.
        share, boolean: as in `simulated_study`.
        seed: of the first study; others have the next ones.
        options: others of `simulated_study`.

    Returns:
        pandas.DataFrame, one row per `contrast` (pairs of relations, trainings of generators and of
        observers, the mean of all rows, and the grouping of networks by training) and `networks`
        ("nested in kinds"; or "taken for independent", which is how not to do it, for every tenth
        study): `studies`, and `rejected`, how many of them are found to differ. The mean is
        compared with the truth, which is 0, and left out for booleans.
    """
    found = []
    for number in range(studies):
        table = simulated_study(share=share, boolean=boolean, seed=seed + number, **options)
        for networks in (NESTED, FLAT) if number % 10 == 0 else (NESTED,):
            found.append((networks, _p_values(table, networks == NESTED, boolean)))
    rows: Any = pd.DataFrame([(contrast, networks, p <= LEVEL) for networks, p_values in found
                              for contrast, p in p_values.items()],
                             columns=["contrast", "networks", "rejected"])
    return rows.groupby(["contrast", "networks"], sort=False)["rejected"].agg(
        studies="size", rejected="sum").reset_index()


def _p_values(table: pd.DataFrame, nested: bool, boolean: bool) -> dict[str, float]:
    """The p-value of each contrast, with or without the kinds of networks."""
    words = table.columns[table.columns.str.contains("_")]
    rows = table if nested else table.drop(columns=words)
    found = {f"{row['first']} − {row['second']}": row["p"] for _, row in crossed.differences(
        rows, "relation", PAIRS, value="value").iterrows()}
    for role in crossed.ROLES:
        by = rows.assign(training=table[f"{role}_training"])
        found[f"trainings of {role}s"] = crossed.differences(
            by, "training", [(0, 1)], value="value")["p"].item()
    kinds = _words(table, ["architecture", "training"]) if nested else None
    found["grouping by training"] = crossed.grouping(
        crossed.matrix(rows, "value"), _words(table, ["training"]), kinds=kinds,
        permutations=199)["p"]
    if not boolean:
        mean = crossed.estimate(rows, value="value")
        found["mean"] = 0.0 if mean["low"] > 0 or mean["high"] < 0 else 1.0
    return found


def _words(table: Any, words: list[str]) -> dict[Any, str]:
    """What the table says of each generator."""
    one = table.drop_duplicates("generator").set_index("generator")
    return one[[f"generator_{word}" for word in words]].astype(str).agg(" ".join, axis=1).to_dict()


def coverage(
    table: pd.DataFrame, *, networks: str = NESTED, share: float | None = None,
    boolean: bool = False,
) -> dict[str, Any]:
    """How often the 95 % intervals of the contrast that fares worst hold the truth.

    Args:
        table: rows of `covered` for several shares and seeds, with `share` and `boolean`.
        boolean: which of them.
        networks: "nested in kinds" or "taken for independent".
        share: of variance; None takes the worst.

    Returns:
        `estimate`, `low`, `high` (Clopper and Pearson's), the number of `studies`, the `contrast`,
        and of all contrasts and shares of variance, `of`, how many are found to differ as often as
        99 % of tests do that keep their level (`within`), or less often (`allowed`).
    """
    rows: Any = table[(table["networks"] == networks) & (table["boolean"] == boolean)]
    rows = rows if share is None else rows[np.isclose(rows["share"], share)]
    sums: Any = rows.groupby(["contrast", "share"], sort=False)[["rejected", "studies"]].sum()
    rates = sums["rejected"] / sums["studies"]
    count, of = (int(value) for value in sums.loc[rates.idxmax()])
    held, low, high = share_interval(np.arange(of)[None] >= count)
    least, most = stats.binom.interval(0.99, sums["studies"], LEVEL)
    return {"estimate": held, "low": low, "high": high, "studies": of,
            "contrast": rates.idxmax()[0],
            "within": int(sums["rejected"].between(least, most).sum()),
            "allowed": int((sums["rejected"] <= most).sum()), "of": len(sums)}


def by_share(table: pd.DataFrame, *, boolean: bool = False) -> pd.DataFrame:
    """`coverage` of the contrast that fares worst, for each share of variance and `networks`.

    Args:
        table, boolean: as in `coverage`.
    """
    rows: Any = table[table["boolean"] == boolean]
    return pd.DataFrame([
        {"share": share, "networks": networks,
         **coverage(table, networks=networks, share=share, boolean=boolean)}
        for networks in (NESTED, FLAT) for share in sorted(rows["share"].unique())])
