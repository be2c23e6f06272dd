"""How runs end: signals, full disks, bounded caches; the commands `metalib.run` and `.sweep`."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import torch
import yaml
from conftest import RECIPE, one_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_joint import started

from metalib import generate, load_images, representation_test, store
from metalib.generation.metamers import FILE, export, load, save
from metalib.runs import recipe, sweep
from metalib.runs.recipe import run

resource = pytest.importorskip("resource")  # no limits of files elsewhere
LINE = "the same command"
SMALL = {"models": ["zoo/vgg-robust-0"], "stages": ["group1"], "steps": 6,
         "images": {"source": "cifar10-samples", "n": 2}}


def wait(condition, process):
    for _ in range(6000):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.02)


def ended(process, *numbers):
    """Send signals to all processes of a command, as a terminal does; what it printed."""
    for number in numbers:
        os.killpg(process.pid, number)
    return process.communicate(timeout=120)[0]


@contextlib.contextmanager
def full_disk(room=300):
    """Let no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def content(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# --- Signals ------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_within_a_step_and_it_goes_on(tmp_path, monkeypatch, number):
    """Signals come while the first checkpoint is saved; the second of them does nothing."""
    undisturbed, save_as_ever = run(SMALL, tmp_path / "whole"), recipe.files.save

    def disturbed(metamers, folder):
        save_as_ever(metamers, folder)
        if not seen:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGINT)
        seen.append(next(iter(metamers.unfinished.values())).step)

    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(recipe.files, "save", disturbed)
        with pytest.raises(KeyboardInterrupt) as stop:
            run(SMALL, tmp_path / "run", checkpoint_every=2)
    assert seen == [2] and stop.value.number == number
    assert signal.getsignal(number) == (
        signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    again = run(SMALL, tmp_path / "run")
    assert torch.equal(again.images, undisturbed.images) and again.status == undisturbed.status
    torch.testing.assert_close(again.loss, undisturbed.loss, rtol=0, atol=0)


def test_the_loop_stops_after_the_step_in_which_a_signal_came(tmp_path):
    from metalib.generation import loop
    from metalib.generation.interrupts import deferred, received
    model, images = recipe.load_model(SMALL["models"][0]), load_images("cifar10-samples", n=2)
    advance = loop.advance

    def advanced(position, *rest):
        if position.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(position, *rest)

    with pytest.MonkeyPatch.context() as patched, deferred():
        patched.setattr(loop, "advance", advanced)
        metamers = generate(model, images, "group1", steps=9, check_every=50)
        assert metamers.interrupted and metamers.evaluations.tolist() == [4, 4]
        assert received() == signal.SIGINT
    assert not received() and not generate(model, images, "group1", steps=2).interrupted


def test_ctrl_c_ends_the_command_with_one_line_and_130(tmp_path, one_process):
    process = started(tmp_path, RECIPE, 1, "--checkpoint-every", "2")
    wait((tmp_path / "run" / FILE).is_file, process)
    output = ended(process, signal.SIGINT, signal.SIGINT)
    assert process.returncode == 130, output
    assert len(output.splitlines()) == 1 and LINE in output and str(tmp_path / "run") in output
    assert load(tmp_path / "run").interrupted
    with one_thread():
        again = run(RECIPE, tmp_path / "run")
    assert torch.equal(again.images, one_process.images)
    torch.testing.assert_close(again.loss, one_process.loss, rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="not Linux")
@pytest.mark.parametrize("command", ["metalib.run", "metalib"])
def test_ctrl_c_while_torch_is_imported_is_one_line(command):
    process = subprocess.Popen([sys.executable, "-m", command, "some.yml", "run"], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    maps = Path(f"/proc/{process.pid}/maps")
    wait(lambda: "libtorch" in maps.read_text(), process)
    output = ended(process, signal.SIGINT)
    assert process.returncode == 130 and len(output.splitlines()) == 1 and LINE in output, output


@pytest.mark.parametrize("launcher, number, codes", [
    ("torchrun", signal.SIGINT, {1}), ("--processes", signal.SIGTERM, {143})])
def test_ranks_agree_on_where_to_stop(tmp_path, launcher, number, codes):
    long = {**RECIPE, "steps": 20_000, "check_every": 3}
    several = launcher == "torchrun"
    arguments = ["--checkpoint-every", "4", *([] if several else ["--processes", "2"])]
    process = started(tmp_path, long, 2 if several else 1, *arguments)
    wait((tmp_path / "run" / FILE).is_file, process)
    output = ended(process, number)
    assert process.returncode in codes and output.count(LINE) == 1, output
    if not several:  # torchrun adds a report of its own
        assert len(output.splitlines()) == 1, output
    metamers = load(tmp_path / "run")
    assert metamers.interrupted and 0 < metamers.evaluations[0] < 20_000
    assert metamers.recipe["ranks"] == 2


def test_ctrl_c_while_models_are_loaded_is_one_line_too(tmp_path, monkeypatch, capsys, handlers):
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(SMALL))
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        monkeypatch.setattr(recipe, "load_model", lambda _, sent=number: os.kill(os.getpid(), sent))
        with pytest.raises(SystemExit) as end:
            recipe.main([str(tmp_path / "recipe.yml"), str(tmp_path / "run")])
        assert end.value.code == code
        output = capsys.readouterr().err
        assert len(output.splitlines()) == 1 and LINE in output


@pytest.mark.parametrize("running", [False, True], ids=["starting", "running"])
def test_ctrl_c_ends_a_sweep_in_one_line_and_keeps_its_cells(tmp_path, running):
    """Also before Dask's workers, which get the signal too, are there."""
    pytest.importorskip("distributed")
    study = {"task": "sweep_task:cell", "grid": {"number": list(range(50))}}
    (tmp_path / "study.yml").write_text(yaml.safe_dump(study))
    tests, out = Path(__file__).parent, tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "metalib.sweep", str(tmp_path / "study.yml"), str(out),
         "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={
            **os.environ, "SWEEP_LOG": str(tmp_path / "log"),
            "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])})
    wait((lambda: list(out.glob("cells/*.parquet"))) if running else (out / "cells").is_dir,
         process)
    time.sleep(0 if running else 1)
    if running and Path("/proc/self/status").is_file():  # the worker never sees the signal
        blocked = [_blocked(child.pid) for child in psutil.Process(process.pid).children()
                   if any("spawn_main" in part for part in child.cmdline())]
        assert blocked and all(mask & 1 << signal.SIGINT - 1 for mask in blocked)
    output = ended(process, signal.SIGINT)
    assert process.returncode == 130, output
    lines = [line for line in output.splitlines() if "dashboard:" not in line]
    assert len(lines) == 1 and LINE in lines[0], output
    assert bool(list(out.glob("cells/*.parquet"))) == running


def _blocked(process):
    """The signals that a process blocks, as bits."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"^SigBlk:\s*(\w+)", status, flags=re.MULTILINE)[1], 16)


def test_an_interrupted_test_keeps_what_was_read(tmp_path, small, samples, monkeypatch):
    from metalib.evaluation import observers
    pictures = [samples[:4], samples[4:8].images]
    options = {"stages": ["2", "3"], "nulls": ["random"], "cache": tmp_path}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(observers, "_control_similarity",
                        lambda *_: os.kill(os.getpid(), signal.SIGINT))
        representation_test(small, *pictures, **options)
    assert len(list(tmp_path.iterdir())) == 2
    again = representation_test(small, *pictures, **options)
    pd.testing.assert_frame_equal(
        again, representation_test(small, *pictures, **{**options, "cache": False}))


# --- Options ------------------------------------------------------------------------------------

@pytest.mark.parametrize("command, option, wrong", [
    *[(recipe.main, option, wrong) for option in ("--checkpoint-every", "--processes")
      for wrong in ("0", "-1", "1.5", "x")],
    *[(recipe.main, "--timeout", wrong) for wrong in ("0", "-1", "nan", "inf", "x")],
    *[(sweep.main, option, wrong) for option in ("--workers", "--threads")
      for wrong in ("0", "-1", "x")],
    (sweep.main, "--retries", "-1"), (sweep.main, "--retries", "x")])
def test_impossible_options_are_refused_at_once(tmp_path, capsys, command, option, wrong):
    with pytest.raises(SystemExit) as end:
        command([str(tmp_path / "none.yml"), str(tmp_path / "out"), f"{option}={wrong}"])
    assert end.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: it must be a" in error and error.endswith(f"not {wrong}")
    assert not list(tmp_path.iterdir())


def test_checkpoints_are_at_least_one_evaluation_apart(tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every .* of at least 1, not 0"):
        run(SMALL, tmp_path, checkpoint_every=0)


# --- Files --------------------------------------------------------------------------------------

def writers(folder, metamers):
    """Each way of writing, twice with different content."""
    table = pd.DataFrame({"number": range(5000)})
    tensors, address = {"activations": torch.rand(1000)}, "0" * 40
    yield lambda: save(metamers, folder)
    yield lambda: export(metamers, folder)
    yield lambda: store.save_table(table, folder / "table.parquet")
    yield lambda: store.TensorFile(folder, address).write(tensors)
    yield lambda: store.TableFile(folder, address).write(table)


def test_a_full_disk_is_an_error_that_names_the_file_and_changes_none(tmp_path, small, samples):
    metamers = generate(small, samples[:2], "2", steps=1)
    for write in writers(tmp_path, metamers):
        for _ in range(2):  # first nothing is there, then what was written before
            before = content(tmp_path)
            with full_disk(), pytest.raises(OSError, match=f"cannot write {tmp_path}/.*large"):
                write()
            assert content(tmp_path) == before
            write()


def test_a_cell_that_cannot_be_stored_is_one_that_failed_and_leaves_nothing(tmp_path):
    pytest.importorskip("papermill")
    parameters = nbformat.v4.new_code_cell("a: int = 1  # one", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters], metadata={"kernelspec": {
        "name": "python3", "language": "python", "display_name": "Python 3"}}),
        tmp_path / "n.ipynb")
    (tmp_path / "cells").mkdir()
    before, file = content(tmp_path), store.TableFile(tmp_path / "cells", "0" * 40)
    for task, values in ((tmp_path / "n.ipynb", {}), ("sweep_task:many", {"number": 3})):
        with full_disk():
            failure = sweep.compute(task, values, file)
        assert "File too large" in failure["error"] and "could not be written" in failure["see"]
        assert content(tmp_path) == before


def test_the_command_tells_of_a_full_disk_in_one_line(tmp_path, capsys, handlers):
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump({**SMALL, "steps": 3}))
    save(generate(recipe.load_model(SMALL["models"][0]), load_images(**SMALL["images"]),
                  SMALL["stages"], steps=3, pause=1), tmp_path / "run")
    before = content(tmp_path)
    with full_disk(), pytest.raises(SystemExit) as end:
        recipe.main([str(tmp_path / "recipe.yml"), str(tmp_path / "run")])
    assert "cannot write" in end.value.code and "\n" not in end.value.code
    assert content(tmp_path) == before


def test_a_smaller_export_leaves_no_older_pictures_but_those_of_others(tmp_path, small, samples):
    metamers = generate(small, samples[:4], "2", steps=1)
    export(metamers, tmp_path)
    others = {"mine.png", "1.png", "00002.png", "0009.txt", "²0.png"}
    for name in others:
        (tmp_path / "images" / name).touch()
    export(metamers[:2], tmp_path)
    for name, kept in (("images", others), ("references", set())):
        found = {path.name for path in (tmp_path / name).iterdir()}
        assert found == {"0000.png", "0001.png"} | kept


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(sizes=st.lists(st.integers(0, 50), max_size=6), limit=st.integers(0, 120))
def test_files_that_were_used_last_are_kept(tmp_path_factory, sizes, limit):
    folder = tmp_path_factory.mktemp("cache")
    (folder / "mine.txt").write_bytes(b"x" * 500)
    for number, size in enumerate(sizes):
        path = folder / f"{number:040x}.bin"
        path.write_bytes(b"x" * size)
        os.utime(path, ns=(0, number))
    store.keep_recent(folder, "bin", (limit + 0.5) / 1e9)  # whatever way gigabytes are rounded
    left = sorted(int(path.stem, 16) for path in folder.glob("*.bin"))
    assert left == list(range(len(sizes)))[len(sizes) - len(left):]
    assert sum(sizes[number] for number in left) <= limit
    assert len(left) == len(sizes) or sum(sizes[len(sizes) - len(left) - 1:]) > limit
    assert (folder / "mine.txt").is_file()


def test_the_cache_of_activations_is_bounded(tmp_path, small, samples, monkeypatch):
    def tested(stage, limit):
        monkeypatch.setenv("METALIB_CACHE_GB", limit)
        representation_test(small, samples[:4], samples[4:8].images, stages=[stage],
                            nulls=["random"], cache=tmp_path)
        return {path.name for path in tmp_path.iterdir()}

    first = tested("2", "1")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert len(tested("3", "1")) == 2
    assert tested("2", "1") >= first  # it is used again, and later than the other
    used = tested("1", f"{size * 3 / 1e9}")  # of three times as many units: it does not fit
    assert first <= used
    assert tested("1", "0") == used  # nothing is added
    with pytest.raises(ValueError, match="METALIB_CACHE_GB is a number of gigabytes"):
        tested("1", "much")
