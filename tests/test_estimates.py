"""Estimates of the tables of studies: they are the plain numbers, of the rows that count."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metalib import generate, load_model, transfer
from metalib.evaluation import kept, level, transferred

# --- Transfer ------------------------------------------------------------------------------------

def studied(images=6, seed=0):
    """A made-up transfer study: late metamers of robust generators are agreed on, others rarely."""
    kinds = [(architecture, training, seed) for architecture in ("cct", "vgg")
             for training in ("standard", "robust") for seed in (0, 1)]
    rows, random = [], np.random.default_rng(seed)
    for (stage, depth), g, o, image in itertools.product(
            [("early", 0.0), ("late", 1.0)], kinds, kinds, range(images)):
        share = 1.0 if stage == "early" else 0.9 if g[1] == "robust" else 0.4
        share -= 0.3 * (stage == "late" and g[1] != o[1])
        names = ["-".join(map(str, kind)) for kind in (g, o)]
        rows.append({
            "generator": names[0], "observer": names[1], "stage": stage, "depth": depth,
            "image": image, "generator_passed": image > 0 or stage == "early",
            "agrees": random.random() < share, "passed": stage == "early",
            "control_agrees": stage == "early" and random.random() < 0.9,
            "reference_recognised": image != 1,
            "relation": transfer.relation(*({"architecture": kind[0], "training": kind[1],
                                             "seed": kind[2]} for kind in (g, o))),
            **{f"{role}_{key}": kind[place] for role, kind in (("generator", g), ("observer", o))
               for place, key in enumerate(("architecture", "training"))}})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def study():
    return studied()


def test_only_metamers_of_their_generator_in_other_networks_count(study):
    rows = transferred.counted(study, stage="late")
    assert set(rows["image"]) == set(range(1, 6)) and len(rows) == 8 * 7 * 5
    assert (rows["generator"] != rows["observer"]).all()
    with pytest.raises(ValueError, match="no metamer of logits passes"):
        transferred.counted(study, stage="logits")


def test_a_share_without_variance_is_as_sure_as_there_are_networks(study):
    found = transferred.share(study, stage="late", value="passed")
    assert found["estimate"] == found["low"] == 0
    assert found["high"] == pytest.approx(stats.binomtest(0, 8).proportion_ci().high)
    assert transferred.share(study, stage="early", value="passed")["high"] == 1


def test_estimates_of_a_transfer_study_are_the_plain_differences(study):
    rows = transferred.counted(study, stage="late")
    by = rows.groupby("generator_training")["agrees"].mean()
    found = transferred.contrast(study, stage="late", by="generator_training", first="robust",
                                 second="standard", resamples=50)
    assert found["estimate"] == pytest.approx(by["robust"] - by["standard"])
    assert found["low"] > 0 and found["generators"] == found["observers"] == 8
    assert transferred.beyond_passing(study, stage="late", resamples=50)["estimate"] == (
        pytest.approx(rows["agrees"].mean()))
    robust = transferred.excess(study, stage="late", training="robust", resamples=50)
    assert robust["estimate"] == pytest.approx(
        rows.loc[rows["generator_training"] == "robust", "agrees"].mean())
    table = transferred.contrasts(study, stage="late", resamples=50)
    assert list(table.index) == list(transferred.CONTRASTS)
    assert table.loc["other architecture − other training", "low"] > 0
    assert transferred.asymmetry(study, stage="late", resamples=50)["estimate"] > 0.1


def test_tables_of_a_transfer_study_are_ordered_by_kind_and_depth(study):
    kinds = transferred.by_kind(study, "agrees", stage="late")
    assert list(kinds.index) == list(kinds.columns) == [
        ("standard", "cct"), ("standard", "vgg"), ("robust", "cct"), ("robust", "vgg")]
    made = transferred.made(study)
    assert list(made) == ["early", "late", "accuracy"]
    assert made.loc["cct, standard"].round().tolist() == [100, 83, 83]
    assert list(transferred.by_relation(study, stage="late", resamples=20).index) == list(
        transferred.RELATIONS)
    assert set(transferred.by_stage(study, resamples=20)["stage"]) == {"early", "late"}
    assert len(transferred.by_depth(study, resamples=20)) == 2 * 2 * 2 * 2
    assert len(transferred.excesses(study, resamples=20)) == 4


def test_effort_is_compared_on_the_same_metamers(study):
    late = study[study["stage"] == "late"]
    more = late.assign(steps=400, passed=late["generator_training"] == "robust")
    few = late.assign(steps=50, generator_passed=late["image"] > 1)
    both = pd.concat([few, more])
    found = transferred.gain(both, stage="late", resamples=50)
    assert (found["least"], found["most"], found["images"]) == (50, 400, 4)
    assert found["estimate"] == found["at_most"] == 0.5 and found["at_least"] == 0
    lines = transferred.by_effort(both, resamples=20)
    assert len(lines) == 2 * 2 * 2 and (lines["images"] == 4).all()
    assert lines.groupby("what").size().index.tolist()[-1] == "passes, standard generators"


def test_people_and_networks_are_correlated_in_all_ways():
    table = transferred.people_in_all_ways(resamples=20)
    assert len(table) == 8 and table.loc["first third of depth", "rows"] < 148
    found = transferred.people(given="depth", resamples=20)
    assert found["estimate"] == table.loc["given depth", "estimate"] and found["networks"] == 20


def test_networks_tell_what_they_see(samples):
    model = load_model("zoo/vgg-standard-0")
    metamers = generate(model, samples[:2], "group1", steps=30)
    told = transferred.told(transferred.seen([model, model], "group1", metamers))
    assert len(told) == 2 and all(text.count("\n") == 1 and "✓" in text for text in told)


# --- Representation ------------------------------------------------------------------------------

def simulated_tests(images=8):
    """A made-up study of representation: late metamers of the robust generator keep more."""
    rows, stages = [], []
    random = np.random.default_rng(0)
    observers = [f"{kind}-{number}" for kind in ("standard", "robust") for number in range(3)]
    for generator, observer, stage in itertools.product(
            ["standard-0", "robust-0"], observers, ["group1", "features"]):
        about = {"generator": generator, "matched": "features", "observer": observer,
                 "stage": stage, "generator_training": generator[:-2],
                 "observer_training": observer[:-2]}
        robust = generator.startswith("robust")
        stages.append(about | {
            "part": "stage", "null": "", "image": -1, "same-class_p": 0.001 if robust else 0.2,
            "same-class_kept": 0.6 if robust else 0.1, "top1": 0.5, "natural_95": 0.4,
            "correlation_pearson": 0.5, "euclidean_pearson": 0.6, "cka_score": 0.7})
        for null, image in itertools.product(["random", "same-class", "noise", "blend"],
                                             range(images)):
            better = robust and image < 6
            auc = 0.1 if null == "noise" and stage == "group1" else 1.0 if better else 0.5
            rows.append(about | {
                "part": "image", "null": null, "image": image,
                "auc": auc - (auc < 1) * 0.05 * random.random(), "draws": 99.0,
                "q_value": 0.01 if better else 0.5, "rank": 1.0 if better else 5.0,
                "recognised": image != 0, "similarity": 0.5, "ceiling": 0.9})
    return pd.concat([pd.DataFrame(rows), pd.DataFrame(stages)], ignore_index=True).astype(
        {"recognised": "boolean"})


@pytest.fixture(scope="module")
def representation():
    return simulated_tests()


def test_the_primary_test_is_that_of_other_networks(representation):
    cells = kept.primary(representation)
    assert len(cells) == 2 * 5 * 2 and cells["primary_p"].tolist()[:1] == [1.0]
    assert kept.beyond(representation, training="robust", matched="features") == {
        "count": 10, "cells": 10}
    kinds = kept.by_kind(representation).set_index(["generator_training", "observer_training"])
    assert kinds.loc[("robust", "standard"), "cells"].tolist() == [3, 3]
    beyond = kinds["beyond"].groupby("generator_training").agg(["min", "max"])
    each = kept.by_observer(representation, matched="features")
    assert len(each) == 20 and (each["nearest"] == 0.5).all()
    assert beyond.loc["robust"].tolist() == [1, 1] and beyond.loc["standard"].tolist() == [0, 0]


def test_estimates_of_a_representation_test_are_plain_means(representation):
    rows = kept.of_images(representation, training="robust", matched="features", stage="features",
                          null="same-class")
    found = kept.auc(representation, training="robust", matched="features", stage="features")
    assert found["estimate"] == pytest.approx(rows["auc"].mean())
    assert found["low"] < found["estimate"] < found["high"]
    assert (found["observers"], found["images"], found["count"]) == (5, 8, 10)
    more = kept.gain_of_training(representation, matched="features", stage="features")
    assert 0.3 < more["estimate"] < 0.5
    one = kept.single(representation, training="robust", matched="features", stage="features")
    assert one["estimate"] == one["first"] == 0.75 and one["floor"] == 0.01
    assert kept.fewest_significant(representation) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="no row has odd generators"):
        kept.auc(representation, training="odd", matched="features", stage="features")


def test_tables_of_a_representation_test(representation):
    singles = kept.singles(representation, stage="features").set_index("generator_training")
    assert singles.loc["robust", "significant"] == 75
    assert singles.loc["standard", "recognised"] == 87.5
    better = kept.better_and_worse(representation, matched="features").set_index(
        ["generator_training", "null"])
    assert better.loc[("robust", "noise")].tolist() == [1, 1, 2]
    assert list(kept.second_order(representation, stage="features")["cka_score"]) == [0.7, 0.7]


def test_disagreements_are_counted_and_found(representation):
    found = kept.disagreements(representation, matched="features", stage="features")
    assert [found[name] for name in ("both", "recognised", "identified", "neither")] == [
        25, 45, 5, 5]
    assert found["estimate"] == pytest.approx((45 - 5) / 80)
    cases = list(kept.disagreeing(representation, stage="features").values())
    assert (cases[0]["image"] == 0).all() and len(cases[0]) == 6
    assert (cases[1]["rank"] > 3).all() and cases[1]["recognised"].all()


def test_rejections_of_several_seeds_are_pooled():
    table = pd.concat([level.rejected(10, n=8, units=30, natural=4, draws=3, seed=seed).assign(
        similarity=0.0, of_class=False) for seed in (0, 1)])
    rates, found = level.rates(table), level.rejection(table, test=level.NAIVE)
    assert rates.shape == (1, 18) and found["experiments"] == 20
    assert found["estimate"] == rates.loc[0.0, level.NAIVE] and found["low"] <= found["estimate"]
    worst = level.rejection(table, test="same-class_p|random_p")
    assert worst["estimate"] == rates.loc[0.0, ["same-class_p", "random_p"]].max()
    assert level.kept(table)["of"] == 17 and set(level.SHOWN) <= set(rates)
