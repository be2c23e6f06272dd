"""Statistics of crossed designs: they recover a planted truth, and their intervals cover it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import mixedlm

from metalib import crossed, studies
from metalib.evaluation.coverage import by_share, coverage, covered, simulated_study

PUBLISHED = Path(__file__).parents[1] / "book" / "feather2023.csv"
EFFECTS = {"other training": 0.5, "other architecture": 0.3, "both differ": 0.0}


def simulated(rng, architectures=4, images=20, dropped=0.0, effects=EFFECTS,
              spread=(0.6, 0.4, 0.6, 0.4, 0.3, 0.3, 1.0)):
    """Two trainings of each architecture: effects of generators, observers, images and their pairs,
    and noise.
    """
    models = [(architecture, training) for architecture in range(architectures)
              for training in range(2)]
    count = len(models)
    shapes = [(count, 1, 1), (1, count, 1), (1, 1, images), (count, count, 1), (count, 1, images),
              (1, count, images), (count, count, images)]
    values = sum(size * rng.standard_normal(shape) for size, shape in zip(spread, shapes))
    generator, observer, image = (axis.ravel() for axis in np.indices((count, count, images)))
    same = [np.array(models)[generator, part] == np.array(models)[observer, part]
            for part in (0, 1)]
    relation = np.select([same[0] & same[1], same[0], same[1]],
                         ["itself", "other training", "other architecture"], "both differ")
    table = pd.DataFrame({"generator": generator, "observer": observer, "image": image,
                          "relation": relation})
    table["agrees"] = values.ravel() + table["relation"].map(effects).fillna(0)
    counts = rng.random((count, images)) >= dropped  # a dropped metamer is so for all observers
    return table[(table["relation"] != "itself") & counts[generator, image]].reset_index(drop=True)


@pytest.mark.parametrize(
    "study",
    [{}, {"architectures": 3, "dropped": 0.3}, {"spread": (1, 0.7, 0.3, 0, 0, 0, 0.5)}],
    ids=["all effects", "few models, many dropped", "main effects only"])
def test_intervals_cover_the_truth_and_are_not_needlessly_wide(study):
    """At least 93 % of the 95 % intervals of contrasts hold the planted difference, and estimates
    scatter nearly as widely.
    """
    pairs = [("other training", "other architecture"), ("other training", "both differ"),
             ("other architecture", "both differ")]
    truth = np.array([EFFECTS[a] - EFFECTS[b] for a, b in pairs])
    tables = [simulated(np.random.default_rng(seed), **study) for seed in range(60)]
    results = [crossed.differences(table, "relation", pairs) for table in tables]
    low, high, estimates = (np.stack([result[name] for result in results])
                            for name in ("low", "high", "difference"))
    assert ((low <= truth) & (truth <= high)).mean() >= 0.93
    assert (np.abs(estimates.mean(0) - truth) < 0.1).all()
    assert ((high - low).mean(0) < 1.7 * 3.92 * estimates.std(0)).all()


def test_intervals_of_means_cover_the_truth():
    tables = [simulated(np.random.default_rng(seed)) for seed in range(60)]
    results = [crossed.means(table, "relation") for table in tables]
    held = [table["relation"].map(EFFECTS).between(table["low"], table["high"])
            for table in results]
    assert np.mean(held) >= 0.93
    trained = [crossed.differences(table.assign(training=table["generator"] % 2), "training",
                                   [(0, 1)])
               for table in tables]  # groups of generators, which differ by chance only
    low, high, estimates = (np.array([result[name].item() for result in trained])
                            for name in ("low", "high", "difference"))
    assert (((low <= 0) & (0 <= high)).mean() >= 0.93
            and (high - low).mean() < 1.7 * 3.92 * estimates.std())
    naive = np.mean([1.96 * table.groupby("relation")["agrees"].sem().mean() for table in tables])
    # rows are not independent
    assert np.mean([(table["high"] - table["low"]) / 2 for table in results]) > 2 * naive


def test_means_are_plain_means_and_do_not_depend_on_the_order_of_rows():
    table = simulated(np.random.default_rng(0), dropped=0.4)
    ours = crossed.means(table, ["relation"]).set_index("relation")
    assert np.allclose(ours["mean"], table.groupby("relation", sort=False)["agrees"].mean())
    shuffled = crossed.means(table.sample(frac=1, random_state=1), "relation").set_index("relation")
    assert np.allclose(shuffled.loc[ours.index, ["low", "high"]], ours[["low", "high"]])
    assert ours.loc["other training", ["generators", "observers", "rows"]].tolist() == [
        8, 8, (table["relation"] == "other training").sum()]
    alone = crossed.means(table[table["generator"] == 0], [])
    # one generator says nothing about others
    assert alone["mean"].notna().all() and alone[["low", "high"]].isna().all(axis=None)


def test_an_empty_group_is_said_to_be_empty():
    result = crossed.differences(simulated(np.random.default_rng(0)), "relation",
                                 [("other seed", "other training")])
    assert result["empty"].tolist() == ["other seed"] and np.isnan(result["difference"]).all()


def test_stages_of_one_model_are_not_taken_for_more_models():
    """The same values at three stages are no more evidence than at one."""
    table = simulated(np.random.default_rng(3))
    tripled = pd.concat([table.assign(stage=stage) for stage in "abc"], ignore_index=True)
    once, thrice = (crossed.means(rows, "relation") for rows in (table, tripled))
    assert np.allclose(once[["low", "high"]], thrice[["low", "high"]])
    shifted = tripled.assign(agrees=tripled["agrees"] + tripled["stage"].map(ord))
    found = crossed.means(shifted[shifted["image"] != shifted["stage"].map(ord) % 5], "relation")
    assert ((found["high"] - found["low"]) < 1.1 * (once["high"] - once["low"])).all()


def test_intervals_are_students_where_one_factor_varies():
    """With effects of one factor only, the interval of the mean is scipy's of its means."""
    rng = np.random.default_rng(0)
    for factor, rows in (("generator", (9, 1, 1)), ("observer", (1, 9, 1)), ("image", (1, 1, 9))):
        values = 0.3 + rng.standard_normal(rows) + np.zeros((9, 9, 9))
        table = pd.DataFrame({name: axis.ravel() for name, axis
                              in zip(crossed.FACTORS, np.indices(values.shape))})
        table["observer"] += 9  # other networks than the generators
        found = crossed.estimate(table.assign(agrees=values.ravel()))
        each = stats.ttest_1samp(values.mean(tuple(k for k in range(3) if rows[k] == 1)), 0)
        assert np.allclose([found["low"], found["high"]], each.confidence_interval(0.95))
        assert round(found["freedom"]) == 8 and factor in found["limit"]


