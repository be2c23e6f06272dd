"""Train the models of the bundled zoo, measure them, and write their files.

    python -m metalib.runs.train_zoo --all --data cifar10    # torchvision's CIFAR-10
    python -m metalib.runs.train_zoo resnet-robust-0 --data folder:PATH
    python -m metalib.runs.train_zoo photo-resnet-robust-0 --data folder:PATH    # Imagenette

PATH/train and PATH/test hold class folders. The files of a model are its weights, its card and its
null distributions (see `metalib.models.zoo`).

All trainings of an architecture and a seed begin with the same weights, and see the same images in
the same order, augmented alike.

Every epoch is saved in --work: a run that was stopped resumes from there and ends with the same
weights. On a CPU that is fast in bfloat16, a model without adversarial training takes 20 to 40
minutes of one core, and 5 to 15 more to be measured; on others up to three times as long. Two
trainings side by side, each with OMP_NUM_THREADS=1, are faster than one after the other.
"""

import argparse
import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from timeit import Timer
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from metalib.data import ImageSet, load_images, stratified
from metalib.devices import device_of
from metalib.evaluation.nulls import null_distribution, save_nulls
from metalib.generation.compute import keep_freed_memory
from metalib.labels import places
from metalib.models import zoo
from metalib.models.model import Model
from metalib.models.registry import load_model
from metalib.models.zoo.architectures import ARCHITECTURES, PHOTO_ARCHITECTURES
from metalib.store import atomic_write


@dataclass(frozen=True)
class Training:
    """What all models of one training share.

    Attributes:
        epochs, batch_size: of the training images.
        decay: factor on the optimiser's weight decay.
        shift: by how many pixels images are continued by reflection before random crops.
        area: the smallest share of an image's area that a random crop keeps, which is resized then
            (Szegedy et al. 2015, arXiv:1409.4842, section 6); 1 crops without resizing.
        early_side: side of the crops in the first two thirds of the epochs, in pixels, for a
            shorter training; None for that of the network.
        epsilon: radius of the perturbation, in units of pixels in [0, 1]; 0 trains on plain images.
        start: length of the random part of the perturbation, in units of epsilon.
        attack_steps: number of steps that follow, each of `step` epsilon up the loss, projected
            onto the ball.
        norm: "L2" or "Linf", by which the perturbation is measured.
    """

    epochs: int
    batch_size: int = 128
    decay: float = 1.0
    shift: int = 3
    area: float = 1.0
    early_side: int | None = None
    epsilon: float = 0.0
    start: float = 0.0
    attack_steps: int = 0
    step: float = 2.0
    norm: str = "L2"


# They differ in the perturbation alone, and have the recipe that robust training needs. "noise" is
# the control of Feather et al. 2023: perturbations as long as the robust ones, but random.
TRAININGS: dict[str, Training] = {
    "standard": Training(epochs=16, decay=0.4),
    "noise": Training(epochs=16, decay=0.4, epsilon=0.5, start=1.0),
    "robust": Training(epochs=16, decay=0.4, epsilon=0.5, start=0.5, attack_steps=1),
}


# After a random start in the cube a step of 1.25 epsilon keeps adversarial training in one step
# from learning to mislead its own attack (Wong et al. 2020, arXiv:2001.03994).
OF_PHOTOS = Training(epochs=30, batch_size=64, shift=0, area=0.5, early_side=96, norm="Linf")
PHOTO_TRAININGS: dict[str, Training] = {
    "standard": OF_PHOTOS,
    "noise": replace(OF_PHOTOS, epsilon=4 / 255, start=1.0),
    "robust": replace(OF_PHOTOS, epsilon=4 / 255, start=0.5, attack_steps=1, step=1.25),
}
OF_ARCHITECTURE: dict[str, dict[str, Any]] = {  # in place of those above
    "photo-efficientnet": {"area": 0.35}}
UNSAID = {  # in the cards of networks of CIFAR-10
    "area": 1.0, "early_side": None, "step": 2.0, "norm": "L2"}


def training_of(architecture: str, training: str) -> Training:
    """The settings of a training of an architecture; KeyError where there is none."""
    of_part = PHOTO_TRAININGS if architecture in PHOTO_ARCHITECTURES else TRAININGS
    return replace(of_part[training], **OF_ARCHITECTURE.get(architecture, {}))


def sgd(
    parameters: Iterable[Tensor], decay: float, lr: float = 0.15,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with Nesterov momentum, for convolutional networks."""
    return torch.optim.SGD(
        parameters, lr=lr, momentum=0.9, weight_decay=5e-4 * decay, nesterov=True)


def adamw(parameters: Iterable[Tensor], decay: float) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, for transformers.

    Loshchilov & Hutter 2019, arXiv:1711.05101.
    """
    return torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05 * decay)


