"""Studies and their results: one small file and one committed table for each.

    python -m metalib.studies compute             # the cells that are missing or stale, on Dask
    python -m metalib.studies compute transfer    # of one study; --scheduler for a cluster
    python -m metalib.studies check               # up to three random cells of each, again

    table = metalib.studies.table("transfer")     # what chapters read

A study is `studies/NAME.yml`::

    title: Evaluations to the first pass
    task: metalib.tasks:generation    # as in metalib.sweep
    grid: {model: ["zoo/vgg-*"], stage: [group1, group3]}    # or a list of such blocks
    parameters: {n_images: 50}
    check: {first: 4}                 # what a spot check gives the task in place of these
    tolerances:                       # by column: mean absolute difference, or share of its mean;
      evaluations: 20 %               # for texts and truth values the share of rows that differ
      passed: 0.25

In lists a name with a star stands for all networks that match it. In a grid that is a list, each
block is a dict whose lists are crossed. The result is `results/NAME.parquet`: a row for each row
that the task gave, with the values of its cell, and a provenance that names weights, images,
code, hardware, dates and seconds. The cells of a table are known by the task, its values and the
weights and nulls of the networks that they name. A table that has other cells than its study now
wants is stale, which is an error. Other code is not: it is reported, and spot-checked.
"""

import argparse
import concurrent.futures
import datetime
import functools
import logging
import multiprocessing
import random
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from metalib import loading
from metalib.runs import options as types
from metalib.runs import spot_checks
from metalib.runs import sweep as sweeps
from metalib.runs.study import (
    CODE,
    Stale,
    Study,
    chosen,
    folder_of,
    images_of,
    list_studies,
    load_study,
    table_of,
)
from metalib.store import TableFile, load_table, save_table

__all__ = ["Stale", "Study", "adopt", "check", "colophon", "compute", "list_studies", "load_study",
           "table"]
SOURCES = ("results", "compute")


# --- Reading ------------------------------------------------------------------------------------

