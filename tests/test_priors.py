"""Priors and inversion: parity with the published objective and with scipy, laws of the loop."""

import numpy as np
import pytest
import torch
from scipy import optimize

from metalib import generate, priors, wrap_model
from metalib.generation.objective import _shifted, _with_prior
from metalib.generation.priors import PRIORS


def published_objective(network, x, reference, weight):
    """The error, and the objective divided by C = 1 / weight, of Mahendran & Vedaldi 2016.

    They are computed pixel by pixel in float64, in units of 0 to 255, with alpha 6 and beta 2.
    """
    x, bound = (x - 0.5) * 255, 80
    variation = bound / 6.5
    error = ((network(x / 255 + 0.5) - network(reference)).square().sum()
             / network(reference).square().sum())
    height, width = x.shape[1:]
    penalty = 0
    for v in range(height):
        for u in range(width):
            penalty += x[:, v, u].square().sum() ** 3 / (height * width * bound ** 6)
            across = x[:, v, u + 1] - x[:, v, u] if u + 1 < width else 0 * x[:, v, u]
            down = x[:, v + 1, u] - x[:, v, u] if v + 1 < height else 0 * x[:, v, u]
            penalty += (across ** 2 + down ** 2).sum() / (height * width * variation ** 2)
    return error, error + weight * penalty


def test_what_is_lowered_is_the_published_objective_and_its_gradient():
    torch.manual_seed(3)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * 6 * 5, 7), torch.nn.Tanh()).double()
    images, references = torch.rand(2, 2, 3, 6, 5, dtype=torch.float64)
    x = images.clone().requires_grad_()
    loss = (network(x) - network(references)).norm(dim=1) / network(references).norm(dim=1)
    slope, = torch.autograd.grad(loss.sum(), x)
    total, gradient = _with_prior(lambda pixels: PRIORS["natural"](pixels, weight=0.03),
                                  images, loss.detach(), slope)
    for row in range(2):
        x = images[row].clone().requires_grad_()
        error, expected = published_objective(
            lambda z: network(z[None])[0], x, references[row], 0.03)
        assert loss[row].square().item() == pytest.approx(error.item())
        assert total[row].square().item() == pytest.approx(expected.item(), rel=1e-9)
        theirs, = torch.autograd.grad(expected, x)
        torch.testing.assert_close(2 * total[row] * gradient[row], theirs, rtol=1e-8, atol=1e-10)


def test_inversion_ends_where_scipy_does_on_the_published_objective():
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 20),
                                  torch.nn.Softplus(), torch.nn.Identity())
    references = (torch.rand(1, 3, 4, 4) * 255).round() / 255
    model = wrap_model(network, stages=["2"], input_size=4)
    made = generate(model, references, "2", prior=("natural", {"weight": 0.03}), steps=100)
    network.double()

    def objective(vector):
        x = torch.from_numpy(vector).view(3, 4, 4).requires_grad_()
        value = published_objective(
            lambda z: network(z[None])[0], x, references[0].double(), 0.03)[1]
        return value.item(), torch.autograd.grad(value, x)[0].flatten().numpy()

    theirs = optimize.minimize(objective, np.full(48, 0.5), jac=True, method="L-BFGS-B",
                               bounds=[(0, 1)] * 48, options={"ftol": 1e-10, "gtol": 1e-6})
    # half a step of 8 bits, and a flat valley
    np.testing.assert_allclose(made.images.double().flatten(), theirs.x, atol=0.003)
    penalty = PRIORS["natural"](made.images, **made.recipe["prior_options"]).item()
    # 8 bits cost that much
    assert made.loss[-1].item() ** 2 + penalty == pytest.approx(theirs.fun, rel=0.04)


