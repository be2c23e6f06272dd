"""Where data lie, and the pictures of a folder: which files, in which order, of which classes."""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from metalib.notices import warn

PICTURES: set[str] = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".pgm", ".ppm",
                      ".webp", ".tif", ".tiff"}
OPTIONAL: set[str] = {".avif", ".heic", ".heif"}  # where Pillow, or a plug-in of it, reads them
SYSTEM: set[str] = {"__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir",
                    "$recycle.bin", "system volume information", "lost+found"}
SPLITS: set[str] = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}


def data_folder() -> Path:
    """The folder of data: the environment variable METALIB_DATA, or ~/.cache/metalib."""
    return Path(os.environ.get("METALIB_DATA") or Path.home() / ".cache" / "metalib").expanduser()


class Found(NamedTuple):
    """Picture files in their order.

    Attributes:
        paths: (B,) the files.
        files: (B,) their names in records.
        labels, class_names, name: as in `metalib.data.ImageSet`.
    """

    paths: list[Path]
    files: list[str]
    labels: Tensor
    class_names: tuple[str, ...]
    name: str


def pictures_in(top: Path, split: str | None, table: Path | None = None) -> Found:
    """All pictures below `top/split`. Sub-folders are their classes, unless a table has them.

    They are in alphabetical order of their classes, then in natural order of their file names
    ("2.png" before "10.png").

    Raises:
        ValueError: no pictures, or splits where classes should be.
        OSError: there is no such folder, or it may not be read.
    """
    folder = top / split if split else top
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; name the folder that it is in")
    if not folder.is_dir():
        inside = sorted(path.name for path in top.iterdir()) if split and top.is_dir() else []
        raise FileNotFoundError(f"there is no folder {folder}" + (
            f"; {top} holds {', '.join(inside[:10])}" if inside else ""))
    endings = PICTURES | OPTIONAL & set(Image.registered_extensions())
    paths, others = [], []
    for path in _files_below(folder):
        if path != table:
            (paths if path.suffix.lower() in endings else others).append(path)
    if not paths:
        raise ValueError(f"{folder} holds no pictures ({', '.join(sorted(endings))})"
                         + (f", but {_listed(others, folder)}" if others else ""))
    class_of = {path: _text(path.relative_to(folder).parts[0])
                if not table and path.parent != folder else "" for path in paths}
    class_names = tuple(sorted(set(class_of.values()) - {""}))
    if len(class_names) > 1 and {name.lower() for name in class_names} <= SPLITS:
        raise ValueError(f"{folder} holds splits, not classes: {', '.join(class_names)}; "
                         f"pass split={class_names[0]!r}")
    _warn_of(folder, paths, class_names, others)
    paths.sort(key=lambda path: (class_of[path], natural(path.relative_to(folder))))
    number = {"": -1, **{name: number for number, name in enumerate(class_names)}}
    labels = torch.tensor([number[class_of[path]] for path in paths])
    found = Found(paths, [_text(path.relative_to(top).as_posix()) for path in paths], labels,
                  class_names, f"folder:{_text(top.absolute().name)}")
    return _labelled(found, table) if table else found


def _labelled(found: Found, table: Path) -> Found:
    """The pictures with the classes that a table gives them, see `metalib.data.load_images`.

    Raises:
        ValueError: a table that is not understood, or that misses pictures.
        OSError: there is no such table, or it may not be read.
    """
    with open(table, encoding="utf-8-sig", newline="") as file:
        try:
            rows = [row for row in csv.reader(file) if row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{table} is no CSV file of labels ({error})") from error
    header = rows[0] if rows else []
    places = [header.index(name) if name in header else place
              for place, name in enumerate(("file", "class"))]
    if len(rows) < 2 or any(len(row) <= max(places) for row in rows) or places[0] == places[1]:
        raise ValueError(f"{table} has no two columns of files and classes below a header")
    class_of = {row[places[0]]: row[places[1]].strip() for row in rows[1:]}
    given = [class_of.get(name, class_of.get(Path(name).name, "")) for name in found.files]
    if missing := [name for name, of in zip(found.files, given) if not of]:
        raise ValueError(f"{table} has no class for {len(missing)} of {len(given)} pictures, such "
                         f"as {missing[0]}; add them, or remove the pictures")
    if all(of.isdecimal() for of in given):
        return found._replace(labels=torch.tensor([int(of) for of in given]), class_names=())
    names = tuple(sorted(set(given)))
    return found._replace(
        labels=torch.tensor([names.index(of) for of in given]), class_names=names)


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Files below a folder that are not hidden; links are followed, but not back up."""
    real = folder.resolve()
    if real in above:
        return
    for path in folder.iterdir():
        if not _is_seen(path):
            continue
        if path.is_dir():
            yield from _files_below(path, (*above, real))
        else:
            yield path


def _is_seen(path: Path) -> bool:
    """Whether a file or folder is a user's own, neither hidden nor the system's."""
    return not path.name.startswith(".") and path.name.lower() not in SYSTEM


def natural(path: Path) -> tuple[list[int | str], str]:
    """By this key numbers in names sort as numbers. Every second part is a number."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], str(path)


def _text(name: str) -> str:
    """A name that can be written as UTF-8, whatever its bytes on disk."""
    return name.encode("utf-8", "backslashreplace").decode()


def _warn_of(
    folder: Path, paths: list[Path], class_names: tuple[str, ...], others: list[Path],
) -> None:
    """Say in one line what of a folder was skipped, and where its classes may lie deeper."""
    folders = {_text(path.name) for path in folder.iterdir() if path.is_dir() and _is_seen(path)}
    empty = sorted(folders - {_text(path.relative_to(folder).parts[0]) for path in paths})
    notes = ([f"skipped {_listed(others, folder)}"] if others else []) + (
        [f"no pictures in {', '.join(empty)}"] if empty else [])
    if class_names and all(len(path.relative_to(folder).parts) > 2 for path in paths):
        notes.append(f"the classes are the folders {', '.join(class_names)}, whatever folders are "
                     f"in them; for those as classes, load folder:{folder / class_names[0]}")
    if notes:
        warn(f"{folder}: {'; '.join(notes)}")


def _listed(others: list[Path], folder: Path) -> str:
    """How many files are no pictures, their first names, and what to do about photographs."""
    names = sorted(str(path.relative_to(folder)) for path in others)
    some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    phone = any(path.suffix.lower() in OPTIONAL for path in others)
    return (f"{len(names)} other file{'s'[:len(names) > 1]} ({some})"
            + (", of which HEIC and AVIF are read once saved as JPEG or PNG" if phone else ""))
