"""One hash of what decides a model's output: what changes it, and what does not."""

import functools
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import small_network
from torch import nn

from metalib import (
    Metamers,
    generate,
    judge,
    load_model,
    load_null,
    null_distribution,
    transfer_study,
    wrap_model,
)
from metalib.evaluation.representation import similarities
from metalib.store import fingerprint

SLOPE = 2.0


@dataclass
class Options:
    slope: float = 2.0


class Gain:
    def __init__(self, gain):
        self.gain = gain

    def __call__(self, x):
        return x * self.gain


def helper(x):
    return x * SLOPE


class Layer(nn.Module):
    """A layer of a user's own, with settings of every kind."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 10)
        self.slope, self.mode, self.table = 2.0, "plain", torch.ones(10)
        self.options, self.gain = Options(), Gain(1.0)
        self.act = functools.partial(torch.mul, other=2)
        self.register_buffer("mask", torch.ones(10), persistent=False)
        self.hidden = [nn.Linear(10, 10)]  # not registered
        self.kept, self.calls = None, 0

    def forward(self, x):
        self.kept, self.calls = x.mean(), self.calls + 1
        x = self.linear(nn.functional.adaptive_avg_pool1d(x.flatten(1), 48))
        return self.gain(self.act(helper(x))) * self.options.slope * self.mask + self.table


def layer(change=None, **options):
    torch.manual_seed(0)
    network = nn.Sequential(Layer(), nn.Identity())
    if change:
        with torch.no_grad():
            change(network[0])
    return wrap_model(network, **{"stages": ["0"], "name": "mine", **options})


def redefined(self, x):
    return Layer.forward(self, x) + 1


CHANGES = {
    "weights": lambda x: x.linear.weight.mul_(1.001),
    "a buffer that is not saved": lambda x: x.mask.mul_(2),
    "a number": lambda x: setattr(x, "slope", 3.0),
    "a text": lambda x: setattr(x, "mode", "other"),
    "a tensor": lambda x: x.table.mul_(2),
    "an object": lambda x: setattr(x.options, "slope", 3.0),
    "a callable object": lambda x: setattr(x.gain, "gain", 3.0),
    "a function": lambda x: setattr(x, "act", functools.partial(torch.mul, other=3)),
    "layers in a list": lambda x: x.hidden[0].weight.mul_(2),
    "a method of one object": lambda x: setattr(x, "forward", types.MethodType(redefined, x)),
    "a hook": lambda x: x.register_forward_hook(lambda module, inputs, output: output * 2)}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_the_output_changes_the_hash(change):
    assert fingerprint(layer(CHANGES[change])) != fingerprint(layer())


@pytest.mark.parametrize("options", [
    {"mean": (0.5,) * 3}, {"std": (0.5,) * 3}, {"class_names": list("abcdefghij")},
    {"coarse": {"a": [0, 1], "b": [2]}}, {"input_size": 64}])
def test_so_do_normalisation_size_and_classes(options):
    assert fingerprint(layer(**options)) != fingerprint(layer())


def test_names_and_what_a_pass_leaves_behind_do_not(samples):
    model, before = layer(), fingerprint(layer())
    model(samples.images)
    assert model.module[0].calls > 1 and fingerprint(model) == before
    assert fingerprint(layer(name="renamed", stages=["0", "1"], card={"seed": 1})) == before
    assert fingerprint(layer(channels_last=True)) == before


def test_code_that_was_typed_again_is_other_code(monkeypatch):
    """As in a notebook, where no file holds the source."""
    text = """
from torch import nn
FACTOR = {factor}
def scaled(x):
    return x * FACTOR
class Typed(nn.Module):
    def forward(self, x):
        # {comment}
        return scaled(x).flatten(1)[:, :10] + {shift}
