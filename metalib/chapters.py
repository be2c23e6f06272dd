"""Notebooks as functions of their parameters: checked, executed by papermill, and read back.

    execute("notebooks/04_transfer_study.ipynb", "result.ipynb", {"n_images": 10})
    numbers = glued(nbformat.read("result.ipynb", as_version=4))      # what the notebook glued, by name
"""
import ast
import os
import re
import threading
from pathlib import Path

ONE_AT_A_TIME = threading.Lock()  # of a process, since papermill changes its working directory
KEPT = {"kernelspec", "language_info", "tags", "mystnb"}  # of the metadata


def check_parameters(notebook, parameters):
    """Raise a ValueError that lists the right names where a notebook's parameters cell lacks one (papermill only logs it)."""
    import papermill
    known = papermill.inspect_notebook(str(notebook))
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(f"{notebook} has no parameter {', '.join(unknown)}; its parameters are {', '.join(known)}")


def execute(notebook, output, parameters, *, progress=False):
    """Execute a notebook with other parameters than its own, and write what came of it, also of a failure.

    Args:
        notebook: path of a notebook with a cell tagged `parameters`.
        output: path of the executed notebook, in a folder that is there.
        parameters: a dict of plain values.
        progress: show papermill's bar over the cells.

    Raises:
        ValueError: parameters that the notebook does not have. Nothing is executed then.
        papermill.PapermillExecutionError: a cell failed; `output` shows where.
    """
    import papermill
    from traitlets.config import Config
    check_parameters(notebook, parameters)
    sockets = Config({"KernelManager": {"transport": "ipc"}} if os.name == "posix" else {})  # kernels do not race for ports
    with ONE_AT_A_TIME:
        papermill.execute_notebook(str(notebook), str(output), parameters, progress_bar=progress, config=sockets,
                                   request_save_on_cell_execute=False, autosave_cell_every=0)


def code_of(notebook):
    """The code cells of a notebook, without outputs: a list of texts."""
    import nbformat
    return [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]


def glued(executed):
    """The values that an executed notebook glued, by name: numbers and text as such, anything else as its text."""
    outputs = [output for cell in executed.cells for output in cell.get("outputs", []) if "scrapbook" in output.get("metadata", {})]
    found = [(output.metadata["scrapbook"], output.data) for output in outputs]
    return {about["name"]: _value(data.get(about["mime_prefix"] + "text/plain", "")) for about, data in found}


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def cleaned(executed):
    """An executed notebook without what differs from run to run: times, papermill's notes, warnings, paths of this machine."""
    for part in (executed, *executed.cells):
        for key in set(part.metadata) - KEPT:
            del part.metadata[key]
    for cell in executed.cells:
        if cell.cell_type == "code":
            cell.outputs = [_without_paths(output) for output in cell.outputs if output.get("name") != "stderr"]
    return executed


def _without_paths(output):
    paths = re.compile("|".join(re.escape(f"{path}{os.sep}") for path in (Path.cwd(), Path.home())))
    if "text" in output:
        output.text = paths.sub("", output.text)
    for kind, text in output.get("data", {}).items():
        if isinstance(text, str) and kind.startswith("text/"):
            output.data[kind] = paths.sub("", text)
    return output
