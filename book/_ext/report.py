"""What the report's pages have in common, and the theme does not do by itself.

- The code of notebooks is folded; one click opens it. A cell tagged `show-input` stays open, and
  so does the tutorial, whose lesson the code is.
- Indented blocks of docstrings are shown as they are.
- Each page ends in how it is made and how it is cited.
- The bibliography is sorted by author, and its labels are what the text says.
- No page loads, twice, the settings of an interactive kernel that the report does not offer.
"""

import html
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pybtex.plugin
import yaml
from docutils import nodes
from pybtex.database import Entry
from pybtex.style.formatting.plain import Style as Plain
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting import BaseSortingStyle
from sphinx.application import Sphinx

from metalib.version import __version__

ROOT = Path(__file__).parents[2]  # of the checkout, or of the copy that is built
OPEN = ("book/tutorial",)  # pages whose code is not folded
COMMAND = "papermill {page}.ipynb {name}.ipynb{scale}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    pybtex.plugin.register_plugin("pybtex.style.formatting", "as_cited", AsCited)
    app.connect("autodoc-process-docstring", keep_examples, priority=400)  # before napoleon
    app.connect("doctree-read", fold_code)
    app.connect("html-page-context", without_kernel)
    app.connect("html-page-context", with_footer)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}


# --- Code ---------------------------------------------------------------------------------------


def fold_code(app: Sphinx, doctree: nodes.document) -> None:
    """Fold the input of every code cell."""
    if app.env.docname in OPEN:
        return
    for cell in doctree.findall(nodes.container):
        tags = cell.get("cell_metadata", {}).get("tags", [])
        if cell.get("nb_element") != "cell_code" or "show-input" in tags:
            continue
        cell["hide_mode"] = {"output": "input+output"}.get(
            cell.get("hide_mode", ""), cell.get("hide_mode") or "input")
        what = "parameters" if "parameters" in tags else "code"
        cell["prompt_show"], cell["prompt_hide"] = f"Show the {what}", f"Hide the {what}"


def keep_examples(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str],
) -> None:
    """Show indented blocks of a docstring as they are, with all asterisks and line breaks."""
    kept, before, block = [], "", None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indent < block:
            block = None
        if (block is None and line.strip() and number and not lines[number - 1].strip()
                and before and indent >= len(before) - len(before.lstrip()) + 4
                and not before.endswith("::") and not re.match(r"\s*([-*+:]|\.\.|>>>) ?", before)):
            kept += [" " * (len(before) - len(before.lstrip())) + "::", ""]
            block = indent
        before = line.rstrip() or before
        kept.append(line)
    lines[:] = kept


# --- Footer -------------------------------------------------------------------------------------


def with_footer(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Put below a page how it is made and how it is cited; indices and listings have no source."""
    if doctree is None or "body" not in context:
        return
    title = re.sub(r"<[^>]+>", "", context["title"])
    commands = " or ".join(f"<code>{html.escape(line)}</code>" for line in how_made(page))
    context["body"] += (
        '<section class="page-footer" aria-label="About this page">\n'
        f"<p><strong>Make this page:</strong> {commands}</p>\n"
        f"<p><strong>Cite this page:</strong> {how_cited(title, app.config)}</p>\n</section>\n")


def how_made(page: str) -> Iterator[str]:
    """The commands that make a page: all pages, and a chapter alone."""
    yield "make book"
    notebook = ROOT / f"{page}.ipynb"
    if page.startswith("notebooks/") and notebook.is_file():
        cells = nbformat.read(notebook, as_version=4).cells
        computes = any(re.match(r"source: str", cell.source) for cell in cells)
        yield COMMAND.format(page=page, name=notebook.stem,
                             scale=" -p source compute" if computes else "")


def how_cited(title: str, config: Any) -> str:
    """Authors, year, page, report and version, as HTML; `title` is HTML already."""
    authors = yaml.safe_load((ROOT / "CITATION.cff").read_text())["authors"]
    names = " and ".join(author.get("name") or f"{author['given-names']} {author['family-names']}"
                         for author in authors)
    year, report = html.escape(config.copyright), html.escape(config.html_title)
    return (f"{html.escape(names)} ({year}). {title.rstrip('.')}{'' if title[-1] in '?!' else '.'} "
            f"In <em>{report}</em>, version {__version__}.")


# --- References ---------------------------------------------------------------------------------


class Labels(BaseLabelStyle):
    """Labels as the text cites: "Liu and Nocedal, 1989", "Feather et al., 2023"."""

    def format_labels(self, sorted_entries: list[Entry]) -> Iterator[str]:
        return map(_label, sorted_entries)


class ByLabel(BaseSortingStyle):
    """As in the index of a book: by label, whatever its accents and capitals."""

    def sorting_key(self, entry: Entry) -> str:
        plain = unicodedata.normalize("NFD", _label(entry)).casefold()
        return "".join(letter for letter in plain if not unicodedata.combining(letter))


def _label(entry: Entry) -> str:
    last = [" ".join([*person.prelast_names, *person.last_names]).strip("{}")
            for person in entry.persons["author"]]
    names = f"{last[0]} et al." if len(last) > 2 else " and ".join(last)
    return f"{names}, {entry.fields['year']}"


class AsCited(Plain):
    """Entries under the labels that the text shows, sorted by them."""

    default_label_style = Labels
    default_sorting_style = ByLabel


# --- What is left out ---------------------------------------------------------------------------


def without_kernel(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Leave out Thebe's scripts, which would need a server; they come twice and clash."""
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context.get(kind, ()) if "thebe" not in (
            f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', {})}".lower())]
