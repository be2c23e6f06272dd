"""The loop and its parts: parity with the published formulas and with torch's optimisers, results
that depend neither on the batch nor on interruptions, and failures that stop one image only.
"""

import functools
import math
import pickle
import platform
import re

import numpy as np
import pytest
import torch
from conftest import small_network
from scipy import optimize
from tqdm.auto import tqdm

from metalib import (
    Compute,
    combinations,
    generate,
    judge,
    load_images,
    load_model,
    null_distribution,
    optimizers,
    progress,
    starts,
    wrap_model,
)
from metalib.generation.compute import keep_freed_memory
from metalib.generation.objective import Member, Objective, grouped, matching_loss
from metalib.generation.optimizers import OPTIMIZERS


def transcribed(pre_relu, x, reference, steps, halve_every):
    """The published procedure, from its formulas.

    `pre_relu` gives the input (B, D) of the ReLU that ends the stage.
    """
    target = pre_relu(reference).relu().detach()
    losses, images = [], []
    for step in range(steps):
        x = x.clone().requires_grad_()
        before = pre_relu(x)
        # the value of the ReLU, the gradient of the identity
        activation = before + (before.relu() - before).detach()
        loss = torch.stack([(a - t).norm() / t.norm() for a, t in zip(activation, target)])
        gradients, = torch.autograd.grad(loss.sum(), x)
        size = 1.0 * math.sqrt(x[0].numel() / (224 * 224 * 3)) / 2 ** (step // halve_every)
        x = torch.stack([(image - size * g / (g.norm() + 1e-10)).clamp(0, 1)
                         for image, g in zip(x, gradients)]).detach()
        losses.append(loss.detach())
        images.append(x)
    return torch.stack(losses), images


def test_published_procedure_equals_a_transcription_step_by_step(samples):
    network = small_network()
    model = wrap_model(network, stages=["2"], mean=(0.4,) * 3, std=(0.2,) * 3)
    images = samples.images[:4]
    random = torch.Generator().manual_seed(0)
    noise = (0.5 + torch.randn(images.shape, generator=random) / 20).clamp(0, 1)

    def pre_relu(x):
        return network[2].conv(network[0]((x - 0.4) / 0.2).relu()).flatten(1)

    losses, trajectory = transcribed(pre_relu, noise, images, 40, 15)
    for steps in (1, 2, 14, 15, 16, 31, 40):
        ours = generate(model, images, "2", optimizer=("published", {"block": 15}), start=noise,
                        steps=steps)
        torch.testing.assert_close(ours.loss, losses[:steps], atol=1e-5, rtol=0)
        stored = (trajectory[steps - 1] * 255).round() / 255
        # a pixel may round the other way
        assert (ours.images - stored).abs().max() <= 1 / 255 + 1e-6
        assert (ours.images != stored).float().mean() < 1e-3


def test_published_blocks_halve_eight_times_and_scale_with_the_image():
    x, g = torch.full((1, 3, 32, 32), 0.5), torch.ones(1, 3, 32, 32)
    lengths = [(optimizers.published(x, g, None, {}, step, 24_000) - x).norm().item()
               for step in (0, 2999, 3000, 21_000, 23_999)]
    assert lengths == pytest.approx([1 / 7, 1 / 7, 1 / 14, 1 / 7 / 128, 1 / 7 / 128], rel=1e-3)


@pytest.mark.parametrize("rule, options, theirs", [
    ("adam", {}, lambda p: torch.optim.Adam([p], lr=0.04, betas=(0.8, 0.95))),
    ("adam", {"learning_rate": 0.02, "beta1": 0.9, "beta2": 0.999},
     lambda p: torch.optim.Adam([p], lr=0.02)),
    ("amsgrad", {}, lambda p: torch.optim.Adam([p], lr=0.04, betas=(0.8, 0.95), amsgrad=True)),
    ("rmsprop", {}, lambda p: torch.optim.RMSprop([p], lr=0.01, alpha=0.95)),
    ("sgd_raw", {"learning_rate": 0.02}, lambda p: torch.optim.SGD([p], lr=0.02, momentum=0.9)),
    ("sgd", {"learning_rate": 0.02, "normalise": False},
     lambda p: torch.optim.SGD([p], lr=0.02, momentum=0.9)),
    ("sgd", {"learning_rate": 0.02, "normalise": False, "nesterov": True},
     lambda p: torch.optim.SGD([p], lr=0.02, momentum=0.9, nesterov=True))])
def test_rules_equal_those_of_torch(rule, options, theirs):
    target = torch.rand(4, 3, 5, 5)
    parameter = torch.full_like(target, 0.5).requires_grad_()
    optimizer = theirs(parameter)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    x, state = parameter.detach().clone(), {}
    for step in range(30):
        optimizer.zero_grad()
        (parameter - target).square().sum().backward()
        optimizer.step()
        schedule.step()
        x = OPTIMIZERS[rule](x, 2 * (x - target), None, state, step, 30, **options)
        torch.testing.assert_close(x, parameter.detach(), atol=1e-6, rtol=0)


# of names that share a function, the last one only
RULES = list({getattr(rule, "func", rule): name for name, rule in OPTIMIZERS.items()}.values())


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_rules_solve_a_bounded_quadratic(rule):
    # partly outside the box, where the solution is on its border
    target = torch.rand(3, 3, 8, 8) * 1.4 - 0.2
    x, state = torch.full_like(target, 0.5), {}
    options = {"block": 150} if rule == "published" else {}
    for step in range(1200):
        loss = (x - target).flatten(1).norm(dim=1)
        x = OPTIMIZERS[rule](x, (x - target) / loss.view(-1, 1, 1, 1), loss, state, step, 1200,
                             **options).clamp(0, 1)
    assert (x - target.clamp(0, 1)).abs().max() < 0.02


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_images_stay_in_the_box_and_in_8_bits_and_losses_fall(rule, samples, small):
    metamers = generate(small, samples, "2", optimizer=rule, steps=40)
    assert 0 <= metamers.images.min() and metamers.images.max() <= 1
    torch.testing.assert_close(metamers.images * 255, (metamers.images * 255).round(),
                               atol=1e-4, rtol=0)
    assert (metamers.loss[-1] < 0.7 * metamers.loss[0]).all()
    assert (metamers.evaluations == 40).all() and set(metamers.status) == {"steps"}


def test_lion_without_averages_is_descent_by_the_sign():
    x, gradient = torch.full((2, 3, 4, 4), 0.5), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(OPTIMIZERS["sign"](x, gradient, None, {}, 0, 10),
                               x - 0.01 * gradient.sign())


@pytest.mark.parametrize("rule", RULES)
class TestEveryOptimizer:
    @pytest.mark.parametrize("stage", ["stem", "group3", "logits"])
    def test_trajectory_is_independent_of_batch(self, rule, stage, samples, robust):
        together = generate(robust, samples[:6], stage, optimizer=rule, steps=12)
        for chosen in (slice(5, 6), slice(1, 4)):
            apart = generate(robust, samples[chosen], stage, optimizer=rule, steps=12)
            torch.testing.assert_close(apart.loss, together.loss[:, chosen], atol=1e-5, rtol=0)
            torch.testing.assert_close(apart.images, together.images[chosen], atol=1e-5, rtol=0)

    def test_same_seed_same_images_bit_for_bit(self, rule, samples, small):
        first, second = (generate(small, samples, "2", optimizer=rule, steps=15, seed=3)
                         for _ in range(2))
        assert torch.equal(first.images, second.images) and torch.equal(first.loss, second.loss)
        assert not torch.equal(
            first.images, generate(small, samples, "2", optimizer=rule, steps=15, seed=4).images)

    def test_a_resumed_run_equals_one_that_was_not_interrupted(self, rule, samples, small,
                                                               monkeypatch):
        arguments = {"optimizer": rule, "steps": 30, "compute": Compute(batch_size=8),
                     "stop": null_distribution(small, "2", samples)}
        expected = generate(small, samples, "2", **arguments)
        calls, original = [], OPTIMIZERS[rule]

        @functools.wraps(original)
        def interrupted(*rule_arguments, **options):
            images = original(*rule_arguments, **options)  # this has already changed `state`
            calls.append(len(images))
            if len(calls) in (3, 20):
                raise KeyboardInterrupt
            return images

        monkeypatch.setitem(OPTIMIZERS, rule, interrupted)
        run = generate(small, samples, "2", **arguments)
        assert run.interrupted and run.evaluations.max() == 2
        for _ in range(2):
            run = pickle.loads(pickle.dumps(run))
            run = generate(small, samples, "2", **arguments, resume=run)
        assert not run.interrupted and not run.unfinished and run.status == expected.status
        assert (torch.equal(run.images, expected.images)
                and torch.equal(run.evaluations, expected.evaluations))
        torch.testing.assert_close(run.loss, expected.loss, rtol=0, atol=0, equal_nan=True)


def bounded_problem(kind, rows=6, units=48):
    """A function of x (rows, units) in [0, 1] that gives the values (rows,) of as many problems.

    Their solutions are partly on the border.
    """
    random = torch.Generator().manual_seed(1)
    matrix = torch.randn(rows, units, units, generator=random, dtype=torch.float64) / units ** 0.5
    target = torch.randn(rows, units, generator=random, dtype=torch.float64)

    def half_square(x):  # (rows, units) -> (rows,)
        y = (matrix @ (2 * x - 1)[..., None])[..., 0]
        return (((y if kind == "quadratic" else torch.tanh(y) + torch.nn.functional.softplus(y))
                 - target) ** 2).sum(1) / 2

    return half_square


@pytest.mark.parametrize("kind", ["quadratic", "network"])
@pytest.mark.parametrize("exponent", [0.0, 0.25])
def test_lbfgs_ends_where_scipy_does_row_by_row(kind, exponent):
    problem = bounded_problem(kind)
    x, state = torch.full((6, 3, 4, 4), 0.5, dtype=torch.float64), {}
    for step in range(400):
        x = x.detach().requires_grad_()
        loss = (2 * problem(x.flatten(1))).sqrt()
        gradient, = torch.autograd.grad(loss.sum(), x)
        x = optimizers.lbfgs(x.detach(), gradient, loss.detach(), state, step, 400,
                             exponent=exponent).clamp(0, 1)
    ours = problem(x.flatten(1))
    for row in range(6):
        def one(vector, row=row):
            point = torch.full((6, 48), 0.5, dtype=torch.float64)
            point[row] = torch.from_numpy(vector)
            point.requires_grad_()
            value = problem(point)[row]
            return value.item(), torch.autograd.grad(value, point)[0][row].numpy()

        theirs = optimize.minimize(
            one, np.full(48, 0.5), jac=True, method="L-BFGS-B", bounds=[(0, 1)] * 48,
            options={"maxiter": 2000, "maxfun": 5000, "ftol": 1e-14, "gtol": 1e-10})
        if kind == "quadratic":  # convex: one solution
            np.testing.assert_allclose(x[row].flatten().numpy(), theirs.x, atol=1e-4)
        solution = x[row].flatten().numpy()
        _, slope = one(solution)
        # the projected gradient vanishes
        assert np.abs(np.clip(solution - slope, 0, 1) - solution).max() < 1e-4
        # the same minimum, or another that is about as low
        assert ours[row].item() == pytest.approx(theirs.fun, rel=0.1)


def test_lbfgs_takes_large_images_in_pieces(monkeypatch):
    def path(piece):
        monkeypatch.setattr(optimizers, "PIECE", piece)
        problem, state = bounded_problem("network"), {}
        x = torch.full((6, 3, 4, 4), 0.5, dtype=torch.float64)
        for step in range(40):  # past the length of the history
            x = x.detach().requires_grad_()
            loss = (2 * problem(x.flatten(1))).sqrt()
            gradient, = torch.autograd.grad(loss.sum(), x)
            x = optimizers.lbfgs(x.detach(), gradient, loss.detach(), state, step, 41).clamp(0, 1)
        return x

    torch.testing.assert_close(path(7), path(48), rtol=0, atol=1e-6)


def test_resuming_another_call_is_refused(samples, small):
    run = generate(small, samples[:2], "2", steps=3)
    with pytest.raises(ValueError, match="these differ: steps"):
        generate(small, samples[:2], "2", steps=4, resume=run)
    with pytest.raises(ValueError, match="these differ: images"):
        generate(small, samples[2:4], "2", steps=3, resume=run)
    # nothing was left to do
    assert torch.equal(generate(small, samples[:2], "2", steps=3, resume=run).images, run.images)


def test_bfloat16_matches_coarsely_and_is_judged_in_float32(samples, robust):
    null = null_distribution(robust, "group2", samples)
    exact, coarse = (generate(robust, samples[:2], "group2", optimizer="adam", steps=60,
                              compute=Compute(precision=precision))
                     for precision in ("float32", "bfloat16"))
    torch.testing.assert_close(coarse.loss[0], exact.loss[0], atol=0.02, rtol=0)
    tables = [judge(robust, "group2", metamers, null) for metamers in (exact, coarse)]
    assert tables[1]["passed"].all() and (tables[1]["snr_db"] > 20).all()
    assert (coarse.recipe["precision"] == "bfloat16"
            and robust(samples.images[:1]).dtype == torch.float32)


def test_batches_bound_memory_and_not_results(samples, small):
    whole = generate(small, samples, "2", steps=10)
    split = generate(small, samples, "2", steps=10, compute=Compute(batch_size=7))
    assert split.loss.shape == (10, 20)
    torch.testing.assert_close(split.loss, whole.loss, atol=1e-5, rtol=0)


def test_a_broken_image_stops_alone(samples, small):
    class Cracked(torch.nn.Module):
        """Not finite for images whose mean exceeds a limit, as only the third start's does."""

        def __init__(self, limit):
            super().__init__()
            self.inner, self.limit = small_network(), limit

        def forward(self, x):
            return self.inner(
                x.masked_fill(x.mean((1, 2, 3), keepdim=True) > self.limit, float("nan")))

    images = samples.images[:4]
    given = starts.start_images("noise", images)
    given[2] = (given[2] + 0.3).clamp(0, 1)
    model = wrap_model(Cracked(0.79), stages=["inner.2", "inner.5"])
    metamers = generate(model, images, "inner.2", start=given, steps=12)
    assert metamers.status == ("steps", "steps", "non-finite", "steps")
    assert metamers.evaluations.tolist() == [12, 12, 0, 12]
    assert metamers.images.isfinite().all()
    assert torch.equal(metamers.images[2], (given[2] * 255).round() / 255)
    others = generate(model, images[[0, 1, 3]], "inner.2", start=given[[0, 1, 3]], steps=12)
    torch.testing.assert_close(metamers.loss[:, [0, 1, 3]], others.loss, atol=1e-5, rtol=0)


def test_a_reference_without_activations_is_reported(samples):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
                                  torch.nn.Linear(3600, 10))
    torch.nn.init.constant_(network[0].bias, -100)
    metamers = generate(wrap_model(network, stages=["1"]), samples, "1", steps=5)
    assert set(metamers.status) == {"non-finite"} and metamers.evaluations.sum() == 0


