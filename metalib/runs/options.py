"""Types of the options of commands, for argparse: what is wrong is said before anything runs."""

import argparse
import math


def count(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it must be a whole number from 1 on, not {text}")
    return int(text)


def count_or_none(text: str) -> int:
    """A whole number from 0 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"it must be a whole number from 0 on, not {text}")
    return int(text)


def seconds(text: str) -> float:
    """A number of seconds above 0.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"it must be a number of seconds above 0, not {text}")
    return number
