"""Tables of measurements, `results/benchmark-NAME.parquet`, which chapters read.

Other than the tables of studies, these hold seconds and megabytes of one machine, which no other
machine can be asked to repeat. Each row says on which hardware and when it was measured.
"""

from pathlib import Path

import pandas as pd

from metalib import store

FOLDER = Path(__file__).parents[1] / "results"


def read(name, folder=FOLDER):
    """The rows there are, or a table of none."""
    path = Path(folder) / f"benchmark-{name}.parquet"
    return store.load_table(path) if path.is_file() else pd.DataFrame({"hardware": []})


def here(rows, **about):
    """Rows with this machine, the date, and what else holds for all of them."""
    made = store.provenance()
    return pd.DataFrame(rows).assign(
        **about, hardware=made["hardware"], date=made["date"][:10])


def write(name, table, folder=FOLDER, **about):
    """Save a table whole; its rows carry the hardware and date of their own."""
    path = Path(folder) / f"benchmark-{name}.parquet"
    store.save_table(table.reset_index(drop=True), path,
                     **{"benchmark": f"benchmarks/{name}.py", **about})


def replace(name, rows, folder=FOLDER, **about):
    """Save rows of this machine in place of those that it had, and keep those of others."""
    old, new = read(name, folder), here(rows, **about)
    write(name, pd.concat([old[old["hardware"] != new["hardware"].iloc[0]], new]), folder)


def add(name, rows, folder=FOLDER, **about):
    """Save rows of this machine after those there are."""
    write(name, pd.concat([read(name, folder), here(rows, **about)]), folder)