of_small_batches = functools.partial(sgd, lr=0.08)
OPTIMIZERS: dict[str, Callable[[Iterable[Tensor], float], torch.optim.Optimizer]] = {
    "resnet": sgd, "vgg": sgd, "convnext": sgd, "cct": adamw,
    "photo-resnet": of_small_batches, "photo-efficientnet": of_small_batches}


def recipe(architecture: str, training: str) -> dict[str, Any]:
    """All settings of a training and its optimiser, a plain dict for the card."""
    chosen = training_of(architecture, training)
    optimizer = OPTIMIZERS[architecture]([torch.zeros(1)], chosen.decay)
    settings = {key: optimizer.defaults[key]
                for key in ("lr", "momentum", "nesterov", "betas", "weight_decay")
                if key in optimizer.defaults}
    said = {key: value for key, value in asdict(chosen).items()
            if UNSAID.get(key) != value}
    return said | {"optimizer": type(optimizer).__name__} | settings


ZOO: tuple[str, ...] = tuple(  # what is bundled, and what --all trains, in this order
    f"{architecture}-{training}-{seed}"
    for seed in (0, 1) for training in TRAININGS for architecture in ARCHITECTURES)
PHOTO_ZOO: tuple[str, ...] = tuple(  # and what --photos trains
    f"{architecture}-{training}-{seed}" for seed in (0, 1) for training in PHOTO_TRAININGS
    for architecture in PHOTO_ARCHITECTURES)


def pgd20(name: str) -> dict[str, Any]:
    """The attack of the robust accuracy in the card of a network, arguments of `attack`."""
    robust = training_of(name.rsplit("-", 2)[0], "robust")
    return {"epsilon": robust.epsilon, "norm": robust.norm, "steps": 20,
            "step_size": 2.5 * robust.epsilon / 20, "start": 1.0}


def attack(
    classify: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, *, epsilon: float,
    steps: int, step_size: float, start: float = 1.0, norm: str = "L2",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on the cross-entropy inside a ball and the box [0, 1].

    Madry et al. 2018, arXiv:1706.06083.

    Args:
        classify: function from images (B, 3, H, W) to logits (B, K).
        images, labels: (B, 3, H, W) in [0, 1] and (B,).
        epsilon: radius of the ball around each image, in units of pixels in [0, 1].
        steps, step_size: number of steps, and their length in the same units.
        start: fraction of the radius at which the attack starts, in a random direction; with
            "Linf" that is one of random signs.
        norm: "L2" or "Linf".
        generator: torch.Generator of the random start.

    Returns:
        (B, 3, H, W), adversarial images.
    """
    def of_length(x: Tensor, length: float) -> Tensor:
        if norm == "Linf":
            return x.sign() * length
        return x * (length / x.flatten(1).norm(dim=1).clamp_min(1e-12)).view(-1, 1, 1, 1)

    def inside(x: Tensor) -> Tensor:
        if norm == "Linf":
            return x.clamp(-epsilon, epsilon)
        return x * (epsilon / x.flatten(1).norm(dim=1).clamp_min(epsilon)).view(-1, 1, 1, 1)

    delta = of_length(
        torch.randn(images.shape, generator=generator).to(images.device), start * epsilon)
    for _ in range(steps):
        delta = ((images + delta).clamp(0, 1) - images).requires_grad_()
        gradient, = torch.autograd.grad(
            F.cross_entropy(classify(images + delta), labels, reduction="sum"), delta)
        delta = inside(delta.detach() + of_length(gradient, step_size))
    return (images + delta).clamp(0, 1)


@functools.cache
def arithmetic(device: str) -> str:
    """The precision of a training on a device: "bfloat16", or "float32" where that is faster.

    What a CPU can do does not tell: some compute bfloat16 at half the speed of float32. So a
    CPU is timed at a convolution and its gradients.
    """
    if torch.device(device).type != "cpu":
        return "bfloat16"

    def seconds(dtype: torch.dtype) -> float:
        layer = nn.Conv2d(64, 64, 3, padding=1, dtype=dtype).to(memory_format=torch.channels_last)
        images = torch.ones(64, 64, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
        timer = Timer("layer(images).sum().backward()", globals={"layer": layer, "images": images})
        timer.timeit(1)
        return min(timer.repeat(5, 1))

    return "bfloat16" if seconds(torch.bfloat16) < seconds(torch.float32) else "float32"


def autocast(device: str) -> torch.autocast:
    """The context in which a forward pass has the precision of a training."""
    return torch.autocast(torch.device(device).type, torch.bfloat16,
                          enabled=arithmetic(device) == "bfloat16")


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Take depthwise convolutions out of autocast, in place.

    In bfloat16, CPUs compute the gradients of their weights five times more slowly.
    """
    def in_float32(forward: Callable[[Tensor], Tensor]) -> Any:
        def outside_autocast(batch: Tensor) -> Tensor:
            with torch.autocast(batch.device.type, enabled=False):
                return forward(batch.float())
        return outside_autocast

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            layer.forward = in_float32(layer.forward)


def augment(images: Tensor, shift: int, generator: torch.Generator, side: int = 32) -> Tensor:
    """Mirror images at random, and crop them at random places after continuing them by reflection.

    Args:
        images: (B, 3, S, S).
        shift: by how many pixels they are continued.
        generator: torch.Generator of the random choices.
        side: of the crops, in pixels.

    Returns:
        (B, 3, side, side).
    """
    count = len(images)
    mirrored = torch.rand(count, generator=generator) < 0.5
    padded = F.pad(
        torch.where(mirrored.view(-1, 1, 1, 1).to(images.device), images.flip(-1), images),
        (shift,) * 4, "reflect")
    corners = torch.randint(
        0, padded.shape[-1] - side + 1, (2, count, 1), generator=generator).to(images.device)
    rows, columns = corners + torch.arange(side, device=images.device)
    image = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2)


