"""The networks of the bundled zoo: small classifiers of 32 x 32 images.

Every architecture is a sequence of named stages, the same names everywhere, from early to late. The names are those of
`STAGES`; `stem`, `group1`, `group2` and `group3` end in a ReLU.
"""
from collections import OrderedDict

from torch import nn
from torch.nn import functional as F

STAGES = ("stem", "group1", "group2", "group3", "features", "logits")


def conv_bn_relu(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, doi:10.1109/CVPR.2016.90, figure 2, with batch norm)."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = conv_bn_relu(inputs, outputs, stride)
        self.conv2 = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if inputs == outputs and stride == 1 else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


def _stages(classes, stem, group1, group2, group3, width):
    features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    modules = (stem, group1, group2, group3, features, nn.Linear(width, classes))
    return nn.Sequential(OrderedDict(zip(STAGES, modules, strict=True)))


def resnet(classes=10):
    """A residual network: a stem and five residual blocks at 32, 16 and 8 pixels; 0.68 million parameters."""
    return _stages(
        classes,
        stem=conv_bn_relu(3, 32),
        group1=ResidualBlock(32, 32),
        group2=nn.Sequential(ResidualBlock(32, 64, stride=2), ResidualBlock(64, 64)),
        group3=nn.Sequential(ResidualBlock(64, 128, stride=2), ResidualBlock(128, 128)),
        width=128)


def vgg(classes=10):
    """A plain network, after Simonyan & Zisserman 2015 (arXiv:1409.1556): convolutions and max-pooling, no shortcuts."""
    return _stages(
        classes,
        stem=conv_bn_relu(3, 32),
        group1=conv_bn_relu(32, 32),
        group2=nn.Sequential(nn.MaxPool2d(2), conv_bn_relu(32, 64), conv_bn_relu(64, 128)),
        group3=nn.Sequential(nn.MaxPool2d(2), conv_bn_relu(128, 128), conv_bn_relu(128, 128), conv_bn_relu(128, 128)),
        width=128)


ARCHITECTURES = {"resnet": resnet, "vgg": vgg}
