"""Notebooks as functions of their parameters: checked, executed by papermill, and read back.

    execute("notebooks/04_transfer_study.ipynb", "result.ipynb", {"n_images": 10})
    numbers = glued(nbformat.read("result.ipynb", as_version=4))   # what it glued, by name
"""

import ast
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalib.plain import fitting, plain

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from metalib.models import Model

ONE_AT_A_TIME = threading.Lock()  # papermill changes the working directory of the whole process
KEPT = {"kernelspec", "language_info", "tags", "mystnb"}  # keys of metadata


def check_parameters(notebook: str | Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Check parameters against a notebook's parameters cell; papermill would only log a wrong name.

    Returns:
        The parameters, of the types that the cell declares, as in ``name: type = value``.

    Raises:
        ValueError: parameters that the cell lacks, with those that it has; or values of another
            type, such as a text for a list, with one line for each.
    """
    return fitted(kinds_of(notebook), parameters, notebook)


def kinds_of(notebook: str | Path) -> dict[str, Any]:
    """The type of each parameter of a notebook, as its parameters cell declares it."""
    import papermill
    types = {kind.__name__: kind for kind in (bool, int, float, str, list, dict)}
    return {name: types.get(about["inferred_type_name"], Any)
            for name, about in papermill.inspect_notebook(str(notebook)).items()}


def fitted(
    kinds: Mapping[str, Any], parameters: Mapping[str, Any], what: Any,
) -> dict[str, Any]:
    """Parameters as `kinds` wants them, see `metalib.plain.fitting`; `what` has them.

    Raises:
        ValueError: parameters that `kinds` lacks, or values of another type: a line for each.
    """
    if unknown := sorted(set(parameters) - set(kinds)):
        raise ValueError(f"{what} has no parameter {', '.join(unknown)}; "
                         f"its parameters are {', '.join(kinds)}")
    found, wrong = {}, []
    for name, value in parameters.items():
        try:
            found[name] = fitting(name, plain(name, value), kinds[name])
        except ValueError as error:
            wrong.append(f"{error}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def execute(
    notebook: str | Path, output: str | Path, parameters: dict[str, Any], *,
    progress: bool = False,
) -> None:
    """Execute a notebook with some parameters replaced, and save it with its results.

    Args:
        notebook: path of a notebook with a cell tagged `parameters`.
        output: path of the executed notebook, in a folder that exists.
        parameters: a dict of plain values.
        progress: show papermill's bar over the cells.

    Raises:
        ValueError: parameters that the notebook does not have, or of another type. Nothing is
            executed then.
        papermill.PapermillExecutionError: a cell failed; `output` shows where.
    """
    import papermill
    from traitlets.config import Config
    parameters = check_parameters(notebook, parameters)
    # with sockets that are files, kernels do not race for ports
    sockets = Config({"KernelManager": {"transport": "ipc"}} if os.name == "posix" else {})
    with ONE_AT_A_TIME:
        papermill.execute_notebook(
            str(notebook), str(output), parameters, progress_bar=progress, config=sockets,
            request_save_on_cell_execute=False, autosave_cell_every=0)


def code_of(notebook: str | Path) -> list[str]:
    """The source of a notebook's code cells, without outputs."""
    import nbformat
    return [cell.source for cell in nbformat.read(notebook, as_version=4).cells
            if cell.cell_type == "code"]


def glued(executed: "NotebookNode") -> dict[str, Any]:
    """The values that an executed notebook glued, by name.

    Python literals, such as numbers, come back as such; anything else as its text.
    """
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])
               if "scrapbook" in output.get("metadata", {})]
    found = [(output.metadata["scrapbook"], output.data) for output in outputs]
    return {about["name"]: _value(data.get(about["mime_prefix"] + "text/plain", ""))
            for about, data in found}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def named(text: str) -> list[str]:
    """The names of glued values that a text shows; those of other pages do not count."""
    wanted = re.findall(r"\{glue:text\}`([^`]+)`", text)
    names = [re.sub(r":[\w.]*$", "", " ".join(name.split())) for name in wanted
             if "::" not in name]
    return list(dict.fromkeys(names))


def unglued(executed: "NotebookNode") -> list[str]:
    """Names that the text of an executed notebook shows and that no cell glued.

    A page with such a name cannot be built.
    """
    known = glued(executed)
    text = "\n".join(cell.source for cell in executed.cells if cell.cell_type == "markdown")
    return [name for name in named(text) if name not in known]


# --- What set-up cells ask -----------------------------------------------------------------------


def at_least(least: int, **values: int) -> None:
    """Check numbers that a chapter was given.

    Raises:
        ValueError: one that is smaller than `least`; the message has its name.
    """
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}; this chapter needs at least {least}")


def at_places(names: Sequence[str], *places: int) -> list[str]:
    """The names at some places, in order and each once; places beyond an end are that end.

    >>> at_places(["stem", "group1", "group2", "features", "logits"], 1, -2, -1)
    ['group1', 'features', 'logits']
    >>> at_places(["features", "logits"], 1, -3, -1)
    ['features', 'logits']
    """
    last = len(names) - 1
    found = {min(max(place if place >= 0 else last + 1 + place, 0), last) for place in places}
    return [names[place] for place in sorted(found)]


def image_size(networks: Iterable["Model"]) -> Any:
    """The side in pixels of the images that all of these networks take.

    Raises:
        ValueError: networks that take images of different sizes; the message has one of each.
    """
    sizes = {network.input_size: network.name for network in networks}
    if len(sizes) > 1:
        raise ValueError("these networks take images of different sizes, which one page cannot "
                         f"show: {', '.join(f'{sizes[size]} takes {size}' for size in sizes)}")
    return next(iter(sizes))
