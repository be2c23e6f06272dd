"""The cards of the bundled networks as a table, and what a claim says of them."""

import numpy as np
import pytest

from metalib.evaluation import reference


def test_every_card_has_what_the_table_shows():
    table = reference.cards()
    assert len(table) >= 16 and table.notna().all(axis=None)
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


def test_a_pattern_without_networks_is_refused():
    with pytest.raises(ValueError, match="no bundled network matches"):
        reference.cards("zoo/none-*")