"""
    def typed(factor=2, shift=0, comment="a"):
        names = {"__name__": "__main__"}
        exec(text.format(factor=factor, shift=shift, comment=comment), names)
        return fingerprint(wrap_model(nn.Sequential(names["Typed"]()), stages=["0"]))

    assert typed() == typed(comment="b")
    assert len({typed(), typed(factor=3), typed(shift=1)}) == 3
    before = fingerprint(layer())
    monkeypatch.setitem(globals(), "SLOPE", 5.0)
    assert fingerprint(layer()) != before
    monkeypatch.setattr(Layer, "forward", lambda self, x: self.linear(x.flatten(1)[:, :48]))
    assert fingerprint(layer()) != before


def test_extra_state_and_quantised_weights_count():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"scale": self.state, "of": np.ones(2)}

        def set_extra_state(self, state):
            self.state = state["scale"]

    def described(linear):
        return fingerprint(types.SimpleNamespace(
            module=linear, state_dict=dict, input_size=1, class_names=(), coarse_names=()))

    def extra(state):
        torch.manual_seed(0)
        linear = Extra(3, 3)
        object.__setattr__(linear, "state", state)
        return linear

    def quantised(scale):
        weight = torch.quantize_per_tensor(torch.arange(6.0), scale, 0, torch.qint8)
        linear = nn.Identity()
        linear.register_buffer("weight", weight)
        return linear

    def sparse(value):
        held = nn.Identity()
        held.register_buffer("weight", torch.tensor([[0, value], [0, 0]]).to_sparse())
        return held

    # as plain attributes of a user's own class are looked for by forward passes, which this stub of
    # a Model has not, the class is given out as torch's
    Extra.__module__ = "torch.nn"
    for kind in (extra, quantised, sparse):
        assert described(kind(1.0)) == described(kind(1.0)) != described(kind(2.0))


# --- Where it counts ----------------------------------------------------------------------------

def same_name(seed=0, **options):
    return wrap_model(small_network(seed), **{
        "stages": ["1", "2", "5"], "name": "small", "mean": (0.4,) * 3, **options})


OTHERS = {"weights": {"seed": 1}, "normalisation": {"mean": (0.5,) * 3}}


@pytest.mark.parametrize("other", OTHERS)
def test_a_run_of_other_weights_is_not_resumed(other, samples):
    run = generate(same_name(), samples[:2], "2", steps=4, pause=2)
    assert run.recipe["fingerprints"] == [fingerprint(same_name())]
    with pytest.raises(ValueError, match="other weights, another normalisation or other code of "
                                         "small"):
        generate(same_name(**OTHERS[other]), samples[:2], "2", steps=4, resume=run)
    del run.recipe["fingerprints"]
    with pytest.raises(ValueError, match="begin anew"):
        generate(same_name(), samples[:2], "2", steps=4, resume=run)


def test_of_several_models_the_one_that_changed_is_named(samples):
    pair = [same_name(), same_name(1, name="second")]
    run = generate(pair, samples[:2], ["2", "2"], steps=4, pause=2)
    with pytest.raises(ValueError, match="code of second;"):
        generate([pair[0], same_name(2, name="second")], samples[:2], ["2", "2"], steps=4,
                 resume=run)


@pytest.mark.parametrize("other", OTHERS)
def test_a_null_of_other_weights_is_refused(other, samples, tmp_path):
    null = null_distribution(same_name(), "2", samples)
    model, pair = same_name(**OTHERS[other]), Metamers(samples.images, samples.images)
    for use in (lambda: judge(model, "2", pair, null),
                lambda: generate(model, samples, "2", steps=1, stop=null),
                lambda: transfer_study([model], [model], samples, stages=["2"], steps=1,
                                       directory=tmp_path, nulls={("small", "2"): null})):
        with pytest.raises(ValueError, match="null of small, 2 was computed with other weights"):
            use()
    assert not list(tmp_path.iterdir())
    judge(same_name(stages=["2"]), "2", pair, null)  # whatever else is a stage
    del null.about["fingerprint"]
    judge(model, "2", pair, null)  # one of version 0.1


def test_a_null_that_ships_is_of_the_weights_that_ship(samples):
    model = load_model("zoo/vgg-robust-0")
    assert load_null(model, "group3").about["fingerprint"] == fingerprint(model)
    next(model.parameters()).mul_(1.01)
    with pytest.raises(ValueError, match="other weights"):
        load_null(model, "group3")
    model = load_model("zoo/vgg-robust-0")
    shifted = wrap_model(model.module, stages=model.stages, name=model.name, card=model.card,
                         class_names=model.class_names)
    with pytest.raises(ValueError, match="other weights, another normalisation"):
        load_null(shifted, "group3")


@pytest.mark.parametrize("other", OTHERS)
def test_kept_activations_are_not_those_of_another(other, samples, tmp_path):
    for model in (same_name(), same_name(**OTHERS[other])):
        kept, fresh = (similarities(model, samples[:3], samples.images[3:6], stages=["2"], draws=2,
                                    cache=cache) for cache in (tmp_path, False))
        assert kept.equals(fresh)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
