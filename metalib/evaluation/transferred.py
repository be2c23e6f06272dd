"""What of metamers other networks share: estimates of the tables of `transfer_study`.

    rows = counted(table, stage="features")          # late metamers, shown to other networks
    average(table, stage="features")                 # {"estimate": ..., "low": ..., "high": ...}
    contrasts(table, stage="features")               # differences of trainings and of relations
    required(table, stage="features")                # what shared invariances go with

What is averaged is the scaled match (`value="scaled_match"`): how similar an observer's activations
to metamer and reference are, from 0, as similar as those to unrelated images, to 1, as those to
copies (see `metalib.evaluation.shown.Scale`). Beside it stand two shares: of metamers that the
observer answers as it answers the reference ("agrees"), and of those that pass its criterion
("passed").

Only metamers that pass at their own generator count. Intervals (95 %) are those of `crossed.means`
and `crossed.differences`: generators, observers and images are all random, and networks of one
architecture and training are nested in their kind.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from metalib.evaluation import crossed, dyads, transfer
from metalib.evaluation.criterion import judge
from metalib.evaluation.nulls import load_null
from metalib.evaluation.reference import at_equal_accuracy, cards, nested, standard_first
from metalib.generation.metamers import Metamers
from metalib.models import Model

PUBLISHED = Path(__file__).parents[2] / "book" / "feather2023.csv"
RELATIONS = transfer.RELATIONS[1:]  # of two networks
CONTRASTS = {  # a name for what is compared, the column, and the first less the second group
    **{f"{role}s: {a} − {b}": (f"{role}_training", a, b) for role in crossed.ROLES for a, b in (
        ("robust", "standard"), ("robust", "noise"), ("noise", "standard"))},
    **{f"{a} − {b}": ("relation", a, b) for a, b in (
        ("other seed", "other training"), ("other seed", "other architecture"),
        ("other architecture", "other training"), ("other architecture", "both differ"),
        ("other training", "both differ"))}}
VALUES = {"scaled_match": "scaled match", "agrees": "observers agree", "passed": "metamers pass"}
WAYS = {"by name": "scaled_match", "by depth": "scaled_match_depth", "by CKA": "scaled_match_cka"}


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


def average(
    table: pd.DataFrame, *, stage: str, value: str = "scaled_match", relation: str = "",
) -> dict[str, Any]:
    """The mean of a column over metamers shown to other networks.

    Args:
        table, stage: as in `counted`.
        value: such as "scaled_match"; or "agrees", "passed" or "recognised", of which it is the
            share.
        relation: of generator and observer, one of `RELATIONS`; "" takes all.

    Returns:
        A dict as of `crossed.estimate`; its numbers are missing where no pair is so related.
    """
    rows: Any = counted(table, stage=stage)
    rows = rows[rows["relation"] == relation] if relation else rows
    if rows.empty:
        return {**dict.fromkeys(("estimate", "low", "high"), np.nan), **_sizes(rows)}
    return crossed.estimate(rows, value=value)


def beyond_passing(table: pd.DataFrame, *, stage: str) -> dict[str, Any]:
    """How many more metamers other networks agree on than pass there, as a difference of shares.

    The arguments and the dict are those of `average`.
    """
    return _difference(counted(table, stage=stage), "agrees", "passed")


def excess(
    table: pd.DataFrame, *, stage: str, training: str = "", value: str = "scaled_match",
) -> dict[str, Any]:
    """By how much metamers exceed references with noise at the same distance, in other networks.

    Args:
        table, stage, value: as in `average`.
        training: of the generators; "" takes all.

    Returns:
        A difference of means, in a dict as of `average`.
    """
    rows: Any = counted(table, stage=stage)
    rows = rows[rows["generator_training"] == training] if training else rows
    return _difference(rows, value, f"control_{value}")


def excesses(table: pd.DataFrame, *, value: str = "scaled_match") -> pd.DataFrame:
    """The `excess` by training of the generator and stage: the rows of `crossed.means`."""
    rows: Any = standard_first(counted(table), "generator_training")
    rows = rows.assign(excess=_less(rows, value, f"control_{value}"))
    return crossed.means(rows, ["generator_training", "stage"], value="excess")


def beyond_mirror(
    table: pd.DataFrame, copies: pd.DataFrame, *, stage: str, control: str = "mirror image",
    value: str = "scaled_match",
) -> dict[str, Any]:
    """By how much metamers exceed a copy of the reference, such as its mirror image.

    Args:
        table, stage, value: as in `average`.
        copies: as `metalib.evaluation.shown.positive_controls` returns it, of the same references.
        control: a name of `metalib.evaluation.controls.COPIES`.

    Returns:
        A difference of means over the same observers and images, in a dict as of `average`.
    """
    rows: Any = counted(table, stage=stage)
    shown: Any = copies[copies["control"] == control]
    both = rows.merge(shown[["observer", "stage", "image", value]], how="left", validate="m:1",
                      on=["observer", "stage", "image"], suffixes=("", "_of_copy"))
    return _difference(both, value, f"{value}_of_copy")


def of_copies(copies: pd.DataFrame) -> pd.DataFrame:
    """What observers make of copies of the references: the yardstick of every matrix.

    Args:
        copies: as in `beyond_mirror`.

    Returns:
        A row for each `control` and `stage`, in the order of depth: the means over observers and
        images of `scaled_match`, `agrees` and `passed`.
    """
    values: Any = copies.assign(**{name: copies[name].astype(float) for name in VALUES})
    found: Any = values.groupby(["control", "stage"], sort=False)[list(VALUES)].mean()
    return found.reset_index()


def beside_copies(
    cells: pd.DataFrame, copies: pd.DataFrame, value: str, *, stage: str,
) -> pd.DataFrame:
    """A matrix of `by_kind` with what the same observers make of copies, as rows below.

    Args:
        cells: of `by_kind`, for the same value and stage.
        copies, value: as in `beyond_mirror`.
        stage: of the observers.

    Returns:
        The matrix with a row more for each control, at the training "copies" and the first word of
        its name.
    """
    rows: Any = copies[copies["stage"] == stage]
    below: Any = rows.assign(value=rows[value].astype(float)).pivot_table(
        "value", "control", ["observer_training", "observer_architecture"], sort=False)
    below.index = pd.MultiIndex.from_tuples([("copies", name.split()[0]) for name in below.index],
                                            names=cells.index.names)
    return pd.concat([cells, below.reindex(columns=cells.columns)])


def by_threshold(table: pd.DataFrame, copies: pd.DataFrame, *, stage: str) -> pd.DataFrame:
    """Shares that pass at other networks, by how unlikely an unrelated image is to be as similar.

    The class condition stands apart: first without it, then with it.

    Args:
        table, stage: as in `average`.
        copies: as in `beyond_mirror`.

    Returns:
        A row for each threshold `p`, from that of the null's maximum to one in ten, for metamers of
        each training, their noise and each control, named by `shown`: the share `similar` of which
        the largest p-value is at most p, and the share `passed` with which the observer agrees,
        too.
    """
    rows: Any = standard_first(counted(table, stage=stage), "generator_training")
    at: Any = copies[copies["stage"] == stage]
    parts = {f"metamers of {name} networks": (part["p_value"], part["agrees"])
             for name, part in rows.groupby("generator_training", sort=False)}
    parts["noise at their distance"] = rows["control_p_value"], rows["control_agrees"]
    parts |= {name: (part["p_value"], part["agrees"])
              for name, part in at.groupby("control", sort=False)}
    steps = np.geomspace(1e-6, 0.1, 51)
    found = [{"shown": name, "p": p, "similar": (values <= p * 1.001).mean(),
              "passed": ((values <= p * 1.001) & agrees.astype(bool)).mean()}
             for name, (values, agrees) in parts.items() for p in steps]
    return pd.DataFrame(found)


def passing(table: pd.DataFrame, *, stage: str, p: float = 0.0) -> dict[str, Any]:
    """The share that passes at other networks, the class condition included.

    Args:
        table, stage: as in `average`.
        p: the largest p-value that passes; 0 stands for the null's maximum, as published.

    Returns:
        A dict as of `average`.
    """
    similar = table["passed"] if not p else (table["p_value"] <= p * 1.001) & table["agrees"]
    return average(table.assign(passes=similar.astype("boolean")), stage=stage, value="passes")


def contrast(
    table: pd.DataFrame, *, stage: str, by: str, first: str, second: str,
    value: str = "scaled_match", trainings: Collection[str] = (),
) -> dict[str, Any]:
    """The mean of one group less that of another.

    Args:
        table, stage, value: as in `average`.
        by: the column of the groups: "relation", "generator_training" or "observer_training".
        first, second: the groups.
        trainings: generators and observers of these only; () takes all.

    Returns:
        A difference of means, in a dict as of `average`; missing where a group has no rows.
    """
    rows: Any = counted(table, stage=stage)
    if trainings:
        both = rows[[f"{role}_training" for role in crossed.ROLES]].isin(trainings)
        rows = rows[both.all(axis=1)]
    if rows.empty:
        return {**dict.fromkeys(("estimate", "low", "high", "p", "freedom", "limit"), np.nan),
                **_sizes(rows)}
    found: Any = crossed.differences(rows, by, [(first, second)], value=value).iloc[0]
    return {"estimate": found["difference"], **found[["low", "high", "p", "freedom", "limit"]],
            **_sizes(rows)}


def adjusted(
    table: pd.DataFrame, *, stage: str, first: str, second: str, role: str = "generator",
    value: str = "scaled_match",
) -> dict[str, Any]:
    """The difference of two trainings at equal accuracy of the networks.

    Args:
        table, stage, value: as in `average`, of bundled networks.
        first, second: the trainings.
        role: whose training and accuracy are meant, the "generator"'s or the "observer"'s.

    Returns:
        As `at_equal_accuracy`, of the means of networks, with the numbers of `_sizes`.
    """
    rows: Any = counted(table, stage=stage)
    means: Any = rows.assign(value=rows[value].astype(float)).groupby(role)["value"].mean()
    return {**at_equal_accuracy(means, first, second), **_sizes(rows)}


def contrasts(
    table: pd.DataFrame, *, stage: str, value: str = "scaled_match",
) -> pd.DataFrame:
    """All `CONTRASTS` of groups that there are, each as in `contrast`, named by the index."""
    rows = {name: contrast(table, stage=stage, by=by, first=first, second=second, value=value)
            for name, (by, first, second) in CONTRASTS.items()
            if by == "relation" or {first, second} <= set(table[by])}
    return pd.DataFrame(rows.values(), index=list(rows))


def by_relation(
    table: pd.DataFrame, *, stage: str, value: str = "scaled_match",
) -> pd.DataFrame:
    """Means by how generator and observer are related.

    Args:
        table, stage, value: as in `average`.

    Returns:
        The columns of `crossed.means`, a row for each of `RELATIONS`; missing without such pairs.
    """
    means = crossed.means(counted(table, stage=stage), "relation", value=value)
    return means.set_index("relation").reindex(list(RELATIONS))


def told_by_relation(table: pd.DataFrame, *, stage: str) -> pd.DataFrame:
    """Are metamers metamers elsewhere, too? Each of `VALUES` by relation, with intervals, as text.

    Args:
        table, stage: as in `average`.

    Returns:
        A row for each of `RELATIONS`, a column for each of `VALUES`, such as "0.25 (0.10 to 0.40)".
    """
    columns = {}
    for value, name in VALUES.items():
        means = by_relation(table, stage=stage, value=value)
        columns[name] = [f"{row['mean']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
                         for row in means.to_dict(orient="records")]
    return pd.DataFrame(columns, index=pd.Index(RELATIONS, name="relation"))


def by_way(table: pd.DataFrame, *, stage: str) -> pd.DataFrame:
    """All `CONTRASTS` of scaled matches, with the observer's stage chosen in each of `WAYS`.

    Returns:
        The rows of `contrasts`, with the columns `contrast` and `way`.
    """
    return pd.concat([
        contrasts(table, stage=stage, value=value).assign(way=way) for way, value in WAYS.items()
        if value in table]).reset_index(names="contrast")


def chosen(table: pd.DataFrame, *, stage: str) -> pd.DataFrame:
    """How often each stage of other observers was chosen, by the way it was chosen (%)."""
    rows: Any = counted(table, stage=stage)
    names = {"by depth": "observer_stage_depth", "by CKA": "observer_stage_cka"}
    found: Any = {way: 100 * rows[column].value_counts(normalize=True)
                  for way, column in names.items() if column in rows}
    stages: Any = table.sort_values("depth")["stage"].unique()
    return pd.DataFrame({"by name": {stage: 100.0}, **found}).T.reindex(columns=stages).fillna(0)


def by_stage(table: pd.DataFrame) -> pd.DataFrame:
    """Means by stage: scaled matches of metamers and of noise, and the shares of `VALUES`.

    Returns:
        The rows of `crossed.means` by `stage`, with the column `what`, which names the mean.
    """
    names = {**VALUES, "control_scaled_match": "scaled match of noise"}
    rows = counted(table).sort_values("depth", kind="stable")
    return pd.concat([
        crossed.means(rows, "stage", value=value).assign(what=name)
        for value, name in names.items()], ignore_index=True)


def by_depth(table: pd.DataFrame, *, value: str = "scaled_match") -> pd.DataFrame:
    """Means by depth and trainings, of metamers and of their controls.

    Returns:
        The rows of `crossed.means` by `generator_training`, `observer_training` and `depth`, with
        the column `shown`: "metamers shown to" or "noise shown to".
    """
    by = ["generator_training", "observer_training", "depth"]
    rows: Any = standard_first(standard_first(counted(table), by[1]), by[0])
    names = {value: "metamers shown to", f"control_{value}": "noise shown to"}
    return pd.concat([crossed.means(rows, by, value=name).assign(shown=shown)
                      for name, shown in names.items()], ignore_index=True)


def by_kind(table: pd.DataFrame, value: str, *, stage: str) -> pd.DataFrame:
    """Means by kind of generator (rows) and of observer (columns), other networks only.

    A kind is an architecture and a training. On the diagonal stand networks that differ in their
    seed. Index and columns have the levels `training` and `architecture`.

    Args:
        table, stage: as in `counted`.
        value: the column whose mean is taken.
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