def test_start_at_the_reference_is_finite(samples, small):
    metamers = generate(small, samples, "2", start=samples.images, steps=5)
    assert metamers.loss.isfinite().all() and (metamers.loss[0] == 0).all()


@pytest.mark.parametrize("batch_size", [20, 8])
def test_interrupt_returns_what_is_done(samples, small, monkeypatch, batch_size):
    calls = []

    def interrupted(images, gradient, loss, state, step, steps):
        calls.append(step)
        if len(calls) == 33:
            raise KeyboardInterrupt
        return optimizers.sgd(images, gradient, loss, state, step, steps)

    arguments = {"steps": 25 if batch_size < 20 else 40, "compute": Compute(batch_size=batch_size)}
    metamers = generate(small, samples, "2", optimizer=interrupted, **arguments)
    assert metamers.interrupted and len(metamers) == 20
    expected = generate(small, samples, "2", optimizer="sgd", **arguments)
    done = 32 if batch_size == 20 else 7
    first = slice(0, 20) if batch_size == 20 else slice(8, 16)
    assert (metamers.evaluations[first] == done).all()
    torch.testing.assert_close(metamers.loss[:done, first], expected.loss[:done, first])
    if batch_size < 20:
        assert (torch.equal(metamers.images[:8], expected.images[:8])
                and metamers.status[:8] == ("steps",) * 8)
        assert ((metamers.evaluations[16:] == 0).all()
                and metamers.status[16:] == ("interrupted",) * 4)


