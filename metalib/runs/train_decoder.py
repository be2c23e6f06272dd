"""Train decoders of stages, by which `metalib.feedforward.foveated` makes images of features.

    python -m metalib.runs.train_decoder zoo/vgg-standard-0 group3 --data folder:PATH
    coder = train_decoder(model, "group3", images)      # of any network

PATH/train and PATH/test hold class folders. The network stays as it is. The decoder is to make
images that have the features that it was given: the loss is the mean square difference of
standardised features (Huang & Belongie 2017, arXiv:1703.06868, equation 12). Half of a batch are
features of images, and half of these with the channels' means and standard deviations of another
image's, as style transfer has them.

Every so many steps all is saved in --work: a run that was stopped resumes from there.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from metalib.data import ImageSet, load_images, pixels
from metalib.devices import device_of
from metalib.generation.compute import keep_freed_memory
from metalib.generation.decoder import (
    Autoencoder,
    Decoder,
    bundled_file,
    save_autoencoder,
    weights_of,
)
from metalib.metrics import rms_distance, snr_db
from metalib.models.model import Model
from metalib.models.registry import load_model
from metalib.runs.train_zoo import augment, autocast, save_atomically

SAVED_EVERY = 200  # steps


def train_decoder(
    model: Model, stage: str, images: ImageSet | Tensor, *, steps: int = 4000,
    batch_size: int = 32, lr: float = 1e-3, width: int = 128, seed: int = 0,
    work: str | Path | None = None, progress: bool = True,
) -> Autoencoder:
    """Train a decoder of a stage through the frozen network.

    Args:
        model: on the device on which it is trained.
        stage: of its stages, one with maps whose side is that of the images divided by a power of
            two.
        images: (N, 3, H, W) in [0, 1], of the size that the network takes.
        steps, batch_size: how many batches, and images in each.
        lr: the largest step of Adam, which rises for a tenth of the steps and then falls (cosine).
        width: of the decoder, see `Decoder`.
        seed: of its first weights and of the batches.
        work: a file for the state of the training, every 200 steps; a training that finds one goes
            on from there. None keeps nothing.
        progress: show a bar.

    Returns:
        Autoencoder: the network and its decoder, whose card says how it was trained.

    Raises:
        ValueError: an unknown stage, or one that cannot be decoded, images that the network cannot
            take, fewer images than a batch has, or a state of another training.
    """
    model.check_stage(stage)
    shown = pixels(images)
    model.check_images(shown[:1])
    if len(shown) < batch_size:
        raise ValueError(f"a batch has {batch_size} images, and there are {len(shown)}; "
                         "pass a smaller batch_size")
    torch.manual_seed(seed)
    decoder = Decoder(model.shapes[stage], model.input_size, width)
    coder = Autoencoder(model, stage, decoder, {
        "images": len(shown), "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed})
    with torch.no_grad():
        some = shown[torch.randperm(len(shown))[:512]]
        decoder.standardise(torch.cat([coder.encode(part.to(model.device)).cpu()
                                       for part in some.split(64)]))
    decoder.to(model.device)
    _fit(coder, shown, Path(work) if work else None, progress)
    decoder.cpu().eval().requires_grad_(False)
    return coder


def _fit(coder: Autoencoder, images: Tensor, work: Path | None, progress: bool) -> None:
    """Train the decoder in place, as its card says."""
    card, decoder, device = coder.card, coder.decoder, coder.model.device
    optimizer = torch.optim.Adam(decoder.parameters(), lr=card["lr"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, card["lr"], total_steps=card["steps"], pct_start=0.1, cycle_momentum=False)
    parts = {"decoder": decoder, "optimizer": optimizer, "schedule": schedule}
    done = _resume(parts, coder, work)
    for step in tqdm(range(done, card["steps"]), f"decoder of {coder.stage}", initial=done,
                     total=card["steps"], mininterval=5, disable=None if progress else True):
        generator = torch.Generator().manual_seed(1_000_003 * card["seed"] + step)
        chosen = torch.randint(len(images), (card["batch_size"],), generator=generator)
        batch = augment(images[chosen], 0, generator, images.shape[-1]).to(device)
        with torch.no_grad():
            target = coder.encode(batch)
            half = len(target) // 2
            target[:half] = adain(target[:half], target[:half].roll(1, 0))
        with autocast(str(device)):
            decoded = decoder(target).float()
            found = coder.encode(decoded)
        loss = ((found - target) / decoder.std).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if not math.isfinite(loss.item()):
            raise ValueError(f"the loss of step {step + 1} is not finite; pass a smaller lr")
        if work and ((step + 1) % SAVED_EVERY == 0 or step + 1 == card["steps"]):
            state = {name: part.state_dict() for name, part in parts.items()} | {
                "step": step + 1, "of": _identity(coder)}
            save_atomically(work, lambda path, state=state: torch.save(state, path))


def _identity(coder: Autoencoder) -> dict:
    """What a training is of, a plain dict."""
    return {"model": weights_of(coder.model), "stage": coder.stage} | coder.card


def _resume(parts: dict, coder: Autoencoder, work: Path | None) -> int:
    """Take up the state in a file, and return how many steps are done."""
    if work is None or not work.is_file():
        return 0
    saved = torch.load(work, map_location=coder.model.device, weights_only=True)
    if saved["of"] != _identity(coder):
        raise ValueError(f"{work} is the state of another training; delete it, or name another")
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved["step"]


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Maps (B, C, h, w) with the means and standard deviations of others, channel by channel.

    Huang & Belongie 2017, arXiv:1703.06868, equation 8.
    """
    spread, mean = torch.std_mean(content, (2, 3), keepdim=True, correction=0)
    wanted, level = torch.std_mean(style, (2, 3), keepdim=True, correction=0)
    return (content - mean) * torch.where(spread > 1e-6, wanted / spread, 0.0) + level


