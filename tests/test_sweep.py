"""Sweeps: kills, failures, addresses, notebooks, tables with provenance; records of chapters."""

import os
import signal
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from metalib import generate, judge, load_images, load_model, load_null, store, transfer_study
from metalib.models.sources import SOURCES, Source
from metalib.runs.sweep import collect, main, sweep

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import sweep as processes  # noqa: E402, the functions of benchmarks/sweep.py

CELL = "sweep_task:cell"
KERNEL = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def test_kills_lose_nothing_and_repeat_nothing_that_was_stored(tmp_path, log, scheduler):
    """A worker and then the sweep with its scheduler are killed; another sweep finishes."""
    numbers, out = list(range(12)), tmp_path / "out"
    study = {"task": CELL, "grid": {"number": numbers}, "parameters": {"seconds": 1.0}}
    (tmp_path / "study.yml").write_text(yaml.safe_dump(study))
    process = processes.start(
        "-m", "metalib.sweep", tmp_path / "study.yml", out, "--workers", 2)
    processes.wait(lambda: len(processes.stored(out)) >= 2)
    os.kill(processes.children(process)[-1], signal.SIGKILL)
    processes.wait(lambda: len(processes.stored(out)) >= 5)
    process.kill()
    process.communicate(timeout=60)
    first = processes.stored(out)
    assert 5 <= len(first) < 12
    table = sweep(**study, directory=out, scheduler=scheduler)
    assert table[["number", "square"]].equals(
        pd.DataFrame({"number": numbers, "square": [n ** 2 for n in numbers]}))
    stored = processes.stored(out)
    assert stored.items() >= first.items() and len(stored) == 12  # nothing was written again
    begun = processes.begun(log)
    assert (begun["time"] < begun["number"].map(
        dict(zip(table["number"], table["cell"].map(stored))))).all()
    assert len(begun) <= 12 + 4  # at most the cells that two workers were at, twice


def test_a_failing_cell_stops_no_other_and_is_tried_again(tmp_path, log, scheduler, capsys):
    study = {"task": CELL, "grid": {"number": [1, 2, 3]}, "parameters": {"seconds": 0, "bad": [2]}}
    (tmp_path / "study.yml").write_text(yaml.safe_dump(study))
    for expected in (3, 4):  # computations begun: the second time, only that of the failed cell
        with (pytest.raises(SystemExit) as end,
              pytest.warns(RuntimeWarning, match="1 of 3 cells failed")):
            main([str(tmp_path / "study.yml"), str(tmp_path / "out"), "--scheduler", scheduler])
        assert end.value.code == 1 and len(processes.begun(log)) == expected
    report = capsys.readouterr().out
    assert "'number': 2}: ArithmeticError: 2 is bad" in report and "2 of 3 cells, 2 rows" in report
    traceback, = (tmp_path / "out" / "failed").iterdir()
    assert "sweep_task.py" in traceback.read_text()
    table = collect(**study, directory=tmp_path / "out")
    assert table["square"].tolist() == [1, 9] and table.attrs["provenance"]["missing"] == 1


def test_a_damaged_cell_and_a_changed_parameter_are_computed_and_nothing_else(
        tmp_path, log, scheduler):
    where = {"directory": tmp_path, "scheduler": scheduler}
    before = sweep(CELL, {"number": [1, 2]}, parameters={"seconds": 0}, **where)
    path = tmp_path / "cells" / f"{before['cell'][0]}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(RuntimeWarning, match="is damaged"):
        again = sweep(CELL, {"number": [1, 2]}, parameters={"seconds": 0}, **where)
    assert again.equals(before)
    larger = sweep(CELL, [{"number": 2}, {"number": 2, "bad": [1]}],
                   parameters={"seconds": 0}, **where)
    numbers = processes.begun(log)["number"].tolist()
    assert sorted(numbers[:2]) == [1, 2] and numbers[2:] == [1, 2]
    assert larger["bad"].isna().tolist() == [True, False] and larger["bad"][1] == "[1]"


def test_addresses_change_with_all_that_matters_and_with_nothing_else(tmp_path, monkeypatch):
    module = sys.modules["metalib.runs.sweep"]

    def address(task="metalib.tasks:generation", **values):
        (file, _), = module.cells_of(task, [{"stage": "group1", **values}], directory=tmp_path)
        return file.address

    notebook = tmp_path / "n.ipynb"
    cell = nbformat.v4.new_code_cell("stage: str = 'x'  # a", metadata={"tags": ["parameters"]})
    book = nbformat.v4.new_notebook(cells=[cell], metadata=KERNEL)
    nbformat.write(book, notebook)
    base, model = address(model="zoo/vgg-standard-0"), {"model": "torchvision/alexnet"}
    assert base == address(model="zoo/vgg-standard-0") != address(model="zoo/vgg-robust-0")
    in_notebook = address(notebook)
    book.cells[0].outputs = [nbformat.v4.new_output("stream", text="seen")]
    nbformat.write(book, notebook)
    assert address(notebook) == in_notebook
    book.cells[0].source += " b"
    nbformat.write(book, notebook)
    assert address(notebook) != in_notebook
    with monkeypatch.context() as patched:
        patched.setattr(module, "code_hash", lambda: "another version")
        assert address(model="zoo/vgg-standard-0") != base
    weights = tmp_path / "weights"
    monkeypatch.setattr(
        module, "missing_files", lambda source, name: [] if weights.is_file() else [weights])
    with pytest.raises(ValueError, match="load_model"):
        address(**model)
    hashes = []
    for content in (b"a", b"b", b"a"):
        weights.write_bytes(content)
        module._weights_hash.cache_clear()
        monkeypatch.setitem(SOURCES, "torchvision", Source(
            lambda: ["alexnet"], load_model, lambda name: [weights]))
        hashes.append(address(**model))
    module._weights_hash.cache_clear()
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize("arguments, message", [
    ((CELL, {"nmber": [1]}), "unexpected keyword argument 'nmber'; "
                             "its parameters are number, seconds, bad|missing a required"),
    ((CELL, {"number": 1}), "a list of values for number"),
    ((CELL, []), "at least one cell"),
    (("sweep_task:cel", {"number": [1]}), "there is no task"),
    ((CELL, {"number": [object()]}), "plain values"),
    ((ROOT / "notebooks/04_transfer_study.ipynb", {"n_image": [1]}),
     "no parameter n_image; its parameters are source, generators")])