def test_images_that_pass_leave_the_batch_unchanged_for_the_others(samples, robust):
    null = null_distribution(robust, "group3", samples)
    samples = samples[:10]
    stopped = generate(robust, samples, "group3", steps=60, stop=null)
    table = judge(robust, "group3", stopped, null)
    assert (table["passed"].to_numpy() == [status == "passed" for status in stopped.status]).all()
    assert len(set(stopped.evaluations.tolist())) > 1  # each image stops by itself
    full = generate(robust, samples, "group3", steps=60)
    for index, count in enumerate(stopped.evaluations.tolist()):
        torch.testing.assert_close(stopped.loss[:count, index], full.loss[:count, index],
                                   atol=1e-4, rtol=0)
        assert stopped.loss[count:, index].isnan().all()


def test_two_models_are_matched_together(samples, small, robust):
    joint = generate([small, robust], samples, ["2", "group2"], steps=30, combine="mean")
    single = [generate(model, samples, stage, start=joint.starts, steps=1).loss[0]
              for model, stage in ((small, "2"), (robust, "group2"))]
    torch.testing.assert_close(joint.loss[0], (single[0] + single[1]) / 2)
    assert (joint.loss[-1] < joint.loss[0]).all()
    assert joint.recipe["models"] == ["small", "zoo/vgg-robust-0"]