def asymmetry(
    table: pd.DataFrame, *, stage: str, value: str = "scaled_match",
) -> dict[str, Any]:
    """The root mean square difference between the two directions of a pair of networks.

    It is what the sampling of images does not explain, see `crossed.asymmetry`.

    Args:
        table, stage, value: as in `average`.

    Returns:
        `estimate`, `low`, `high`, the `correlation` of both directions, and the numbers of
        `generators`, `observers` and `images`.
    """
    rows: Any = counted(table, stage=stage)
    found = crossed.asymmetry(rows, value=value)
    return {**found.loc["difference"].to_dict(),
            "correlation": found.loc["correlation", "estimate"], **_sizes(rows)}


# --- What shared invariances require -------------------------------------------------------------

PREDICTORS = ("same architecture", "same training", "generator: accuracy", "observer: accuracy",
              "generator: robust accuracy", "observer: robust accuracy")


def required(
    table: pd.DataFrame, *, stage: str, value: str = "scaled_match", permutations: int = 1999,
) -> pd.DataFrame:
    """What a pair of kinds shares, explained by what both have in common and by each of them.

    A linear regression of the means of `by_kind` on `PREDICTORS`: as few as there may be, since
    kinds are few. Accuracies are those of the cards, in tenths (10 percentage points), means over
    the networks of a kind. Coefficients of accuracies are thus differences between kinds beyond
    what their training and architecture have in common; with few kinds, robust accuracy can hardly
    be told from adversarial training, by which it is gained.

    Args:
        table, stage, value: as in `average`, of bundled networks.
        permutations: as in `dyads.explained`, of kinds.

    Returns:
        The rows of `dyads.explained`. A predictor that is the same for all pairs is left out; with
        fewer kinds than predictors all numbers are missing.
    """
    cells = by_kind(table, value, stage=stage)
    both = [kind for kind in cells.index if kind in cells.columns]
    if len(both) < len(PREDICTORS):
        return pd.DataFrame(np.nan, pd.Index(PREDICTORS, name="predictor"),
                            ["estimate", "low", "high", "p", "floor"])
    known: Any = cards().groupby(["training", "architecture"])[["accuracy", "robust"]].mean()
    predictors = _predictors(both, 10 * known.loc[both, "accuracy"].to_numpy(),
                             10 * known.loc[both, "robust"].to_numpy())
    varied = {name: values for name, values in predictors.items() if np.ptp(values) > 0}
    return dyads.explained(cells.loc[both, both], varied, permutations=permutations)


