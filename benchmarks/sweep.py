"""Does a sweep survive kills, and what does it cost beside a plain loop?

    python benchmarks/sweep.py --kill               # 60 cells, two workers: kill -9 of one, then of the sweep with the scheduler
    python benchmarks/sweep.py --kill --apart       # the same with scheduler and workers as processes of their own
    python benchmarks/sweep.py --overhead           # cells of five seconds, over a loop: waiting ones, and ones that make metamers

The first two count how often each cell was computed, by a log to which every computation appends a line, and compare the table with
that of an undisturbed run. Everything listens on the loopback address only.
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
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


def start(*command, **environment):
    """A process of Python, with its output as text."""
    return subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "PYTHONPATH": PATHS, **environment})


def children(process):
    """The processes that a process started, by their ids; those of dask's workers only."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "spawn_main" in line]


def wait(condition, seconds=150):
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
    """When a computation of each cell began: a table of the numbers of the cells and times."""
    return pd.DataFrame([line.split() for line in Path(log).read_text().splitlines()], columns=["number", "time"]).astype(
        {"number": int, "time": float})


def kill_run(folder, cells, apart):
    """A sweep of which a worker, and then the scheduler, is killed, and that is started again. Returns its table and its log."""
    folder, out = Path(folder), Path(folder) / "out"
    study, log = folder / "study.yml", folder / "log"
    study.write_text(yaml.safe_dump({"task": "sweep_task:cell", "grid": {"number": list(range(cells))}}))
    for last in (False, True):
        scheduler, workers, options = None, [], ["--workers", 2]
        if apart:
            scheduler = start("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard")
            address = next(found[0] for line in scheduler.stdout if (found := re.search(r"tcp://[\d.]+:\d+", line)))
            workers = [start("-m", "distributed.cli.dask_worker", address, "--host", "127.0.0.1", "--nthreads", 1, "--no-dashboard",
                             "--death-timeout", 30, SWEEP_LOG=str(log)) for _ in range(2)]
            options = ["--scheduler", address]
        sweep = start("-m", "metalib.sweep", study, out, *options, SWEEP_LOG=str(log))
        if not last:
            wait(lambda: len(stored(out)) >= cells // 4)
            os.kill(children(workers[0] if apart else sweep)[-1], signal.SIGKILL)
            wait(lambda: len(stored(out)) >= cells // 2)
            os.kill((scheduler if apart else sweep).pid, signal.SIGKILL)
        output = sweep.communicate(timeout=600)[0]
        print(f"the sweep ended with {sweep.returncode}, {len(stored(out))} of {cells} cells stored:", *output.splitlines()[-1:])
        for process in [*workers, *([scheduler] if apart else [])]:
            process.kill() if last else None
            process.communicate(timeout=120)
    return pd.read_parquet(out / "table.parquet"), begun(log), out


def check_kill(cells, apart):
    from sweep_task import cell
    with tempfile.TemporaryDirectory() as folder:
        table, log, out = kill_run(folder, cells, apart)
        times = stored(out)
    os.environ["SWEEP_LOG"] = os.devnull
    undisturbed = pd.DataFrame([{"number": number, **cell(number, seconds=0)} for number in range(cells)])
    pd.testing.assert_frame_equal(table.drop(columns="cell"), undisturbed)
    late = log["time"] > log["number"].map(dict(zip(table["number"], table["cell"].map(times))))
    print(f"{table['cell'].nunique()} of {cells} cells in the table, {len(log)} computations begun, {late.sum()} of a stored cell; "
          "the table is that of a loop")
    assert not late.any() and len(times) == cells and len(log) <= cells + 4


def cost(task, grid, parameters, loop):
    """Seconds of a sweep on two workers, over half of those of a loop that runs right before it."""
    from metalib.sweep import sweep
    began = time.perf_counter()
    for values in loop:
        task(**values, **parameters)
    plain = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        sweep(task, grid, directory=folder, parameters=parameters, workers=2, threads=1)
        return time.perf_counter() - began, plain * len(list(grid.values())[0]) / len(loop) / 2


def check_overhead(cells):
    """Waiting cells need no processor, so that what is left is the sweep's own; metamers need one processor for each worker."""
    from sweep_task import cell

    from metalib.tasks import generation
    os.environ["SWEEP_LOG"] = os.devnull
    for name, task, parameters, key in (
            ("waiting", cell, {"seconds": 5.0}, "number"),
            ("metamers", generation, {"model": "zoo/vgg-standard-0", "stage": "group3", "n_images": 10, "steps": 85,
                                      "until_passed": False}, "seed")):
        took, ideal = cost(task, {key: list(range(cells))}, parameters, [{key: number} for number in range(4)])
        print(f"{cells} {name} cells of {2 * ideal / cells:.1f} s on two workers: {took:.1f} s, {took / ideal - 1:.1%} above half "
              "of a loop, start and end of the workers included", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--cells", type=int, default=60)
    arguments = parser.parse_args()
    if arguments.kill:
        check_kill(arguments.cells, arguments.apart)
    if arguments.overhead:
        check_overhead(arguments.cells)
