"""Files that are written as a whole, results that are named by what went into them, tables.

    with atomic_write("run/images.npy") as temporary: ...      # takes its place when complete
    file = TensorFile(folder, address_of(model, images, steps)) # or TableFile
    tensors = file.read() if file.is_stored() else None

    save_table(table, "study.parquet", task="transfer_study", steps=60)
    table = load_table("study.parquet")
    table.attrs["provenance"]   # date, versions, hash of the code, hardware, and what was passed

A table is a Parquet file whose `attrs` hold the checksum of its rows and its provenance;
`pandas.read_parquet` reads it. A column that Parquet would refuse or change, such as one of texts
and numbers, is kept as JSON: see `save_table`. Tensors are a safetensors file with their checksum
in the header.
"""

import abc
import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import safetensors.torch
import torch
from pandas.util import hash_pandas_object
from safetensors import SafetensorError, safe_open

from metalib.identity import fingerprint
from metalib.version import __version__

__all__ = [
    "StoredFile", "TableFile", "TensorFile", "address_of", "atomic_write", "code_hash",
    "fingerprint", "load_table", "provenance", "provenance_table", "save_table", "save_tensors",
    "sha256"]


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[str]:
    """Give the name of a temporary file, which takes the place of `path` when all is written.

    It lies beside `path`, and is removed if anything goes wrong.

    Raises:
        OSError: the disk is full or the folder cannot be written; an old file is as it was.
    """
    path, temporary = Path(path), ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror or error}"
        raise (OSError(error.errno, reason) if error.errno else OSError(reason)) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def save_tensors(path: str | Path, tensors: dict[str, torch.Tensor], header: dict) -> None:
    """Write a safetensors file with a header of texts, whole or not at all.

    Raises:
        OSError: the disk is full or the folder cannot be written; an old file is as it was.
    """
    with atomic_write(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, header)
        except SafetensorError as error:  # as which it reports what the system refuses
            raise OSError(f"{error}") from error


# --- Hashes -------------------------------------------------------------------------------------

def sha256(tensors: dict[str, torch.Tensor]) -> str:
    """Hash of a dict of tensors: names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def address_of(*parts: Any) -> str:
    """A name for a result, by all that determines it: 40 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=_described)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


