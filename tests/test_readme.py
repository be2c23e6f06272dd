"""What the README and the pages for beginners show runs as it stands: Python, shell and YAML."""

import contextlib
import io
import os
import re
import shlex
import warnings
from pathlib import Path

import matplotlib
import nbformat
import pytest
import torch
import yaml
from torchvision.transforms.functional import to_pil_image

import metalib
from metalib.runs import command, recipe, sweep
from metalib.runs.notebooks import check_parameters

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CHECKED = {"git", "cd", "pip", "make"}  # lines of the README that are looked at, and not run


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.M | re.S)


def lines_of(block):
    """The commands of a shell block, without comments, each as a list of words."""
    commands = (shlex.split(line, comments=True)
                for line in block.replace("\\\n", " ").splitlines())
    return [words for words in commands if words]


def run(source, space, name):
    """Run Python code as it stands; what it would warn a reader of is no error."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as printed:
        warnings.simplefilter("ignore", UserWarning)
        exec(compile(source, name, "exec"), space)
    return printed.getvalue()


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The folder in which a reader sits, with photographs and the YAML files of the README."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "photographs").mkdir()
    for name in ("cifar10-samples", "imagenet-samples"):
        for number, image in enumerate(metalib.load_images(name, size=64).images):
            to_pil_image(image).save(folder / "photographs" / f"{name}{number}.png")
    for block in blocks(README, "yaml"):
        (folder / re.search(r"\b(\w+\.yml):", block)[1]).write_text(block)
    before, backend = os.getcwd(), matplotlib.get_backend()
    os.chdir(folder)
    matplotlib.use("agg")
    yield folder
    os.chdir(before)
    matplotlib.use(backend)


def test_the_recipe_is_one_and_leaves_the_file_that_is_read_afterwards(desk):
    """It is made smaller, since its 500 steps are not for a test."""
    wanted = yaml.safe_load((desk / "recipe.yml").read_text())
    assert wanted["steps"] == 500 and wanted["stop"] == "criterion"
    wanted["steps"], wanted["images"]["n"] = 5, 2
    metamers = recipe.run(wanted, desk / "run")
    assert len(metamers) == 2 and (desk / "run" / "metamers.safetensors").is_file()


def test_the_study_is_one(desk, capsys):
    with pytest.raises(SystemExit) as ended:
        sweep.main(["study.yml", "study", "--collect"])
    assert "12" in capsys.readouterr().out + str(ended.value.code)  # 2 x 2 x 3 cells


@pytest.mark.parametrize("page", [README, ROOT / "book" / "questions.md"], ids=lambda p: p.stem)
def test_python_blocks_run_in_order(page, desk):
    found = blocks(page, "python")
    assert len(found) >= 5
    space = {"__name__": "reader"}
    for number, block in enumerate(found):
        run(block, space, f"{page.name}, block {number}")


def test_the_first_block_ends_in_a_picture():
    first = blocks(README, "python")[0].strip().splitlines()
    assert first[0] == "import metalib" and first[-1].startswith("metamers.plot()")


def test_shell_blocks_run_or_name_what_there_is(desk, capsys):
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), flags=re.M)
    ran = set()
    for words in (line for block in blocks(README, "sh") for line in lines_of(block)):
        program = Path(words[0]).name
        if program == "metalib" and words[1] in ("check", "generate", "judge"):
            assert command.main(words[1:]) == 0, (words, capsys.readouterr().err)
        elif program == "metalib":  # of a grid and a recipe, whose files are tested above
            assert words[1] in command.DELEGATED and Path(words[2]).is_file()
        elif program == "torchrun":
            assert words[2:4] == ["-m", "metalib.run"] and Path(words[4]).is_file()
        elif program in ("jupyter", "papermill"):
            check_notebook(words)
        else:
            assert program in CHECKED, words
            assert program != "make" or words[1] in targets
        ran.add(program)
    assert ran == {"metalib", "torchrun", "jupyter", "papermill"} | CHECKED


def check_notebook(words):
    """The notebook is there, and has the parameters that are given."""
    path, = {ROOT / word for word in words if word.startswith("notebooks/")}
    assert path.is_file()
    given = {name: yaml.safe_load(value) for option, name, value in zip(words, words[1:], words[2:])
             if option == "-p"}
    for option, text in zip(words, words[1:]):
        given |= yaml.safe_load(text) if option == "-y" else {}
    check_parameters(path, given)


def test_no_page_says_what_is_not_so():
    text = README.read_text()
    named = set(re.findall(r"\b(?:zoo|torchvision|timm|robustbench)/[\w./-]*\w", text))
    for name in named:
        assert name in metalib.list_models(f"{name.partition('/')[0]}/*"), name
    number, = re.findall(r"The (\d+) bundled networks", text)
    assert int(number) == len(metalib.list_models("zoo/*"))
    assert "list_models()" not in text  # that lists thousands
    for path in re.findall(r"`((?:book|notebooks|metalib|tests|benchmarks)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    assert not any("cuda" in block for block in blocks(README, "sh"))  # not every machine has one


def test_the_tutorial_runs_and_says_what_it_printed():
    tutorial = nbformat.read(ROOT / "book" / "tutorial.ipynb", as_version=4)
    space, held = {"__name__": "reader"}, 0
    for number, cell in enumerate(cell for cell in tutorial.cells if cell.cell_type == "code"):
        printed = run(cell.source, space, f"tutorial, cell {number}")
        if "nbval-check-output" in cell.metadata.get("tags", []):
            assert printed == "".join(output.text for output in cell.outputs), cell.source
            held += 1
    assert held >= 3 and torch.is_tensor(space["late"].images)
