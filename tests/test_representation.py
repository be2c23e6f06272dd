"""The representation test: parity, rejection rates, degenerate input, cache, recordings."""

import warnings

import numpy as np
import pandas as pd
import pytest
import rsatoolbox
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metalib import Responses, metrics, representation_test, tasks
from metalib.evaluation import controls, level, permutations
from metalib.evaluation.corrections import corrected
from metalib.evaluation.intervals import mean_interval, share_interval
from metalib.evaluation.observers import noise_ceiling
from metalib.evaluation.representation import SECOND_ORDER, verdict

pytestmark = pytest.mark.filterwarnings("ignore:q_value|primary_p")  # test_corrections
QUICK = {"permutations": 199, "resamples": 2, "cache": False}
BOTH = ["random", "same-class"]


@pytest.fixture(scope="module", autouse=True)
def no_collection():
    """Switch off `gc.collect`, which statsmodels calls in each Holm correction.

    A call takes half a second where much is loaded.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)
        yield


def responses(seed=0, n=12, units=40, similarity=0.5, **attributes):
    """References with an offset, and metamers like them, at the stage "a" of an observer "unit"."""
    random = np.random.default_rng(seed)
    references = 3 + random.standard_normal((n, units))
    metamers = similarity * references + random.standard_normal((n, units))
    return Responses("unit", {"a": references}, {"a": metamers}, **attributes)


def by_null(table):
    return {null: rows.reset_index(drop=True) for null, rows in table.groupby("null", sort=False)}


# --- Parity -------------------------------------------------------------------------------------

@pytest.mark.parametrize("units", [5, 3000])
def test_dissimilarities_equal_rsatoolbox(units):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((15, units)) * 3 + 2)
    data = rsatoolbox.data.Dataset(x.numpy())
    pairs = np.triu_indices(15, 1)
    ours = metrics.rdm(x, "correlation")
    np.testing.assert_allclose(
        ours[pairs], rsatoolbox.rdm.calc_rdm(data, method="correlation").dissimilarities[0],
        atol=1e-6)
    ours = metrics.rdm(x, "euclidean")
    squared_per_unit = rsatoolbox.rdm.calc_rdm(data, method="euclidean").dissimilarities[0]
    np.testing.assert_allclose(ours[pairs] ** 2 / units, squared_per_unit, atol=1e-6)
    torch.testing.assert_close(ours, ours.T)
    assert not ours.diagonal().any()


@pytest.mark.parametrize("distance", ["correlation", "euclidean"])
@pytest.mark.parametrize("correlation, peer", [("pearson", "corr"), ("spearman", "spearman")])
def test_second_order_equals_rsatoolbox(distance, correlation, peer):
    observer = responses()
    centre = observer.references["a"].mean(0)
    matrices = []
    for activations in (observer.references["a"], observer.metamers["a"]):
        matrix = rsatoolbox.rdm.calc_rdm(
            rsatoolbox.data.Dataset(activations - centre), method=distance)
        if distance == "euclidean":  # theirs are squared
            matrix = rsatoolbox.rdm.RDMs(np.sqrt(matrix.dissimilarities))
        matrices.append(matrix)
    expected = rsatoolbox.rdm.compare(*matrices, method=peer).item()
    summary = representation_test(observer, None, None, nulls="random", **QUICK).summary()
    assert summary.loc[0, f"{distance}_{correlation}"] == pytest.approx(expected, abs=1e-6)


def hsic_1(k, l):  # noqa: E741
    """HSIC_1 of Song et al. 2012, term by term in float64."""
    n, one = len(k), np.ones(len(k))
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    return (np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3))


@pytest.mark.parametrize("n, units", [(4, 3), (10, 2000), (50, 7)])
def test_debiased_cka_equals_its_formula(n, units):
    x, y = np.random.default_rng(1).standard_normal((2, n, units)) + 1
    y = y + 0.3 * x
    k, l = x @ x.T, y @ y.T  # noqa: E741
    expected = hsic_1(k, l) / np.sqrt(hsic_1(k, k) * hsic_1(l, l))
    assert metrics.debiased_cka(torch.from_numpy(x), torch.from_numpy(y)).item() == pytest.approx(
        expected, abs=1e-9)
    assert metrics.debiased_cka(
        torch.from_numpy(x), torch.from_numpy(2 * x)).item() == pytest.approx(1)
    table = representation_test(
        Responses("unit", {"a": x}, {"a": y}), None, None, nulls="random", **QUICK)
    assert table.summary().loc[0, "cka"] == pytest.approx(expected, abs=1e-6)


def test_uncorrected_cka_equals_rsatoolbox():
    x, y = torch.randn(2, 12, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices = [rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(z.numpy()), method="euclidean")
                for z in (x, y)]
    assert metrics.cka(x, y).item() == pytest.approx(
        rsatoolbox.rdm.compare(*matrices, method="cosine_cov").item(), abs=1e-6)


def test_first_order_equals_scipy():
    observer = responses()
    table = representation_test(observer, None, None, nulls="random", **QUICK)
    x, y = (activations["a"] - observer.references["a"].mean(0)
            for activations in (observer.references, observer.metamers))
    np.testing.assert_allclose(
        table["similarity"], [stats.pearsonr(a, b).statistic for a, b in zip(x, y)], atol=1e-6)
    np.testing.assert_allclose(
        table["spearman"], [stats.spearmanr(a, b).statistic for a, b in zip(x, y)], atol=1e-6)
    others = [[stats.pearsonr(y[i], x[j]).statistic for j in range(12) if j != i]
              for i in range(12)]
    at_least = (np.array(others) >= table["similarity"].to_numpy()[:, None]).sum(1)
    np.testing.assert_allclose(table["p_value"], (at_least + 1) / 12)
    np.testing.assert_allclose(table["auc"], 1 - at_least / 11)
    np.testing.assert_allclose(table["null_similarity"], np.mean(others, 1), atol=1e-6)
    assert table["rank"].tolist() == (at_least + 1).tolist()
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["p_value"]))


def test_group_p_values_equal_scipys_exact_permutation_tests():
    observer = responses(seed=3, n=6, similarity=0.15)
    rows = {"permutations": 20_000, "resamples": 2}
    summary = representation_test(observer, None, None, nulls="random", **rows).summary()
    x, y = (metrics.standardise(torch.from_numpy(
        activations["a"] - observer.references["a"].mean(0)))
            for activations in (observer.references, observer.metamers))
    similarity = (y @ x.T).numpy()

    def mean_similarity(order):
        return similarity[np.arange(6), order.astype(int)].sum()

    def matrix_correlation(order):
        a, b = (metrics.rdm(z, "correlation").numpy() for z in (x, y))
        order, pairs = order.astype(int), np.triu_indices(6, 1)
        return stats.pearsonr(a[pairs], b[order][:, order][pairs]).statistic

    for statistic, name in ((mean_similarity, "random_p"),
                            (matrix_correlation, "correlation_pearson_p")):
        exact = stats.permutation_test(
            [np.arange(6)], statistic, permutation_type="pairings", alternative="greater",
            n_resamples=np.inf).pvalue
        assert 0.01 < exact < 0.99 and summary.loc[0, name] == pytest.approx(exact, abs=0.012)


# --- Rejection rates ----------------------------------------------------------------------------

def rejected(experiments, **options):
    """The share of experiments in which each p-value of the test is at most 5 %."""
    table = level.rejected(experiments, seed=100, **options).dropna(subset="rejected")
    return (table.set_index("test")["rejected"] / experiments).drop(level.NAIVE)


def outside(rates, experiments):
    low, high = stats.binom.interval(0.99, experiments, 0.05)
    return rates[(rates < low / experiments) | (rates > high / experiments)]


def test_every_p_value_rejects_at_its_level_without_an_effect():
    """Ten images of 200 units.

    The metamers share nothing with their references, but much with each other.
    """
    rates = rejected(600, n=10, units=200, natural=30, draws=19)
    assert len(rates) == 17 and outside(rates, 600).empty


def test_within_classes_nothing_is_found_where_only_the_class_is_shared():
    rates = rejected(500, n=10, units=100, natural=30, draws=19, of_class=True)
    within = rates[[name for name in rates.index if "class" in name or "within" in name]]
    assert len(within) == 7 and outside(within, 500).empty
    # tests that look across classes find the shared class
    assert rates["random_p"] > 0.2 and rates["cka_p"] > 0.2


def test_a_planted_effect_is_found():
    rates = rejected(100, n=20, units=200, natural=20, draws=19, similarity=0.8)
    assert len(rates) == 17 and rates.min() >= 0.9, rates


def test_uncorrected_measures_fail_where_the_test_does_not():
    """The reason for debiasing, and for permuting images.

    Uncorrected CKA of unrelated activations is near 1 with few images and many units, and naive RSA
    finds that one image has more contrast than another.
    """
    table = level.rejected(40, n=10, units=3000, natural=5, draws=1).set_index("test")
    assert table.loc[level.UNCORRECTED, "mean"] > 0.5
    assert abs(table.loc[level.DEBIASED, "mean"]) < 0.1
    naive = level.rejected(100, n=20, units=100, natural=5, draws=1).set_index("test")
    assert naive.loc[level.NAIVE, "rejected"] > 15


def test_the_task_holds_images_and_stages_of_one_test():
    table = tasks.representation(
        "zoo/vgg-standard-0", "group3", "zoo/vgg-robust-0", n_images=12, references=8, steps=3,
        draws=2, permutations=9)
    images, stages = (table[table["part"] == part] for part in ("image", "stage"))
    assert len(images) == 6 * 5 * 8 and len(stages) == 6 and (stages["null"] == "").all()
    assert stages["recognised"].isna().all() and images["top1"].isna().all()
    wanted = images[images["null"] == "same-class"].groupby("stage", sort=False)["auc"].mean()
    assert stages["same-class_auc"].to_numpy() == pytest.approx(wanted.to_numpy(), nan_ok=True)
    assert not table.duplicated(["observer", "stage", "part", "null", "image"]).any()


# --- Rules for degenerate input -----------------------------------------------------------------

@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("which", ["references", "metamers", "both"])
def test_constant_activations_are_similar_to_nothing(value, which):
    observer = responses(perturbed={"a": np.full((12, 5, 40), value)},
                         copies={"a": np.full((12, 1, 40), value)})
    for activations in (observer.references, observer.metamers):
        if which == "both" or activations is getattr(observer, which):
            activations["a"][:] = value
    table = representation_test(observer, None, None, labels=np.arange(12) % 2, **QUICK)
    summary = table.summary()
    tested = [name for name in summary
              if name.endswith(("_p", "_p_within")) and "distance" not in name]
    if which != "metamers":  # to nothing evoked, similarity is not defined
        assert table.drop(columns=["observer", "stage", "image", "null"]).isna().all(axis=None)
        assert summary.drop(columns=["observer", "stage", "images"]).isna().all(axis=None)
        assert summary["images"].item() == 0
        return
    assert ((table["similarity"] == 0).all()
            and (table.loc[table["null"] != "distance", "p_value"] == 1).all())
    assert (summary[tested] == 1).all(axis=None), summary[tested].T
    assert (summary[list(SECOND_ORDER)] == 0).all(axis=None) and summary["top1"].item() == 0


def test_duplicates_count_against_the_metamer():
    observer = responses(similarity=5)
    for activations in (observer.references, observer.metamers):
        activations["a"][1] = activations["a"][0]
    table = representation_test(observer, None, None, nulls="random", **QUICK)
    assert table["rank"].tolist() == [2, 2] + [1] * 10
    np.testing.assert_allclose(table["p_value"], np.array([2, 2] + [1] * 10) / 12)
    assert table["auc"].tolist() == pytest.approx([1 - 0.5 / 11] * 2 + [1] * 10)  # half a tie each


def test_copies_of_references_are_no_natural_images_of_their_own(small, samples):
    natural = samples.images.repeat(2, 1, 1, 1)
    natural[20:] = (natural[20:] + 0.02).clamp(0, 1)
    table = representation_test(small, samples, samples.images.flip(-1), nulls="random",
                                natural=natural, stages=["2"], **QUICK)
    assert (table["draws"] == 19).all()


def test_a_single_class_is_no_restriction_and_a_class_of_one_has_no_null():
    one = by_null(representation_test(
        responses(), None, None, labels=np.zeros(12), nulls=BOTH, **QUICK))
    pd.testing.assert_frame_equal(one["random"].drop(columns="null"),
                                  one["same-class"].drop(columns="null"))
    table = representation_test(
        responses(), None, None, labels=np.arange(12), nulls="same-class", **QUICK)
    assert ((table["draws"] == 0).all() and (table["p_value"] == 1).all()
            and table["auc"].isna().all())
    assert (table.summary().loc[0, "same-class_p"]
            == table.summary().loc[0, "cka_p_within"] == 1)


@pytest.mark.parametrize("n", [2, 3])
def test_few_images_have_no_second_order(n):
    summary = representation_test(
        responses(n=n), None, None, labels=np.zeros(n), nulls=BOTH, **QUICK).summary()
    undefined = SECOND_ORDER if n == 2 else ("cka",)
    assert summary[list(undefined)].isna().all(axis=None)
    assert (summary[[f"{name}_p" for name in undefined]] == 1).all(axis=None)
    assert np.isfinite(summary["similarity"]).all() and summary["random_p"].between(0, 1).all()


def test_a_metamer_that_is_its_reference_is_no_better_than_a_perturbation(small, samples):
    table = representation_test(small, samples[:3], samples.images[:3], stages=["2", "5"],
                                nulls=["distance", "noise"], **QUICK)
    assert (table["p_value"] == 1).all() and table["similarity"].to_numpy() == pytest.approx(1)


@pytest.mark.parametrize("change, message", [
    (lambda x: x.references["a"].__setitem__((0, 0), np.nan),
     "unit, a: some activations are not finite"),
    (lambda x: x.metamers["a"].__setitem__((0, 0), np.inf),
     "unit, a: some activations are not finite"),
    (lambda x: x.metamers.__setitem__("a", x.metamers["a"][:, :5]), "must be .n, D. alike"),
    (lambda x: [held.__setitem__("a", held["a"][:1]) for held in (x.references, x.metamers)],
     "at least two references")])
def test_responses_that_cannot_be_used_are_refused(change, message):
    observer = responses()
    change(observer)
    with pytest.raises(ValueError, match=message):
        representation_test(observer, None, None, nulls="random", **QUICK)


@pytest.mark.parametrize("perturbed, labels, left, said", [
    (True, [0, 1] * 6, ["random", "same-class", "distance"], []),
    (True, None, ["random", "distance"], ["same-class"]),
    (True, [0, -1] * 6, ["random", "distance"], ["same-class"]),
    (False, [0, 1] * 6, ["random", "same-class"], ["distance"]),
    (False, None, ["random"], ["same-class", "distance"])])
def test_the_default_nulls_are_those_that_can_be_computed(perturbed, labels, left, said):
    extra = {"perturbed": {"a": np.random.default_rng(1).standard_normal((12, 4, 40))}}
    observer = responses(**extra if perturbed else {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = representation_test(observer, None, None, labels=labels, correction=None, **QUICK)
    assert list(by_null(table)) == left
    assert [warning.filename for warning in caught] == [__file__] * len(said)
    for warning, null in zip(caught, said):
        assert f"{null!r} is left out" in str(warning.message)


@pytest.mark.parametrize("options, message", [
    ({"nulls": "distance"}, "pass Responses.perturbed"),
    ({"nulls": "same-class"}, "labels="),
    ({"nulls": "chance"}, "random"),
    ({"nulls": []}, "choose from"),
    ({"nulls": "random", "stages": ["b"]}, "its stages are a"),
    ({"nulls": BOTH, "labels": [1, 2]}, "12 natural images, but 2 labels")])
def test_calls_that_cannot_be_answered_say_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        representation_test(responses(), None, None, **options, **QUICK)


def test_images_that_cannot_be_used_are_refused(small, samples):
    with pytest.raises(ValueError, match="differ in shape"):
        representation_test(small, samples, samples.images[:5], **QUICK)
    with pytest.raises(ValueError, match="pass references and metamers"):
        representation_test(small, None, None, nulls="random", **QUICK)
    with pytest.raises(ValueError, match="same size"):
        representation_test(
            small, samples, samples.images, natural=torch.rand(3, 3, 16, 16), **QUICK)
    with pytest.raises(ValueError, match="name of its own"):
        representation_test([small, small], samples, samples.images, **QUICK)


# --- Models, recordings, cache ------------------------------------------------------------------

@pytest.fixture(scope="module")
def noisy(samples):
    noise = 0.2 * torch.randn(samples.images.shape, generator=torch.Generator().manual_seed(0))
    return (samples.images + noise).clamp(0, 1)


def test_the_table_is_tidy(small, samples, noisy):
    table = representation_test(small, samples, noisy, draws=4, **QUICK)
    assert list(table.columns[:7]) == [
        "observer", "stage", "image", "null", "similarity", "p_value", "q_value"]
    keys = ["observer", "stage", "image", "null"]
    assert (len(table) == 5 * 20 * 3 and not table.duplicated(keys).any()
            and not table.drop(columns="auc").isna().any(axis=None))
    assert list(table.summary()["stage"]) == list(small.stages)
    assert type(table[table["null"] == "random"]) is pd.DataFrame
    family = table[table["null"] == "distance"]  # images and stages of one observer
    np.testing.assert_allclose(
        family["q_value"], stats.false_discovery_control(family["p_value"]))
    agree = small.answer(samples.images) == small.answer(rounded := (noisy * 255).round() / 255)
    assert (by_null(table)["random"]["recognised"][:20].tolist() == agree.tolist()
            and rounded.max() <= 1)


def test_recordings_give_what_the_model_gives(small, samples, noisy):
    stages, judged = ["2", "5"], (noisy * 255).round() / 255
    recorded = Responses(
        "recorded", {stage: small.activations(samples.images[:8], stage) for stage in stages},
        {stage: small.activations(judged[:8], stage) for stage in stages},
        {stage: small.activations(samples.images[8:], stage) for stage in stages},
        samples.labels[8:])
    ours = representation_test([small, recorded], samples[:8], noisy[:8], stages=stages,
                               nulls=BOTH, natural=samples, **QUICK)
    model, recording = (rows.drop(columns=["observer", "ceiling", "recognised"])
                        .reset_index(drop=True)
                        for _, rows in ours.groupby("observer", sort=False))
    pd.testing.assert_frame_equal(model, recording, atol=1e-5, check_dtype=False)
    cells = ours.summary().set_index("observer")[["random_p", "identification_p", "cka_p"]]
    np.testing.assert_allclose(cells.loc["small"], cells.loc["recorded"])


# --- Trials -------------------------------------------------------------------------------------

def trials(k, others, noise, n=60, units=300, seed=0):
    """Responses of a unit with a signal of variance 1 and noise of a variance, and the signal."""
    random = np.random.default_rng(seed)
    signal = random.standard_normal((n, units))
    references, metamers = (
        signal[:, None] + noise ** 0.5 * random.standard_normal((n, count, units))
        for count in (k, others))
    return Responses("unit", {"a": references}, {"a": metamers}), signal


@pytest.mark.parametrize("k, others, noise", [(2, 2, 1.0), (4, 4, 3.0), (8, 2, 4.0), (6, 1, 1.0)])
def test_the_ceiling_of_trials_is_what_signal_and_noise_let_expect(k, others, noise):
    observer, _ = trials(k, others, noise)
    summary = representation_test(observer, None, None, nulls="random", **QUICK).summary()
    expected = ((1 + noise / k) * (1 + noise / others)) ** -0.5
    assert summary.loc[0, "ceiling"] == pytest.approx(expected, rel=0.03)
    # these metamers evoke what their references evoke: they keep all
    assert summary.loc[0, "similarity"] == pytest.approx(summary.loc[0, "ceiling"], abs=0.02)
    assert summary.loc[0, "random_kept"] == pytest.approx(1, abs=0.05)


def test_the_ceiling_of_two_trials_is_the_split_half_and_of_more_cronbachs_alpha():
    x = torch.randn(5, 4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x += torch.randn(5, 1, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    centred = (x - x.mean(0)).numpy()
    half = np.array([stats.pearsonr(*image[:2]).statistic for image in centred]).clip(0)
    np.testing.assert_allclose(noise_ceiling(x[:, :2], x[:, :2].mean((0, 1)), 5),
                               2 * half / (1 + half), atol=1e-9)
    z = stats.zscore(centred, axis=2)  # alpha of standardised items, from its own formula
    alpha = 4 / 3 * (1 - z.var(2).sum(1) / z.sum(1).var(1))
    np.testing.assert_allclose(noise_ceiling(x, x.mean((0, 1)), 5), alpha.clip(0, 1))


@pytest.mark.parametrize("n, k, noise", [(6, 2, 1.0), (40, 3, 2.0), (40, 5, 4.0)])
def test_the_reliability_of_trials_is_unbiased(n, k, noise):
    """Also of few images, whose centre has much of their noise."""
    found = []
    for seed in range(20):
        x = torch.from_numpy(trials(k, 1, noise, n, seed=seed)[0].references["a"])
        found.append(noise_ceiling(x, x.mean((0, 1)), n).mean())
    assert np.mean(found) == pytest.approx(1 / (1 + noise / k), abs=0.02)


@pytest.mark.parametrize("name", ["references", "metamers", "natural", "perturbed"])
def test_trials_are_tested_by_their_averages_and_missing_ones_are_nan(name):
    random = np.random.default_rng(0)
    shape = (12, 5, 3, 40) if name == "perturbed" else (12, 3, 40)
    several = random.standard_normal(shape)
    several[1, ..., 2, :] = several[4, ..., 1:, :] = np.nan
    averages, counts = np.nanmean(several, -2), (~np.isnan(several[..., 0])).sum(-1)
    assert counts.min() == 1
    options = {"perturbed": {"a": random.standard_normal((12, 5, 40))},
               "natural": {"a": random.standard_normal((6, 40))}}
    tables = []
    for values in (several, averages):
        parts = {"references": responses().references, "metamers": responses().metamers, **options}
        parts[name] = {"a": values}
        tables.append(representation_test(
            Responses("unit", **parts), None, None, nulls=["random", "distance"], **QUICK))
    pd.testing.assert_frame_equal(*(table.drop(columns="ceiling") for table in tables))
    assert tables[1]["ceiling"].isna().all()
    assert tables[0]["ceiling"].notna().all() == (name == "references")


def test_a_single_trial_has_no_ceiling_and_copies_are_one_before_trials():
    observer = responses()
    single = {"a": observer.references["a"][:, None]}
    plain = representation_test(observer, None, None, nulls="random", **QUICK)
    one = representation_test(Responses("unit", single, observer.metamers), None, None,
                              nulls="random", **QUICK)
    pd.testing.assert_frame_equal(plain, one)
    assert one["ceiling"].isna().all()
    several, _ = trials(3, 3, 1.0, n=12, units=40)
    given = Responses("unit", several.references, several.metamers,
                      copies={"a": several.references["a"].mean(1)[:, None]})
    copied = representation_test(given, None, None, nulls="random", **QUICK)
    np.testing.assert_allclose(copied["ceiling"], 1, atol=1e-6)


@pytest.mark.parametrize("change, message", [
    ({"metamers": {"a": np.zeros((11, 40))}}, "they are of 12 and 11 images"),
    ({"metamers": {"a": np.zeros((12, 41))}}, "of 40 and 41 units"),
    ({"metamers": {"b": np.zeros((12, 40))}}, "have the stages a, but metamers b"),
    ({"natural": {"b": np.zeros((12, 40))}}, "unit, a: natural have no such stage, but b"),
    ({"natural": {"a": np.zeros((9, 41))}}, "alike in D"),
    ({"perturbed": {"a": np.zeros((12, 40))}}, "perturbed must be .n, m, D."),
    ({"copies": {"a": np.zeros((12, 2, 3, 40))}}, "copies must be .n, m, D."),
    ({"copies": {"a": np.zeros((11, 2, 40))}}, "of 12 and 11 images"),
    ({"references": {"a": np.zeros(12)}}, "references must be .n, D., or with trials"),
    ({"references": {"a": np.zeros((12, 0))}}, "not be empty"),
    ({"references": {"a": np.full((12, 2, 40), np.nan)}}, "no trial of image 0"),
    ({"references": {"a": np.where(np.eye(12, 80).reshape(12, 2, 40), np.nan, 1)}}, "not finite"),
    ({"references": {"a": [["x"] * 40] * 12}}, "no array of numbers"),
    ({"references": {"a": np.ones((12, 40), dtype=complex)}}, "complex"),
    ({"references": np.zeros((12, 40))}, "dict from names of stages to arrays, .* not ndarray"),
    ({"metamers": None}, "not NoneType")])
def test_wrong_responses_are_told_before_anything_is_tested(change, message):
    right = responses()
    with pytest.raises(ValueError, match=message):
        wrong = Responses(**{"name": "unit", "references": right.references,
                             "metamers": right.metamers} | change)
        # the first would fail only when it is tested
        first = Responses("first", {"a": np.ones((1, 4))}, {"a": np.ones((1, 4))})
        representation_test([first, wrong], None, None, nulls="random", **QUICK)


def test_perturbations_lie_at_the_distance_of_the_metamer(samples, noisy):
    perturbed = controls.perturbations(
        samples.images, noisy, samples.images, draws=6, seed=0)
    assert (perturbed.dtype == torch.uint8
            and len(perturbed.flatten(2).unique(dim=1)[0]) == 6)  # no two alike
    distance = metrics.rms_distance(samples.images, noisy)
    for draw in (perturbed.float() / 255).unbind(1):
        np.testing.assert_allclose(metrics.rms_distance(samples.images, draw), distance, atol=2e-3)
    alone = controls.perturbations(
        samples.images[3:4], noisy[3:4], samples.images, draws=2, seed=0)
    assert torch.equal(alone[0], perturbed[3, :2])  # whatever else is in the batch


def test_a_blend_is_as_far_as_its_distractor_allows(samples):
    distances = torch.cdist(
        samples.images[:1].flatten(1), samples.images.flatten(1))[0] / 3072 ** 0.5
    generator = torch.Generator().manual_seed(0)
    nearest = distances[1:].min() + 1e-4
    chosen = [controls._distractor(samples.images, distances, nearest + 0.05, generator)
              for _ in range(20)]
    assert all((image - samples.images[0]).abs().max() > 0.1 for image in chosen)
    assert len({image.sum().item() for image in chosen}) > 10  # mirrored and shifted at random


class Counter:
    """Counts the images that go through a model."""

    def __init__(self, model):
        self.images = 0
        model.module.register_forward_pre_hook(
            lambda _module, inputs: self.add(len(inputs[0])))

    def add(self, count):
        self.images += count


def test_natural_images_are_read_once_and_damage_is_mended(small, samples, noisy, tmp_path):
    options = {"nulls": "random", "natural": samples, "stages": ["1", "2"],
               "permutations": 99, "resamples": 2, "cache": tmp_path}
    counter = Counter(small)
    first = representation_test(small, samples[:4], noisy[:4], **options)
    cold, counter.images = counter.images, 0
    files = sorted(tmp_path.iterdir())
    # one for each stage, nothing half written
    assert len(files) == 2 and all(path.suffix == ".safetensors" for path in files)
    pd.testing.assert_frame_equal(
        representation_test(small, samples[:4], noisy[:4], **options), first)
    assert counter.images == cold - 20
    intact = files[0].read_bytes()
    for damaged in (intact[:100], intact[:-40] + b"\x01" + intact[-39:], b"", intact[:9]):
        files[0].write_bytes(damaged)
        with pytest.warns(RuntimeWarning, match="damaged or foreign.*computed anew"):
            again = representation_test(small, samples[:4], noisy[:4], **options)
        pd.testing.assert_frame_equal(again, first)
        assert files[0].with_name(f"{files[0].name}.damaged").read_bytes() == damaged
        mended, tensors = (safetensors.torch.load(content)["activations"]
                           for content in (files[0].read_bytes(), intact))
        assert torch.equal(mended, tensors)
        counter.images = 0
        pd.testing.assert_frame_equal(
            representation_test(small, samples[:4], noisy[:4], **options), first)
        assert counter.images == cold - 20  # the mended file is read
    small.module[0].weight.mul_(2)  # other weights are another model
    changed = representation_test(small, samples[:4], noisy[:4], **options)
    assert (len(list(tmp_path.glob("*.safetensors"))) == 4
            and not np.allclose(changed["similarity"], first["similarity"]))


def test_a_cache_that_cannot_be_written_is_no_obstacle(small, samples, noisy, tmp_path):
    (tmp_path / "file").write_text("")
    table = representation_test(small, samples, noisy, nulls="random", stages=["1"],
                                permutations=9, resamples=2, cache=tmp_path / "file" / "folder")
    assert len(table) == 20


def test_references_that_are_their_own_metamers_are_identified(small, samples):
    cell = representation_test(small, samples, samples.images, nulls="random", stages=["2"],
                               **QUICK).summary().loc[0]
    assert (cell["top1"] == cell["mean_rank"] == 1 and cell["chance"] == 1 / 20
            and cell["identification_p"] == 1 / 200)
    assert (cell[list(SECOND_ORDER)].tolist() == pytest.approx([1] * 5)
            and cell["cka_score"] == pytest.approx(1))
    assert cell["natural_95"] < cell["ceiling"] < 1


# --- Invariants ---------------------------------------------------------------------------------

@settings(deadline=None, max_examples=8)
@given(st.floats(0.01, 100), st.floats(-10, 10), st.integers(0, 10_000))
def test_scale_and_offset_of_activations_do_not_matter(scale, offset, seed):
    observer = responses(seed)
    both = observer.references, observer.metamers
    moved = Responses("unit", *(
        {"a": scale * activations["a"] + offset * np.arange(40)} for activations in both))
    ours, theirs = (representation_test(x, None, None, nulls="random", **QUICK)
                    for x in (observer, moved))
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-6)
    pd.testing.assert_frame_equal(ours.summary(), theirs.summary(), atol=1e-6)


@settings(deadline=None, max_examples=8)
@given(st.permutations(range(12)), st.integers(0, 10_000))
def test_the_order_of_images_does_not_matter(order, seed):
    observer = responses(seed)
    shuffled = Responses("unit", *(
        {"a": activations["a"][order]}
        for activations in (observer.references, observer.metamers)))
    labels = np.arange(12) % 3
    ours = by_null(representation_test(observer, None, None, labels=labels, nulls=BOTH, **QUICK))
    theirs = by_null(representation_test(
        shuffled, None, None, labels=labels[order], nulls=BOTH, **QUICK))
    for null in BOTH:
        columns = ["similarity", "p_value", "auc", "rank", "spearman"]
        np.testing.assert_allclose(
            ours[null].loc[order, columns], theirs[null][columns], atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 8), st.integers(2, 9), st.integers(0, 10_000))
def test_stand_ins_stay_in_their_class_and_are_all_different(n, classes, seed):
    strata = np.random.default_rng(seed).integers(classes, size=n + 10)
    chosen = permutations.stand_ins(strata, n, 50, seed)
    assert ((strata[chosen] == strata[:n]).all()
            and all(len(set(row)) == n for row in chosen.tolist()))


def test_many_stimuli_are_permuted_block_by_block_with_the_same_result():
    random = np.random.default_rng(0)
    a, b = (matrix + matrix.T for matrix in random.standard_normal((2, 700, 700)))
    for matrix in (a, b):
        np.fill_diagonal(matrix, 0)
    orders = permutations.Orders(
        np.array([random.permutation(700) for _ in range(3)], dtype=np.int32))
    at_once, orders.flat = orders.products(a, b), None
    np.testing.assert_allclose(orders.products(a, b), at_once, atol=1e-6)


def test_every_stand_in_is_equally_likely():
    chosen = permutations.stand_ins(np.array([0, 1, 0, 0, 1]), 2, 6000, 0)
    for place, members in ((0, [0, 2, 3]), (1, [1, 4])):
        assert stats.chisquare(
            [(chosen[:, place] == member).sum() for member in members]).pvalue > 1e-3


# --- Verdict ------------------------------------------------------------------------------------

def test_the_verdict_counts_what_is_significant():
    table = pd.DataFrame({
        "observer": np.repeat(["a", "b"], 4), "stage": "s", "image": [0, 1, 2, 3] * 2,
        "null": "random", "q_value": [0.01, 0.05, 0.06, 1, 0.01, 1, 1, 1],
        "auc": [1, 1, 0.5, 0, 1, 0.5, 0.5, 0.5]})
    row = verdict(table).loc[0]
    assert (row["observers"], row["images"], row["share"], row["auc"]) == (2, 4, 3 / 8, 5 / 8)
    assert 0 <= row["share_low"] < 3 / 8 < row["share_high"] <= 1


def test_agreement_of_all_is_read_with_the_number_of_the_rarer_factor():
    # Clopper and Pearson with 7 of 7
    assert share_interval(np.ones((7, 20)))[1] == pytest.approx(0.025 ** (1 / 7))
    assert share_interval(np.zeros((1, 20)))[2] == pytest.approx(1 - 0.025 ** (1 / 20))
    assert np.isnan(mean_interval(np.ones((1, 1)))[1])
    one_differs = np.ones((7, 20))
    one_differs[0, 0] = 0
    # not a sudden certainty
    assert share_interval(one_differs)[1] == pytest.approx(0.025 ** (1 / 7), abs=0.02)


def test_intervals_cover_over_images_and_observers():
    """A mean and a share over 7 observers and 20 images, each with an effect of its own.

    The nominal level is 95 %.
    """
    random, covered, share_covered = np.random.default_rng(0), [], []
    truth = stats.norm.cdf(0.5 / np.sqrt(3))
    for _ in range(1000):
        values = (0.5 + random.standard_normal((7, 1)) + random.standard_normal((1, 20))
                  + random.standard_normal((7, 20)))
        _, low, high = mean_interval(values)
        covered.append(low <= 0.5 <= high)
        _, low, high = share_interval(values > 0)
        share_covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.93 and np.mean(share_covered) >= 0.93, (
        np.mean(covered), np.mean(share_covered))


def test_old_keywords_work_and_say_what_to_write(small, samples, noisy):
    with pytest.warns(DeprecationWarning, match="bootstraps is called resamples now"):
        old = representation_test(small, samples, noisy, nulls="random", permutations=9,
                                  bootstraps=5, confidence=0.9, cache=False)
    new = representation_test(small, samples, noisy, nulls="random", permutations=9,
                              resamples=5, level=0.9, cache=False)
    pd.testing.assert_frame_equal(old.summary(), new.summary(), check_exact=True)


@pytest.mark.parametrize("method", ["holm", "fdr_bh", "fdr_by", "bonferroni"])
def test_corrections_are_those_of_statsmodels_and_pass_over_missing_values(method):
    from statsmodels.stats.multitest import multipletests
    random = np.random.default_rng(0)
    for count in (1, 2, 7, 60):
        p_values = random.random(count).round(2) ** 3  # with ties
        assert np.allclose(corrected(p_values, method), multipletests(p_values, method=method)[1])
        sparse = np.insert(p_values, count // 2, np.nan)
        found = corrected(sparse, method)
        assert np.isnan(found[count // 2])
        assert np.allclose(np.delete(found, count // 2), corrected(p_values, method))
    assert np.isnan(corrected([np.nan], method)).all()
    with pytest.raises(ValueError, match="method"):
        corrected([0.5], "nonsense")
