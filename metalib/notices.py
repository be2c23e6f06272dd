"""Warnings that name the line of the user's own code."""

import sys
import warnings


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of the line outside of the package from which it was called."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] == "metalib":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
