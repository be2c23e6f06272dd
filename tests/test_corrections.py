"""Corrections for multiple comparisons: what they can find, and the warnings of floors."""

import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from metalib import Responses, metrics, null_distribution, plots, representation_test
from metalib.evaluation import corrections, costs, kept, level, representation
from metalib.evaluation.corrections import is_switch, smallest_detectable, warn_of_floors
from metalib.evaluation.criterion import quantile
from metalib.evaluation.permutations import Chance, p_value
from metalib.evaluation.representation import verdict
from metalib.evaluation.simulated import simulated_responses

METHODS = ["fdr_bh", "fdr_by", "holm", "bonferroni", "sidak", "hommel", "simes-hochberg"]
FLOORS = st.floats(1e-4, 0.3)


@pytest.fixture(scope="module", autouse=True)
def no_collection():
    """Switch off `gc.collect`, which statsmodels calls each time, for up to half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)
        yield


# --- What can be found --------------------------------------------------------------------------

def by_brute_force(floors, method, alpha):
    """Try every number of tests, by statsmodels."""
    for count in range(1, len(floors) + 1):
        p_values = np.append(np.sort(floors)[:count], np.ones(len(floors) - count))
        with np.errstate(divide="ignore"):
            found = multipletests(p_values, alpha=alpha, method=method)[1].min()
        if found <= alpha:
            return count / len(floors)
    return math.inf


@settings(deadline=None, max_examples=60)
@given(st.lists(FLOORS, min_size=1, max_size=30), st.sampled_from(METHODS),
       st.sampled_from([0.01, 0.05, 0.2]))
def test_the_smallest_detectable_share_is_that_of_statsmodels(floors, method, alpha):
    assert smallest_detectable(floors, method, alpha) == by_brute_force(floors, method, alpha)


@settings(deadline=None, max_examples=60)
@given(st.lists(FLOORS, min_size=1, max_size=9), st.sampled_from(["fdr_bh", "fdr_by", "holm"]),
       st.data())
def test_no_other_tests_at_their_floors_are_found_with_fewer(floors, method, data):
    """The tests with the lowest floors are the best case; any others need as many at least."""
    share = smallest_detectable(floors, method)
    chosen = data.draw(st.lists(st.booleans(), min_size=len(floors), max_size=len(floors)))
    p_values = np.where(chosen, floors, 1.0)
    if multipletests(p_values, method=method)[1].min() <= 0.05:
        assert np.mean(chosen) >= share


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 400), st.integers(1, 2000), st.sampled_from([0.01, 0.05, 0.1]))
def test_of_equal_floors_there_are_closed_forms(n, draws, alpha):
    floor = 1 / (draws + 1)
    harmonic = sum(1 / i for i in range(1, n + 1))
    for method, factor in (("fdr_bh", 1), ("fdr_by", harmonic)):
        needed = factor * n * floor / alpha
        if abs(needed - round(needed)) < 1e-9 * n:
            continue  # rounding decides
        expected = math.ceil(needed) / n if needed <= n else math.inf
        assert smallest_detectable([floor] * n, method, alpha) == expected
    if abs(n * floor - alpha) > 1e-9:
        alone = 1 / n if n * floor <= alpha else math.inf
        assert {smallest_detectable([floor] * n, method, alpha)
                for method in ("holm", "bonferroni")} == {alone}


def test_missing_tests_do_not_count_and_wrong_floors_are_refused():
    assert smallest_detectable([0.01, np.nan] * 120) == smallest_detectable([0.01] * 120)
    assert math.isnan(smallest_detectable([np.nan])) and not is_switch([np.nan])
    for wrong in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            smallest_detectable([0.5, wrong])
    with pytest.raises(ValueError, match="method"):
        smallest_detectable([0.5], "nonsense")


@pytest.mark.parametrize("n, floor, method, decides", [
    (1, 0.05, "fdr_bh", False), (1, 0.06, "fdr_bh", True),  # a lone test
    (20, 0.05, "fdr_bh", True), (20, 0.0025, "fdr_bh", False), (20, 0.0026, "fdr_bh", True),
    (240, 0.0025, "fdr_bh", False), (240, 0.00255, "fdr_bh", True),  # one in twenty
    (10, 0.005, "holm", False), (11, 0.005, "holm", True)])
def test_floors_decide_where_neither_one_nor_one_in_twenty_is_found(n, floor, method, decides):
    assert is_switch([floor] * n, method) == decides
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_of_floors("q", {"some": [floor] * n, "fine": [1e-6]}, method, "Take more")
    assert len(told) == decides
    if decides:
        text = str(told[0].message)
        assert f"some: {n} test" in text and "Take more" in text and "fine:" not in text
        assert told[0].filename == __file__


# --- Guards -------------------------------------------------------------------------------------

def responses(n=10, natural=0, stages=1, similarity=0.9, name="unit", seed=0):
    random = np.random.default_rng(seed)
    rows = {str(stage): random.standard_normal((n + natural, 60)) for stage in range(stages)}
    made = {stage: similarity * x[:n] + 0.3 * random.standard_normal((n, 60))
            for stage, x in rows.items()}
    return Responses(name, {stage: x[:n] for stage, x in rows.items()}, made,
                     {stage: x[n:] for stage, x in rows.items()} if natural else None)


def told_of(observers, **options):
    """The table of a test of the null "random", and what it warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        table = representation_test(observers, None, None, nulls="random", resamples=1, **options)
    return table, [str(one.message).partition(",")[0] for one in told]


