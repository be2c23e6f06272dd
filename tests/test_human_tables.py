"""Summaries of images shown to networks, on planted tables."""

import itertools

import numpy as np
import pandas as pd
import pytest

from metalib.evaluation.human import (
    VISION,
    at_all_scales,
    by_method,
    by_stage,
    half_scales,
    in_early_vision,
    left,
)

MATCH = {"texform": 0.5, "foveated": 0.3, "iterative": 0.2}


@pytest.fixture
def planted():
    rows = []
    observers = [*(f"zoo/net-{training}-{seed}" for training in ("robust", "standard")
                   for seed in (0, 1)), VISION]
    for method, observer, depth, image, comparison in itertools.product(
            MATCH, observers, (0.0, 1.0), range(4), ("reference", "synthesis")):
        own = method == "iterative" and observer == "zoo/net-robust-0"
        match = 1.0 if own else MATCH[method] - 0.1 * depth + 0.01 * image
        rows.append({
            "method": method, "generator": "zoo/net-robust-0" if method == "iterative" else None,
            "observer": observer, "image": image, "comparison": comparison,
            "stage": "statistics" if observer == VISION else ("early", "features")[int(depth)],
            "depth": depth, "scaled_match": match, "passed": own, "agrees": image > 0,
            "training": "" if observer == VISION else observer.split("-")[1], "evaluations": 7,
            "seconds": 2.0, "distance": 0.25, "ssim": 0.5})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_a_generator_is_no_observer_of_its_own_metamers(planted):
    with_own = by_method(planted.drop(columns="generator")).set_index("method")
    found = by_method(planted).set_index("method")
    assert found["match"].to_dict() == pytest.approx(
        {name + ", robust" * (name == "iterative"): match - 0.1 + 0.015
         for name, match in MATCH.items()})
    assert with_own.loc["iterative", "match"] > 0.3 > found.loc["iterative, robust", "match"]
    assert found.loc["iterative, robust", "passed"] == 0 < with_own.loc["iterative", "passed"]
    assert (found["agrees"] == 75).all() and (found["evaluations"] == 7).all()
    assert found.loc["texform", "vision"] == pytest.approx(0.465)
    assert (found["low"] <= found["match"]).all() and (found["match"] <= found["high"]).all()


def test_stages_are_in_order_and_standard_networks_first(planted):
    wide = by_stage(planted)
    assert list(wide.columns) == ["training", "method", "early", "features"]
    assert wide["training"].tolist() == ["standard"] * 3 + ["robust"] * 3
    assert wide["early"].to_numpy() - wide["features"].to_numpy() == pytest.approx([0.1] * 6)


def test_what_is_left_is_a_mean_over_methods_and_a_difference_by_image(planted):
    found = left(planted, methods=["texform", "foveated"], stage="features")
    assert found["estimate"] == pytest.approx(0.4 - 0.1 + 0.015)
    assert (found["observers"], found["images"]) == (4, 4)
    more = left(planted, methods=["texform"], stage="features", beyond="foveated")
    assert more["estimate"] == pytest.approx(0.2) and more["low"] == pytest.approx(more["high"])


def test_early_vision_looks_at_metamers_of_networks(planted):
    rows = planted[planted["method"] == "iterative"].drop(columns="generator")
    table = pd.concat([rows.assign(generator=name) for name in ("zoo/a", "zoo/b")])
    table.loc[(table["generator"] == "zoo/b") & (table["image"] == 0), "passed"] = True
    found = in_early_vision(table)
    assert found["estimate"] == pytest.approx(1 / 8)
    assert (found["generators"], found["images"]) == (2, 4)


def test_windows_of_half_a_match_are_those_that_were_planted():
    """A match that falls by a quarter with each octave, from one half at 4 and at 2 windows."""
    rows = [{"observer": f"net-{number}", "training": training, "stage": stage, "depth": depth,
             "comparison": "reference", "image": image, "scale": scale,
             "scaled_match": 0.5 - 0.25 * np.log2(scale / (half * 2 ** -depth))}
            for (number, (training, half)), (depth, stage), image, scale in itertools.product(
                enumerate([("robust", 8.0), ("standard", 4.0)]), enumerate(["early", "late"]),
                range(5), [1, 2, 4, 8, 16])]
    found = half_scales(pd.DataFrame(rows), scale="scale", resamples=20)
    assert found["training"].tolist() == ["standard"] * 2 + ["robust"] * 2
    assert found["stage"].tolist() == ["early", "late"] * 2
    assert found["estimate"].tolist() == pytest.approx([4, 2, 8, 4])
    table = pd.DataFrame(rows).assign(observer=lambda rows: "net-" + rows["training"] + "-0")
    more = at_all_scales(table, stage="late", scale="scale")
    assert more["estimate"] == pytest.approx(0.25)  # an octave
    assert (more["observers"], more["images"], more["scales"]) == (1, 5, 5)


def test_a_stage_that_there_is_not_is_named(planted):
    with pytest.raises(ValueError, match="no row of a network has reference, group9"):
        by_method(planted, stage="group9")
