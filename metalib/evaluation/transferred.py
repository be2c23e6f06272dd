"""What of metamers other networks share: estimates of the tables of `transfer_study`.

    rows = counted(table, stage="features")          # late metamers, shown to other networks
    share(table, stage="features", value="passed")   # {"estimate": ..., "low": ..., "high": ...}
    contrasts(table, stage="features")               # differences of trainings and of relations

Only metamers that pass at their own generator count. Intervals (95 %) are those of `crossed.means`
and `crossed.differences`: generators, observers and images are all random.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from metalib.evaluation import crossed
from metalib.evaluation.criterion import judge
from metalib.evaluation.nulls import load_null
from metalib.generation.metamers import Metamers
from metalib.models import Model

PUBLISHED = Path(__file__).parents[2] / "book" / "feather2023.csv"
RELATIONS = ("other seed", "other training", "other architecture", "both differ")
CONTRASTS = {  # a name for what is compared, the column, and the first less the second group
    "generators: robust − standard": ("generator_training", "robust", "standard"),
    "observers: robust − standard": ("observer_training", "robust", "standard"),
    **{f"{a} − {b}": ("relation", a, b) for a, b in (
        ("other seed", "other training"), ("other seed", "other architecture"),
        ("other architecture", "other training"), ("other architecture", "both differ"),
        ("other training", "both differ"))}}


def counted(table: pd.DataFrame, *, stage: str = "") -> pd.DataFrame:
    """The rows that count: metamers of their own generator, shown to other networks.

    Args:
        table: as `transfer_study` returns it.
        stage: at which they were matched; "" takes all stages.

    Raises:
        ValueError: there is no such row.
    """
    passed = table["generator_passed"].astype(bool)
    rows: Any = table[passed & (table["generator"] != table["observer"])]
    rows = rows[rows["stage"] == stage] if stage else rows
    rows.attrs = {}  # which each step would copy
    if rows.empty:
        raise ValueError(f"no metamer of {stage or 'any stage'} passes at its own generator and is "
                         "shown to another network")
    return rows


def pairs(table: pd.DataFrame, *, stage: str) -> pd.DataFrame:
    """The rows of all pairs, metamers shown to their own network among them, sorted by kind."""
    rows: Any = table[table["generator_passed"].astype(bool) & (table["stage"] == stage)]
    by = [f"{role}_{key}" for role in ("generator", "observer")
          for key in ("training", "architecture")]
    return rows.sort_values([*by, "generator", "observer"], kind="stable")


def share(
    table: pd.DataFrame, *, stage: str, value: str = "agrees", resamples: int = 2000,
) -> dict[str, Any]:
    """The share of metamers for which a column is true, over other networks.

    Args:
        table, stage: as in `counted`.
        value: such as "agrees", "passed" or "recognised".
        resamples: as in `crossed.means`.

    Returns:
        `estimate`, `low`, `high`, and the numbers of `generators`, `observers` and `images`. Where
        all rows are the same, their resamples are, too. The interval is then Clopper and Pearson's
        for as many observations as there are networks, of the role that has fewer.
    """
    rows: Any = counted(table, stage=stage)
    found = _mean(rows, value, resamples)
    return found | {name: min(max(found[name], 0.0), 1.0) for name in ("low", "high")}


def beyond_passing(
    table: pd.DataFrame, *, stage: str, resamples: int = 2000,
) -> dict[str, Any]:
    """How many more metamers other networks agree on than pass there, as a difference of shares.

    The arguments and the dict are those of `share`.
    """
    return _difference(counted(table, stage=stage), "agrees", "passed", resamples)


def excess(
    table: pd.DataFrame, *, stage: str, training: str = "", resamples: int = 2000,
) -> dict[str, Any]:
    """How many more metamers others agree on than references with noise at the same distance.

    Args:
        table, stage, resamples: as in `share`.
        training: of the generators; "" takes all.

    Returns:
        A difference of shares, in a dict as of `share`.
    """
    rows: Any = counted(table, stage=stage)
    rows = rows[rows["generator_training"] == training] if training else rows
    return _difference(rows, "agrees", "control_agrees", resamples)


def excesses(table: pd.DataFrame, *, resamples: int = 2000) -> pd.DataFrame:
    """The `excess` by training of the generator and stage: the rows of `crossed.means`."""
    rows: Any = counted(table)
    rows = rows.assign(excess=_less(rows, "agrees", "control_agrees"))
    return crossed.means(rows, ["generator_training", "stage"], value="excess", resamples=resamples)


def contrast(
    table: pd.DataFrame, *, stage: str, by: str, first: str, second: str, value: str = "agrees",
    resamples: int = 2000,
) -> dict[str, Any]:
    """The share of one group less that of another.

    Args:
        table, stage, value, resamples: as in `share`.
        by: the column of the groups: "relation", "generator_training" or "observer_training".
        first, second: the groups.

    Returns:
        A difference of shares, in a dict as of `share`; missing where a group has no rows.
    """
    rows: Any = counted(table, stage=stage)
    found: Any = crossed.differences(rows, by, [(first, second)], value=value,
                                     resamples=resamples).iloc[0]
    return {"estimate": found["difference"], "low": found["low"], "high": found["high"],
            **_sizes(rows)}


def contrasts(
    table: pd.DataFrame, *, stage: str, value: str = "agrees", resamples: int = 2000,
) -> pd.DataFrame:
    """All `CONTRASTS`, each as in `contrast`: a row for each, named by the index."""
    rows = {name: contrast(table, stage=stage, by=by, first=first, second=second, value=value,
                           resamples=resamples)
            for name, (by, first, second) in CONTRASTS.items()}
    return pd.DataFrame(rows.values(), index=list(rows))


def by_relation(
    table: pd.DataFrame, *, stage: str, value: str = "agrees", resamples: int = 2000,
) -> pd.DataFrame:
    """Shares by how generator and observer are related.

    Args:
        table, stage, value, resamples: as in `share`.

    Returns:
        The columns of `crossed.means`, a row for each of `RELATIONS`; missing without such pairs.
    """
    means = crossed.means(counted(table, stage=stage), "relation", value=value, resamples=resamples)
    return means.set_index("relation").reindex(list(RELATIONS))


def by_stage(table: pd.DataFrame, *, resamples: int = 500) -> pd.DataFrame:
    """Shares by stage: where others agree, where metamers pass, and where they agree on noise.

    Returns:
        The rows of `crossed.means` by `stage`, with the column `share`, which names the share.
    """
    names = {"agrees": "observers agree", "passed": "metamers pass",
             "control_agrees": "observers agree on noise"}
    rows = counted(table).sort_values("depth", kind="stable")
    return pd.concat([
        crossed.means(rows, "stage", value=value, resamples=resamples).assign(share=name)
        for value, name in names.items()], ignore_index=True)


def by_depth(table: pd.DataFrame, *, resamples: int = 500) -> pd.DataFrame:
    """Shares that others agree on, by depth and trainings, of metamers and of their controls.

    Returns:
        The rows of `crossed.means` by `generator_training`, `observer_training` and `depth`, with
        the column `shown`: "metamers shown to" or "noise shown to".
    """
    rows: Any = counted(table)
    by = ["generator_training", "observer_training", "depth"]
    names = {"agrees": "metamers shown to", "control_agrees": "noise shown to"}
    return pd.concat([
        crossed.means(rows, by, value=value, resamples=resamples).assign(shown=shown)
        for value, shown in names.items()],
        ignore_index=True)


def by_kind(table: pd.DataFrame, value: str, *, stage: str) -> pd.DataFrame:
    """Shares by kind of generator (rows) and of observer (columns), other networks only.

    A kind is an architecture and a training. On the diagonal stand networks that differ in their
    seed. Index and columns have the levels `training` and `architecture`.

    Args:
        table, stage: as in `counted`.
        value: the column whose share is taken.
    """
    rows: Any = counted(table, stage=stage)
    names = [f"{role}_{key}" for role in ("generator", "observer")
             for key in ("training", "architecture")]
    cells: Any = rows.assign(value=rows[value].astype(float)).groupby(names)["value"].mean()
    cells = cells.unstack([2, 3])
    return cells.reindex(index=_in_order(cells.index), columns=_in_order(cells.columns))


def made(table: pd.DataFrame) -> pd.DataFrame:
    """How many metamers pass at their own generator, by its kind (%), with its natural accuracy.

    Returns:
        A row for each kind, such as "vgg, robust"; a column for each stage, in the order of depth;
        and `accuracy`, the share of references (%) that networks of this kind recognise.
    """
    own: Any = table[table["generator"] == table["observer"]]
    kind = ["generator_training", "generator_architecture"]
    own = own.assign(passed=100 * own["generator_passed"].astype(float),
                     accuracy=100 * own["reference_recognised"].astype(float))
    stages = own.sort_values("depth")["stage"].unique()
    shares: Any = own.pivot_table("passed", kind, "stage")[stages]
    shares = shares.join(own.groupby(kind)["accuracy"].mean())
    shares = shares.reindex(_in_order(shares.index))
    shares.index = pd.Index([f"{architecture}, {training}" for training, architecture
                             in shares.index], name="kind")
    return shares


def asymmetry(table: pd.DataFrame, *, stage: str, resamples: int = 1000) -> dict[str, Any]:
    """The mean absolute difference between the two directions of a pair of networks.

    Args:
        table, stage: as in `counted`.
        resamples: as in `crossed.asymmetry`.

    Returns:
        `estimate`, `low`, `high`, the `correlation` of both directions, and the numbers of
        `generators`, `observers` and `images`.
    """
    rows: Any = counted(table, stage=stage)
    found = crossed.asymmetry(rows, resamples=resamples)
    return {**found.loc["difference"].to_dict(),
            "correlation": found.loc["correlation", "estimate"], **_sizes(rows)}


def directions(table: pd.DataFrame, *, stage: str, resamples: int = 1000) -> pd.DataFrame:
    """Whose metamers travel, and whether both ways: rows with `estimate`, `low` and `high`.

    Shares of the variance between pairs (`crossed.variance_explained`), and what the two directions
    of a pair have in common (`crossed.asymmetry`).
    """
    rows: Any = counted(table, stage=stage)
    names = {"generator": "variance: generator", "observer": "variance: observer",
             "rest": "variance: the pair, and noise", "correlation": "both ways: correlation",
             "reciprocity": "both ways: of what is particular to a pair",
             "difference": "both ways: mean difference"}
    return pd.concat([crossed.variance_explained(rows, resamples=resamples),
                      crossed.asymmetry(rows, resamples=resamples)]).rename(index=names)


def gain(
    table: pd.DataFrame, *, stage: str, value: str = "passed", resamples: int = 2000,
) -> dict[str, Any]:
    """What more evaluations change: the share with most of them less the share with fewest.

    Args:
        table: as `transfer_study` returns it, with the column `steps`.
        stage, value, resamples: as in `share`.

    Returns:
        A difference of shares, in a dict as of `share`, with the numbers of evaluations `least`
        and `most` and the shares `at_least` and `at_most`. Only metamers that pass at their own
        generator with both count.
    """
    rows: Any = counted(table, stage=stage)
    wide: Any = _by_steps(rows, value)
    least, most = wide.columns.min(), wide.columns.max()
    found = _mean((wide[most] - wide[least]).rename("gain").reset_index(), "gain", resamples)
    return found | {"least": int(least), "most": int(most), "at_least": wide[least].mean(),
                    "at_most": wide[most].mean()}


def by_effort(table: pd.DataFrame, *, resamples: int = 500) -> pd.DataFrame:
    """Shares by evaluations: where others agree, and where metamers pass, by the generator.

    Args:
        table: as in `gain`, of one stage.
        resamples: as in `crossed.means`.

    Returns:
        The rows of `crossed.means` by `steps`, with the column `what`, such as "passes, robust".
        They are of the same metamers throughout, which pass at their own generator with every
        number of evaluations.
    """
    rows, parts = counted(table), []
    trainings: Any = rows.groupby("generator", sort=False)["generator_training"].first()
    for value, word in (("agrees", "agreement"), ("passed", "passes")):
        steps: Any = _by_steps(rows, value)
        long: Any = steps.stack().rename(value).reset_index()
        names = long["generator"].map(trainings)
        for (training, _), part in long.groupby([names, "steps"], sort=False):
            found = crossed.means(part, "steps", value=value, resamples=resamples)
            parts.append(found.assign(what=f"{word}, {training} generators",
                                      low=found["low"].clip(0), high=found["high"].clip(upper=1)))
    return pd.concat(parts, ignore_index=True).sort_values(["what", "steps"], kind="stable")


def _by_steps(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Values by number of evaluations (columns), of metamers that there are with each."""
    wide: Any = rows.assign(value=rows[value].astype(float)).pivot_table(
        "value", ["stage", "generator", "observer", "image"], "steps", sort=False)
    return wide.dropna()


