"""A grid of parameters over a function or a notebook, computed on Dask.

    python -m metalib.sweep study.yml study              # on this machine, on its cores or GPUs
    python -m metalib.sweep study.yml study --scheduler tcp://host:8786    # on any Dask cluster
    python -m metalib.sweep study.yml study --collect    # computes nothing, collects what is stored

The command prints the address of Dask's dashboard. The study is a YAML file::

    task: metalib.tasks:generation   # module:function of plain values, or the path of a notebook
    grid:                            # every combination is a cell
      model: [zoo/vgg-standard-0, zoo/vgg-robust-0]
      stage: [group1, group3]
      seed: [0, 1, 2]
    parameters: {n_images: 10}       # the same for every cell

The grid may also be a list of cells: [{model: ..., seed: 0}, ...].

A function returns a row (a dict), rows (a list of dicts) or a pandas.DataFrame; a notebook's row
is the values that it glued. Before anything is computed, the values of every cell are compared with
the annotations of the function or of the notebook's parameters cell. A function may also carry a
check of its own (`metalib.runs.tasks.checked_by`), which is called with the values of each cell.

The worker that computes a cell stores it in the folder `study`, which all workers and this process
must see under the same path. A cell is named by a hash of the task's code, its parameters, the code
and weights of `metalib`, and the weights of other models that the parameters name; image sets count
by their name only.

The same command, given again, computes what is not stored yet: after Ctrl-C (which ends it with
the exit status 130, SIGTERM with 143), after a crash, or with a larger grid. A cell whose worker
dies is tried again; a cell that fails does not stop the others. The folder then holds::

    study/table.parquet       # parameters and rows of all cells, for metalib.store.load_table;
                              # provenance in its attrs
    study/cells/*.parquet     # the cells
    study/notebooks/*.ipynb   # executed notebooks
    study/failed/             # cells that failed: the traceback and, of a notebook, how far it got

With several GPUs, each worker sees one. The task must be told to use it, as with `device: cuda`.
"""

import argparse
import contextlib
import functools
import hashlib
import importlib
import inspect
import itertools
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeGuard

import pandas as pd
import torch

from metalib import loading
from metalib.devices import device_of
from metalib.identity import code_behind
from metalib.models.registry import load_model, missing_files, null_file, source_of
from metalib.plain import kinds_of, whole
from metalib.progress import bar
from metalib.runs import notebooks
from metalib.runs import options as types
from metalib.runs.documents import read_yaml
from metalib.store import (
    TableFile,
    address_of,
    atomic_write,
    code_hash,
    fingerprint,
    load_table,
    provenance,
    save_table,
)

LOGGER = logging.getLogger(__name__)

Task = Callable[..., Any] | str | Path
Grid = dict[str, Any] | list[dict[str, Any]]
Cell = tuple[TableFile, dict[str, Any]]  # its file and its parameters


