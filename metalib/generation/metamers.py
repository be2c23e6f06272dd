"""What `generate` returns, and how it is kept on disk.

    save(metamers, "run")       # run/metamers.safetensors, written as a whole
    metamers = load("run")
    export(metamers, "run")     # for people: run/recipe.json, run/images/0000.png, ...

The file holds one tensor for each field of `Metamers`; those of an unfinished run begin with
`unfinished/`. The entry `about` of its header is JSON: recipe, status, seconds, and the SHA-256 of
the tensors, by which an altered file is noticed.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from metalib.store import atomic_write, save_tensors, sha256
from metalib.version import __version__

FILE = "metamers.safetensors"


class Position(NamedTuple):
    """Where a batch stands between two gradient evaluations: all that is needed to go on.

    Attributes:
        step: the number of evaluations done.
        images: (b, 3, H, W), those that have not left the batch.
        state: what the update rule keeps, tensors (b, ...).
        rows: (b,) int64, the places of these images in the batch.
        finite: (b,) bool, those whose losses and gradients have all been finite.
    """

    step: int
    images: Tensor
    state: dict[str, Tensor]
    rows: Tensor
    finite: Tensor

    def to(self, device: torch.device | str, copy: bool = False) -> "Position":
        """The same position on a device; with `copy`, sharing no memory with this one's state."""
        state = {name: value.to(device, copy=copy) for name, value in self.state.items()}
        return Position(self.step, self.images.to(device), state, self.rows.to(device),
                        self.finite.to(device))


@dataclass(frozen=True)
class Metamers:
    """Images, the references whose activations they were made to match, and how they were made.

    Only `images` and `references` are needed to judge a set of images that was made elsewhere.

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1], rounded to 8 bits: the image that is judged is the
            image that would be stored.
        references: (B, 3, H, W) float32 in [0, 1].
        starts: (B, 3, H, W), the starting images.
        loss: (T, B), the loss (see `generate`) at each gradient evaluation; NaN after an image
            has stopped.
        member_loss: (T, N, B), the loss of each of the N models by itself.
        evaluations: (B,) int64, gradient evaluations used for each image.
        status: why each image stopped: "steps" (all were done), "passed" (the criterion of
            `stop`), "non-finite" (its loss or gradient was not finite; the image is the last one
            before that) or "interrupted" (also by `pause`).
        seconds: wall-clock time of the loop.
        recipe: a plain dict of all that is needed to repeat the run.
        unfinished: where an interrupted run stands, for `generate(..., resume=...)`: the Position
            of each batch that was begun and not ended, by the number of its first image.
        files: (B,) names of the files of the references, as in `ImageSet`; empty where unknown.
    """

    images: Tensor
    references: Tensor
    starts: Tensor | None = None
    loss: Tensor | None = None
    member_loss: Tensor | None = None
    evaluations: Tensor | None = None
    status: tuple[str, ...] = ()
    seconds: float = float("nan")
    recipe: dict = field(default_factory=dict)
    unfinished: dict[int, Position] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether the run was interrupted (Ctrl-C) or paused before all images were done."""
        return "interrupted" in self.status

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self):
        counts = ", ".join(f"{self.status.count(status)} {status}"
                           for status in dict.fromkeys(self.status))
        made = (f" of {self.recipe['models']} at {self.recipe['stages']} by "
                f"{self.recipe['optimizer']}" if self.recipe else "")
        return f"<{len(self)} metamers{made}: {counts or 'made elsewhere'}>"


def save(metamers: Metamers, folder: str | Path) -> None:
    """Save metamers, finished or not, to a folder, which is made where it is missing.

    What was there stays until all is written.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is as it was.
    """
    tensors = {f.name: value.contiguous() for f in fields(Metamers)
               if isinstance(value := getattr(metamers, f.name), Tensor)}
    for first, position in metamers.unfinished.items():
        parts = {"images": position.images, "rows": position.rows, "finite": position.finite}
        parts |= {f"state/{name}": value for name, value in position.state.items()}
        tensors |= {f"unfinished/{first}/{name}": value.contiguous()
                    for name, value in parts.items()}
    about = {"recipe": metamers.recipe, "status": metamers.status, "seconds": metamers.seconds,
             "unfinished": {first: at.step for first, at in metamers.unfinished.items()},
             "files": metamers.files,
             "sha256": sha256(tensors), "metalib": __version__}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / FILE, tensors, {"about": json.dumps(about)})


def load(folder: str | Path) -> Metamers:
    """Metamers as they were saved; an unfinished run goes on with `generate(..., resume=...)`.

    Raises:
        FileNotFoundError: nothing was saved there.
        ValueError: the file is truncated or was altered.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"there are no metamers in {folder}: {FILE} is missing")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        intact = about["sha256"] == sha256(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); "
                         "delete it and generate these metamers again") from error
    if not intact:
        raise ValueError(f"{path} was altered: its content is not that of its checksum; "
                         "generate these metamers again")
    unfinished = {}
    for first, step in about["unfinished"].items():
        parts = _below(tensors, f"unfinished/{first}/")
        if "rows" in parts:  # checkpoints of 0.1 are laid out differently, and are not resumed
            unfinished[int(first)] = Position(
                step, parts["images"], _below(parts, "state/"), parts["rows"], parts["finite"])
    return Metamers(**{name: value for name, value in tensors.items() if "/" not in name},
                    status=tuple(about["status"]), seconds=about["seconds"],
                    recipe=about["recipe"], unfinished=unfinished,
                    files=tuple(about.get("files", ())))


def export(metamers: Metamers, folder: str | Path) -> None:
    """Write what people and other programs read: the recipe as JSON, all images as PNG files.

    Where the files of the references are known, `files` in the JSON names them, in the order of
    the images.
    """
    folder = Path(folder)
    for name in ("images", "references"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(getattr(metamers, name)):
            with atomic_write(folder / name / f"{number:04}.png") as temporary:
                to_pil_image((image * 255).round().to(torch.uint8)).save(temporary, "PNG")
    with atomic_write(folder / "recipe.json") as temporary:
        files = {"files": metamers.files} if metamers.files else {}
        Path(temporary).write_text(json.dumps(metamers.recipe | files, indent=1) + "\n")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items()
            if name.startswith(prefix)}
