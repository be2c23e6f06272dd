"""Models: stages, early exit, the identity-backward ReLU, and errors that say what to mend."""

import math
import shutil
import warnings

import pytest
import torch
import torchvision
from conftest import small_network
from torch import nn

from metalib import check_model, generate, labels, list_models, load_model, wrap_model, zoo
from metalib.models import wrap


def test_a_stage_is_what_a_forward_hook_sees(small, samples):
    seen = {}
    for stage in small.stages:
        module = small.module.get_submodule(stage)
        module.register_forward_hook(
            lambda _m, _i, output, stage=stage: seen.setdefault(stage, output.clone()))
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
    assert not (small.module.get_submodule("1")._forward_hooks.keys()
                - {next(iter(small.module[1]._forward_hooks))})


def test_models_are_frozen_and_stay_in_evaluation_mode(small):
    small.train()
    assert not any(module.training for module in small.modules())
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_stages_are_sorted_by_execution_and_relus_are_found():
    model = wrap_model(small_network(), stages=["5", "2", "1", "0"])
    assert model.stages == ("0", "1", "2", "5")
    assert model.relu_stages == {"1": (1,), "2": (2,)}  # in place, and a function in a block
    assert model.shapes == {"0": (8, 32, 32), "1": (8, 32, 32), "2": (6, 16, 16), "5": (10,)}


@pytest.mark.parametrize("stage", ["1", "2"])
def test_identity_relu_keeps_values_and_passes_gradient_to_dead_units(samples, stage):
    small = wrap_model(small_network(), stages=["1", "2"], mean=(0.4,) * 3, std=(0.2,) * 3,
                       channels_last=False)  # so that units are in the order of the network's
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
    gradients = [torch.autograd.grad(
        small.unchecked_activations(images, "3", identity_relu=flag).square().sum(), images)[0]
        for flag in (True, False)]
    assert torch.equal(*gradients)


class Fire(nn.Module):
    """Two ReLUs whose outputs are put together, as in SqueezeNet and Inception."""

    def __init__(self, inplace):
        super().__init__()
        self.squeeze, self.one, self.three = (
            nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(4, 6, 3, padding=1))
        self.relu = nn.ReLU(inplace)

    def before(self, x):
        x = self.squeeze(x).relu()
        return torch.cat([self.one(x), self.three(x)], 1)

    def forward(self, x):
        x = self.squeeze(x).relu()
        return torch.cat([self.relu(self.one(x)), self.relu(self.three(x))], 1)


class Bounded(nn.Module):
    """A ReLU6 that is reached at both of its ends."""

    def __init__(self, relu6):
        super().__init__()
        self.conv, self.relu6 = nn.Conv2d(3, 8, 3), relu6

    def before(self, x):
        return 40 * self.conv(x)

    def forward(self, x):
        return self.relu6(self.before(x))


@pytest.mark.parametrize("block, numbers", [
    (Fire(True), (2, 3)), (Fire(False), (2, 3)), (Bounded(nn.ReLU6(True)), (1,)),
    (Bounded(nn.functional.relu6), (1,)), (Bounded(nn.Hardtanh(0, 6)), (1,))])
def test_concatenated_relus_and_relu6_pass_the_gradient_of_all_units(samples, block, numbers):
    network = nn.Sequential(block, nn.Flatten(), nn.LazyLinear(10))
    network(samples.images[:1])
    model = wrap_model(network, stages=["0"], mean=(0.5,) * 3, channels_last=False)
    assert model.relu_stages == {"0": numbers}
    images = samples.images[:2].clone().requires_grad_()
    plain, ours = (model.unchecked_activations(images, "0", flag) for flag in (False, True))
    assert torch.equal(plain, ours)
    direction = torch.randn_like(plain)
    found, expected = (
        torch.autograd.grad((values * direction).sum(), images)[0]
        for values in (ours, block.before(images - 0.5).flatten(1)))
    torch.testing.assert_close(found, expected)