def requirement(
    table: pd.DataFrame, *, stage: str, predictor: str, value: str = "scaled_match",
) -> dict[str, Any]:
    """The row of `required` for a predictor, as a dict with the numbers of `_sizes` and `kinds`."""
    rows: Any = counted(table, stage=stage)
    kinds = rows.groupby(["generator_training", "generator_architecture"]).ngroups
    found = required(table, stage=stage, value=value)
    numbers = found.loc[predictor].to_dict() if predictor in found.index else dict.fromkeys(
        ("estimate", "low", "high", "p", "floor"), np.nan)
    return {**numbers, "kinds": kinds, **_sizes(rows)}


def _predictors(kinds: list[tuple], accuracy: np.ndarray, robust: np.ndarray) -> dict[str, Any]:
    """Matrices (K, K) of `PREDICTORS` by name."""
    trainings, architectures = (np.array(names) for names in zip(*kinds))
    across = np.ones((1, len(kinds)))
    matrices = ((architectures[:, None] == architectures).astype(float),
                (trainings[:, None] == trainings).astype(float), accuracy[:, None] * across,
                (accuracy[:, None] * across).T, robust[:, None] * across,
                (robust[:, None] * across).T)
    return dict(zip(PREDICTORS, matrices))


# --- Effort --------------------------------------------------------------------------------------

def gain(table: pd.DataFrame, *, stage: str, value: str = "passed") -> dict[str, Any]:
    """What more evaluations change: the share with most of them less the share with fewest.

    Args:
        table: as `transfer_study` returns it, with the column `steps`.
        stage, value: as in `average`.

    Returns:
        A difference of means, in a dict as of `average`, with the numbers of evaluations `least`
        and `most` and the means `at_least` and `at_most`. Only metamers that pass at their own
        generator with both count.
    """
    rows: Any = counted(table, stage=stage)
    wide: Any = _by_steps(rows, value)
    least, most = wide.columns.min(), wide.columns.max()
    rows = nested((wide[most] - wide[least]).rename("gain").reset_index())
    found = crossed.estimate(rows, value="gain")
    return found | {"least": int(least), "most": int(most), "at_least": wide[least].mean(),
                    "at_most": wide[most].mean()}


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


def _difference(rows: Any, first: str, second: str) -> dict[str, Any]:
    return crossed.estimate(rows.assign(difference=_less(rows, first, second)), value="difference")


def _sizes(rows: Any) -> dict[str, int]:
    return {f"{name}s": int(rows[name].nunique()) for name in crossed.FACTORS}
