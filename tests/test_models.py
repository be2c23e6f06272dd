"""Models: stages, early exit, the identity-backward ReLU, and errors that say what to mend."""
import shutil

import pytest
import torch
from conftest import small_network
from torch import nn

from metalib import list_models, load_model, wrap_model, zoo


def test_a_stage_is_what_a_forward_hook_sees(small, samples):
    seen = {}
    for stage in small.stages:
        module = small.module.get_submodule(stage)
        module.register_forward_hook(lambda _m, _i, output, stage=stage: seen.setdefault(stage, output.clone()))
    logits = small(samples.images)
    for stage in small.stages:
        assert torch.equal(small.activations(samples.images, stage), seen[stage].flatten(1))
    assert torch.equal(small.activations(samples.images, "5"), logits)


def test_later_layers_are_not_run(small, samples):
    ran = []
    for name, module in small.module.named_children():
        module.register_forward_hook(lambda *_args, name=name: ran.append(name))
    small.activations(samples.images, "1")
    assert ran == ["0", "1"]
    assert not small.module.get_submodule("1")._forward_hooks.keys() - {next(iter(small.module[1]._forward_hooks))}


def test_models_are_frozen_and_stay_in_evaluation_mode(small):
    small.train()
    assert not any(module.training for module in small.modules())
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_stages_are_sorted_by_execution_and_relus_are_found():
    model = wrap_model(small_network(), stages=["5", "2", "1", "0"])
    assert model.stages == ("0", "1", "2", "5")
    assert model.relu_stages == {"1", "2"}  # a module in place, and a function inside a block
    assert model.shapes == {"0": (8, 32, 32), "1": (8, 32, 32), "2": (6, 16, 16), "5": (10,)}


@pytest.mark.parametrize("stage", ["1", "2"])
def test_identity_relu_keeps_values_and_passes_gradient_to_dead_units(small, samples, stage):
    images = samples.images[:2].clone().requires_grad_()
    plain = small.unchecked_activations(images, stage)
    ours = small.unchecked_activations(images, stage, identity_relu=True)
    assert torch.equal(plain, ours)
    direction = torch.randn_like(plain)
    ours_gradient, = torch.autograd.grad((ours * direction).sum(), images)
    # by hand: the gradient of the pre-activation, for all units
    x = (images - 0.4) / 0.2
    before = small.module[0](x) if stage == "1" else small.module[2].conv(small.module[0](x).relu())
    expected, = torch.autograd.grad((before.flatten(1) * direction).sum(), images)
    torch.testing.assert_close(ours_gradient, expected)
    plain_gradient, = torch.autograd.grad((plain * direction).sum(), images)
    assert not torch.allclose(ours_gradient, plain_gradient)


def test_identity_relu_does_nothing_where_no_relu_ends_the_stage(small, samples):
    images = samples.images[:1].clone().requires_grad_()
    gradients = [torch.autograd.grad(small.unchecked_activations(images, "3", identity_relu=flag).square().sum(), images)[0]
                 for flag in (True, False)]
    assert torch.equal(*gradients)


def test_wrong_stage_names_list_the_right_ones(small, samples):
    with pytest.raises(ValueError, match="no stage 'layer4'; its stages are 0, 1, 2, 3, 5"):
        small.activations(samples.images, "layer4")
    with pytest.raises(ValueError, match="no submodule 'convv'.*did you mean 2.conv"):
        wrap_model(small_network(), stages=["convv", "5"])


def test_a_stage_that_runs_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x):
            return self.relu(self.conv(self.relu(x))).mean((2, 3))

    with pytest.raises(ValueError, match="'relu' is computed 2 times"):
        wrap_model(Twice(), stages=["conv", "relu"])


@pytest.mark.parametrize("change, message", [
    (lambda x: x * 255, r"reach from .* to 255.*plain pixels"), (lambda x: x - 1, "finite and in"),
    (lambda x: x * float("nan"), "finite and in"), (lambda x: x[:, :1], r"\(B, 3, 32, 32\)"),
    (lambda x: x[..., :16, :16], "size=32"), (lambda x: (x * 255).byte(), "divide 8-bit")])
def test_bad_images_are_refused(small, samples, change, message):
    with pytest.raises(ValueError, match=message):
        small(change(samples.images))


def test_bad_networks_are_refused():
    broken = small_network()
    broken[0].weight.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"'0.weight' are not finite"):
        wrap_model(broken)
    with pytest.raises(ValueError, match="does not take images of 20 x 20.*pass input_size"):
        wrap_model(small_network(), input_size=20)


def test_every_model_of_the_zoo_loads_as_its_card_says(samples):
    assert {"zoo/resnet-standard-0", "zoo/resnet-robust-0", "zoo/vgg-standard-0", "zoo/vgg-robust-0"} <= set(list_models("zoo/*"))
    for name in list_models("zoo/*"):
        model = load_model(name)
        assert model.card["name"] == name and model.stages[-2:] == ("features", "logits")
        assert sum(parameter.numel() for parameter in model.module.parameters()) == model.card["parameters"]
        assert model.relu_stages == {"stem", "group1", "group2", "group3"}
        correct = (model(samples.images).argmax(1) == samples.labels).sum()
        assert correct >= 13  # of 20: at 75 % accuracy fewer have a probability of 4 %


def test_unknown_model_names_suggest_the_nearest():
    with pytest.raises(ValueError, match="did you mean zoo/resnet-"):
        load_model("zoo/resnet-standart-0")


def test_damaged_and_missing_weights_are_named(tmp_path, monkeypatch):
    name = "vgg-robust-0"
    for path in zoo.FOLDER.glob(f"{name}.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    weights = tmp_path / f"{name}.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.safetensors.*damaged"):
        load_model(f"zoo/{name}")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}.safetensors.*missing.*metalib.zoo.train"):
        load_model(f"zoo/{name}")
    (tmp_path / f"{name}.json").write_text("{")
    assert list_models("zoo/*") == [f"zoo/{name}"]
    with pytest.raises(ValueError, match=f"{name}.json is damaged"):
        load_model(f"zoo/{name}")
