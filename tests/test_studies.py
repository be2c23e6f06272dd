"""Studies, their tables, spot checks and claims, on studies and tasks made for it."""

import math
import os
import signal
import sys

import numpy as np
import pandas as pd
import pytest

from metalib import store
from metalib.evaluation.kept import NoRows
from metalib.runs import claims, spot_checks, studies, study
from metalib.runs.claims import Claim, judged

TASK = """
import numpy as np, pandas as pd

def rows(model: str, stage: str, image_set: str = "cifar10-samples", n_images: int = 4,
         steps: int = 10, first: int = 0):
    count = first or n_images
    values = np.arange(count) + len(stage) + steps / 100 + SHIFT
    return pd.DataFrame({"image": np.arange(count), "cost": values, "passed": values > 7,
                         "note": [f"{stage}{k}" for k in range(count)]})
"""
STUDY = """
title: A study of a test
task: made_up_task:rows
grid: {model: ["zoo/vgg-robust-*"], stage: [stem, logits]}
parameters: {n_images: 4}
check: {first: 2}
tolerances: {cost: 0.3, passed: 0, note: 0}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout with one study, and a task that can be changed."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "made_up_task.py").write_text("SHIFT = 0.0\n" + TASK)
    (tmp_path / "studies" / "made-up.yml").write_text(STUDY)
    monkeypatch.setattr(study, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(__import__("sys").modules, "made_up_task", raising=False)
    monkeypatch.setattr(studies.sweeps, "sweep", sweep_here)
    return tmp_path


def sweep_here(task, grid, *, directory, code, **_):
    """A sweep without Dask, whose start takes seconds."""
    cells = studies.sweeps.cells_of(task, grid, directory=directory, code=code)
    failed = [error for file, values in cells
              if (error := studies.sweeps.compute(task, values, file))]
    done = pd.DataFrame()
    done.attrs["failed"] = failed
    return done


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_is_computed_is_read_back_with_its_provenance(root):
    made = studies.compute("made-up")
    read = studies.table("made-up")
    pd.testing.assert_frame_equal(made, read)
    assert len(read) == 4 * 4 and read["cell"].nunique() == 4
    assert set(read["model"]) == {"zoo/vgg-robust-1", "zoo/vgg-robust-0"}
    about = read.attrs["provenance"]
    assert set(about["weights"]) == set(read["model"]) and len(about["images"]) == 1
    assert all(cell["seconds"] >= 0 for cell in about["cells"].values())
    told = studies.colophon(read, chapter="04_transfer_study").data
    assert "4 cells" in told and "still the same" in told and "04_transfer_study.ipynb" in told


def test_only_missing_cells_are_computed(root, monkeypatch):
    first = studies.compute("made-up")
    asked = []
    monkeypatch.setattr(studies.sweeps, "sweep", lambda task, grid, **options: (
        asked.extend(grid), sweep_here(task, grid, **options))[1])
    edit(root / "studies" / "made-up.yml", "[stem, logits]", "[stem, logits, group1]")
    with pytest.raises(studies.Stale, match="of the 6 cells .* 2 are missing.*make results"):
        studies.table("made-up")
    second = studies.compute("made-up")
    assert [cell["stage"] for cell in asked] == ["group1", "group1"]
    old = second[second["stage"] != "group1"].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, first, check_like=True)


@pytest.mark.parametrize("old, new", [
    ("n_images: 4", "n_images: 5"), ("zoo/vgg-robust-*", "zoo/cct-robust-*"),
    ("[stem, logits]", "[stem]")])
def test_another_study_makes_a_table_stale(root, old, new):
    studies.compute("made-up")
    edit(root / "studies" / "made-up.yml", old, new)
    with pytest.raises(studies.Stale, match="make results STUDY=made-up"):
        studies.table("made-up")


def test_other_weights_or_another_null_make_a_table_stale(root, monkeypatch):
    studies.compute("made-up")
    before = studies.sweeps._weights_hash
    monkeypatch.setattr(studies.sweeps, "_weights_hash", lambda name: before(name) and "other")
    with pytest.raises(studies.Stale, match="other weights or other nulls"):
        studies.table("made-up")


def test_a_new_default_of_the_task_makes_a_table_stale(root, monkeypatch):
    studies.compute("made-up")
    edit(root / "code" / "made_up_task.py", "steps: int = 10", "steps: int = 20")
    monkeypatch.delitem(__import__("sys").modules, "made_up_task")
    with pytest.raises(studies.Stale):
        studies.table("made-up")


@pytest.mark.parametrize("shift, holds", [(0.0, True), (0.2, True), (0.4, False)])
def test_a_spot_check_finds_what_the_code_does_differently(root, monkeypatch, shift, holds):
    """Other code does not make a table stale; it is told on the page, and found by the check."""
    table = studies.compute("made-up")
    edit(root / "code" / "made_up_task.py", "SHIFT = 0.0", f"SHIFT = {shift}")
    for name in ("made_up_task",):
        monkeypatch.delitem(__import__("sys").modules, name)
    checked = studies.check("made-up", seed=0)
    costs = checked[checked["column"] == "cost"]
    assert len(costs) == 3 and (costs["found"] - shift).abs().max() < 1e-6
    assert costs["holds"].all() == holds
    assert len(studies.table("made-up")) == len(table)


@pytest.mark.parametrize("at_most, cells", [(0.0, 1), (10.0, 1), (25.0, 2), (30.0, 3)])
def test_a_spot_check_takes_fewer_of_expensive_cells(root, monkeypatch, at_most, cells):
    table = studies.compute("made-up")
    for about in table.attrs["provenance"]["cells"].values():
        about["seconds"] = 10.0
    monkeypatch.setattr(spot_checks, "AT_MOST", at_most)
    checked = spot_checks.check(studies.load_study("made-up"), table, seed=0)
    assert checked["cell"].nunique() == cells


def test_a_spot_check_finds_rows_that_changed_places(root):
    table = studies.compute("made-up")
    about = table.attrs["provenance"]
    swapped = table.assign(note=table["note"].to_numpy()[::-1])
    kept = {key: about[key] for key in ("study", "title", "images", "cells", "weights")}
    store.save_table(swapped, root / "results" / "made-up.parquet", **kept)
    checked = studies.check("made-up", seed=0)
    assert not checked.loc[checked["column"] == "note", "holds"].any()


def test_other_images_are_no_check(root):
    table = studies.compute("made-up")
    about = dict(table.attrs["provenance"])
    images = dict.fromkeys(about["images"], "0" * 64)
    kept = {key: about[key] for key in ("study", "title", "cells", "weights")}
    store.save_table(table, root / "results" / "made-up.parquet", images=images, **kept)
    with pytest.raises(studies.Stale, match="other images"):
        studies.check("made-up")


def test_a_check_without_the_images_says_so(root):
    edit(root / "studies" / "made-up.yml", "{n_images: 4}",
         "{n_images: 4, image_set: 'folder:nowhere'}")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        studies.compute("made-up")
    edit(root / "studies" / "made-up.yml", "folder:nowhere", "cifar10-samples")
    studies.compute("made-up")
    edit(root / "studies" / "made-up.yml", "cifar10-samples", "folder:nowhere")
    path = root / "results" / "made-up.parquet"
    table = store.load_table(path)
    cells = {file.address: {"date": "", "seconds": 0, "hardware": "", "torch": "", "code": ""}
             for file, _ in studies.load_study("made-up").cells()}
    store.save_table(table, path, cells=cells, images={}, weights={})
    with pytest.warns(RuntimeWarning, match="made-up is not checked: .*nowhere"):
        assert studies.check("made-up").empty


NETWORKS = """
from pathlib import Path
from torch import nn
import metalib

