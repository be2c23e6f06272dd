"""Does a sweep survive kills, and what does it cost beside a plain loop?

    python benchmarks/sweep.py       # 60 cells, two workers; writes results/benchmark-sweep.parquet

There are three runs: undisturbed; `kill -9` of a worker and then of the sweep, which has the
scheduler; and the same with scheduler and workers as processes of their own. Runs that the table
has are passed over. Every computation appends a line to a log, which tells how often each cell was
computed. Added time is the time from the first computation to the last stored cell, over that of
two plain loops side by side; the time to start and to end processes stands beside it. Everything
listens on the loopback address only.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import tables
import yaml

ROOT = Path(__file__).parents[1]
SECONDS = 5.0  # of a cell whose overhead is measured
sys.path.insert(0, str(ROOT / "tests"))
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


def start(*command, **environment):
    """A process of Python, with its output as text."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, "PYTHONPATH": PATHS, **environment})


def children(process):
    """The workers that a process started, by their ids."""
    return [child.pid for child in psutil.Process(process.pid).children()
            if any("spawn_main" in part for part in child.cmdline())]


def wait(condition, seconds=300):
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("waited too long")
        time.sleep(0.02)


def stored(folder):
    """The time at which each cell was stored, by its address."""
    return {path.stem: path.stat().st_mtime for path in Path(folder).glob("cells/*.parquet")}


def begun(log):
    """When each computation began: a table of the numbers of cells and times."""
    return pd.DataFrame(
        [line.split() for line in Path(log).read_text().splitlines()],
        columns=["number", "time"]).astype({"number": int, "time": float})


def kill_run(folder, cells, apart):
    """Kill a worker of a sweep, and then its scheduler; then start the sweep again.

    Returns its table, its log and the folder of its results.
    """
    folder, out = Path(folder), Path(folder) / "out"
    study, log = folder / "study.yml", folder / "log"
    study.write_text(yaml.safe_dump(
        {"task": "sweep_task:cell", "grid": {"number": list(range(cells))}}))
    for last in (False, True):
        scheduler, workers, options = None, [], ["--workers", 2]
        if apart:
            scheduler = start("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1",
                              "--port", 0, "--no-dashboard")
            address = next(found[0] for line in scheduler.stdout
                           if (found := re.search(r"tcp://[\d.]+:\d+", line)))
            workers = [
                start("-m", "distributed.cli.dask_worker", address, "--host", "127.0.0.1",
                      "--nthreads", 1, "--no-dashboard", "--death-timeout", 30,
                      SWEEP_LOG=str(log)) for _ in range(2)]
            options = ["--scheduler", address]
        sweep = start("-m", "metalib.sweep", study, out, *options, SWEEP_LOG=str(log))
        if not last:
            wait(lambda: len(stored(out)) >= cells // 4)
            os.kill(children(workers[0] if apart else sweep)[-1], signal.SIGKILL)
            wait(lambda: len(stored(out)) >= cells // 2)
            os.kill((scheduler if apart else sweep).pid, signal.SIGKILL)
        output = sweep.communicate(timeout=600)[0]
        print(f"the sweep ended with {sweep.returncode}, {len(stored(out))} of {cells} cells "
              "stored:", *output.splitlines()[-1:])
        for process in [*workers, *([scheduler] if apart else [])]:
            process.kill() if last else None
            process.communicate(timeout=120)
    return pd.read_parquet(out / "table.parquet"), begun(log), out


def check_kill(cells, apart):
    """A row of the record: what a killed sweep computed, compared with a loop."""
    from sweep_task import cell
    with tempfile.TemporaryDirectory() as folder:
        table, log, out = kill_run(folder, cells, apart)
        times = stored(out)
    os.environ["SWEEP_LOG"] = os.devnull
    undisturbed = pd.DataFrame(
        [{"number": number, **cell(number, seconds=0)} for number in range(cells)])
    late = log["time"] > log["number"].map(dict(zip(table["number"], table["cell"].map(times))))
    return {"stored": len(times), "computations begun": len(log),
            "of a stored cell": int(late.sum()),
            "table as of a loop": table.drop(columns="cell").equals(undisturbed)}


def check_overhead(cells):
    """A row of the record: the time that a sweep adds.

    Cells only wait and need no processor, so the added time is the sweep's, even on a busy machine.
    """
    from metalib.runs.sweep import sweep
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SWEEP_LOG"] = f"{folder}/log"
        began = time.time()
        sweep("sweep_task:cell", {"number": list(range(cells))}, directory=folder,
              parameters={"seconds": SECONDS}, workers=2)
        took, last = time.time() - began, max(stored(folder).values())
        span = last - begun(f"{folder}/log")["time"].min()
    return {"stored": cells,
            "added while computing (%)": round(100 * (span * 2 / cells / SECONDS - 1), 1),
            "start and end (s)": round(took - span, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=tables.FOLDER, help="of the table")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = PATHS
    for what, check, options in (
            (f"undisturbed, {SECONDS:.0f} s a cell", check_overhead, {}),
            ("worker, then sweep with scheduler killed", check_kill, {"apart": False}),
            ("worker, then scheduler killed; workers apart", check_kill, {"apart": True})):
        if what not in set(tables.read("sweep", arguments.folder).get("what", [])):
            row = {"what": what, "cells": arguments.cells, **check(arguments.cells, **options)}
            print(row, flush=True)
            assert (row["stored"] == row["cells"] and not row.get("of a stored cell")
                    and row.get("table as of a loop", True))
            tables.add("sweep", [row], arguments.folder)
