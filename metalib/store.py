"""Metamers on disk: one safetensors file that holds all of them, with the recipe in its header.

    save(metamers, "run")       # run/metamers.safetensors, written whole or not at all
    metamers = load("run")
    export(metamers, "run")     # for people: run/recipe.json, run/images/0000.png, run/references/0000.png, ...

Tensors have the names of the fields of `Metamers`; those of an unfinished run begin with `unfinished/`. The header's entry
`about` is JSON: recipe, status, seconds, and the SHA-256 of the tensors, by which an altered file is noticed.

    save_table(table, "study.parquet", task="transfer_study", steps=60)
    table = load_table("study.parquet")
    table.attrs["provenance"]   # date, versions, hash of the code, hardware, and what was passed

A table is a Parquet file whose `attrs` hold the checksum of its rows and its provenance; `pandas.read_parquet` reads it.
"""
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import tempfile
import warnings
from dataclasses import fields
from pathlib import Path

import pandas as pd
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
        digest.update(tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint(model):
    """Hash of what decides what a Model computes: layers, weights, normalisation, stages and classes, not its name.

    Layers count by what they print: the code behind them is not seen.
    """
    return address_of(repr(model.module), model.stages, model.input_size, model.class_names, model.coarse_names,
                      sha256(model.state_dict()))


# --- Tables, and files that are named by what went into them ----------------------------------------------------------

def save_table(table, path, **about):
    """Save a table with its provenance, whole or not at all.

    Args:
        table: pandas.DataFrame.
        path: of a Parquet file, whose folder is made where it is missing.
        **about: plain values that are added to `provenance`, such as parameters.

    Raises:
        OSError: the folder cannot be written; a file that was there is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_table(table, path, {"provenance": provenance(**about)})


def load_table(path):
    """A table as `save_table` saved it, with its provenance in `table.attrs["provenance"]`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or was altered.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no table {path}; save one with metalib.store.save_table, or collect one of a sweep")
    try:
        return _read_table(path)
    except Exception as error:  # a reader of damaged bytes can raise anything
        raise ValueError(f"{path} is damaged or no table of metalib ({error}); make it again") from error


def provenance_table(table):
    """What a table that was loaded was made with, as a page shows it: a row for each entry, hashes by their first 12 digits."""
    about = {name: _brief(value) for name, value in table.attrs["provenance"].items()}
    return pd.Series(about).to_frame("the table read was made with").style.set_table_attributes('class="dataframe"')


def _brief(value):
    if isinstance(value, dict):
        return ", ".join(f"{name} {_brief(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "; ".join(_brief(one) for one in value)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", str(value))


def provenance(**about):
    """What a result was made with: date (UTC), versions, hash of the code, hardware, and whatever else is passed.

    Returns:
        dict of plain values.

    Example:
        >>> sorted(provenance(steps=60))
        ['code', 'date', 'hardware', 'steps', 'versions']
    """
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy", "pandas")}
    return {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {"metalib": __version__, "python": platform.python_version(), **libraries},
            "code": code_hash(), "hardware": _hardware(), **about}


@functools.cache
def code_hash():
    """SHA-256 of the package as it is on disk: names and content of its modules and of the bundled weights."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.glob("zoo/weights/*")]):
        digest.update(path.relative_to(package).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def _hardware():
    """Processor, cores and GPUs in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([f"{processor}, {os.cpu_count()} cores", *gpus])


def address_of(*parts):
    """A name for a result, by all that determines it: 40 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_described).encode()).hexdigest()[:40]


def _described(value):
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.cpu().contiguous().numpy().tobytes()).hexdigest()
    return [type(value).__name__, getattr(value, "__qualname__", None) or repr(value)]


class StoredFile:
    """A file named by its address. It appears as a whole or not at all, and is checked when it is first looked at."""
    ending = ""

    def __init__(self, folder, address, about):
        self.path, self.address, self.about = Path(folder) / f"{address}.{self.ending}", address, about

    def there(self):
        """Whether the result is on disk and whole. What is there but is not that result is set aside."""
        if not self.path.is_file():
            return False
        try:
            self.read()
        except Exception as error:  # a reader of damaged bytes can raise anything
            aside = self.path.with_name(f"{self.path.name}.damaged")
            os.replace(self.path, aside)
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"{self.path.name} is damaged or foreign ({reason}); it is now {aside.name}, and its content is computed "
                          "anew", RuntimeWarning, stacklevel=3)
            return False
        return True


class TableFile(StoredFile):
    """A table, with what is known `about` it in its `attrs`."""
    ending, table = "parquet", None

    def write(self, table, **about):
        self.about = {**self.about, **about}
        _write_table(table, self.path, {**self.about, "address": self.address})
        self.table = table.copy()

    def read(self):
        if self.table is None:
            table = _read_table(self.path)
            if table.attrs.get("address") != self.address:
                raise ValueError("it holds another result than its name says")
            self.about, table.attrs, self.table = table.attrs, {}, table
        return self.table


def _write_table(table, path, about):
    table = table.copy()
    table.attrs = {**about, "content": _rows_hash(table)}
    with written_whole(path) as temporary:
        table.to_parquet(temporary)


def _read_table(path):
    table = pd.read_parquet(path)
    if table.attrs.get("content") != _rows_hash(table):
        raise ValueError("its content was changed")
    return table


def _rows_hash(table):
    return hashlib.sha256(pd.util.hash_pandas_object(table).to_numpy().tobytes()).hexdigest()