def crop_and_resize(
    images: Tensor, area: float, generator: torch.Generator, side: int,
) -> Tensor:
    """Mirror images at random, and resize crops of random sizes at random places (bilinear).

    Args:
        images: (B, 3, S, S).
        area: the smallest share of an image's area that a crop keeps; shares are uniform from
            there to 1, and crops are squares.
        generator: torch.Generator of the random choices.
        side: of the results, in pixels.

    Returns:
        (B, 3, side, side).
    """
    mirrored, share, *centre = torch.rand(4, len(images), generator=generator)
    half = (area + (1 - area) * share).sqrt()
    across = half * (1 - 2 * (mirrored < 0.5))
    x, y = (2 * (1 - half) * place - (1 - half) for place in centre)
    none = torch.zeros(len(images))
    crops = torch.stack([across, none, x, none, half, y], 1).view(-1, 2, 3).to(images.device)
    grid = F.affine_grid(crops, [len(images), 3, side, side], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def varied(
    images: Tensor, settings: Training, generator: torch.Generator, side: int,
) -> Tensor:
    """Random crops as a training has them, see `augment` and `crop_and_resize`."""
    if settings.area == 1:
        return augment(images, settings.shift, generator, side)
    return crop_and_resize(images, settings.area, generator, side)


def train(name: str, images: ImageSet, work: str | Path, device: str) -> nn.Module:
    """Train a model on an ImageSet, resuming from the folder `work`.

    Args:
        name: <architecture>-<training>-<seed>, such as "vgg-robust-0".
        images: the training images, with labels; at least of the side that the network takes.
        work: folder of the checkpoint, which is saved after every epoch.
        device: where to train.

    Returns:
        The network, in float32 on the CPU.
    """
    architecture, training, seed = name.rsplit("-", 2)
    settings, seed, part = training_of(architecture, training), int(seed), zoo.part_of(name)
    torch.manual_seed(seed)
    network = part.architectures[architecture]().to(device).to(memory_format=torch.channels_last)
    if torch.device(device).type == "cpu":
        keep_freed_memory()
        keep_depthwise_in_float32(network)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1)
                 for values in (part.mean, part.std))
    optimizer = OPTIMIZERS[architecture](network.parameters(), settings.decay)
    per_epoch = len(images) // settings.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(  # rises for a fifth of the steps, then falls
        optimizer, optimizer.defaults["lr"], total_steps=settings.epochs * per_epoch,
        pct_start=0.2, anneal_strategy="linear", cycle_momentum=False)
    checkpoint = Path(work) / f"{name}.pt"
    done = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        done = saved["epoch"]

    def classify(batch: Tensor) -> Tensor:
        with autocast(device):
            return network(((batch - mean) / std).contiguous(
                memory_format=torch.channels_last)).float()

    for epoch in range(done, settings.epochs):
        side = (3 * epoch < 2 * settings.epochs and settings.early_side) or part.side
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        order = torch.randperm(len(images), generator=generator)[
            :per_epoch * settings.batch_size].view(per_epoch, -1)
        total = correct = 0
        for chosen in (bar := tqdm(order, f"{name} epoch {epoch + 1}/{settings.epochs}",
                                   mininterval=5, disable=None)):
            batch = varied(images.images[chosen].to(device), settings, generator, side)
            labels = images.labels[chosen].to(device)
            network.eval().requires_grad_(False)
            # Without a perturbation it draws numbers, too, so that all trainings of a seed see
            # the same images in the same order.
            batch = attack(
                classify, batch, labels, epsilon=settings.epsilon, steps=settings.attack_steps,
                step_size=settings.step * settings.epsilon, start=settings.start,
                norm=settings.norm, generator=generator)
            network.train().requires_grad_(True)
            logits = classify(batch)
            optimizer.zero_grad()
            F.cross_entropy(logits, labels).backward()
            optimizer.step()
            schedule.step()
            correct += (logits.detach().argmax(1) == labels).sum()
            total += len(labels)
        bar.write(f"{name} epoch {epoch + 1}/{settings.epochs}: "
                  f"training accuracy {int(correct) / total:.3f}")
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(),
                 "schedule": schedule.state_dict(), "epoch": epoch + 1}
        save_atomically(checkpoint, lambda path, state=state: torch.save(state, path))
    return network.float().cpu()