def seen(observers: Sequence[Model], stage: str, metamers: Metamers) -> pd.DataFrame:
    """What networks answer to metamers, and for which of them a metamer passes, too.

    Args:
        observers: bundled networks, or others that ship a null of this stage.
        stage: of the observers.
        metamers: of another network.

    Returns:
        A row for each `observer` and `image`: its `answer`, the name of a class or "none", and
        `passed`, as `judge` says.
    """
    parts = []
    for observer in observers:
        with torch.no_grad():
            given = observer.answer_of(observer(metamers.images.to(observer.device))).tolist()
        passed = judge(observer, stage, metamers, load_null(observer, stage))["passed"]
        parts.append(pd.DataFrame({
            "observer": observer.name, "image": range(len(given)),
            "answer": [observer.class_names[k] if k >= 0 else "none" for k in given],
            "passed": passed.to_numpy()}))
    return pd.concat(parts, ignore_index=True)


def told(answers: pd.DataFrame) -> list[str]:
    """The rows of `seen` as a text for each image: a line for each observer, a tick for a pass."""
    marked: Any = answers["answer"] + np.where(answers["passed"], " \N{CHECK MARK}", "")
    texts: Any = marked.groupby(answers["image"]).agg("\n".join)
    return texts.tolist()


# --- Published data ------------------------------------------------------------------------------

