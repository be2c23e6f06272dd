"""Image statistics, maps and confidence: parity with peers, closed forms, planted values."""

import numpy as np
import pandas as pd
import pytest
import torch
from plenoptic.metric import ssim
from scipy import integrate, stats
from sklearn.metrics import average_precision_score, roc_auc_score

from metalib import generate, starts
from metalib.evaluation.confidence import SCORES, _areas, detection, scores
from metalib.evaluation.images import difference_maps, embedding, image_statistics, spectral_slope
from metalib.metrics import rdm


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
