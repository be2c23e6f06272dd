"""Pooling windows, and the model of early human vision that pools texture statistics in them."""

import math

import numpy as np
import plenoptic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metalib import generate, judge, load_images, null_distribution, transfer_study
from metalib.generation.objective import relative_distance
from metalib.generation.starts import start_images
from metalib.models.texture import PooledStatistics, texture_model
from metalib.models.windows import Windows, log_polar, uniform


def grey(size, n=2):
    return load_images("imagenet-samples", size=size, n=n).images.double().mean(1, keepdim=True)


# --- Windows --------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(st.integers(24, 80), st.integers(24, 80), st.floats(0.2, 1.2), st.floats(0.7, 2),
       st.floats(-150, 250), st.floats(-150, 250))
def test_windows_cover_an_image_once(height, width, scale, aspect, row, column):
    windows = log_polar((height, width), scale, aspect=aspect, fixation=(row, column))
    assert windows.weights.shape == (len(windows), height, width)
    assert windows.weights.min() >= 0
    assert torch.allclose(windows.weights.sum(0), torch.ones(height, width), atol=1e-5)
    assert windows.weights.flatten(1).amax(1).min() > 0  # none is empty


def test_numbers_of_windows_are_those_of_texforms():
    """110 around the gaze in the centre become 11 with the gaze beside the image; and the fovea."""
    assert len(log_polar(512, 0.5)) == 110 + 1
    for away in (300, 400):
        assert len(log_polar(512, 0.5, fixation=(255.5, -away))) == 11
    numbers = [len(log_polar(256, scale)) for scale in (0.25, 0.3, 0.4, 0.5, 0.6, 0.7)]
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.7])
def test_windows_are_as_wide_as_the_scale_says(scale):
    """The radial width at half height over the eccentricity of the centre, along a ray."""
    windows = log_polar(257, scale)
    ray = windows.weights[:, 128, 128:].double().numpy()
    found = []
    for weights in ray / ray.sum(0).clip(1e-9):
        inside = np.flatnonzero(weights >= weights.max() / 2)
        if weights.max() > 0.3 and 15 < inside[0] and inside[-1] < 125:
            middle = math.sqrt(inside[0] * inside[-1])
            found.append((inside[-1] - inside[0] + 1) / middle)
    assert found and np.allclose(found, scale, rtol=0.15)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_uniform_windows_are_alike(count):
    windows = uniform(32, count)
    assert len(windows) == count ** 2
    assert torch.allclose(windows.weights.sum(0), torch.ones(32, 32), atol=1e-6)
    inner = windows.weights.sum((1, 2)).reshape(count, count)
    assert torch.allclose(inner, inner.T) and torch.allclose(inner, inner.flip(0))
    assert torch.allclose(windows.centres.mean(0), torch.tensor([15.5, 15.5]))


@pytest.mark.parametrize("make, message", [
    (lambda: log_polar(64, 0), "positive"), (lambda: log_polar(64, 3), "only 2 windows"),
    (lambda: uniform(8, 5), "count"), (lambda: log_polar(1, 0.5), "height")])
def test_windows_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- Statistics -----------------------------------------------------------------------------------

@pytest.mark.parametrize("size, scales, width, orientations", [
    (32, 2, 5, 4), (64, 3, 7, 4), (64, 1, 5, 3), (256, 4, 7, 4)])
def test_one_window_is_plenoptics_model(size, scales, width, orientations):
    theirs = plenoptic.models.PortillaSimoncelli(
        (size, size), n_scales=scales, n_orientations=orientations, spatial_corr_width=width)
    ours = PooledStatistics(uniform(size, 1), scales, orientations, width, least=1).double()
    images = grey(size)
    expected = theirs.double()(images)[:, 0]
    assert torch.allclose(ours(images), expected, atol=1e-6, rtol=0)


def test_moments_of_a_window_are_those_of_its_pixels():
    """Two windows without overlap: each half by itself, against scipy."""
    weights = torch.zeros(2, 32, 32)
    weights[0, :, :16] = weights[1, :, 16:] = 1
    windows = Windows(weights, torch.zeros(2, 2), {"layout": "halves"})
    images = grey(32)
    found = PooledStatistics(windows, 2, width=5, least=1, grain=1).double()(images)
    for image, values in zip(images[:, 0].numpy(), found.unflatten(1, (2, -1))[..., :6].numpy()):
        for half, row in zip((image[:, :16], image[:, 16:]), values):
            n, flat = half.size, half.ravel()
            expected = [half.mean(), half.var(ddof=1), stats.skew(flat) * (1 - 1 / n) ** 1.5,
                        stats.kurtosis(flat, fisher=False) * (1 - 1 / n) ** 2, half.min(),
                        half.max()]
            assert np.allclose(row, expected)


