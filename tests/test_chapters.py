"""Chapters compute their own tables at the smallest scale, and refuse what they cannot show."""

import ast
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import nbformat
import pytest
from conftest import small_network

from metalib import chapters, wrap_model
from metalib.models.sources import SOURCES, Source
from metalib.runs.documents import read_yaml

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALLEST = sorted((ROOT / "notebooks" / "profiles" / "smallest").glob("*.yml"))
STAGES = {"a": ["0", "1", "2", "3", "5"], "b": ["1", "5"], "c": ["5"]}  # of networks own/a, ...


def test_every_chapter_that_reads_tables_has_a_smallest_scale():
    reading = {path.stem for path in CHAPTERS if 'source: str = "results"' in path.read_text()
               or r'source: str = \"results\"' in path.read_text()}
    assert len(reading) >= 5 and reading == {path.stem for path in SMALLEST}


def load(name, *, stages=None, **_):
    return wrap_model(small_network(len(name)), stages=stages or STAGES[name], mean=(0.4,) * 3,
                      std=(0.2,) * 3, input_size=32, name=f"own/{name}")


class Ran(NamedTuple):
    """What a chapter glued, what its text lacks of that, and how many figures there are."""

    glued: dict
    lacking: list
    figures: int


@pytest.fixture
def run(monkeypatch):
    """Runs the code cells of a chapter in this process, which spares a kernel for each."""
    import matplotlib_inline.backend_inline
    import myst_nb
    glued = {}
    monkeypatch.setitem(SOURCES, "own", Source(lambda: [*STAGES], load, lambda name: []))
    monkeypatch.setattr(myst_nb, "glue", lambda name, value, display=True: glued.update(
        {name: value}))
    monkeypatch.setattr(matplotlib_inline.backend_inline, "set_matplotlib_formats",
                        lambda *formats, **options: None)

    def render(*shown):
        for value in shown:
            getattr(value, "_repr_html_", lambda value=value: repr(value))()

    def run(number, **parameters):
        path, = (ROOT / "notebooks").glob(f"{number:02d}_*.ipynb")
        chapter = nbformat.read(path, as_version=4)
        names, figures = {"display": render}, 0
        for cell in [cell for cell in chapter.cells if cell.cell_type == "code"]:
            tree = ast.parse(cell.source)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, path.name, "exec"), names)
            if last:
                render(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
            if "parameters" in cell.metadata.get("tags", []):
                assert set(parameters) <= set(names)
                names |= parameters
            figures += len(plt.get_fignums())
            plt.close("all")
        text = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
        return Ran(glued, [name for name in chapters.named(text) if name not in glued], figures)

    with plt.rc_context():
        yield run


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("profile", SMALLEST, ids=lambda path: path.stem)
def test_chapters_compute_their_own_tables_at_the_smallest_scale(run, profile):
    """As `papermill -p source compute` does; every number in the text is computed, too."""
    parameters = read_yaml(profile)
    assert parameters.get("source", "compute") == "compute"
    parameters = chapters.check_parameters(ROOT / "notebooks" / f"{profile.stem}.ipynb", parameters)
    found = run(int(profile.stem[:2]), **parameters)
    assert not found.lacking and found.figures > 0


@pytest.mark.parametrize("parameters", [
    {"imagenet": [], "robustbench": [], "pattern": "zoo/vgg-*-0"},
    {"imagenet": ["squeezenet1_0"], "robustbench": [], "pattern": "zoo/vgg-standard-0"}])
def test_chapter_0_holds_without_public_networks_and_for_any_bundled_ones(run, capsys, parameters):
    run(0, **parameters)
    assert "Every architecture and training has two seeds: False" in capsys.readouterr().out


def test_chapter_0_says_that_a_pattern_matches_nothing(run):
    with pytest.raises(ValueError, match="no bundled network matches 'resnet'"):
        run(0, pattern="resnet")


@pytest.mark.parametrize("models", [
    ["own/a"], ["own/b", "zoo/vgg-robust-1", "own/a", "own/c", "zoo/vgg-standard-0"]])
def test_the_gallery_shows_any_networks_in_any_order(run, capsys, models):
    assert not run(6, models=models, n_images=2, steps=1).lacking
    rows = sum(len(STAGES.get(name[4:], range(6))) for name in models)
    assert f"2 photographs, {rows} rows, {2 * rows} metamers" in capsys.readouterr().out


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_committed_table_takes_no_other_values(run, number):
    with pytest.raises(ValueError, match=r"n_images: .* cannot be changed; give source='compute'"):
        run(number, n_images=2)


# --- What set-up cells ask ----------------------------------------------------------------------


@pytest.mark.parametrize("count, found", [(1, "a"), (2, "ab"), (3, "abc"), (6, "bdef")])
def test_places_beyond_an_end_are_that_end(count, found):
    assert "".join(chapters.at_places("abcdef"[:count], 1, -3, -2, -1)) == found


def test_networks_of_one_page_take_images_of_one_size():
    small, large = load("a"), load("b")
    assert chapters.image_size([small, large]) == 32
    large.input_size = 64
    with pytest.raises(ValueError, match="own/a takes 32, own/b takes 64"):
        chapters.image_size([small, large])


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_number_in_a_chapter_is_glued_once(path):
    chapter = nbformat.read(path, as_version=4)
    assert chapters.unglued(chapter) == []
    found = [output.metadata["scrapbook"]["name"] for cell in chapter.cells
             for output in cell.get("outputs", []) if "scrapbook" in output.get("metadata", {})]
    assert sorted(found) == sorted(set(found))


def test_a_name_that_no_cell_glued_is_found():
    text = "{glue:text}`a, b:s`, {glue:text}`here` and {glue:text}`other.ipynb::there:d`"
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    assert chapters.unglued(page) == ["a, b", "here"]
