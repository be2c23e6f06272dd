"""Do observers' representations of metamers resemble those of the references more than by chance?

    table = representation_test(observers, references, metamers, natural=load_images("cifar10"))
    table                     # one row per observer, stage, image and null
    table.summary()           # one row per observer and stage: identification, second order, ...
    verdict(table)            # one row per stage and null: the share of images, with interval
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalib import metrics
from metalib.data import ImageSet
from metalib.deprecated import renamed
from metalib.evaluation.controls import perturbations
from metalib.evaluation.corrections import corrected, smallest_detectable, warn_of_floors
from metalib.evaluation.intervals import mean_interval, share_interval
from metalib.evaluation.observers import (
    Reading,
    Responses,
    Stimuli,
    labels_of,
    read_model,
    read_responses,
)
from metalib.evaluation.permutations import Chance, p_value, row_blocks
from metalib.evaluation.simulated import simulated_responses
from metalib.models.model import Model
from metalib.notices import warn
from metalib.plain import whole

__all__ = [
    "NULLS", "SECOND_ORDER", "RepresentationTable", "Responses", "mean_interval", "perturbations",
    "representation_test", "share_interval", "similarities", "simulated_responses", "verdict"]

PERTURBED = ("distance", "noise", "blend")  # nulls that compare with perturbations
NULLS = ("random", "same-class", *PERTURBED)
SECOND_ORDER = ("correlation_pearson", "correlation_spearman", "euclidean_pearson",
                "euclidean_spearman", "cka")
TIE = 1e-6  # similarities that differ by less are ties, which count against the metamer


class RepresentationTable(pd.DataFrame):
    """The table of a `representation_test`: a pandas.DataFrame with `summary()`.

    What is selected from it is a plain DataFrame.
    """

    _metadata = ["_summary"]
    _summary: Any = None

    @property
    def _constructor(self):
        return pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """One row per observer and stage; see `representation_test`."""
        return self._summary.copy()


@renamed(bootstraps="resamples", confidence="level")
def representation_test(
    observers: Model | Responses | Sequence[Model | Responses],
    references: ImageSet | Tensor | None, metamers: Any, *, stages: Sequence[str] | None = None,
    nulls: str | Sequence[str] | None = None,
    natural: ImageSet | Tensor | None = None, labels: Any = None, draws: int = 59,
    permutations: int = 10_000, resamples: int = 1_000, level: float = 0.95,
    correction: str | None = "fdr_bh", alpha: float = 0.05, seed: int = 0,
    cache: str | Path | Literal[False] | None = None, batch_size: int = 100,
) -> RepresentationTable:
    """Test whether metamers are more similar to their references than by chance.

    Each observer and stage has tests of its own. Similarity is the Pearson correlation of
    activations, centred by their mean over all natural images (references and `natural`). The
    nulls, each with what is exchangeable if it holds:

    - "random": the metamer with every other natural image. The reference is one of the natural
      images, drawn at random, and the metamer was made without regard to which.
    - "same-class": the same within the class of the reference.
    - "distance": the reference with perturbations of it at the pixel distance of the metamer, in
      turn Gaussian noise ("noise") and a blend with another natural image ("blend"). These two
      can also be tested alone. The metamer is one more perturbation.

    Args:
        observers: a Model, `Responses`, or a list of them.
        references: the references, an ImageSet or a tensor (n, 3, H, W) in [0, 1]; observers of
            another size resize all that they are shown, see `Model.fitted`; None if all
            observers are Responses.
        metamers: Metamers, or a tensor of the same shape; row i belongs to reference i. The image
            judged is the 8-bit image.
        stages: names of stages, for every observer; None takes all of each.
        nulls: some of `NULLS`. None takes "random", "same-class" and "distance", but leaves out,
            with a warning, "same-class" where the classes of the references are not known, and
            "distance" where an observer is Responses without `perturbed`. The primary test takes
            "same-class", or else the first one.
        natural: more natural images of the same population, an ImageSet: the more there are, the
            finer the nulls. Copies of references are left out. None takes the references alone.
        labels: classes (n,) of the references; those of the ImageSet if None.
        draws: perturbations of each reference.
        permutations, resamples: how many permutations, and resamples, of stimuli.
        level: of the intervals.
        correction: of the p-values of all images and stages of an observer and null: a method of
            statsmodels' `multipletests`, such as "fdr_bh" (Benjamini & Hochberg 1995), "fdr_by"
            or "holm". None corrects nothing, for a caller who reads no corrected p-value:
            `q_value`, `primary_p` and what follows from them are missing.
        alpha: corrected p-values of at most this are significant.
        seed: of permutations, resamples and, with a reference's pixels, of its perturbations.
        cache: the folder in which activations of natural images are kept (default: the
            environment variable METALIB_CACHE, or `~/.cache/metalib/activations`); False keeps
            none. It takes at most 10 gigabytes, or as many as the environment variable
            METALIB_CACHE_GB says; what was used least recently leaves first.
        batch_size: images that go through a model together.

    Returns:
        RepresentationTable, a pandas.DataFrame with one row per observer, stage, image and null:
        `similarity`; `null_similarity`, the mean of the null, and `draws`, its number m; `auc`,
        the share of the null that is less similar; `p_value`, (b + 1) / (m + 1) (Phipson & Smyth
        2010, doi:10.2202/1544-6115.1585); `q_value`, corrected over images and stages, the
        family; `detectable`, the smallest share of the family that must be at its smallest p-value
        before any of it is significant (see `metalib.evaluation.corrections.smallest_detectable`);
        `spearman`; `rank` of the reference among all references, by similarity to the metamer;
        `ceiling`, the similarity to copies of the reference shifted by a pixel and compressed as
        JPEG (for Responses see there); `recognised`, whether the observer gives the metamer the
        class that it gives the reference (missing without a model or an answer). Where a reference
        evokes nothing of its own, all of its row is missing: its activations are all the same
        number, or the same as those of the other images.

        Its `summary()` has one row per observer and stage, of the `images` whose references evoke
        something of their own, missing with fewer than two: means over images with intervals
        (`_low`, `_high`) of similarity and ceiling; `natural_95`, which one natural pair in 20
        exceeds; for each null the mean `auc`, the share `kept` of the way from the mean of the
        null to the ceiling, the share `significant` of images, beside it what is `detectable` in
        the family, and the p-value of the mean similarity (`_p`), which cannot be below `_floor`;
        `primary_p`, that of the primary test corrected by Holm's method over all rows, and the
        smallest share of the rows that it can detect, `primary_detectable`; `top1`, the share of
        references that are the nearest to their metamer, its `chance`, `mean_rank`, and the p-value
        of the latter, `identification_p`; for each of `SECOND_ORDER`, the correlation between the
        dissimilarity matrices of references and of metamers or debiased CKA, with interval,
        p-value permuting stimuli (Mantel) and within classes (`_p_within`); `cka_score`, which is
        0 at the mean of the permutations and 1 at identity. `cka` of metamers of another network is
        the observer's STIR with respect to it (Nanda et al. 2022, arXiv:2206.11939), debiased.

    Raises:
        ValueError: an unknown stage or null, images without labels for "same-class", sets of
            different length, fewer than two images, activations that are not finite, or responses
            that lack what a null needs.

    Warns:
        UserWarning: which nulls were left out, and what they need; and of which corrected p-values
            the floors decide what can be found, see `metalib.evaluation.corrections.is_switch`.

    Example:
        >>> from metalib import load_images, load_model, representation_test
        >>> model, images = load_model("zoo/vgg-standard-0"), load_images("cifar10-samples")
        >>> dim = images.images * 0.9  # a user's own pairs: the same images at lower contrast
        >>> table = representation_test(model, images, dim, stages=["features"],
        ...                             nulls=["random", "same-class"], cache=False)
        >>> len(table), len(table.summary())
        (40, 1)
    """
    permutations = whole("permutations", permutations, 1)
    resamples = whole("resamples", resamples, 1)
    draws, seed = whole("draws", draws, 0), whole("seed", seed, 0)
    batch_size = whole("batch_size", batch_size, 1)
    labels, stimuli = labels_of(references, labels), None
    observers, nulls = _listed(observers, nulls, labels)
    if any(isinstance(observer, Model) for observer in observers):
        stimuli = Stimuli(references, metamers, natural, labels,
                          draws if set(nulls) & set(PERTURBED) else 0, seed)
    chance = Chance(permutations, resamples, level, seed)
    tables, cells, read = [], [], {}
    for observer in observers:  # all are checked before the first is tested
        chosen = _known_stages(observer, stages)
        if isinstance(observer, Model):
            assert stimuli is not None
            read[observer.name] = read_model(observer, stimuli, chosen, cache, batch_size)
        else:
            read[observer.name] = read_responses(observer, chosen, labels, set(nulls))
    for name, readings in read.items():
        table, rows = _test_observer(name, readings, nulls, chance, correction, alpha)
        tables.append(table)
        cells += rows
    table, summary = pd.concat(tables, ignore_index=True), pd.DataFrame(cells)
    primary = "same-class" if "same-class" in nulls else nulls[0]
    summary["primary_p"] = corrected(summary[f"{primary}_p"], "holm") if correction else np.nan
    summary["primary_detectable"] = smallest_detectable(
        summary[f"{primary}_floor"], "holm", alpha) if correction else np.nan
    if correction:
        _warn_of_floors(table, summary[f"{primary}_floor"], nulls, correction, alpha)
    first = ["observer", "stage", "image", "null", "similarity", "p_value", "q_value"]
    result = RepresentationTable(table[first + [name for name in table if name not in first]])
    result._summary, result.attrs = summary, {"alpha": alpha}
    return result


def similarities(
    observer: Model, references: ImageSet | Tensor, metamers: Any, *,
    stages: Sequence[str] | None = None, natural: ImageSet | Tensor | None = None,
    draws: int = 19, seed: int = 0, cache: str | Path | Literal[False] | None = None,
    batch_size: int = 100,
) -> pd.DataFrame:
    """All similarities of first order that a `representation_test` compares, to be looked at.

    Returns:
        pandas.DataFrame, one row per stage, image and pair: `kind` ("metamer", "random",
        "same-class", which "random" contains, "noise", "blend", "ceiling") and `similarity`.
    """
    stimuli = Stimuli(references, metamers, natural, labels_of(references, None), draws, seed)
    tables = []
    for stage, reading in read_model(
            observer, stimuli, stages or observer.stages, cache, batch_size):
        for kind, values, counted in _kinds(reading):
            values = np.where(reading.defined[:, None], values, np.nan)
            tables.append(pd.DataFrame({
                "stage": stage, "image": np.nonzero(counted)[0], "kind": kind,
                "similarity": values[counted]}))
    return pd.concat(tables, ignore_index=True)


@renamed(confidence="level")
def verdict(table: pd.DataFrame, *, alpha: float = 0.05, level: float = 0.95) -> pd.DataFrame:
    """At each stage and for each null, the share of images that are significantly more similar.

    Images and observers are crossed random factors (Clark 1973,
    doi:10.1016/S0022-5371(73)80014-3): the variance of a mean over both adds those of the means
    over either. Intervals of shares are Clopper and Pearson's at the effective number of
    observations (Korn & Graubard 1998, Survey Methodology 24, 193), which is that of the rarer
    factor where fewer observations than that differ from the rest. Those of the mean area under
    the curve are Student's, with the degrees of freedom of the rarer factor.

    Observers for which nothing is defined, and images that are not defined for one of the others,
    do not count.

    Args:
        table: rows of a `representation_test`, or a selection of them, such as those of observers
            other than the generator.
        alpha: a row is significant if its `q_value` is at most this.
        level: of the intervals.

    Returns:
        pandas.DataFrame, one row per stage and null: `observers`, `images`, `share`, `share_low`,
        `share_high`; `detectable`, the smallest share of the images and stages of an observer that
        could have been found, the largest over observers (missing where `alpha` is not that of the
        test); `auc`, `auc_low`, `auc_high`.
    """
    rows = []
    cells: Any = table.groupby(["stage", "null"], sort=False)
    for (stage, null), cell in cells:
        q_values, auc = (
            cell.pivot(index="observer", columns="image", values=value)
            .dropna(axis=0, how="all").dropna(axis=1, how="any").to_numpy()
            for value in ("q_value", "auc"))
        share, *share_ends = (share_interval(q_values <= alpha, level) if q_values.size
                              else [np.nan] * 3)
        mean, *mean_ends = mean_interval(auc, level)
        known = "detectable" in cell and table.attrs.get("alpha") == alpha
        rows.append((stage, null, *q_values.shape, share, *share_ends,
                     cell["detectable"].max() if known else np.nan,
                     mean, *np.clip(mean_ends, 0, 1)))
    return pd.DataFrame(rows, columns=[
        "stage", "null", "observers", "images", "share", "share_low", "share_high",
        "detectable", "auc", "auc_low", "auc_high"])


def _listed(
    observers: Any, nulls: Any, labels: np.ndarray | None,
) -> tuple[list[Model | Responses], list[str]]:
    """Observers and nulls as lists, checked."""
    observers = [observers] if isinstance(observers, (Model, Responses)) else list(observers)
    nulls = (_computable(observers, labels) if nulls is None
             else [nulls] if isinstance(nulls, str) else list(nulls))
    unknown = sorted(set(nulls) - set(NULLS))
    if not nulls or unknown:
        raise ValueError(f"unknown nulls {unknown}; choose from {', '.join(NULLS)}")
    if not observers or len({observer.name for observer in observers}) < len(observers):
        raise ValueError("pass at least one observer, each with a name of its own")
    return observers, nulls


def _computable(
    observers: Sequence[Model | Responses], labels: np.ndarray | None,
) -> list[str]:
    """The default nulls, without those that lack something, of which a warning tells."""
    lacking = {}
    if labels is None or not len(labels) or (labels < 0).any():
        lacking["same-class"] = "it needs the class of every reference, labels="
    unperturbed = [observer.name for observer in observers
                   if isinstance(observer, Responses) and not observer.perturbed]
    if unperturbed:
        lacking["distance"] = f"{unperturbed[0]} lacks responses to perturbations, perturbed="
    for null, reason in lacking.items():
        warn(f"the null {null!r} is left out: {reason}; nulls= chooses without a warning")
    return [null for null in ("random", "same-class", "distance") if null not in lacking]


def _known_stages(observer: Model | Responses, stages: Sequence[str] | None) -> Sequence[str]:
    """The stages to be tested: all of the observer if None."""
    if stages is None:
        return observer.stages
    for stage in stages:
        if stage not in observer.stages:
            raise ValueError(f"{observer.name} has no stage {stage!r}; "
                             f"its stages are {', '.join(observer.stages)}")
    return stages


def _kinds(reading: Reading) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield kinds of pairs, each with similarities (n, ...) and booleans: which of them count."""
    assert reading.to_copies is not None
    n, total = reading.to_natural.shape
    diagonal = np.eye(n, total, dtype=bool)
    yield "metamer", reading.to_natural, diagonal
    yield "random", reading.to_natural, ~diagonal
    if reading.labels is not None:
        same = reading.labels[:n, None] == reading.labels
        yield "same-class", reading.to_natural, ~diagonal & same
    for kind, values in (("noise", reading.perturbed("noise")),
                         ("blend", reading.perturbed("blend")), ("ceiling", reading.to_copies)):
        yield kind, values, np.ones(values.shape, dtype=bool)