@pytest.mark.parametrize("natural, permutations, options, expected", [
    (0, 999, {}, ["q_value"]), (600, 999, {}, []), (600, 99, {}, ["primary_p"]),
    (600, 199, {}, []), (0, 99, {}, ["q_value", "primary_p"]), (0, 99, {"correction": None}, []),
    (600, 999, {"alpha": 0.001}, ["q_value", "primary_p"]),
    (600, 999, {"correction": "bonferroni"}, []), (400, 999, {"correction": "holm"}, ["q_value"])])
def test_a_representation_test_warns_where_floors_decide(natural, permutations, options, expected):
    """Two observers of three stages with ten images: 30 tests each, and six rows."""
    observers = [responses(10, natural, 3, name=name) for name in "ab"]
    table, told = told_of(observers, permutations=permutations, **options)
    assert told == expected
    summary, alpha = table.summary(), options.get("alpha", 0.05)
    if options.get("correction", "") is None:
        missing = ["random_significant", "random_detectable", "primary_p", "primary_detectable"]
        assert table[["q_value", "detectable"]].isna().all(axis=None)
        assert summary[missing].isna().all(axis=None)
        return
    method = options.get("correction", "fdr_bh")
    wanted = smallest_detectable([1 / (10 + natural)] * 30, method, alpha)
    assert set(table["detectable"]) == set(summary["random_detectable"]) == {wanted}
    shares = (table["q_value"] <= alpha).groupby([table["observer"], table["stage"]]).mean()
    assert summary["random_significant"].tolist() == shares.tolist()
    assert (summary["random_floor"] == 1 / (permutations + 1)).all()
    assert (summary["primary_detectable"] == smallest_detectable(
        [1 / (permutations + 1)] * 6, "holm", alpha)).all()


def test_the_verdict_shows_what_could_have_been_found():
    """In a selection, too, since a family is what was corrected together; not at another level."""
    table, _ = told_of([responses(10, natural, 2, name=name)
                       for name, natural in (("a", 90), ("b", 190))], permutations=199)
    for rows in (table, table[table["stage"] == "0"], table[table["image"] < 5]):
        assert verdict(rows)["detectable"].tolist() == [0.2] * rows["stage"].nunique()
    assert verdict(table[table["observer"] == "b"])["detectable"].tolist() == [0.1, 0.1]
    assert verdict(table, alpha=0.01)["detectable"].isna().all()


def test_a_switch_is_off_until_enough_tests_are_at_their_floor():
    """Of 240 tests with a floor of 1 / 104, 46 are not significant, and 47 are all at once."""
    p_values = np.ones(240)
    p_values[:46] = 1 / 104
    assert (corrections.corrected(p_values, "fdr_bh") <= 0.05).sum() == 0
    p_values[46] = 1 / 104
    assert (corrections.corrected(p_values, "fdr_bh") <= 0.05).sum() == 47
    assert smallest_detectable([1 / 104] * 240) == 47 / 240


