"""Studies and their results: one small file and one committed table for each.

    python -m metalib.studies compute             # the cells that are missing or stale, on Dask
    python -m metalib.studies compute transfer    # of one study; --scheduler for a cluster
    python -m metalib.studies check               # three random cells of each, computed again

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
import datetime
import itertools
import json
import logging
import random
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metalib import loading
from metalib.data import load_images
from metalib.models.registry import list_models
from metalib.runs import options as types
from metalib.runs import sweep as sweeps
from metalib.runs.documents import read_yaml
from metalib.store import TableFile, load_table, save_table

ROOT = Path(__file__).parents[2]  # of the checkout, which holds `studies` and `results`
CODE = "studies"  # stands for the code in the addresses of cells
KEYS = {"title", "task", "grid", "parameters", "check", "tolerances"}
SOURCES = ("results", "compute")


class Stale(ValueError):
    """A table that was made for another study, other weights, or other nulls than there are."""


@dataclass(frozen=True)
class Study:
    """What `studies/NAME.yml` says.

    Attributes:
        name: of its file and of its table.
        title: what the table holds, in a few words.
        task: "module:function".
        grid: blocks, each a dict of values, of which lists are crossed.
        parameters: the values that are the same for every cell.
        check: what a spot check gives the task in place of those.
        tolerances: by column, how much a spot check may differ.
    """

    name: str
    title: str
    task: str
    grid: list[dict[str, Any]]
    parameters: dict[str, Any]
    check: dict[str, Any]
    tolerances: dict[str, float | str]

    def cells(self, folder: str | Path) -> list[sweeps.Cell]:
        """Its cells, with their files in a folder."""
        blocks = [dict(zip(block, values)) for block in self.grid for values in itertools.product(
            *(value if isinstance(value, list) else [value] for value in block.values()))]
        return sweeps.cells_of(self.task, blocks, directory=folder, parameters=self.parameters,
                               code=CODE)

    def given(self, **others: Any) -> "Study":
        """The same with other values for an axis of the grid or for a parameter.

        Empty values (None, "", 0, an empty list or dict) leave the study's own.

        Raises:
            ValueError: a name that is neither an axis nor a parameter of the study's.
        """
        others = {name: _expanded(value) for name, value in others.items() if value or value is
                  False}
        axes = {name for block in self.grid for name in block}
        if unknown := sorted(set(others) - axes - set(self.parameters)):
            raise ValueError(f"the study {self.name} has no {', '.join(unknown)}; "
                             f"it has {', '.join([*sorted(axes), *self.parameters])}")
        grid = [{name: others.get(name, value) for name, value in block.items()}
                for block in self.grid]
        kept = {name: others.get(name, value) for name, value in self.parameters.items()}
        return Study(self.name, self.title, self.task, grid, kept, self.check, self.tolerances)


# --- Reading ------------------------------------------------------------------------------------

def list_studies() -> list[str]:
    """The names of all studies."""
    return sorted(path.stem for path in (ROOT / "studies").glob("*.yml"))


def load_study(name: str) -> Study:
    """A study by its name.

    Raises:
        FileNotFoundError: there is no such study; the message lists those that there are.
        ValueError: its file is no study.
    """
    path = ROOT / "studies" / f"{name}.yml"
    if not path.is_file():
        raise FileNotFoundError(f"there is no study {name}; there are "
                                f"{', '.join(list_studies()) or 'none'}, each a file in studies/")
    found = read_yaml(path)
    if not {"title", "task", "grid", "tolerances"} <= set(found) <= KEYS:
        raise ValueError(f"{path.name} must have the keys title, task, grid and tolerances, and "
                         f"may have parameters and check; it has {', '.join(found)}")
    grid = found["grid"] if isinstance(found["grid"], list) else [found["grid"]]
    return Study(name, found["title"], found["task"], [_expanded(block) for block in grid],
                 _expanded(found.get("parameters") or {}), found.get("check") or {},
                 found["tolerances"])


def _expanded(value: Any) -> Any:
    """A value in which names with a star have become those of the networks that match."""
    if isinstance(value, dict):
        return {name: _expanded(one) for name, one in value.items()}
    if not isinstance(value, list):
        return value
    parts = [list_models(one) if isinstance(one, str) and "*" in one else [_expanded(one)]
             for one in value]
    return list(itertools.chain.from_iterable(parts))


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
        if given := sorted(key for key, value in others.items() if value or value is False):
            raise ValueError(f"{', '.join(given)}: what is read from results/{name}.parquet cannot "
                             "be changed; give source='compute' (-p source compute), too")
        return _fresh(study)
    study = study.given(**others)
    if directory:
        return _computed_here(study, Path(directory) / name)
    with tempfile.TemporaryDirectory() as folder:
        return _computed_here(study, Path(folder))


def _fresh(study: Study) -> pd.DataFrame:
    path = ROOT / "results" / f"{study.name}.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"the study {study.name} has no table yet; "
                                f"make results STUDY={study.name}")
    found = load_table(path)
    with tempfile.TemporaryDirectory() as folder:
        wanted = {file.address for file, _ in study.cells(folder)}
    there = set(found.attrs["provenance"]["cells"])
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
    study, folder = load_study(name), ROOT / ".cache" / "studies" / name
    path = ROOT / "results" / f"{name}.parquet"
    cells, old = study.cells(folder), load_table(path) if path.is_file() else pd.DataFrame()
    kept = old.attrs.get("provenance", {}).get("cells", {})
    missing = [values for file, values in cells if file.address not in kept]
    if missing:
        done = sweeps.sweep(study.task, missing, directory=folder, scheduler=scheduler,
                            workers=workers, threads=1, code=CODE)
        if failed := done.attrs["failed"]:
            raise RuntimeError(f"{len(failed)} of {len(missing)} cells of {name} failed, the "
                               f"first: {failed[0]}")
    found, made = _collected(study, cells, kept, old)
    save_table(found, path, study=study.name, title=study.title, task=study.task,
               parameters=study.parameters, images=_images_of(study, cells), cells=made,
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
    study = load_study(name)
    with tempfile.TemporaryDirectory() as folder:
        cells, parts = study.cells(folder), []
        for file, values in cells:
            own = [key for key in values if key in rows]
            its = rows[(rows[own] == pd.Series({key: values[key] for key in own})).all(axis=1)]
            if its.empty:
                raise ValueError(f"no rows for the cell {values}")
            parts.append(its.assign(cell=file.address))
    about = {"date": "unknown", "seconds": None, "hardware": "unknown", "torch": "unknown",
             "code": "unknown", **made}
    path = ROOT / "results" / f"{name}.parquet"
    save_table(pd.concat(parts, ignore_index=True), path, study=name, title=study.title,
               task=study.task, parameters=study.parameters, images=_images_of(study, cells),
               cells={file.address: about for file, _ in cells},
               weights={key: value for file, _ in cells
                        for key, value in file.about["weights"].items()})
    return load_table(path)


def _images_of(study: Study, cells: Iterable[sweeps.Cell]) -> dict[str, str]:
    """SHA-256 of the references of cells, by description, for tasks that name them as others do."""
    found = {}
    for _, cell in cells:
        values = sweeps.whole_values(study.task, cell)
        if isinstance(source := values.get("image_set"), str):
            options = {"source": source, "split": values.get("split") or None,
                       "n": values.get("n_images"), "seed": values.get("seed", 0),
                       "size": values.get("size")}
            found[json.dumps(options)] = options
    return {description: load_images(**options).sha256 for description, options in found.items()}


# --- Spot checks --------------------------------------------------------------------------------

def check(name: str, *, cells: int = 3, seed: int | None = None) -> pd.DataFrame:
    """Compute some random cells of a study again, and compare them with its table.

    Args:
        name: of the study.
        cells: how many of them.
        seed: of the choice; None chooses by chance.

    Returns:
        pandas.DataFrame: a row for each cell and column with a tolerance: `found`, the difference,
        `allowed`, and `holds`. It is empty, with a warning, where the images of the study are not
        on this machine.

    Raises:
        Stale: as in `table`, or where the images are others.
        ValueError: rows that the table lacks, or no column that can be compared.
    """
    study, stored = load_study(name), table(name)
    with tempfile.TemporaryDirectory() as folder:
        all_cells = study.cells(folder)
    chosen = random.Random(seed).sample(all_cells, min(cells, len(all_cells)))
    try:
        images = _images_of(study, chosen)
    except FileNotFoundError as error:
        warnings.warn(f"{name} is not checked: {error}", RuntimeWarning, stacklevel=2)
        return pd.DataFrame(columns=["study", "cell", "column", "found", "allowed", "holds"])
    known = stored.attrs["provenance"]["images"]
    if others := [key for key, value in images.items() if known.get(key, value) != value]:
        raise Stale(f"results/{name}.parquet was made from other images: {', '.join(others)}")
    rows = [row for file, values in chosen for row in _compared(
        study, stored[stored["cell"] == file.address], values, file.address)]
    return pd.DataFrame(rows)


def _compared(
    study: Study, stored: Any, values: dict[str, Any], address: str,
) -> list[dict[str, Any]]:
    """One cell, computed again as the study's check says, against its stored rows."""
    again = sweeps.as_rows(sweeps.function_of(study.task)(**{**values, **study.check}))
    columns = [column for column in study.tolerances if column in again and column in stored]
    if not columns:
        raise ValueError(f"no column of {study.name} has a tolerance and can be compared")
    keys = [column for column in again if column in stored and _is_key(again[column])
            and column not in study.tolerances]
    if not keys:  # rows that follow each other
        keys, again, stored = ["row"], *(rows.assign(row=range(len(rows))) for rows in (
            again, stored))
    both = again.merge(stored, on=keys, how="left", suffixes=(" again", ""), indicator=True)
    if len(both) != len(again) or set(both["_merge"]) != {"both"}:
        raise ValueError(f"the table of {study.name} lacks rows of the cell {values}, or has them "
                         f"more than once (rows are known by {', '.join(keys)})")
    return [{"study": study.name, "cell": address[:12], "column": column, **_difference(
        both[f"{column} again"], both[column], study.tolerances[column])} for column in columns]


