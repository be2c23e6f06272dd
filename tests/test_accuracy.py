"""Accuracies of networks, on planted answers and beside the zoo's cards."""

import numpy as np
import pytest
import torch
from statsmodels.stats.proportion import proportion_confint
from torch import nn

import metalib
from metalib import load_images, load_model, tasks, wrap_model
from metalib.evaluation.strangers import accuracies, widest
from metalib.labels import CIFAR10, IMAGENET, IMAGENET16
from metalib.models.sources import SOURCES


class Blue(nn.Module):
    """Says one class of ImageNet of images that are rather blue than red, and another of others."""

    def __init__(self, blue, other):
        super().__init__()
        self.layer = nn.Linear(1, len(IMAGENET), bias=False)
        weight = torch.zeros(len(IMAGENET), 1)
        weight[blue], weight[other] = 1, -1
        self.layer.weight = nn.Parameter(weight)

    def forward(self, x):
        return self.layer((x[:, 2] - x[:, 0]).mean((1, 2))[:, None])


@pytest.fixture
def blue(tmp_path, monkeypatch):
    """A network, and a folder of blue airliners and of kites: a green, a red and a blue one."""
    from PIL import Image
    colours = {"n02690373_airliner": [(0, 0, 200)] * 3,
               "n01608432_kite": [(0, 200, 0), (100, 0, 0), (0, 0, 255)]}
    for folder, some in colours.items():
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        for number, colour in enumerate(some):
            Image.new("RGB", (32, 32), colour).save(
                tmp_path / "pictures" / folder / f"{number}.png")
    network = wrap_model(
        Blue(IMAGENET.index("airliner"), IMAGENET.index("kite")), stages=["layer"], name="blue",
        class_names=IMAGENET, coarse=IMAGENET16, mean=(0,) * 3, std=(1,) * 3)
    monkeypatch.setattr(metalib.models.sources, "SOURCES", dict(SOURCES))
    metalib.add_models("seen", ["blue"], lambda name: network)
    yield f"folder:{tmp_path / 'pictures'}"
    SOURCES.pop("seen", None)


def test_answers_are_counted_by_name_and_over_classes_that_are_known(blue):
    table = tasks.accuracy("seen/blue", blue).set_index("answer")
    assert table.loc["class", ["images", "correct"]].tolist() == [6, 4]
    low, high = proportion_confint(4, 6, method="wilson")
    assert np.allclose(table.loc["class", ["low", "high"]].astype(float), [low, high])
    assert table.loc["16-way", ["images", "correct"]].tolist() == [3, 3]  # a kite is in no class


def test_an_attack_only_takes_answers_away():
    table = tasks.accuracy("zoo/vgg-robust-0", epsilon=8 / 255, image_set="cifar10-samples")
    table = table.set_index("answer")
    images, model = load_images("cifar10-samples"), load_model("zoo/vgg-robust-0")
    assert tuple(images.class_names) == CIFAR10
    with torch.no_grad():
        correct = (model(images.images).argmax(1) == images.labels).sum().item()
    assert table.loc["class", "correct"] == correct
    assert table.loc["class, under attack", "correct"] < correct


def test_accuracies_are_a_table_of_sources_and_ways(blue):
    table = tasks.accuracy("seen/blue", blue).assign(model="seen/blue", image_set="folder:a/test")
    shown = accuracies(table)
    assert list(shown.columns) == [("a", "class"), ("a", "16-way")]
    assert list(shown.index) == ["blue"]
    assert widest(table) > 20


@pytest.mark.parametrize("values, message", [
    ({"epsilon": -1}, "an attack has a norm"), ({"norm": "L1"}, "an attack has a norm"),
    ({"image_set": "imagenet-samples"}, "knows none of the classes")])
def test_what_cannot_be_measured_is_told(values, message):
    given = {"model": "zoo/vgg-robust-0", "image_set": "cifar10-samples", **values}
    with pytest.raises(ValueError, match=message):
        tasks.accuracy.check(**{"split": None, "size": 32, "epsilon": 0, "norm": "L2", "steps": 20,
                                **given})
        tasks.accuracy(**given)
