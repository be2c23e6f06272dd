"""Images with the local statistics of their references, in one pass."""

import pytest
import torch

from metalib import generate, load_images, load_model
from metalib.generation.feedforward import one_pass
from metalib.generation.local_statistics import matched
from metalib.generation.starts import start_images
from metalib.models.texture import OPPONENT, plenoptic_parts
from metalib.models.windows import log_polar, uniform


@pytest.fixture(scope="module")
def photographs():
    return load_images("imagenet-samples", size=64, n=3)


def luminance(images):
    return torch.einsum("c,bchw->bhw", torch.tensor(OPPONENT[0]), images)[:, None]


def local_spread(images, windows):
    """The mean magnitude of a pyramid's oriented bands, in windows and scales."""
    pyramid = plenoptic_parts().SteerablePyramidFreq(
        tuple(images.shape[2:]), height=2, order=3, is_complex=False)(luminance(images))
    return torch.stack([windows.local_means(pyramid[level][:, 0].abs(), 2 ** level)[..., ::8, ::8]
                        .mean(1).flatten(1).mean(1) for level in range(2)])


def test_local_means_and_contrasts_are_those_of_the_reference(photographs):
    windows = uniform(64, 4)
    made = one_pass(photographs, windows)
    noise = torch.rand(photographs.images.shape, generator=torch.Generator().manual_seed(0))
    means = [windows.local_means(luminance(images))
             for images in (photographs.images, made.images, noise)]
    assert (means[0] - means[1]).abs().mean() < 0.25 * (means[0] - means[2]).abs().mean()
    spreads = [local_spread(images, windows) for images in (photographs.images, made.images)]
    assert torch.allclose(*spreads, rtol=0.4)
    assert ((made.images - photographs.images).square().mean((1, 2, 3)).sqrt() > 0.05).all()


def test_smaller_windows_keep_more(photographs):
    errors = [(one_pass(photographs, uniform(64, count)).images - photographs.images)
              .square().mean().item() for count in (1, 4, 16)]
    assert errors == sorted(errors, reverse=True)


def test_a_constant_image_stays_as_it_is():
    flat = torch.full((3, 32, 32), 0.3)
    found = matched(flat, torch.randn(3, 32, 32), uniform(32, 2))
    assert torch.allclose(found, flat, atol=1e-4)


def test_an_image_does_not_depend_on_its_batch_mates(photographs):
    windows = log_polar(64, 0.7, fixation=(32, -40))
    together, alone = one_pass(photographs, windows), one_pass(photographs[1], windows)
    assert torch.equal(together.images[1:2], alone.images)
    assert not torch.equal(one_pass(photographs[1], windows, seed=1).images, alone.images)
    assert together.evaluations.tolist() == [0] * 3 and together.seconds > 0
    assert torch.equal((together.images * 255).round() / 255, together.images)


def test_it_is_a_start(samples, robust):
    begun = start_images("one_pass", samples[:2], count=8)
    assert torch.allclose(begun, one_pass(samples[:2], uniform(32, 8)).images, atol=1 / 255)
    gaze = {"scale": 1.0, "fixation": (16, -20)}
    assert torch.equal(*(start_images("one_pass", samples[:1], **options)  # as a file has it, too
                         for options in (gaze, gaze | {"fixation": [16, -20]})))
    made = generate(robust, samples[:2], "group1", start=("one_pass", {"scale": 1.0}), steps=3)
    assert made.loss[-1].max() < made.loss[0].min() * 2 and made.recipe["start"] == "one_pass"


@pytest.mark.parametrize("size, windows, scales, message", [
    (32, uniform(64, 1), None, "the windows"), (36, uniform(36, 1), 3, "cannot be halved")])
def test_what_does_not_fit_is_refused(size, windows, scales, message):
    with pytest.raises(ValueError, match=message):
        one_pass(load_images("cifar10-samples", size=size, n=1), windows, scales=scales)


def test_it_looks_like_nothing_to_a_late_stage():
    """The published difference: human metamers in one pass are no metamers of a network."""
    model, images = load_model("zoo/vgg-robust-0"), load_images("cifar10-samples")
    made = one_pass(images, uniform(32, 2))
    same = model.answer(made.images) == model.answer(images.images)
    assert same.float().mean() < 0.8