def test_two_seeds_of_a_kind_are_no_second_kind():
    """Where seeds do not differ, the interval is that of one seed of each kind."""
    one = simulated_study(share=1.0, seeds=1, seed=3)
    keys = ["generator_architecture", "generator_training", "observer_architecture",
            "observer_training", "image"]
    other = one.assign(generator=one["generator"] + 100)
    both = pd.concat([table.assign(observer=table["observer"] + shift)
                      for table in (one, other) for shift in (0, 100)], ignore_index=True)
    assert not both.duplicated(["generator", "observer", "image"]).any()
    single, nested = (crossed.differences(table, "relation", [("other training", "both differ")],
                                          value="value") for table in (one, both))
    flat = crossed.differences(both.drop(columns=keys[:4]), "relation",
                               [("other training", "both differ")], value="value")
    width = [(found["high"] - found["low"]).item() for found in (single, nested, flat)]
    assert np.isclose(width[0], width[1], rtol=0.02) and width[2] < 0.75 * width[1]
    assert nested["limit"].item() == "pairs of kinds"


@pytest.mark.parametrize(("share", "options"), [
    (0.0, {}), (0.5, {"architectures": 2, "dropped": 0.3, "boolean": True}), (0.9, {})])
def test_networks_nested_in_kinds_keep_the_level(share, options):
    """In studies of the size that is run no contrast is found to differ more often than 99 % of
    tests at 5 % are; taken for independent, networks of a kind deceive.
    """
    sizes = {"architectures": 3, "images": 6} | options
    found = covered(40, share=share, seed=1000, **sizes)
    nested = found[found["networks"] == "nested in kinds"]
    assert (nested["rejected"] <= stats.binom.ppf(0.9999, nested["studies"], 0.05)).all()
    assert nested["rejected"].sum() / nested["studies"].sum() < 0.08


def test_the_record_of_coverage_is_what_the_report_needs():
    """A thousand made-up studies of the design that is run, for each share of the variance."""
    table = studies.table("coverage")
    rows = table[(table["networks"] == "nested in kinds") & ~table["boolean"]]
    sums = rows.groupby(["contrast", "share"])[["rejected", "studies"]].sum()
    assert (sums["studies"] == 1000).all() and len(sums) == 10 * 3
    assert (1 - sums["rejected"] / sums["studies"] >= 0.93).all()
    most = stats.binom.ppf(0.995, sums["studies"], 0.05)
    assert (sums["rejected"] <= most).all() and coverage(table)["within"] > 0.9 * len(sums)
    assert len(by_share(table)) == 6 and len(by_share(table, boolean=True)) == 6
    worst = coverage(table, networks="taken for independent", share=0.9)
    assert worst["high"] < 0.93 < coverage(table)["estimate"]