@pytest.mark.parametrize("strata, n", [([0, 0, 0], 2), ([0, 1, 0, 1, 1], 3), ([0, 1, 2], 3)])
def test_a_floor_is_no_lower_than_different_stand_ins_allow(strata, n):
    strata = np.array(strata)
    chance = Chance(20_000, 1, 0.95, 0)
    different = np.unique(chance.stand_ins(strata, n), axis=0)
    assert chance.floor(strata, n) == pytest.approx(1 / len(different))
    assert Chance(1, 1, 0.95, 0).floor(strata, n) == max(0.5, chance.floor(strata, n))
    assert chance.floor_of_choices(2, 3) == pytest.approx(1 / 16)
    scores = np.random.default_rng(0).random(1 + strata.max() + len(strata))
    null = (different * scores[:n]).sum(1)  # the best of all is as good as that share of them
    assert p_value(null.max(), null) >= 1 / (len(null) + 1)


def test_the_primary_test_of_a_study_warns_of_few_permutations():
    rows = [{"generator": "g", "matched": "m", "observer": f"o{i}", "stage": stage, "part": "stage",
             "same-class_p": p} for i in range(10) for stage, p in (("a", 0.01), ("b", 0.5))]
    with pytest.warns(UserWarning, match="20 tests, p at least 0.01, none can be significant"):
        assert not kept.primary(pd.DataFrame(rows))["beyond"].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine = pd.DataFrame(rows).assign(**{"same-class_p": [0.0001, 0.5] * 10})
        assert kept.primary(fine)["beyond"].sum() == 10


