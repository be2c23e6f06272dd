"""Networks of the user's own by name, and nulls that are kept for networks that come with none."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_network
from torch import nn

import metalib
from metalib import load_images, load_model, load_null, null_distribution, nulls
from metalib.models import sources
from metalib.models.registry import null_file, size_of
from metalib.runs import command
from metalib.runs.sweep import _weights_hash, sweep, whole_values
from metalib.runs.tasks import generation
from metalib.store import fingerprint

FILE = """
import torch
from torch import nn
import metalib

def layers():
    return [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(),
            nn.Linear(200, 10)]

def load(name, stages=("1", "4")):
    torch.manual_seed(int(name))
    return metalib.wrap_model(nn.Sequential(*layers()), stages=list(stages), input_size=32)

metalib.add_models("mine", ["1", "2"], load)
"""


@pytest.fixture(autouse=True)
def _a_folder_and_collections_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("METALIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METALIB_MODELS", "")
    monkeypatch.setattr(sources, "_read", set())
    before = dict(sources.SOURCES)
    yield
    sources.SOURCES.clear()
    sources.SOURCES.update(before)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file of networks that the environment variable names."""
    file = tmp_path / "networks.py"
    file.write_text(FILE)
    monkeypatch.setenv("METALIB_MODELS", str(file))
    return file


def add_small(seed=0):
    metalib.add_models("small", ["one"], lambda name: metalib.wrap_model(
        small_network(seed), stages=["0", "2", "5"]))


# --- Names ----------------------------------------------------------------------------------------

def test_a_network_of_ones_own_stands_where_a_name_does(samples):
    add_small()
    model = load_model("small/one")
    assert metalib.list_models("small/*") == ["small/one"] == [model.name]
    metamers = metalib.generate(model, samples[:2], "0", steps=3)
    null = null_distribution(model, "0", samples)
    assert list(metalib.judge(model, "0", metamers, null)["image"]) == [0, 1]
    with pytest.raises(ValueError, match="did you mean small/one"):
        load_model("small/won")
    with pytest.raises(ValueError, match="no parameter stages"):
        load_model("small/one", stages=["0"])
    with pytest.raises(ValueError, match="no parameter pretrained"):
        load_model("small/one", pretrained=False)


def test_added_again_it_is_another(samples):
    add_small()
    first = fingerprint(load_model("small/one"))
    assert size_of("small/one") == 32
    metalib.add_models("small", ["one"], lambda name: metalib.wrap_model(
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Flatten(), nn.Linear(4 * 12 * 12, 5)),
        stages=["0", "2"], input_size=48))
    assert size_of("small/one") == 48
    add_small(seed=1)
    assert fingerprint(load_model("small/one")) != first


@pytest.mark.parametrize("prefix, names, load, message", [
    ("zoo", ["a"], len, "names of a library"), ("a/b", ["a"], len, "without a slash"),
    ("", ["a"], len, "without a slash"), (3, ["a"], len, "without a slash"),
    ("mine", [], len, "one or more"), ("mine", ["a", "a"], len, "different"),
    ("mine", [3], len, "texts"), ("mine", ["a"], "a", "function")])
def test_what_cannot_be_a_collection_is_refused(prefix, names, load, message):
    with pytest.raises(ValueError, match=message):
        metalib.add_models(prefix, names, load)
    assert "mine" not in sources.SOURCES


def test_a_function_that_gives_no_model_is_named():
    metalib.add_models("mine", ["bare"], lambda name: small_network())
    with pytest.raises(ValueError, match="mine/bare returns Sequential; .* wrap_model"):
        load_model("mine/bare")


def test_a_file_is_read_once_it_is_asked_for(mine):
    assert load_model("mine/1", stages=["0"]).stages == ("0",)
    assert load_model("mine/1").stages == ("1", "4")
    mine.write_text("raise RuntimeError")  # it has been read
    assert metalib.list_models("mine/*") == ["mine/1", "mine/2"]


def test_a_file_may_ask_for_names_itself(mine):
    mine.write_text(FILE + "\nassert 'zoo/vgg-robust-0' in metalib.list_models()\n")
    assert metalib.list_models("mine/*") == ["mine/1", "mine/2"]


