"""Local geometry of stages: against plenoptic, linear algebra on whole Jacobians, and plantings."""

import numpy as np
import plenoptic
import pytest
import torch
from scipy import linalg
from torch import nn

from metalib import load_model, wrap_model
from metalib.evaluation.geometry import (
    Jacobian,
    eigendistortions,
    principal_distortions,
    sensitivities,
)


def linear(seed, units=40, side=6):
    """A network whose stage is a random linear map of the pixels."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * side ** 2, units), nn.ReLU(),
                            nn.Linear(units, 4))
    return wrap_model(network, stages=["1", "2", "3"], input_size=side, mean=(0.0,) * 3,
                      std=(1.0,) * 3, name=f"linear {seed}")


@pytest.fixture
def image():
    return torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(5)) * 0.8 + 0.1


def whole_jacobian(model, stage, image):
    found = torch.autograd.functional.jacobian(
        lambda x: model.unchecked_activations(x[None], stage)[0].flatten(), image)
    return found.flatten(1).double().numpy()


@pytest.mark.parametrize("stage", ["0", "2", "5"])
def test_products_are_those_of_the_whole_jacobian(small, stage):
    image, random = torch.rand(3, 32, 32), torch.Generator().manual_seed(0)
    expected, jacobian = whole_jacobian(small, stage, image), Jacobian(small, stage, image)
    change = torch.randn(3, 32, 32, generator=random)
    weights = torch.randn(len(expected), generator=random)
    assert np.allclose(jacobian.times(change), expected @ change.flatten().numpy(), atol=1e-4)
    assert np.allclose(jacobian.transposed(weights).flatten(), weights.numpy() @ expected,
                       atol=1e-4)


def test_eigendistortions_are_eigenvectors(image):
    model = linear(0)
    matrix = whole_jacobian(model, "1", image)
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    most, least = eigendistortions(model, "1", image, k=2)
    assert np.allclose(most.values, values[::-1][:2], rtol=1e-3)
    for direction, vector in zip(most.directions, vectors.T[::-1]):
        assert abs(direction.flatten().numpy() @ vector) == pytest.approx(1, abs=1e-3)
    assert (least.values < 1e-4 * values[-1]).all()  # 40 units see 40 of 108 dimensions


def test_eigendistortions_are_those_of_plenoptic(image):
    class Stage(nn.Module):
        def forward(self, x):
            return model.unchecked_activations(x, "2").flatten(1)

    model = linear(1, units=200)
    theirs = plenoptic.Eigendistortion(image[None], Stage().eval())
    theirs.synthesize(method="exact")
    most, least = eigendistortions(model, "2", image)
    values = theirs.eigenvalues.double().numpy()
    assert most.values[0] == pytest.approx(values.max(), rel=1e-3)
    assert least.values[0] == pytest.approx(values.min(), rel=0.05, abs=1e-4 * values.max())
    other = theirs.eigendistortions[int(values.argmax())].flatten()
    assert abs(most.directions[0].flatten() @ other) == pytest.approx(1, abs=1e-3)


def test_two_networks_are_divided_by_the_extremes_of_the_ratio(image):
    """The generalised eigenvectors of their Fisher matrices."""
    models = [linear(seed, units=300) for seed in (2, 3)]
    first, second = (j.T @ j for j in (whole_jacobian(m, "1", image) for m in models))
    values = linalg.eigh(first, second, eigvals_only=True)
    _, ratios = principal_distortions(models, ["1", "1"], image, steps=400)
    expected = (np.log(values[-1]) - np.log(values[0])) / 2  # of |J a| / |J b|, between networks
    assert ratios[0] - ratios[1] == pytest.approx(expected, rel=0.02)


def test_an_odd_network_is_found(image):
    """Five nearly equal networks and one that sees the left half only."""
    models = [linear(4, units=150) for _ in range(6)]
    for number, model in enumerate(models):
        model.name = f"network {number}"
        layer = model.module[1]
        mask = torch.ones(3, 6, 6)
        mask[..., 3:] = 1 if number < 5 else 0.01
        with torch.no_grad():
            layer.weight.mul_(mask.flatten()).add_(1e-3 * torch.randn_like(layer.weight))
    found, ratios = principal_distortions(models, ["1"] * 6, image, steps=300)
    apart = abs(ratios[5] - ratios[:5].mean())
    assert np.ptp(ratios[:5]) < 0.2 * apart and apart > 0.8 * np.log(100)
    assert found.directions[..., 3:].square().sum((1, 2, 3)).max() > 0.95


def test_sensitivities_are_lengths_of_moves(image):
    model = linear(6)
    matrix = whole_jacobian(model, "1", image)
    directions = torch.randn(1, 3, 3, 6, 6)
    table = sensitivities([model], ["1"], image[None], 7 * directions)
    units = directions[0].flatten(1).numpy() / np.linalg.norm(
        directions[0].flatten(1).numpy(), axis=1)[:, None]
    assert np.allclose(table["sensitivity"], np.linalg.norm(matrix @ units.T, axis=0), rtol=1e-4)
    assert list(table["direction"]) == [0, 1, 2]


def test_a_robust_network_is_less_sensitive_than_its_twin(samples):
    image = samples.images[0]
    values = [eigendistortions(load_model(f"zoo/vgg-{kind}-0"), "logits", image,
                               tolerance=0.05)[0].values[0] for kind in ("standard", "robust")]
    assert values[0] > 2 * values[1]


@pytest.mark.parametrize("call, message", [
    (lambda m, x: Jacobian(m, "9", x), "its stages are"),
    (lambda m, x: Jacobian(m, "1", x[:, :4]), "6"),
    (lambda m, x: Jacobian(m, "1", x + 1), r"\[0, 1\]"),
    (lambda m, x: eigendistortions(m, "1", x, k=0), "k"),
    (lambda m, x: principal_distortions([m], ["1"], x), "two networks"),
    (lambda m, x: principal_distortions([m, m], ["1"], x), "a stage for each"),
    (lambda m, x: sensitivities([m], ["1"], x[None], torch.ones(1, 3, 6, 6)), "directions are")])
def test_what_does_not_fit_is_refused(image, call, message):
    with pytest.raises(ValueError, match=message):
        call(linear(0), image)
