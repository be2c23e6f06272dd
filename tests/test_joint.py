"""Several models at once: combinations, metamers on disk, runs spread over processes, recovery from
a kill, and the studies of joint metamers.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import RECIPE, one_thread, small_network
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from scipy import stats
from torch import distributed, nn

from metalib import (
    Compute,
    Metamers,
    generate,
    judge,
    list_models,
    load_model,
    load_null,
    null_distribution,
    wrap_model,
    zoo,
)
from metalib.data import to_8_bits
from metalib.evaluation import joint, strangers
from metalib.evaluation.transfer import RELATIONS, relation
from metalib.generation.combinations import COMBINATIONS, against
from metalib.generation.metamers import FILE, export, load, save
from metalib.generation.stacked import alike
from metalib.runs import recipe
from metalib.runs.recipe import run

TOGETHER = [name for name in COMBINATIONS if name != "against"]
tasks = importlib.import_module("metalib.runs.tasks.joint")  # the package has a function so named


@pytest.fixture
def pair():
    return [wrap_model(small_network(seed), stages=["1", "2", "3"], mean=(0.4,) * 3,
                       std=(0.2,) * 3, name=f"small-{seed}")
            for seed in (0, 1)]


# --- Combinations -------------------------------------------------------------------------------

@pytest.mark.parametrize("name", TOGETHER)
def test_members_that_agree_are_as_one(name):
    loss, gradient = torch.rand(5), torch.randn(5, 3, 4, 4)
    combined, direction = COMBINATIONS[name](loss.expand(3, 5), gradient.expand(3, *gradient.shape))
    torch.testing.assert_close(combined, loss)
    torch.testing.assert_close(direction, gradient)


@pytest.mark.parametrize("name", TOGETHER)
def test_images_are_not_mixed_and_the_order_of_members_does_not_change_the_loss(name):
    losses, gradients = torch.rand(3, 5), torch.randn(3, 5, 3, 4, 4)
    loss, direction = COMBINATIONS[name](losses, gradients)
    alone, direction_alone = COMBINATIONS[name](losses[:, 2:3], gradients[:, 2:3])
    torch.testing.assert_close(loss[2:3], alone)
    torch.testing.assert_close(direction[2:3], direction_alone)
    torch.testing.assert_close(COMBINATIONS[name](losses.flip(0), gradients.flip(0))[0], loss)


@pytest.mark.parametrize("name, formula", [
    ("mean", lambda x: x.mean(0)), ("rms", lambda x: x.square().mean(0).sqrt()),
    ("worst", lambda x: (x ** 8).mean(0) ** (1 / 8))])
def test_power_means_and_their_gradients_are_those_of_autograd(name, formula):
    points = torch.rand(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    maps = torch.randn(4, 3, 4, 4, dtype=torch.float64)
    losses = torch.stack([(points * weights).flatten(1).norm(dim=1) for weights in maps])
    gradients = torch.stack([torch.autograd.grad(row.sum(), points, retain_graph=True)[0]
                             for row in losses])
    expected, = torch.autograd.grad(formula(losses).sum(), points)
    loss, gradient = COMBINATIONS[name](losses.detach(), gradients)
    torch.testing.assert_close(loss, formula(losses).detach())
    torch.testing.assert_close(gradient, expected)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 5), st.integers(0, 10_000))
def test_projection_of_two_members_works_against_neither_and_normalising_gives_equal_votes(
        members, seed):
    random = torch.Generator().manual_seed(seed)
    losses, gradients = (torch.rand(members, 2, generator=random),
                         torch.randn(members, 2, 3, 4, 4, generator=random))
    _, direction = COMBINATIONS["projected"](losses[:2], gradients[:2])
    assert (direction * gradients[:2]).flatten(2).sum(2).min() > -1e-4
    scales = torch.rand(members, 1, generator=random).view(-1, 1, 1, 1, 1) + 0.1
    one, other = (COMBINATIONS["normalised"](losses, scaled)[1].flatten(1)
                  for scaled in (gradients, gradients * scales))
    torch.testing.assert_close(torch.nn.functional.normalize(one),
                               torch.nn.functional.normalize(other))


def test_worst_is_near_the_largest_and_survives_extremes():
    losses = torch.tensor([[1e-30, 1e-5], [1e-30, 1.0]])
    loss, gradient = COMBINATIONS["worst"](losses, torch.ones(2, 2, 3, 2, 2))
    assert loss[1] == pytest.approx(2 ** (-1 / 8)) and gradient.isfinite().all()


# --- Controversial metamers ---------------------------------------------------------------------

def test_the_gradient_against_others_is_that_of_autograd():
    points = torch.rand(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    maps = torch.randn(3, 3, 4, 4, dtype=torch.float64) / 4
    losses = torch.stack([(points * weights).flatten(1).norm(dim=1) for weights in maps])
    assert (losses[1:] < 1).any() and (losses[1:] > 1).any()  # both sides of what is enough
    gradients = torch.stack([torch.autograd.grad(row.sum(), points, retain_graph=True)[0]
                             for row in losses])
    formula = (losses[0].square()
               + 3 * (1 - losses[1:]).clamp_min(0).square().mean(0)).sqrt()
    expected, = torch.autograd.grad(formula.sum(), points)
    loss, gradient = against(losses.detach(), gradients, weight=3.0)
    torch.testing.assert_close(loss, formula.detach())
    torch.testing.assert_close(gradient, expected)


def test_an_image_between_linear_models_is_as_far_as_the_box_allows():
    """Models that see different pixels can be divided, and models that see the same ones cannot."""
    def seeing(name, columns):
        mask = torch.zeros(1, 3, 8, 8)
        mask[..., columns] = 1

        class See(nn.Module):
            def __init__(self):
                super().__init__()
                self.stage = nn.Identity()

            def forward(self, x):
                return self.stage(x * mask)

        return wrap_model(See(), stages=["stage"], mean=(0.0,) * 3, std=(1.0,) * 3, input_size=8,
                          name=name)

    left, right, whole = (seeing(name, columns) for name, columns in (
        ("left", slice(4)), ("right", slice(4, 8)), ("whole", slice(8))))
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    divided = generate([left, right], images, ["stage"] * 2, steps=60, combine="against")
    assert (divided.member_loss[-1, 0] < 0.01).all() and (divided.member_loss[-1, 1] > 0.99).all()
    assert (divided.images - images)[..., :4].abs().max() < 0.01
    stuck = generate([left, whole], images, ["stage"] * 2, steps=60, combine="against")
    same = generate([left, left], images, ["stage"] * 2, steps=60, combine="against")
    assert (stuck.member_loss[-1, 0] < 0.02).all() and (stuck.member_loss[-1, 1] > 0.9).all()
    torch.testing.assert_close(same.member_loss[-1, 0], same.member_loss[-1, 1])
    assert (same.loss[-1] == pytest.approx(0.5 ** 0.5, abs=0.02))  # the least of x^2 + (1 - x)^2


def test_a_controversial_metamer_passes_for_one_network_and_is_far_for_another(samples):
    one, other = load_model("zoo/vgg-robust-0"), load_model("zoo/convnext-standard-0")
    null = load_null(one, "features")
    divided = generate([one, other], samples[:4], ["features"] * 2, steps=80, combine="against")
    plain = generate(one, samples[:4], "features", steps=80)
    assert judge(one, "features", divided, null)["passed"].sum() >= 3
    theirs = load_null(other, "features")
    near, far = (judge(other, "features", made, theirs)["pearson"].mean()
                 for made in (plain, divided))
    assert far < near - 0.1


# --- Joint metamers -----------------------------------------------------------------------------

@pytest.mark.parametrize("combine", TOGETHER)
def test_a_joint_metamer_matches_every_member(combine, pair, samples):
    rule = "adam" if combine in ("normalised", "projected") else "spectral_lbfgs"
    nulls = [null_distribution(model, "2", samples) for model in pair]
    metamers = generate(pair, samples[:6], ["2", "2"], steps=150, stop=nulls, combine=combine,
                        optimizer=rule)
    for model, null in zip(pair, nulls):
        assert judge(model, "2", metamers, null)["passed"].all()
    assert metamers.status == ("passed",) * 6 and metamers.member_loss.shape == (150, 2, 6)
    first = [generate(model, samples[:6], "2", steps=1).loss[0] for model in pair]
    torch.testing.assert_close(metamers.member_loss[0], torch.stack(first), atol=1e-6, rtol=0)


def test_a_joint_metamer_stops_only_when_every_member_passes(pair, samples):
    nulls = [null_distribution(model, stage, samples) for model, stage in zip(pair, ("3", "1"))]
    joint = generate(pair, samples, ["3", "1"], steps=80, stop=nulls, check_every=2)
    easy = generate(pair[0], samples, "3", steps=80, stop=nulls[0], check_every=2)
    assert (joint.evaluations > easy.evaluations).any()
    passed = np.all([judge(model, stage, joint, null)["passed"]
                     for model, stage, null in zip(pair, ("3", "1"), nulls)], axis=0)
    assert passed.tolist() == [status == "passed" for status in joint.status]


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_an_image_of_many_members_does_not_depend_on_its_batch(combine, samples):
    models = [wrap_model(small_network(seed), stages=["2"], name=f"small-{seed}")
              for seed in range(5)]
    rule = "adam" if combine in ("normalised", "projected") else "spectral_lbfgs"
    arguments = {"steps": 40, "combine": combine, "optimizer": rule}
    together = generate(models, samples[:9], ["2"] * 5, **arguments)
    for number in (0, 8):
        alone = generate(models, samples[number:number + 1], ["2"] * 5, **arguments)
        torch.testing.assert_close(together.loss[:, number], alone.loss[:, 0], atol=0, rtol=0)
        assert torch.equal(together.images[number], alone.images[0])


@pytest.mark.parametrize("sequential", [False, True])
def test_sequential_visits_change_nothing(sequential, pair, samples):
    expected = generate(pair, samples[:3], ["2", "1"], steps=8)
    ours = generate(pair, samples[:3], ["2", "1"], steps=8, device="cpu",
                    compute=Compute(sequential=sequential))
    torch.testing.assert_close(ours.loss, expected.loss, atol=0, rtol=0)


@pytest.mark.parametrize("stages", [["1", "2", "1", "1"], ["2", "2", "2", "2"],
                                    ["3", "3", "3", "3"]])
def test_members_evaluated_together_are_as_in_turn(stages, pair, samples):
    other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Flatten(),
                          nn.Linear(4 * 28 * 28, 10))
    models = [pair[0], wrap_model(other, stages=["1", "2", "3"], name="other"), wrap_model(
        small_network(2), stages=["1", "2", "3"], mean=(0.5,) * 3, name="small-2"), pair[1]]
    assert alike(list(zip(models, stages))) == [[0, 2, 3], [1]]
    nulls = [null_distribution(model, stage, samples) for model, stage in zip(models, stages)]
    arguments = {"steps": 12, "optimizer": "adam", "stop": nulls, "jitter": 1, "check_every": 2}
    expected, stacked = (generate(models, samples[:5], stages, **arguments,
                                  compute=Compute(exact_batches=False, stacked=together))
                         for together in (False, True))
    torch.testing.assert_close(stacked.member_loss, expected.member_loss, atol=1e-5, rtol=1e-4,
                               equal_nan=True)
    assert stacked.status == expected.status


def test_bad_calls_are_explained(pair, samples):
    with pytest.raises(ValueError, match="leave out sequential"):
        generate(pair, samples, ["2", "2"], compute=Compute(stacked=True, sequential=True))
    with pytest.raises(ValueError, match="2 models need as many stages"):
        generate(pair, samples, ["2"])
    with pytest.raises(ValueError, match="unknown combination 'sum'; choose one of mean, rms"):
        generate(pair, samples, ["2", "2"], combine="sum")
    with pytest.raises(ValueError, match="as many stages"):
        generate([], samples, [])


# --- On disk ------------------------------------------------------------------------------------

def test_paused_saved_loaded_and_resumed_equals_uninterrupted(tmp_path, pair, samples):
    arguments = {"steps": 23, "compute": Compute(batch_size=8),
                 "stop": [null_distribution(model, "2", samples) for model in pair]}
    expected = generate(pair, samples, ["2", "2"], **arguments)
    metamers, rounds = None, 0
    while metamers is None or metamers.interrupted:
        metamers = generate(pair, samples, ["2", "2"], **arguments, pause=6, resume=metamers)
        save(metamers, tmp_path)
        metamers, rounds = load(tmp_path), rounds + 1
    assert (rounds > 3 and metamers.status == expected.status
            and metamers.recipe == json.loads(json.dumps(expected.recipe)))
    for name in ("images", "references", "starts", "evaluations"):
        assert torch.equal(getattr(metamers, name), getattr(expected, name))
    torch.testing.assert_close(metamers.member_loss, expected.member_loss, atol=0, rtol=0,
                               equal_nan=True)


def test_saved_metamers_are_read_without_metalib(tmp_path, small, samples):
    metamers = generate(small, samples[:2], "2", steps=3)
    save(metamers, tmp_path)
    export(metamers, tmp_path)
    with safe_open(tmp_path / "metamers.safetensors", "np") as file:
        images, about = file.get_tensor("images"), json.loads(file.metadata()["about"])
    assert (images == metamers.images.numpy()).all() and about["recipe"]["steps"] == 3
    from metalib.data import read_image
    for number in range(2):
        torch.testing.assert_close(read_image(tmp_path / "images" / f"{number:04}.png"),
                                   metamers.images[number])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "images", "metamers.safetensors", "recipe.json", "references"]


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_file_is_noticed(tmp_path, small, samples, damage):
    save(generate(small, samples[:2], "2", steps=2), tmp_path)
    path = tmp_path / FILE
    content = bytearray(path.read_bytes())
    if damage == "altered":
        content[-40] ^= 1
    path.write_bytes({"truncated": content[:-100], "altered": content, "empty": b""}[damage])
    with pytest.raises(ValueError, match="damaged|altered"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no metamers"):
        load(tmp_path / "elsewhere")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"),
                                   SafetensorError("I/O error: No space left on device")])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, small, samples, monkeypatch, error):
    before = generate(small, samples[:2], "2", steps=2)
    save(before, tmp_path)

    def full(tensors, path, about):
        open(path, "wb").write(b"half")
        raise error

    monkeypatch.setattr("metalib.store.safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save(generate(small, samples[:2], "2", steps=3), tmp_path)
    assert torch.equal(load(tmp_path).images, before.images)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


# --- Spread over processes ----------------------------------------------------------------------



def started(folder, recipe, ranks, *arguments):
    """Start a run in processes of its own, on the loopback address."""
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe))
    launch = [sys.executable, "-m"]
    if ranks > 1:
        launch += ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
                   "--nproc-per-node", str(ranks), "-m"]
    return subprocess.Popen(
        [*launch, "metalib.run", str(path), str(folder / "run"), *arguments], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, start_new_session=True)


@pytest.fixture
def two_ranks(tmp_path, monkeypatch, handlers):
    """A function that starts a run of which this process is the first of two ranks.

    It gives the arguments of the command, to be called here, and the process of the other rank.
    """
    others = []

    def start(values, *options):
        (tmp_path / "recipe.yml").write_text(yaml.safe_dump(values))
        arguments = [str(tmp_path / "recipe.yml"), str(tmp_path / "run"), *options]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for name, value in (("RANK", 1), ("WORLD_SIZE", 2), ("LOCAL_RANK", 0),
                            ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port),
                            ("OMP_NUM_THREADS", 1)):
            monkeypatch.setenv(name, str(value))
        others.append(subprocess.Popen([sys.executable, "-m", "metalib.run", *arguments], text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        monkeypatch.setenv("RANK", "0")
        return arguments, others[0]

    with one_thread():
        yield start
    for other in others:
        other.kill()
        other.communicate()
    if distributed.is_initialized():  # the command did not end well
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


def test_two_ranks_make_the_images_of_one(tmp_path, one_process, two_ranks, capsys):
    arguments, other = two_ranks(RECIPE)
    recipe.main(arguments)
    assert capsys.readouterr().out.count("2 metamers") == 1  # only rank 0 reports
    assert (other.communicate(timeout=60)[0], other.returncode) == ("", 0)
    two = load(tmp_path / "run")
    assert two.recipe["ranks"] == 2
    assert (two.images - one_process.images).abs().max() <= 1e-5
    torch.testing.assert_close(two.member_loss, one_process.member_loss, atol=1e-5, rtol=0)


def test_images_of_one_model_are_split_over_ranks(tmp_path, two_ranks, monkeypatch):
    values = {**RECIPE, "models": RECIPE["models"][:1], "stages": ["group1"],
              "images": {"source": "cifar10-samples", "n": 5}, "steps": 20, "stop": "criterion"}
    alone = run(values, tmp_path / "alone")
    made, loop = [], sys.modules["metalib.generation.generate"]
    optimise = loop.optimise
    monkeypatch.setattr(loop, "optimise", lambda record, *args, **more: made.append(
        len(record.images)) or optimise(record, *args, **more))
    arguments, other = two_ranks(values, "--checkpoint-every", "8")
    recipe.main(arguments)
    assert other.communicate(timeout=60)[1] is None and other.returncode == 0
    assert set(made) == {3}  # of 5 images, and the other rank made the rest
    split = load(tmp_path / "run")
    assert torch.equal(split.images, alone.images) and split.status == alone.status


def test_a_recipe_holds_options_with_what_they_belong_to(tmp_path):
    recipe = {**RECIPE, "models": RECIPE["models"][:1], "stages": ["group1"], "steps": 4,
              "optimizer": ["lbfgs", {"history": 5}], "compute": {"batch_size": 1}}
    made = run(recipe, tmp_path).recipe
    assert made["optimizer"] == "lbfgs" and made["optimizer_options"]["history"] == 5
    assert made["batch_size"] == 1


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, one_process):
    process = started(tmp_path, RECIPE, 1, "--checkpoint-every", "5")
    for _ in range(1500):
        if (tmp_path / "run" / FILE).is_file():
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert load(tmp_path / "run").interrupted
    with one_thread():
        resumed = run(RECIPE, tmp_path / "run")
    assert not resumed.interrupted and torch.equal(resumed.images, one_process.images)
    assert torch.equal(resumed.loss, one_process.loss)


def test_a_rank_that_dies_ends_the_run_and_leaves_a_checkpoint(tmp_path, two_ranks):
    arguments, other = two_ranks(
        {**RECIPE, "steps": 5000}, "--checkpoint-every", "5", "--timeout", "60")

    def kill():
        while other.poll() is None and not (tmp_path / "run" / FILE).is_file():
            time.sleep(0.05)
        other.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(SystemExit) as end:
        recipe.main(arguments)
    killer.join()
    assert "a rank has died" in end.value.code
    assert "start the same command again" in end.value.code
    assert load(tmp_path / "run").interrupted


@pytest.mark.parametrize("change, message", [
    ({"stpes": 3}, "unknown keys in the recipe: stpes"), ({"stop": "yes"}, "say stop: criterion"),
    ({"stages": ["group9", "group1"]}, "has no stage 'group9'")])
def test_a_bad_recipe_is_explained(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run({**RECIPE, **change}, tmp_path)
    with pytest.raises(ValueError, match="compute: {'batch': 3} is not understood"):
        run({**RECIPE, "compute": {"batch": 3}}, tmp_path)
    with pytest.raises(ValueError, match="lacks images"):
        run({"models": [], "stages": []}, tmp_path)
    assert not list(tmp_path.iterdir())


# --- Studies of joint metamers ------------------------------------------------------------------

NETWORKS = ["zoo/vgg-standard-0", "zoo/vgg-robust-1", "zoo/resnet-robust-0", "zoo/cct-standard-0"]


def test_one_run_gives_what_runs_of_each_length_give(pair, samples):
    found = tasks.reached(pair, "2", samples[:3], [9, 4, 20], seed=1)
    for steps, images in found.items():
        expected = generate(pair, samples[:3], ["2", "2"], steps=steps, seed=1).images
        torch.testing.assert_close(images, expected, atol=0, rtol=0)
    assert list(found) == [4, 9, 20]


def test_a_look_judges_as_judge_does(samples):
    model, images = load_model(NETWORKS[0]), samples[:4]
    null = load_null(model, "group3")
    made = generate(model, images, "group3", steps=15).images
    pictures = torch.stack([made, to_8_bits(made.lerp(images.images, 0.5)), images.images])
    seen = joint.look(model, "group3", null, images.images, pictures, batch_size=5)
    assert seen["picture"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for number, picture in enumerate(pictures):
        one = seen[seen["picture"] == number].reset_index(drop=True)
        judged = judge(model, "group3", Metamers(picture, images.images), null)
        assert one[["passed", "class_match"]].equals(judged[["passed", "class_match"]])
        np.testing.assert_allclose(one["match"], judged["pearson"], atol=1e-5)
        np.testing.assert_allclose(one["distance"], judged["distance"], atol=1e-6)
    told = joint.told([model], "group3", images.images, pictures)
    assert told[2] == ["answer 1 of 1\npass 1 of 1"] * 4 and len(told) == 3


def test_held_out_networks_are_shown_all_kinds_at_each_effort_and_members_their_own():
    options = {"models": NETWORKS, "members": [2], "efforts": [3, 6], "most": 12, "n_images": 3,
               "singles": 2}
    table = tasks.joint(1, **options)
    order = tasks.drawn(NETWORKS, 1, 0)
    others = table[~table["observer"].isin(order[:2])]
    assert set(others["observer"]) == set(order[2:])
    assert others.groupby(["observer", "effort", "image"]).size().eq(3 + 3 * 2).all()
    own = table[table["nearest"] == "itself"]
    assert set(own["kind"]) == {"joint", "single"} and set(own["observer"]) == set(order[:2])
    again = tasks.joint(1, first=2, **options)
    both = again.merge(table, on=["members", "effort", "kind", "member", "observer", "image"])
    assert len(both) == len(again) and (both["passed_x"] == both["passed_y"]).all()
    apart = table.pivot_table("distance", ["observer", "effort", "image", "member"], "kind")
    ends = apart[["joint, at one distance", "single, at one distance"]].dropna()
    assert np.ptp(ends.to_numpy(), axis=1).max() < 0.01
    few = tasks.joint(1, first=1, **{**options, "members": [2, 3], "most": 6})
    assert set(few["members"]) == {2} and set(
        few.loc[few["nearest"] != "itself", "observer"]) == set(order[3:])
    parts = pd.concat([tasks.joint(1, part=part, parts=2, **options) for part in (0, 1)])
    assert sorted(parts["image"].unique()) == [0, 1, 2] and len(parts) == len(table)


def test_observers_of_joint_metamers_may_take_images_of_another_size():
    options = {"models": NETWORKS[:2], "members": [2], "efforts": [3], "n_images": 2, "singles": 1}
    judges = [NETWORKS[2], "zoo/photo-resnet-standard-0"]
    table = tasks.joint(0, observers=judges, **options)
    seen = table[~table["observer"].isin(NETWORKS[:2])]
    assert set(seen["observer"]) == set(judges) and seen["match"].notna().all()
    assert set(seen["kind"]) == set(joint.KINDS) and "itself" not in set(seen["nearest"])
    held_out = tasks.joint(0, **{**options, "models": NETWORKS[:3]})
    assert len(held_out) == len(table[table["observer"] != judges[1]])


def test_draws_that_are_apart_share_no_member():
    names = [f"net {k}" for k in range(24)]
    orders = [tasks.drawn(names, draw, 3, apart=4) for draw in range(6)]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert len({name for order in orders for name in order[:4]}) == 24
    assert len({name for order in orders[::2] for name in order[:8]}) == 24
    kept = [tasks.without_overlap([2, 4, 8], draw, 4) for draw in range(3)]
    assert kept == [[2, 4, 8], [2, 4], [2, 4, 8]]
    assert tasks.without_overlap([2, 8], 1, 0) == [2, 8]


def test_partners_differ_as_they_say_and_no_observer_is_near():
    cards = {name: load_model(name).card for name in list_models(zoo.SMALL)}
    for seed, name in enumerate(cards):
        chosen, observers = tasks.partners_of(name, cards, np.random.default_rng(seed))
        assert set(chosen) == set(RELATIONS) and len(observers) == len(cards) // 2
        assert all(relation(cards[name], cards[other]) == kind for kind, other in chosen.items())
        families = {cards[other]["architecture"] for other in chosen.values()}
        assert families.isdisjoint(cards[other]["architecture"] for other in observers)


def test_pairs_of_all_cells_are_each_pair_once():
    options = {"models": NETWORKS[:3], "stage": "features", "n_images": 1, "limit": 2}
    rows = pd.concat([tasks.pairs(name, **options).assign(network=name) for name in NETWORKS[:3]])
    assert len(rows) == 6 and len({frozenset(x) for x in zip(rows["network"], rows["other"])}) == 6
    price = tasks.prices(0, 2, models=NETWORKS, n_images=1, limit=2)
    assert price["names"][0].split() == tasks.drawn(NETWORKS, 0, 0)[:2]


@pytest.mark.parametrize("task, options, message", [
    (tasks.check_joint, {"members": [2, 4]}, "a number of members"),
    (tasks.check_joint, {"observers": NETWORKS[:1]}, "cannot be members and observers only"),
    (tasks.check_joint, {"draw": 1, "apart": 1}, "draw 1 of 2 members shares some"),
    (tasks.check_joint, {"most": 3}, "fewer evaluations than 2 members need"),
    (tasks.check_joint, {"stage": "group9"}, "has no stage 'group9'"),
    (tasks.check_partners, {"network": "zoo/cct-robust-0"}, "none of the models"),
    (tasks.check_partners, {"models": NETWORKS[:3]}, "three architectures"),
    (tasks.check_prices, {"combine": "sum"}, "unknown combination 'sum'")])
def test_tasks_say_before_they_begin_what_is_wrong(task, options, message):
    sound = {"draw": 0, "apart": 0, "models": NETWORKS, "members": [2], "efforts": [3], "most": 12,
             "singles": 2,
             "stage": "group3", "part": 0, "parts": 1, "image_set": "cifar10-samples",
             "split": None, "n_images": 2, "size": 32, "first": 0, "network": NETWORKS[0],
             "steps": 5, "combine": "worst", "limit": 5, "observers": ()}
    if task is tasks.check_prices:
        sound["members"] = 2
    with pytest.raises(ValueError, match=message):
        task(**sound | options)


def planted(gain, draws=6, observers=5, images=8):
    """A table of `joint` whose joint images pass more often by `gain`, with random effects."""
    random = np.random.default_rng(0)
    level = (0.4 + random.normal(0, 0.05, draws)[:, None, None]
             + random.normal(0, 0.05, observers)[None, :, None]
             + random.normal(0, 0.05, images)[None, None])
    rows = [{"draw": d, "observer": f"o{o}", "image": i, "members": 2, "effort": 30, "kind": kind,
             "member": member, "nearest": "other seed" if o == 0 else "both differ",
             "passed": level[d, o, i] + gain * (kind == "joint"), "distance": 0.1}
            for d, o, i in np.ndindex(level.shape)
            for kind, member in (("joint", ""), ("single", "a"), ("single", "b"))]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("gain", [0.0, 0.2])
def test_a_planted_gain_is_found(gain):
    table = planted(gain)
    table["passed"] += np.random.default_rng(1).normal(0, 0.1, len(table))
    found = joint.gain(table, members=2)
    assert found["low"] < gain < found["high"] and found["high"] - found["low"] < 0.1
    assert (found["draws"], found["observers"], found["images"]) == (6, 5, 8)
    assert joint.gain(table, members=2, strangers=True)["observers"] == 4
    shares = joint.shares(table).set_index("kind")
    assert shares.loc["joint", "share"] - shares.loc["single", "share"] == pytest.approx(
        found["estimate"])
    assert joint.gains(table)["evaluations"].tolist() == [60]
    more = pd.concat([table, table.assign(effort=60, passed=table["passed"] + 0.3 * (
        table["kind"] == "joint"))])
    assert joint.gain_by_effort(more, members=2)["estimate"] == pytest.approx(0.3)
    assert joint.gain(more, members=2, effort=-1)["estimate"] == found["estimate"]
    with pytest.raises(ValueError, match="no joint or single images of so many members"):
        joint.gain(table, members=4)


def test_a_single_draw_speaks_for_its_members_over_observers_and_images():
    table = planted(0.2, draws=1)
    table["passed"] += np.random.default_rng(1).normal(0, 0.1, len(table))
    found = strangers.together(table, value="passed")
    assert found["low"] < 0.2 < found["high"]
    assert (found["members"], found["observers"], found["images"]) == (2, 5, 8)
    of_kind = table.groupby(["kind", "observer", "image"])["passed"].mean()
    differences = (of_kind["joint"] - of_kind["single"]).unstack()
    assert found["estimate"] == pytest.approx(differences.to_numpy().mean())
    one = strangers.together(table[table["observer"] == "o0"], value="passed")
    theirs = stats.ttest_1samp(differences.loc["o0"], 0).confidence_interval()
    assert (one["low"], one["high"]) == pytest.approx(tuple(theirs))


def test_ratios_of_costs_are_those_planted():
    random = np.random.default_rng(0)
    need = {"a": 10.0, "b": 40.0, "c": 20.0, "d": 5.0}
    alone = pd.DataFrame([{"model": name, "image": i, "evaluations": cost * (1 + i / 10)}
                          for name, cost in need.items() for i in range(6)])
    together = pd.DataFrame([
        {"draw": d, "members": 2, "combine": combine, "names": names, "image": i, "passed": True,
         "evaluations": factor * max(need[name] for name in names.split()) * (1 + i / 10)
         * np.exp(random.normal(0, 0.05))}
        for d, names in enumerate(["a b", "b c", "c d"]) for i in range(6)
        for combine, factor in (("worst", 1.5), ("mean", 3.0))])
    found = joint.price(together, alone, members=2)
    assert found["low"] < 1.5 < found["high"] and found["draws"] == 3
    assert joint.price(together, alone, members=2, of="one")["estimate"] > found["estimate"]
    ratio = joint.combination(together)
    assert ratio["low"] < 2 < ratio["high"] and ratio["high"] < 2.3
    assert joint.prices(together, alone)["passed"].tolist() == [1.0]


def test_pairs_are_told_apart_by_training():
    rows = [("a-robust", "a-robust", 9), ("a-robust", "b-robust", 20), ("a-robust", "b", 40),
            ("b-robust", "b", 60)]
    pairs = pd.DataFrame(rows, columns=["network", "other", "evaluations"])
    assert joint.by_training(pairs) == {"alike": "20", "mixed": "50"}
    assert joint.by_training(pairs[:2])["mixed"] == "no pair"


def test_a_partner_is_compared_for_the_same_network_observer_and_image():
    random = np.random.default_rng(0)
    rows = [{"network": n, "observer": o, "image": i, "partner": kind,
             "passed": n / 10 + 0.3 * (kind == "other architecture") + random.normal(0, 0.05)}
            for n, o, i in np.ndindex(5, 4, 6)
            for kind in ("itself", "other seed", "other architecture")]
    found = joint.partners(pd.DataFrame(rows)).set_index("contrast")
    assert found.loc["other architecture − other seed", "estimate"] == pytest.approx(0.3, abs=0.03)
    assert found.loc["other seed − none", ["low", "high"]].prod() < 0
    assert "other training − none" not in found.index and found["networks"].eq(5).all()
