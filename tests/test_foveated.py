"""Foveated style transfer and the decoders that it needs."""

import math

import pytest
import torch
from conftest import small_network
from torch import nn

from metalib import Metamers, load_images, load_model, wrap_model
from metalib.generation import decoder as decoders
from metalib.generation.decoder import Autoencoder, Decoder, load_autoencoder, save_autoencoder
from metalib.generation.feedforward import foveated
from metalib.generation.foveation import coloured_noise, restyled, texture_share
from metalib.generation.starts import start_images
from metalib.metrics import rms_distance
from metalib.models.windows import log_polar, uniform
from metalib.runs import train_decoder as training
from metalib.runs.train_decoder import adain, measured, train_decoder


@pytest.fixture(scope="module")
def network():
    return load_model("zoo/vgg-standard-0")


@pytest.fixture(scope="module")
def coder(network):
    torch.manual_seed(0)
    return Autoencoder(network, "group2", Decoder(network.shapes["group2"], 32, 16).eval())


def maps(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def test_noise_has_the_colours_of_the_image():
    image = 0.5 + 0.05 * torch.einsum("kc,chw->khw", torch.tensor(
        [[1.0, 0, 0], [0.8, 0.5, 0], [0.1, 0.3, 0.6]]), maps(3, 32, 32) - 1)
    made = coloured_noise(image, torch.Generator().manual_seed(1))
    assert torch.allclose(made.flatten(1).cov(), image.flatten(1).cov(), atol=1e-5)
    assert torch.allclose(made.mean((1, 2)), image.mean((1, 2)), atol=1e-5)
    assert abs(torch.corrcoef(torch.stack([made.flatten(), image.flatten()]))[0, 1]) < 0.1


def test_a_grey_image_has_grey_noise():
    made = coloured_noise(maps(1, 16, 16).expand(3, -1, -1) / 10 + 0.3,
                          torch.Generator().manual_seed(0))
    assert (made - made.mean(0)).abs().max() < 1e-3 and made.std() > 0.05


def test_shares_of_texture_are_the_published_ones():
    """1 degree gives .565, 2 degrees .857; nothing where the gaze rests."""
    for degrees, published in ((1, 0.565), (2, 0.857)):
        side, count = 512, round(512 / (degrees * 512 / 26 * math.sqrt(math.pi)))
        windows = uniform(side, count)
        radius = windows.diameters / 2 * 26 / 512
        middle = (radius - degrees).abs().argmin()
        exact = 2 / (1 + math.exp(-1.281 * radius[middle].item())) - 1
        assert texture_share(windows)[middle].item() == pytest.approx(exact, abs=1e-6)
        assert 2 / (1 + math.exp(-1.281 * degrees)) - 1 == pytest.approx(published, abs=1e-3)
    share = texture_share(log_polar(128, 0.5))
    assert (share == 0).sum() == 1 and share.argmin() == 0 and share.max() < 1
    assert (texture_share(log_polar(128, 0.5, fixation=(64, -300))) > 0).all()


def test_one_window_of_texture_is_adaptive_instance_normalisation():
    content, noise = maps(2, 5, 8, 8), maps(2, 5, 8, 8, seed=1)
    found = restyled(content, noise, uniform(32, 1), torch.ones(1))
    assert torch.allclose(found, adain(noise, content), atol=1e-4)


def test_windows_are_restyled_one_by_one():
    """Against loops over windows, images and channels."""
    content, noise, windows = maps(2, 3, 16, 16), maps(2, 3, 16, 16, seed=1), log_polar(32, 1.0)
    share = texture_share(windows)
    expected = torch.zeros_like(content)
    for cover, alpha in zip(windows.shrunk(2), share):
        weight = cover / cover.sum()
        for image in range(2):
            for channel in range(3):
                mean, std = [], []
                for one in (content[image, channel], noise[image, channel]):
                    mean.append((weight * one).sum())
                    std.append((weight * (one - mean[-1]) ** 2).sum().sqrt())
                texture = (noise[image, channel] - mean[1]) / std[1] * std[0] + mean[0]
                expected[image, channel] += cover * (
                    alpha * texture + (1 - alpha) * content[image, channel])
    assert torch.allclose(restyled(content, noise, windows, share), expected, atol=1e-4)


def test_without_texture_features_stay():
    content = maps(1, 3, 8, 8)
    windows = uniform(32, 2)
    found = restyled(content, maps(1, 3, 8, 8, seed=1), windows, torch.zeros(4))
    assert torch.allclose(found, content, atol=1e-5)


def test_metamers_and_their_control(coder, samples, tmp_path):
    made = foveated(samples[:3], scale=None, count=2, encoder=coder)
    with torch.no_grad():
        control = coder.decode(coder.encode(samples[:3].images))
    assert torch.allclose(made.decoded, control, atol=0.5 / 255 + 1e-6)
    assert not torch.equal(made.decoded, made.images) and made.evaluations.tolist() == [0] * 3
    alone = foveated(samples[[1]], scale=None, count=2, encoder=coder)
    assert (alone.images - made.images[1:2]).abs().max() <= 1 / 255
    made.save(tmp_path)
    again = Metamers.load(tmp_path)
    assert torch.equal(again.decoded, made.decoded) and again.recipe == made.recipe
    assert torch.equal((made + alone)[3].decoded, alone.decoded)


def test_it_is_a_start(coder, samples):
    options = {"scale": 1.0, "encoder": coder}
    begun = start_images("foveated", samples[:2], **options)
    made = foveated(samples[:2], **options)
    assert (begun - made.images).abs().max() <= 1 / 255
    with pytest.raises(ValueError, match="pixels"):
        start_images("foveated", samples.images[:1, :, :20, :20])


@pytest.mark.parametrize("shape, side", [((10,), 32), ((8, 5, 5), 32), ((8, 8, 8), 48)])
def test_what_cannot_be_doubled_is_not_decoded(shape, side):
    with pytest.raises(ValueError, match="power of two"):
        Decoder(shape, side)


def test_a_decoder_learns_and_is_found_again(network, samples, tmp_path):
    images = samples.images.repeat(2, 1, 1, 1)
    coder = train_decoder(network, "group1", images, steps=60, batch_size=8, width=32,
                          progress=False)
    untrained = Autoencoder(network, "group1", Decoder(network.shapes["group1"], 32, 32))
    untrained.decoder.standardise(coder.encode(images))
    assert measured(coder, samples)["snr_db"] > measured(untrained, samples)["snr_db"] + 2
    path = tmp_path / "decoder.safetensors"
    save_autoencoder(coder, path)
    again = decoders.autoencoder_in(path)
    decoded = [one.decode(one.encode(samples.images)) for one in (again, coder)]
    assert torch.allclose(*decoded, atol=0.02) and again.card == coder.card
    with pytest.raises(ValueError, match="other weights"):
        decoders.autoencoder_in(path, lambda name: load_model("zoo/vgg-robust-0"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="damaged"):
        decoders.autoencoder_in(path)


def test_a_training_that_was_stopped_ends_with_the_same_weights(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVED_EVERY", 2)
    model = wrap_model(small_network(), stages=["0", "2"], mean=(0.4,) * 3, std=(0.2,) * 3)
    work, given = tmp_path / "state.pt", {"steps": 6, "batch_size": 4, "width": 16,
                                          "progress": False}
    whole = train_decoder(model, "2", samples, **given)

    def stop(path, save):
        atomic(path, save)
        if torch.load(path)["step"] == 4:
            raise KeyboardInterrupt

    atomic = training.save_atomically
    monkeypatch.setattr(training, "save_atomically", stop)
    with pytest.raises(KeyboardInterrupt):
        train_decoder(model, "2", samples, work=work, **given)
    monkeypatch.setattr(training, "save_atomically", atomic)
    resumed = train_decoder(model, "2", samples, work=work, **given)
    assert all(torch.equal(one, other) for one, other in zip(
        whole.decoder.state_dict().values(), resumed.decoder.state_dict().values()))
    with pytest.raises(ValueError, match="another training"):
        train_decoder(model, "2", samples, work=work, **{**given, "width": 32, "seed": 1})


@pytest.mark.parametrize("about", decoders.list_autoencoders(),
                         ids=lambda about: f"{about['model']} {about['stage']}")
def test_bundled_decoders_keep_what_their_cards_say(about):
    coder, card = load_autoencoder(about["model"], about["stage"]), about["card"]
    source = "cifar10-samples" if about["side"] == 32 else "imagenet-samples"
    found = measured(coder, load_images(source, size=about["side"]))
    assert card["test_images"] >= 1000 and card["snr_db"] > 8
    assert abs(found["snr_db"] - card["snr_db"]) < 2
    assert abs(found["distance"] - card["distance"]) < 0.03


def test_bundled_decoders_are_few_and_small():
    files = list(decoders.FOLDER.iterdir())
    assert len(files) == len(decoders.list_autoencoders()) >= 1
    assert sum(path.stat().st_size for path in files) < 12e6


def test_without_a_name_the_decoder_for_the_size_is_taken(samples):
    made = foveated(samples[:1], scale=None)
    assert made.recipe["encoder"] == "zoo/vgg-standard-0" and made.recipe["stage"] == "group2"
    fine, coarse = (foveated(samples[:4], scale=scale, fixation=(16.0, -20.0))
                    for scale in (0.3, 1.0))
    near, far = (rms_distance(one.images, one.references) for one in (fine, coarse))
    assert (near < far).all() and (rms_distance(fine.decoded, fine.references) < near).all()
    with pytest.raises(ValueError, match="at least 32 pixels a side, not of 24 x 24"):
        foveated(load_images("imagenet-samples", n=1, size=24))


def test_convolutions_take_images_of_other_sizes():
    """By a decoder of the largest size that is no larger; where there is a map for all places."""
    images = load_images("imagenet-samples", n=2, size=48)
    coder = load_autoencoder("zoo/vgg-standard-0")
    made = foveated(images, scale=None, count=2)
    assert made.recipe["encoder"] == coder.model.name and made.images.shape == images.images.shape
    assert rms_distance(made.decoded, images.images).max() < 0.15
    with pytest.raises(ValueError, match="multiples of 2 .* not of 49 x 49"):
        foveated(load_images("imagenet-samples", n=1, size=49), encoder=coder)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        foveated(images.images * 300, encoder=coder)
    same = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1))
    model = wrap_model(same, stages=["1"], input_size=32, mean=(0.4,) * 3, std=(0.2,) * 3)
    with pytest.raises(ValueError, match="makes images of 32 pixels"):
        foveated(images, encoder=Autoencoder(model, "1", Decoder((8, 8, 8), 32)))


def test_an_unknown_encoder_lists_the_bundled_ones():
    with pytest.raises(ValueError, match="bundled"):
        load_autoencoder("zoo/resnet-standard-1", "stem")
