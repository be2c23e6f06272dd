"""A task for tests/test_sweep.py and benchmarks/sweep.py: workers import it by name. It logs when it begins."""
import os
import time


def cell(number, seconds=0.5, bad=()):
    """Appends a line to the file that the environment variable SWEEP_LOG names, and returns a row after some seconds."""
    log = os.open(os.environ["SWEEP_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{number} {time.time()}\n".encode())
    os.close(log)
    time.sleep(seconds)
    if number in bad:
        raise ArithmeticError(f"{number} is bad")
    return {"square": number ** 2}