# --- Tests --------------------------------------------------------------------------------------

def _test_observer(
    name: str, readings: Iterable[tuple[str, Reading]], nulls: Sequence[str], chance: Chance,
    correction: str | None, alpha: float,
) -> tuple[pd.DataFrame, list[dict]]:
    """All tests of one observer: its rows of the table, and of the summary."""
    columns, cells = [], []
    for stage, reading in readings:
        by_null, cell = _test_stage(reading, nulls, chance, f"{name}, {stage}")
        columns += [{"observer": name, "stage": stage, **values} for values in by_null]
        cells.append({"observer": name, "stage": stage, **cell})
    table = _frame(columns).assign(q_value=np.nan, detectable=np.nan)
    if correction:
        _correct(table, correction, alpha)
    hits: Any = (table["q_value"] <= alpha).where(table["q_value"].notna()).astype(float)
    means: Any = table.assign(significant=hits).groupby(["stage", "null"])[
        ["significant", "detectable"]].mean()
    for cell in cells:
        cell |= {f"{null}_{name}": value for null in nulls
                 for name, value in means.loc[(cell["stage"], null)].items()}
    return table, cells


def _correct(table: pd.DataFrame, correction: str, alpha: float) -> None:
    """Fill in what is corrected over the images and stages of an observer, for each null."""
    families: Any = table.dropna(subset="p_value").groupby("null")
    for _, family in families:
        table.loc[family.index, "q_value"] = corrected(family["p_value"], correction)
        table.loc[family.index, "detectable"] = smallest_detectable(
            _floors(family), correction, alpha)


