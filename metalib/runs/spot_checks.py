"""Random cells of a study, computed again and compared with its table."""

import random
import warnings
from typing import Any

import numpy as np
import pandas as pd

from metalib.runs import sweep as sweeps
from metalib.runs.study import Stale, Study, images_of

AT_MOST = 60.0  # seconds that the cells of one study took when its table was made


def check(
    study: Study, stored: pd.DataFrame, *, cells: int = 3, seed: int | None = None,
) -> pd.DataFrame:
    """Compute some random cells of a study again, and compare them with its table.

    Args:
        study: of `load_study`.
        stored: its table.
        cells: how many of them. Where these took more than a minute in all when the table was
            made, it is fewer, though at least one.
        seed: of the choice; None chooses by chance.

    Returns:
        pandas.DataFrame: a row for each cell and column with a tolerance: `found`, the difference,
        `allowed`, and `holds`. It is empty, with a warning, where the images of the study or all
        its networks are not on this machine.

    Raises:
        Stale: the images are others than the table was made with.
        ValueError: rows that the table lacks, or no column that can be compared.
    """
    about = stored.attrs["provenance"]
    here = [(file, values) for file, values in study.cells(known=about["weights"])
            if all(map(sweeps.is_here, file.about["weights"]))]
    drawn = random.Random(seed).sample(here, min(cells, len(here)))
    took = np.cumsum([about["cells"].get(file.address, {}).get("seconds", 0) for file, _ in drawn])
    chosen = drawn[:max(1, int((took <= AT_MOST).sum()))]
    try:
        if not here:
            raise FileNotFoundError("none of its cells has all its networks on this machine")
        images = images_of(study, chosen)
    except FileNotFoundError as error:
        warnings.warn(f"{study.name} is not checked: {error}", RuntimeWarning, stacklevel=2)
        return pd.DataFrame(columns=["study", "cell", "column", "found", "allowed", "holds"])
    known = about["images"]
    if others := [key for key, value in images.items() if known.get(key, value) != value]:
        raise Stale(
            f"results/{study.name}.parquet was made from other images: {', '.join(others)}")
    rows = [row for file, values in chosen for row in _compared(
        study, stored[stored["cell"] == file.address], values, file.address)]
    return pd.DataFrame(rows)


def _compared(
    study: Study, stored: Any, values: dict[str, Any], address: str,
) -> list[dict[str, Any]]:
    """One cell, computed again as the study's check says, against its stored rows."""
    again = sweeps.as_rows(sweeps.function_of(study.task)(**{**values, **study.check}))
    columns = [column for column in study.tolerances if column in again and column in stored]
    if not columns:
        raise ValueError(f"no column of {study.name} has a tolerance and can be compared")
    keys = [column for column in again if column in stored and _is_key(again[column])
            and column not in study.tolerances and column not in study.check]
    if not keys:  # rows that follow each other
        keys, again, stored = ["row"], *(rows.assign(row=range(len(rows))) for rows in (
            again, stored))
    both = again.merge(stored, on=keys, how="left", suffixes=(" again", ""), indicator=True)
    if len(both) != len(again) or set(both["_merge"]) != {"both"}:
        raise ValueError(f"the table of {study.name} lacks rows of the cell {values}, or has them "
                         f"more than once (rows are known by {', '.join(keys)})")
    return [{"study": study.name, "cell": address[:12], "column": column, **_difference(
        both[f"{column} again"], both[column], study.tolerances[column])} for column in columns]


def _is_key(column: Any) -> bool:
    return not pd.api.types.is_float_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _difference(again: Any, stored: Any, tolerance: float | str) -> dict[str, Any]:
    """How far two columns differ, how far they may, and whether they do not differ more.

    Numbers: the mean absolute difference; a missing value is like another missing one only.
    Texts and truth values: the share of rows that differ. Of three or more rows one always may,
    since it may stand at a threshold, which it then passes on one machine and misses on another.
    """
    relative = isinstance(tolerance, str)
    allowed = float(tolerance.removesuffix("%")) / 100 if isinstance(tolerance, str) else tolerance
    numbers = all(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
                  for column in (again, stored))
    if numbers:
        one, other = again.to_numpy(float), stored.to_numpy(float)
        same = (one == other) | (np.isnan(one) & np.isnan(other))  # also both infinite
        apart = np.abs(np.where(same, 0, one) - np.where(same, 0, other))
        found = float(np.where(np.isnan(apart), np.inf, apart).mean())
        finite = np.abs(other[np.isfinite(other)])
        allowed *= finite.mean() if relative and len(finite) else 1
    else:
        found = float((again.astype(str).to_numpy() != stored.astype(str).to_numpy()).mean())
        allowed = max(allowed, 1 / len(again)) if len(again) > 2 else allowed
    return {"found": found, "allowed": allowed, "holds": bool(found <= allowed + 1e-12)}
