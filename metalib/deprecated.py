"""Keywords of an earlier version, which work for one release and say what to write instead."""

import functools
import warnings
from collections.abc import Callable
from typing import Any


def renamed(**names: str) -> Callable[[Callable], Callable]:
    """Let a function take keywords by old names, with a DeprecationWarning.

    Args:
        **names: the present name for each old one, as in `renamed(bootstraps="resamples")`.
    """
    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            for old in names.keys() & keywords.keys():
                warnings.warn(f"{old} is called {names[old]} now, and will be refused from 0.3 on",
                              DeprecationWarning, stacklevel=2)
                keywords[names[old]] = keywords.pop(old)
            return function(*arguments, **keywords)

        return wrapper

    return decorate