def test_what_lies_outside_of_a_window_does_not_count():
    """Moments of pixels, in the windows of a log-polar layout."""
    windows = log_polar(64, 0.3, fixation=(31.5, -60))
    model = PooledStatistics(windows, 2, width=5, least=4, grain=1).double()
    image = grey(64, 1)
    changed = image.clone()
    changed[..., 48:] = 0.5  # far from the windows nearest to the gaze
    touched = windows.weights[:, :, 48:].sum((1, 2)) > 0  # and those that share pixels with these
    shared = torch.einsum("ahw,bhw->ab", windows.weights, windows.weights) > 0
    near = ~shared[:, touched].any(1)
    before, after = (model._of_pixels(one)[0] for one in (image, changed))
    assert near.any() and torch.allclose(before[near], after[near])
    assert not torch.allclose(before[~near], after[~near])


def test_coarse_pooling_is_nearly_the_same():
    windows, image = log_polar(128, 0.7, fixation=(64, -90)), grey(128)
    fine, coarse = (PooledStatistics(windows, 3, least=1, grain=grain).double()(image)
                    for grain in (1, 4))
    assert fine.shape == coarse.shape
    assert torch.corrcoef(torch.stack([fine[0], coarse[0]]))[0, 1] > 0.99


def test_gradients_are_finite_even_for_a_flat_image():
    model = texture_model(uniform(32, 2))
    flat = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    model.unchecked_activations(flat, "statistics").sum().backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


def test_small_windows_give_fewer_statistics():
    every, large = (PooledStatistics(uniform(64, 4), 3, least=least)(grey(64).float()).shape[1]
                    for least in (1, 64))
    assert large < every


@pytest.mark.parametrize("make, message", [
    (lambda: PooledStatistics(uniform(36, 1), 3), "cannot be halved"),
    (lambda: PooledStatistics(uniform(32, 1), 2, width=4), "odd"),
    (lambda: PooledStatistics(uniform(32, 4), 2, least=1e4), "too small"),
    (lambda: texture_model(uniform(32, 1), load_images("cifar10-samples", size=64)), "windows")])
def test_statistics_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- As a model -----------------------------------------------------------------------------------

def test_texforms_are_metamers_of_it():
    natural = load_images("cifar10-samples", size=32)
    model = texture_model(uniform(32, 2), natural)
    null = null_distribution(model, "statistics", natural)
    made = generate(model, natural[:2], "statistics", steps=80)
    table = judge(model, "statistics", made, null)
    assert table["passed"].all() and (table["distance"] > 0.1).all()
    far = generate(model, natural[:2], "statistics", steps=1)
    assert not judge(model, "statistics", far, null)["passed"].any()


def test_a_texform_is_a_start(samples, robust):
    begun = start_images("texform", samples[:2], steps=20)
    model = texture_model(uniform(32, 4), load_images("cifar10-samples"))
    noise = start_images("noise", samples[:2])
    made = generate(model, samples[:2], "statistics", start=noise, steps=20)
    assert (begun - made.images).abs().mean() < 0.005  # the latter are rounded, and of one batch
    far, near = (relative_distance(*(model.activations(images, "statistics")
                                     for images in (found, samples.images[:2])))
                 for found in (noise, begun))
    assert (near < far / 2).all()
    again = generate(robust, samples[:1], "group1", steps=2,
                     start=("texform", {"scale": 1.0, "steps": 2, "colour": True}))
    assert again.recipe["start_options"]["steps"] == 2


def test_colour_is_an_extension():
    natural = load_images("cifar10-samples", size=32)
    grey_only, colour = (texture_model(uniform(32, 1), natural, colour=c) for c in (False, True))
    assert math.prod(colour.shapes["statistics"]) == 3 * math.prod(grey_only.shapes["statistics"])
    turned = natural.images[:, [1, 2, 0]]
    luminance = (natural.images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, True)
    same = grey_only.activations(luminance.expand(-1, 3, -1, -1).clamp(0, 1), "statistics")
    assert torch.allclose(same, grey_only.activations(natural.images, "statistics"), atol=1e-2)
    assert not torch.allclose(colour.activations(turned, "statistics"),
                              colour.activations(natural.images, "statistics"), atol=0.1)


def test_a_transfer_study_takes_it_as_generator_and_observer():
    natural = load_images("cifar10-samples", size=32)
    vision = texture_model(uniform(32, 2), natural)
    with pytest.warns(UserWarning, match="20 images only"):
        table = transfer_study(
            ["zoo/vgg-robust-0"], [vision, "zoo/resnet-robust-0"], natural[:3], stages=["group1"],
            null_images=natural, steps=10, correspondences=["depth"])
    seen = table[table["observer"] == vision.name]
    assert len(seen) == 3 and seen["match"].notna().all()