@pytest.mark.parametrize("change, message", [
    ({"stage": "6"}, "its stages are 0, 1, 2, 3, 5"),
    ({"optimizer": "adm"}, "choose one of published, gradient_descent, sgd"),
    ({"start": "nois"}, "choose one of noise, uniform, grey"),
    ({"optimizer": ("spectral_lbfgs", {"lr": 1})},
     "no option lr; its options are history, first_step"),
    ({"start": ("noise", {"fraction": 1})}, "no option fraction; its options are mean, std"),
    ({"start": ("blend", {"fraction": 2})}, r"must be in \[0, 1\]"), ({"steps": 0}, "at least 1"),
    ({"start": "same_class"}, "a pool of images"),
    ({"start": torch.zeros(1, 3, 32, 32)}, "must have the references' shape"),
    ({"stage": ["2", "3"]}, "1 models need as many stages")])
def test_bad_arguments_say_what_is_right(samples, small, change, message):
    arguments = {"stage": "2", "steps": 1} | change
    with pytest.raises(ValueError, match=message):
        generate(small, samples, arguments.pop("stage"), **arguments)


def test_an_unknown_precision_is_told(samples, small):
    with pytest.raises(ValueError, match="choose one of float32, tf32, bfloat16"):
        generate(small, samples, "2", steps=1, compute=Compute(precision="half"))