def test_penalties_of_closed_forms():
    ramp = torch.arange(8).view(1, 1, 1, 8).expand(2, 3, 8, 8) / 10
    plain = {"weight": 1, "scale": 1}
    torch.testing.assert_close(PRIORS["total_variation"](ramp, **plain, beta=1),
                               torch.full((2,), 3 * 0.1 * 7 / 8))
    torch.testing.assert_close(PRIORS["total_variation"](ramp.mT, **plain),
                               torch.full((2,), 3 * 0.01 * 7 / 8))
    flat = torch.full((1, 3, 4, 4), 0.5) + torch.tensor([0.3, 0, -0.4]).view(1, 3, 1, 1)
    assert PRIORS["total_variation"](flat).item() == pytest.approx(0, abs=1e-10)
    assert PRIORS["relaxed_range"](flat, weight=1, bound=0.25).item() == pytest.approx(2 ** 6)
    assert PRIORS["alpha_norm"](flat, weight=1).item() == pytest.approx(
        16 * (0.3 ** 6 + 0.4 ** 6), rel=1e-5)


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_lowers_its_penalty_and_treats_images_alone(prior, samples, small):
    arguments = {"stage": "2", "prior": (prior, {"weight": 0.1}), "steps": 12}
    with_prior, without = (generate(small, samples[:4], **arguments),
                           generate(small, samples[:4], "2", steps=12))
    penalties = [PRIORS[prior](metamers.images, weight=0.1) for metamers in (with_prior, without)]
    assert ((penalties[0] < penalties[1]).all()
            and (with_prior.loss[-1] < with_prior.loss[0]).all())
    alone = generate(small, samples[3:4], **arguments)
    torch.testing.assert_close(alone.images[0], with_prior.images[3], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.loss[:, 0], with_prior.loss[:, 3], atol=1e-5, rtol=0)


def test_jitter_and_prior_are_the_same_alone_resumed_and_again(samples, small):
    arguments = {"stage": "2", "optimizer": "adam", "prior": "natural", "jitter": 3, "steps": 12}
    complete = generate(small, samples[:4], **arguments)
    run = generate(small, samples[:4], **arguments, pause=5)
    assert run.interrupted and torch.equal(
        generate(small, samples[:4], **arguments, resume=run).images, complete.images)
    alone = generate(small, samples[2:3], **arguments)
    torch.testing.assert_close(alone.images[0], complete.images[2], atol=1e-5, rtol=0)
    still = generate(
        small, samples[:2], "2", optimizer=lambda images, *_: images, jitter=2, steps=8)
    assert (still.loss.std(0) > 1e-4).all()  # the shift changes from step to step
    with pytest.raises(ValueError, match="these differ: prior, prior_options"):
        generate(small, samples[:4], **{**arguments, "prior": None}, resume=run)
    assert complete.recipe["jitter"] == 3 and complete.recipe["prior_options"] == {
        "weight": PRIORS["natural"].__kwdefaults__["weight"], "alpha": 6.0, "beta": 2.0,
        "bound": priors.BOUND, "variation": priors.VARIATION}


def test_a_shift_repeats_the_border(samples):
    images, shifts = samples.images[:3], torch.tensor([[0, 4], [2, 2], [3, 1]])
    moved = _shifted(images, shifts, 2)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    for row, (down, right) in enumerate(shifts.tolist()):
        np.testing.assert_array_equal(
            moved[row], padded[row, :, down:down + 32, right:right + 32])


@pytest.mark.parametrize("change, message", [
    ({"prior": "smooth"},
     "choose one of alpha_norm, relaxed_range, total_variation, natural, or None"),
    ({"prior": ("natural", {"gamma": 2})}, "its options are weight, alpha, beta"),
    ({"jitter": 2}, "optimizer='adam'"),
    ({"jitter": -1, "optimizer": "adam"}, "jitter must be a whole number of at least 0")])
def test_bad_arguments_say_what_is_right(samples, small, change, message):
    with pytest.raises(ValueError, match=message):
        generate(small, samples[:1], "2", steps=1, **change)


def test_a_start_at_the_reference_is_finite_with_a_prior(samples, small):
    made = generate(small, samples[:2], "2", start=samples.images[:2], prior="natural", steps=4)
    assert (set(made.status) == {"steps"} and made.loss.isfinite().all()
            and made.loss[0].eq(0).all())
