"""What the local extension of the report does to its pages (book/_ext)."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from pybtex.database import parse_string

import metalib

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("report", ROOT / "book" / "_ext" / "report.py")
assert SPEC and SPEC.loader
report = sys.modules["report"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(report)


def cell(*tags, **attributes):
    return nodes.container(nb_element="cell_code", cell_metadata={"tags": list(tags)},
                           **attributes)


@pytest.mark.parametrize("tags, before, after", [
    ([], "", "input"), (["hide-output"], "output", "input+output"), (["x"], "all", "all"),
    (["show-input"], "", ""),
])
def test_the_code_of_a_notebook_is_folded(tags, before, after):
    found = cell(*tags, **({"hide_mode": before} if before else {}))
    fold(found, "notebooks/some")
    assert found.get("hide_mode", "") == after


def test_parameters_are_called_so_and_the_tutorial_stays_open():
    parameters, code = cell("parameters"), cell()
    fold(parameters, "notebooks/some")
    fold(code, "book/tutorial")
    assert parameters["prompt_show"] == "Show the parameters" and "hide_mode" not in code


def fold(found, page):
    document = nodes.container("", found)
    report.fold_code(SimpleNamespace(env=SimpleNamespace(docname=page)), document)


def test_a_page_says_how_it_is_made_and_cited():
    context = {"title": "Is <em>this</em> so?", "body": ""}
    app = SimpleNamespace(config=SimpleNamespace(copyright="2026", html_title="Model metamers"))
    page = next((ROOT / "notebooks").glob("0*.ipynb")).relative_to(ROOT).with_suffix("")
    report.with_footer(app, page.as_posix(), "", context, "a document")
    body = context["body"]
    assert "<code>make book</code>" in body and f"<code>papermill {page.as_posix()}.ipynb" in body
    assert "The metalib authors (2026). Is this so? In <em>Model metamers</em>" in body
    assert f"version {metalib.__version__}" in body
    report.with_footer(app, "genindex", "", context, None)
    assert context["body"] == body


def test_references_are_listed_by_the_labels_of_the_text():
    entries = parse_string("""
        @article{b, author = {Ärger, A. and Zahn, B.}, title = {T}, year = {2001}, journal = {J}}
        @article{a, author = {van der Bo, A. and B, B. and C, C.}, title = {T}, year = {1999},
                 journal = {J}}
        @article{c, author = {{The maintainers}}, title = {T}, year = {2016}, journal = {J}}
    """, "bibtex").entries.values()
    found = list(report.AsCited().format_entries(entries))
    assert [entry.label for entry in found] == [
        "Ärger and Zahn, 2001", "The maintainers, 2016", "van der Bo et al., 1999"]


def test_indented_blocks_of_docstrings_are_kept_as_they_are():
    lines = ["Read it:", "", "    call(*names)  # and so on", "", "    again()", "", "Then:",
             "", "Args:", "    a: what", "        goes on."]
    report.keep_examples(None, "module", "x", None, None, lines)
    assert lines[2:5] == ["::", "", "    call(*names)  # and so on"] and lines.count("::") == 1


def test_scripts_that_need_a_server_are_left_out():
    context = {"script_files": [SimpleNamespace(filename="sphinx-thebe.js", attributes={}),
                                SimpleNamespace(filename=None, attributes={
                                    "body": "const THEBE_JS_URL = 1"}),
                                SimpleNamespace(filename="doctools.js", attributes={})]}
    report.without_kernel(None, "page", "", context, None)
    assert [file.filename for file in context["script_files"]] == ["doctools.js"]
