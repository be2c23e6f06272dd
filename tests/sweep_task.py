"""A task for tests/test_sweep.py and benchmarks/sweep.py, which workers import by name."""

import os
import time


def cell(number, seconds=0.5, bad=()):
    """Return a row after some seconds.

    First append the number and the time to the file named by the environment variable SWEEP_LOG.
    """
    log = os.open(os.environ["SWEEP_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{number} {time.time()}\n".encode())
    os.close(log)
    time.sleep(seconds)
    if number in bad:
        raise ArithmeticError(f"{number} is bad")
    return {"square": number ** 2}


def many(number):
    """Return so many rows that need no log."""
    return [{"square": n ** 2} for n in range(number)]