@pytest.mark.parametrize("text, message", [
    (None, "networks.py, which is no file"), ("1 / 0", "ZeroDivisionError: division by zero"),
    ("def (", "SyntaxError"), ("metalib.nothing", "NameError")])
def test_a_file_that_fails_is_named(mine, text, message, capsys):
    if text is None:
        mine.unlink()
    else:
        mine.write_text(text)
    for _ in range(2):
        assert command.main(["models"]) == 1
        said = capsys.readouterr().err
        assert "METALIB_MODELS" in said and message in said and said.count("\n") == 1


def test_commands_find_it(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        assert command.main(arguments) == 0
        return capsys.readouterr().out

    assert "none" in run("check", "mine/2")
    assert "380 pairs of 20 of cifar10-samples" in run("null", "mine/2", "cifar10-samples")
    run("generate", "mine/2", "1", "cifar10-samples", "out", "--n", "2", "--steps", "4", "--stop",
        "criterion")
    assert "mine/2, 1: " in run("judge", "out")
    of_another_process = subprocess.run(
        [sys.executable, "-m", "metalib.runs.command", "check", "mine/2"], check=True, text=True,
        capture_output=True, timeout=120).stdout
    assert "there" in of_another_process


# --- Cells know a network by its content ----------------------------------------------------------

def test_cells_of_a_sweep_know_its_weights_and_null(samples, scheduler, tmp_path):
    add_small()
    nulls.keep_nulls("small/one", samples, stages=["0"])
    study = {"task": "metalib.tasks:generation", "grid": {"model": ["small/one"]},
             "parameters": {"stage": "0", "n_images": 2, "steps": 3, "check_every": 1},
             "directory": tmp_path / "out", "scheduler": scheduler}

    def cells():
        return {path.name for path in (tmp_path / "out" / "cells").iterdir()}

    assert list(sweep(**study)["image"]) == [0, 1]
    assert len(cells()) == 1
    _weights_hash.cache_clear()  # as in another process
    nulls.keep_nulls("small/one", samples[:10], stages=["0"])
    sweep(**study)
    assert len(cells()) == 2
    _weights_hash.cache_clear()
    add_small(seed=1)
    with pytest.warns(RuntimeWarning, match="1 of 1 cells failed"):
        table = sweep(**study)
    assert "other weights" in Path(table.attrs["failed"][0]["see"]).read_text()
    _weights_hash.cache_clear()


def test_tasks_make_images_of_the_size_that_a_network_takes(samples):
    def load(name):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3, stride=4), nn.Flatten(), nn.Linear(4 * 12 * 12, 5)
        return metalib.wrap_model(nn.Sequential(*layers), stages=["0", "2"], input_size=48)

    metalib.add_models("large", ["one"], load)
    nulls.keep_nulls("large/one", load_images("cifar10-samples", size=48))
    assert len(generation("large/one", "0", n_images=2, steps=3)) == 2
    cell = {"stage": "0", "n_images": 2, "steps": 3}
    assert whole_values(generation, cell | {"model": "large/one"})["size"] == 48
    assert whole_values(generation, cell | {"model": "zoo/vgg-robust-0"})["size"] == 32
    with pytest.raises(ValueError, match="48"):
        generation("large/one", "0", n_images=2, size=32)


# --- Nulls that are kept --------------------------------------------------------------------------

def test_a_null_that_is_kept_is_the_one_that_was_computed(samples):
    add_small()
    path = nulls.keep_nulls("small/one", samples)
    model = load_model("small/one")
    assert path == null_file("small/one") and nulls.shipped_stages("small/one") == {"0", "2", "5"}
    for stage in model.stages:
        kept, computed = load_null(model, stage), null_distribution(model, stage, samples)
        assert kept.maximum == computed.maximum and kept.pairs == computed.pairs == 380
        for metric, values in computed.values.items():
            assert np.array_equal(kept.values[metric], values)  # so few that none are thinned out
        kept.check(model, stage)


