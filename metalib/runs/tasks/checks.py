"""What tasks ask before they compute, and what they keep."""

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import pandas as pd

from metalib.data import ImageSet, load_images
from metalib.evaluation.inventory import Entry, Loader
from metalib.models.registry import size_of
from metalib.plain import whole

Task = TypeVar("Task", bound=Callable)


def checked_by(check: Callable[..., object], sized_by: str = "") -> Callable[[Task], Task]:
    """Give a task a check, which `sweep` calls for every cell before it computes the first one.

    Args:
        check: a function of the task's keywords, defaults included, that raises a ValueError where
            they are wrong; what it returns is ignored.
        sized_by: the argument that names the network, or the first of several, whose size of
            images stands for a `size` of None.
    """
    def filled(values: dict[str, Any]) -> dict[str, Any]:
        if not sized_by or values.get("size") is not None:
            return values
        names = values[sized_by]
        return values | {"size": size_of(names if isinstance(names, str) else next(iter(names)))}

    def give(task: Task) -> Task:
        @functools.wraps(task)
        def run(*given: Any, **named: Any) -> Any:
            bound = inspect.signature(task).bind(*given, **named)
            bound.apply_defaults()
            bound.arguments.update(filled(bound.arguments))
            return task(*bound.args, **bound.kwargs)

        vars(run).update(check=check, filled=filled)
        return cast(Task, run)

    return give


@functools.lru_cache(maxsize=4)
def known(
    image_set: str, split: str | None, n_images: int, size: int | None, allow_pickle: bool = False,
    cards: str = "{}",
) -> tuple[ImageSet, Loader]:
    """Images, and what has been found out about models that are to take them."""
    images = load_images(image_set, split=split, n=whole("n_images", n_images, 1), size=size)
    return images, Loader("cpu", allow_pickle, json.loads(cards))


def check_stage(entry: Entry, stage: str) -> None:
    """Raise a ValueError that lists the stages of a network if it does not have this one."""
    if stage not in entry.stages:
        raise ValueError(f"{entry.name} has no stage {stage!r}; its stages are "
                         f"{', '.join(entry.stages)}")


def check_labels(images: ImageSet, image_set: str) -> None:
    """Raise a ValueError if the class of an image is not known."""
    if (images.labels < 0).any():
        raise ValueError(f"{image_set} has images without labels")


def only(table: pd.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Some columns of a table, after those that name its rows, with numbers in single precision.

    Raises:
        ValueError: a column that the table does not have.
    """
    if missing := [name for name in (*keys, *columns) if name not in table]:
        raise ValueError(f"there is no column {', '.join(missing)}; choose from "
                         f"{', '.join(map(str, table.columns))}")
    chosen: Any = table[list(dict.fromkeys([*keys, *columns]))]
    return chosen.astype(dict.fromkeys(chosen.select_dtypes("float64"), "float32"))