def _is_key(column: Any) -> bool:
    return not pd.api.types.is_float_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _difference(again: Any, stored: Any, tolerance: float | str) -> dict[str, Any]:
    """How far two columns differ, how far they may, and whether they do not differ more.

    Numbers: the mean absolute difference; a missing value is like another missing one only.
    Texts and truth values: the share of rows that differ.
    """
    relative = isinstance(tolerance, str)
    allowed = float(tolerance.removesuffix("%")) / 100 if isinstance(tolerance, str) else tolerance
    numbers = all(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
                  for column in (again, stored))
    if numbers:
        one, other = again.to_numpy(float), stored.to_numpy(float)
        same = (one == other) | (np.isnan(one) & np.isnan(other))  # also both infinite
        apart = np.abs(np.where(same, 0, one) - np.where(same, 0, other))
        found = float(np.where(np.isnan(apart), np.inf, apart).mean())
        finite = np.abs(other[np.isfinite(other)])
        allowed *= finite.mean() if relative and len(finite) else 1
    else:
        found = float((again.astype(str).to_numpy() != stored.astype(str).to_numpy()).mean())
    return {"found": found, "allowed": allowed, "holds": bool(found <= allowed + 1e-12)}


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
    dates = sorted({cell["date"] for cell in cells})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    seconds = [cell["seconds"] for cell in cells if cell["seconds"] is not None]
    cost = f"{sum(seconds) / 60:.0f} core minutes" if seconds else "unknown time"
    hardware = ", ".join(Counter(cell["hardware"] for cell in cells))
    return (f"`results/{about['study']}.parquet` ({about['title']}): {len(cells)} cells, made "
            f"{span} in {cost} on {hardware}; {_of_code(about)}")


def _of_code(about: dict[str, Any]) -> str:
    """Whether the code of a table is the present one, in words."""
    task = load_study(about["study"]).task
    now = sweeps.task_code(task)[:16]
    other = sum(cell["code"] != now for cell in about["cells"].values())
    if not other:
        return "the code is still the same."
    return (f"the code has changed since for {other} of them, three of which, chosen at random, "
            "are computed again in every run of the tests.")


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
    try:
        done = {"list": _list, "compute": _compute_all, "check": _check_all}[options.action](
            names, options)
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        raise SystemExit(f"{error}") from error
    except KeyboardInterrupt:
        print("interrupted; finished cells are kept, and the same command goes on",
              file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
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


def _check_all(names: Sequence[str], options: argparse.Namespace) -> bool:
    seed = random.randrange(2**32) if options.seed is None else options.seed
    print(f"{options.cells} random cells of each study, --seed {seed}, "
          f"{datetime.date.today().isoformat()}", flush=True)
    passed = failed = skipped = 0
    for name in names:
        rows = check(name, cells=options.cells, seed=seed)
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
