"""Progress bars for people.

They appear in a terminal and in an interactive notebook, never in a built page, a batch run or a
log.
"""

import sys

from tqdm.auto import tqdm


def someone_is_watching() -> bool:
    """Whether a progress bar would be seen while it moves.

    With each cell, a notebook kernel is told whether its front end can ask for input. Jupyter's own
    front ends can. Programs that execute whole notebooks say that they cannot: nbclient (on which
    papermill and jupyter-book rely) and nbval.
    """
    if "IPython" in sys.modules:
        kernel = getattr(sys.modules["IPython"].get_ipython(), "kernel", None)
        if kernel is not None:
            return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stderr is not None and sys.stderr.isatty()


def bar(total: int, description: str, show: bool | None = None) -> tqdm:
    """A tqdm bar of `total` steps; `show=None` shows it if `someone_is_watching`."""
    show = someone_is_watching() if show is None else show
    return tqdm(total=total, desc=description, disable=not show, leave=False, dynamic_ncols=True)