def sweep(
    task: Task, grid: Grid, *, directory: str | Path, parameters: dict[str, Any] | None = None,
    scheduler: str | None = None, workers: int | None = None, threads: int | None = None,
    retries: int = 3, progress: bool | None = None, code: str | None = None,
) -> pd.DataFrame:
    """Compute the cells of a grid that are not stored yet, and collect all cells into a table.

    Args:
        task: a function, "module:function", or the path of a notebook with a parameters cell.
        grid: a dict from each parameter to a list of its values, whose combinations are the cells;
            or a list of cells, each a dict.
        directory: where cells are stored and found, see the module's docstring.
        parameters: a dict of values that are the same for every cell.
        scheduler: address of a running Dask scheduler, such as "tcp://host:8786". None starts
            workers on this machine.
        workers: number of processes on this machine. None starts one per GPU or, without GPUs, one
            per core.
        threads: number of threads for each worker's arithmetic. None shares the cores among the
            workers.
        retries: how often a cell is tried again after its worker died. A running scheduler follows
            its own configuration instead.
        progress: whether to show a bar. None shows one where somebody is watching.
        code: what stands for the code in the addresses of cells. None takes the code of the task
            and of metalib, so that cells are computed anew when it has changed. With a text of
            your own they are kept; `metalib.studies` does so, and checks some of them instead.

    Returns:
        pandas.DataFrame, see `collect`; `attrs["failed"]` lists the cells that failed.

    Raises:
        ValueError: a task that cannot be found, a malformed grid, a named model whose weights are
            missing, or wrong cells, of which it says how many there are and what is wrong: a
            parameter that the task does not have, values that are not plain or of another type
            than it wants, a device that is not there, or what the task's own check says.
        ImportError: Dask is not installed.
        ConnectionError: the scheduler cannot be reached or was lost. Finished cells are stored.
        FileNotFoundError: workers do not store where this process looks.
        KeyboardInterrupt: Ctrl-C. Finished cells are stored.
        OSError: the disk is full. Finished cells are stored.

    Warns:
        RuntimeWarning: cells that failed; damaged files in `directory`, which are computed anew.

    Example:
        >>> table = sweep("metalib.tasks:generation", {"stage": ["group1", "group3"]},
        ...               directory="study", parameters={"model": "zoo/vgg-standard-0",
        ...                                              "n_images": 2})       # doctest: +SKIP
    """
    workers, threads = (number if number is None else whole(name, number, 1)
                        for name, number in (("workers", workers), ("threads", threads)))
    retries, directory = whole("retries", retries, 0), Path(directory).resolve()
    task = Path(task).resolve() if _is_notebook(task) else task
    cells = cells_of(task, grid, directory=directory, parameters=parameters, code=code)
    pending = {file.address: (file, values) for file, values in cells if not file.is_stored()}
    _ask_the_task(task, [values for _, values in pending.values()], here=scheduler is None)
    failed = {}
    with bar(len(cells), "sweep", progress) as progress_bar:
        progress_bar.update(len(cells) - len(pending))
        if pending:
            (directory / "cells").mkdir(parents=True, exist_ok=True)
            with _client(scheduler, workers, threads, retries) as client:
                _announce(progress_bar, client, len(cells), len(pending))
                for address, error in _results(client, task, pending):
                    if error:
                        failed[address] = error
                    progress_bar.update()
    table = collect(task, grid, directory=directory, parameters=parameters, code=code)
    if table.attrs["provenance"]["missing"] > len(failed):
        raise FileNotFoundError(
            f"cells were computed, but this process does not see them in {directory}: give a "
            "folder that it shares with the workers, under the same path")
    table.attrs["failed"] = [{"parameters": pending[address][1], **error}
                             for address, error in failed.items()]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(cells)} cells failed, the first: {table.attrs['failed'][0]}",
            RuntimeWarning, stacklevel=2)
    return table


def collect(
    task: Task, grid: Grid, *, directory: str | Path, parameters: dict[str, Any] | None = None,
    code: str | None = None,
) -> pd.DataFrame:
    """One tidy table of the stored cells of a sweep, in the order of the grid.

    The arguments are those of `sweep`. The table is also saved, as "table.parquet" in `directory`.

    Returns:
        pandas.DataFrame: the parameters of the grid (lists and dicts as JSON; left out where the
        rows have a column of that name), the columns of the rows, and `cell`, the address.
        `attrs["provenance"]` holds the task, its parameters, the number of cells and of missing
        ones, the hashes of weights, the first and last date, and the versions, code hashes and
        hardware of all cells.
    """
    cells = cells_of(task, grid, directory=directory, parameters=parameters, code=code)
    stored = [(file, values) for file, values in cells if file.is_stored()]
    parts = [rows_of(file, values, parameters or {}) for file, values in stored]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    made = [file.about["provenance"] for file, _ in stored]
    about = {
        "task": name_of(task), "parameters": parameters or {}, "cells": len(cells),
        "missing": len(cells) - len(stored),
        "weights": {name: value for file, _ in cells
                    for name, value in file.about["weights"].items()},
        "dates": [f([cell["date"] for cell in made]) for f in (min, max)] if made else [],
        **{f"cells_{key}": _distinct(cell[key] for cell in made)
           for key in ("versions", "code", "hardware")}}
    save_table(table, Path(directory) / "table.parquet", **about)
    return load_table(Path(directory) / "table.parquet")