def test_the_recipe_is_plain_and_complete(samples, small):
    import json
    null = null_distribution(small, "2", samples)
    recipe = generate(small, samples, "2", start="blend", steps=2, stop=null).recipe
    assert json.loads(json.dumps(recipe)) == recipe
    assert recipe["optimizer_options"] == {"history": 20, "first_step": 0.05, "exponent": 0.5,
                                           "fade": 20}
    assert recipe["start_options"] == {"fraction": 0.5}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_not_cleared_by_the_system_again():
    resource = pytest.importorskip("resource")
    keep_freed_memory()

    def pages_that_came_back():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2 ** 24)  # 64 MB, which glibc gives back by default
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    for _ in range(10):  # until the heap, whatever it went through, has a free block of this size
        pages_that_came_back()
    # less than half of all pages
    assert (sum(pages_that_came_back() for _ in range(5))
            < 5 * 2 ** 26 / resource.getpagesize() / 2)


def test_autocast_around_a_run_does_not_change_its_arithmetic(samples):
    model = wrap_model(small_network(), stages=["2"], mean=(0.4,) * 3, std=(0.2,) * 3)
    runs = []
    for around in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            runs.append(generate(model, samples.images[:2], "2", optimizer="published", steps=3))
    assert torch.equal(runs[0].loss, runs[1].loss)


# --- History, callback, a loss of one's own -----------------------------------------------------

