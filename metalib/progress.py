"""Progress bars for people: in a terminal and in an interactive notebook, never in a built page, a batch run or a log."""
import sys

from tqdm.auto import tqdm


def someone_is_watching():
    """Whether a progress bar would be seen while it moves.

    A notebook kernel is told with each cell whether its front end can ask for input. Jupyter's own front ends can; the
    programs that execute whole notebooks (nbclient and with it papermill and jupyter-book, nbval) say that they cannot.
    """
    if "IPython" in sys.modules:
        kernel = getattr(sys.modules["IPython"].get_ipython(), "kernel", None)
        if kernel is not None:
            return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stderr is not None and sys.stderr.isatty()


def bar(total, description, show=None):
    """A tqdm bar; `show=None` asks `someone_is_watching`."""
    show = someone_is_watching() if show is None else show
    return tqdm(total=total, desc=description, disable=not show, leave=False, dynamic_ncols=True)
