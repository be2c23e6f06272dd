"""Machine hours: the sum that the chapter on scaling states, and what it was checked with."""

import numpy as np
import pandas as pd
import pytest

from metalib.evaluation import hours

STAGES = ("first", "middle", "last")


@pytest.fixture
def tables():
    """Costs to the criterion of 10, 20 and 30 evaluations, and a match after 40 of 24,000."""
    criterion = pd.DataFrame([
        {"model": "net", "stage": stage, "optimizer": rule, "image": image,
         "evaluations": 10 * (place + 1) * factor}
        for place, stage in enumerate(STAGES) for image in range(3)
        for rule, factor in (("published", 5), ("spectral_lbfgs", 1))])
    match, published = (pd.DataFrame([
        {"model": "net", "stage": stage, "image": image, "evaluations": count,
         "match_db": float(db)} for stage in STAGES for image in range(3) for count, db in counts])
        for counts in ([(count, count) for count in range(1, 101)], [(3000, 20), (24_000, 40)]))
    return criterion, match.assign(optimizer="spectral_lbfgs", seed=0), published


def test_evaluations_are_those_of_the_studies_at_their_depths(tables):
    needed = hours.evaluations_needed(*tables, n_stages=5)
    assert needed.index.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert needed[hours.TO_CRITERION].tolist() == [10, 15, 20, 25, 30]
    assert needed["published, to the criterion"].tolist() == [50, 75, 100, 125, 150]
    assert set(needed[hours.TO_MATCH]) == {40}
    assert set(needed[hours.ALL]) == {24_000}


def test_a_match_that_is_not_reached_counts_with_the_limit(tables):
    criterion, match, published = tables
    needed = hours.evaluations_needed(criterion, match.assign(match_db=0.0), published)
    assert set(needed[hours.TO_MATCH]) == {100}


def test_hours_are_the_sum_over_models_stages_and_images(tables):
    needed = hours.evaluations_needed(*tables, n_stages=4)
    each = hours.hours_by_model(needed, n_models=3, n_images=7)
    cost, rule = (hours.per_evaluation(needed.index),
                  hours.part("rule")["seconds"].iloc[0])
    name = cost.index[0]
    by_hand = sum(3 * 7 * needed[hours.TO_CRITERION].iloc[k] * (cost.loc[name].iloc[k] + rule)
                  for k in range(4)) / 3600
    assert each.loc[name, hours.TO_CRITERION] == pytest.approx(by_hand)
    assert each[hours.ALL].to_numpy() == pytest.approx(
        24_000 * 21 * cost.sum(axis=1).to_numpy() / 3600)  # no work of a quasi-Newton rule
    twice = hours.hours_by_model(needed, n_models=6, n_images=7)
    assert twice[hours.ALL].to_numpy() == pytest.approx(2 * each[hours.ALL].to_numpy())
    assert twice[hours.SHOW].to_numpy() == pytest.approx(4 * each[hours.SHOW].to_numpy())


def test_intervals_hold_the_estimates(tables):
    found = hours.machine_hours(hours.evaluations_needed(*tables))
    assert (found["low"] <= found["core_hours"]).all()
    assert (found["core_hours"] <= found["high"]).all()
    assert (found["gpu_hours"] < found["core_hours"]).all()
    cheaper = hours.times_cheaper(*tables)
    assert cheaper["low"] <= cheaper["estimate"] <= cheaper["high"]
    assert cheaper["estimate"] == pytest.approx(
        found.loc[hours.ALL, "core_hours"] / found.loc[hours.TO_MATCH, "core_hours"])


def test_predictions_are_steps_times_seconds():
    found = hours.predicted()
    assert len(found) == 18 and np.isfinite(found["ratio"]).all()
    assert (found["predicted"] > 0).all()


def test_steps_are_compared_by_the_stages_of_large_networks_on_a_cpu(monkeypatch):
    rows = [("torchvision/a", "s", 8, "x", 5.0, "cpu"), ("torchvision/a", "s", 8, "y", 10.0, "cpu"),
            ("torchvision/a", "s", 1, "x", 1.0, "cpu"), ("torchvision/a", "s", 1, "y", 9.0, "cpu"),
            ("zoo/b", "s", 8, "x", 1.0, "cpu"), ("zoo/b", "s", 8, "y", 9.0, "cpu"),
            ("torchvision/a", "s", 8, "x", 1.0, "NVIDIA"),
            ("torchvision/a", "s", 8, "y", 9.0, "NVIDIA")]
    table = pd.DataFrame(rows, columns=[
        "model", "stage", "batch", "way", "image-steps a second", "hardware"])
    monkeypatch.setattr(hours.costs, "measured", lambda name: {"speed": table}[name])
    assert hours.slower("x", "y").to_dict() == {("torchvision/a", "s"): 2.0}