class Shortcut(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.conv, self.change = nn.Conv2d(3, 3, 3, padding=1), change

    def forward(self, x):
        return self.change(self.conv(x).relu(), x)


@pytest.mark.parametrize("change", [
    lambda relu, x: relu.add_(x), lambda relu, x: torch.cat([relu, x], 1),
    lambda relu, x: nn.functional.hardtanh(relu - 1)])
def test_what_ends_otherwise_is_no_relu_stage(change):
    network = nn.Sequential(Shortcut(change), nn.Flatten(), nn.LazyLinear(10))
    network(torch.rand(1, 3, 32, 32))
    assert wrap_model(network, stages=["0"], mean=(0.5,) * 3).relu_stages == {}


class Viewing(nn.Module):
    """Calls `view` on its activations, which works in one order of memory only."""

    def forward(self, x):
        return x.view(len(x), -1)


def test_the_order_in_memory_is_chosen_by_what_a_network_is(samples):
    """Channels come last in convolutional networks that work with it; activations are the same."""
    def network(flatten):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), flatten, nn.Linear(1800, 10))

    options = {"stages": ["1", "3"], "mean": (0.4,) * 3}
    chosen = {kind: wrap_model(network(kind()), **options) for kind in (nn.Flatten, Viewing)}
    assert chosen[nn.Flatten].memory_format == torch.channels_last
    assert chosen[Viewing].memory_format == torch.contiguous_format
    assert chosen[Viewing].module[0].weight.is_contiguous()
    for stage in options["stages"]:
        one, other = (model.activations(samples.images[:3], stage) for model in chosen.values())
        torch.testing.assert_close(one, other)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    assert wrap_model(linear, **options | {"stages": ["1"]}).memory_format != torch.channels_last
    with pytest.raises(ValueError, match="has no|is no"):
        wrap_model(network(nn.Flatten()), **options | {"stages": ["nowhere"]})


@pytest.mark.parametrize("channels_last", [True, False])
def test_inner_loops_see_the_same_units_in_one_order_for_every_batch(samples, channels_last):
    model = wrap_model(small_network(), stages=["1", "2", "5"], channels_last=channels_last)
    for stage, shape in model.shapes.items():
        plain, order = model.activations(samples.images[:3], stage), range(math.prod(shape))
        if channels_last and len(shape) == 3:
            order = torch.arange(math.prod(shape)).view(shape).movedim(0, -1).flatten()
        for count in (1, 3):
            for images in (samples.images[:count], samples.images[:count].clone().requires_grad_()):
                torch.testing.assert_close(model.unchecked_activations(images, stage).detach(),
                                           plain[:count, order])


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
    assert {"zoo/resnet-standard-0", "zoo/resnet-robust-0", "zoo/vgg-standard-0",
            "zoo/vgg-robust-0"} <= set(list_models("zoo/*"))
    for name in list_models(zoo.SMALL):
        model = load_model(name)
        assert model.card["name"] == name and model.stages[-2:] == ("features", "logits")
        assert (sum(parameter.numel() for parameter in model.module.parameters())
                == model.card["parameters"])
        relu_stages = ({"stem", "group1", "group2", "group3"}
                       if model.card["architecture"] in ("resnet", "vgg") else set())
        assert set(model.relu_stages) == relu_stages
        correct = (model(samples.images).argmax(1) == samples.labels).sum()
        assert correct >= 13  # of 20; at an accuracy of 75 %, fewer have a probability of 10 %


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
    with pytest.raises(FileNotFoundError,
                       match=f"{name}.safetensors.*missing.*metalib.runs.train_zoo"):
        load_model(f"zoo/{name}")
    (tmp_path / f"{name}.json").write_text("{")
    assert list_models("zoo/*") == [f"zoo/{name}"]
    with pytest.raises(ValueError, match=f"{name}.json is damaged"):
        load_model(f"zoo/{name}")


@pytest.mark.parametrize("name", list_models("zoo/*"))
def test_every_model_of_the_zoo_conforms(name):
    assert check_model(load_model(name)).name == name