# --- Cells and their addresses ------------------------------------------------------------------

def rows_of(file: TableFile, values: dict[str, Any], parameters: dict[str, Any]) -> pd.DataFrame:
    """The rows of a stored cell, after those of its values that are not the same for every cell."""
    rows = file.read()
    plain = {name: json.dumps(value) if isinstance(value, (list, dict)) else value
             for name, value in values.items() if name not in parameters and name not in rows}
    front = pd.DataFrame({name: [value] * len(rows) for name, value in plain.items()},
                         index=rows.index)
    return pd.concat([front, rows], axis=1).assign(cell=file.address)


def cells_of(
    task: Task, grid: Grid, *, directory: str | Path, parameters: dict[str, Any] | None = None,
    code: str | None = None, known: Mapping[str, str] | None = None,
) -> list[Cell]:
    """The cells of a grid: the file of each, stored or not, and its values.

    The arguments are those of `sweep`; `known` has hashes of networks by name, as
    `about["weights"]` of other cells, for those that are not on this machine with a null.

    Raises:
        ValueError: as `sweep`, where the task, the grid or values are wrong.
    """
    if isinstance(grid, dict):
        if wrong := [name for name, values in grid.items()
                     if not isinstance(values, Sequence) or isinstance(values, (str, bytes))
                     or not values]:
            raise ValueError(f"the grid needs a list of values for {', '.join(wrong)}")
        grid = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    if not grid or not all(isinstance(cell, dict) for cell in grid):
        raise ValueError("a grid is a dict of lists, or a list of dicts, with at least one cell")
    folder, fit = Path(directory) / "cells", _fit_of(task)
    source = [_source(task), code_hash()] if code is None else [name_of(task), code]
    known = {name: value for name, value in (known or {}).items() if not is_here(name)}
    cells, grid = {}, _passed([{**(parameters or {}), **cell} for cell in grid], fit)
    for values in grid:
        filled = values if code is None else whole_values(task, values)
        weights = {name: hashed for name in sorted(_texts(filled))
                   if (hashed := known.get(name) or _weights_hash(name))}
        address = address_of(*source, filled, weights)
        cells[address] = TableFile(folder, address, {
            "task": name_of(task), "parameters": values, "weights": weights}), values
    return list(cells.values())


