"""Reads what participants have saved: people as observers in the table of a transfer study."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from metalib.people.design import PHASES

FIRST = ("subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename")
NEEDED = (*FIRST, "kind", "generator", "stage", "seed", "replaced", "lost_focus", "experiment",
          "screening", "trials", *(f"{name}_ms" for name in PHASES),
          *(f"asked_{name}_ms" for name in PHASES))
KINDS = ("practice", "screening", "test", "catch")
TABLE = ("observer", "generator", "stage", "condition", "image", "category", "answer",
         "recognised", "agrees", "rt", "replaced", "kind")


@dataclass(frozen=True)
class Exclusions:
    """What is left out, fixed before the data are seen. None keeps all.

    Attributes:
        screening: leave out participants who failed the screening.
        complete: leave out participants who did not come to the end.
        catch: least share of catch trials that a participant has to get right.
        fastest, slowest: seconds; answers outside are left out.
        lost_focus: leave out trials in which the page lost the focus.
        off_by: milliseconds; trials in which a step was longer or shorter by more than that.

    Raises:
        ValueError: shares or times that are none.
    """

    screening: bool = True
    complete: bool = True
    catch: float | None = 0.75
    fastest: float | None = 0.15
    slowest: float | None = None
    lost_focus: bool = True
    off_by: float | None = 50.0

    def __post_init__(self):
        for name in ("catch", "fastest", "slowest", "off_by"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(
                    value, (int, float)) or not 0 <= value < float("inf")):
                raise ValueError(f"{name} is a number from 0 up, or None, not {value!r}")
        if self.catch is not None and self.catch > 1:
            raise ValueError(f"catch is a share of the catch trials, not {self.catch}")


def read(
    files: str | Path | Iterable[str | Path],
    exclusions: Exclusions | Mapping[str, Any] | str | Path | None = None,
) -> pd.DataFrame:
    """Read the files that participants have saved, and leave out what was declared beforehand.

    Args:
        files: a folder of CSV files, a pattern such as ``answers/*.csv``, or files.
        exclusions: an `Exclusions`, a dict of what differs from its defaults, or a YAML file of
            such a dict; None takes the defaults.

    Returns:
        pandas.DataFrame, one row for each trial of the test itself that is kept: `observer` (the
        participant and session), `generator`, `stage` and `condition` ("natural" for references),
        `image` (the number of the reference), `category` (the right answer), `answer`,
        `recognised` (whether it is right), `agrees` (whether it is the answer that this participant
        gave to the reference; missing where that was not shown), `rt` (seconds), `replaced`
        (whether the reference stood for a metamer that was none), `kind` ("test").
        `attrs["exclusions"]` is a table of what was left out and why, `attrs["participants"]` one
        of all participants, `attrs["declared"]` the exclusions as a dict.

    Raises:
        ValueError: no files, one that is no data of such a test, two experiments, a session twice,
            or unknown exclusions.
        FileNotFoundError: a file or folder that is not there.
    """
    declared = _declared(exclusions)
    rows: Any = pd.concat([_file(path) for path in _paths(files)], ignore_index=True)
    if len(found := rows["experiment"].unique()) > 1:
        raise ValueError(f"the files are of {len(found)} experiments ({', '.join(found)}); read "
                         "those of one at a time")
    origin = rows.groupby(["subj", "session"])["file"].unique()
    if (twice := origin[origin.map(len) > 1]).size:
        raise ValueError(f"the session {twice.index[0][1]} is in several files: "
                         f"{', '.join(twice.iloc[0])}")
    rows["observer"] = rows["subj"] + " " + rows["session"]
    rows["recognised"] = rows["object_response"] == rows["category"]
    participants = _participants(rows)
    reasons = _reasons(rows, participants, declared)
    test = rows["kind"] == "test"
    left_out = reasons.notna()
    report = (pd.DataFrame({"reason": reasons[test & left_out],
                            "observer": rows.loc[test & left_out, "observer"]})
              .groupby("reason").agg(trials=("observer", "size"),
                                     participants=("observer", "nunique")).reset_index())
    table = _tidy(rows[test & ~left_out])
    table.attrs = {"exclusions": report, "participants": participants,
                   "declared": asdict(declared)}
    return table


def _declared(exclusions: Any) -> Exclusions:
    if isinstance(exclusions, Exclusions):
        return exclusions
    if isinstance(exclusions, (str, Path)):
        exclusions = yaml.safe_load(Path(exclusions).expanduser().read_text())
    if exclusions is not None and not isinstance(exclusions, Mapping):
        raise ValueError("exclusions are a dict, such as {'catch': 0.75}")
    if unknown := set(exclusions or {}) - set(Exclusions.__dataclass_fields__):
        raise ValueError(f"unknown exclusions {', '.join(sorted(map(str, unknown)))}; there are "
                         f"{', '.join(Exclusions.__dataclass_fields__)}")
    return Exclusions(**(exclusions or {}))


def _paths(files: Any) -> list[Path]:
    """The files that are meant."""
    if not isinstance(files, (str, Path)):
        found = [Path(each).expanduser() for each in files]
    else:
        path = Path(files).expanduser()
        if path.is_dir():
            found = sorted(path.glob("*.csv"))
        elif "*" in path.name:
            found = sorted(path.parent.glob(path.name))
        else:
            found = [path]
    if not found:
        raise ValueError(f"there are no CSV files in {files}")
    if missing := [path for path in found if not path.is_file()]:
        raise FileNotFoundError(f"there is no file {missing[0]}")
    return found


def _file(path: Path) -> pd.DataFrame:
    """The rows of one file.

    Raises:
        ValueError: it is no data of such a test.
    """
    try:
        rows: Any = pd.read_csv(path, dtype={name: str for name in (
            "subj", "session", "object_response", "category", "condition", "imagename", "kind",
            "generator", "stage", "seed", "experiment", "screening")}, keep_default_na=False,
            na_values={name: [""] for name in ("rt", "trial")})
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors, too
        raise ValueError(f"{path} cannot be read as CSV ({error})") from error
    if missing := [name for name in NEEDED if name not in rows]:
        raise ValueError(f"{path} is no data of a metamer test: it has no column "
                         f"{', '.join(missing[:5])}")
    if rows.empty or not rows["kind"].isin(KINDS).all():
        raise ValueError(f"{path} has {'no rows' if rows.empty else 'trials of an unknown kind'}")
    if rows["trial"].duplicated().any():
        raise ValueError(f"{path} has a trial twice")
    for name in ("replaced", "lost_focus"):
        rows[name] = rows[name].astype(str).str.lower() == "true"
    return rows.assign(file=str(path))


def _participants(rows: Any) -> pd.DataFrame:
    """One row per participant: trials, whether all were done, screening, catch trials."""
    catch = rows[rows["kind"] == "catch"].groupby("observer")["recognised"].mean()
    grouped = rows.groupby("observer")
    return pd.DataFrame({
        "trials": grouped.size(), "of": grouped["trials"].first(),
        "screening": grouped["screening"].first(), "catch": catch}).reset_index()


def _reasons(rows: Any, participants: pd.DataFrame, declared: Exclusions) -> pd.Series:
    """Why each row is left out, the first reason that holds; missing where it is kept."""
    of: Any = participants.set_index("observer")
    person = rows["observer"].map
    durations = np.stack([rows[f"{name}_ms"] - rows[f"asked_{name}_ms"] for name in PHASES])
    rules = {
        "screening failed": declared.screening & (person(of["screening"]) != "passed"),
        "not complete": declared.complete & (person(of["trials"]) < person(of["of"])),
        "catch trials": person(of["catch"]) < (declared.catch or 0),
        "lost focus": declared.lost_focus & rows["lost_focus"],
        "too fast": rows["rt"] < (declared.fastest or 0),
        "too slow": rows["rt"] > (np.inf if declared.slowest is None else declared.slowest),
        "duration": pd.Series(np.abs(durations).max(0), rows.index) > (
            np.inf if declared.off_by is None else declared.off_by)}
    reasons = pd.Series(None, rows.index, dtype=object)
    for reason, holds in reversed(rules.items()):
        reasons[holds] = reason
    return reasons


def _tidy(rows: Any) -> pd.DataFrame:
    """Trials of the test as rows of a transfer study."""
    natural = rows[rows["condition"] == "natural"]
    own = natural.set_index(["observer", "imagename"])["object_response"]
    reference = pd.Series(own.reindex(pd.MultiIndex.from_frame(
        rows[["observer", "imagename"]])).to_numpy(), rows.index, dtype=object)
    same = (rows["object_response"] == reference).astype("boolean").mask(reference.isna())
    table = rows.assign(
        image=rows["imagename"].str.split().str[-1].astype(int), answer=rows["object_response"],
        agrees=same)
    return table[list(TABLE)].reset_index(drop=True)
