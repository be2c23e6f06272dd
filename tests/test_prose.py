"""No page states a finding by itself: findings are claims, whose words follow the tables.

What a test can see of that, in the prose of all pages (captions, too): numbers with decimals or
units that are neither glued, nor cited, nor definitions; sentences that say nearly what a wording
of a claim says; headings and takeaways of chapters that compare. It cannot see a finding in whole
numbers, or in words that no claim has.
"""

import re
from pathlib import Path

import nbformat
import pytest

from metalib import claims

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [*sorted(BOOK.glob("*.md")), *sorted(BOOK.glob("*.ipynb")), *CHAPTERS, ROOT / "README.md"]

UNITS = r"%|dB|times\b|fold\b|core hours|hours|minutes|seconds|ms\b|MB\b|GB\b"
WORDS = "two|three|four|five|ten|twenty|fifty|a hundred|hundred|a thousand|thousand"
NUMBER = re.compile(rf"\d[\d,]*\.\d+|\d[\d,]*\s*(?:{UNITS})|\b(?:{WORDS}) times (?:as|more|fewer)")
DEFINITIONS = {  # by page: of intervals and levels, of parameters, of versions and sizes to install
    "": {"95 %", "5 %"}, "README": {"3.11", "3.13", "4 GB", "7 GB"},
    "questions": {"10 GB", "five times as"},
    "literature": {"99.54"},  # of the study that its paragraph is on
    "methods": {"0.5", "0.05", "0.06"}, "00_reference_models": {"0.5"},
    "01_generation_ablations": {"fifty times fewer"},  # a line of a figure
    "03_representation_test": {"1 %", "99 %", "90 %"},
    "04_transfer_study": {"0.0001", "0.001"}, "05_seeing_invariances": {"0.5"}}
COMPARING = re.compile(
    r"\b(more|less|fewer|further|farther|better|best|worse|worst|cheap|cheaper|nearer|higher|lower"
    r"|larger|smaller|faster|slower|helps?|saves?|keeps? more|loses?|no|not)\b|\d{3}")
CHEAPER = re.compile(r"\b(cheaper|saves?|fewer|further|better|worse|larger|smaller|faster|slower"
                     r"|(more|less) often)\b")
EMPTY = set("""a an the of for to in on at by as than that is are was were be it its they them
their this these those and or but with from has have had do does did so too here there which what
who""".split())


def prose(path):
    """The texts of a page: its own, or those of its cells and captions."""
    if path.suffix == ".md":
        return [path.read_text()]
    return [text for cell in nbformat.read(path, 4).cells for text in (
        cell.source if cell.cell_type == "markdown" else "",
        cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")) if text]


def sentences(text):
    """Sentences, cells of tables and headings, without code, formulas and addresses of links."""
    for pattern, instead in (
            (r"^```\{(?:math|raw|code)[\s\S]*?^```|^```\w*\n[\s\S]*?^```|^\|[-| :]+\|$", " "),
            (r"\$\$?[^$]+\$\$?", " "), (r"\{glue:text\}`[^`]*`", " GLUED "),
            (r"\{cite:[pt]\}`[^`]*`", " CITED "), (r"\]\([^)]*\)", " "), (r"`[^`]*`", " ")):
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    for block in re.split(r"\n\s*\n|\n(?=[-|#])|(?<=\|)\n", text):
        joined = " ".join(block.split())
        yield from re.split(r"(?<=[.?!:])\s+(?=[A-Z*\"(])", joined)


def numbers(page, text):
    """Sentences with numbers that nothing computed and nobody published."""
    known = DEFINITIONS[""] | DEFINITIONS.get(page, set())
    return [sentence for sentence in sentences(text) if "CITED" not in sentence
            and set(NUMBER.findall(sentence)) - known]


def content(sentence):
    found = re.findall(r"[a-z]+", re.sub(r"\{[^}]*\}", " ", sentence).lower())
    return {word.rstrip("s") for word in found} - {word.rstrip("s") for word in EMPTY}


WORDINGS = [content(wording) for claim in claims.load_claims().values()
            for wording in (claim.supported, claim.unsupported, claim.opposite)]


def restated(text):
    """Sentences that share most of their words with a wording of a claim, and do not ask."""
    found = [(sentence, content(sentence)) for sentence in sentences(text)
             if not re.search(r"GLUED|CITED|\?", sentence)]
    return [sentence for sentence, words in found if len(words) > 3 and any(
        len(words & wording) > 0.55 * len(words | wording) for wording in WORDINGS)]


def told(text):
    """Headings that compare and do not ask, and takeaways that compare."""
    headings = [line for line in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
                if COMPARING.search(line) and not line.endswith("?")]
    takeaways = text.partition("## Takeaways")[2].strip().partition("\n\n")[0]
    return [*headings, *(line for line in re.split(r"\n(?=- )", takeaways)
                         if CHEAPER.search(line) and "GLUED" not in line)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_page_has_a_number_that_nothing_computed(path):
    assert not [found for text in prose(path) for found in numbers(path.stem, text)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_page_words_a_claim_by_itself(path):
    assert not [found for text in prose(path) for found in restated(text)]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_headings_ask_or_name_and_takeaways_advise(path):
    assert not [found for text in prose(path) for found in told(text)]


@pytest.mark.parametrize("sentence", [
    "A late metamer passes in 0.5 % of the cases.", "The rule needs 3.7 times the evaluations.",
    "It takes fifty times fewer evaluations.", "The match is 12 dB closer."])
def test_a_number_in_prose_is_found(sentence):
    assert numbers("index", f"Some words.\n\n{sentence} More words.") == [sentence]
    assert not numbers("index", re.sub(r"[\d.]+\d|\d+|fifty", "{glue:text}`x`", sentence))
    assert not numbers("index", sentence[:-1] + " {cite:p}`feather2023`.")
    assert not numbers("index", f"```python\n{sentence}\n```\nPoints with 95 % intervals.")


@pytest.mark.parametrize("name, wording", [
    (claim.id, wording) for claim in list(claims.load_claims().values())[::6]
    for wording in (claim.supported, claim.opposite)])
def test_a_wording_copied_into_prose_is_found(name, wording):
    copied = re.sub(r"\{[^}]*\}", "several", wording)
    assert restated(f"Some words.\n\n{copied}"), name
    assert restated(f"{copied[:-1]} indeed."), name


@pytest.mark.parametrize("text, found", [
    ("## Momentum helps", 1), ("## Does momentum help?", 0), ("## What momentum saves", 1),
    ("## The match after 24,000 steps", 1),
    ("## Takeaways\n\n- The rule is cheaper.\n\nNext: more", 1),
    ("## Takeaways\n\n- Count evaluations.\n- Report\n  both.", 0)])
def test_a_heading_or_a_takeaway_that_compares_is_found(text, found):
    assert len(told(text)) == found