def equal(ours, theirs):
    """Whether two runs came to the same, bit for bit."""
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=0, atol=0, equal_nan=True)
    return torch.equal(ours.images, theirs.images) and ours.status == theirs.status


@pytest.mark.parametrize("batch_size", [128, 3])
def test_the_history_shows_each_image_as_it_was(samples, small, batch_size):
    options = {"steps": 11, "compute": Compute(batch_size=batch_size), "check_every": 2,
               "stop": null_distribution(small, "2", samples)}
    run = generate(small, samples[:8], "2", store_every=4, **options)
    assert run.history_steps.tolist() == [4, 8, 11] and run.history.shape == (3, 8, 3, 32, 32)
    assert torch.equal(run.history[-1], run.images) and "passed" in run.status
    assert equal(run, generate(small, samples[:8], "2", **options))
    for step, images in zip(run.history_steps.tolist(), run.history):
        first = generate(small, samples[:min(batch_size, 8)], "2", pause=step, **options)
        assert torch.equal(images[:len(first)], first.images)
        for image, shown in enumerate(images):
            if run.evaluations[image] <= step:
                assert torch.equal(shown, run.images[image])


def test_the_history_of_a_resumed_run_is_that_of_one_that_was_not(samples, small, tmp_path):
    options = {"steps": 10, "store_every": 4, "compute": Compute(batch_size=2)}
    whole, run = generate(small, samples[:4], "2", **options), None
    for pause in (1, 4, 3, 2, 10):
        run = generate(small, samples[:4], "2", **options, pause=pause, resume=run)
        run.save(tmp_path)
        run = type(run).load(tmp_path)
        now = torch.minimum(run.history_steps[:, None], run.evaluations)
        for step, image in ((0, 0), (1, 1), (2, 3)):  # as far as it has come
            if now[step, image] == run.evaluations[image]:
                assert torch.equal(run.history[step, image], run.images[image])
    assert torch.equal(run.history, whole.history) and equal(run, whole)
    with pytest.raises(ValueError, match="these differ: store_every"):
        generate(small, samples[:4], "2", **options | {"store_every": 5}, resume=run)


def test_the_callback_sees_each_check(samples, small):
    seen = []
    run = generate(small, samples[:5], "2", steps=7, check_every=3, callback=seen.append,
                   compute=Compute(batch_size=3), store_every=1)
    assert [(each.step, each.rows.tolist()) for each in seen] == [
        (step, rows) for rows in ([0, 1, 2], [3, 4]) for step in (3, 6, 7)]
    for each in seen:
        assert torch.equal(each.loss, run.loss[each.step - 1, each.rows])
        assert torch.equal(each.images, run.history[each.step - 1, each.rows])


@pytest.mark.parametrize("end", [
    lambda progress: progress.step == 4,
    lambda progress: 1 / (progress.step - 4),  # what it returns before is no bool
    lambda progress: torch.tensor(progress.step >= 4)])
@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_callback_ends_a_run_and_nothing_is_lost(samples, small, end, batch_size, recwarn):
    options = {"steps": 8, "check_every": 2, "compute": Compute(batch_size=batch_size)}
    whole = generate(small, samples[:4], "2", **options)
    run = generate(small, samples[:4], "2", callback=end, **options)
    done = [4] * batch_size + [0] * (4 - batch_size)
    assert run.interrupted and run.evaluations.tolist() == done
    failed = ["callback failed (ZeroDivisionError" in str(one.message) for one in recwarn]
    try:
        end(type("Progress", (), {"step": 4}))
        assert not failed
    except ZeroDivisionError:
        assert failed == [True]
    assert equal(generate(small, samples[:4], "2", **options, resume=run), whole)


def test_a_callback_that_ends_a_run_at_the_end_of_a_batch_begins_no_other(samples, small):
    run = generate(small, samples[:4], "2", steps=4, compute=Compute(batch_size=2),
                   callback=lambda progress: progress.step == 4)
    assert run.status == ("steps", "steps", "interrupted", "interrupted")


def as_published(activations, target):
    return ((activations - target).norm(dim=1) / target.norm(dim=1))


