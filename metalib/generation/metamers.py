"""What `generate` returns, and how it is kept on disk.

    metamers.plot()                    # references above metamers
    metamers.save("run")               # run/metamers.safetensors, written as a whole
    metamers = Metamers.load("run")
    metamers[2:4] + metamers[7]        # some of them, and others behind them
    export(metamers, "run")            # for people: run/recipe.json, run/images/0000.png, ...

The file holds one tensor for each field of `Metamers`; those of an unfinished run begin with
`unfinished/`. The entry `about` of its header is JSON: recipe, status, seconds, and the SHA-256 of
the tensors, by which an altered file is noticed.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from metalib.data import rows_at, to_bytes
from metalib.previews import preview
from metalib.store import atomic_write, save_tensors, sha256
from metalib.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "metamers.safetensors"
# which axis of a field counts the images
AXES = {"images": 0, "references": 0, "starts": 0, "decoded": 0, "evaluations": 0, "loss": 1,
        "frames": 1, "member_loss": 2}


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


class Progress(NamedTuple):
    """What the `callback` of `generate` is called with: where a batch stands.

    Attributes:
        step: the number of evaluations done.
        rows: (b,) int64, the places of the batch's images among all references.
        images: (b, 3, H, W) in [0, 1], as they are now, rounded to 8 bits; those that are done, as
            they were when they left the batch. A copy, on the device of the run.
        loss: (b,), at the latest evaluation, thus of the images before the last step. NaN for
            those that left the batch before.
    """

    step: int
    rows: Tensor
    images: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Metamers:
    """Images, the references whose activations they were made to match, and how they were made.

    Only `images` and `references` are needed to judge a set of images that was made elsewhere.

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1], rounded to 8 bits: the image that is judged is the
            image that would be stored.
        references: (B, 3, H, W) float32 in [0, 1].
        starts: (B, 3, H, W), the starting images.
        decoded: (B, 3, H, W), of methods with a decoder, what it makes of the references'
            activations as they are: a control.
        loss: (T, B), the loss (see `generate`) at each gradient evaluation; NaN after an image
            has stopped.
        member_loss: (T, N, B), the loss of each of the N models by itself.
        evaluations: (B,) int64, gradient evaluations used for each image.
        status: why each image stopped: "steps" (all were done), "passed" (the criterion of
            `stop`), "non-finite" (its loss or gradient was not finite; the image is the last one
            before that) or "interrupted" (also by `pause`).
        seconds: wall-clock time of the loop.
        recipe: a plain dict of all that is needed to repeat the run.
        frames: (S, B, 3, H, W) uint8, the `history` as it is kept, with `store_every`.
        history_steps: (S,) int64, after how many gradient evaluations each of these was taken.
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
    frames: Tensor | None = None
    history_steps: Tensor | None = None
    unfinished: dict[int, Position] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    decoded: Tensor | None = None

    @property
    def interrupted(self) -> bool:
        """Whether the run was interrupted (Ctrl-C) or paused before all images were done."""
        return "interrupted" in self.status

    @property
    def history(self) -> Tensor | None:
        """The images on their way, (S, B, 3, H, W) float32 in [0, 1], after `history_steps`.

        They are rounded to 8 bits, as `images` are. An image that left the batch, or has not come
        as far, is shown as it was last. This is made of `frames` in each call, and takes four
        times their memory. None without `store_every`.
        """
        return None if self.frames is None else self.frames.float() / 255

    def plot(
        self, verdict: Any = None, *, n: int = 20, labels: Any = None,
    ) -> "Figure":
        """A figure of the references, each with its metamer below it.

        Below a metamer stands whether it passed. Without a verdict, its last loss does, or why it
        stopped before all steps were done. Above a reference stands its label, the name of its
        file, or its number.

        Args:
            verdict: the table of `judge` of these metamers, or whether each passed, (B,) bool.
            n: how many to show, from the first on; the figure says if there are more.
            labels: (B,), a text for each; or the ImageSet of the references, for their classes.

        Returns:
            matplotlib.figure.Figure. A notebook shows it where it is the last line of a cell; in a
            script, `metamers.plot().savefig("metamers.png")`. pyplot does not know of it.

        Raises:
            ValueError: a verdict or labels of another number of images, n below 1, or no images.

        Example:
            >>> from metalib import load_images
            >>> images = load_images("cifar10-samples", n=3)
            >>> figure = Metamers(images.images.flip(-1), images.images).plot([True, True, False])
            >>> [mark.get_text() for mark in figure.axes[0].texts]
            ['✓ passed', '✓ passed', '✕ failed']
        """
        from metalib.plots import metamers_below_references  # metalib imports without matplotlib
        return metamers_below_references(self, verdict, n=n, labels=labels)

    def save(self, folder: str | Path) -> None:
        """As the function `save` of this module."""
        save(self, folder)

    @staticmethod
    def load(folder: str | Path) -> "Metamers":
        """As the function `load` of this module."""
        return load(folder)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> "Metamers":
        """Some of the metamers, with all that is known of each.

        The time is shared out equally. A part of an unfinished run cannot be resumed: its images
        are as they were, and `unfinished` is left out.

        Args:
            index: an integer (which gives one metamer, B = 1), a slice, or a list, array or tensor
                of integers or booleans, such as `table["passed"]`.

        Raises:
            IndexError: an image that is not there, or what is no index.
        """
        rows = rows_at(index, len(self))
        changed: dict[str, Any] = {
            f.name: tuple(value[row] for row in rows.tolist()) for f in fields(self)
            if isinstance(value := getattr(self, f.name), tuple) and value}
        for name, axis in AXES.items():
            if (value := getattr(self, name)) is not None:
                changed[name] = value.index_select(axis, rows.to(value.device))
        recipes = _recipe_of_each(self)
        return replace(self, **changed, recipe=_common([recipes[row] for row in rows.tolist()]),
                       seconds=self.seconds * len(rows) / max(1, len(self)), unfinished={})

    def __iter__(self):
        return (self[number] for number in range(len(self)))

    def __add__(self, other: "Metamers") -> "Metamers":
        """These metamers and then others, see `concatenate`."""
        return Metamers.concatenate([self, other]) if isinstance(other, Metamers) else (
            NotImplemented)

    @staticmethod
    def concatenate(parts: Iterable["Metamers"]) -> "Metamers":
        """Metamers of the same models and stages, one behind the other.

        A recipe that all share stays as it is. Otherwise the recipe keeps what is common, and
        under "parts" a list of what is not, each with the numbers of its "images". Losses of
        shorter runs end in NaN. What one of the parts does not have, the whole does not have:
        starts, files, ... and a history, if taken after other steps. Seconds add up. The whole
        cannot be resumed: `unfinished` is left out.

        Raises:
            ValueError: no parts, or what is no Metamers; images of other shapes; metamers of other
                models or stages.
        """
        parts = list(parts)
        _check_alike(parts)
        steps = {None if part.history_steps is None else tuple(part.history_steps.tolist())
                 for part in parts}
        if len(steps) > 1:
            parts = [replace(part, frames=None, history_steps=None) for part in parts]
        joined: dict[str, Any] = {"history_steps": parts[0].history_steps}
        for f in fields(Metamers):
            values = [getattr(part, f.name) for part in parts]
            if isinstance(values[0], tuple):
                joined[f.name] = sum(values, ()) if all(values) else ()
            elif f.name in AXES and all(value is not None for value in values):
                joined[f.name] = _joined(values, AXES[f.name])
        return Metamers(**joined, seconds=sum(part.seconds for part in parts),
                        recipe=_common(sum(map(_recipe_of_each, parts), [])))

    def __repr__(self):
        counts = ", ".join(f"{self.status.count(status)} {status}"
                           for status in dict.fromkeys(self.status))
        many = len(self.recipe.get("models", ())) > 3
        made = "".join(f" {word} {len(self.recipe[key]) if many else self.recipe[key]}"
                       f"{f' {key}' * many}" for word, key in (("of", "models"), ("at", "stages"))
                       if key in self.recipe)
        made += f" by {self.recipe['optimizer']}" if "optimizer" in self.recipe else ""
        return f"<{len(self)} metamers{made}: {counts or 'made elsewhere'}>"

    def _repr_html_(self) -> str:
        return preview(repr(self), [self.references, self.images])


