"""Estimates of the tables of studies: they are the plain numbers, of the rows that count."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metalib import generate, load_model, transfer
from metalib.evaluation import dyads, kept, level, transferred

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
            "scaled_match": share - 0.1 + 0.1 * random.random(), "control_scaled_match": 0.2,
            "scaled_match_depth": share, "scaled_match_cka": 0.5, "observer_stage_depth": stage,
            "observer_stage_cka": "late", "p_value": 1e-6 if stage == "early" else 5e-4,
            "control_p_value": 0.5,
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
    found = transferred.average(study, stage="late", value="passed")
    assert found["estimate"] == found["low"] == 0
    assert found["high"] == pytest.approx(stats.binomtest(0, 4).proportion_ci().high)  # kinds
    assert transferred.average(study, stage="early", value="passed")["high"] == 1


def test_estimates_of_a_transfer_study_are_the_plain_differences(study):
    rows = transferred.counted(study, stage="late")
    for value in ("scaled_match", "agrees"):
        by = rows.groupby("generator_training")[value].mean()
        found = transferred.contrast(study, stage="late", by="generator_training", first="robust",
                                     second="standard", value=value)
        assert found["estimate"] == pytest.approx(by["robust"] - by["standard"])
    assert found["low"] > 0 and found["generators"] == found["observers"] == 8
    few = {"by": "relation", "first": "other seed", "second": "other architecture"}
    found = transferred.contrast(study, stage="late", trainings=["robust"], **few)
    some = rows[(rows[["generator_training", "observer_training"]] == "robust").all(axis=1)]
    by = some.groupby("relation")["scaled_match"].mean()
    assert found["estimate"] == pytest.approx(by["other seed"] - by["other architecture"])
    assert found["generators"] == 4
    assert transferred.beyond_passing(study, stage="late")["estimate"] == (
        pytest.approx(rows["agrees"].mean()))
    robust = rows[rows["generator_training"] == "robust"]
    for value, noise in (("scaled_match", 0.2), ("agrees", 0)):
        found = transferred.excess(study, stage="late", training="robust", value=value)
        assert found["estimate"] == pytest.approx(robust[value].mean() - noise)
    table = transferred.contrasts(study, stage="late")
    assert list(table.index) == [name for name in transferred.CONTRASTS if "noise" not in name]
    difference = table.loc["other architecture − other training"]
    assert difference["estimate"] > 0.2 and 0 < difference["p"] < 0.3
    assert difference["limit"] in ("images", "pairs of kinds", "pairs of networks")
    assert transferred.asymmetry(study, stage="late")["estimate"] > 0.1


def test_tables_of_a_transfer_study_are_ordered_by_kind_and_depth(study):
    kinds = transferred.by_kind(study, "agrees", stage="late")
    assert list(kinds.index) == list(kinds.columns) == [
        ("standard", "cct"), ("standard", "vgg"), ("robust", "cct"), ("robust", "vgg")]
    made = transferred.made(study)
    assert list(made) == ["early", "late", "accuracy"]
    assert made.loc["cct, standard"].round().tolist() == [100, 83, 83]
    assert list(transferred.by_relation(study, stage="late").index) == list(
        transferred.RELATIONS)
    assert set(transferred.by_stage(study)["stage"]) == {"early", "late"}
    assert len(transferred.by_depth(study)) == 2 * 2 * 2 * 2
    assert len(transferred.excesses(study)) == 4


def copied(study):
    """Positive controls of the made-up study: mirror images are as similar as half of copies."""
    seen = study.drop_duplicates(["observer", "stage", "image"])[
        ["observer", "stage", "image", "observer_training", "observer_architecture"]]
    kinds = {"JPEG": (1.0, True, 1e-6), "mirror image": (0.5, True, 5e-4)}
    return pd.concat([seen.assign(control=name, scaled_match=match, agrees=agrees, p_value=p,
                                  passed=p < 1e-5) for name, (match, agrees, p) in kinds.items()])


def test_metamers_stand_beside_copies_of_their_references(study):
    copies, rows = copied(study), transferred.counted(study, stage="late")
    found = transferred.beyond_mirror(study, copies, stage="late")
    assert found["estimate"] == pytest.approx(rows["scaled_match"].mean() - 0.5)
    table = transferred.of_copies(copies).set_index(["control", "stage"])
    assert table.loc[("mirror image", "late")].tolist() == [0.5, 1, 0]
    matrix = transferred.by_kind(study, "passed", stage="late")
    below = transferred.beside_copies(matrix, copies, "passed", stage="late")
    assert below[:4].equals(matrix) and len(below) == 6
    assert below.loc[("copies", "JPEG")].tolist() == [1] * 4
    assert below.loc[("copies", "mirror")].tolist() == [0] * 4


def test_shares_that_pass_rise_with_the_threshold(study):
    curves = transferred.by_threshold(study, copied(study), stage="late")
    assert (curves["passed"] <= curves["similar"]).all() and (curves["p"] <= 0.1001).all()
    rows = transferred.counted(study, stage="late")
    robust = curves[curves["shown"] == "metamers of robust networks"].set_index("p")
    assert robust["similar"].is_monotonic_increasing
    assert robust["passed"].iloc[-1] == rows.loc[
        rows["generator_training"] == "robust", "agrees"].mean()
    assert robust["similar"].iloc[0] == 0 and robust["similar"].iloc[-1] == 1
    assert transferred.passing(study, stage="late")["estimate"] == 0
    assert transferred.passing(study, stage="late", p=1e-4)["estimate"] == 0
    assert transferred.passing(study, stage="late", p=1e-3)["estimate"] == (
        pytest.approx(rows["agrees"].mean()))


def test_contrasts_are_told_for_each_way_to_choose_a_stage(study):
    table = transferred.by_way(study, stage="late").set_index(["contrast", "way"])
    assert len(table) == len(transferred.contrasts(study, stage="late")) * len(transferred.WAYS)
    assert table.loc[("generators: robust − standard", "by depth"), "estimate"] > 0.3
    assert table.loc[("generators: robust − standard", "by CKA"), "estimate"] == pytest.approx(0)
    told = transferred.told_by_relation(study, stage="late")
    assert told.loc["other seed", "metamers pass"].startswith("0.00 (")
    shown = transferred.chosen(study, stage="late")
    assert shown.loc["by CKA"].tolist() == shown.loc["by name"].tolist() == [0, 100]


# --- What shared invariances require -------------------------------------------------------------

SLOPES = {"same architecture": 0.1, "same training": 0.2, "generator: robust accuracy": 0.12}


def planted(random, architectures=4, trainings=2, slopes=SLOPES):
    """What pairs of kinds share, by a planted truth, and its predictors.

    Each kind has effects of its own as a generator and as an observer, as large as those of pairs.
    """
    names = [(str(t), str(a)) for a in range(architectures) for t in range(trainings)]
    last = np.array([name[0] == str(trainings - 1) for name in names])
    accuracy = 9 - last + random.normal(size=len(names)) * 0.2
    robust = 5 * last + random.normal(size=len(names)) * 0.4
    predictors = transferred._predictors(names, accuracy, robust)
    share = sum(slopes.get(name, 0) * values for name, values in predictors.items())
    kinds = random.normal(size=(len(names), 1)), random.normal(size=len(names))
    return share + 0.06 * (kinds[0] + kinds[1] + random.normal(size=share.shape)), predictors


def test_a_planted_truth_of_pairs_of_kinds_is_found():
    found = [dyads.explained(*planted(np.random.default_rng(seed)), permutations=199, seed=seed)
             for seed in range(60)]
    means = pd.concat(found)["estimate"].groupby(level=0).mean()
    for name in transferred.PREDICTORS[:2]:
        assert means[name] == pytest.approx(SLOPES[name], abs=0.02)
    truth = np.array([SLOPES.get(name, 0) for name in transferred.PREDICTORS])
    covered = np.array([(table["low"] <= truth) & (truth <= table["high"]) for table in found])
    least = stats.binom.ppf(0.001, 60, 0.95) / 60
    assert (covered.mean(0) >= least).all(), covered.mean(0)
    p = np.array([table["p"] for table in found])
    assert (p[:, :2] <= 0.05).mean() > 0.9
    most = stats.binom.ppf(0.999, 60, 0.05) / 60
    assert ((p <= 0.05).mean(0)[truth == 0] <= most).all()
    for table in found[:5]:  # an interval holds what the test does not reject
        assert ((table["p"] <= 0.05) == ((table["low"] > 0) | (table["high"] < 0))).all()


def test_coefficients_are_those_of_least_squares_and_p_values_have_a_floor():
    matrix, predictors = planted(np.random.default_rng(0), 3, 2)
    matrix[1, 2] = np.nan
    found = dyads.explained(matrix, predictors)
    known = np.isfinite(matrix).ravel()
    design = np.stack([np.ones(known.sum()), *(x.ravel()[known] for x in predictors.values())], 1)
    expected = np.linalg.lstsq(design, matrix.ravel()[known], rcond=None)[0][1:]
    assert found["estimate"].tolist() == pytest.approx(expected.tolist())
    assert (found["p"] >= found["floor"]).all() and (found["floor"] >= 1 / 720).all()
    one = dyads.explained(matrix, {"same training": predictors["same training"]})
    # of 720 orders of six kinds, 2! (3!)^2 keep both groups of three together
    assert one.loc["same training", "floor"] == pytest.approx(72 / 720, abs=0.02)
    with pytest.raises(ValueError, match="some determine others"):
        dyads.explained(matrix, {"a": predictors["same training"],
                                 "b": 1 - predictors["same training"]})
    with pytest.raises(ValueError, match="a square matrix"):
        dyads.explained(matrix[:2], predictors)


def test_what_pairs_share_is_explained_by_the_cards():
    kinds = [(architecture, training) for architecture in ("cct", "convnext", "resnet", "vgg")
             for training in ("standard", "robust")]
    random = np.random.default_rng(0)
    rows = pd.DataFrame([{
        "generator": "-".join(g), "observer": f"{'-'.join(o)}-1", "stage": "late", "image": image,
        "generator_passed": True, "generator_architecture": g[0], "generator_training": g[1],
        "observer_architecture": o[0], "observer_training": o[1],
        "scaled_match": 0.3 + 0.2 * (g[1] == o[1]) + 0.01 * random.normal()}
        for g, o, image in itertools.product(kinds, kinds, range(3))])
    table = transferred.required(rows, stage="late", permutations=99)
    assert list(table.index) == list(transferred.PREDICTORS)
    assert table.loc["same training", "estimate"] == pytest.approx(0.2, abs=0.02)
    found = transferred.requirement(rows, stage="late", predictor="same architecture")
    assert abs(found["estimate"]) < 0.02 and found["kinds"] == 8 and found["images"] == 3


def test_effort_is_compared_on_the_same_metamers(study):
    late = study[study["stage"] == "late"]
    more = late.assign(steps=400, passed=late["generator_training"] == "robust")
    few = late.assign(steps=50, generator_passed=late["image"] > 1)
    both = pd.concat([few, more])
    found = transferred.gain(both, stage="late")
    assert (found["least"], found["most"], found["images"]) == (50, 400, 4)
    assert found["estimate"] == pytest.approx(0.5)
    assert found["at_most"] == 0.5 and found["at_least"] == 0


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
    assert kept.fewest_significant(representation) == one["detectable"] == 4 / 16  # 3.2 or more
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