def test_a_wrong_study_is_explained_before_anything_runs(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        sweep(*arguments, directory=tmp_path)


def test_notebooks_give_what_they_glued_and_failed_ones_show_where(tmp_path, scheduler):
    cells = [
        nbformat.v4.new_code_cell(
            "number: int = 1  # a number", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "from myst_nb import glue\n"
            "glue('inverse', 1 / number, display=False)\nglue('word', 'yes')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "n.ipynb")
    with pytest.warns(RuntimeWarning, match="1 of 2 cells failed"):
        table = sweep(tmp_path / "n.ipynb", {"number": [4, 0]}, directory=tmp_path / "out",
                      scheduler=scheduler)
    assert table[["number", "inverse", "word"]].to_dict("records") == [
        {"number": 4, "inverse": 0.25, "word": "yes"}]
    done, = (tmp_path / "out" / "notebooks").iterdir()
    failed, = table.attrs["failed"]
    assert done.stem == table["cell"][0] and "ZeroDivisionError" in Path(failed["see"]).read_text()


def test_a_transfer_study_in_cells_is_the_study(tmp_path, scheduler):
    models, images = (["zoo/vgg-standard-0", "zoo/cct-standard-0"],
                      load_images("cifar10-samples", n=2, seed=0, size=32))
    table = sweep("metalib.tasks:transfer",
                  {"generator": models[:1], "stage": ["group1", "group3"]}, directory=tmp_path,
                  parameters={"observers": models, "n_images": 2, "steps": 4},
                  scheduler=scheduler)
    study = transfer_study(models[:1], models, images, stages=["group1", "group3"], steps=4)
    pd.testing.assert_frame_equal(
        table.drop(columns="cell")[study.columns], study, rtol=1e-3, check_dtype=False)
    again = store.load_table(tmp_path / "table.parquet")
    assert again.equals(table) and again.attrs["provenance"]["cells"] == 2
    assert len(again.attrs["provenance"]["weights"]) == 2


def test_metamers_in_cells_are_those_of_the_loop(tmp_path, scheduler):
    table = sweep("metalib.tasks:generation", {"seed": [0, 1]}, directory=tmp_path,
                  scheduler=scheduler, parameters={
                      "model": "zoo/vgg-standard-0", "stage": "group1", "n_images": 2, "steps": 3,
                      "until_passed": False})
    model, images = load_model("zoo/vgg-standard-0"), load_images("cifar10-samples", n=2, seed=1)
    metamers = generate(model, images, "group1", steps=3, seed=1)
    judged = judge(model, "group1", metamers, load_null(model, "group1"))
    columns = ["image", "pearson", "snr_db", "passed", "evaluations"]
    assert table["seed"].tolist() == [0, 0, 1, 1]
    pd.testing.assert_frame_equal(
        table[columns][2:].reset_index(drop=True), judged[columns], rtol=1e-3)


def test_local_workers_share_cores_and_each_sees_one_gpu(tmp_path, monkeypatch):
    """Only what Dask is asked for is looked at, so that no GPU is needed."""
    dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
    asked = {}

    def cluster(workers, **_):
        asked.update(workers=workers,
                     environment=dask.config.get("distributed.nanny.pre-spawn-environ"))
        raise ConnectionError("enough")

    monkeypatch.setattr(distributed, "SpecCluster", cluster)
    monkeypatch.setattr(dask.system, "CPU_COUNT", 8)
    for visible, seen in (
            ("3,5", [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]),
            ("", [{}] * 8)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with pytest.raises(ConnectionError):
            sweep(CELL, {"number": [0]}, directory=tmp_path)
        assert [worker["options"]["env"] for worker in asked["workers"].values()] == seen
        assert asked["environment"]["OMP_NUM_THREADS"] == str(8 // len(seen))
        assert all(worker["options"]["host"] == "127.0.0.1"
                   for worker in asked["workers"].values())


def test_tables_come_back_with_their_provenance_or_not_at_all(tmp_path):
    table = pd.DataFrame({"generator": ["a", "b"], "passed": [True, False]})
    store.save_table(table, tmp_path / "t.parquet", steps=60)
    again = store.load_table(tmp_path / "t.parquet")
    assert again.equals(table) and again.attrs["provenance"]["steps"] == 60
    assert pd.read_parquet(tmp_path / "t.parquet").attrs["provenance"]["code"] == store.code_hash()
    html = store.provenance_table(again).to_html()
    assert (f">{store.code_hash()[:12]}<" in html and ">60<" in html
            and f"pandas {pd.__version__}" in html)
    altered = again.assign(passed=True)
    altered.attrs = again.attrs
    altered.to_parquet(tmp_path / "altered.parquet")
    (tmp_path / "short.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:200])
    for name in ("altered", "short"):
        with pytest.raises(ValueError, match="damaged or no table"):
            store.load_table(tmp_path / f"{name}.parquet")
