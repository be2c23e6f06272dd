"""Image statistics, maps, confidence, and the studies of both.

By parity with peers, closed forms and planted values.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from plenoptic.metric import ssim
from scipy import integrate, stats
from sklearn.metrics import average_precision_score, roc_auc_score

from metalib import generate, starts
from metalib.evaluation import seen
from metalib.evaluation.confidence import SCORES, _areas, detection, scores
from metalib.evaluation.images import (
    difference_maps,
    embedding,
    image_statistics,
    layout,
    spectral_slope,
)
from metalib.metrics import rdm
from metalib.runs import tasks
from metalib.runs.tasks.seeing import check_photographs, check_seeing


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.4])
def test_the_slope_of_noise_is_the_planted_one(exponent, samples):
    noise = starts.start_images(
        "pink", samples.images.repeat(3, 1, 1, 1), exponent=exponent, contrast=0.1)
    # the slope of power is twice that of amplitude
    assert spectral_slope(noise).mean().item() == pytest.approx(-2 * exponent, abs=0.15)
    assert spectral_slope(torch.full((1, 3, 32, 32), 0.3)).isnan().all()


def test_statistics_equal_plenoptic_and_closed_forms(samples):
    images = starts.perturbation(samples.images, torch.linspace(0.02, 0.2, 20))
    table, grey = image_statistics(images, samples), (-1, 1, 32, 32)
    theirs = ssim(images.view(grey), samples.images.view(grey)).view(-1, 3).mean(1)
    np.testing.assert_allclose(table["ssim"], theirs, atol=2e-3)
    ramp = torch.arange(8).view(1, 1, 1, 8).expand(1, 3, 8, 8) / 10
    values = image_statistics(ramp).loc[0]
    assert (values["variation"] == pytest.approx(0.1 * 7 / 8, rel=1e-3)
            and values["colourfulness"] == pytest.approx(0, abs=1e-6))
    assert values["contrast"] == pytest.approx(ramp.std(correction=0).item(), rel=1e-3)
    halves = torch.zeros(1, 3, 8, 8)
    halves[:, 0, :, 4:] = 1  # rg: half 0 and half 1; yb: half 0 and half 0.5
    assert image_statistics(halves)["colourfulness"].item() == pytest.approx(
        (0.5 ** 2 + 0.25 ** 2) ** 0.5 * 1.3)


def test_maps_of_differences_add_up_to_the_squared_loss(samples, small):
    made = generate(small, samples[:3], "2", steps=8)
    for stage in small.stages:
        channels, places = difference_maps(small, stage, samples.images[:3], made.images)
        a, b = (small.activations(images, stage) for images in (samples.images[:3], made.images))
        squares = ((a - b).norm(dim=1) / a.norm(dim=1)).square()
        torch.testing.assert_close(channels.sum(1), squares)
        torch.testing.assert_close(places.sum((1, 2)), squares)
    inside = samples.images[:1].clone()
    inside[..., :4, :4] = 1 - inside[..., :4, :4]
    places = difference_maps(small, "0", samples.images[:1], inside)[1][0]
    # only where it was changed
    assert places[:5, :5].sum() > 0 and places[5:].sum() == places[:, 5:].sum() == 0


def test_planes_keep_distances_that_a_plane_can_keep():
    flat = torch.randn(12, 2, dtype=torch.float64) @ torch.randn(2, 40, dtype=torch.float64)
    points, share = embedding(flat)
    torch.testing.assert_close(rdm(torch.from_numpy(points), "euclidean"),
                               rdm(flat, "euclidean"), atol=1e-6, rtol=1e-6)
    assert share == pytest.approx(1)
    deep = torch.randn(12, 40)
    points, share = embedding(deep, "mds")
    centred = deep.double() - deep.double().mean(0)
    standard = centred - centred.mean(1, keepdim=True)
    # classical scaling is PCA of standardised rows
    alike, expected = embedding(standard / standard.norm(dim=1, keepdim=True))
    np.testing.assert_allclose(np.abs(points) * 2 ** 0.5, np.abs(alike), atol=1e-6)
    assert share == pytest.approx(expected) and share < 1
    with pytest.raises(ValueError, match="'pca' or 'mds'"):
        embedding(deep, "tsne")


def test_areas_equal_those_of_scikit_learn_with_ties_and_weights():
    random = np.random.default_rng(0)
    values, truth, weights = (random.integers(0, 8, 60) / 8, random.integers(0, 2, 60),
                              random.integers(0, 4, (5, 60)))
    ours = _areas(values, truth, weights)
    theirs = [[area(truth, values, sample_weight=row) for row in weights]
              for area in (roc_auc_score, average_precision_score)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    positive, negative = pd.Series(values[truth == 1]), pd.Series(values[truth == 0])
    found = detection(positive, negative)
    assert (found["auroc"] == pytest.approx(roc_auc_score(truth, values))
            and found["base"] == truth.mean())
    assert found["aupr"] == pytest.approx(average_precision_score(truth, values))
    assert (found["auroc_low"] < found["auroc"] < found["auroc_high"]
            and found["aupr_low"] < found["aupr"] < found["aupr_high"])


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_intervals_hold_the_truth_with_and_without_clusters(share):
    """Thirty references with three images each, which share a part of their score.

    Nominally 95 of 100 intervals hold the truth.
    """
    random, holds, index = np.random.default_rng(1), [], np.repeat(np.arange(30), 3)
    auroc = stats.norm.cdf(1 / 2 ** 0.5)  # of normal scores one standard deviation apart
    aupr, _ = integrate.quad(
        lambda t: stats.norm.pdf(t - 1) / (1 + stats.norm.sf(t) / stats.norm.sf(t - 1)), -8, 9)
    for _ in range(100):
        first, second = (share ** 0.5 * random.normal(size=30)[index]
                         + (1 - share) ** 0.5 * random.normal(size=90) for _ in "ab")
        found = detection(pd.Series(first + 1, index), pd.Series(second, index), resamples=200)
        holds.append([found[f"{area}_low"] <= truth <= found[f"{area}_high"]
                      for area, truth in (("auroc", auroc), ("aupr", aupr))])
    # intervals of the AUPR are known to be too narrow
    assert (np.sum(holds, axis=0) >= [88, 78]).all()


def test_perfect_separation_and_empty_sets_are_told():
    found = detection(pd.Series(np.arange(20) + 10.0), pd.Series(np.arange(20) - 20.0))
    assert (found["auroc"] == found["auroc_high"] == 1
            and found["auroc_low"] == pytest.approx(0.025 ** (1 / 20)))
    assert np.isnan(found["aupr_low"])
    empty = detection(pd.Series([1.0]), pd.Series([], dtype=float))
    assert np.isnan(empty["auroc"]) and empty["negatives"] == 0


def test_scores_of_known_logits(samples, small):
    table, logits = scores(small, samples, batch_size=7), small(samples.images).double()
    assert (list(table) == [*SCORES, "answer"]
            and (table["answer"].to_numpy() == logits.argmax(1).numpy()).all())
    np.testing.assert_allclose(table["msp"], logits.exp().amax(1) / logits.exp().sum(1))
    # by their definitions
    np.testing.assert_allclose(
        table["energy"] - table["max_logit"], -np.log(table["msp"]), atol=1e-9)


def test_grey_images_have_the_statistics_of_three_equal_channels(samples):
    grey = samples.images[:3].mean(1, keepdim=True)
    one, three = (image_statistics(images.flip(0), images)
                  for images in (grey, grey.expand(-1, 3, -1, -1)))
    pd.testing.assert_frame_equal(one, three)
    assert (one["colourfulness"] == 0).all()


# --- Studies ------------------------------------------------------------------------------------

NETWORKS = ["zoo/vgg-standard-0", "zoo/vgg-robust-0"]


def test_layout_is_of_places_and_not_of_details(samples):
    images = samples.images[:4]
    noisy = (images + 0.1 * torch.randn(images.shape)).clamp(0, 1)
    assert layout(images, images) == pytest.approx(1)
    assert (layout(noisy, images) > 0.9).all()
    assert (np.abs(layout(images.flip(0), images)) < 0.9).all()
    assert layout(1 - images, images) == pytest.approx(-1)


def test_inversions_of_some_photographs_are_those_of_all():
    options = {"models": NETWORKS, "weights": {"group3": 3e-4}, "steps": 6, "n_images": 4}
    table = tasks.inversions(NETWORKS[0], "group3", **options)
    assert len(table) == 3 * 4 and table["training"].eq("standard").all()
    assert table["others"].isin([0, 1]).all() and not table.isna().any(axis=None)
    again = tasks.inversions(NETWORKS[0], "group3", first=2, **options)
    both = again.merge(table, on=["kind", "image"])
    np.testing.assert_allclose(both["ssim_x"], both["ssim_y"])
    prior = table.set_index(["kind", "image"])["variation"].unstack(0)
    assert (prior[seen.PRIOR] < prior[seen.NO_PRIOR]).all()


def test_each_network_is_shown_metamers_and_only_the_own_one_their_controls():
    table = tasks.confidence(NETWORKS[0], "group3", models=NETWORKS, steps=5, n_images=3)
    assert table.groupby(["observer", "kind"]).size().to_dict() == {
        (NETWORKS[0], seen.OWN): 3, (NETWORKS[0], seen.NOISE): 3, (NETWORKS[1], seen.OTHERS): 3}
    natural = tasks.photographs(NETWORKS[0], n_images=5, noises=2)
    assert natural["kind"].value_counts().to_dict() == {"photographs": 5, "uniform noise": 2}
    few = tasks.photographs(NETWORKS[0], n_images=5, noises=0, first=3)
    np.testing.assert_allclose(few["msp"], natural["msp"][:3], rtol=1e-5)
    assert len(tasks.statistics(n_images=4, first=3)) == 3


@pytest.mark.parametrize("change, message", [
    ({"stage": "group9"}, "has no stage 'group9'"), ({"first": 9}, "first must be"),
    ({"steps": 0}, "steps must be"), ({"models": ["zoo/none"]}, "none")])
def test_tasks_say_before_they_begin_what_is_wrong(change, message):
    sound = {"stage": "stem", "models": NETWORKS, "network": NETWORKS[0], "first": 0, "size": 32,
             "image_set": "cifar10-samples", "split": None, "n_images": 2, "steps": 3}
    check_seeing(**sound)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_seeing(**sound | change)
    with pytest.raises(ValueError, match="noises must be"):
        check_photographs(observer=NETWORKS[0], noises=3, **{
            name: sound[name] for name in ("image_set", "split", "n_images", "size", "first")})


@pytest.fixture
def shown():
    """Tables of two studies: own metamers are as sure as photographs, those of others less."""
    random = np.random.default_rng(0)
    names = ["a", "b", "c", "d"]
    natural = pd.DataFrame([
        {"kind": "photographs", "observer": name, "image": i, "msp": random.normal(2 * (i % 4 > 0)),
         "right": i % 4 > 0} for name in names for i in range(400)])
    rows = [{"network": maker, "observer": name, "image": i, "stage": "late",
             "kind": seen.OWN if maker == name else seen.OTHERS, "right": i % 2 == 0,
             "msp": random.normal(2 * (i % 4 > 0)) - 1.5 * (maker != name)}
            for maker in names for name in names for i in range(20)]
    return pd.DataFrame(rows), natural


def test_areas_are_those_of_scikit_learn_and_their_intervals_hold_what_was_planted(shown):
    sure, natural = shown
    own = seen.auroc(sure, natural, stage="late")
    each = []
    for name in natural["observer"].unique():
        photos = natural.loc[natural["observer"] == name, "msp"]
        metamers = sure.loc[(sure["observer"] == name) & (sure["kind"] == seen.OWN), "msp"]
        each.append(roc_auc_score(np.repeat([1, 0], [len(photos), len(metamers)]),
                                  np.concatenate([photos, metamers])))
    assert own["estimate"] == pytest.approx(np.mean(each)) and own["low"] < 0.5 < own["high"]
    others = seen.auroc(sure, natural, stage="late", kind=seen.OTHERS)
    assert others["low"] > 0.6 and others["networks"] == 4
    gap = seen.doubt(sure, natural, stage="late")
    assert gap["low"] > 0 and gap["estimate"] == pytest.approx(
        others["estimate"] - own["estimate"], abs=1e-6)
    assert set(seen.areas(sure, natural)["kind"]) == {seen.OWN, seen.OTHERS}
    assert seen.doubts(sure, natural)["estimate"].tolist() == [gap["estimate"]]
    told = seen.right_from_wrong(sure, natural).set_index("stage")
    assert told.loc["photographs", "low"] > 0.8 and told["networks"].eq(4).all()
    with pytest.raises(ValueError, match="no own metamers of early"):
        seen.auroc(sure, natural, stage="early")
    with pytest.raises(ValueError, match="no noise of the same size of late"):
        seen.doubt(sure, natural, stage="late", kind=seen.NOISE)


def test_gaps_of_inversions_are_those_planted():
    random = np.random.default_rng(0)
    rows = [{"network": f"{family}-{training}-0", "training": training, "stage": "late",
             "kind": kind, "image": i, "slope": -1 - (kind == seen.PRIOR) + random.normal(0, 0.1),
             "layout": 0.2 + 0.5 * (training == "robust") + random.normal(0, 0.05)}
            for family in ("vgg", "cct", "resnet") for training in ("standard", "robust")
            for kind in (seen.PRIOR, seen.NO_PRIOR) for i in range(10)]
    table = pd.DataFrame(rows)
    gap = seen.training_gap(table, stage="late")
    assert gap["low"] < 0.5 < gap["high"] and gap["networks"] == 3
    mean = seen.inversion(table, stage="late", value="layout", training="robust")
    assert mean["least"] <= mean["estimate"] <= mean["most"] and mean["networks"] == 3
    natural = pd.DataFrame({"slope": [-2.0, -3.0, -2.5]})
    nearer = seen.nearer_to_photographs(table, natural, stage="late")
    assert nearer["low"] < 1 < nearer["high"]
    with pytest.raises(ValueError, match="the table has no .* of early"):
        seen.inversion(table, stage="early")
