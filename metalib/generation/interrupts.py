"""Ctrl-C and SIGTERM as requests, which a run sees after each step, so that it ends as a whole.

    with deferred():
        metamers = generate(...)     # ends after the step in which a signal came
        save(metamers, folder)       # is not disturbed
        if received(): ...
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

_numbers: list[int] = []  # of the signals, the first first; a process has only one set of handlers


class Stopped(KeyboardInterrupt):
    """A signal ended a run; what it had done is saved.

    Attributes:
        number: of the signal, such as signal.SIGTERM.
    """

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """As long as this lasts, Ctrl-C (SIGINT) and SIGTERM are noted and do nothing else.

    In another than the main thread, which gets no signals, it changes nothing.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, lambda number, _: _numbers.append(number))
                  for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _numbers.clear()


def received() -> int:
    """Within `deferred`, the number of the first signal that came; 0 if there was none."""
    return _numbers[0] if _numbers else 0
