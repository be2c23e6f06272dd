"""Decoders: small networks that turn the activations of a stage into images.

    coder = load_autoencoder("zoo/vgg-standard-0")    # a network up to a stage, and its decoder
    coder.decode(coder.encode(images))                # (B, 3, H, W) in [0, 1]
    list_autoencoders()                               # the bundled ones

`python -m metalib.runs.train_decoder` trains them, see there. Each is a file in `decoders/`, in
half precision, whose header holds what it is of and its card.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from metalib.data import check_range
from metalib.models.model import Model
from metalib.models.registry import load_model
from metalib.store import save_tensors, sha256

FOLDER = Path(__file__).parent / "decoders"
LEAST = 1e-5  # standard deviation of a channel up to which it is not scaled


class Decoder(nn.Module):
    """Maps (B, C, h, w) to images (B, 3, H, W) in [0, 1]: an encoder of the VGG family, mirrored.

    As in Huang & Belongie 2017 (arXiv:1703.06868, section 6.1), 3 x 3 convolutions with padding by
    reflection and ReLU, between which maps are enlarged by repetition of pixels and have half as
    many channels. There are two at each resolution. Channels are standardised first, and a sigmoid
    is last.

    Args:
        shape: of the maps, (C, h, w).
        side: of the images, in pixels: h times a power of two.
        width: channels at the resolution of the maps; at least 16 are left at that of the images.

    Raises:
        ValueError: maps from which images of this side cannot be made.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...], side: int, width: int = 128):
        super().__init__()
        if len(shape) != 3 or side % shape[1] or (side // shape[1]).bit_count() != 1:
            raise ValueError(f"a stage of the shape {tuple(shape)} cannot be decoded to {side} "
                             "pixels by doubling its resolution; choose one with maps whose side "
                             "is that of the images divided by a power of two")
        channels = shape[0]
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        layers = [*_conv_relu(channels, width), *_conv_relu(width, width)]
        for _ in range((side // shape[1]).bit_length() - 1):
            narrower = max(16, width // 2)
            layers += [nn.Upsample(scale_factor=2), *_conv_relu(width, narrower),
                       *_conv_relu(narrower, narrower)]
            width = narrower
        self.layers = nn.Sequential(
            *layers, nn.Conv2d(width, 3, 3, padding=1, padding_mode="reflect"))

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers((maps - self.mean) / self.std).sigmoid()

    def standardise(self, maps: Tensor) -> None:
        """Take the means and standard deviations of channels from maps (B, C, h, w)."""
        std, mean = torch.std_mean(maps, (0, 2, 3), correction=0)
        self.mean.copy_(mean.view(-1, 1, 1))
        self.std.copy_(torch.where(std > LEAST, std, 1.0).view(-1, 1, 1))


def _conv_relu(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect"), nn.ReLU()]


@dataclass(frozen=True)
class Autoencoder:
    """A network up to a stage, the encoder, and a decoder of that stage.

    Attributes:
        model, stage: the encoder.
        decoder: of the stage's maps.
        card: how the decoder was trained and what it reaches, a plain dict.
    """

    model: Model
    stage: str
    decoder: Decoder
    card: dict = field(default_factory=dict)

    def check_images(self, images: Tensor) -> None:
        """Raise a ValueError unless images (B, 3, H, W) can be encoded and decoded.

        They are as the network takes them; or of another size, if its layers up to the stage are
        convolutions, which map all sizes alike, and maps are to the images what they are there.
        """
        side, own = self.model.input_size, self.model.shapes[self.stage][1:]
        if tuple(images.shape[2:]) == (side, side):
            return self.model.check_images(images)
        check_range(images)
        factor, sides = side // own[0], tuple(images.shape[2:])
        refusal = (f"the decoder of {self.model.name} at {self.stage} makes images of {side} "
                   f"pixels a side, or of multiples of {factor} if that network takes them, not of "
                   f"{sides[0]} x {sides[1]}; resize the images")
        try:
            with torch.no_grad():
                found = self.encode(images[:1].to(self.model.device))
        except (RuntimeError, ValueError, AssertionError) as error:  # as of weights by place
            raise ValueError(f"{refusal} (it says: {error})") from error
        if tuple(found.shape[2:]) != tuple(one / factor for one in sides):
            raise ValueError(refusal)

    def encode(self, images: Tensor) -> Tensor:
        """Maps (B, C, h, w) of images (B, 3, H, W) in [0, 1]."""
        return self.model.reach(self.model.normalised(images), self.stage).float()

    def decode(self, maps: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of maps (B, C, h, w)."""
        return self.decoder(maps)


def save_autoencoder(coder: Autoencoder, path: str | Path) -> None:
    """Save a decoder in half precision, and what it is of.

    Raises:
        OSError: the disk is full or the folder cannot be written; an old file is as it was.
    """
    decoder = coder.decoder
    about = {"model": coder.model.name, "stage": coder.stage, "side": coder.model.input_size,
             "width": decoder.layers[0].out_channels, "weights_sha256": weights_of(coder.model),
             "card": coder.card}
    tensors = {name: value.half().contiguous() for name, value in decoder.state_dict().items()}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_tensors(Path(path), tensors, {"about": json.dumps(about)})


def weights_of(model: Model) -> str:
    """Hash of the weights of a network."""
    return sha256(dict(model.module.state_dict()))


def about_autoencoder(path: str | Path) -> dict:
    """What a file holds: `model`, `stage`, `side`, `width`, `weights_sha256` and `card`.

    Raises:
        ValueError: the file is damaged, or holds no decoder.
    """
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["about"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no decoder, or damaged ({error}); restore it from the "
                         "repository, or train it: python -m metalib.runs.train_decoder") from error


def list_autoencoders() -> list[dict]:
    """What the bundled decoders are of, see `about_autoencoder`; no weights are read."""
    return [about_autoencoder(path) for path in sorted(FOLDER.glob("*.safetensors"))]


def bundled_file(model: str, stage: str) -> Path:
    """The file of a bundled decoder."""
    return FOLDER / f"{model.replace('/', '_')}.{stage}.safetensors"


@functools.lru_cache(maxsize=4)
def load_autoencoder(model: str, stage: str | None = None) -> Autoencoder:
    """A network and a bundled decoder of one of its stages.

    Args:
        model: a name for `load_model`.
        stage: whose maps are decoded; None for the first for which there is a decoder.

    Raises:
        ValueError: no such decoder is bundled, it is damaged, or it was trained for other weights.
        FileNotFoundError: the network is not on this machine.
    """
    here = list_autoencoders()
    stages = [one["stage"] for one in here
              if one["model"] == model and stage in (None, one["stage"])]
    if not stages:
        known = ", ".join(f"{one['model']} at {one['stage']}" for one in here)
        raise ValueError(f"no decoder of {model}{f' at {stage}' if stage else ''} is bundled, only "
                         f"of {known}; train_decoder of metalib.runs.train_decoder makes others")
    return autoencoder_in(bundled_file(model, stages[0]), load_model)


def autoencoder_of(wanted: str | Autoencoder | None, sides: tuple[int, ...]) -> Autoencoder:
    """An Autoencoder as it is, a bundled one by the name of its network, or one for images.

    Args:
        wanted: which; None for the bundled one that was trained on the largest images that are no
            larger than these.
        sides: (height, width) of images.

    Raises:
        ValueError: there is none.
    """
    if isinstance(wanted, Autoencoder):
        return wanted
    if wanted is None:
        here = list_autoencoders()
        small = [one for one in here if one["side"] <= min(sides)]
        if not small:
            least = min(one["side"] for one in here)
            raise ValueError(f"bundled decoders make images of at least {least} pixels a side, not "
                             f"of {sides[0]} x {sides[1]}; resize the images, or pass an encoder "
                             "of train_decoder (metalib.runs.train_decoder)")
        wanted = max(small, key=lambda one: one["side"])["model"]
    return load_autoencoder(wanted)


def autoencoder_in(path: str | Path, load: Callable[[str], Model] = load_model) -> Autoencoder:
    """The decoder in a file, with its network.

    Args:
        path: as `save_autoencoder` was given it.
        load: a function that loads the network by its name.

    Raises:
        ValueError: the file is damaged, or the network has other weights than its decoder was
            trained for.
    """
    about = about_autoencoder(path)
    model = load(about["model"])
    if weights_of(model) != about["weights_sha256"]:
        raise ValueError(f"{path} is a decoder of {about['model']} with other weights; train it "
                         "again: python -m metalib.runs.train_decoder")
    decoder = Decoder(model.shapes[about["stage"]], about["side"], about["width"])
    with safe_open(path, "pt") as file:
        decoder.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    return Autoencoder(model, about["stage"], decoder.eval().requires_grad_(False), about["card"])