def published() -> pd.DataFrame:
    """Recognition of metamers by people and by other networks (Feather et al. 2023).

    Returns:
        A row for each `model` and `stage`: its `training`, `depth` (0 to 1), and the shares of
        metamers that people (`human`) and the other `networks` recognise.
    """
    return pd.read_csv(PUBLISHED)


def people(
    *, given: str = "", within: str = "", method: str = "spearman", resamples: int = 2000,
) -> dict[str, Any]:
    """The correlation of recognition by people with recognition by networks, over stages.

    Args:
        given, within, method, resamples: as in `crossed.correlation`; "" for none.

    Returns:
        `estimate`, `low`, `high`, `squared`, and the numbers of `rows` and of `networks`.
    """
    found = crossed.correlation(
        published(), "human", "networks", clusters="model", given=given or None,
        within=within or None, method=method, resamples=resamples)
    return {**found, "squared": found["estimate"] ** 2, "networks": found["clusters"]}


def people_in_all_ways(*, resamples: int = 2000) -> pd.DataFrame:
    """Correlations as of `people`, over all stages, given depth, within networks, and in thirds."""
    ways: Mapping[str, dict[str, Any]] = {
        "all stages": {}, "given depth": {"given": "depth"}, "within networks": {"within": "model"},
        "within networks, given depth": {"within": "model", "given": "depth"},
        "all stages, Pearson": {"method": "pearson"}}
    rows = {way: people(resamples=resamples, **options) for way, options in ways.items()}
    table: Any = published()
    thirds = np.ceil(3 * table["depth"] - 0.01)
    for number, third in enumerate(("first", "second", "last"), 1):
        rows[f"{third} third of depth"] = crossed.correlation(
            table[thirds == number], "human", "networks", clusters="model", resamples=resamples)
    columns = ["estimate", "low", "high", "rows", "clusters"]
    return pd.DataFrame(rows, index=columns).T