def _floors(family: Any) -> Any:
    """The smallest p-value that each row can have."""
    return 1 / (family["draws"] + 1)


def _warn_of_floors(
    table: pd.DataFrame, primary: Any, nulls: Sequence[str], correction: str, alpha: float,
) -> None:
    """Warn of corrected p-values of which floors decide what they can find.

    Of several observers the one whose floors decide most stands for all. `primary` are the floors
    of the primary test.
    """
    families = {}
    for null in nulls:
        rows: Any = table[(table["null"] == null) & table["p_value"].notna()]
        if len(rows):
            worst = rows.loc[rows["detectable"].idxmax(), "observer"]
            families[f"null {null!r}"] = _floors(rows[rows["observer"] == worst])
    warn_of_floors(
        "q_value, for single images,", families, correction, "More natural images (natural=) or "
        "perturbations (draws=) lower that; summary() has tests of all images together, and "
        "correction=None is for those who read no corrected p-value", alpha)
    warn_of_floors(
        "primary_p, for all images together,", {"rows of the summary": primary}, "holm",
        "More permutations or images lower that", alpha)


def _frame(tables: list[dict]) -> pd.DataFrame:
    """Dicts of columns, one below the other; a single value stands in every row of its dict."""
    rows = [len(table["image"]) for table in tables]
    frame = pd.DataFrame({
        name: np.repeat([table[name] for table in tables], rows)
        if np.ndim(tables[0][name]) == 0 else np.concatenate([table[name] for table in tables])
        for name in tables[0]})
    known = frame["recognised"].dtype == bool
    return frame if known else frame.astype({"recognised": "boolean"})


