"""Critical scales: planted ones are recovered, and intervals cover them."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from metalib import wrap_model
from metalib.evaluation import critical
from metalib.evaluation.critical import (
    critical_scale,
    critical_scales,
    curve,
    half_scale,
    pooling_scale,
)
from metalib.metrics import pearson
from metalib.models.windows import log_polar

SCALES = np.geomspace(0.125, 2, 9)


def planted(scale=0.5, spread=0.6, lapse=0.1, images=200, seed=0, scales=SCALES):
    """Images, each of which passes up to a scale of its own, but for some that never do."""
    random = np.random.default_rng(seed)
    own = np.log2(scale) + spread * random.standard_normal(images)
    own[random.random(images) < lapse] = -np.inf
    passed = scales[None] < 2 ** own[:, None]
    return pd.DataFrame({"scale": np.tile(scales, images), "passed": passed.ravel(),
                         "image": np.arange(images).repeat(len(scales))})


@pytest.mark.parametrize("scale, lapse", [(0.3, 0.0), (0.5, 0.2), (1.0, 0.05)])
def test_a_planted_scale_is_recovered(scale, lapse):
    found = critical_scale(planted(scale, lapse=lapse, images=400))
    assert found["estimate"] == pytest.approx(scale, rel=0.1)
    assert found["moment"] == pytest.approx(scale, rel=0.1)
    assert found["lapse"] == pytest.approx(lapse, abs=0.06) and found["bound"] == ""
    assert found["low"] < scale < found["high"] and found["images"] == 400


def test_intervals_cover_what_was_planted():
    """Of the estimate without a form, whose interval it is."""
    covered = []
    for seed in range(200):
        table = planted(images=40, seed=seed)
        moments = critical._moments(critical._wide(table, "scale").to_numpy(), np.log2(SCALES),
                                    200, seed)
        low, high = np.quantile(moments - moments[0], [0.025, 0.975]) + moments[0]
        covered.append(low < np.log2(0.5) < high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_passes_of_one_image_are_not_taken_for_independent():
    """Each image counts once: at more scales the interval is hardly narrower."""
    few, many = (critical_scale(planted(images=100, scales=np.geomspace(0.125, 2, count)))
                 for count in (7, 25))
    widths = [np.log2(found["high"] / found["low"]) for found in (few, many)]
    assert widths[1] > 0.7 * widths[0]


def test_scales_beyond_those_tried_are_bounds():
    above, below = critical_scale(planted(8.0)), critical_scale(planted(0.02))
    assert (above["bound"], above["estimate"], above["high"]) == ("above", 2.0, np.inf)
    assert (below["bound"], below["estimate"], below["low"]) == ("below", 0.125, 0.0)


def test_each_group_has_its_own():
    table = pd.concat([planted(scale).assign(stage=name)
                       for name, scale in (("early", 0.3), ("late", 0.9))])
    found = critical_scales(table, ["stage"], resamples=50).set_index("stage")
    assert found.loc["early", "estimate"] < 0.4 and found.loc["late", "estimate"] > 0.7
    shares = curve(found.loc["late"].to_dict(), SCALES)
    true = table[table["stage"] == "late"].groupby("scale")["passed"].mean()
    assert np.abs(shares - true.to_numpy()).max() < 0.06


@pytest.mark.parametrize("table", [
    planted(scales=SCALES[:2]), planted().iloc[1:], planted(scales=SCALES - 0.125)])
def test_what_has_no_critical_scale_is_told(table):
    with pytest.raises(ValueError, match="same images at three or more positive scales"):
        critical_scale(table)


def graded(fall=0.5, observers=6, images=30, seed=0, of_observer=0.05):
    """A match that falls by a quarter with each octave, from one half at the scale `fall`."""
    random = np.random.default_rng(seed)
    match = 0.5 - 0.25 * (np.log2(SCALES) - np.log2(fall))
    table = (match + of_observer * random.standard_normal((observers, 1, 1))
             + 0.1 * random.standard_normal((observers, images, len(SCALES))))
    index = pd.MultiIndex.from_product(
        [range(observers), range(images), SCALES], names=["observer", "image", "scale"])
    return pd.Series(table.ravel(), index, name="scaled_match").reset_index()


@pytest.mark.parametrize("fall", [0.25, 0.6, 1.1])
def test_half_of_a_graded_match_is_found(fall):
    found = half_scale(graded(fall), resamples=200)
    assert found["estimate"] == pytest.approx(fall, rel=0.1) and found["bound"] == ""
    assert found["low"] < found["estimate"] < found["high"]
    assert (found["observers"], found["images"], found["scales"]) == (6, 30, 9)


def test_the_interval_of_a_graded_match_covers_it():
    """With few observers a bootstrap over them is a little too narrow, but not far off."""
    ends = [half_scale(graded(seed=seed, observers=12), resamples=200, seed=seed)
            for seed in range(100)]
    assert sum(found["low"] < 0.5 < found["high"] for found in ends) >= 85


@pytest.mark.parametrize(
    "fall, bound, end", [(32, "above", SCALES[-1]), (0.01, "below", SCALES[0])])
def test_half_a_match_beyond_the_scales_is_a_bound(fall, bound, end):
    found = half_scale(graded(fall), resamples=50)
    assert (found["bound"], found["estimate"]) == (bound, pytest.approx(end))
    assert found["high"] == np.inf if bound == "above" else found["low"] == 0


def test_half_a_match_needs_all_images_at_all_scales():
    with pytest.raises(ValueError, match="the same images at two or more"):
        half_scale(graded().iloc[1:])


# --- A network that pools in known windows ------------------------------------------------------

class Pools(nn.Module):
    """Means of luminance in windows, of equal variance for noise."""

    def __init__(self, windows):
        super().__init__()
        weights = windows.weights.flatten(1)
        self.means = nn.Linear(weights.shape[1], len(weights), bias=False)
        self.means.weight.data = weights / torch.linalg.vector_norm(weights, dim=1, keepdim=True)

    def forward(self, images):
        return self.means(images.mean(1).flatten(1))


@pytest.fixture(scope="module")
def pooled():
    """Noise, and by scale other noise that has its means in log-polar windows of this scale."""
    side, random = 128, torch.Generator().manual_seed(0)
    references, others = (
        (0.5 + 0.1 * torch.randn(6, side * side, generator=random, dtype=torch.float64)).clamp(0, 1)
        for _ in range(2))
    found = {}
    for scale in np.geomspace(0.24, 1.2, 8):
        weights = log_polar(side, float(scale)).weights.flatten(1).double()
        missing = weights @ (references - others).T
        found[float(scale)] = others + (
            weights.T @ torch.linalg.lstsq(weights @ weights.T, missing).solution).T
    as_images = {scale: one.clamp(0, 1).float().view(-1, 1, side, side).expand(-1, 3, -1, -1)
                 for scale, one in {0: references, **found}.items()}
    return as_images.pop(0), as_images


@pytest.mark.parametrize("scale", [0.3, 0.4, 0.5, 0.6])
def test_the_scale_of_a_network_that_pools_is_recovered(scale, pooled):
    references, syntheses = pooled
    model = wrap_model(Pools(log_polar(references.shape[-1], scale)), stages=["means"],
                       mean=(0.5,) * 3, std=(0.1,) * 3, input_size=references.shape[-1])
    wanted = model.activations(references, "means")
    table = pd.concat([pd.DataFrame({
        "observer": "planted", "image": range(len(images)), "scale": tried,
        "scaled_match": pearson(model.activations(images, "means"), wanted).numpy()})
        for tried, images in syntheses.items()])
    found = pooling_scale(table, resamples=20)
    assert found["estimate"] == pytest.approx(scale, rel=0.1) and found["bound"] == ""
    assert found["estimate"] == half_scale(table, resamples=20)["estimate"] / critical.HALF_AT