def save(metamers: Metamers, folder: str | Path) -> None:
    """Save metamers, finished or not, to a folder, which is made where it is missing.

    What was there stays until all is written.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is as it was.
    """
    tensors = {f.name: value.clone(memory_format=torch.contiguous_format) for f in fields(Metamers)
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
    the images. Pictures of an earlier, larger export are removed; other files stay.

    Raises:
        OSError: the disk is full or the folder cannot be written; each file is whole, old or new.
    """
    folder = Path(folder)
    for name in ("images", "references"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(getattr(metamers, name)):
            with atomic_write(folder / name / f"{number:04}.png") as temporary:
                to_pil_image(to_bytes(image)).save(temporary, "PNG")
        for path in (folder / name).glob("*.png"):
            if (path.stem.isdecimal() and path.stem == f"{int(path.stem):04}"
                    and int(path.stem) >= len(metamers)):
                path.unlink()
    with atomic_write(folder / "recipe.json") as temporary:
        files = {"files": metamers.files} if metamers.files else {}
        Path(temporary).write_text(json.dumps(metamers.recipe | files, indent=1) + "\n")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items()
            if name.startswith(prefix)}


# --- Parts and wholes ---------------------------------------------------------------------------

def _recipe_of_each(metamers: Metamers) -> list[dict]:
    """The recipe of each image."""
    recipes = [metamers.recipe] * len(metamers)
    if "parts" in metamers.recipe:
        common = {key: value for key, value in metamers.recipe.items() if key != "parts"}
        for part in metamers.recipe["parts"]:
            own = common | {key: value for key, value in part.items() if key != "images"}
            for row in part["images"]:
                recipes[row] = own
    return recipes


def _common(recipes: Sequence[dict]) -> dict:
    """One recipe of those of each image, see `Metamers.concatenate`."""
    distinct = []
    for recipe in recipes:
        if recipe not in distinct:
            distinct.append(recipe)
    if len(distinct) < 2:
        return distinct[0] if distinct else {}
    common = {key: value for key, value in distinct[0].items()
              if all(key in other and other[key] == value for other in distinct)}
    return common | {"parts": [
        {"images": [row for row, recipe in enumerate(recipes) if recipe == one],
         **{key: value for key, value in one.items() if key not in common}} for one in distinct]}


def _check_alike(parts: Sequence[Metamers]) -> None:
    """Raise a ValueError that says what differs, unless metamers fit behind each other."""
    if not parts or not all(isinstance(part, Metamers) for part in parts):
        raise ValueError("concatenate takes a list of at least one Metamers, not "
                         f"{[type(part).__name__ for part in parts]}")
    for one, other in ((parts[0], part) for part in parts[1:]):
        for name in ("images", "references"):
            shapes = [tuple(getattr(part, name).shape[1:]) for part in (one, other)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"the {name} differ in shape, {shapes[0]} and {shapes[1]}: "
                                 "keep these metamers apart")
        for key in ("models", "stages", "fingerprints"):
            made = [part.recipe.get(key) for part in (one, other)]
            if None not in made and made[0] != made[1]:
                what = (f"{key} differ, {made[0]} and {made[1]}" if key != "fingerprints"
                        else f"models are called {one.recipe['models']} alike, but differ in "
                             "weights, normalisation or code")
                raise ValueError(f"the {what}: keep these metamers apart")


def _joined(values: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors behind each other along an axis; losses of shorter runs end in NaN."""
    if axis and values[0].is_floating_point():
        longest = max(len(value) for value in values)
        values = [torch.cat([value, value.new_full((longest - len(value), *value.shape[1:]),
                                                   torch.nan)]) for value in values]
    return torch.cat(list(values), axis)