def save_atomically(path: Path, save: Callable[[Path], Any]) -> None:
    """Call `save` with the path of a temporary file, which then takes the place of `path`.

    So no file is ever incomplete (see `metalib.store.atomic_write`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        save(Path(temporary))


def accuracy(
    model: Model, images: ImageSet, against: dict[str, Any] | None = None, batch_size: int = 100,
) -> float:
    """Share of an ImageSet that a model classifies correctly, see `is_right`."""
    return is_right(model, images, against, batch_size).double().mean().item()


def is_right(
    model: Model, images: ImageSet, against: dict[str, Any] | None = None, batch_size: int = 100,
) -> Tensor:
    """Which of the images of an ImageSet a model classifies correctly, (N,).

    With `against`, arguments of `attack`, an image counts only if it is classified correctly after
    that attack, too. It follows gradients in the precision of a training (see `arithmetic`); what
    it finds is classified in float32.
    """
    def classify(batch: Tensor) -> Tensor:
        with autocast(str(model.device)):
            return model(batch).float()

    generator = torch.Generator().manual_seed(0)
    found = []
    for batch, labels in zip(images.images.split(batch_size), images.labels.split(batch_size)):
        batch, labels = batch.to(model.device), labels.to(model.device)
        with torch.no_grad():
            right = model(batch).argmax(1) == labels
        if against and right.any():  # only what is classified correctly needs an attack
            attacked = attack(
                classify, batch[right], labels[right], generator=generator, **against)
            with torch.no_grad():
                right[right.clone()] = model(attacked).argmax(1) == labels[right]
        found.append(right.cpu())
    return torch.cat(found)


def cross_check(
    model: Model, images: ImageSet, against: dict[str, Any], ours: Tensor,
) -> dict[str, Any]:
    """Robust accuracy by foolbox's PGD with the same budget, next to ours: an entry of the card.

    Args:
        model, images, against: as in `is_right`.
        ours: what that gave for these images, (N,).
    """
    import foolbox
    from foolbox.models.pytorch import PyTorchModel
    kind = {"L2": foolbox.attacks.L2PGD, "Linf": foolbox.attacks.LinfPGD}[against["norm"]]
    theirs = kind(steps=against["steps"], abs_stepsize=against["step_size"])
    torch.manual_seed(0)
    misled = [theirs(PyTorchModel(model, bounds=(0, 1), device=model.device),
                     batch.to(model.device), labels.to(model.device),
                     epsilons=against["epsilon"])[2].sum().item()
              for batch, labels in zip(images.images.split(500), images.labels.split(500))]
    return {"attack": f"{against['norm']}PGD of foolbox {foolbox.__version__}",
            "images": len(images),
            "value": (len(images) - sum(misled)) / len(images),
            "ours": ours.double().mean().item()}


def publish(
    name: str, network: nn.Module, train_images: ImageSet, test_images: ImageSet, data: str,
    device: str,
) -> None:
    """Write weights, card and null distributions of a trained network.

    Everything is measured on the stored, half-precision weights.

    Args:
        name: as in `train`.
        network: from `train`.
        train_images, test_images: the images that it was trained on, and those to measure it on.
        data: what the card says about this copy of the data.
        device: where to measure; for the card, also where it was trained.
    """
    architecture, training, seed = name.rsplit("-", 2)
    weights, card_path = zoo.FOLDER / f"{name}.safetensors", zoo.FOLDER / f"{name}.json"
    tensors = {key: value.half().contiguous() if value.is_floating_point() else value
               for key, value in network.state_dict().items()}
    save_atomically(weights, lambda path: save_file(tensors, path))
    card = {
        "name": f"zoo/{name}", "architecture": architecture, "training": training,
        "seed": int(seed),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "recipe": recipe(architecture, training),
        "precision": arithmetic(device),
        "data": {"copy": data, "train": f"{len(train_images)} images of {train_images.name}",
                 "train_sha256": train_images.sha256,
                 "test": f"{len(test_images)} images of {test_images.name}",
                 "test_sha256": test_images.sha256},
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    write_card = lambda path: path.write_text(json.dumps(card, indent=2) + "\n")  # noqa: E731
    save_atomically(card_path, write_card)
    model = load_model(f"zoo/{name}", device=device)
    card["test_accuracy"] = accuracy(model, test_images)
    against = pgd20(name)
    held = is_right(model, test_images, against)
    card["robust_accuracy"] = {
        "value": held.double().mean().item(), "attack": f"PGD-20, {against['norm']}",
        **{key: against[key] for key in ("epsilon", "steps", "step_size", "start")}}
    if importlib.util.find_spec("foolbox"):
        some = stratified(test_images.labels, min(1000, len(test_images)))
        card["robust_accuracy"]["cross_check"] = cross_check(
            model, test_images[some], against, held[some])
    save_atomically(card_path, write_card)

    distributions = [null_distribution(model, stage, test_images, keep_copies=True).thinned()
                     for stage in model.stages]
    save_nulls(zoo.null_file(name), distributions, {"weights_sha256": card["sha256"]})
    print(f"{name}: {100 * card['test_accuracy']:.2f} % correct, "
          f"{100 * card['robust_accuracy']['value']:.2f} % under attack")


def images_of(part: zoo.Part, data: str) -> tuple[ImageSet, ImageSet]:
    """The training and test images of a part of the zoo.

    Photographs are loaded for training with the margin that random crops need, an eighth of the
    side; of the test photographs it is cut off.

    Raises:
        ValueError: images of other classes.
    """
    small = part.side == 32
    larger = part.side if small else part.side * 9 // 8
    found = (load_images(data, split="train", size=larger),
             load_images(data, split="test", size=part.side, crop=part.side / larger))
    for images in found:
        if places(images.class_names, part.class_names) != list(range(len(part.class_names))):
            raise ValueError(f"{images.name} has not the classes {', '.join(part.class_names)}")
    return found


def _is_known(name: str) -> bool:
    parts = name.rsplit("-", 2)
    return (len(parts) == 3 and parts[0] in {*ARCHITECTURES, *PHOTO_ARCHITECTURES}
            and parts[1] in TRAININGS and parts[2].isdigit())


def main() -> None:
    """The command line, see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="<architecture>-<training>-<seed>, such as vgg-robust-0")
    for option, names in (("--all", ZOO), ("--photos", PHOTO_ZOO)):
        parser.add_argument(option, action="store_const", const=names, default=(),
                            help=f"train what is missing of {', '.join(names)}")
    parser.add_argument("--data", default="cifar10",
                        help="cifar10, or folder:PATH with the folders train and test")
    parser.add_argument("--copy", help="what the cards say about this copy of the data")
    parser.add_argument("--work", type=Path, default=Path(".cache/zoo"),
                        help="where checkpoints of trainings are kept")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    try:
        device = str(device_of(arguments.device))
    except ValueError as error:
        parser.error(f"--device: {error}")
    names = arguments.names or [name for name in (*arguments.all, *arguments.photos)
                                if not zoo.null_file(name).is_file()]
    for name in names:
        if not _is_known(name):
            known = [*ARCHITECTURES, *PHOTO_ARCHITECTURES]
            parser.error(f"{name!r} is not <architecture>-<training>-<seed> with an architecture "
                         f"of {', '.join(known)} and a training of {', '.join(TRAININGS)}")
    if not names:
        parser.exit(message="nothing to train: "
                            "name models, or use --all to train what is missing\n")
    parts = {zoo.part_of(name).side: zoo.part_of(name) for name in names}
    if len(parts) > 1:
        parser.error("networks of CIFAR-10 and of photographs are trained apart, on data of each")
    part, = parts.values()
    train_images, test_images = images_of(part, arguments.data)
    for name in names:
        network = train(name, train_images, arguments.work, device)
        publish(name, network, train_images, test_images, arguments.copy or train_images.name,
                device)


if __name__ == "__main__":
    main()
