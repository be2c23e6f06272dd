"""Ctrl-C while a command is still importing torch, which takes seconds: one line, no traceback.

`metalib` imports this first; the commands call `done` when they begin to listen themselves.
"""

import os
import signal
import sys
from pathlib import Path


def _is_command(arguments: list[str]) -> bool:
    """Whether a process was started as `python -m metalib...` or as `metalib`."""
    if "-m" in arguments:
        following = arguments[arguments.index("-m") + 1:]
        return bool(following) and following[0].partition(".")[0] == "metalib"
    return len(arguments) > 1 and Path(arguments[1]).name == "metalib"


def _end(number: int, _frame: object) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several ranks, the first speaks
        os.write(2, b"interrupted before anything was begun; start the same command again\n")
    os._exit(128 + number)  # an exception would be lost in what is imported now


def done() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_command(sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