def table(
    name: str, source: str = "results", *, directory: str | Path = "", **others: Any,
) -> pd.DataFrame:
    """The table of a study, as it was committed or computed now.

    Args:
        name: of the study.
        source: "results" reads the committed table; "compute" computes the cells here, one after
            the other.
        directory: where "compute" keeps cells, and finds them again; "" keeps nothing.
        **others: for "compute", values for axes of the grid or parameters; empty ones leave the
            study's own, see `Study.given`.

    Returns:
        pandas.DataFrame: a row for each row of a cell, after the values of the cell's grid; `cell`
        is its address. `attrs["provenance"]` says what it was made with.

    Raises:
        Stale: the table was made for another study, other weights or other nulls.
        FileNotFoundError: there is no such study, or it has no table yet.
        ValueError: another source; values that the study does not have, or that are given beside
            a committed table.
        RuntimeError: a cell failed.

    Example:
        >>> table("transfer", "compute", generator=["zoo/vgg-robust-0"], stage=["group3"],
        ...       n_images=2)                                               # doctest: +SKIP
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; choose 'results' or 'compute'")
    study = load_study(name)
    if source == "results":
        if given := sorted(chosen(others)):
            raise ValueError(f"{', '.join(given)}: what is read from results/{name}.parquet cannot "
                             "be changed; give source='compute' (-p source compute), too")
        return _fresh(study)
    study = study.given(**others)
    if directory:
        return _computed_here(study, Path(directory) / name)
    with tempfile.TemporaryDirectory() as folder:
        return _computed_here(study, Path(folder))


def _fresh(study: Study) -> pd.DataFrame:
    path = table_of(study.name)
    if not path.is_file():
        raise FileNotFoundError(f"the study {study.name} has no table yet; "
                                f"make results STUDY={study.name}")
    found = load_table(path)
    about = found.attrs["provenance"]
    wanted = {file.address for file, _ in study.cells(known=about["weights"])}
    there = set(about["cells"])
    if wanted != there:
        raise Stale(
            f"results/{path.name} is stale: of the {len(wanted)} cells of the study "
            f"{len(wanted - there)} are missing, and {len(there - wanted)} others are there, made "
            f"for another study, other weights or other nulls; make results STUDY={study.name}")
    return found


def _computed_here(study: Study, folder: Path) -> pd.DataFrame:
    cells = study.cells(folder)
    for file, values in cells:
        if error := sweeps.compute(study.task, values, file):
            raise RuntimeError(f"a cell of {study.name} failed with {error['error']}; "
                               f"its values are {values}")
    return _collected(study, cells, {}, pd.DataFrame())[0]


# --- Computing ----------------------------------------------------------------------------------

def compute(
    name: str, *, scheduler: str | None = None, workers: int | None = None,
) -> pd.DataFrame:
    """Compute what is missing of a study's table or stale, and save the table.

    Cells are kept in `.cache/studies` until then, so that a run that was ended goes on.

    Args:
        name: of the study.
        scheduler, workers: as in `metalib.sweep.sweep`.

    Raises:
        RuntimeError: cells failed; all others are kept.
        ValueError, ConnectionError, OSError, KeyboardInterrupt: as `metalib.sweep.sweep`.
    """
    study, folder, path = load_study(name), folder_of(name), table_of(name)
    old = load_table(path) if path.is_file() else pd.DataFrame()
    about = old.attrs.get("provenance", {})
    cells, kept = study.cells(folder, about.get("weights")), about.get("cells", {})
    missing = [values for file, values in cells if file.address not in kept]
    if missing:
        done = sweeps.sweep(study.task, missing, directory=folder, scheduler=scheduler,
                            workers=workers, threads=1, code=CODE)
        if failed := done.attrs["failed"]:
            raise RuntimeError(f"{len(failed)} of {len(missing)} cells of {name} failed, the "
                               f"first: {failed[0]}")
    return _saved(study, cells, *_collected(study, cells, kept, old))


def _saved(
    study: Study, cells: Sequence[sweeps.Cell], rows: pd.DataFrame, made: dict[str, dict],
) -> pd.DataFrame:
    """The rows of all cells as the table of a study, once it is saved and read back."""
    path = table_of(study.name)
    save_table(rows, path, study=study.name, title=study.title, task=study.task,
               parameters=study.parameters, images=images_of(study, cells), cells=made,
               weights={key: value for file, _ in cells
                        for key, value in file.about["weights"].items()})
    return load_table(path)


def _collected(
    study: Study, cells: Sequence[sweeps.Cell], kept: dict[str, dict], old: pd.DataFrame,
) -> tuple[pd.DataFrame, dict[str, dict]]:
    """The rows of all cells, in the order of the study, and what each cell was made with."""
    by_cell = dict(iter(old.groupby("cell", sort=False))) if kept else {}
    made, parts = {}, []
    for file, values in cells:
        if file.address in kept:
            made[file.address] = kept[file.address]
            parts.append(by_cell.get(file.address, old[:0]))
        else:
            parts.append(sweeps.rows_of(file, values, study.parameters))
            made[file.address] = _made(file)
    found = pd.concat(parts, ignore_index=True)
    found.attrs = {"provenance": {"study": study.name, "title": study.title, "cells": made}}
    return found, made


def _made(file: TableFile) -> dict[str, Any]:
    about = file.about["provenance"]
    return {"date": about["date"][:10], "seconds": round(about["seconds"], 1),
            "hardware": about["hardware"], "torch": about["versions"]["torch"],
            "code": about["task_code"][:16]}


def adopt(name: str, rows: pd.DataFrame, **made: Any) -> pd.DataFrame:
    """Save rows that were computed before there were studies as the table of a study.

    Args:
        name: of the study.
        rows: with a column for each axis of the study's grid that has several values.
        **made: what is known of how they were made: date, seconds of a cell, hardware, torch and
            code (texts; "unknown" where it is not known).

    Raises:
        ValueError: a cell of the study that has no rows.
    """
    study, parts = load_study(name), []
    cells = study.cells()
    for file, values in cells:
        own = [key for key in values if key in rows]
        its = rows[(rows[own] == pd.Series({key: values[key] for key in own})).all(axis=1)]
        if its.empty:
            raise ValueError(f"no rows for the cell {values}")
        parts.append(its.assign(cell=file.address))
    about = {"date": "unknown", "seconds": None, "hardware": "unknown", "torch": "unknown",
             "code": "unknown", **made}
    return _saved(study, cells, pd.concat(parts, ignore_index=True),
                  {file.address: about for file, _ in cells})


# --- Spot checks --------------------------------------------------------------------------------

def check(name: str, *, cells: int = 3, seed: int | None = None) -> pd.DataFrame:
    """Compute some random cells of a study again, and compare them with its table.

    The arguments and the rows are those of `metalib.runs.spot_checks.check`.

    Raises:
        Stale: as in `table`, or where the images are others.
        ValueError: rows that the table lacks, or no column that can be compared.
    """
    return spot_checks.check(load_study(name), table(name), cells=cells, seed=seed)


# --- What a page says of its studies ------------------------------------------------------------

def colophon(*tables: pd.DataFrame, chapter: str = "") -> Any:
    """The end of a page: what its tables were made with, and the command that makes it again.

    Args:
        *tables: as `table` gives them.
        chapter: the stem of the chapter's file, such as "04_transfer_study".

    Returns:
        IPython.display.Markdown.
    """
    from IPython.display import Markdown
    lines = [_told(one.attrs["provenance"]) for one in tables]
    again = (f"`papermill notebooks/{chapter}.ipynb out.ipynb -p source compute` computes the "
             "tables of this page anew, at any scale that its parameters name.")
    return Markdown("\n".join([*(f"- {line}" for line in lines), "", again if chapter else ""]))


def _told(about: dict[str, Any]) -> str:
    cells = list(about["cells"].values())
    seconds = [cell["seconds"] for cell in cells if cell["seconds"] is not None]
    cost = f"{sum(seconds) / 60:.0f} core minutes" if seconds else "unknown time"
    hardware = ", ".join(Counter(cell["hardware"] for cell in cells))
    return (f"`results/{about['study']}.parquet` ({about['title']}): {len(cells)} cells, made "
            f"{dates(about)} in {cost} on {hardware}; {_of_code(about)}{_of_strangers(about)}")


def dates(about: dict[str, Any]) -> str:
    """When the cells of a table were made, by its provenance: the first day and the last."""
    days = sorted({cell["date"] for cell in about["cells"].values()})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _of_code(about: dict[str, Any]) -> str:
    """Whether the code of a table is the present one, in words."""
    task = load_study(about["study"]).task
    now = sweeps.task_code(task)[:16]
    other = sum(cell["code"] != now for cell in about["cells"].values())
    if not other:
        return "the code is still the same."
    return (f"the code has changed since for {other} of them, three of which, chosen at random, "
            "are computed again in every run of the tests.")


def _of_strangers(about: dict[str, Any]) -> str:
    """Which networks could not be compared with those that a table was made with, in words."""
    absent = [name for name in about.get("weights", {}) if not sweeps.is_here(name)]
    if not absent:
        return ""
    return (f" Not on the machine that built this page, so that nobody asked whether their weights "
            f"are still the same: {len(absent)} networks ({', '.join(absent)}).")


# --- The command --------------------------------------------------------------------------------

def main(arguments: Sequence[str] | None = None) -> None:
    """The command line, see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m metalib.studies", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["list", "compute", "check"])
    parser.add_argument("studies", nargs="*", help="names; none stands for all")
    parser.add_argument("--scheduler", help="address of a running Dask scheduler")
    parser.add_argument("--workers", type=types.count, help="processes on this machine")
    parser.add_argument("--cells", type=types.count, default=3,
                        help="how many cells of each are checked, default 3")
    parser.add_argument("--seed", type=int, help="of the choice of cells; by chance without")
    options = parser.parse_args(arguments)
    logging.getLogger("metalib.runs.sweep").addHandler(logging.StreamHandler())
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"
    loading.done()
    names = options.studies or list_studies()
    kept = ("finished cells are kept, and the same command goes on" if options.action == "compute"
            else "nothing was changed")
    try:
        with sweeps.ended_by_signals(kept):
            done = {"list": _list, "compute": _compute_all, "check": _check_all}[options.action](
                names, options)
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        raise SystemExit(f"{error}") from error
    raise SystemExit(0 if done else 1)