@torch.no_grad()
def measured(coder: Autoencoder, images: ImageSet) -> dict[str, float]:
    """How good a decoder is on images that it was not trained on: medians, for its card.

    Returns:
        dict: `snr_db`, of the features of decoded images beside those of the images, in decibel;
        `distance`, root mean square difference from the images in [0, 1].
    """
    snr, distance = [], []
    for batch in images.images.split(64):
        features = coder.encode(batch)
        decoded = coder.decode(features)
        snr.append(snr_db(features.flatten(1), coder.encode(decoded).flatten(1)))
        distance.append(rms_distance(decoded, batch))
    return {"test_images": len(images), "snr_db": torch.cat(snr).median().item(),
            "distance": torch.cat(distance).median().item()}


def main() -> None:
    """The command line, see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a network, a name as for load_model")
    parser.add_argument("stage", help="whose maps are decoded")
    parser.add_argument("--data", default="cifar10",
                        help="cifar10, or folder:PATH with the folders train and test")
    parser.add_argument("--steps", type=int, default=4000, help="of the training")
    parser.add_argument("--batch-size", type=int, default=32, help="images of a step")
    parser.add_argument("--work", type=Path, default=Path(".cache/decoders"),
                        help="where the states of trainings are kept")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    model = load_model(arguments.model, device=str(device_of(arguments.device)))
    train, test = (load_images(arguments.data, split=split, size=model.input_size)
                   for split in ("train", "test"))
    place = bundled_file(model.name, arguments.stage)
    if model.device.type == "cpu":
        keep_freed_memory()
    coder = train_decoder(model, arguments.stage, train, steps=arguments.steps,
                          batch_size=arguments.batch_size, work=arguments.work / f"{place.stem}.pt")
    model.to("cpu")
    coder.card.update({"data": train.name, "train_sha256": train.sha256} | measured(coder, test))
    save_autoencoder(coder, place)
    print(f"{place.name}: {coder.card['snr_db']:.1f} dB, distance {coder.card['distance']:.3f}")


if __name__ == "__main__":
    main()