@functools.cache
def code_hash() -> str:
    """SHA-256 of the package on disk: names and content of its modules and bundled weights."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("weights/*")]):
        name = path.relative_to(package).as_posix()
        digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.cpu().contiguous().numpy().tobytes()).hexdigest()
    return [type(value).__name__, getattr(value, "__qualname__", None) or repr(value)]


# --- Files that are named by what went into them ------------------------------------------------

class StoredFile(abc.ABC):
    """A file named by its address, written as a whole, and checked when it is first read.

    Args:
        folder: where it is, or will be.
        address: see `address_of`.
        about: plain values to be kept with the content.
    """

    ending = ""

    def __init__(self, folder: str | Path, address: str, about: dict | None = None):
        self.path = Path(folder) / f"{address}.{self.ending}"
        self.address, self.about = address, about or {}

    @abc.abstractmethod
    def read(self) -> Any:
        """The content. Raises an error if it is damaged or belongs to another address."""

    def is_stored(self) -> bool:
        """Whether the result is on disk and intact. Any other content is set aside."""
        if not self.path.is_file():
            return False
        try:
            self.read()
        except Exception as error:  # a reader of damaged bytes can raise anything
            aside = self.path.with_name(f"{self.path.name}.damaged")
            os.replace(self.path, aside)
            reason = " ".join(str(error).split())[:200]
            warnings.warn(
                f"{self.path.name} is damaged or foreign ({reason}); it is now {aside.name}, and "
                "its content is computed anew", RuntimeWarning, stacklevel=3)
            return False
        return True

    def _check(self, address: str | None, intact: bool) -> None:
        if address != self.address:
            raise ValueError("it holds another result than its name says")
        if not intact:
            raise ValueError("its content was changed")


class TensorFile(StoredFile):
    """A dict of tensors, with plain values `about` them."""

    ending = "safetensors"

    def __init__(self, folder: str | Path, address: str, about: dict | None = None):
        super().__init__(folder, address, about)
        self._content: str | None = None

    def write(self, tensors: dict[str, torch.Tensor], **about: Any) -> None:
        """Save tensors, whole or not at all."""
        self.about = {**self.about, **about}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        header = {"about": json.dumps(self.about, default=str), "address": self.address,
                  "content": sha256(tensors)}
        save_tensors(self.path, tensors, header)

    def read(self) -> dict[str, torch.Tensor]:
        """The tensors. The first time, the checksum is checked."""
        with safe_open(self.path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if self._content is None:
            self._check(header.get("address"), header.get("content") == sha256(tensors))
            self.about, self._content = json.loads(header["about"]), header["content"]
        return tensors

    def content(self) -> str:
        """Hash of the tensors, for the addresses of whatever is computed from them."""
        if self._content is None:
            self.read()
        assert self._content is not None
        return self._content


class TableFile(StoredFile):
    """A table, with plain values `about` it in its `attrs`."""

    ending = "parquet"

    def __init__(self, folder: str | Path, address: str, about: dict | None = None):
        super().__init__(folder, address, about)
        self._table: pd.DataFrame | None = None

    def write(self, table: pd.DataFrame, **about: Any) -> None:
        """Save a table, whole or not at all."""
        self.about = {**self.about, **about}
        _write_table(table, self.path, {**self.about, "address": self.address})
        self._table = None  # it is read as others will read it

    def read(self) -> pd.DataFrame:
        """The table. The first time, the checksum is checked."""
        if self._table is None:
            table = _read_table(self.path)
            self._check(table.attrs.get("address"), True)
            self.about, table.attrs, self._table = table.attrs, {}, table
        return self._table


def keep_recent(folder: str | Path, ending: str, gigabytes: float) -> None:
    """Let files that are named by addresses, with this ending, take at most so much of a folder.

    Those that were used (modified, or touched) least recently leave first, also what other
    processes have put there, or have left half written. All other files are passed over.
    """
    ours = re.compile(rf"\.?[0-9a-f]{{40}}\.{re.escape(ending)}")
    found = []
    for path in Path(folder).iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            if ours.match(path.name):
                about = path.stat()
                found.append((about.st_mtime_ns, about.st_size, path))
    left = gigabytes * 1e9
    for _, size, path in sorted(found, reverse=True):
        left -= size
        if left < 0:
            path.unlink(missing_ok=True)


# --- Tables -------------------------------------------------------------------------------------

def save_table(table: pd.DataFrame, path: str | Path, **about: Any) -> None:
    """Save a table with its provenance, whole or not at all, whatever the types in its columns.

    `load_table` gives back columns as they were. Those that Parquet would refuse or change (texts
    among numbers, missing truth values, lists, dicts, categories that are no texts) are written as
    JSON texts under the same name, and named in `attrs["json"]`. What JSON cannot hold comes back
    as its nearest: tuples as lists, numbers of NumPy and torch as Python's, other objects as text.

    Args:
        table: pandas.DataFrame.
        path: of a Parquet file, whose folder is made where it is missing.
        **about: plain values that are added to `provenance`, such as parameters.

    Raises:
        OSError: the disk is full or the folder cannot be written; a file that was there is as it
            was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_table(table, path, {"provenance": provenance(**about)})


def load_table(path: str | Path) -> pd.DataFrame:
    """A table as `save_table` saved it, with its provenance in `table.attrs["provenance"]`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or was altered.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no table {path}; save one with "
                                "metalib.store.save_table, or collect one of a sweep")
    try:
        return _read_table(path)
    except Exception as error:  # a reader of damaged bytes can raise anything
        raise ValueError(f"{path} is damaged or no table of metalib ({error}); "
                         "make it again") from error


def provenance(**about: Any) -> dict[str, Any]:
    """What a result was made with: date (UTC), versions, code, hardware, and what is passed.

    Returns:
        dict of plain values.

    Example:
        >>> sorted(provenance(steps=60))
        ['code', 'date', 'hardware', 'steps', 'versions']
    """
    libraries = {name: importlib.metadata.version(name)
                 for name in ("torch", "torchvision", "numpy", "pandas")}
    return {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {"metalib": __version__, "python": platform.python_version(), **libraries},
            "code": code_hash(), "hardware": _hardware(), **about}


def provenance_table(table: pd.DataFrame) -> Any:
    """The provenance of a table for a page: a row for each entry, hashes cut to 12 digits."""
    about = {name: _brief(value) for name, value in table.attrs["provenance"].items()}
    frame = pd.Series(about).to_frame("the table read was made with")
    return frame.style.set_table_attributes('class="dataframe"')


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_brief(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "; ".join(_brief(one) for one in value)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", str(value))


@functools.cache
def _hardware() -> str:
    """Processor, cores and GPUs in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([f"{next(names, platform.machine())}, {os.cpu_count()} cores", *gpus])