def test_variance_explained_finds_whose_effect_it_is():
    for spread, factor in (((1, 0, 0, 0, 0, 0, 0.1), "generator"),
                           ((0, 1, 0, 0, 0, 0, 0.1), "observer"),
                           ((0, 0, 0, 1, 0, 0, 0.1), "rest")):
        table = simulated(np.random.default_rng(0), effects={}, spread=spread)
        shares = crossed.variance_explained(table)
        assert shares["estimate"].idxmax() == factor and shares.loc[factor, "estimate"] > 0.6
        assert (shares["low"] <= shares["high"]).all()
    import statsmodels.formula.api as smf
    cells = table.groupby(["generator", "observer"], as_index=False)["agrees"].mean()
    both, without = (smf.ols(f"agrees ~ {terms}", cells).fit().rsquared
                     for terms in ("C(generator) + C(observer)", "C(observer)"))
    assert (np.isclose(shares.loc["generator", "estimate"], both - without)
            and np.isclose(shares.loc["rest", "estimate"], 1 - both))


def test_asymmetry_finds_mutual_and_one_sided_pairs():
    rng = np.random.default_rng(0)
    pair = rng.standard_normal((8, 8))
    tables = {}
    for name, values in (("mutual", pair + pair.T), ("one-sided", pair - pair.T),
                         ("generators", pair[:, :1] + 0 * pair)):
        cells = pd.DataFrame(values + 0.01 * rng.standard_normal((8, 8))).stack().rename_axis(
            ["generator", "observer"])
        tables[name] = pd.concat([cells.rename("agrees").reset_index().assign(image=image)
                                  for image in range(5)])
    found = {name: crossed.asymmetry(table) for name, table in tables.items()}
    assert (found["mutual"].loc["correlation", "estimate"] > 0.99
            and found["mutual"].loc["difference", "estimate"] < 0.1)
    assert found["one-sided"].loc["correlation", "estimate"] < -0.99
    assert found["generators"].loc["difference", "estimate"] > 0.5
    with pytest.raises(ValueError, match="three models"):
        crossed.asymmetry(tables["mutual"].query("generator < 2"))


def test_noise_of_images_is_no_asymmetry():
    """The difference of two directions is the planted one, with few images and much noise."""
    rng, found = np.random.default_rng(0), []
    for planted in (0.0, 0.5):
        pair = rng.standard_normal((10, 10)) * planted / 2 ** 0.5
        values = pair[:, :, None] + rng.standard_normal((10, 10, 6))
        cells = pd.DataFrame({name: axis.ravel() for name, axis
                              in zip(crossed.FACTORS, np.indices(values.shape))})
        found.append(crossed.asymmetry(cells.assign(agrees=values.ravel())).loc["difference"])
    assert found[0]["low"] == 0 and found[0]["estimate"] < 0.3
    assert found[1]["low"] < 0.5 < found[1]["high"] and abs(found[1]["estimate"] - 0.5) < 0.2


def test_the_mixed_model_agrees_where_its_assumptions_hold():
    table = simulated(np.random.default_rng(4))
    table["relation"] = pd.Categorical(table["relation"], list(EFFECTS))
    data = table[list(crossed.FACTORS)].astype(str).assign(
        relation=table["relation"], agrees=table["agrees"])
    components = {f"{k}": f"0 + C({name})" for k, name in enumerate(crossed.FACTORS)}
    fit = mixedlm("agrees ~ 0 + C(relation)", data, groups=np.ones(len(data)),
                  vc_formula=components).fit()
    assert fit.converged
    ours = crossed.means(table.astype({"relation": str}), "relation").set_index("relation")
    theirs = fit.conf_int().to_numpy()[:3]
    ours = ours.loc[list(EFFECTS)]
    assert np.allclose(ours["mean"], fit.fe_params, atol=0.1)
    ratio = (ours["high"] - ours["low"]) / np.ptp(theirs, axis=1)
    assert ratio.between(0.6, 2.5).all()


def test_correlation_is_that_of_scipy_and_takes_out_what_it_is_given():
    rng = np.random.default_rng(0)
    depth = np.tile(np.arange(8), 10)
    table = pd.DataFrame({"model": np.repeat(np.arange(10), 8), "depth": depth,
                          "x": depth + rng.standard_normal(80),
                          "y": depth + rng.standard_normal(80)})
    for method, function in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        ours = crossed.correlation(table, "x", "y", clusters="model", method=method, resamples=50)
        assert (np.isclose(ours["estimate"], function(table["x"], table["y"]).statistic)
                and ours["clusters"] == 10)
        assert ours["low"] < ours["estimate"] < ours["high"]
        given = crossed.correlation(table, "x", "y", clusters="model", method=method,
                                    given="depth", resamples=50)
        assert abs(given["estimate"]) < 0.25 < ours["estimate"] and given["low"] < 0 < given["high"]
        within = crossed.correlation(table, "x", "y", clusters="model", method=method,
                                     within="depth", resamples=50)
        assert abs(within["estimate"]) < 0.25
    by_depth = [np.linalg.lstsq(np.c_[np.ones(80), depth], table[name], rcond=None)[0]
                @ [np.ones(80), depth] for name in "xy"]
    given = crossed.correlation(table, "x", "y", clusters="model", method="pearson", given="depth",
                                resamples=10)
    assert np.isclose(
        given["estimate"],
        stats.pearsonr(table["x"] - by_depth[0], table["y"] - by_depth[1]).statistic)


