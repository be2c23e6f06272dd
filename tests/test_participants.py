"""The analysis of people's answers: against other software, and on made-up participants."""

import time

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.sandwich_covariance import cov_cluster_2groups

from metalib.evaluation.participants import (
    accuracy,
    agreement,
    contrasts,
    error_consistency,
    reliability,
)
from metalib.people.made_up import precision, simulated

PLANTED = {"natural": 0.9, "early": 0.8, "late": 0.5, "same": 0.5}


@pytest.fixture(scope="module")
def table():
    return simulated(PLANTED, participants=30, images=40, seed=1)


def test_errors_are_those_of_statsmodels(table):
    """Two-way clustered, without its factors for small samples of a regression."""
    part = table[table["condition"] == "early"]
    fit = sm.OLS(part["recognised"].astype(float), np.ones((len(part), 1))).fit()
    groups = [pd.factorize(part[name])[0] for name in ("observer", "image")]
    both, first, second = cov_cluster_2groups(fit, *groups, use_correction=False)
    n = [len(set(codes)) for codes in groups]
    pairs = (fit.resid ** 2).sum() / len(part) ** 2
    expected = (first[0, 0] * n[0] / (n[0] - 1) + second[0, 0] * n[1] / (n[1] - 1)
                - pairs * len(part) / (len(part) - 1))
    found = accuracy(part).loc["early"]
    assert found["accuracy"] == pytest.approx(fit.params.iloc[0])
    assert found["error"] ** 2 == pytest.approx(max(
        expected, first[0, 0] * n[0] / (n[0] - 1), second[0, 0] * n[1] / (n[1] - 1)), rel=1e-9)
    assert both[0, 0] > 0


def test_answers_that_are_all_right_have_an_interval():
    table = pd.DataFrame([{"observer": p, "image": i, "condition": "a", "recognised": True}
                          for p in range(6) for i in range(9)])
    found = accuracy(table).loc["a"]
    assert (found["accuracy"], found["high"]) == (1, 1)
    assert found["low"] == pytest.approx(stats.binomtest(6, 6).proportion_ci().low)
    none = accuracy(table.assign(recognised=False)).loc["a"]
    assert (none["low"], none["high"]) == pytest.approx((0, 1 - found["low"]))


def test_planted_accuracies_are_those_of_the_population():
    large = simulated(PLANTED, participants=400, images=800, seed=2)
    shares = large.groupby("condition")["recognised"].mean()
    assert (shares - pd.Series(PLANTED)).abs().max() < 0.015


def everything():
    """A network that saw every image in every condition."""
    return pd.DataFrame([
        {"observer": "n", "condition": condition, "image": image,
         "recognised": (7 * image + k) % 11 < 9 - 2 * k}
        for k, condition in enumerate(PLANTED) for image in range(40)])


def studies(count, participants, images, **options):
    for seed in range(count):
        yield simulated(PLANTED, participants, images, seed=seed, **options)


@pytest.mark.parametrize("count, participants, images, spreads", [
    (500, 24, 40, {}), (200, 60, 24, {"spread_people": 1.0}),
    (200, 12, 60, {"spread_images": 0.3})])
def test_intervals_hold_what_was_planted_and_tests_keep_their_level(
        count, participants, images, spreads):
    """Of 500 studies .93 at least, of 200 .92, by chance; "late" and "same" do not differ."""
    held, differ, rejected = [], [], []
    for made in studies(count, participants, images, **spreads):
        shares = accuracy(made)
        truth = pd.Series(PLANTED)[shares.index]
        held.append((shares["low"] <= truth) & (truth <= shares["high"]))
        gaps = contrasts(made, against="late")
        differ.append((gaps["low"].loc["early"] <= 0.3) & (0.3 <= gaps["high"].loc["early"]))
        rejected.append(gaps["p"]["same"] < 0.05)
    coverage = np.mean(held, axis=0)
    assert (coverage >= (0.93 if count == 500 else 0.92)).all(), coverage
    assert np.mean(differ) >= 0.92
    low, high = stats.binom.interval(0.99, count, 0.05)
    assert np.sum(rejected) <= high, (np.sum(rejected), low, high)


def test_two_hundred_participants_take_seconds():
    """Half a minute is the limit; this has to be far below it on any machine."""
    people = simulated(PLANTED, participants=200, images=100, seed=3)
    networks = pd.concat([simulated(PLANTED, 2, 100, seed=k).assign(observer=f"n{k}")
                          for k in range(3)]).drop_duplicates(["observer", "condition", "image"])
    begun = time.process_time()
    accuracy(people), contrasts(people), error_consistency(people, networks)
    assert len(agreement(people, networks)) == 4
    assert time.process_time() - begun < 30