@pytest.mark.parametrize("options", [
    {}, {"prior": "natural"}, {"jitter": 2, "optimizer": "adam"}, {"optimizer": "lbfgs"}])
def test_the_published_loss_written_by_a_user_gives_the_same(samples, small, options):
    plain = Compute(identity_relu=False)  # otherwise another loss is lowered, see `matching_loss`
    runs = [generate(small, samples[:3], "2", steps=6, **options, loss=loss, compute=plain)
            for loss in (None, as_published)]
    torch.testing.assert_close(runs[0].loss, runs[1].loss, rtol=0, atol=1e-6)
    assert [run.recipe["loss"] for run in runs] == [None, "as_published"]


@pytest.mark.parametrize("ceiling", [6.0, torch.inf])
def test_the_matching_loss_is_a_convex_potential_of_the_identity_backward_relu(ceiling):
    generator = torch.Generator().manual_seed(0)
    before, other = 6 * torch.randn(2, 4, 50, generator=generator, dtype=torch.float64)
    target = (6 * torch.randn(4, 50, generator=generator, dtype=torch.float64)).clamp(0, ceiling)
    value, slope = matching_loss(before, target, ceiling)
    norm = target.norm(dim=1)

    def fenchel_young(z):
        """Omega*(z) + Omega(t) - z t, Omega being half the square on [0, ceiling]."""
        conjugate = torch.where(z > ceiling, ceiling * z - ceiling ** 2 / 2,
                                z.clamp_min(0) ** 2 / 2) if ceiling < torch.inf else (
            z.clamp_min(0) ** 2 / 2)
        return (conjugate + target ** 2 / 2 - z * target).sum(1)

    potential = fenchel_young(before.requires_grad_())
    torch.testing.assert_close(value.square() / 2 * norm.square(), potential.detach())
    gradient, = torch.autograd.grad(potential.sum(), before)
    torch.testing.assert_close(value[:, None] * slope * norm.square()[:, None], gradient)
    torch.testing.assert_close(gradient, before.detach().clamp(0, ceiling) - target)
    distance = (before.detach().clamp(0, ceiling) - target).norm(dim=1) / norm
    assert (value >= distance - 1e-12).all()
    middle = fenchel_young((before + other).detach() / 2)
    assert (middle <= (fenchel_young(before.detach()) + fenchel_young(other)) / 2).all()
    for match in (target, torch.where(target == 0, -1.0, target)):
        assert matching_loss(match, target, ceiling)[0].abs().max() == 0


@pytest.mark.parametrize("stage", ["1", "2", "3"])
def test_what_is_lowered_has_the_direction_of_the_published_gradient(samples, small, stage):
    """The loss that is reported is the distance, also where another one is lowered."""
    references, images = samples.images[:3], samples.images[3:6].clone()
    member, combine = Member(0, small, stage, None), combinations.COMBINATIONS["worst"]
    found = [Objective(grouped([member], 0, Compute(), None, alone=alone), references, count=1,
                       combine=combine)(images, torch.arange(3), 0) for alone in (True, False)]
    torch.testing.assert_close(found[0].loss, found[1].loss)
    units = [one.gradient.flatten(1) / one.gradient.flatten(1).norm(dim=1, keepdim=True)
             for one in found]
    torch.testing.assert_close(*units, rtol=1e-4, atol=1e-6)
    assert torch.equal(found[1].value, found[1].loss)
    assert (found[0].value > found[0].loss).all() == (stage in small.relu_stages)


def test_a_line_search_does_not_stand_still_where_most_units_are_off():
    """The last maps of a real network, sparse and bounded, from noise."""
    model = load_model("timm/tf_efficientnet_lite0", stages=["bn2"])
    images = load_images("imagenet-samples", n=1, size=model.input_size)
    assert model.relu_ceilings == {"bn2": 6.0}
    loss = generate(model, images, "bn2", steps=20).loss[:, 0]
    assert loss[-5:].min() < 0.95 * loss[0] and loss.unique().numel() > 15


