"""A study: what is to be computed, as a small file says, and by which cells its table is known."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalib.data import load_images
from metalib.models.registry import list_models
from metalib.models.sources import read_also
from metalib.runs import sweep as sweeps
from metalib.runs.documents import read_yaml

ROOT = Path(__file__).parents[2]  # of the checkout, which holds `studies` and `results`
CODE = "studies"  # stands for the code in the addresses of cells
KEYS = {"title", "task", "grid", "parameters", "check", "tolerances"}


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

    def cells(
        self, folder: str | Path = "", known: dict[str, str] | None = None,
    ) -> list[sweeps.Cell]:
        """Its cells, with their files in a folder, which need not be there yet.

        `known` is as in `metalib.runs.sweep.cells_of`.
        """
        blocks = [dict(zip(block, values)) for block in self.grid for values in itertools.product(
            *(value if isinstance(value, list) else [value] for value in block.values()))]
        return sweeps.cells_of(self.task, blocks, directory=folder, parameters=self.parameters,
                               code=CODE, known=known)

    def given(self, **others: Any) -> "Study":
        """The same with other values for an axis of the grid or for a parameter.

        Empty values (None, "", 0, an empty list or dict) leave the study's own.

        Raises:
            ValueError: a name that is neither an axis nor a parameter of the study's.
        """
        others = {name: _expanded(value) for name, value in chosen(others).items()}
        axes = {name for block in self.grid for name in block}
        if unknown := sorted(set(others) - axes - set(self.parameters)):
            raise ValueError(f"the study {self.name} has no {', '.join(unknown)}; "
                             f"it has {', '.join([*sorted(axes), *self.parameters])}")
        grid = [{name: others.get(name, value) for name, value in block.items()}
                for block in self.grid]
        kept = {name: others.get(name, value) for name, value in self.parameters.items()}
        return Study(self.name, self.title, self.task, grid, kept, self.check, self.tolerances)


def chosen(values: dict[str, Any]) -> dict[str, Any]:
    """The values that are not empty.

    >>> chosen({"a": 0, "b": [], "c": None, "d": False, "e": 2})
    {'d': False, 'e': 2}
    """
    return {name: value for name, value in values.items() if value or value is False}


def table_of(name: str) -> Path:
    """The file of a study's table."""
    return ROOT / "results" / f"{name}.parquet"


def folder_of(name: str) -> Path:
    """Where cells of a study are kept until its table is saved."""
    return ROOT / ".cache" / "studies" / name


def list_studies() -> list[str]:
    """The names of all studies."""
    return sorted(path.stem for path in (ROOT / "studies").glob("*.yml"))


def load_study(name: str) -> Study:
    """A study by its name. From then on names of networks in `studies/networks.py` are known, too.

    Raises:
        FileNotFoundError: there is no such study; the message lists those that there are.
        ValueError: its file is no study.
    """
    path = ROOT / "studies" / f"{name}.yml"
    if not path.is_file():
        raise FileNotFoundError(f"there is no study {name}; there are "
                                f"{', '.join(list_studies()) or 'none'}, each a file in studies/")
    if (networks := path.with_name("networks.py")).is_file():
        read_also(networks)
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


def images_of(study: Study, cells: Iterable[sweeps.Cell]) -> dict[str, str]:
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
