"""Metamers on disk: one safetensors file that holds all of them, with the recipe in its header.

    save(metamers, "run")       # run/metamers.safetensors, written whole or not at all
    metamers = load("run")
    export(metamers, "run")     # for people: run/recipe.json, run/images/0000.png, run/references/0000.png, ...

Tensors have the names of the fields of `Metamers`; those of an unfinished run begin with `unfinished/`. The header's entry
`about` is JSON: recipe, status, seconds, and the SHA-256 of the tensors, by which an altered file is noticed.
"""
import hashlib
import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torchvision.transforms.functional import to_pil_image

from metalib.generate import Metamers
from metalib.version import __version__

FILE = "metamers.safetensors"


def save(metamers, folder):
    """Save metamers, finished or not, to a folder, which is made where it is missing. What was there stays until all is written.

    Raises:
        OSError: the disk is full or the folder cannot be written; the file that was there is as it was.
    """
    tensors = {f.name: value.contiguous() for f in fields(Metamers)
               if isinstance(value := getattr(metamers, f.name), torch.Tensor)}
    numbers = {}
    for first, position in metamers.unfinished.items():
        for key, value in {**position, **{f"state/{name}": value for name, value in position["state"].items()}}.items():
            if isinstance(value, torch.Tensor):
                tensors[f"unfinished/{first}/{key}"] = value.contiguous()
        numbers[str(first)] = position["step"]
    about = {"recipe": metamers.recipe, "status": metamers.status, "seconds": metamers.seconds, "unfinished": numbers,
             "sha256": sha256(tensors), "metalib": __version__}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / FILE) as temporary:
        safetensors.torch.save_file(tensors, temporary, {"about": json.dumps(about)})


def load(folder):
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
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        whole = about["sha256"] == sha256(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and generate these metamers again") from error
    if not whole:
        raise ValueError(f"{path} was altered: its content is not that of its checksum; generate these metamers again")
    unfinished = {}
    for first, step in about["unfinished"].items():
        begin = f"unfinished/{first}/"
        own = {name.removeprefix(begin): value for name, value in tensors.items() if name.startswith(begin)}
        state = {name.removeprefix("state/"): value for name, value in own.items() if name.startswith("state/")}
        unfinished[int(first)] = {"step": step, "images": own["images"], "state": state, "here": own["here"], "fine": own["fine"]}
    return Metamers(**{name: value for name, value in tensors.items() if "/" not in name}, status=tuple(about["status"]),
                    seconds=about["seconds"], recipe=about["recipe"], unfinished=unfinished)


def export(metamers, folder):
    """Write what people and other programs read: the recipe as JSON, metamers and references as PNG files."""
    folder = Path(folder)
    for name in ("images", "references"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(getattr(metamers, name)):
            with written_whole(folder / name / f"{number:04}.png") as temporary:
                to_pil_image((image * 255).round().to(torch.uint8)).save(temporary, "PNG")
    with written_whole(folder / "recipe.json") as temporary:
        Path(temporary).write_text(json.dumps(metamers.recipe, indent=1) + "\n")


class written_whole:  # noqa: N801, a context manager
    """Gives the name of a temporary file beside `path`, which takes its place when all was written, and is removed otherwise."""

    def __init__(self, path):
        self.path = Path(path)

    def __enter__(self):
        handle, self.temporary = tempfile.mkstemp(prefix=f".{self.path.name}-", dir=self.path.parent)
        os.close(handle)
        return self.temporary

    def __exit__(self, kind, error, _traceback):
        if kind is None:
            with open(self.temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(self.temporary, 0o644)
            os.replace(self.temporary, self.path)
        else:
            Path(self.temporary).unlink(missing_ok=True)


def sha256(tensors):
    """Hash of a dict of tensors: names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes() if tensors[name].ndim
                      else str(tensors[name].item()).encode())
    return digest.hexdigest()
