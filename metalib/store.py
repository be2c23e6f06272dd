"""Files that are written as a whole, results that are named by what went into them, tables.

    with atomic_write("run/images.npy") as temporary: ...      # takes its place when complete
    file = TensorFile(folder, address_of(model, images, steps)) # or TableFile
    tensors = file.read() if file.is_stored() else None

    save_table(table, "study.parquet", task="transfer_study", steps=60)
    table = load_table("study.parquet")
    table.attrs["provenance"]   # date, versions, hash of the code, hardware, and what was passed

A table is a Parquet file whose `attrs` hold the checksum of its rows and its provenance;
`pandas.read_parquet` reads it. Tensors are a safetensors file with their checksum in the header.
"""

import abc
import contextlib
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from pandas.util import hash_pandas_object
from safetensors import SafetensorError, safe_open

from metalib.version import __version__


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


def fingerprint(model: Any) -> str:
    """Hash of what decides the output of a Model: layers, weights, normalisation, stages, classes.

    Its name does not count. Layers count by what they print: the code behind them is not seen.
    """
    return address_of(repr(model.module), model.stages, model.input_size, model.class_names,
                      model.coarse_names, sha256(model.state_dict()))


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
        self._table = table.copy()

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
    """Save a table with its provenance, whole or not at all.

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
    table = table.copy()
    table.attrs = {**about, "content": _rows_hash(table)}
    with atomic_write(path) as temporary:
        table.to_parquet(temporary)


def _read_table(path: str | Path) -> pd.DataFrame:
    table = pd.read_parquet(path)
    if table.attrs.get("content") != _rows_hash(table):
        raise ValueError("its content was changed")
    return table


def _rows_hash(table: pd.DataFrame) -> str:
    hash_rows: Any = hash_pandas_object  # pandas gives it no type
    return hashlib.sha256(hash_rows(table).to_numpy().tobytes()).hexdigest()
