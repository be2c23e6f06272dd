"""The networks of the bundled zoo: small classifiers of images of 32 pixels, or 128 of photographs.

Every architecture is a sequence of named stages, from early to late, with the same names
everywhere: those of `STAGES`. The four families differ as the vision models of the last decade
do: in shortcuts (resnet, not vgg), depthwise convolutions with GELU (convnext), and attention
between tokens (cct). Those for photographs begin with a quarter of the resolution; beside the
residual one stands one of inverted blocks, which weighs its channels (efficientnet).
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

STAGES: tuple[str, ...] = ("stem", "group1", "group2", "group3", "features", "logits")


def conv_bn(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1,
) -> nn.Sequential:
    """A convolution without bias, then batch normalisation; `inputs` and `outputs` are channels."""
    convolution = nn.Conv2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution, batch normalisation and ReLU."""
    return nn.Sequential(*conv_bn(inputs, outputs, stride=stride), nn.ReLU())


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut.

    He et al. 2016, doi:10.1109/CVPR.2016.90, figure 2, with batch normalisation.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = conv_bn_relu(inputs, outputs, stride)
        self.conv2 = conv_bn(outputs, outputs)
        self.shortcut = (nn.Identity() if inputs == outputs and stride == 1
                         else conv_bn(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, then two layers with GELU at every position; a shortcut around all.

    Liu et al. 2022, arXiv:2201.03545, figure 4, with batch normalisation in place of layer
    normalisation.
    """

    def __init__(self, width: int, kernel: int = 5, expansion: int = 2):
        super().__init__()
        self.depthwise = conv_bn(width, width, kernel, groups=width)
        self.expand = nn.Conv2d(width, expansion * width, 1)
        self.project = conv_bn(expansion * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.gelu(self.expand(self.depthwise(x))))


class FusedBlock(nn.Module):
    """A 3 x 3 convolution to more channels with SiLU, then a 1 x 1 convolution to fewer.

    Tan & Le 2021, arXiv:2104.00298, figure 2, without squeeze-and-excitation. There is a shortcut
    where resolution and channels stay.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, expansion: int = 2):
        super().__init__()
        self.expand = conv_bn(inputs, expansion * inputs, stride=stride)
        self.project = conv_bn(expansion * inputs, outputs, 1)
        self.has_shortcut = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(F.silu(self.expand(x)))
        return x + y if self.has_shortcut else y


class InvertedBlock(nn.Module):
    """A 1 x 1 convolution to more channels, a depthwise one, and a 1 x 1 convolution to fewer.

    Channels are weighted by what all of them are on average over the map (squeeze-and-excitation).
    Tan & Le 2019, arXiv:1905.11946, section 4. There is a shortcut where resolution and channels
    stay.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, expansion: int = 4):
        super().__init__()
        width = expansion * inputs
        self.expand = conv_bn(inputs, width, 1)
        self.depthwise = conv_bn(width, width, stride=stride, groups=width)
        self.weigh = SqueezeExcitation(width, inputs // 4, activation=nn.SiLU)
        self.project = conv_bn(width, outputs, 1)
        self.has_shortcut = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.weigh(F.silu(self.depthwise(F.silu(self.expand(x))))))
        return x + y if self.has_shortcut else y


class TransformerBlock(nn.Module):
    """Attention between tokens, then two layers at every token.

    Each has LayerNorm before it and a shortcut around it: Dosovitskiy et al. 2021,
    arXiv:2010.11929, figure 1. Attention is written out: for so few tokens the backward pass of
    torch's fused kernel is several times slower on a CPU.
    """

    def __init__(self, width: int, heads: int, expansion: int = 2):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(
            count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(count, tokens, width))
        return x + self.mlp(self.norm2(x))


class Tokens(nn.Module):
    """A map (B, C, H, W) as tokens (B, H W, C), with a learned embedding of their position."""

    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, width), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2) + self.position


class SequencePool(nn.Module):
    """The mean (B, C) of tokens (B, N, C), weighted by the softmax of a score of each.

    A linear layer computes a token's score from that token. Hassani et al. 2021,
    arXiv:2104.05704, section 3.2.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.weight = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return (self.weight(x).softmax(1) * x).sum(1)


def _stages(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(zip(STAGES, modules, strict=True)))


def _pool() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet(classes: int = 10) -> nn.Sequential:
    """A residual network with 0.68 million parameters.

    It has a stem and five residual blocks at 32, 16 and 8 pixels.
    """
    return _stages(
        conv_bn_relu(3, 32),
        ResidualBlock(32, 32),
        nn.Sequential(ResidualBlock(32, 64, stride=2), ResidualBlock(64, 64)),
        nn.Sequential(ResidualBlock(64, 128, stride=2), ResidualBlock(128, 128)),
        _pool(),
        nn.Linear(128, classes))


def vgg(classes: int = 10) -> nn.Sequential:
    """A plain network of convolutions and max-pooling with 0.55 million parameters.

    After Simonyan & Zisserman 2015, arXiv:1409.1556.
    """
    return _stages(
        conv_bn_relu(3, 32),
        conv_bn_relu(32, 32),
        nn.Sequential(nn.MaxPool2d(2), conv_bn_relu(32, 64), conv_bn_relu(64, 128)),
        nn.Sequential(nn.MaxPool2d(2), conv_bn_relu(128, 128), conv_bn_relu(128, 128),
                      conv_bn_relu(128, 128)),
        _pool(),
        nn.Linear(128, classes))


def convnext(classes: int = 10) -> nn.Sequential:
    """A modern convolutional network with 0.55 million parameters, after Liu et al. 2022.

    It has six blocks at 16, 8 and 4 pixels.
    """
    return _stages(
        nn.Sequential(conv_bn(3, 32), nn.GELU(), conv_bn(32, 64, stride=2)),
        nn.Sequential(ConvNeXtBlock(64), ConvNeXtBlock(64)),
        nn.Sequential(conv_bn(64, 96, stride=2), ConvNeXtBlock(96), ConvNeXtBlock(96)),
        nn.Sequential(conv_bn(96, 160, stride=2), ConvNeXtBlock(160), ConvNeXtBlock(160)),
        _pool(),
        nn.Linear(160, classes))


def cct(classes: int = 10) -> nn.Sequential:
    """A compact vision transformer with 0.53 million parameters, after Hassani et al. 2021.

    Convolutions make 8 x 8 tokens; six blocks follow.
    """
    return _stages(
        nn.Sequential(conv_bn_relu(3, 32), conv_bn_relu(32, 64, stride=2),
                      nn.Conv2d(64, 96, 3, stride=2, padding=1), Tokens(64, 96)),
        *(nn.Sequential(TransformerBlock(96, heads=3), TransformerBlock(96, heads=3))
          for _ in range(3)),
        SequencePool(96),
        nn.Linear(96, classes))


def photo_resnet(classes: int = 10) -> nn.Sequential:
    """A residual network for photographs with 1.11 million parameters.

    It has a stem of stride 4 and five residual blocks at 32, 16 and 8 pixels.
    """
    return _stages(
        nn.Sequential(conv_bn_relu(3, 16, stride=2), conv_bn_relu(16, 32, stride=2)),
        ResidualBlock(32, 32),
        nn.Sequential(ResidualBlock(32, 64, stride=2), ResidualBlock(64, 64)),
        nn.Sequential(ResidualBlock(64, 176, stride=2), ResidualBlock(176, 176)),
        _pool(),
        nn.Linear(176, classes))


def photo_efficientnet(classes: int = 10) -> nn.Sequential:
    """A network of inverted blocks for photographs with 1.06 million parameters.

    It has a stem of stride 4 and seven blocks at 32, 16 and 8 pixels, the early ones without
    depthwise convolutions, after Tan & Le 2021, arXiv:2104.00298.
    """
    return _stages(
        nn.Sequential(conv_bn(3, 16, stride=2), nn.SiLU(), conv_bn(16, 32, stride=2), nn.SiLU()),
        FusedBlock(32, 32),
        nn.Sequential(FusedBlock(32, 64, stride=2, expansion=4), FusedBlock(64, 64)),
        nn.Sequential(InvertedBlock(64, 160, stride=2),
                      *(InvertedBlock(160, 160) for _ in range(3)),
                      conv_bn(160, 256, 1), nn.SiLU()),
        _pool(),
        nn.Linear(256, classes))


ARCHITECTURES: dict[str, Callable[..., nn.Sequential]] = {
    "resnet": resnet, "vgg": vgg, "convnext": convnext, "cct": cct}
PHOTO_ARCHITECTURES: dict[str, Callable[..., nn.Sequential]] = {
    "photo-resnet": photo_resnet, "photo-efficientnet": photo_efficientnet}
