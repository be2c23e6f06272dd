"""Comparisons of costs: against scipy, planted effects, and how often intervals cover the truth."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metalib.evaluation import costs

STAGES = ("early", "late")


def table(ratio, *, images=30, spread=0.3, seed=0, stages=STAGES, limit=np.inf):
    """Evaluations of rules whose costs are these multiples of the default's, image by image."""
    random, rows = np.random.default_rng(seed), []
    for stage in stages:
        base = random.lognormal(3, 0.5, images)
        for rule, factor in {**ratio, costs.DEFAULT: 1.0}.items():
            noise = random.lognormal(0, spread, images) if rule != costs.DEFAULT else 1.0
            rows.append(pd.DataFrame({
                "model": "net", "stage": stage, "optimizer": rule, "image": range(images),
                "evaluations": base * factor * noise}))
    found = pd.concat(rows, ignore_index=True)
    return found.assign(passed=found["evaluations"] < limit,
                        evaluations=found["evaluations"].clip(upper=limit))


def test_ratios_are_those_of_scipy():
    rows = table({"slow": 3.0, "same": 1.0})
    found = costs.ratios(rows).set_index(["stage", "optimizer"])
    wide = rows.pivot(index=["stage", "image"], columns="optimizer", values="evaluations")
    logs = np.log(wide.div(wide[costs.DEFAULT], axis=0))
    p = {}
    for (stage, rule), row in found.iterrows():
        x = logs.loc[stage, rule].to_numpy()
        ends = stats.bootstrap([x], np.median, n_resamples=1000, method="percentile", rng=0)
        p[stage, rule] = stats.wilcoxon(x).pvalue
        assert row["ratio"] == pytest.approx(np.exp(np.median(x)))
        assert np.log([row["low"], row["high"]]) == pytest.approx(ends.confidence_interval, abs=.02)
    corrected = stats.false_discovery_control([p[key] for key in found.index], method="by")
    assert found["p"].to_numpy() == pytest.approx(corrected)


def test_a_planted_effect_is_found_and_none_where_there_is_none():
    over = costs.summary(costs.ratios(table({"slow": 3.0, "fast": 0.5, "same": 1.0})))
    assert list(over.index) == ["fast", "same", "slow"]  # by the median ratio
    assert over.loc["slow", ["more", "fewer"]].tolist() == [2, 0]
    assert over.loc["fast", ["more", "fewer"]].tolist() == [0, 2]
    assert over.loc["same", ["more", "fewer"]].tolist() == [0, 0]


def test_intervals_cover_the_truth_as_often_as_they_say():
    covered = 0
    for seed in range(100):
        rows = table({"slow": 2.0}, images=40, seed=seed, stages=["early"])
        row = costs.ratios(rows, resamples=300).iloc[0]
        covered += row["low"] <= 2.0 <= row["high"]
    assert 88 <= covered <= 100


def test_an_image_that_never_passed_counts_with_the_limit_and_is_flagged():
    rows = table({"slow": 20.0}, limit=100.0)
    found = costs.ratios(rows)
    failed = rows[(rows["optimizer"] == "slow") & ~rows["passed"]].groupby("stage").size()
    assert found.set_index("stage")["failed"].to_dict() == failed.to_dict()
    assert (found["ratio"] < 20).all()
    assert (found["baseline_failed"] == (~rows["passed"] & (rows["optimizer"] == costs.DEFAULT)
                                         ).groupby(rows["stage"]).sum().to_numpy()).all()


def test_equal_costs_have_a_ratio_of_one_and_no_significance():
    rows = table({"same": 1.0}, spread=0.0)
    found = costs.ratios(rows)
    assert found[["ratio", "low", "high", "p"]].eq(1).all(axis=None)


def test_the_order_of_rows_does_not_matter():
    rows = table({"slow": 3.0})
    mixed = rows.sample(frac=1, random_state=1)
    one, other = (costs.ratios(each).sort_values("stage", ignore_index=True)
                  for each in (rows, mixed))
    assert one.drop(columns="p").equals(other.drop(columns="p"))


@pytest.mark.parametrize(("change", "message"), [
    (lambda rows: rows[rows["optimizer"] != costs.DEFAULT], "there is no spectral_lbfgs"),
    (lambda rows: rows.iloc[1:], "lack images"),
])
def test_tables_that_cannot_be_compared_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        costs.ratios(change(table({"slow": 3.0})))