def _passed(
    cells: Sequence[dict[str, Any]], check: Callable[[dict[str, Any]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """What a check gives for each cell.

    Raises:
        ValueError: the check raised errors; the message counts and lists them.
    """
    passed, wrong = [], {}
    for values in cells:
        try:
            passed.append(check(values))
        except (ValueError, OSError, ImportError) as error:
            for line in f"{error}".splitlines():
                wrong.setdefault(line, []).append(values)
    if wrong:
        lines = [f"{line}  ({len(found)}, the first: {str(found[0])[:160]})"
                 for line, found in wrong.items()]
        raise ValueError("\n".join([
            f"{len(cells) - len(passed)} of {len(cells)} cells are wrong; nothing was computed:",
            *lines[:10], *[f"and {len(lines) - 10} more errors"] * (len(lines) > 10)]))
    return passed


def _is_notebook(task: Task) -> TypeGuard[str | Path]:
    return isinstance(task, (str, Path)) and str(task).endswith(".ipynb")


def function_of(task: Task) -> Callable[..., Any]:
    """The function that a task is, imported where it is given by name."""
    if callable(task):
        return task
    module, _, name = str(task).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no task {task!r} ({error}); give module:function, "
                         "or the path of a notebook") from error


def name_of(task: Task) -> str:
    return (Path(task).name if _is_notebook(task) else str(task) if not callable(task)
            else f"{task.__module__}:{task.__qualname__}")


def _source(task: Task) -> str:
    """Hash of a task's code.

    That is the code cells of a notebook, the module of a function, or the function's own text.
    """
    if _is_notebook(task):
        return address_of(notebooks.code_of(task))
    function = function_of(task)
    path = getattr(inspect.getmodule(function), "__file__", None)
    return address_of(function.__qualname__,
                      Path(path).read_text() if path else inspect.getsource(function))


def _fit_of(task: Task) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What gives a cell's values as the task wants them, or a ValueError."""
    if _is_notebook(task):
        return functools.partial(notebooks.fitted, notebooks.kinds_of(task), what=task)
    function = function_of(task)
    signature, kinds = inspect.signature(function), kinds_of(function)
    others = {parameter.name for parameter in signature.parameters.values()
              if parameter.kind is parameter.VAR_KEYWORD}

    def fit(values: dict[str, Any]) -> dict[str, Any]:
        try:
            signature.bind(**values)
        except TypeError as error:
            raise ValueError(f"{name_of(task)}: {error}; "
                             f"its parameters are {', '.join(signature.parameters)}") from error
        wanted = kinds | dict.fromkeys(set(values) - set(kinds), Any) if others else kinds
        return notebooks.fitted(wanted, values, name_of(task))

    return fit


def task_code(task: Task) -> str:
    """Hash of what a task computes with: see `metalib.identity.code_behind`."""
    if _is_notebook(task):
        return _source(task)
    return code_behind(function_of(task).__module__)


def whole_values(task: Task, values: dict[str, Any]) -> dict[str, Any]:
    """Values with the defaults of the task's other parameters, as the task fills them in."""
    if _is_notebook(task):
        return values
    function = function_of(task)
    bound = inspect.signature(function).bind(**values)
    bound.apply_defaults()
    return getattr(function, "filled", dict)(bound.arguments)


def _ask_the_task(task: Task, cells: Sequence[dict[str, Any]], *, here: bool) -> None:
    """Raise a ValueError if there are cells that the task's own check refuses.

    So it is if cells are computed `here`, and one names a `device` that is not there.
    """
    check = None if _is_notebook(task) else getattr(function_of(task), "check", None)

    def ask(values: dict[str, Any]) -> dict[str, Any]:
        if here and isinstance(values.get("device"), str):
            device_of(values["device"])
        if check is not None:
            check(**whole_values(task, values))
        return values

    _passed(cells, ask)


def _texts(value: Any) -> set[str]:
    """All strings in plain values, including the keys of dicts."""
    if isinstance(value, str):
        return {value}
    inner = ([*value, *value.values()] if isinstance(value, dict)
             else value if isinstance(value, (list, tuple)) else [])
    return {text for part in inner for text in _texts(part)}


def is_here(name: str) -> bool:
    """Whether a network is on this machine, with null distributions."""
    found = source_of(name)
    return found is not None and not missing_files(*found) and null_file(name) is not None


@functools.cache
def _weights_hash(name: str) -> str | None:
    """SHA-256 of the files of a model and its nulls, or None for a string that names no model.

    The content of a model that the user added stands for files that are not told.
    """
    found = source_of(name)
    if found is None:
        return None
    source, rest = found
    if missing := missing_files(source, rest):
        raise ValueError(
            f"the weights of {name} are not on this machine ({missing[0].name}): call "
            f"metalib.load_model({name!r}) once, so that their hash is known and workers do not "
            "all download them")
    own = source.files(rest)
    files = [*own, *filter(None, [null_file(name)])]
    content = [fingerprint(load_model(name)).encode()] if source.added and not own else []
    return hashlib.sha256(
        b"".join([*content, *(path.read_bytes() for path in files)])).hexdigest()


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({json.dumps(value): value for value in values}.values())


# --- Computing ----------------------------------------------------------------------------------

def compute(task: Task, values: dict[str, Any], file: TableFile) -> dict[str, str] | None:
    """Compute a cell on a worker and store it, unless it is stored already.

    Returns:
        None, or a dict that says what went wrong (`error`) and where to read more (`see`).
    """
    if file.is_stored():
        return None
    failed = file.path.parents[1] / "failed" / file.address
    try:
        for folder in (file.path.parent, failed.parent):
            folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        rows = as_rows(_notebook_row(task, values, file) if _is_notebook(task)
                       else function_of(task)(**values))
        file.write(rows, provenance=provenance(
            seconds=time.perf_counter() - began, task_code=task_code(task)))
    except (Exception, SystemExit) as error:  # whatever the task raises, only this cell fails
        with contextlib.suppress(OSError), atomic_write(failed.with_suffix(".txt")) as temporary:
            Path(temporary).write_text(traceback.format_exc())
        files = [failed.with_suffix(ending) for ending in (".ipynb", ".txt")]
        last = (str(error).strip().splitlines() or [""])[-1]
        return {"error": f"{type(error).__name__}: {last}",
                "see": next((str(file) for file in files if file.is_file()),
                            "nothing, since it could not be written")}
    failed.with_suffix(".txt").unlink(missing_ok=True)
    return None


def as_rows(result: Any) -> pd.DataFrame:
    """What a task returned, a row, rows or a table, as a table."""
    if isinstance(result, pd.DataFrame):
        return result.reset_index(drop=True)
    return pd.DataFrame([result] if isinstance(result, dict) else result)


def _notebook_row(task: str | Path, values: dict[str, Any], file: TableFile) -> dict[str, Any]:
    import nbformat
    folder = file.path.parents[1] / "notebooks"
    unfinished = file.path.parents[1] / "failed" / f"{file.address}.ipynb"
    folder.mkdir(exist_ok=True)
    try:
        notebooks.execute(task, unfinished, values)
    except OSError:  # half a notebook is none
        unfinished.unlink(missing_ok=True)
        raise
    os.replace(unfinished, folder / unfinished.name)
    return notebooks.glued(nbformat.read(folder / unfinished.name, as_version=4))


@contextlib.contextmanager
def _client(
    scheduler: str | None, workers: int | None, threads: int | None, retries: int,
) -> Iterator[Any]:
    """A Dask client of a running scheduler, or of workers on this machine that end with it."""
    try:
        import dask.config
        import dask.system
        from distributed import Client, Nanny, Scheduler, SpecCluster
    except ImportError as error:
        raise ImportError("sweeps run on Dask: pip install 'metalib[cluster]'") from error
    if scheduler:
        try:
            client = Client(scheduler)
        except OSError as error:
            raise ConnectionError(f"no Dask scheduler answers at {scheduler}") from error
        with client:
            yield client
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = (visible.split(",") if visible
            else [str(number) for number in range(torch.cuda.device_count())])
    workers = workers or len(gpus) or dask.system.CPU_COUNT
    threads_each = str(threads or max(1, dask.system.CPU_COUNT // workers))
    environment = {f"{name}_NUM_THREADS": threads_each for name in ("OMP", "MKL", "OPENBLAS")}
    quiet: Any = logging.ERROR  # where distributed declares a bool
    options = {"nthreads": 1, "host": "127.0.0.1", "memory_limit": None, "silence_logs": quiet}
    devices = [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
               for number in range(workers)]
    local = {number: {"cls": Nanny, "options": {**options, "env": device}}
             for number, device in enumerate(devices)}
    head = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": True,
                                          "dashboard_address": "127.0.0.1:0"}}
    with dask.config.set({"distributed.scheduler.allowed-failures": retries,
                          "distributed.scheduler.worker-ttl": None,
                          "distributed.nanny.pre-spawn-environ": environment}), \
            _loop() as loop, \
            SpecCluster(workers=local, scheduler=head, silence_logs=quiet, loop=loop) as cluster, \
            Client(cluster) as client:
        yield client


@contextlib.contextmanager
def _loop() -> Iterator[Any]:
    """The event loop of a cluster, which starts processes that never see Ctrl-C.

    A terminal sends it to all processes, but it is for this one to end the workers. Threads and
    processes inherit what is blocked when they are started. The process that keeps account of
    semaphores comes first: where it is started, Python 3.11 lets the signal through again.
    """
    from distributed.utils import LoopRunner
    resource_tracker.ensure_running()
    runner = LoopRunner()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield runner.loop
    finally:
        runner.stop()


def _results(
    client: Any, task: Task, pending: dict[str, Cell],
) -> Iterator[tuple[str, dict[str, str] | None]]:
    """Yield the address of each cell when it is done, with None or what went wrong."""
    from distributed import CancelledError, as_completed
    futures = [client.submit(compute, task, values, file, key=address, pure=False)
               for address, (file, values) in pending.items()]
    try:
        for future in as_completed(futures):
            error = future.exception()
            yield future.key, {"error": f"its worker died: {error}",
                               "see": "the log of the workers"} if error else future.result()
            future.release()
    except (OSError, CancelledError) as error:
        raise ConnectionError(
            f"the scheduler was lost ({type(error).__name__}); finished cells are stored, and the "
            "same sweep, started again, goes on") from error
    finally:
        if client.status == "running":
            client.cancel(futures, force=True)


def _announce(progress_bar: Any, client: Any, cells: int, pending: int) -> None:
    say = LOGGER.info if progress_bar.disable else progress_bar.write
    say(f"{cells} cells, {pending} to compute; dashboard: {client.dashboard_link}")


@contextlib.contextmanager
def ended_by_signals(kept: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end this process and its workers at once, with one line.

    Cells are stored as a whole, so that nothing is lost. Dask would need seconds to close what it
    has started, and report each connection that breaks.

    Args:
        kept: what the line says after "interrupted; ".
    """
    def end(number: int, _: object) -> None:
        line = "\n" * os.isatty(2) + f"interrupted; {kept}\n"
        os.write(2, line.encode())  # where prints may be under way
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(128 + number)

    # the process that keeps account of semaphores outlives this one, and would warn of them
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line, see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m metalib.sweep", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a YAML file")
    parser.add_argument("directory", type=Path, help="where cells are stored and found")
    parser.add_argument("--scheduler", help="address of a running Dask scheduler")
    parser.add_argument("--workers", type=types.count,
                        help="processes on this machine, default one per GPU or else per core")
    parser.add_argument("--threads", type=types.count,
                        help="threads of each process, default the cores shared among them")
    parser.add_argument("--retries", type=types.count_or_none, default=3,
                        help="how often a cell whose worker died is tried again, default 3")
    parser.add_argument("--collect", action="store_true",
                        help="compute nothing, collect what is stored")
    options = parser.parse_args(arguments)
    LOGGER.setLevel(logging.INFO)
    LOGGER.addHandler(logging.StreamHandler())
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"
    try:
        study = read_yaml(options.study)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot read the study: {error}") from error
    if not {"task", "grid"} <= set(study) <= {"task", "grid", "parameters"}:
        raise SystemExit(f"the study {options.study} must have the keys task and grid, "
                         "and may have parameters; see --help")
    loading.done()
    try:
        with ended_by_signals(f"finished cells are stored in {options.directory}, and the same "
                              "command goes on"):
            if options.collect:
                table = collect(**study, directory=options.directory)
            else:
                table = sweep(**study, directory=options.directory, scheduler=options.scheduler,
                              workers=options.workers, threads=options.threads,
                              retries=options.retries)
    except (ValueError, ImportError, OSError) as error:
        raise SystemExit(f"{error}") from error
    about, failed = table.attrs["provenance"], table.attrs.get("failed", [])
    for cell in failed:
        print("failed: {parameters}: {error}; see {see}".format(**cell))
    print(f"{about['cells'] - about['missing']} of {about['cells']} cells, {len(table)} rows:",
          options.directory / "table.parquet")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    # from here and not from __main__, so that workers find what they are sent
    from metalib.runs.sweep import main

    main()