def test_stages_are_added_where_they_are_of_the_same_images(samples):
    add_small()
    nulls.keep_nulls("small/one", samples, stages=["0"])
    nulls.keep_nulls("small/one", samples, stages=["2"])
    assert nulls.shipped_stages("small/one") == {"0", "2"}
    nulls.keep_nulls("small/one", samples, stages=["2"], seed=3)
    assert nulls.shipped_stages("small/one") == {"2"}
    nulls.keep_nulls("small/one", samples[:12], stages=["0"])
    assert nulls.shipped_stages("small/one") == {"0"}


def test_a_null_of_other_weights_is_refused_and_replaced(samples):
    add_small()
    nulls.keep_nulls("small/one", samples)
    add_small(seed=1)
    with pytest.raises(ValueError, match="other weights.* metalib null small/one IMAGES"):
        load_null(load_model("small/one"), "0")
    nulls.keep_nulls("small/one", samples, stages=["0"])
    assert nulls.shipped_stages("small/one") == {"0"}  # the others were of those weights
    assert load_null(load_model("small/one"), "0").pairs == 380


def test_nulls_are_kept_only_for_names_that_come_without(samples, small, robust):
    with pytest.raises(ValueError, match="unknown model 'small'"):
        nulls.keep_nulls(small, samples)
    with pytest.raises(ValueError, match="zoo/vgg-robust-0 comes with nulls"):
        nulls.keep_nulls(robust, samples)
    add_small()
    with pytest.raises(ValueError, match="its stages are 0, 2, 5"):
        nulls.keep_nulls("small/one", samples, stages=["7"])
    assert not null_file("small/one")


def test_nulls_of_ones_own_networks_may_come_with_them(samples, tmp_path):
    add_small()
    shipped = nulls.keep_nulls("small/one", samples).rename(tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match="null"):
        load_null(load_model("small/one"), "0")
    metalib.add_models(
        "small", ["one", "two"], lambda name: metalib.wrap_model(
            small_network(0), stages=["0", "2", "5"]), size=lambda name: 32,
        nulls=lambda name: shipped.with_name(f"{name}.safetensors"))
    assert load_null(load_model("small/one"), "0").pairs == 380 and null_file("small/two") is None
    with pytest.raises(ValueError, match="small/one comes with nulls"):
        nulls.keep_nulls("small/one", samples)


def test_networks_of_studies_are_those_that_they_name():
    """Where their files are missing they still have names, sizes and nulls; one comes along."""
    sources.read_also(Path(__file__).parents[1] / "studies" / "networks.py")
    names = metalib.list_models("public/*")
    assert len(names) == 15 and "public/efficientnet_lite0" in metalib.list_models(
        "public/*", offline=True)
    assert size_of("public/mobilenet_v1_0.25_128") == 128
    assert all(null_file(name) for name in names)
    with pytest.raises(FileNotFoundError, match="mobilenet_v1_0.25_128.safetensors"):
        load_model("public/mobilenet_v1_0.25_128")
    model = load_model("public/efficientnet_lite0")
    same = load_model("timm/tf_efficientnet_lite0")
    images = load_images("imagenet-samples", n=2, size=model.input_size).images
    with torch.no_grad():
        torch.testing.assert_close(model(images), same(images), rtol=1e-3, atol=1e-3)
    assert load_null(model, "features").pairs > 800_000


def test_a_full_disk_leaves_what_was_kept(samples, monkeypatch):
    add_small()
    path = nulls.keep_nulls("small/one", samples)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nulls, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        nulls.keep_nulls("small/one", samples[:12])
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_damaged_file_says_so(samples):
    add_small()
    nulls.keep_nulls("small/one", samples).write_bytes(b"{}")
    with pytest.raises(ValueError, match="damaged"):
        load_null(load_model("small/one"), "0")


def test_a_public_network_keeps_its_null():
    """That of ImageNet which comes with the installation, and the twenty photographs."""
    name, stage = "timm/tf_efficientnet_lite0", "classifier"
    model = load_model(name, stages=[stage])
    nulls.keep_nulls(model, load_images("imagenet-samples"))
    assert load_null(model, stage).pairs == 380
    assert nulls.shipped_stages(name) == {stage}