def _test_stage(
    reading: Reading, nulls: Sequence[str], chance: Chance, where: str,
) -> tuple[list[dict], dict]:
    """All tests at one stage of one observer.

    Returns a dict of columns of the table for each null, and a dict for the summary, with what is
    not defined missing.
    """
    n, rows = len(reading.references), np.flatnonzero(reading.defined)
    if len(rows) == n:
        return _tests(reading, nulls, chance, where)
    recognised = _recognised(reading)
    few = len(rows) < 2
    tables, cell = _tests(reading if few else reading.only(rows), nulls, chance, where)
    for columns in tables:
        for name in columns.keys() - {"null", "image", "recognised"}:
            values = np.full(n, np.nan)
            if not few:
                values[rows] = columns[name]
            columns[name] = values
        columns |= {"image": range(n), "recognised": recognised}
    if few:
        cell = dict.fromkeys(cell, np.nan)
    return tables, cell | {"images": len(rows)}


def _recognised(reading: Reading) -> Any:
    """The column `recognised`, missing without a model."""
    n = len(reading.references)
    return np.full(n, None) if reading.recognised is None else reading.recognised


def _tests(
    reading: Reading, nulls: Sequence[str], chance: Chance, where: str,
) -> tuple[list[dict], dict]:
    """As `_test_stage`, where all is defined."""
    n = len(reading.references)
    similarity = reading.to_natural.diagonal().astype(float)
    rank = _ranks(reading.to_natural[:, :n])
    ceiling = np.full(n, np.nan) if reading.to_copies is None else reading.to_copies.mean(1)
    recognised = _recognised(reading)
    known = np.asarray(recognised[~pd.isna(recognised)], dtype=bool)
    columns = {
        "image": range(n), "similarity": similarity, "spearman": reading.spearman,
        "rank": rank.diagonal().copy(), "ceiling": ceiling,
        "recognised": recognised}
    cell = {
        "images": n,
        "similarity": similarity.mean(), **_ends("similarity", chance.interval(similarity)),
        "ceiling": ceiling.mean(), **_ends("ceiling", chance.interval(ceiling)),
        "natural_95": reading.natural_95,
        "recognised": known.mean() if len(known) else np.nan}
    tables = []
    for null in nulls:
        first, group = _first_order(reading, null, similarity, chance, where)
        tables.append({**columns, "null": null, **first})
        cell |= _null_summary(null, first, similarity, ceiling) | {
            f"{null}_{name}": value for name, value in group.items()}
    cell |= _identification(reading.to_natural, rank, chance)
    del reading.to_natural, rank  # no longer needed; with many images the largest arrays
    return tables, cell | _second_order(reading, chance)