class Batchy(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Noisy(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class Rounding(nn.Module):
    def forward(self, x):
        return x.round()


class Detaching(nn.Module):
    def forward(self, x):
        return x.detach() + 0 * x.sum()


class Counting(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Rooting(nn.Module):
    def forward(self, x):
        return (x - x.detach()).abs().sqrt() + x


class Infinite(nn.Module):
    def forward(self, x):
        return x / (x - 0.5).clamp_min(0)


def with_layer(layer):
    return nn.Sequential(nn.Conv2d(3, 4, 3), layer(), nn.Flatten(), nn.Linear(4 * 30 * 30, 5))


@pytest.mark.parametrize("layer", [Batchy, Noisy, Counting])
def test_networks_in_which_images_are_not_by_themselves_are_refused(layer):
    with pytest.raises(ValueError, match="broken: stage '1' gives an image other values alone"):
        wrap_model(with_layer(layer), stages=["0", "1", "3"], name="broken")


class Late(nn.Module):
    """Noise for batches of more than two images, which tracing does not see."""

    def forward(self, x):
        return x + torch.rand_like(x) if len(x) > 2 else x


@pytest.mark.parametrize("layer, message", [
    (Late, "other logits the second time"), (Rounding, "gradient at the pixels is zero"),
    (Detaching, "gradient at the pixels is zero"),
    (Rooting, "gradient at the pixels is not finite"), (Infinite, "not finite for pixels")])
def test_models_that_do_not_conform_are_told_what_to_mend(layer, message):
    model = wrap_model(with_layer(layer), stages=["0", "1", "3"], name="broken")
    with pytest.raises(ValueError, match=f"(?s)broken does not conform.*{message}"):
        check_model(model)


@pytest.mark.parametrize("count, more, message", [
    (10, {"class_names": ["a", "b"]}, "10 logits, and 2 class names: give one for each$"),
    (3, {"class_names": ["a", "b"]}, "3 logits, and 2 class names.*the background class"),
    (1001, {"coarse": labels.IMAGENET16}, "1001 classes.*1000 of ImageNet; .*background class"),
    (10, {"coarse": labels.IMAGENET16}, "10 classes.*1000 of ImageNet$")])
def test_classes_that_do_not_fit_the_logits_are_refused(count, more, message):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, count))
    with pytest.raises(ValueError, match=message):
        wrap_model(network, stages=["0"], mean=(0.5,) * 3, **more)


def test_gradients_and_order_are_checked():
    model = wrap_model(small_network(), stages=["0", "5"])
    model.module[0].weight.requires_grad_(True)
    model.stages = ("5", "0")
    with pytest.raises(ValueError, match=(
            r"(?s)ask for a gradient.*listed as 5, 0 but computed as 0, 5")):
        check_model(model)


class Block(nn.Module):
    """A residual block. Its layers are no stages."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(inputs, outputs, 3, stride, padding=1),
                                  nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return (self.conv2(self.conv1(x).relu()) + self.shortcut(x)).relu_()


class Pooled(nn.Module):
    """Groups of blocks, pooled by a function. The stem's ReLU works in place, and one ReLU follows
    every group.
    """

    def __init__(self, *depths):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8),
                                  nn.ReLU(inplace=True))
        widths = [8 * 2**number for number in range(len(depths) + 1)]
        self.groups = nn.ModuleList(
            nn.Sequential(Block(i, o, 2), *(Block(o, o) for _ in range(depth - 1)))
            for i, o, depth in zip(widths, widths[1:], depths))
        self.again = nn.ReLU()
        self.fc = nn.Linear(widths[-1], 10)

    def forward(self, x):
        x = self.stem(x)
        for group in self.groups:
            x = self.again(group(x))
        return self.fc(x.mean((2, 3)))


def test_default_stages_are_the_groups_the_pooled_features_and_the_logits():
    model = wrap_model(Pooled(2, 2, 2))
    assert model.stages == ("stem", "groups.0", "groups.1", "groups.2", "fc:input", "fc")
    assert set(model.relu_stages) == {"stem", "groups.0", "groups.1", "groups.2"}
    check_model(model)


def test_a_group_of_most_of_the_layers_is_divided():
    model = wrap_model(Pooled(1, 6, 1))  # the second group has 19 of the 27 layers
    assert model.stages == ("stem", "groups.0", "groups.1.1", "groups.1.3", "groups.1.5",
                            "groups.2", "fc:input", "fc")


def test_the_input_of_a_module_can_be_a_stage(samples):
    model = wrap_model(Pooled(1, 1), stages=["fc:input", "groups.1"])
    assert model.stages == ("groups.1", "fc:input")
    pooled = model.activations(samples.images, "groups.1").view(len(samples), 32, -1).relu().mean(2)
    torch.testing.assert_close(model.activations(samples.images, "fc:input"), pooled)
    with pytest.raises(ValueError, match="no submodule 'nothing:input'"):
        wrap_model(Pooled(1), stages=["nothing:input"])


def test_the_library_s_own_networks_get_the_stages_that_are_used_in_papers():
    """The groups of a residual network, and quarters of a vision transformer."""
    resnet = wrap_model(torchvision.models.resnet18(), input_size=64)
    assert resnet.stages == ("relu", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc")
    vit = wrap_model(torchvision.models.VisionTransformer(32, 8, 12, 2, 16, 32), input_size=32)
    layers = [f"encoder.layers.encoder_layer_{number}" for number in (2, 5, 8)]
    assert vit.stages == ("conv_proj", *layers, "encoder.ln", "heads.head:input", "heads.head")
    # its class maps are pooled, not its features
    squeezenet = wrap_model(torchvision.models.squeezenet1_1(), input_size=64)
    maps = [f"features.{number}" for number in (1, 4, 7, 10, 12)]  # the last is `features`, too
    assert squeezenet.stages == (*maps, "classifier")


def test_coarse_answers_need_coarse_classes(small, samples):
    with pytest.raises(ValueError, match="no coarse classes"):
        small.coarse(small(samples.images))
    assert torch.equal(small.answer(samples.images), small(samples.images).argmax(1))
    with pytest.raises(ValueError, match="members beyond"):
        wrap_model(small_network(), coarse={"all": [0, 99]})


def test_several_stages_are_read_in_one_pass(small, samples):
    """Equal to one at a time, also where a later layer works in place; layers after are not run."""
    order = ["3", "0", "1"]
    read, logits = small.read(samples.images, order)
    assert list(read) == order and logits is None
    for stage, activations in read.items():
        assert torch.equal(activations, small.activations(samples.images, stage)), stage
    seen = []
    handle = small.module[5].register_forward_hook(lambda *_: seen.append(1))
    small.read(samples.images, ["2"])
    assert not seen
    read, logits = small.read(samples.images, ["2"], logits=True)
    handle.remove()
    assert seen and torch.equal(logits, small(samples.images)) and set(read) == {"2"}
    with pytest.raises(ValueError, match="its stages are 0, 1, 2, 3, 5"):
        small.read(samples.images, ["2", "4"])


# --- What people bring ----------------------------------------------------------------------------

def classifier(outputs=5, channels=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 8, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                         nn.Linear(64, outputs))


PLAIN = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def test_evaluation_mode_holds_whatever_is_done_to_the_network_outside(samples):
    network = classifier()
    model = wrap_model(network, **PLAIN)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    expected = [model(samples.images), *model.read(samples.images, model.stages)[0].values()]
    network.train()
    found = [model(samples.images), *model.read(samples.images, model.stages)[0].values()]
    generate(model, samples.images[:2], model.stages[-1], steps=2)
    check_model(model)
    assert all(map(torch.equal, expected, found))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network[1].training  # its owner's choice is left alone


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_any_precision_are_computed_with_in_at_least_32_bits(samples, dtype):
    network = classifier().to(dtype)
    model = wrap_model(network, **PLAIN)
    assert {weights.dtype for weights in network.parameters()} == {dtype}
    expected = network.double().eval()((samples.images.double() - 0.5) / 0.25)
    torch.testing.assert_close(model(samples.images), expected.float(), rtol=1e-5, atol=1e-5)


def test_an_undecided_network_gives_no_answer(samples):
    network = classifier()
    model = wrap_model(network, **PLAIN)
    logits = torch.tensor([[1., 2, 2, 0, 0], [0, 0, 3, 1, 1], [1, 1, 1, 1, 1], [torch.nan] * 5])
    assert model.answer_of(logits).tolist() == [-1, 2, -1, -1]
    nn.init.zeros_(network[-1].weight)  # an untrained head, whose bias alone decides
    assert (wrap_model(network, **PLAIN).answer(samples.images) == -1).all()
    nn.init.zeros_(network[-1].bias)
    assert (wrap_model(network, **PLAIN).answer(samples.images) == -1).all()


def test_one_logit_answers_by_its_sign(samples):
    model = wrap_model(classifier(1), class_names=["no", "yes"], **PLAIN)
    assert torch.equal(model.answer(samples.images), (model(samples.images)[:, 0] > 0).long())
    assert model.answer_of(torch.zeros(1, 1)) == -1
    check_model(model)


def test_a_network_of_grey_images_takes_them_and_the_luminance_of_colours(samples):
    model = wrap_model(classifier(channels=1), mean=(0.5,), std=(0.25,), name="grey")
    luminance = (samples.images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    torch.testing.assert_close(model(samples.images), model(luminance[:, None]))
    assert model.input_shape == (1, 32, 32) and check_model(model) is model
    metamers = generate(model, luminance[:2, None], model.stages[0], steps=3)
    assert metamers.images.shape == (2, 1, 32, 32)
    assert (metamers.loss[-1] < metamers.loss[0]).all()
    with pytest.raises(ValueError, match=r"grey-scale images pass mean=\(m,\)"):
        wrap_model(classifier(channels=1), **PLAIN)


def test_images_may_be_taller_than_wide(samples):
    network = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(32, 5))
    model = wrap_model(network, input_size=(32, 16), **PLAIN)
    assert model.input_size == (32, 16) and model.shapes["0"] == (4, 4, 2)
    metamers = generate(check_model(model), samples.images[:2, :, :, :16], "0", steps=2)
    assert metamers.images.shape == (2, 3, 32, 16)
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 16\).*size=\(32, 16\)"):
        model(samples.images)


def test_pixels_outside_the_range_are_taken_where_that_is_asked_for(small, samples):
    images = samples.images * 1.2 - 0.1
    seen = small.module[0]((images - 0.4) / 0.2).flatten(1)
    torch.testing.assert_close(small.activations(images, "0", outside=True), seen)
    assert small(images, outside=True).shape == (20, 10)
    with pytest.raises(ValueError, match="finite and in"):
        small.activations(images, "0")
    with pytest.raises(ValueError, match="finite"):
        small.activations(images / 0, "0", outside=True)


@pytest.mark.parametrize("arguments, message", [
    ({"mean": (123.7, 116.3, 103.5)}, "divide mean and std by 255"),
    ({"std": (1, 0, 1)}, "positive"),
    ({"mean": (0.5,), "std": (0.2,) * 3}, "of three colour channels, or of one"),
    ({"mean": 0.5}, "one number for each channel"), ({"input_size": (32, 32, 3)}, "height, width"),
    ({"stages": "0"}, r"stages is a list of names, such as \['0'\]"),
    ({"output": "probabilities"}, "output='probabilities' is not in what the network returns")])
def test_bad_arguments_of_wrap_model_are_told_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        wrap_model(classifier(), **arguments)


def test_a_missing_normalisation_is_mentioned_once():
    wrap._mention_normalisation.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            wrap_model(classifier())
    assert len(said) == 1 and "neither mean nor std" in str(said[0].message)


@pytest.mark.parametrize("network, message", [
    (torch.jit.trace(classifier().eval(), torch.zeros(1, 3, 32, 32)),
     "wrap the network that it was made of"),
    (classifier().to("meta"), "meta device: load them first"),
    (nn.Sequential(nn.LazyConv2d(4, 8, 8), nn.Flatten()), "run one batch of images through"),
    (lambda images: images, "is not a torch.nn.Module")])
def test_networks_that_cannot_be_wrapped_are_told_what_to_do(network, message):
    with pytest.raises(ValueError, match=message):
        wrap_model(network, name="theirs", **PLAIN)


def test_of_several_outputs_the_one_with_the_classes_is_taken_or_asked_for(samples):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.head = classifier()[:4], nn.Linear(64, 5)

        def forward(self, x):
            features = self.features(x)
            return features, self.head(features)

    network = Both()
    with pytest.raises(ValueError, match="returns a tuple of 2 tensors; pass output="):
        wrap_model(network, **PLAIN)
    logits = wrap_model(network, output=1, **PLAIN)(samples.images)
    named = wrap_model(network, class_names="abcde", **PLAIN)
    assert logits.shape == (20, 5) and torch.equal(named(samples.images), logits)


def test_a_network_that_catches_exceptions_is_left_all_the_same(samples):
    class Trying(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = classifier(), nn.Linear(5, 5)

        def forward(self, x):
            try:
                x = self.inner(x)
            except Exception:
                x = self.inner(x) * 0
            return self.head(x)

    model = wrap_model(Trying(), stages=["inner.0", "head"], **PLAIN)
    conv = model.module.get_submodule("inner.0")((samples.images - 0.5) / 0.25)
    assert torch.equal(model.activations(samples.images, "inner.0"), conv.flatten(1))


def test_stages_without_a_gradient_or_with_nothing_but_zeros_are_told_in_generate(samples):
    quantised = torch.ao.quantization.quantize_dynamic(
        classifier(), {nn.Linear}, dtype=torch.qint8)
    model = wrap_model(quantised, stages=["2", "4"], name="quantised", **PLAIN)
    assert len(generate(model, samples.images[:1], "2", steps=2)) == 1
    with pytest.raises(ValueError, match="quantised, 4: no gradient reaches the pixels"):
        generate(model, samples.images[:1], "4", steps=2)
    dead = classifier()
    nn.init.constant_(dead[1].bias, -1e6)
    with pytest.warns(RuntimeWarning, match="evoke zeros only"):
        metamers = generate(wrap_model(dead, stages=["2"], **PLAIN), samples.images[:1], "2",
                            steps=6)
    assert metamers.status == ("non-finite",)