def test_estimates_for_claims_find_planted_ratios():
    rows = table({"published": 4.0, "near": 1.5, "far": 2.5}, images=60)
    lowest = costs.lowest_ratio(rows, least=3)
    assert lowest["low"] <= lowest["estimate"] <= lowest["high"]
    assert 3.3 < lowest["estimate"] < 4.3
    assert (lowest["count"], lowest["clear"], lowest["of"]) == (2, 2, 2)
    assert (lowest["networks"], lowest["images"]) == (1, 60)
    rival = costs.strongest_rival(rows)
    assert rival["rule"] == "near"
    assert rival["low"] < 1.5 < rival["high"] < 2
    assert rival["estimate"] == pytest.approx(costs.typical_ratio(rows, "near")["estimate"])
    assert (rival["more"], rival["fewer"]) == (2, 0)


def test_seconds_are_evaluations_times_seconds_of_one():
    rows = table({"published": 4.0, "near": 1.5}, images=60)
    steps = pd.DataFrame([("net", stage, rule, seconds) for stage in ("early", "late")
                          for rule, seconds in (
                              (costs.DEFAULT, 2.0), ("near", 1.0), ("rest", 9.0))],
                         columns=["model", "stage", "optimizer", "seconds"])
    found = costs.in_seconds(rows, steps)
    assert found["optimizer"].tolist() == ["near"]
    assert found["seconds"].item() == pytest.approx(found["evaluations"].item() / 2)
    assert found["evaluations"].item() == pytest.approx(1.5, rel=0.1)


def test_networks_are_random_where_there_are_several():
    """Networks differ more than images do, so that with four of them the interval is wide."""
    rows = pd.concat([table({"near": factor}, images=30).assign(model=f"net {factor}")
                      for factor in (1.0, 1.5, 2.0, 3.0)])
    found = costs.typical_ratio(rows, "near")
    assert found["networks"] == 4 and found["low"] < 1.1 and found["high"] > 2.6


def test_a_single_image_has_no_interval():
    found = costs.lowest_ratio(table({"published": 4.0}, images=1))
    assert found["estimate"] > 0
    assert np.isnan([found["low"], found["high"]]).all()


# --- Starts --------------------------------------------------------------------------------------

def starts(kinds, images=30):
    """Starts by their factor of the cost and their distance from the reference."""
    random, rows = np.random.default_rng(0), []
    base = random.lognormal(3, 0.5, images)
    for name, (factor, distance) in kinds.items():
        noise = random.lognormal(0, 0.1, (2, images)) if name != "noise" else np.ones((2, images))
        rows.append(pd.DataFrame({
            "model": "net", "stage": "late", "start": name, "image": range(images), "passed": True,
            "evaluations": base * factor * noise[0], "distance": distance * noise[1],
            "distance_from_start": 0.1, "ssim": 0.5, "control": False, "recognised": True}))
    return pd.concat(rows, ignore_index=True)


def test_cheap_starts_are_told_by_where_they_end():
    kinds = {"noise": (1, 0.3), "near": (0.3, 0.1), "far": (0.3, 0.3), "dear": (2, 0.35)}
    found = costs.against_noise(starts(kinds)).set_index("start")
    assert found["cheaper"].to_dict() == {"near": True, "far": True, "dear": False}
    assert found["nearer"].to_dict() == {"near": True, "far": False, "dear": False}
    assert found.loc["near", "distance_change"] == pytest.approx(-0.2, abs=0.02)
    told = costs.cost_follows_distance(starts(kinds))
    assert (told["cheaper"], told["near"], told["free"], told["starts"]) == (2, 1, 1, 4)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_cost_that_follows_distance_has_a_rank_correlation_of_one(sign, expected):
    kinds = {"noise": (1, 0.3), **{f"start {k}": (2.0 ** k, 0.3 * 1.5 ** (sign * k))
                                   for k in (-3, -2, -1, 1, 2, 3)}}
    found = costs.cost_follows_distance(starts(kinds))
    assert found["estimate"] == pytest.approx(expected)
    assert found["low"] <= found["estimate"] <= found["high"]


# --- Measurements --------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["joint", "networks", "precision", "published", "rivals",
                                  "scaling", "speed", "sweep", "tuning"])
def test_every_measurement_says_where_and_when(name):
    table = costs.measured(name)
    assert len(table) and table[["hardware", "date"]].notna().all(axis=None)
    assert table.attrs["provenance"]["benchmark"].startswith("benchmarks/")