def test_clustered_rows_give_wider_intervals_than_independent_ones():
    rng = np.random.default_rng(1)
    values = (np.repeat(rng.standard_normal((12, 2)), 10, axis=0)
              + 0.1 * rng.standard_normal((120, 2)))
    table = pd.DataFrame(values, columns=["x", "y"])
    table["model"], table["row"] = np.repeat(np.arange(12), 10), np.arange(120)
    wide, narrow = (crossed.correlation(table, "x", "y", clusters=name, resamples=300)
                    for name in ("model", "row"))
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_the_published_figures_are_reproduced():
    """Feather et al. 2023, over the 20 networks that are public."""
    table = pd.read_csv(PUBLISHED)
    rho = crossed.correlation(table, "human", "networks", clusters="model", resamples=10)
    r = crossed.correlation(table, "human", "networks", clusters="model", method="pearson",
                            resamples=10)
    assert (rho["rows"], rho["clusters"], round(rho["estimate"], 4),
            round(r["estimate"] ** 2, 3)) == (148, 20, 0.9195, 0.860)


def test_models_that_share_are_clustered_and_grouped():
    names = [f"{training} {number}" for training in ("standard", "robust") for number in range(4)]
    label = {name: name.split()[0] for name in names}
    rng = np.random.default_rng(0)
    values = pd.DataFrame([[0.8 if label[a] == label[b] else 0.2 for b in names] for a in names],
                          names, names)
    values += 0.05 * rng.standard_normal(values.shape)
    order, similarity, linkage = crossed.cluster(values)
    assert len({label[name] for name in order[:4]}) == 1 and linkage.shape == (7, 4)
    assert np.allclose(similarity, similarity.T) and list(similarity.index) == order
    found = crossed.grouping(values, label, permutations=500)
    assert found["difference"] > 0.5 and found["p"] < 0.1
    assert found["kinds"] == 8 and np.isclose(found["floor"], 1 / 35)  # of 8 into 4 and 4
    other = crossed.grouping(values, {name: name.split()[1] for name in names}, permutations=500)
    assert other["p"] > 0.2
    assert np.isnan(crossed.grouping(values, dict.fromkeys(names, "same"))["p"])
    kinds = {name: f"{label[name]} {int(name.split()[1]) % 2}" for name in names}
    nested = crossed.grouping(values, label, kinds=kinds, permutations=500)
    assert nested["kinds"] == 4 and np.isclose(nested["floor"], 1 / 3) and nested["p"] > 0.3
    with pytest.raises(ValueError, match="different labels"):
        crossed.grouping(values, {name: name for name in names}, kinds=kinds)
    values.iloc[0, 1] = values.iloc[1, 0] = np.nan
    with pytest.raises(ValueError, match="either direction"):
        crossed.cluster(values)


def test_equal_values_have_an_interval_without_length():
    """Seven tenths are no binary number, so that rounding leaves differences."""
    table = simulated(np.random.default_rng(0)).assign(agrees=0.7)
    found = crossed.means(table, [])
    assert np.allclose(found[["mean", "low", "high"]], 0.7, rtol=0, atol=1e-12)


def test_bad_tables_are_told():
    table = simulated(np.random.default_rng(0))
    with pytest.raises(ValueError, match="no column training; it has generator"):
        crossed.means(table, "training")
    with pytest.raises(ValueError, match="did any metamer pass"):
        crossed.means(table[:0], "relation")
    many = pd.DataFrame({name: axis.ravel() for name, axis
                         in zip(crossed.FACTORS, np.indices((80, 80, 2)))})
    with pytest.raises(ValueError, match="6400 pairs of networks are too many"):
        crossed.means(many.assign(agrees=1.0), [])
    with pytest.raises(ValueError, match="unknown method 'kendall'"):
        crossed.correlation(table, "agrees", "image", clusters="generator", method="kendall")
    twice = pd.concat([table.assign(kind="a"), table.assign(kind="b")])
    with pytest.raises(ValueError, match="subtract these rows first"):
        crossed.differences(twice, "kind", [("a", "b")])