def _write_table(table: pd.DataFrame, path: Path, about: dict) -> None:
    table, names = table.copy(), [_json(name) for name in table.columns]
    if not all(isinstance(name, str) for name in table.columns):
        table.columns, about = names, {**about, "names": "json"}
    changed = {name: _categories(table[name]) for number, name in enumerate(table.columns)
               if not _survives(table.iloc[:, number])}
    for name in changed:
        table[name] = pd.Series([_json(value) for value in table[name]], table.index, dtype="str")
    about = {**about, **({"json": changed} if changed else {})}
    table.attrs = json.loads(_json({**about, "content": _rows_hash(table)}))
    with atomic_write(path) as temporary:
        table.to_parquet(temporary)


def _read_table(path: str | Path) -> pd.DataFrame:
    table = pd.read_parquet(path)
    if table.attrs.get("content") != _rows_hash(table):
        raise ValueError("its content was changed")
    for name, categories in table.attrs.pop("json", {}).items():
        values = pd.Series([json.loads(text, object_hook=_date) for text in table[name]],
                           table.index, dtype="object")
        table[name] = values if categories is None else values.astype(
            pd.CategoricalDtype(json.loads(categories["of"], object_hook=_date),
                                categories["ordered"]))
    if table.attrs.pop("names", None):
        names = [json.loads(name) for name in table.columns]
        table.columns = pd.Index([tuple(name) if isinstance(name, list) else name
                                  for name in names])
    return table


def _survives(column: pd.Series) -> bool:
    """Whether Parquet gives a column back as it is, to the type of each value."""
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biufmM":
        return True
    try:
        file = io.BytesIO()
        table = column.rename("0").to_frame()
        table.to_parquet(file)
        again = pd.read_parquet(file)
        return (again["0"].dtype == column.dtype and _rows_hash(again) == _rows_hash(table)
                and list(map(repr, again["0"])) == list(map(repr, column)))
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
        return False  # several types, numbers of too many digits, broken characters, ...


def _categories(column: Any) -> dict | None:
    """The categories of a categorical column, as plain values."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return None
    return {"of": _json(column.cat.categories.tolist()), "ordered": column.cat.ordered}


DATES = {f"${kind.__name__}": kind for kind in (pd.Timestamp, datetime.datetime, datetime.date)}


def _json(value: Any) -> str:
    """A value as JSON, in which what JSON does not have is as in `save_table`."""
    try:
        return json.dumps(value, default=_nearest)
    except (TypeError, ValueError):  # keys that JSON does not have, a list that holds itself
        return json.dumps(str(value))


def _nearest(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        plainer: Any = value.tolist()
        if not isinstance(plainer, (complex, bytes, datetime.date)):
            return plainer
        value = plainer
    if value is pd.NA or value is pd.NaT:
        return None
    if (kind := f"${type(value).__name__}") in DATES:
        return {kind: value.isoformat()}
    return str(value)


def _date(found: dict) -> Any:
    """The date that an object of JSON stands for, or the object."""
    (kind, text), *others = found.items() if found else [("", "")]
    return found if others or kind not in DATES else DATES[kind].fromisoformat(text)


def _rows_hash(table: pd.DataFrame) -> str:
    hash_rows: Any = hash_pandas_object  # pandas gives it no type
    return hashlib.sha256(hash_rows(table).to_numpy().tobytes()).hexdigest()