@pytest.mark.parametrize("stacked", [False, True])
def test_a_loss_is_that_of_the_activations_in_their_order(samples, stacked):
    """A loss that weighs units by their number, for models that keep their channels last."""
    models = [wrap_model(small_network(seed), stages=["2"], name=str(seed), channels_last=seed > 0)
              for seed in range(3)]

    def weighted(activations, target):
        weights = torch.linspace(0, 1, activations.shape[1]) ** 3
        return (weights * (activations - target) ** 2).mean(1)

    run = generate(models, samples[:4], ["2"] * 3, steps=12, loss=weighted, optimizer="adam",
                   compute=Compute(stacked=stacked))
    for number, model in enumerate(models):
        expected = weighted(*(model.activations(images, "2")
                              for images in (run.starts, run.references)))
        torch.testing.assert_close(run.member_loss[0, number], expected, rtol=1e-4, atol=1e-7)
    assert (run.loss[-1] < 0.7 * run.loss[0]).all()


@pytest.mark.parametrize("loss, message", [
    ("mse", "loss is a function"), (lambda a, t: (a - t).square().mean(), r"\(3,\), not \(\)"),
    (lambda a, t: (a - t).square(), "dim=1 only"), (lambda a, t: 0.5, "not float"),
    (lambda a, t: ((a - t).square().sum(1)).squeeze(), r"tensor \(1,\), not \(\)"),
    (lambda a, t: (a - t).norm(dim=1) / a.norm(), "depends on the others"),
    (lambda a, t: (a - t).norm(dim=1) * torch.rand(len(a)), "or on chance"),
    (lambda a, t: (a - t).norm(dim=1) * torch.arange(1, len(a) + 1), "depends on the others"),
    (lambda a, t: (a.detach() - t).norm(dim=1), "no gradient"),
    (lambda a, t: (a * 0).sum(1) + 1, "zero or not finite"),
    (lambda a, t: (a - t).norm(dim=1) / 0, "must be finite"),
    (lambda a, t: -(a - t).norm(dim=1), "not below 0"),
    (lambda a, t: (a - t.mul_(2)).norm(dim=1), "changes the target"),
    (lambda a: a.sum(1), "fails on activations and target"), (lambda a, t: a @ t, "fails on")])
def test_a_loss_that_is_none_is_refused(samples, small, loss, message):
    with pytest.raises(ValueError, match=message):
        generate(small, samples[:2], "2", steps=1, loss=loss)


def test_a_run_is_resumed_with_the_loss_and_the_rule_that_it_was_begun_with(samples, small):
    def scaled(scale):
        return lambda a, t: scale * (a - t).norm(dim=1)

    def rule(size):
        def descent(images, gradient, loss, state, step, steps):
            return images - size * gradient
        return descent

    options = {"steps": 4}
    run = generate(small, samples[:2], "2", **options, loss=scaled(1), optimizer=rule(0.1), pause=2)
    again = generate(small, samples[:2], "2", **options, loss=scaled(1), optimizer=rule(0.1),
                     resume=run)
    assert not again.interrupted
    for changed in ({"loss": scaled(2)}, {"optimizer": rule(0.2)}, {"loss": as_published}):
        arguments = {"loss": scaled(1), "optimizer": rule(0.1)} | changed
        with pytest.raises(ValueError, match="these differ: .*code"):
            generate(small, samples[:2], "2", **options, **arguments, resume=run)


def test_counts_below_one_and_things_that_are_no_functions_are_refused(samples, small):
    for change in ({"store_every": 0}, {"pause": 0}, {"callback": 3}):
        with pytest.raises(ValueError, match="at least 1|is a function"):
            generate(small, samples[:2], "2", **change)


def test_the_bar_shows_the_loss_and_how_many_have_passed(samples, small, capsys, monkeypatch):
    # drawn at each step; else now and then, as time passes
    monkeypatch.setattr(progress, "tqdm", functools.partial(tqdm, mininterval=0, miniters=1))
    run = generate(small, samples, "2", steps=10, progress=True,
                   stop=null_distribution(small, "2", samples))
    shown = capsys.readouterr().err
    assert "10/10" in shown or "passed" in run.status and shown
    losses = re.findall(r"median loss (\S+), \d+ of 20 passed", shown)
    checked = [step for step in (4, 9) if run.loss[step].isfinite().any()]
    assert set(losses) == {f"{run.loss[step].nanmedian():.3g}" for step in checked}