def _ends(name: str, ends: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}


# --- First order --------------------------------------------------------------------------------

def _first_order(
    reading: Reading, null: str, similarity: np.ndarray, chance: Chance, where: str,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Columns of the table for one null, and the p-value of the mean similarity with its floor."""
    n = len(similarity)
    if null in PERTURBED:
        drawn = reading.perturbed(null)
        values = np.column_stack([similarity, drawn])
        counted = np.ones(values.shape, dtype=bool)
        counted[:, 0] = False
        chosen = chance.choices(n, drawn.shape[1])
        floor = chance.floor_of_choices(n, drawn.shape[1])
    else:
        strata = _strata(reading, null, where)
        values = reading.to_natural
        counted = (strata[:n, None] == strata) & ~np.eye(n, len(strata), dtype=bool)
        chosen, floor = chance.stand_ins(strata, n), chance.floor(strata, n)
    m, observed = counted.sum(1), similarity[:, None]
    at_least = (counted & (values >= observed - TIE)).sum(1)
    ties = at_least - (counted & (values > observed + TIE)).sum(1)
    with np.errstate(invalid="ignore"):
        columns = {
            "null_similarity": np.where(counted, values, 0).sum(1) / m, "draws": m,
            "auc": 1 - (at_least - ties / 2) / m, "p_value": (at_least + 1) / (m + 1)}
    mean_p = p_value(similarity.sum(), values[np.arange(n), chosen].sum(1))
    return columns, {"p": float(mean_p), "floor": floor}


def _strata(reading: Reading, null: str, where: str) -> np.ndarray:
    """The class of each natural image for "same-class", one stratum for "random"."""
    if null == "random":
        return np.zeros(reading.to_natural.shape[1], dtype=np.int64)
    if reading.labels is None or (reading.labels[:len(reading.references)] < 0).any():
        raise ValueError(
            f"{where}: the null 'same-class' needs the classes of the references: pass an "
            "ImageSet, or labels=, or leave it out of nulls=")
    return np.asarray(reading.labels, dtype=np.int64)


def _null_summary(
    null: str, columns: dict[str, np.ndarray], similarity: np.ndarray, ceiling: np.ndarray,
) -> dict[str, float]:
    """For the summary: the mean area under the curve, and the share of similarity kept."""
    defined = columns["draws"] > 0
    count = max(1, defined.sum())
    floor = columns["null_similarity"][defined].sum() / count
    top = ceiling[defined].sum() / count
    gain = similarity[defined].sum() / count - floor
    return {f"{null}_auc": columns["auc"][defined].mean() if defined.any() else np.nan,
            f"{null}_kept": gain / (top - floor) if top > floor else np.nan}


def _ranks(similarity: np.ndarray) -> np.ndarray:
    """(n, n): the rank of each reference (column) by similarity to each metamer (row), from 1.

    Ties take the worst rank.
    """
    ranks = np.empty(similarity.shape, dtype=np.int32)
    for row, values in enumerate(similarity):
        ranks[row] = len(values) - np.searchsorted(np.sort(values), values - TIE)
    return ranks


def _identification(similarity: np.ndarray, rank: np.ndarray, chance: Chance) -> dict[str, float]:
    """For the summary: how well metamers tell which reference is theirs."""
    n = len(rank)
    rows, orders = np.arange(n), chance.stand_ins(np.zeros(n, dtype=np.int64), n)
    observed = rank.diagonal()
    share, low, high = share_interval((observed == 1)[None], chance.level)
    score = similarity[:, :n] / (2 * n) - rank  # equal sums of ranks are told apart by similarity
    blocks = np.array_split(orders, max(1, orders.size // 2_000_000))
    null = np.concatenate([score[rows, order].sum(1) for order in blocks])
    return {"top1": share, "top1_low": low, "top1_high": high, "chance": 1 / n,
            "mean_rank": observed.mean(),
            "identification_p": float(p_value(score.diagonal().sum(), null))}


# --- Second order -------------------------------------------------------------------------------

def _second_order(reading: Reading, chance: Chance) -> dict[str, float]:
    """Correlations between dissimilarity matrices, and debiased CKA.

    Values, intervals and permutation p-values, for the summary.
    """
    n, cell = len(reading.references), {}
    everywhere = chance.orders(np.zeros(n, dtype=np.int64))
    within = None if reading.labels is None else chance.orders(reading.labels[:n].astype(np.int64))
    for measure, a, b in _geometries(reading):
        if n < (4 if measure == "cka" else 3):
            cell |= {measure: np.nan, **_ends(measure, (np.nan, np.nan)),
                     f"{measure}_p": 1.0, f"{measure}_p_within": 1.0}
            continue
        value = np.einsum("ij,ij->", a, b, dtype=np.float64) / 2
        permuted = everywhere.products(a, b)
        resampled = _resampled(a, b, chance.weights(n), measure != "cka")
        cell |= {
            measure: value, **_ends(measure, chance.quantiles(resampled)),
            f"{measure}_p": float(p_value(value, permuted)),
            f"{measure}_p_within":
                float(p_value(value, within.products(a, b))) if within else np.nan}
        if measure == "cka":
            cell["cka_score"] = (value - permuted.mean()) / (1 - permuted.mean())
        del a, b  # before the next ones are made
    return cell


def _geometries(reading: Reading) -> Iterator[tuple[Any, ...]]:
    """Yield each measure of `SECOND_ORDER` with the matrices (n, n) of references and metamers.

    They are scaled to unit length, so that products over pairs add up to the similarity of both.
    """
    both = reading.references, reading.metamers
    for distance in ("correlation", "euclidean"):
        pairs = [_above(metrics.rdm(x, distance)) for x in both]
        for correlation in ("pearson", "spearman"):
            yield f"{distance}_{correlation}", *(_symmetric(x, len(both[0])) for x in [
                metrics.standardise(metrics.ranks(x) if correlation == "spearman" else x)
                for x in pairs])
        del pairs
    few = len(both[0]) < 4
    yield "cka", *(None if few else _unit(metrics.u_centred(x @ x.T).numpy()) for x in both)


def _above(matrix: Tensor) -> Tensor:
    """The entries (n (n - 1) / 2,) above the diagonal, row by row."""
    mask = ~np.tri(len(matrix), dtype=bool)  # indices would be larger than the matrix
    return torch.from_numpy(matrix.numpy()[mask])


def _symmetric(above: Tensor, n: int) -> np.ndarray:
    """The matrix (n, n) with these entries above the diagonal and below, and zeros on it."""
    matrix, mask = np.zeros((n, n), dtype=above.numpy().dtype), ~np.tri(n, dtype=bool)
    matrix[mask] = matrix.T[mask] = above.numpy()
    return matrix


def _unit(matrix: np.ndarray) -> np.ndarray:
    squares = np.einsum("ij,ij->", matrix, matrix, dtype=np.float64)
    length = float(np.sqrt(squares / 2))  # a plain number keeps the precision
    return matrix / (length if length > 0 else 1)


def _resampled(a: np.ndarray, b: np.ndarray, weights: np.ndarray, centre: bool) -> np.ndarray:
    """Similarities (resamples,) of two geometries over samples of stimuli with replacement.

    Pairs of a stimulus with itself are left out.

    Args:
        a, b: matrices (n, n).
        weights: (resamples, n), how often each stimulus is in a sample.
        centre: whether to take the mean over pairs out, as in a correlation.
    """
    sums = np.zeros((6, len(weights)))
    for rows in row_blocks(len(a)):
        x, y = a[rows], b[rows]
        off = np.ones_like(x)
        off[np.arange(len(x)), np.arange(len(a))[rows]] = 0
        for k, values in enumerate((off, x, y, x * y, x * x, y * y)):
            both = weights @ values.T.astype(float)
            sums[k] += np.einsum("bi,bi->b", weights[:, rows], both)
    count, x, y, xy, xx, yy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        if centre:
            xy, xx, yy = xy - x * y / count, xx - x * x / count, yy - y * y / count
        return xy / np.sqrt(xx * yy)