def load(name):
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 10)
    return metalib.wrap_model(nn.Sequential(*layers), input_size=32)

def files(name):
    return [Path(__file__).with_name(f"{name}.weights")]

metalib.add_models("made-up", ["one", "two"], load, files=files, size=lambda name: 32)
"""


def test_tables_of_networks_that_are_elsewhere_are_read(root, monkeypatch):
    """Their hashes are those of the table; nothing is computed or checked without them."""
    monkeypatch.setenv("METALIB_DATA", str(root))
    monkeypatch.setenv("METALIB_MODELS", "")
    (root / "studies" / "networks.py").write_text(NETWORKS)
    edit(root / "studies" / "made-up.yml", '"zoo/vgg-robust-*"', '"made-up/*", zoo/vgg-robust-0')
    files = [root / "studies" / f"{name}.weights" for name in ("one", "two")]
    for file in files:
        file.write_bytes(file.name.encode())
        null = root / "nulls" / "made-up" / f"{file.stem}.safetensors"
        null.parent.mkdir(parents=True, exist_ok=True)
        null.write_bytes(b"of this network")
    table = studies.compute("made-up")
    assert set(table["model"]) == {"made-up/one", "made-up/two", "zoo/vgg-robust-0"}
    assert "Not on the machine" not in studies.colophon(table).data

    files[0].write_bytes(b"another one")
    studies.sweeps._weights_hash.cache_clear()
    with pytest.raises(studies.Stale, match="other weights"):
        studies.table("made-up")

    for file in files:
        file.unlink()
    studies.sweeps._weights_hash.cache_clear()
    pd.testing.assert_frame_equal(studies.table("made-up"), table)
    pd.testing.assert_frame_equal(studies.compute("made-up"), table)
    assert "2 networks (made-up/one, made-up/two)" in studies.colophon(table).data
    checked = studies.check("made-up", seed=0)
    assert set(checked["cell"]) == {cell[:12] for cell in table.loc[
        table["model"] == "zoo/vgg-robust-0", "cell"]}
    edit(root / "studies" / "made-up.yml", ", zoo/vgg-robust-0", "")
    studies.compute("made-up")
    with pytest.warns(RuntimeWarning, match="none of its cells has all its networks"):
        assert studies.check("made-up").empty
    edit(root / "studies" / "made-up.yml", "[stem, logits]", "[stem, logits, group1]")
    with pytest.raises(ValueError, match=r"the weights of made-up/one are not on .*one\.weights"):
        studies.compute("made-up")


@pytest.mark.parametrize("again, stored, tolerance, holds", [
    ([1.0, 2.0], [1.1, 2.1], 0.11, True), ([1.0, 2.0], [1.1, 2.1], 0.09, False),
    ([90.0], [100.0], "11 %", True), ([90.0], [100.0], "9 %", False),
    ([np.nan, 1.0], [np.nan, 1.0], 0, True), ([np.nan], [1.0], 1e9, False),
    ([np.inf], [np.inf], 0, True), ([np.inf], [1.0], 1e9, False),
    (["a", "b"], ["a", "c"], 0.5, True), (["a", "b"], ["a", "c"], 0.4, False),
    ([True, False], [True, True], 0.5, True), ([True, False], [True, True], 0.4, False),
    ([True] * 3, [True, True, False], 0, True), ([True] * 3, [True, False, False], 0.4, False)])
def test_tolerances(again, stored, tolerance, holds):
    assert spot_checks._difference(pd.Series(again), pd.Series(stored), tolerance)["holds"] == holds


def test_computing_here_takes_other_values_and_results_do_not(root):
    here = studies.table("made-up", "compute", model=["zoo/vgg-robust-0"], n_images=2, stage=[])
    assert len(here) == 2 * 2 and set(here["stage"]) == {"stem", "logits"}
    studies.compute("made-up")
    assert len(studies.table("made-up", "results", model=[], n_images=0)) == 16
    with pytest.raises(ValueError, match="n_images: .*cannot be changed; give source='compute'"):
        studies.table("made-up", "results", n_images=2)
    with pytest.raises(ValueError, match="has no nonsense; it has model, stage, n_images"):
        studies.table("made-up", "compute", nonsense=2)
    with pytest.raises(ValueError, match="choose 'results' or 'compute'"):
        studies.table("made-up", "live")


def test_bad_studies_are_named(root):
    with pytest.raises(FileNotFoundError, match="no study other; there are made-up"):
        studies.table("other")
    with pytest.raises(FileNotFoundError, match="no table yet; make results STUDY=made-up"):
        studies.table("made-up")
    edit(root / "studies" / "made-up.yml", "tolerances:", "tolerance:")
    with pytest.raises(ValueError, match="made-up.yml must have the keys"):
        studies.table("made-up")


def test_an_older_record_is_adopted_and_says_what_is_known(root):
    rows = pd.concat([pd.DataFrame({"model": model, "stage": stage, "image": [0], "cost": [1.0]})
                      for model in ("zoo/vgg-robust-1", "zoo/vgg-robust-0")
                      for stage in ("stem", "logits")])
    studies.adopt("made-up", rows, date="2026-11-20", hardware="a GPU")
    told = studies.colophon(studies.table("made-up")).data
    assert "2026-11-20 in unknown time on a GPU" in told and "changed since for 4" in told
    with pytest.raises(ValueError, match="no rows for the cell"):
        studies.adopt("made-up", rows[:2])


def test_the_command_compares_and_says_so(root, capsys):
    studies.compute("made-up")
    with pytest.raises(SystemExit) as ended:
        studies.main(["check", "--seed", "1", "--cells", "2"])
    assert ended.value.code == 0 and "6 passed, 0 failed, 0 skipped" in capsys.readouterr().out
    edit(root / "studies" / "made-up.yml", "n_images: 4", "n_images: 6")
    with pytest.raises(SystemExit, match="stale"):
        studies.main(["check"])


@pytest.mark.parametrize("action, kept", [
    ("compute", "finished cells are kept"), ("check", "nothing was changed")])
def test_ctrl_c_ends_the_command_in_one_line(root, monkeypatch, capfd, action, kept):
    monkeypatch.setattr(os, "_exit", sys.exit)  # which ends the process, this one not
    monkeypatch.setattr(studies, action, lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as ended:
        studies.main([action, "made-up"])
    line, = capfd.readouterr().err.splitlines()
    assert ended.value.code == 130 and line.startswith(f"interrupted; {kept}")


# --- Claims -------------------------------------------------------------------------------------

CLAIM = Claim("costs", "generation", "evaluations", "made-up", f"{__name__}:mean_cost", "above", 5,
              "It costs {number}, over {rows} rows.", "Not more than five: {number}.",
              "Less than five: {number}.", "{rows} rows", "01.ipynb#fig")


def mean_cost(table, shift=0.0):
    mean = table["cost"].mean() + shift
    return {"estimate": np.float64(mean), "low": mean - 1, "high": mean + 1, "rows": len(table)}


@pytest.mark.parametrize("shift, sentence", [
    (10, "It costs 11.50 (10.50 to 12.50), over 2 rows."),
    (4, "Not more than five: 5.50 (4.50 to 6.50)."),
    (-9, "Less than five: −7.50 (−8.50 to −6.50).")])
def test_the_wording_follows_the_interval(monkeypatch, shift, sentence):
    from dataclasses import replace
    monkeypatch.setattr(claims, "function_of", lambda _: mean_cost)
    found = judged(replace(CLAIM, arguments={"shift": shift}),
                   {"made-up": pd.DataFrame({"cost": [1.0, 2.0]})})
    assert found.sentence == sentence and found.scope == "2 rows"


def test_a_row_says_what_was_measured_for_how_many_and_in_which_study(root, monkeypatch):
    from dataclasses import replace
    monkeypatch.setattr(claims, "function_of", lambda _: mean_cost)
    table = studies.compute("made-up")
    table.attrs["provenance"]["cells"]["other"] = {"date": "2026-01-02"}
    verdict = judged(replace(CLAIM, record="cards"), {"made-up": table})
    last = max(cell["date"] for cell in table.attrs["provenance"]["cells"].values())
    row = claims.shown([verdict], "generation").data.splitlines()[-1]
    assert row.split(" | ")[1:] == [
        "supported", "evaluations", "16 rows", f"made-up (2026-01-02 to {last}), cards",
        "[1](#fig) |"]


def test_nothing_is_supported_by_a_missing_interval(monkeypatch):
    for ends in ((math.nan, 9), (9, math.nan), (None, None)):
        assert claims.verdict_of(CLAIM, *ends) == "unsupported"


def test_claims_are_asked_again_of_other_tables(monkeypatch):
    """Thresholds stay, a set without a table is not asked, and a missing interval tells nothing."""
    from dataclasses import replace
    known = [replace(CLAIM, asked="It costs more than five"), replace(CLAIM, id="silent"),
             replace(CLAIM, id="two", asked="Both", study=["made-up", "other"])]
    monkeypatch.setattr(claims, "load_claims", lambda: {claim.id: claim for claim in known})
    tables = {name: {"made-up": pd.DataFrame({"cost": values})} for name, values in (
        ("small", [9.0, 9.0]), ("large", [1.0, 1.0]), ("others", [5.0, 5.5]), ("none", [np.nan]))}
    tables["others"]["other"] = tables["others"]["made-up"]

    def estimate(*parts, **_):
        if parts[0].empty:
            raise NoRows
        return mean_cost(parts[0])

    monkeypatch.setattr(claims, "function_of", lambda _: estimate)
    found = claims.again({**tables, "empty": {}, "no rows": {"made-up": pd.DataFrame()}})
    assert list(found["claim"]) == ["costs"] * 3 + ["two"]
    wide = claims.side_by_side(found)
    assert list(wide.columns) == ["small", "large", "others"]
    assert list(wide.loc["It costs more than five"]) == [
        "holds: 9.00 (8.00 to 10.00)", "does not hold: 1.00 (0.00 to 2.00)",
        "cannot tell: 5.25 (4.25 to 6.25)"]
    assert list(wide.loc["Both"]) == ["not asked", "not asked",
                                      "cannot tell: 5.25 (4.25 to 6.25)"]
    assert claims.tally(found, "others") == (
        "Of 2 claims asked again of others, 0 hold, 0 are ruled out and 2 stay open.")
    one = found.assign(found=["holds", *found["found"].iloc[1:]])
    assert "1 holds" in claims.tally(one[one["set"] == one["set"].iloc[0]], one["set"].iloc[0])


def test_claims_are_read_and_bad_ones_named(root):
    folder = root / "book" / "claims"
    folder.mkdir(parents=True)
    entry = {name: getattr(CLAIM, name) for name in vars(CLAIM)}
    import yaml
    (folder / "01.yml").write_text(yaml.safe_dump([entry]))
    assert claims.load_claims() == {"costs": CLAIM}
    (folder / "02.yml").write_text(yaml.safe_dump([entry]))
    with pytest.raises(ValueError, match="02.yml: the claim costs is there twice"):
        claims.load_claims()
    (folder / "02.yml").write_text(yaml.safe_dump([{**entry, "id": "b", "question": "life"}]))
    with pytest.raises(ValueError, match="the claim b needs a question"):
        claims.load_claims()
    for change, message in (({"measure": "criterion and life"}, "b measures life; there are"),
                            ({"study": []}, "b needs a study or a record")):
        (folder / "02.yml").write_text(yaml.safe_dump([{**entry, "id": "b", **change}]))
        with pytest.raises(ValueError, match=message):
            claims.load_claims()
    (folder / "02.yml").write_text("- {id: b}\n")
    with pytest.raises(ValueError, match="02.yml: b: .*missing"):
        claims.load_claims()