def test_reliability_grows_with_participants_and_is_that_of_new_ones():
    """By images: the corrected correlation of halves is that of two whole groups."""
    few, many = (simulated(PLANTED, n, 60, seed=4) for n in (12, 200))
    assert reliability(few) < reliability(many) > 0.8
    planted = []
    for seed in range(20):
        both = simulated(PLANTED, 120, 60, seed=seed)
        people = np.random.default_rng(seed).permutation(both["observer"].unique())
        groups = [both[both["observer"].isin(people[k::2])] for k in (0, 1)]
        scores = [g.groupby(["condition", "image"])["recognised"].mean() for g in groups]
        planted.append([np.corrcoef(*[s.reindex(scores[0].index) for s in scores])[0, 1],
                        reliability(groups[0], splits=30)])
    real, estimated = np.mean(planted, axis=0)
    assert estimated == pytest.approx(real, abs=0.03)


def test_a_network_that_knows_the_mean_reaches_the_ceiling():
    """It answers as the population does, image by image; another is blind to images."""
    share, correlations = [], []
    for seed in range(5):
        everybody = simulated(PLANTED, 800, 40, seed=seed)
        people = everybody[everybody["observer"].isin(everybody["observer"].unique()[:60])]
        means = everybody.groupby(["condition", "image"])["recognised"].mean().reset_index()
        knowing = means.assign(observer="knows")
        blind = knowing.assign(observer="blind", recognised=np.random.default_rng(seed).permutation(
            knowing["recognised"]))
        found = agreement(people, pd.concat([knowing, blind]), splits=50)
        share.append(found.loc["knows", "share"])
        correlations.append(found.loc["blind", "correlation"])
        row = found.loc["knows"]
        assert row["low"] < row["correlation"] < row["high"] and row["scores"] == 160
    assert np.mean(share) == pytest.approx(1, abs=0.05)
    assert abs(np.mean(correlations)) < 0.15
    assert "panel" in found.index


@pytest.mark.parametrize("by, most", [(("condition", "image"), 1.6), (("condition",), 3)])
def test_intervals_of_agreement_are_as_wide_as_studies_spread(by, most):
    """Of studies with other participants and images, on Fisher's scale; with four points, wider."""
    found, errors = [], []
    for seed in range(60):
        both = simulated(PLANTED, 50, 40, spread_cells=0.1, seed=seed)
        people = both["observer"].unique()
        network = both[both["observer"].isin(people[20:])].assign(observer="n")
        row = agreement(both[both["observer"].isin(people[:20])], network, by=by, splits=2).loc["n"]
        found.append(np.arctanh(row["correlation"]))
        errors.append(np.diff(np.arctanh([row["low"], row["high"]]))[0] / 2 / stats.t.ppf(.975, 19))
    assert 0.9 < np.mean(errors) / np.std(found) < most


def test_agreement_by_condition_is_the_correlation_of_means(table):
    network = everything()
    found = agreement(table, network, by=("condition",))
    means = [t.groupby("condition")["recognised"].mean() for t in (table, network)]
    assert found.loc["n", "correlation"] == pytest.approx(np.corrcoef(*means)[0, 1])


def test_error_consistency_is_cohens_kappa(table):
    network = everything()
    found = error_consistency(table, network).loc[("n", "early")]
    kappas = []
    for _, part in table[table["condition"] == "early"].groupby("observer"):
        both = part.merge(network[network["condition"] == "early"], on="image")
        kappas.append(cohen_kappa_score(both["recognised_x"].astype(bool), both["recognised_y"]))
    assert found["kappa"] == pytest.approx(np.nanmean(kappas))
    assert found["participants"] == np.isfinite(kappas).sum()


def test_more_participants_tell_more():
    found = precision({"natural": 0.9, "late": 0.6}, [8, 32], images=40, studies=30)
    assert (found["half_width"].diff().dropna() < 0).all()
    assert (found["difference_half_width"].diff().dropna() < 0).all()
    assert found["power"].iloc[-1] > 0.9 and (found["coverage"] > 0.85).all()


@pytest.mark.parametrize("call, message", [
    (lambda t: accuracy(t.drop(columns="image")), "no column image"),
    (lambda t: accuracy(t, value="right"), "no column right"),
    (lambda t: accuracy(t[t["observer"] == "simulated 001"]), "1 participants"),
    (lambda t: accuracy(t[t["image"] == 3]), "1 images"),
    (lambda t: contrasts(t, against="none"), "has no 'none'"),
    (lambda t: agreement(t, t.assign(image=1000, observer="n")), "in common"),
    (lambda t: simulated({"a": 1.0}, 5, 5), "between 0 and 1"),
    (lambda t: simulated({"a": 0.5}, 1, 5), "at least two")])
def test_what_cannot_be_analysed_is_refused(table, call, message):
    with pytest.raises(ValueError, match=message):
        call(table)