# --- Parts ---------------------------------------------------------------------------------------

def _in_order(kinds: pd.Index) -> pd.MultiIndex:
    """Kinds (training, architecture), those that were trained normally first."""
    return pd.MultiIndex.from_tuples(
        sorted(kinds, key=lambda kind: (kind[0] != "standard", *kind)),
        names=["training", "architecture"])


def _less(rows: Any, first: str, second: str) -> Any:
    return rows[first].astype(float) - rows[second].astype(float)


def _difference(rows: Any, first: str, second: str, resamples: int) -> dict[str, Any]:
    return _mean(rows.assign(difference=_less(rows, first, second)), "difference", resamples)


def _mean(rows: Any, value: str, resamples: int) -> dict[str, Any]:
    row: Any = crossed.means(rows, [], value=value, resamples=resamples).iloc[0]
    found = {"estimate": float(row["mean"]), "low": float(row["low"]), "high": float(row["high"]),
             **{name: int(row[name]) for name in ("generators", "observers", "images")}}
    if rows[value].dropna().nunique() == 1:  # resamples are all the same, too
        margin = 1 - 0.025 ** (1 / min(found["generators"], found["observers"]))
        found |= {"low": found["estimate"] - margin, "high": found["estimate"] + margin}
    return found


def _sizes(rows: Any) -> dict[str, int]:
    return {f"{name}s": int(rows[name].nunique()) for name in crossed.FACTORS}
