"""The chapters' code holds for other values of their parameters, at the smallest scale.

The cells run in this process. Networks are tiny, and their stages have names of their own.
"""

import ast
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from conftest import small_network

from metalib import chapters, load_images, wrap_model
from metalib.data import ImageSet
from metalib.models.registry import SOURCES, Source

ROOT = Path(__file__).parents[1]
STAGES = {"a": ["0", "1", "2", "3", "5"], "b": ["1", "5"], "c": ["5"]}  # of networks own/a, ...
SMALL = {
    1: {"models": ["own/a"], "match_models": [], "start_model": "own/a", "observer": "own/b",
        "start_stages": ["2"], "n_images": 2, "steps": 2},
    3: {"generators": ["own/a", "own/b"], "matched": ["1", "5"], "observers": ["own/c"],
        "pair": ["own/a", "own/b", "5"], "look": "5", "n_images": 4, "steps": 2, "draws": 2,
        "permutations": 9},
    5: {"models": ["own/c"], "pair": ["own/a", "own/b"], "n_images": 2, "n_inverted": 1, "steps": 2,
        "inversion_steps": 1, "resamples": 5},
    6: {"n_images": 2, "steps": 1},
}
BEFORE = {3: "def p_values"}  # simulations take long, and their cells have one parameter


def load(name, *, stages=None, **_):
    return wrap_model(small_network(len(name)), stages=stages or STAGES[name], mean=(0.4,) * 3,
                      std=(0.2,) * 3, input_size=32, name=f"own/{name}")


@pytest.fixture
def run(monkeypatch):
    """Runs the code cells of a chapter; returns what they glued, and what its text lacks."""
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
        names = {"display": render}
        for cell in [cell for cell in chapter.cells if cell.cell_type == "code"]:
            if cell.source.startswith(BEFORE.get(number, "-")):
                break
            tree = ast.parse(cell.source)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, path.name, "exec"), names)
            if last:
                render(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
            if "parameters" in cell.metadata.get("tags", []):
                given = SMALL.get(number, {}) | parameters
                assert set(given) <= set(names)
                names |= given
            plt.close("all")
        text = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
        return glued, [name for name in chapters.named(text) if name not in glued]

    with plt.rc_context():
        yield run


@pytest.mark.parametrize("parameters", [
    {"imagenet": [], "robustbench": [], "pattern": "zoo/vgg-*-0"},
    {"imagenet": ["squeezenet1_0"], "robustbench": [], "pattern": "zoo/vgg-standard-0"}])
def test_chapter_0_holds_without_public_networks_and_for_any_bundled_ones(run, capsys, parameters):
    run(0, **parameters)
    text = "only one of the two kinds" if "standard" in parameters["pattern"] else ": True"
    assert f"every other: {text}".replace(": :", ":") in capsys.readouterr().out


def test_chapter_0_says_that_a_pattern_matches_nothing(run):
    with pytest.raises(ValueError, match="no bundled network matches 'resnet'"):
        run(0, pattern="resnet")


@pytest.mark.parametrize("parameters", [
    {"stages": ["2", "5"]},
    {"models": ["own/c", "own/b"], "optimizers": ["adam"], "start_stages": [],
     "image_set": "folder"}])
def test_chapter_1_holds_for_few_stages_and_rules(run, tmp_path, parameters):
    if "image_set" in parameters:  # without classes, and so without starts of another class
        parameters = parameters | {"image_set": flat_folder(tmp_path), "start_model": "own/c"}
    _, lacking = run(1, save_to=str(tmp_path / "tables"), **parameters)
    assert not [name for name in lacking if not name.startswith("full_match")]
    assert (tmp_path / "tables" / "starts.csv").is_file()


@pytest.mark.parametrize("parameters", [
    {}, {"matched": ["5"], "generators": ["own/c"], "pair": ["own/b", "own/c", "1"]},
    {"matched": ["5", "1", "1"], "generators": ["own/b"], "pair": ["own/c", "own/b", "5"]}])
def test_the_text_of_chapter_3_follows_its_generators_and_stages(run, parameters):
    glued, lacking = run(3, **parameters)
    assert lacking == ["naive"]
    generators = (SMALL[3] | parameters)["generators"]
    assert all(f"{name}: " in glued["beyond"] for name in generators)
    assert all(name in glued["against_noise"] for name in generators)
    assert glued["later"] == {"15": "5", "5": "5", "511": "1"}["".join(
        (SMALL[3] | parameters)["matched"])]


@pytest.mark.parametrize("parameters, text", [
    ({"n_images": 3}, "n_images is 3; this chapter needs at least 4"),
    ({"generators": ["own/c"], "pair": ["own/c", "own/c", "5"]}, "number of networks is 1"),
    ({"image_set": "folder"}, "sub-folders, one for each class")])
def test_chapter_3_says_at_once_what_it_cannot_show(run, tmp_path, parameters, text):
    if "image_set" in parameters:
        parameters = {"image_set": flat_folder(tmp_path)}
    with pytest.raises(ValueError, match=text):
        run(3, **parameters)


def test_the_text_of_chapter_5_follows_its_stages(run):
    glued, lacking = run(5, stages=["5"])  # a stage without places, and four weights
    assert not lacking
    assert glued["layout"].startswith("5: ") and glued["told metamers"].endswith(" of 3")


@pytest.mark.parametrize("number, parameters, text", [
    (2, {"models": ["zoo/vgg-standard-0", "zoo/vgg-robust-0"]}, "networks_held_out is -2"),
    (2, {"models": ["own/a", "own/b"], "members": [2]}, "card of own/a does not tell"),
    (4, {"models": ["own/a", "own/b", "own/a"]}, "number_of_models is 2"),
    (4, {"efforts": []}, "number_of_efforts is 0"),
    (5, {"stages": ["1"]}, "own/c has no stage '1'; its stages are 5"),
    (5, {"stages": []}, "stages is empty"),
    (5, {"pair": ["own/a", "own/a"]}, "networks_of_pair is 1; this chapter needs at least 2")])
def test_chapters_say_at_once_what_they_cannot_show(run, number, parameters, text):
    with pytest.raises(ValueError, match=text):
        run(number, **parameters)


@pytest.mark.parametrize("models", [
    ["own/a"], ["own/b", "zoo/vgg-robust-1", "own/a", "own/c", "zoo/vgg-standard-0"]])
def test_the_gallery_shows_any_networks_in_any_order(run, capsys, models):
    _, lacking = run(6, models=models)
    assert not lacking
    rows = sum(len(STAGES.get(name[4:], range(6))) for name in models)
    assert f"2 photographs, {rows} rows, {2 * rows} metamers" in capsys.readouterr().out


def flat_folder(folder):
    for number, image in enumerate(load_images("cifar10-samples", n=5).images):
        plt.imsave(folder / f"{number}.png", image.movedim(0, -1).numpy())
    return f"folder:{folder}"


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


def test_starts_from_other_images_need_classes(samples):
    assert chapters.class_starts(samples[:3], samples) == ["same_class", "other_class"]
    alone = samples[:1]
    assert chapters.class_starts(alone, alone) == []
    unknown = ImageSet(samples.images, torch.full((len(samples),), -1), (), "folder:photographs")
    assert chapters.class_starts(unknown[:3], unknown) == []
    with pytest.raises(ValueError, match="folder:photographs has images without"):
        chapters.check_labels(unknown)


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
