"""Public models offline: real architectures with random weights, saved where each library keeps its
downloads.

Only the connection is replaced: it fails as an unplugged one does.
"""

import argparse
import functools
import os
import socket
import sys

import pytest
import safetensors.torch
import torch
import torchvision

from metalib import check_model, generate, labels, list_models, load_images, load_model
from metalib.evaluation.transfer import transfer_study
from metalib.models import public

pytest.importorskip("timm")

TORCHVISION, TIMM = "torchvision/resnet18", "timm/resnet10t"
ROBUSTBENCH = "robustbench/cifar10/corruptions/Hendrycks2020AugMix_WRN"


@pytest.fixture(autouse=True)
def unplugged(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """The libraries' own caches, empty."""
    import huggingface_hub
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("METALIB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path


def save(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)


def settled(network, side):
    """A network with random weights whose batch normalisation has seen some images."""
    with torch.no_grad():
        for seed in range(5):
            network.train()(torch.randn(8, 3, side, side,
                                        generator=torch.Generator().manual_seed(seed)))
    return network.eval()


@functools.cache
def torchvision_weights():
    return settled(torchvision.models.resnet18(), 64).state_dict()


def torchvision_checkpoint():
    save(public.SOURCES["torchvision"].files("resnet18")[0], torchvision_weights())


def timm_checkpoint(root):
    import timm
    network = settled(timm.create_model("resnet10t"), 64)
    folder = (root / "hub"
              / f"models--{timm.get_pretrained_cfg('resnet10t').hf_hub_id.replace('/', '--')}")
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(),
                                folder / "snapshots" / ("0" * 40) / "model.safetensors")


@functools.cache
def robustbench_weights():
    entry = public._robustbench_entries()[ROBUSTBENCH.removeprefix("robustbench/")]
    network = settled(entry["model"](), 32)
    return {f"module.{key}": value for key, value in network.state_dict().items()
            if key not in ("mu", "sigma")}


def robustbench_checkpoint(folder, **more):
    weights = robustbench_weights()
    save(folder / f"{ROBUSTBENCH.removeprefix('robustbench/')}.pt", {"state_dict": weights, **more})


def library_logits(name, images):
    """Logits of a model that the library itself loads, for images that it normalises."""
    with torch.no_grad():
        if name == TORCHVISION:
            weights = torchvision.models.ResNet18_Weights.DEFAULT
            network, transform = (torchvision.models.resnet18(weights=weights).eval(),
                                  weights.transforms())
            return network(torchvision.transforms.functional.normalize(images, transform.mean,
                                                                       transform.std))
        if name == TIMM:
            import timm
            network = timm.create_model("resnet10t").eval()
            file, = public.SOURCES["timm"].files("resnet10t")
            # what pretrained=True does, without going online first
            timm.models.load_checkpoint(network, str(file))
            normalise = timm.data.create_transform(
                **timm.data.resolve_model_data_config(network)).transforms[-1]
            return network(normalise(images))
        return public._robustbench().load_model("Hendrycks2020AugMix_WRN", dataset="cifar10",
                                                threat_model="corruptions")(images)


@pytest.mark.parametrize("name", [TORCHVISION, TIMM, ROBUSTBENCH])
def test_a_model_is_that_of_its_library(name, caches):
    """Logits, stages against forward hooks, early exit, gradients, class names, and metamers."""
    if name == TORCHVISION:
        torchvision_checkpoint()
    elif name == TIMM:
        timm_checkpoint(caches)
    else:
        robustbench_checkpoint(caches / "models")  # RobustBench's default, in the working directory
    model = load_model(name)
    assert name in list_models(f"{name.partition('/')[0]}/*", offline=True)
    images = load_images("cifar10-samples", size=model.input_size, n=2).images
    torch.testing.assert_close(model(images), library_logits(name, images))
    assert check_model(model) is model
    assert len(model.class_names) == model.shapes[model.stages[-1]][0] and len(model.stages) >= 5
    for stage in (model.stages[0], model.stages[-2]):
        metamers = generate(model, images[:1], stage, steps=12)
        assert (metamers.loss[-1] < 0.8 * metamers.loss[0]).all(), stage
    chosen = load_model(name, stages=model.stages[1:3])
    assert chosen.stages == model.stages[1:3]


def test_robustbench_files_are_also_kept_in_one_folder_for_all(caches):
    robustbench_checkpoint(caches / "data" / "robustbench")
    assert load_model(ROBUSTBENCH).input_size == 32


def test_a_checkpoint_with_more_than_tensors_needs_consent(caches):
    robustbench_checkpoint(caches / "models", options=argparse.Namespace(depth=40))
    with pytest.raises(ValueError,
                       match=r"AugMix_WRN\.pt holds more than tensors.*allow_pickle=True"):
        load_model(ROBUSTBENCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # the user's setting is not consent
        with pytest.raises(ValueError, match="holds more than tensors"):
            load_model(ROBUSTBENCH)
        assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert load_model(ROBUSTBENCH, allow_pickle=True).name == ROBUSTBENCH
    assert not any(name.startswith("TORCH_FORCE") for name in os.environ)


def test_a_web_page_in_place_of_a_checkpoint_is_told(caches):
    path = caches / "models" / f"{ROBUSTBENCH.removeprefix('robustbench/')}.pt"
    path.parent.mkdir(parents=True)
    path.write_text("\n<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>")
    with pytest.raises(ValueError, match=r"AugMix_WRN\.pt is a web page.*delete it"):
        load_model(ROBUSTBENCH)


def test_a_truncated_checkpoint_is_told(caches):
    torchvision_checkpoint()
    path, = public.SOURCES["torchvision"].files("resnet18")
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(ValueError, match=f"{path.name}.*delete it"):
        load_model(TORCHVISION)


@pytest.mark.parametrize("name, place", [
    (TORCHVISION, r"torch/hub/checkpoints/resnet18-f37072fd\.pth"),
    (TIMM, r"hub/models--timm--resnet10t\.c3_in1k/model\.safetensors"),
    (ROBUSTBENCH, r"data/robustbench/cifar10/corruptions/Hendrycks2020AugMix_WRN\.pt"),
    ("robustbench/imagenet/corruptions/AlexNet",
     r"torch/hub/checkpoints/alexnet-owt-7be5be79\.pth"),
    ("robustbench/cifar10/Linf/Debenedetti2022Light_XCiT-S12",
     r"checkpoints/debenedetti2022light-xcit-s-cifar10-linf\.pth\.tar")])
def test_without_a_network_the_error_says_what_to_put_where(name, place, caches):
    with pytest.raises(FileNotFoundError, match=(
            rf"(?s)could not be downloaded.*copy .*{place}.*Available.*zoo/resnet-standard-0")):
        load_model(name)
    assert not [path for path in caches.rglob("*") if path.is_file()], (
        "a failed download leaves something behind")


def test_models_are_listed_without_a_download():
    assert len(list_models("torchvision/*")) > 150 and len(list_models("timm/*")) > 1000
    assert len(list_models("robustbench/*")) >= 200
    assert ("robustbench/cifar10/L2/Engstrom2019Robustness"
            in list_models("robustbench/cifar10/L2/*"))
    assert {name.split("/")[1] for name in list_models("robustbench/*")} == {
        "cifar10", "cifar100", "imagenet"}
    assert ("torchvision/resnet50.IMAGENET1K_V1" in list_models("*/resnet50*")
            and "timm/resnet50" in list_models("*/resnet50*"))
    assert not list_models("torchvision/*", offline=True)
    with pytest.raises(ValueError,
                       match="did you mean robustbench/cifar10/L2/Engstrom2019Robustness"):
        load_model("robustbench/cifar10/L2/Engstrom2019")


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    public._timm_names.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"package timm.*pip install"):
        list_models("timm/*")
    assert list_models("*resnet-standard*")  # other models are listed all the same
    public._timm_names.cache_clear()


@pytest.mark.parametrize("name", [TORCHVISION, TIMM, ROBUSTBENCH, "zoo/vgg-standard-0"])
def test_an_untrained_network_needs_no_file(name):
    model = load_model(name, pretrained=False)
    assert model.name == f"{name} (untrained)" and not model.card
    images = load_images("cifar10-samples", size=model.input_size, n=2).images
    torch.manual_seed(1)
    assert not torch.equal(load_model(name, pretrained=False)(images), model(images))


def test_an_ensemble_has_its_logits_as_a_stage():
    model = load_model("robustbench/cifar10/Linf/Chen2020Adversarial", pretrained=False)
    images = load_images("cifar10-samples", n=2).images
    assert (model.stages == ("ensemble",)
            and torch.equal(model.activations(images, "ensemble"), model(images)))


def test_sixteen_coarse_classes():
    """The largest member logit decides; classes outside the sixteen do not count."""
    torchvision_checkpoint()
    model = load_model(TORCHVISION)
    assert len(model.coarse_names) == 16 and len(labels.CIFAR100) == 100
    logits = torch.randn(200, 1000, generator=torch.Generator().manual_seed(0))
    coarse_of = {index: number for number, indices in enumerate(labels.IMAGENET16.values())
                 for index in indices}
    assert len(coarse_of) == 207
    expected = [coarse_of[max(coarse_of, key=lambda index: row[index])] for row in logits.tolist()]
    assert model.coarse(logits).tolist() == expected
    for coarse, member in {
            "cat": "tabby", "airplane": "airliner", "elephant": "African elephant",
            "knife": "cleaver", "keyboard": "computer keyboard", "bear": "brown bear",
            "oven": "rotisserie"}.items():
        assert model.class_names.index(member) in labels.IMAGENET16[coarse], (coarse, member)
    images = load_images("imagenet-samples", n=2).images
    assert torch.equal(model.answer(images), model.coarse(model(images)))


@pytest.mark.parametrize("name", [TORCHVISION, ROBUSTBENCH])
def test_public_models_are_generators_and_observers(name, caches, tmp_path):
    """Models are given by name, and their weights are where their library keeps them. Stages are
    given by depth, cards are passed, and nulls are computed from images.
    """
    torchvision_checkpoint() if name == TORCHVISION else robustbench_checkpoint(caches / "models")
    source = "imagenet-samples" if name == TORCHVISION else "cifar10-samples"
    others = [] if name == TORCHVISION else ["zoo/vgg-standard-0"]
    table = transfer_study([name, *others], [name, *others], load_images(source, n=2),
                           stages=[0.5, 0.8], steps=3, controls=False,
                           null_images=load_images(source, n=4),
                           cards={name: {"architecture": "vgg", "training": "robust"}},
                           directory=tmp_path / "study")
    assert len(table) == 2 * 2 * (1 + len(others)) ** 2 and (table["match"].abs() <= 1).all()
    assert table["relation"].unique().tolist() == (
        ["itself", "other training"] if others else ["itself"])
    by_itself = table[table["generator"] == table["observer"]]
    assert ((by_itself["stage"] == by_itself["observer_stage"]).all()
            and (by_itself["depth"].between(0.3, 0.95)).all())


# --- Weights of the user's own, and in a package -------------------------------------------------

@pytest.mark.parametrize("name", [TORCHVISION, TIMM, ROBUSTBENCH, "zoo/vgg-standard-0"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_come_from_a_file_of_the_user_s_own(name, wrapped, tmp_path):
    """Nothing of the library's is there: in safetensors, or in the checkpoint of a wrapper."""
    if name == TORCHVISION:
        weights = torchvision_weights()
    elif name == TIMM:
        import timm
        weights = settled(timm.create_model("resnet10t"), 64).state_dict()
    elif name == ROBUSTBENCH:
        weights = {key.removeprefix("module."): value
                   for key, value in robustbench_weights().items()}
    else:
        weights = load_model("zoo/vgg-standard-1").module.state_dict()
    file = tmp_path / ("mine.pt" if wrapped else "mine.safetensors")
    if wrapped:
        halves = {f"module.{key}": value.half() for key, value in weights.items()}
        save(file, {"epoch": 3, "state_dict": halves})
    else:
        safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, file)
    model = load_model(name, weights=file)
    assert model.name == f"{name} ({file.name})" and model.card == (
        {} if name.startswith("zoo") else {"weights": str(file)})
    held = model.module.state_dict()
    for key, value in weights.items():
        wanted = value.half() if wrapped else value
        torch.testing.assert_close(held[key], wanted.to(held[key].dtype))


@pytest.mark.parametrize("held, message", [
    (lambda weights: {**weights, "fc.weight": torch.zeros(10, 512)},
     r"of other shapes are fc.weight, \(10, 512\) in place of \(1000, 512\)\. For another"),
    (lambda weights: {key: value for key, value in weights.items() if "layer1" not in key},
     "lacks layer1.0.conv1.weight, layer1.0.bn1.weight, layer1.0.bn1.bias and 17 more"),
    (lambda weights: {**weights, "extra": torch.zeros(1)}, "has besides extra"),
    (lambda _: {"epoch": 3}, "holds no state dict"),
    (lambda weights: {**weights, "conv1.weight": torch.full((64, 3, 7, 7), torch.nan)},
     "not finite"),
    (lambda weights: {"args": argparse.Namespace(), "state_dict": weights},
     "holds more than tensors, or is damaged .* allow_pickle=True")])
def test_weights_that_do_not_fit_are_refused(held, message, tmp_path):
    save(tmp_path / "mine.pt", held(torchvision_weights()))
    with pytest.raises(ValueError, match=message):
        load_model(TORCHVISION, weights=tmp_path / "mine.pt")


def test_what_is_no_file_of_weights_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of weights .*none.pt"):
        load_model(TORCHVISION, weights=tmp_path / "none.pt")
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("<html>not weights</html>")
        with pytest.raises(ValueError, match=f"{name}.* damaged"):
            load_model(TORCHVISION, weights=tmp_path / name)
    with pytest.raises(ValueError, match="leave one out"):
        load_model(TORCHVISION, weights=tmp_path / "none.pt", pretrained=False)
    save(tmp_path / "whole.pt", torchvision.models.resnet18())
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_model(TORCHVISION, weights=tmp_path / "whole.pt")
    assert load_model(TORCHVISION, weights=tmp_path / "whole.pt", allow_pickle=True).has_classes


def test_a_network_of_imagenet_comes_with_the_package():
    """Without a connection; most of the twenty photographs are recognised, by both of its names."""
    model = check_model(load_model("timm/tf_efficientnet_lite0"))
    images = load_images("imagenet-samples")
    right = model(images.images).argmax(1) == images.labels
    assert right.float().mean() >= 0.8
    assert model.relu_stages == {"bn1": (1,), "bn2": (33,)}  # ReLU6
    tagged = load_model("timm/tf_efficientnet_lite0.in1k")
    assert torch.equal(tagged(images.images[:2]), model(images.images[:2]))
    assert "timm/tf_efficientnet_lite0" in list_models("timm/tf_eff*", offline=True)
