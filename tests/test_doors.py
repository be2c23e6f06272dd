"""What comes in by the doors: arguments as plain values, devices, YAML files, tables of any types,
recipes, grids and notebooks' parameters; each right, or a clear word before anything is computed.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from metalib import (
    Compute,
    chapters,
    generate,
    load_model,
    null_distribution,
    representation_test,
    store,
    transfer_study,
)
from metalib.devices import device_of
from metalib.generation.metamers import Metamers
from metalib.plain import fitting, plain, whole
from metalib.runs import sweep as sweeps
from metalib.runs.documents import read_yaml
from metalib.runs.recipe import main, run
from metalib.runs.recipe_check import checked
from metalib.runs.sweep import collect, sweep

FEW = settings(max_examples=25, deadline=None)
LETTERS = st.text("abé€1.-: \"'\n\t", max_size=5)
RECIPE = {"models": ["zoo/vgg-standard-0"], "stages": ["group1"],
          "images": {"source": "cifar10-samples", "n": 2}, "steps": 2}
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-10 ** 20, 10 ** 20) | st.floats(allow_nan=False)
    | LETTERS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3), max_leaves=4)


# --- Arguments ----------------------------------------------------------------------------------

def forms(number):
    """A whole number as people have it."""
    return [number, float(number), np.int64(number), np.uint16(number), np.float32(number),
            torch.tensor(number), torch.tensor(float(number)), np.array(number)]


@FEW
@given(st.integers(0, 2 ** 15), st.integers(0, 7))
def test_whole_numbers_come_in_any_form(number, form):
    found = whole("steps", forms(number)[form])
    assert found == number and type(found) is int


@pytest.mark.parametrize("value", [
    True, np.True_, torch.tensor(True), 1.5, np.float64(0.5), float("nan"), float("inf"), "3", None,
    [3], torch.ones(2), 2 ** 63, 0])
def test_what_is_no_whole_number_is_refused_in_one_sentence(value):
    with pytest.raises(ValueError, match="^steps must be a whole number of at least 1") as error:
        whole("steps", value, 1)
    assert "\n" not in str(error.value)


@FEW
@given(PLAIN)
def test_plain_values_stay_what_they_are(value):
    assert plain("it", value) == value
    assert json.loads(json.dumps(plain("it", value))) == value


def test_numbers_of_other_libraries_and_paths_become_plain_and_the_rest_is_named():
    given = {"a": (np.float64(0.5), torch.tensor(2)), "b": Path("x"), "c": np.str_("y")}
    assert repr(plain("it", given)) == repr({"a": [0.5, 2], "b": "x", "c": "y"})
    for wrong in (object(), torch.ones(2), {1: 2}, b"x", {1, 2}, lambda: 0):
        with pytest.raises(ValueError, match="it, a takes plain values"):
            plain("it", {"a": [wrong]})


@pytest.mark.parametrize("wanted, right, wrong", [
    (int, [3, 3.0], ["3", 3.5, True, None]), (float, [3, 0.5], ["1e-2", True, float("nan")]),
    (str, ["a", Path("a")], [3, None]), (bool, [True], ["yes", 1]), (list, [[], ()], ["ab", {}]),
    (Sequence[str], [["a"]], ["a", [1]]), (dict[str, Any], [{}], ["a", []]),
    (Mapping, [{}], [1]), (str | float, ["a", 0.5, 1], [[], None]), (int | None, [None, 2], ["2"]),
    (tuple[str, ...], [("a", "b")], ["ab"]), (Any, [object()], [])])
def test_values_fit_annotations_or_are_refused_by_name(wanted, right, wrong):
    for value in right:
        assert fitting("it", value, wanted) == (list(value) if isinstance(value, tuple) else value)
    for value in wrong:
        with pytest.raises(ValueError, match="^(each of )?it "):
            fitting("it", value, wanted)


def test_numbers_of_numpy_and_torch_make_the_metamers_of_plain_ones(samples, small, tmp_path):
    plainly = generate(small, samples[:2], "2", steps=4, seed=3, check_every=2, store_every=2,
                       optimizer=("adam", {"learning_rate": 0.02}),
                       start=("blend", {"fraction": 0.25}), compute=Compute(batch_size=1))
    given = generate(small, samples[:2], "2", steps=np.int64(4), seed=torch.tensor(3),
                     check_every=np.int32(2), store_every=2.0, pause=np.int64(100),
                     optimizer=("adam", {"learning_rate": np.float64(0.02)}),
                     start=("blend", {"fraction": torch.tensor(0.25)}),
                     compute=Compute(batch_size=np.int64(1)))
    given.save(tmp_path)
    assert torch.equal(given.images, plainly.images) and given.recipe == plainly.recipe
    assert Metamers.load(tmp_path).recipe == json.loads(json.dumps(given.recipe)) == given.recipe


def own_rule(x, gradient, loss, state, step, steps, *, rates=(0.1, 0.2), where=None):
    return x - rates[-1] * gradient


@pytest.mark.parametrize("change, message", [
    ({"seed": 1.5}, "seed must be a whole number"), ({"seed": True}, "seed must be"),
    ({"seed": 10 ** 30}, "seed must be a whole number, at most"), ({"steps": "9"}, "steps must be"),
    ({"steps": None}, "steps must be"), ({"jitter": 0.5, "optimizer": "adam"}, "jitter must be"),
    ({"jitter": -1}, "jitter must be a whole number of at least 0"),
    ({"check_every": 2.5}, "check_every must"), ({"pause": 0.0}, "pause must be .* at least 1"),
    ({"optimizer": ("adam", {"learning_rate": float("nan")})}, "learning_rate of 'adam' is a numb"),
    ({"optimizer": ("adam", {"learning_rate": "1e-2"})}, "learning_rate of 'adam' is a number"),
    ({"optimizer": ("lbfgs", {"history": 2.5})}, "history of 'lbfgs' must be a whole number"),
    ({"optimizer": (own_rule, {"where": torch.ones(3)})}, "the option where of 'own_rule' takes"),
    ({"optimizer": (own_rule, {"where": own_rule})}, "the option where of 'own_rule' takes"),
    ({"optimizer": 3}, "an optimizer is a name"), ({"optimizer": None}, "an optimizer is a name"),
    ({"optimizer": ["adam", 0.1]}, "an optimizer is a name"),
    ({"start": np.zeros((2, 3, 32, 32))}, "a start is a name"), ({"start": None}, "a start is a"),
    ({"start": ("blend", {"fraction": "half"})}, "fraction of 'blend' is a number"),
    ({"prior": ("natural", {"weight": [1]})}, "weight of 'natural' is a number"),
    ({"prior": 3}, "unknown prior 3"), ({"combine": ["mean"]}, "unknown combination"),
    ({"device": "cuda:99"}, "there is no cuda"), ({"device": "gpu"}, "'gpu' is no device")])
def test_arguments_are_refused_before_anything_is_computed(samples, small, change, message):
    with pytest.raises(ValueError, match=message) as error:
        generate(small, samples[:2], "2", **{"steps": 1, **change})
    assert "\n" not in str(error.value)


def test_options_of_a_rule_of_ones_own_are_made_plain(samples, small):
    made = generate(small, samples[:2], "2", steps=2,
                    optimizer=(own_rule, {"rates": np.float32([0.5, 0.25]).tolist()}))
    assert made.recipe["optimizer_options"] == {"rates": [0.5, 0.25], "where": None}
    assert generate(small, samples[:2], "2", steps=2, optimizer=own_rule).recipe[
        "optimizer_options"] == {"rates": [0.1, 0.2], "where": None}


def test_studies_and_nulls_take_numbers_of_numpy_and_refuse_others(samples, small, robust):
    null = null_distribution(small, "2", samples, pairs=np.float64(50), seed=np.int64(2),
                             batch_size=torch.tensor(7))
    assert repr(null.about["seed"]) == "2" and null.pairs == 50
    assert null.maximum == null_distribution(small, "2", samples, pairs=50, seed=2).maximum
    for wrong in ({"seed": 0.5}, {"pairs": "9"}, {"pairs": 0}, {"seed": 2 ** 65},
                  {"batch_size": 0}, {"memory": 0}, {"memory": "2 GB"}):
        with pytest.raises(ValueError, match="must be a whole number"):
            null_distribution(small, "2", samples, **wrong)
    for wrong in ({"steps": "9"}, {"seed": 0.5}, {"batch_size": None}):
        with pytest.raises(ValueError, match="must be a whole number"):
            transfer_study([robust], [robust], samples, **wrong)
    for wrong in ({"seed": -1}, {"permutations": 0.5}, {"draws": "3"}, {"resamples": None}):
        with pytest.raises(ValueError, match="must be a whole number"):
            representation_test(small, samples, samples.images, **wrong)


@pytest.mark.parametrize("options", [
    {"batch_size": "8"}, {"batch_size": 0}, {"batch_size": 1.5}, {"batch_size": True},
    {"exact_batches": "no"}, {"stacked": 1}, {"precision": 32}])
def test_compute_says_what_is_wrong(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} |unknown precision"):
        Compute(**options)


# --- Devices ------------------------------------------------------------------------------------

@pytest.mark.parametrize("device", [
    "cuda:99", "nonsense", "CPU", "", None, True, 1.5, "meta", "cpu:1", torch.device("cuda", 99),
    *([] if torch.cuda.is_available() else ["cuda", 0]),
    *([] if torch.backends.mps.is_available() else ["mps"])])
def test_a_device_that_is_not_there_is_told_in_one_line(device):
    with pytest.raises(ValueError, match="leave device out to compute on the CPU") as error:
        device_of(device)
    assert "\n" not in str(error.value)


def test_every_door_looks_for_the_device_first(samples, robust):
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="there is no cuda:99"):
        load_model("zoo/vgg-robust-0", device="cuda:99")
    with pytest.raises(ValueError, match="there is no cuda:99"):
        transfer_study([robust], [robust], samples, device="cuda:99")
    assert load_model("zoo/vgg-robust-0", device=None).device == torch.device("cpu")


# --- YAML ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, value", [
    ("1e-2", 0.01), ("3e-5", 3e-5), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5", 0.5), ("1.", 1.0),
    ("1_000", 1000), ("+3", 3), ("0", 0), ("0x10", 16), ("yes", True), ("off", False),
    ("None", None), ("~", None), ("", None), ("'1e-2'", "1e-2"), ("1e", "1e"), ("e5", "e5"),
    ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("010", "010"), ("1.2.3", "1.2.3"),
    ("-", None), ("folder:a", "folder:a"), ("[1e-2, a]", [0.01, "a"])])
def test_yaml_is_read_as_people_mean_it(tmp_path, text, value):
    path = tmp_path / "a.yml"
    path.write_text(f"key: {text}" if text != "-" else "key:\nother: 1")
    assert repr(read_yaml(path)["key"]) == repr(value)


@FEW
@given(st.dictionaries(LETTERS, PLAIN, max_size=4))
def test_yaml_that_a_program_wrote_is_read_as_it_was(tmp_path_factory, document):
    path = tmp_path_factory.getbasetemp() / "written.yml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    assert read_yaml(path) == document


@pytest.mark.parametrize("content, message", [
    (b"a: 1\nb: 2\na: 3", "line 3: the key a is given twice"),
    (b"a: {b: 1, c: 2, b: 3}", "line 1: the key b is given twice"),
    ("a: 1\nb: é".encode("latin-1"), "line 2: this is not text in UTF-8"),
    (b"\x89PNG\r\n\x1a\n", "not text in UTF-8"), (b"a: \0", "unacceptable character"),
    (b"a:\n\tb: 1", "line 2: .*by spaces, not by tabs"), (b"", "not nothing"),
    (b"# a\n", "not nothing"), (b"- a", "not a list"), (b"text", "not 'text'"),
    (b"a: [1", "line 1: expected"), (b"a: b: c", "line 1: mapping values"),
    (b"1: a", "the key 1 is no text"), (b"on: a", "the key True is no text"),
    (b"a: !!python/object:os.system {}", "line 1: could not determine"),
    (b"a: *b", "undefined alias"), (b"a: &b [*b]", "recursion"), (b"a: !!set {b}", "plain values"),
    (b"a: 1\n---\nb: 2", "another document")])
def test_a_file_that_is_no_recipe_is_told_in_one_line(tmp_path, content, message):
    path = tmp_path / "r.yml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_yaml(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    for command in (main, sweeps.main):
        with pytest.raises(SystemExit, match=message):
            command([str(path), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_told_in_one_line(tmp_path):
    for command in (main, sweeps.main):
        with pytest.raises(SystemExit, match="cannot read the .*No such file.*nothing.yml"):
            command([str(tmp_path / "nothing.yml"), str(tmp_path / "out")])


# --- Recipes ------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, message", [
    ({"steps": "200"}, "steps must be a whole number .*not '200'"), ({"steps": None}, "steps must"),
    ({"seed": "one"}, "seed must"), ({"images": ["a"]}, "images is keys and values"),
    ({"images": {"n": 2}}, "images lacks source"), ({"images": {"source": "a", "m": 2}}, "keys: m"),
    ({"images": {"source": "a", "n": "2"}}, "images, n "), ({"stop": True}, "say stop: criterion"),
    ({"models": [3]}, "each of models is text"), ({"models": ["zoo/vg"]}, "did you mean zoo/vgg"),
    ({"models": []}, "a stage for each"), ({"stages": ["a", "b"]}, "a stage for each"),
    ({"compute": "fast"}, "compute is keys"), ({"compute": {"batch_size": "x"}}, "batch_size must"),
    ({"optimizer": "lfbgs"}, "unknown optimizer"), ({"optimizer": ["adam", {"a": 1}]}, "no option"),
    ({"start": "nose"}, "unknown start"), ({"prior": "none"}, "unknown prior"),
    ({"combine": "best"}, "unknown combination"), ({"device": "cuda:99"}, "there is no cuda:99"),
    ({"batch_size": "x"}, "batch_size must"), ({"loss": "mse"}, "loss is "),
    ({1: 2}, "unknown keys")])
def test_each_wrong_key_of_a_recipe_has_its_line(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as error:
        run({**RECIPE, **change}, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_all_wrong_keys_of_a_recipe_are_told_at_once():
    with pytest.raises(ValueError) as error:
        checked({**RECIPE, "steps": "many", "seed": [1], "images": None})
    assert [line.split()[0] for line in str(error.value).splitlines()] == [
        "images", "steps", "seed"]


def test_a_text_stands_for_a_list_of_one_and_for_a_source(tmp_path):
    (tmp_path / "r.yml").write_text("models: zoo/vgg-standard-0\nstages: group1\n"
                                    "images: cifar10-samples\nstop: no\nsteps: 1e2\n")
    assert checked(read_yaml(tmp_path / "r.yml")) == {
        "models": ["zoo/vgg-standard-0"], "stages": ["group1"],
        "images": {"source": "cifar10-samples"}, "stop": None, "steps": 100}


# --- Tables and grids ---------------------------------------------------------------------------

def equal(one, other):
    """Whether tables are the same to the type of each value."""
    return (list(one.columns) == list(other.columns) and list(one.dtypes) == list(other.dtypes)
            and one.map(repr).equals(other.map(repr)))


COLUMNS = {
    "texts and numbers": [1, "a"], "truths and texts": [True, "a"], "truths and None": [True, None],
    "nothing": [None, None], "lists": [[1], [2, "b"]], "dicts": [{"a": 1}, {"b": [None]}],
    "large": [10 ** 30, 1], "whole and broken": [1, 1.0], "infinite": [float("inf"), "a"],
    "dates": [datetime.date(2024, 1, 1), datetime.date(2025, 1, 1)],
    "dates and texts": [datetime.date(2024, 1, 1), "a"], "times": [pd.Timestamp("2024"), 3],
    "none and text": [None, "a"], "not a number": ["a", float("nan")], "empty": ["", 0]}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_any_types_come_back_as_they_were(tmp_path, kind):
    column = pd.Series(COLUMNS[kind], dtype="object")
    for table in (pd.DataFrame({"a": column, "b": [1, 2]}), pd.DataFrame({"a": COLUMNS[kind]})):
        store.save_table(table, tmp_path / "t.parquet", seed=np.int64(3), of=(Path("a"),))
        again = store.load_table(tmp_path / "t.parquet")
        assert equal(again, table) and again.attrs["provenance"]["seed"] in (3, "3")


def test_categories_extension_types_and_names_that_are_no_texts_come_back(tmp_path):
    for table in (
            pd.DataFrame({"a": pd.Categorical(["x", 1, None])}),
            pd.DataFrame({"a": pd.Categorical([2, 1, 2], ordered=True)}),
            pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": pd.array([True, None])}),
            pd.DataFrame({0: [1], "0": [[2]], None: ["a"]}), pd.DataFrame({("a", 1): [1]}),
            pd.DataFrame({"a": pd.to_datetime(["2024-01-01"], utc=True)}), pd.DataFrame()):
        store.save_table(table, tmp_path / "t.parquet")
        assert equal(store.load_table(tmp_path / "t.parquet"), table)


def test_what_json_has_not_comes_back_as_its_nearest(tmp_path):
    table = pd.DataFrame({"a": pd.Series([
        np.int64(1), (1, 2), Path("x"), torch.tensor([1, 2]), 1j, {(1, 2): 3}, {1: 2}, pd.NA],
        dtype="object")})
    store.save_table(table, tmp_path / "t.parquet")
    assert store.load_table(tmp_path / "t.parquet")["a"].tolist() == [
        1, [1, 2], "x", [1, 2], "1j", "{(1, 2): 3}", {"1": 2}, None]


ROWS = st.lists(st.dictionaries(st.sampled_from(["p", "q", "value"]), PLAIN, max_size=3),
                min_size=1, max_size=2)


def echoed(rows, name=None):
    """A task that returns the rows that it is given."""
    return [{**row, "number": number} for number, row in enumerate(rows)]


@settings(max_examples=12, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=2, unique_by=repr), PLAIN)
def test_the_table_of_any_grid_is_kept(tmp_path_factory, grid, name):
    folder = tmp_path_factory.mktemp("grid")
    cells = [{"rows": rows, "name": other} for rows in grid for other in (name, "text")]
    for file, values in sweeps.cells_of(echoed, cells, directory=folder):
        assert sweeps.compute(echoed, values, file) is None
    table = collect(echoed, cells, directory=folder)
    assert equal(store.load_table(folder / "table.parquet"), table)
    rows = [row for _, values in sweeps.cells_of(echoed, cells, directory=folder)
            for row in values["rows"]]
    assert len(table) == len(rows)
    for key in {key for row in rows for key in row}:
        kept = [found for found, row in zip(table[key], rows) if key in row]
        assert all(found == row[key] or pd.isna(found) and row[key] is None
                   for found, row in zip(kept, (row for row in rows if key in row)))


# --- Grids and notebooks, checked before the first cell -----------------------------------------

def study(task, grid, parameters, message, folder):
    with pytest.raises(ValueError, match=message) as error:
        sweep(task, grid, parameters=parameters, directory=folder)
    assert not list(folder.glob("cells/*"))
    return str(error.value)


@pytest.mark.parametrize("change, message", [
    ({"stage": ["grup1", "group1"]}, "1 of 2 cells.*\n.*no stage 'grup1'; its stages are stem"),
    ({"model": ["zoo/vg", "zoo/vgg-robust-0"]}, "1 of 2 cells.*\n.*did you mean zoo/vgg"),
    ({"optimizer": ["adm"]}, "unknown optimizer 'adm'"), ({"n_images": [21]}, "n=21 of 20 images"),
    ({"image_set": ["cifr"]}, "unknown images 'cifr'"), ({"n_images": ["2"]}, "n_images must"),
    ({"image_set": ["folder:/nowhere"]}, "there is no folder"), ({"steps": [0]}, "steps must"),
    ({"size": [16]}, "takes images of shape"), ({"until_passed": ["yes"]}, "is true or false"),
    ({"device": ["cuda:99", "cpu"]}, "1 of 2 cells.*\n.*there is no cuda:99"),
    ({"model": [3]}, "model is text, not 3"), ({"stage": [None, {"a": 1}]}, "2 of 2 cells are")])
def test_wrong_cells_are_found_before_the_first_one(tmp_path, change, message):
    grid = {"model": ["zoo/vgg-standard-0"], "stage": ["group1"], "n_images": [2], **change}
    study("metalib.tasks:generation", grid, None, message, tmp_path)


@pytest.mark.parametrize("change, message", [
    ({"stage": ["groop", 0.5, 2]}, r"2 of 3 cells.*\n.*no stage groop(.|\n)*depth from 0 to 1"),
    ({"generator": ["zoo/vg"]}, "did you mean"), ({"observers": ["zoo/cct-robust-0"]}, "is a list"),
    ({"observers": [["zoo/cct"]]}, "did you mean"), ({"null_set": ["folder:/no"]}, "no folder"),
    ({"generation": [{"optimizer": "adm"}]}, "unknown optimizer")])
def test_wrong_cells_of_a_transfer_study_are_found_before_the_first_one(tmp_path, change, message):
    grid = {"generator": ["zoo/vgg-standard-0"], "stage": ["group1"], "n_images": [2],
            "observers": [["zoo/vgg-standard-0"]], **change}
    study("metalib.tasks:transfer", grid, None, message, tmp_path)


def open_task(number: int, **others: Any):
    return {"sum": number + len(others)}


def test_cells_are_counted_and_each_error_is_listed_once(tmp_path):
    text = study(open_task, {"number": ["a", "b", 3], "any": list(range(20))}, None,
                 "40 of 60 cells", tmp_path)
    assert text.count("number must") == 2 and "(20, the first: {'number': 'a', 'any': 0})" in text
    grid = {"number": [np.int64(1), 2.0], "any": range(2)}
    cells = sweeps.cells_of(open_task, grid, directory=tmp_path)
    assert [repr(values["number"]) for _, values in cells] == ["1", "1", "2", "2"]


def test_parameters_of_a_notebook_are_checked_by_their_annotations(tmp_path):
    path, out = tmp_path / "n.ipynb", tmp_path / "out.ipynb"
    cell = nbformat.v4.new_code_cell(
        "models: list = []  # a\nsteps: int = 1  # b\nrate: float = 1e-2  # c\nname: str = ''\n"
        "cards: dict = {}\nkeep: bool = True\nfree = 3", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), path)
    right = {"models": ("a",), "steps": np.float64(1e2), "rate": 1, "name": Path("x"),
             "free": "y"}
    assert repr(chapters.check_parameters(path, right)) == repr(
        {"models": ["a"], "steps": 100, "rate": 1, "name": "x", "free": "y"})
    for wrong in ({"models": "zoo/x"}, {"steps": "3"}, {"steps": 2.5}, {"rate": "1e-2"},
                  {"name": 3}, {"cards": "a"}, {"keep": "no"}, {"models": None}):
        name, = wrong
        with pytest.raises(ValueError, match=f"^{name} "):
            chapters.execute(path, out, wrong)
    with pytest.raises(ValueError, match="^models is a list.*\nsteps must"):
        chapters.check_parameters(path, {"models": "a", "steps": "b"})
    assert not out.exists()
