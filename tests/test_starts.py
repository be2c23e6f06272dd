"""Starting images: what their names say, independent of the other references, inside the box."""

import pytest
import torch
from scipy import ndimage

from metalib import generate, load_images, starts
from metalib.generation.starts import STARTS
from metalib.metrics import rms_distance


def options_of(name, samples):
    few = {"texform": {"steps": 1, "count": 1}}
    return few.get(name, {"pool": samples} if name in ("same_class", "other_class") else {})


@pytest.mark.parametrize("name", STARTS)
def test_a_start_depends_on_its_reference_and_the_seed_only(name, samples):
    options = options_of(name, samples)
    together = starts.start_images(name, samples, seed=1, **options)
    assert together.shape == samples.images.shape and 0 <= together.min() and together.max() <= 1
    assert torch.equal(starts.start_images(name, samples[5:8], seed=1, **options), together[5:8])
    random = not torch.equal(starts.start_images(name, samples, seed=2, **options), together)
    assert random == (name not in ("grey", "blurred"))


@pytest.mark.parametrize("name", STARTS)
def test_metamers_are_made_from_every_start(name, samples, small):
    options = options_of(name, samples)
    metamers = generate(
        small, samples, "2", start=(name, options), optimizer="adam", steps=30)
    assert torch.equal(metamers.starts, starts.start_images(name, samples, seed=0, **options))
    assert (metamers.loss[-1] < metamers.loss[0]).all()
    assert "pool" not in options or metamers.recipe["start_options"]["pool"].startswith(
        "cifar10-samples, SHA-256 ")


def test_blend_is_the_stated_mixture_of_reference_and_noise(samples):
    noise, blend, reference = (
        starts.start_images(name, samples.images, **options) for name, options in
        (("noise", {}), ("blend", {"fraction": 0.3}), ("blend", {"fraction": 1.0})))
    torch.testing.assert_close(blend, 0.3 * samples.images + 0.7 * noise)
    assert torch.equal(reference, samples.images)
    assert (noise.mean().item() == pytest.approx(0.5, abs=0.001)
            and noise.std().item() == pytest.approx(0.05, abs=0.001))


def test_nearer_images_have_the_distance_asked_for_or_stay(samples):
    other = samples.images.flip(0)
    before, distance = rms_distance(other, samples.images), torch.linspace(0.05, 1, len(other))
    images = starts.nearer(other, samples.images, distance)
    assert torch.allclose(
        rms_distance(images, samples.images), torch.minimum(distance, before), atol=1e-5)
    assert (torch.equal(images[before <= distance], other[before <= distance])
            and (before <= distance).any())
    same_side = (images - samples.images) * (other - samples.images)  # in every pixel
    assert (same_side >= -1e-6).all() and torch.equal(starts.nearer(other, other, distance), other)


def test_perturbations_have_the_distance_asked_for(samples):
    distance = torch.linspace(0.01, 0.35, 20)
    images = starts.perturbation(samples.images, distance)
    torch.testing.assert_close(
        (images - samples.images).flatten(1).square().mean(1).sqrt(), distance, atol=1e-4, rtol=0)
    assert 0 <= images.min() and images.max() <= 1


def test_phase_scrambling_keeps_spectrum_and_colours_and_loses_the_layout(samples):
    images = 0.4 + 0.2 * samples.images  # so that nothing is clipped
    scrambled = starts.start_images("phase_scrambled", images)
    for start, image in zip(scrambled, images):
        # without the coefficients that are real
        amplitudes = [torch.fft.rfft2(x).abs()[:, 1:, 1:-1] for x in (start, image)]
        torch.testing.assert_close(*amplitudes, atol=1e-3, rtol=1e-3)
        colours = [torch.corrcoef(x.flatten(1)) for x in (start, image)]
        assert (colours[0] - colours[1]).abs().max() < 0.1
    layouts = torch.stack([torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
                           for a, b in zip(scrambled, images)])
    assert layouts.abs().median() < 0.3
    torch.testing.assert_close(scrambled.mean((2, 3)), images.mean((2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_amplitudes_of_pink_noise_fall_with_frequency(exponent):
    references = torch.rand(40, 3, 64, 64)  # only their number and size matter
    pink = starts.start_images("pink", references, exponent=exponent, contrast=0.1)
    power = torch.fft.rfft2(pink.mean(1)).abs().square().mean(0)
    frequency = torch.hypot(torch.fft.fftfreq(64)[:, None], torch.fft.rfftfreq(64)[None])
    band = (frequency > 0.03) & (frequency < 0.45)
    slope = torch.linalg.lstsq(
        torch.stack([frequency[band].log(), torch.ones(int(band.sum()))], 1),
        power[band].log()[:, None]).solution[0].item() / 2
    assert slope == pytest.approx(-exponent, abs=0.1)
    assert (pink.std().item() == pytest.approx(0.1, abs=0.01)
            and pink.mean().item() == pytest.approx(0.5, abs=0.01))


def test_images_of_the_same_and_of_other_classes(samples):
    pool = load_images("cifar10-samples")
    for name, same in (("same_class", True), ("other_class", False)):
        chosen = starts.start_images(name, samples, pool=pool)
        for start, reference, label in zip(chosen, samples.images, samples.labels):
            index = (pool.images == start).flatten(1).all(1).nonzero().item()
            assert (pool.labels[index] == label) == same and not torch.equal(start, reference)


def test_starts_from_other_images_say_what_they_need(samples):
    with pytest.raises(ValueError, match="references with labels"):
        starts.start_images("same_class", samples.images, pool=samples)
    with pytest.raises(ValueError, match="no other image of that kind"):
        starts.start_images("same_class", samples[:1], pool=samples[:1])
    with pytest.raises(ValueError, match="must have the shape"):
        starts.start_images(
            "other_class", samples, pool=load_images("cifar10-samples", size=16))


def test_blurring_is_that_of_scipy(samples):
    blurred = starts.start_images("blurred", samples, sigma=1 / 16)
    expected = ndimage.gaussian_filter(
        samples.images.numpy(), (0, 0, 2, 2), mode="mirror", truncate=3)
    torch.testing.assert_close(blurred, torch.from_numpy(expected), atol=1e-3, rtol=0)
