"""Networks of others: families, a series of widths and a second training, on planted tables."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metalib.evaluation import crossed, kept
from metalib.evaluation.strangers import (
    beyond_noise,
    by_origin,
    families,
    in_other_families,
    like_copies,
    of_widths,
    robust_by_others,
    same_architecture,
    under_attack,
    wider,
)

WIDTHS = ("0.25_128", "0.5_160", "0.75_192", "1.0_224")
NAMES = [*(f"mobilenet_v1_{width}" for width in WIDTHS), "mobilenet_v2", "mobilenet_v2_again",
         "squeezenet1_0", "squeezenet1_1", "efficientnet_lite0"]


def architecture(name):
    return name.removesuffix("_again")


@pytest.fixture
def planted():
    """A table in which twice the width adds .1, and a second training .2."""
    random, rows = np.random.default_rng(0), []
    of_image = random.normal(0, 0.05, 30)
    for generator in NAMES:
        for observer in NAMES:
            width = float(generator.split("_")[2]) if "v1" in generator else 1.0
            twins = architecture(generator) == architecture(observer) and generator != observer
            mean = 0.5 + 0.1 * np.log2(width) + 0.2 * twins
            rows += [{"generator": generator, "observer": observer, "image": image,
                      "stage": "features", "generator_passed": True, "generator_training": "a",
                      "observer_training": "a", "generator_architecture": architecture(generator),
                      "observer_architecture": architecture(observer),
                      "relation": "other seed" if twins else "other architecture",
                      "scaled_match": mean + of_image[image] + random.normal(0, 0.05)}
                     for image in range(30)]
    return pd.DataFrame(rows)


def test_what_is_planted_is_found(planted):
    found = wider(planted, stage="features")
    assert found["low"] < 0.1 < found["high"] and found["high"] - found["low"] < 0.05
    assert (found["widths"], found["observers"], found["images"]) == (4, 5, 30)
    twice = same_architecture(planted, stage="features")
    assert twice["low"] < 0.2 < twice["high"] and twice["generators"] == 2
    assert twice["twin"] - twice["others"] == pytest.approx(twice["estimate"])
    widths = of_widths(planted, stage="features")
    assert list(widths["width"]) == [0.25, 0.5, 0.75, 1.0] and (widths["observers"] == 5).all()
    assert np.allclose(widths["estimate"], 0.5 + 0.1 * np.log2(widths["width"]), atol=0.04)


def test_the_interval_of_a_second_training_is_that_of_scipy(planted):
    rows = planted[planted["generator"].str.startswith("mobilenet_v2")
                   & (planted["generator"] != planted["observer"])]
    means = rows.groupby(["generator", "image", "relation"])["scaled_match"].mean().unstack()
    each = (means["other seed"] - means["other architecture"]).groupby("image").mean()
    theirs = stats.ttest_1samp(each, 0).confidence_interval()
    ours = same_architecture(planted, stage="features")
    assert (ours["low"], ours["high"]) == pytest.approx(tuple(theirs))


def test_slopes_are_those_of_scipy(planted):
    """Of metamers that fail at one width, the image is left out."""
    planted.loc[(planted["generator"] == NAMES[0]) & (planted["image"] == 3),
                "generator_passed"] = False
    ours = wider(planted, stage="features")
    rows = planted[planted["generator"].isin(NAMES[:4]) & planted["observer"].isin(NAMES[4:])
                   & (planted["image"] != 3)]
    width = rows["generator"].str.split("_").str[2].astype(float)
    assert ours["images"] == 29
    assert ours["estimate"] == pytest.approx(
        stats.linregress(np.log2(width), rows["scaled_match"]).slope)


def test_without_a_series_or_a_twin_nothing_is_claimed(planted):
    rows = planted[planted["generator"].isin(["squeezenet1_0", "efficientnet_lite0"])]
    for found in (wider(rows, stage="features"), same_architecture(rows, stage="features")):
        assert np.isnan([found["estimate"], found["low"], found["high"]]).all()
    assert of_widths(rows, stage="features").empty


def test_networks_of_a_family_count_less_than_as_many_families(planted):
    """Networks of a family are alike: without families the interval is too narrow."""
    random = np.random.default_rng(1)
    added = {name: random.normal(0, 0.3) for name in ("v1", "v2", "sq", "ef")}
    of = planted["generator"].map(lambda name: added[
        "v1" if "v1" in name else "v2" if "v2" in name else name[:2]])
    rows = planted.assign(scaled_match=planted["scaled_match"] + of)
    nested, apart = (crossed.estimate(table, value="scaled_match") for table in (
        families(rows), rows))
    assert nested["high"] - nested["low"] > apart["high"] - apart["low"]
    assert set(families(rows)["generator_kind"]) == {
        "mobilenet_v1, a", "mobilenet_v2, a", "squeezenet, a", "efficientnet_lite, a"}


def test_families_are_nested_in_estimates_of_claims(planted):
    control = planted.assign(control_scaled_match=planted["scaled_match"] - 0.3)
    nested = crossed.estimate(families(planted[planted["generator"] != planted["observer"]]),
                              value="scaled_match")
    found = like_copies(planted, stage="features")
    assert {key: found[key] for key in ("estimate", "low", "high")} == {
        key: nested[key] for key in ("estimate", "low", "high")}
    assert beyond_noise(control, stage="features")["estimate"] == pytest.approx(0.3)


@pytest.fixture
def origins():
    """Bundled networks and those of others: robust ones of both keep .3 more."""
    random, rows = np.random.default_rng(0), []
    names = {**{f"zoo/{name}-{training}-0": (name, training) for name in ("vgg", "cct", "resnet")
                for training in ("standard", "robust")},
             "public/cifar_cnn_a_adv": ("cifar_cnn_a", "robust"),
             "public/cifar_cnn_a_mix4": ("cifar_cnn_a", "robust, mixed"),
             "public/cifar_resnet4b_adv": ("cifar_resnet4b", "robust")}
    for generator, (architecture, training) in names.items():
        for observer, (other, training_of_other) in names.items():
            rows += [{"generator": generator, "observer": observer, "image": image,
                      "stage": "features", "generator_passed": True, "relation": "both differ",
                      "generator_training": training, "observer_training": training_of_other,
                      "generator_architecture": architecture, "observer_architecture": other,
                      "scaled_match": 0.3 * training.startswith("robust")
                      + random.normal(0, 0.05)} for image in range(20)]
    return pd.DataFrame(rows)


def test_generators_are_told_apart_by_who_trained_them(origins):
    means = by_origin(origins, stage="features").set_index("origin")
    assert list(means.index) == ["robust, by others", "robust, bundled", "standard, bundled"]
    assert list(means["generators"]) == [3, 3, 3]
    found = robust_by_others(origins, stage="features")
    assert found["low"] < 0.3 < found["high"] and found["low"] > 0
    same = robust_by_others(origins, stage="features", second="robust, bundled")
    assert abs(same["estimate"]) < 0.05
    bundled = origins[origins["generator"].str.startswith("zoo/")]
    assert np.isnan(robust_by_others(bundled, stage="features")["estimate"])


def test_networks_that_were_attacked_stand_beside_bundled_ones():
    answers = pd.DataFrame([
        ("public/a", "class", 200, 0.75), ("public/a", "class, under attack", 200, 0.5),
        ("public/b", "class", 100, 0.9)], columns=["model", "answer", "images", "accuracy"])
    cards = pd.DataFrame({"name": ["zoo/c"], "n": [3925], "accuracy": [0.86], "robust": [0.55]})
    shown = under_attack(answers, cards)
    assert shown.to_dict("index") == {
        "zoo/c": {"images": 3925, "right": pytest.approx(86), "under attack": pytest.approx(55)},
        "public/a": {"images": 200, "right": 75, "under attack": 50}}
    assert len(under_attack(answers[answers["model"] == "public/b"], cards)) == 1


def test_families_are_observers_of_a_representation_test():
    """A family's networks are one observer, and those of the generator's own family none."""
    shares = {"public/mobilenet_v1_0.5_160": 0.9, "public/mobilenet_v1_1.0_224": 0.8,
              "public/squeezenet1_1": 0.6, "public/squeezenet1_0_dc": 0.4,
              "public/efficientnet_lite0": 0.7}
    rows = [{"part": "image", "generator": generator, "observer": observer, "matched": "features",
             "stage": "features", "null": "same-class", "image": image, "auc": share,
             "generator_training": "standard"}
            for generator in ("public/mobilenet_v1_0.5_160", "public/squeezenet1_1")
            for observer, share in shares.items() for image in range(4)]
    nested = in_other_families(pd.DataFrame(rows))
    asked = {"matched": "features", "stage": "features"}
    values = kept.of_images(nested, **asked).pivot_table("auc", "observer", "image")
    assert values.mean(axis=1).to_dict() == pytest.approx(
        {"mobilenet_v1": 0.85, "squeezenet": 0.5, "efficientnet_lite": 0.7})
    found = kept.auc(nested, **asked)
    assert found["estimate"] == pytest.approx(np.mean([0.85, 0.5, 0.7])) and found["observers"] == 3
    with pytest.raises(kept.NoRows, match="robust generators"):
        kept.auc(nested, training="robust", **asked)
