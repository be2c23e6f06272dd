"""The report and the project's files: anatomy of the chapters, citations, one list of pins, nothing of a machine."""
import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from jupyter_client.manager import start_new_kernel

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RECORDS = sorted((ROOT / "book" / "full").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").glob("*.md"))
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request):
    return nbformat.read(request.param, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def test_chapters_have_the_anatomy(chapter):
    code = [cell for cell in chapter.cells if cell.cell_type == "code"]
    assert 10 <= len(chapter.cells) <= 25
    assert chapter.cells[0].source.startswith("# ") and chapter.cells[0].source.splitlines()[0].endswith("?")
    assert [cell for cell in code if "parameters" in tags(cell)] == [code[0]]
    assert sum("nbval-check-output" in tags(cell) for cell in code) >= 2
    assert max(len(line) for cell in code for line in cell.source.splitlines()) <= 100  # the width of a page
    for cell in code[1:]:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 15, cell.source
        assert not re.search(r"\bpip\b|sys\.path|tqdm", cell.source)
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef) or node.end_lineno - node.lineno < 5, cell.source


def test_parameters_explain_themselves(chapter):
    parameters = next(cell for cell in chapter.cells if "parameters" in tags(cell))
    for line in parameters.source.splitlines():
        assert re.fullmatch(r"\w+: (str|int|float|bool|list|dict) = .+  # .+", line), line


@pytest.mark.parametrize("path", [*CHAPTERS, *RECORDS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebooks_are_committed_as_executed(path):
    chapter = nbformat.read(path, as_version=4)
    code = [cell for cell in chapter.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert "papermill" not in chapter.metadata and not any("execution" in cell.metadata for cell in chapter.cells)
    figures = [cell for cell in code if any({"image/png", "image/jpeg"} & set(output.get("data", {})) for output in cell.outputs)]
    assert figures and all(cell.metadata["mystnb"]["figure"]["caption"] for cell in figures)
    shown = [[output for output in cell.outputs if "data" in output and "scrapbook" not in output.metadata] for cell in figures]
    assert all(len(outputs) == 1 for outputs in shown)  # a table beside the figure would get its caption, too


def test_tables_of_records_have_one_row_for_each_run():
    for name, keys in (("criterion", ["model", "stage", "image"]), ("match", ["model", "stage"]),
                       ("starts", ["stage", "start", "image"])):
        table = pd.read_csv(ROOT / "book" / "full" / f"{name}.csv")
        assert len(table) and not table.duplicated(keys).any(), name


def test_notebooks_are_small():
    assert all(path.stat().st_size < 1_000_000 for path in CHAPTERS)
    assert all(path.stat().st_size < 3_000_000 for path in RECORDS)


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
    text = "".join(path.read_text() for path in [*PAGES, *CHAPTERS])
    cited = {key for group in re.findall(r"\{cite:[pt]\}`([^`]+)`", text) for key in group.split(",")}
    assert cited == set(entries), cited ^ set(entries)  # nothing is missing, and nothing stands there unread


def test_every_page_is_in_the_table_of_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = {contents["root"], *(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])}
    assert files == {str(path.relative_to(ROOT).with_suffix("")) for path in [*PAGES, *CHAPTERS, *RECORDS]}


def test_pins_stand_in_one_place():
    pinned = set(re.findall(r"^([\w.-]+)(?:\[.*?\])?==", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in wanted}
    assert names <= pinned, names - pinned
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    packages = {re.match(r"\w+", entry)[0] for entry in environment if isinstance(entry, str)}
    assert packages == {"python", "pip", "make"}  # everything else comes from requirements.txt
    assert environment[-1] == {"pip": ["-r requirements.txt", "-e ."]}


def test_no_tracked_file_names_a_path_of_a_machine():
    pattern = re.compile(r"(?<![\w.])/(home|root|Users|work|tmp|opt)/\w")
    endings = {".py", ".md", ".ipynb", ".yml", ".txt", ".json", ".toml"}
    texts = {name: (ROOT / name).read_text() for name in TRACKED if Path(name).suffix in endings}
    assert texts and not {name: pattern.search(text)[0] for name, text in texts.items() if pattern.search(text)}


def test_importing_metalib_is_light():
    heavy = ["matplotlib", "sklearn", "skimage", "robustbench", "timm", "huggingface_hub", "foolbox", "IPython", "seaborn",
             "dask", "papermill"]
    code = f"import sys, metalib; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_modules_import_downwards_only():
    order = ["version", "classes", "metrics", "crossed", "data", "progress", "stages", "models", "conformance", "external", "zoo",
             "spectra", "priors", "starts", "optimizers", "combinations", "stacked", "graphs", "nulls", "generate", "store", "run",
             "representation", "transfer", "chapters", "tasks", "sweep", "confidence", "seeing", "plots"]
    assert {path.stem for path in (ROOT / "metalib").glob("*.py")} | {"zoo"} == {*order, "__init__"}
    for name in order:
        path = ROOT / "metalib" / (f"{name}.py" if name != "zoo" else "zoo/__init__.py")
        imported = set(re.findall(r"^from metalib\.(\w+)", path.read_text(), flags=re.MULTILINE))
        for group in re.findall(r"^from metalib import (.+)$", path.read_text(), flags=re.MULTILINE):
            imported |= {part.strip() for part in group.split(",")}
        assert all(order.index(other) <= order.index(name) for other in imported), (name, imported)


def test_a_notebook_that_is_executed_whole_shows_no_bar():
    """Papermill, jupyter-book and nbval all tell the kernel that nobody can answer; an interactive front end can."""
    _, client = start_new_kernel()
    code = "from metalib.progress import bar\nwith bar(3, 'work') as shown:\n    shown.update(3)"
    shown = {True: [], False: []}
    try:
        for interactive, messages in shown.items():
            client.execute_interactive(code, allow_stdin=interactive, output_hook=messages.append, timeout=120)
    finally:
        client.shutdown()
        client.stop_channels()
    outputs = {interactive: [message["msg_type"] for message in messages
                             if message["msg_type"] in ("stream", "display_data", "error")]
               for interactive, messages in shown.items()}
    assert outputs == {True: ["display_data"], False: []}
