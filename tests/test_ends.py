"""Where descent ends, in tables whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from metalib.evaluation import ends
from metalib.evaluation.costs import DEFAULT


def matches(per_evaluation, goals, *, images=10, seeds=(0, 1), steps=100, spread=1.0):
    """A rule whose match grows by so many dB an evaluation, by stage, and published ends."""
    random, ours, published = np.random.default_rng(0), [], []
    for stage, slope in per_evaluation.items():
        offset = random.normal(0, spread, images)
        for seed in seeds:
            ours += [{"model": "net", "stage": stage, "optimizer": DEFAULT, "seed": seed,
                      "image": image, "evaluations": count,
                      "match_db": slope * count + offset[image]}
                     for count in range(1, steps + 1) for image in range(images)]
        published += [{"model": "net", "stage": stage, "image": image, "evaluations": count,
                       "match_db": share * goals[stage] + offset[image]}
                      for count, share in ((12_000, 0.5), (24_000, 1.0)) for image in range(images)]
    return pd.DataFrame(ours), pd.DataFrame(published)


def test_evaluations_to_the_published_match_are_those_planted():
    ours, published = matches({"early": 1.0, "late": 0.5, "never": 0.1},
                              {"early": 40, "late": 40, "never": 40})
    found = ends.times_fewer(ours, published, resamples=200).set_index("stage")
    assert found["evaluations"].tolist() == [40, 79, np.inf]  # 39.5 dB are close enough to 40
    assert found["times_fewer"].tolist() == [600, 24_000 / 79, 0]
    assert found["published_evaluations"].tolist() == [24_000] * 3
    assert found.loc["never", ["low", "high"]].tolist() == [0, 0]
    # offsets are those of the images, which are resampled together with the published ends
    assert found.loc["early", ["low", "high"]].tolist() == [600, 600]
    assert (found["published_worst_db"] < found["published_db"]).all()
    assert found["worst_db"].between(10 - 4, 100).all()


def test_what_rounding_costs_where_the_published_match_is_not_reached():
    ours, published = matches({"early": 1.0, "never": 0.1}, {"early": 40, "never": 40}, spread=0)
    found = ends.unreached(ours.assign(unrounded_db=ours["match_db"] + 30), published)
    assert found["stages"] == ["net, never"]
    assert (found["before"], found["after"]) == pytest.approx((40, 10))
    reached, published = matches({"early": 1.0}, {"early": 40})
    found = ends.unreached(reached.assign(unrounded_db=0.0), published)
    assert found["stages"] == [] and np.isnan(found["before"])


def test_evaluations_are_worth_as_many_published_steps_as_are_planted():
    """Matches of 20 dB after 1,000 steps and of 40 dB after 100,000, linear in the logarithm."""
    ours, _ = matches({"half": 0.3, "all": 2.0}, {"half": 1, "all": 1})
    published = pd.DataFrame([
        {"model": "net", "stage": stage, "image": image, "evaluations": count,
         "match_db": decibel + own}
        for stage in ("half", "all") for count, decibel in ((1_000, 20.0), (100_000, 40.0))
        for image, own in ours[(ours["stage"] == stage) & (ours["evaluations"] == 100)
                               & (ours["seed"] == 0)].set_index("image")["match_db"].sub(
                                   30 if stage == "half" else 200).items()])
    found = ends.worth(ours, published, resamples=100).set_index("stage")
    assert found["steps"].tolist() == pytest.approx([10_000, 100_000])
    assert found["times"].tolist() == pytest.approx([100, 1_000])
    assert found["low"].tolist() == pytest.approx([100, 1_000])  # images differ alike in both
    assert found.loc["half", "match_db"] == pytest.approx(30, abs=2)
    mean = ends.worth_in_all(ours, published)
    assert mean["estimate"] == pytest.approx(np.sqrt(100 * 1_000))
    assert (mean["lowest"], mean["highest"], mean["of"]) == (
        pytest.approx(100), pytest.approx(1_000), 2)
    more = pd.concat([ours.assign(steps=100), ours.assign(steps=50, match_db=0.0)])
    assert ends.worth(more, published, resamples=0)["times"].tolist() == pytest.approx([100, 1_000])


def test_only_images_of_the_published_procedure_count():
    ours, published = matches({"early": 1.0}, {"early": 40})
    few = ends.times_fewer(ours, published[published["image"] < 6], resamples=0)
    assert few["evaluations"].tolist() == ends.times_fewer(
        ours[ours["image"] < 6], published[published["image"] < 6], resamples=0)[
            "evaluations"].tolist()


def test_the_share_of_stages_counts_those_that_are_clearly_cheaper():
    stages = {"a": 1.0, "b": 1.0, "c": 0.5, "d": 0.1}
    ours, published = matches(stages, dict.fromkeys(stages, 40.0))
    found = ends.share_fewer(ours, published, least=500)
    assert (found["estimate"], found["count"], found["of"]) == (0.5, 2, 4)
    assert (found["clear"], found["lowest"]) == (2, 0)
    assert found["typical"] == pytest.approx((600 + 24_000 / 79) / 2)
    assert (found["low"], found["high"]) == (0.5, 0.5)


def test_matches_of_other_images_are_refused():
    ours, published = matches({"early": 1.0}, {"early": 40})
    with pytest.raises(ValueError, match="not of the same"):
        ends.times_fewer(ours[ours["image"] < 5], published)


def test_a_published_result_that_is_the_reference_itself_is_no_goal():
    ours, published = matches({"stem": 1.0, "late": 1.0}, {"stem": 200, "late": 40})
    published["match_db"] = published["match_db"].clip(upper=ends.SAME)
    found = ends.times_fewer(ours, published, resamples=0).set_index("stage")
    assert found["identical"].to_dict() == {"stem": True, "late": False}
    told = ends.share_fewer(ours, published, least=500)
    assert (told["of"], told["identical"], told["count"]) == (1, 1, 1)


def test_a_published_run_that_is_as_close_before_its_end_is_told():
    ours, published = matches({"late": 1.0}, {"late": 40})
    early = published["evaluations"] == 12_000
    published.loc[early, "match_db"] = published.loc[~early, "match_db"].to_numpy() - 0.2
    found = ends.times_fewer(ours, published, resamples=0)
    assert found["published_evaluations"].item() == 12_000
    assert ends.share_fewer(ours, published)["beside_earliest"] == 12_000 / 40


def test_the_best_number_of_steps_counts():
    """A rule with a schedule is slow in a long run, and a short one does not get far."""
    ours, published = matches({"easy": 1.0, "hard": 1.0}, {"easy": 20, "hard": 60})
    long = ours.assign(steps=100)
    short = ours[ours["evaluations"] <= 25].assign(
        steps=25, match_db=lambda rows: rows["match_db"] + rows["evaluations"])
    found = ends.times_fewer(pd.concat([long, short]), published, resamples=20).set_index("stage")
    assert found["evaluations"].to_dict() == {"easy": 10, "hard": 60}


def test_the_nearest_rival_is_named_and_one_that_does_not_get_there_is_counted():
    ours, published = matches({"a": 1.0, "b": 1.0}, {"a": 40, "b": 40})
    rivals = [ours.assign(optimizer=name, match_db=ours["match_db"] * factor)
              for name, factor in (("near", 0.5), ("far", 0.2))]
    found = ends.rival_to_match(pd.concat([ours, *rivals]), published)
    assert found["rule"] == "near" and found["of"] == 2
    assert found["estimate"] == pytest.approx(2, rel=0.05)
    assert found["low"] <= found["estimate"] <= found["high"]
    assert (found["unreached"], found["baseline_unreached"]) == (0, 0)
    alone = ends.rival_to_match(pd.concat([ours, rivals[1]]), published)
    assert alone["rule"] == "far" and alone["unreached"] == 2
    assert alone["estimate"] == pytest.approx(100 / 40)


# --- Local minima --------------------------------------------------------------------------------

def minima(trapped, *, networks=6, images=8, starts=10):
    """Ends at 40 dB, but for a share of starts of each kind that rest at 20 dB."""
    random, rows = np.random.default_rng(0), []
    for start, share in trapped.items():
        for network in range(networks):
            for image in range(images):
                caught = random.random(starts) < share
                caught[0] = False
                unrounded = np.where(caught, 20.0, 40.0) + random.normal(0, 0.5, starts)
                rows.append(pd.DataFrame({
                    "model": f"net {network}", "stage": "late", "optimizer": DEFAULT,
                    "start": start, "image": image, "seed": range(starts),
                    "unrounded_db": unrounded, "half_db": unrounded - 1, "match_db": unrounded,
                    "distance": 0.2}))
    return pd.concat(rows, ignore_index=True)


def test_ends_that_are_clearly_worse_are_counted_and_told_from_slow_ones():
    table = minima({"noise": 0.3, "near": 0.05})
    found = ends.by_start(table).set_index("start")
    assert found["worse"].to_dict() == pytest.approx({"noise": 0.27, "near": 0.045}, abs=0.05)
    assert np.allclose(found["still"], found["worse"])
    assert ((found["low"] <= found["worse"]) & (found["worse"] <= found["high"])).all()
    assert found["best_db"].between(39.5, 42).all()
    slow = ends.stuck(table.assign(half_db=table["unrounded_db"] - 15))
    assert slow["worse"].any() and not slow["still"].any()
    told = ends.share_worse(table)
    assert (told["starts"], told["networks"], told["images"]) == (10, 6, 8)
    assert told["estimate"] == pytest.approx(found.loc["noise", "worse"])
    avoided = ends.near_avoids(table, "near")
    assert avoided["low"] > 0
    assert avoided["estimate"] == pytest.approx(-found["worse"].diff().iloc[-1])
