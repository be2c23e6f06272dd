"""The cards of the bundled networks as a table, and what a claim says of them."""

import numpy as np
import pandas as pd
import pytest

from metalib.evaluation import reference


def test_every_card_has_what_the_table_shows():
    table = reference.cards()
    assert len(table) == 24 and table.notna().all(axis=None)
    assert (table[["accuracy", "robust", "foolbox", "ours"]].stack().between(0, 1)).all()
    assert (table["n"] == 10_000).all()


def test_the_gap_is_that_between_the_nearest_networks():
    table = reference.cards()
    robust = table[table["training"] == "robust"]["robust"].min()
    others = table[table["training"] != "robust"]["robust"].max()
    found = reference.robustness_gap()
    assert found["estimate"] == pytest.approx(robust - others)
    assert 0 < found["low"] < found["estimate"] < found["high"]
    assert np.isnan(reference.robustness_gap("zoo/*-robust-*")["estimate"])


def test_standard_networks_are_shown_first():
    table = pd.DataFrame({"training": ["robust", "noise", "standard", "noise"], "row": range(4)})
    assert list(reference.standard_first(table, "training")["row"]) == [2, 1, 3, 0]


def test_a_pattern_without_networks_is_refused():
    with pytest.raises(ValueError, match="no bundled network matches"):
        reference.cards("zoo/none-*")


@pytest.fixture
def crossed_cards(monkeypatch):
    """Four architectures, three trainings and two seeds, with accuracies in points of a hundred."""
    rows = [(f"zoo/{architecture}-{training}-{seed}", architecture, training, seed,
             (place + level + 0.1 * seed) / 100)
            for place, architecture in ((80, "a"), (84, "b"), (85, "c"), (89, "d"))
            for training, level in (("standard", 4), ("noise", 3), ("robust", -2))
            for seed in (0, 1)]
    table = pd.DataFrame(rows, columns=["name", "architecture", "training", "seed", "accuracy"])
    monkeypatch.setattr(reference, "cards", lambda pattern="zoo/*": table)
    return table


def test_what_a_training_costs_is_the_difference_of_pairs(crossed_cards):
    found = reference.accuracy_cost("robust")
    assert found["estimate"] == pytest.approx(0.06) and found["architectures"] == 4
    assert found["low"] == pytest.approx(0.06) and found["pairs"] == 8
    assert np.isnan(reference.accuracy_cost("unknown")["estimate"])


def test_a_difference_that_accuracy_explains_vanishes_at_equal_accuracy(crossed_cards):
    random = np.random.default_rng(0)
    accuracy = crossed_cards.set_index("name")["accuracy"]
    robust = accuracy.index.str.contains("robust")
    noise = 0.002 * random.standard_normal(len(accuracy))
    explained = reference.at_equal_accuracy(2 * accuracy + noise, "robust", "standard")
    assert explained["raw"] == pytest.approx(-0.12, abs=0.01)
    assert explained["low"] < 0 < explained["high"] and abs(explained["estimate"]) < 0.01
    assert explained["slope"] == pytest.approx(0.02, abs=0.002)
    assert (explained["kinds"], explained["freedom"]) == (12, 8)
    beyond = reference.at_equal_accuracy(2 * accuracy + 0.3 * robust + noise, "robust", "standard")
    assert beyond["low"] > 0.25 and beyond["p"] < 0.001
    assert beyond["estimate"] == pytest.approx(0.3 + explained["estimate"])


def test_too_few_kinds_have_no_adjusted_difference(crossed_cards):
    some = crossed_cards.set_index("name")["accuracy"][["zoo/a-robust-0", "zoo/a-standard-0"]]
    found = reference.at_equal_accuracy(some, "robust", "standard")
    assert np.isnan(found["estimate"]) and found["raw"] == pytest.approx(-0.06)
    assert np.isnan(reference.at_equal_accuracy(some, "robust", "noise")["raw"])
    with pytest.raises(ValueError, match="no bundled networks: mine"):
        reference.at_equal_accuracy(pd.Series({"mine": 1.0}), "robust", "noise")