def test_nulls_of_few_images_say_how_small_a_p_value_by_them_can_be(small, samples):
    with pytest.warns(UserWarning, match="20 images only.*no p-value by it is below 0.0026"):
        null = null_distribution(small, "2", samples)
    assert null.p_value("pearson", 2.0) == 1 / 381
    with pytest.warns(UserWarning, match="380 pairs has no quantile 0.999"):
        assert quantile(null, 0.999).thresholds["pearson"] <= null.maximum["pearson"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantile(null, 0.99)
        quantile(null, 1)  # the maximum is what is asked for


@pytest.mark.parametrize("images, expected", [(4, 1), (20, 0)])
def test_signed_ranks_of_few_images_warn(images, expected):
    rows = [{"model": "m", "stage": "s", "optimizer": rule, "image": image, "passed": True,
             "evaluations": (image + 2) * factor}
            for rule, factor in (("spectral_lbfgs", 1), ("slow", 3)) for image in range(images)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = costs.ratios(pd.DataFrame(rows), resamples=9)
    assert len(told) == expected and (found["p"] <= 0.05).all() == (not expected)


# --- False discoveries --------------------------------------------------------------------------

FAMILIES = {"families": 20, "stages": 2, "n": 20, "units": 50, "natural": 780}


def rates(**options):
    table = level.discoveries(**FAMILIES | options)
    return level.discovery_rates(table.assign(
        natural=0, shared=options.get("shared", 0), planted=options["planted"])).loc[0]


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_q_values_keep_their_rate_and_find_planted_effects(shared):
    some = rates(planted=0.2, shared=shared)
    assert some["fdr_low"] <= 0.05 and some["power"] > 0.8 and not some["announced"]
    none = rates(planted=0.0, shared=shared)
    assert none["fdr_low"] <= 0.05 and none["empty"] > 0.8 and math.isnan(none["power"])


@pytest.mark.parametrize("broken", [
    lambda p, method: np.asarray(p),  # none
    lambda p, method: np.minimum(np.asarray(p) * 2, 1),  # of two tests
    lambda p, method: corrections.corrected(p, method) / 10])
def test_a_broken_correction_would_be_seen(monkeypatch, broken):
    """The bound that q-values keep above is one that they could fail."""
    monkeypatch.setattr(representation, "corrected", broken)
    assert rates(planted=0.0, families=12)["fdr_low"] > 0.05


def test_with_a_coarse_floor_all_effects_are_found_or_none():
    """Of 40 tests with a floor of 1 / 100, eight have to be there; the guard says so."""
    few, many = (rates(planted=planted, natural=180, families=12) for planted in (0.15, 0.4))
    assert few["detectable"] == many["detectable"] == pytest.approx(0.2)
    assert few["announced"] == many["announced"] == 1
    assert few["power"] < 0.1 and few["empty"] > 0.9
    assert many["power"] > 0.9 and many["empty"] < 0.1
    worst = level.discovery(level.discoveries(**FAMILIES | {"families": 3}).assign(
        natural=780, shared=0.0, planted=0.0))
    assert worst["families"] == 3 and worst["settings"] == 1


def made_up_families():
    """Ten families each of a coarse null that finds nothing, and of a fine one that finds all."""
    rows = [{"natural": natural, "shared": shared, "planted": planted, "family": family,
             "tests": 80, "effects": 80 * planted, "significant": fine * 80 * planted + false,
             "false_discoveries": false, "detectable": 0.025 if fine else 0.2,
             "announced": not fine}
            for natural, fine in ((160, False), (1960, True)) for shared in (0.0, 0.5)
            for planted in (0.0, 0.1) for family in range(10)
            for false in [2 * (fine and planted > 0 and family < 5)]]
    return pd.DataFrame(rows)


def test_rates_of_discoveries_are_means_over_families():
    table = made_up_families()
    of_families = level.discovery_rates(table).set_index(["natural", "shared", "planted"])
    fine = of_families.loc[(1960, 0.5, 0.1)]
    assert (fine["fdr"], fine["power"], fine["empty"]) == (pytest.approx(0.1), 1.0, 0.0)
    low, high = proportion_confint(9, 90, method="beta")  # of booleans with this standard error
    assert (fine["fdr_low"], fine["fdr_high"]) == (pytest.approx(low), pytest.approx(high))
    assert of_families.loc[(160, 0.0, 0.0), ["fdr", "empty"]].tolist() == [0, 1]
    assert level.discovery(table) == {"estimate": fine["fdr"], "low": fine["fdr_low"],
                                      "high": fine["fdr_high"], "families": 10, "settings": 8}
    assert level.kept_rates(table) == {"count": 8, "of": 8}
    found = level.found(table, planted=0.1)
    assert (found["estimate"], found["most"], found["families"]) == (0.0, 1.0, 20)
    assert [found["detectable"], found["most_detectable"]] == pytest.approx([0.2, 0.025])
    wrong = table.assign(significant=1, false_discoveries=1)
    assert level.kept_rates(wrong) == {"count": 0, "of": 8}


def test_intervals_of_means_of_shares_cover_and_are_those_of_booleans():
    assert level.mean_of_shares([0, 1, 1, 0, 1])[1:] == pytest.approx(
        proportion_confint(3, 5, method="beta"))
    assert level.mean_of_shares(np.zeros(30))[2] == pytest.approx(1 - 0.025 ** (1 / 30))
    random, covered, wide = np.random.default_rng(0), 0, []
    for _ in range(400):  # false discoveries: none in most families, a few in some
        _, low, high = level.mean_of_shares(random.beta(0.5, 9.5, 60))
        covered += low <= 0.05 <= high
        wide.append(high - low)
    assert 0.92 <= covered / 400 <= 1 and np.mean(wide) < 0.05


def test_curves_of_discoveries_have_a_line_for_each_setting():
    of_families = level.discovery_rates(made_up_families())
    for value, shares in (("fdr", []), ("power", [0.2, 0.2, 0.025, 0.025])):
        ax = plt.subplots()[1]
        plots.discoveries(of_families, value, ax=ax)
        labels = ax.get_legend_handles_labels()[1]
        assert len(set(labels)) == 4 and "detectable 2.5 %, alike stages" in labels
        upright = [np.unique(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
        assert [x[0] for x in upright if len(x) == 1] == pytest.approx(shares)
        plt.close()


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_made_up_responses_have_planted_effects_and_dependent_stages(shared):
    similarity = np.where(np.arange(40) < 10, 0.95, 0.0)
    observer, _ = simulated_responses(2, n=40, units=200, draws=1, natural=2, decay=0,
                                      similarity=similarity, shared=shared)
    x, y = (torch.from_numpy(by_stage["0"])
            for by_stage in (observer.references, observer.metamers))
    x, y = x - x.mean(0), y - y.mean(0)
    found = metrics.pearson(x, y).numpy()
    assert found[:10].min() > 0.6 and abs(found[10:].mean()) < 0.1
    first, second = (torch.from_numpy(observer.references[stage]) for stage in "01")
    alike = metrics.pearson(first - first.mean(0), second - second.mean(0)).mean().item()
    assert (abs(alike) < 0.1) if not shared else (0.4 < alike < 0.7)