def _list(names: Sequence[str], _: argparse.Namespace) -> bool:
    fresh = True
    for name in names:
        try:
            print(f"{name}: {_told(table(name).attrs['provenance'])}")
        except (Stale, FileNotFoundError) as error:
            fresh = False
            print(f"{name}: {error}")
    return fresh


def _compute_all(names: Sequence[str], options: argparse.Namespace) -> bool:
    for name in names:
        print(f"{name} ...", flush=True)
        found = compute(name, scheduler=options.scheduler, workers=options.workers)
        print(f"{len(found)} rows: results/{name}.parquet", flush=True)
    return True


def _each(
    function: Callable[[str], pd.DataFrame], names: Sequence[str], workers: int,
) -> Iterator[pd.DataFrame]:
    """What a function gives for each name, in so many processes."""
    if workers == 1:
        yield from map(function, names)
        return
    context = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
    with concurrent.futures.ProcessPoolExecutor(  # Ctrl-C is for this process alone
            workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield from pool.map(function, names)


def _check_all(names: Sequence[str], options: argparse.Namespace) -> bool:
    seed = random.randrange(2**32) if options.seed is None else options.seed
    print(f"{options.cells} random cells of each study, --seed {seed}, "
          f"{datetime.date.today().isoformat()}", flush=True)
    passed = failed = skipped = 0
    one = functools.partial(check, cells=options.cells, seed=seed)
    for rows in _each(one, names, options.workers or 1):
        skipped += rows.empty
        wrong = [row for row in rows.to_dict(orient="records") if not row["holds"]]
        passed, failed = passed + len(rows) - len(wrong), failed + len(wrong)
        for row in wrong:
            print("{study}, cell {cell}: {column} differs by {found:.3g}, allowed are "
                  "{allowed:.3g}".format(**row), flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return not failed


if __name__ == "__main__":
    # from here and not from __main__, so that workers find what they are sent
    from metalib.runs.studies import main

    main()
