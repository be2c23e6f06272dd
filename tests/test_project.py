"""The project's files: the chapters' anatomy, citations, pins, the public face, the wheel."""
import ast
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from jupyter_client.manager import start_new_kernel

import metalib
from metalib import claims, names, studies

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = sorted((ROOT / "book").glob("*.ipynb"))  # pages that cells make, besides chapters
PAGES = sorted((ROOT / "book").glob("*.md"))
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                         check=True).stdout.split()


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request):
    return nbformat.read(request.param, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def test_chapters_have_the_anatomy(chapter):
    code = [cell for cell in chapter.cells if cell.cell_type == "code"]
    assert 10 <= len(chapter.cells) <= 25
    title = chapter.cells[0].source.splitlines()[0]
    assert title.startswith("# ") and title.endswith("?")
    assert [cell for cell in code if "parameters" in tags(cell)] == [code[0]]
    assert code[0].source.startswith('source: str = "results"  # ') or "studies." not in "".join(
        cell.source for cell in code)
    assert sum("nbval-check-output" in tags(cell) for cell in code) >= 2
    assert max(len(line) for cell in code for line in cell.source.splitlines()) <= 100
    for cell in code[1:]:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 15, cell.source
        assert not re.search(r"\bpip\b|sys\.path|tqdm", cell.source)
        for node in ast.walk(ast.parse(cell.source)):
            long = isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 5
            assert not long, cell.source


def test_parameters_explain_themselves(chapter):
    parameters = next(cell for cell in chapter.cells if "parameters" in tags(cell))
    for line in parameters.source.splitlines():
        assert re.fullmatch(r"\w+: (str|int|float|bool|list|dict) = .+  # .+", line), line


@pytest.mark.parametrize("path", [*CHAPTERS, *EXECUTED],
                         ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebooks_are_committed_as_executed(path):
    chapter = nbformat.read(path, as_version=4)
    code = [cell for cell in chapter.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs
                if output.output_type == "error" or output.get("name") == "stderr"]
    assert "papermill" not in chapter.metadata
    assert not any("execution" in cell.metadata for cell in chapter.cells)
    pictures = {"image/png", "image/jpeg"}
    figures = [cell for cell in code
               if any(pictures & set(output.get("data", {})) for output in cell.outputs)]
    assert all(cell.metadata["mystnb"]["figure"]["caption"] and
               cell.metadata["mystnb"]["image"]["alt"] for cell in figures)
    assert figures or path.stem == "conclusion"
    for cell in figures:  # a table beside the figure would get its caption, too
        assert len([output for output in cell.outputs
                    if "data" in output and "scrapbook" not in output.metadata]) == 1


def test_notebooks_and_results_are_small():
    assert all(path.stat().st_size < 1_000_000 for path in [*CHAPTERS, *EXECUTED])
    results = list((ROOT / "results").glob("*.parquet"))
    assert results and sum(path.stat().st_size for path in results) < 15_000_000


@pytest.mark.parametrize("name", studies.list_studies())
def test_every_study_has_a_fresh_table_that_its_tolerances_fit(name):
    table = studies.table(name)  # raises an error where it is stale
    study = studies.load_study(name)
    assert set(study.tolerances) <= set(table.columns) and len(table)
    assert {cell["hardware"] for cell in table.attrs["provenance"]["cells"].values()}


def test_claims_are_those_of_the_tables_and_point_at_figures_that_there_are():
    cells = [(path.name, cell) for path in CHAPTERS
             for cell in nbformat.read(path, as_version=4).cells]
    figures = {f"{page}#{cell.metadata.get('mystnb', {}).get('figure', {}).get('name')}"
               for page, cell in cells}
    figures |= {f"{page}#{name}" for page, cell in cells  # tables, by the text above them
                for name in re.findall(r"^\((tab-[\w-]+)\)=$", cell.source, flags=re.MULTILINE)}
    verdicts = claims.verdicts()
    assert {one.claim.question for one in verdicts} == set(claims.QUESTIONS)
    assert not {one.claim.figure for one in verdicts} - figures
    assert len({one.sentence for one in verdicts}) == len(verdicts)


def test_profiles_set_parameters_that_there_are():
    profiles = sorted((ROOT / "notebooks" / "profiles").glob("*/*.yml"))
    assert profiles
    for path in profiles:
        chapter = nbformat.read(ROOT / "notebooks" / f"{path.stem}.ipynb", as_version=4)
        parameters = next(cell for cell in chapter.cells if "parameters" in tags(cell))
        known = re.findall(r"^(\w+):", parameters.source, flags=re.MULTILINE)
        assert set(yaml.safe_load(path.read_text())) <= set(known)


def test_every_citation_is_in_the_bibliography_and_every_entry_is_traceable():
    bibliography = (ROOT / "book" / "references.bib").read_text()
    entries = dict(re.findall(r"@\w+\{([^,]+),(.*?)\n\}", bibliography, flags=re.DOTALL))
    assert len(entries) == len(re.findall(r"^@", bibliography, flags=re.MULTILINE)) > 40
    for key, body in entries.items():
        assert re.search(r"^\s*(doi|eprint|url)\s*=", body, flags=re.MULTILINE), key
    text = "".join(path.read_text() for path in [*PAGES, *CHAPTERS, *EXECUTED])
    groups = re.findall(r"\{cite:[pt]\}`([^`]+)`", text)
    cited = {key for group in groups for key in group.split(",")}
    assert cited == set(entries), cited ^ set(entries)  # nothing is missing, nothing is unread


def test_every_page_is_in_the_table_of_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    paths = [*PAGES, *EXECUTED, *CHAPTERS]
    pages = [path.relative_to(ROOT).with_suffix("") for path in paths]
    assert {contents["root"], *chapters} == {str(page) for page in pages}


def test_pins_stand_in_one_place():
    pinned = set(re.findall(r"^([\w.-]+)(?:\[.*?\])?==", (ROOT / "requirements.txt").read_text(),
                            flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    required = {re.match(r"[\w.-]+", requirement)[0] for requirement in wanted}
    assert required <= pinned, required - pinned
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    packages = {re.match(r"\w+", entry)[0] for entry in environment if isinstance(entry, str)}
    assert packages == {"python", "pip", "make"}  # everything else comes from requirements.txt
    assert environment[-1] == {"pip": ["-r requirements.txt", "-e ."]}


def test_no_tracked_file_names_a_path_of_a_machine():
    pattern = re.compile(r"(?<![\w.])/(home|root|Users|work|tmp|opt)/\w")
    endings = {".py", ".md", ".ipynb", ".yml", ".txt", ".json", ".toml"}
    texts = {name: (ROOT / name).read_text() for name in TRACKED
             if Path(name).suffix in endings and (ROOT / name).is_file()}
    found = {name: pattern.search(text) for name, text in texts.items()}
    assert texts and not {name: match[0] for name, match in found.items() if match}


def test_importing_metalib_is_light():
    heavy = ["matplotlib", "sklearn", "skimage", "statsmodels", "robustbench", "timm",
             "huggingface_hub", "foolbox", "IPython", "seaborn", "dask", "papermill"]
    code = f"import sys, metalib; print([name for name in {heavy} if name in sys.modules])"
    assert _python("-c", code).strip() == "[]"


# --- The public face ----------------------------------------------------------------------------

FACE = """ImageSet Metamers Model NullDistribution Responses __version__ check_model classes
combinations crossed external generate judge list_models load_images load_model load_null metrics
null_distribution nulls optimizers priors representation representation_test starts store
transfer_study wrap_model zoo Compute Criterion""".split()

SIGNATURES = {  # what the chapters and users' scripts stand on: operands, then keywords
    "list_models": "pattern | offline",
    "load_model": "name | stages device allow_pickle pretrained",
    "wrap_model": "module | stages mean std input_size class_names name",
    "load_images": "source | split n seed size root",
    "generate": "model_or_models images stage | optimizer start steps seed stop device compute",
    "null_distribution": "model stage images | pairs seed",
    "judge": "model stage metamers null |",
    "representation_test": "observers references metamers | stages nulls natural seed",
    "transfer_study": "generators observers images | stages directory steps seed",
}


def test_the_public_face_is_whole():
    assert set(FACE) <= set(metalib.__all__)
    assert all(hasattr(metalib, name) for name in metalib.__all__)
    for name, wanted in SIGNATURES.items():
        parameters = inspect.signature(getattr(metalib, name)).parameters
        operands, keywords = (part.split() for part in wanted.split("|"))
        kinds = {kind: [key for key, parameter in parameters.items() if parameter.kind == kind]
                 for kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD,
                              inspect.Parameter.KEYWORD_ONLY)}
        positional, only = kinds.values()
        assert positional[:len(operands)] == operands and len(positional) <= len(operands) + 1, name
        assert set(keywords) <= set(only) | set(positional), name
    assert len(inspect.signature(metalib.generate).parameters) <= 20


def test_short_names_reach_the_modules_themselves(monkeypatch):
    for short, name in names.MODULES.items():
        module = importlib.import_module(f"metalib.{name}")
        assert importlib.import_module(f"metalib.{short}") is module, short
        assert module.__spec__.name == module.__name__ == f"metalib.{name}"
    assert callable(metalib.generate) and metalib.seeing is importlib.import_module(
        "metalib.evaluation.images")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        metalib.nonsense  # noqa: B018
    for command in ("metalib.run", "metalib.sweep", "metalib.zoo.train"):  # as python -m does
        monkeypatch.delitem(sys.modules, command)
        spec = importlib.util.find_spec(command)
        code = spec.loader.get_code(command)
        assert code.co_filename == spec.origin and "main" in code.co_names


def test_the_api_pages_name_what_there_is_and_all_of_the_public_face():
    pages = [ROOT / "book" / "api.md", *(ROOT / "book" / "api").glob("*.md")]
    page = "\n".join(path.read_text() for path in pages)
    found = re.findall(r"^\.\. auto(\w+):: (\S+)(?:\n   :members: (.+))?", page, flags=re.MULTILINE)
    shown = set()
    for kind, name, members in found:
        target = _reached(name)
        assert inspect.ismodule(target) == (kind == "module") and inspect.getdoc(target), name
        for member in filter(None, members.split(", ")):
            assert inspect.getdoc(getattr(target, member)), f"{name}.{member}"
        shown |= {name.rpartition(".")[2], *members.split(", ")}
    public = {name for name in metalib.__all__ if callable(getattr(metalib, name))}
    assert public <= shown, public - shown
    for name in re.findall(r"`(metalib\.[\w.]+)`", page):
        assert _reached(name) is not None, name


def _reached(name):
    """What a dotted name stands for, after nothing but `import metalib`."""
    target = metalib
    for part in name.split(".")[1:]:
        target = getattr(target, part)
    return target


def test_functions_are_short():
    """Sixty lines beside the docstring; complexity and arrows between rooms are for `make lint`."""
    for path in (ROOT / "metalib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                documented = ast.get_docstring(node) is not None
                text = first.end_lineno - first.lineno + 1 if documented else 0
                assert node.end_lineno - node.lineno + 1 - text <= 60, f"{path.name}: {node.name}"


# --- The wheel ----------------------------------------------------------------------------------

WHEEL = """
import metalib
assert "elsewhere" in metalib.__file__, metalib.__file__
name = metalib.list_models("zoo/*")[0]
model, images = metalib.load_model(name), metalib.load_images("cifar10-samples", n=2)
metamers = metalib.generate(model, images, "group3", steps=3)
print(len(metalib.list_models("zoo/*")), len(metalib.judge(
    model, "group3", metamers, metalib.load_null(model, "group3"))), metalib.__version__)
"""


def test_the_wheel_works_from_another_folder(tmp_path):
    """It holds the code, the zoo with its nulls, and the marker of types; no tests, no records."""
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    for name in ("metalib", "pyproject.toml", "README.md", "LICENSE"):  # building leaves traces
        os.symlink(ROOT / name, tmp_path / name)
    _python(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path / "dist"),
            str(tmp_path))
    wheel, = (tmp_path / "dist").iterdir()
    _python(*pip, "install", "--no-deps", "--target", str(tmp_path / "elsewhere"), str(wheel))
    found = {path.name for path in (tmp_path / "elsewhere").iterdir()}
    assert found == {"bin", "metalib", f"metalib-{metalib.__version__}.dist-info"}
    assert [path.name for path in (tmp_path / "elsewhere" / "bin").iterdir()] == ["metalib"]
    assert (tmp_path / "elsewhere" / "metalib" / "py.typed").is_file()
    printed = _python("-c", WHEEL, cwd=tmp_path / "dist", PYTHONPATH=str(tmp_path / "elsewhere"))
    assert printed.split() == [str(len(metalib.list_models("zoo/*"))), "2", metalib.__version__]


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changes, flags=re.MULTILINE)[1] == metalib.__version__


def _python(*arguments, cwd=None, **environment):
    """What a Python of this environment prints."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd,
                          env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_notebook_that_is_executed_whole_shows_no_bar():
    """Papermill, jupyter-book and nbval tell the kernel that nobody can answer questions.

    An interactive front end can.
    """
    _, client = start_new_kernel()
    code = "from metalib.progress import bar\nwith bar(3, 'work') as shown:\n    shown.update(3)"
    shown = {True: [], False: []}
    try:
        for interactive, messages in shown.items():
            client.execute_interactive(code, allow_stdin=interactive,
                                       output_hook=messages.append, timeout=120)
    finally:
        client.shutdown()
        client.stop_channels()
    outputs = {interactive: [message["msg_type"] for message in messages
                             if message["msg_type"] in ("stream", "display_data", "error")]
               for interactive, messages in shown.items()}
    assert outputs == {True: ["display_data"], False: []}
