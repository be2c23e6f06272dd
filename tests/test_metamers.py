"""The result and other objects as people handle them: parts, wholes, files, pictures, lines."""

import dataclasses
import io
import re
from base64 import b64decode

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from metalib import Criterion, ImageSet, Metamers, Responses, generate, judge, null_distribution
from metalib.evaluation.criterion import published


def made(count=6, steps=5, seed=0, **changes):
    """Metamers with a value of its own in every field that there is."""
    random = torch.Generator().manual_seed(seed)
    images, references, starts = torch.rand(3, count, 3, 8, 8, generator=random)
    return dataclasses.replace(Metamers(
        images, references, starts, torch.rand(steps, count, generator=random),
        torch.rand(steps, 2, count, generator=random), torch.arange(count),
        tuple(f"status {number}" for number in range(count)), float(count),
        {"models": ["a", "b"], "stages": ["1", "2"], "steps": steps, "optimizer": "sgd"},
        (torch.rand(2, count, 3, 8, 8, generator=random) * 255).to(torch.uint8),
        torch.tensor([2, steps])), **changes)


def same(ours, theirs):
    """Whether two Metamers are equal in every field."""
    for field in dataclasses.fields(Metamers):
        one, other = (getattr(metamers, field.name) for metamers in (ours, theirs))
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == pytest.approx(other) if field.name == "seconds" else one == other
    return True


# --- Parts and wholes ---------------------------------------------------------------------------

INDICES = st.one_of(
    st.integers(-6, 5), st.slices(6), st.lists(st.integers(-6, 5), max_size=8),
    st.lists(st.booleans(), min_size=6, max_size=6))


@settings(deadline=None, max_examples=40)
@given(INDICES, st.sampled_from([lambda x: x, np.array, torch.tensor, pd.Series]))
def test_a_part_has_what_belongs_to_its_images(index, kind):
    whole = made()
    rows = np.arange(6)[np.array(index, dtype=int) if index == [] else index].reshape(-1)
    if not isinstance(index, (slice, int)) and index != []:
        index = kind(index)
    part = whole[index]
    assert len(part) == len(rows) and part.status == tuple(f"status {row}" for row in rows)
    assert part.seconds == len(rows) and torch.equal(part.history_steps, whole.history_steps)
    if len(rows):
        assert part.recipe == whole.recipe
    for name, axis in (("images", 0), ("starts", 0), ("evaluations", 0), ("loss", 1),
                       ("member_loss", 2), ("history", 1)):
        whole_rows = getattr(whole, name).movedim(axis, 0)[rows.tolist()]
        assert torch.equal(getattr(part, name).movedim(axis, 0), whole_rows)


@pytest.mark.parametrize("index", [6, -7, [0, 6], [True, False], 0.5, [0.5], "images",
                                   [[0, 1], [2, 3]], None])
def test_what_is_no_index_is_refused(index):
    with pytest.raises(IndexError):
        made()[index]


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(6)), st.integers(1, 5))
def test_parts_make_the_whole_again(order, cut):
    whole = made()
    parts = whole[order[:cut]] + whole[order[cut:]]
    assert same(parts[np.argsort(order)], whole)
    assert same(Metamers.concatenate(list(whole)), whole)


def test_recipes_that_differ_are_told_by_image_and_found_again():
    one, two, three = (made(count, seed=count, recipe={"models": ["a"], "steps": 5, "seed": seed})
                       for count, seed in ((2, 0), (3, 1), (1, 0)))
    whole = one + two + three
    assert whole.recipe == {"models": ["a"], "steps": 5, "parts": [
        {"images": [0, 1, 5], "seed": 0}, {"images": [2, 3, 4], "seed": 1}]}
    assert same(one + (two + three), whole)
    assert whole[2:5].recipe == two.recipe and whole[[5, 0]].recipe == one.recipe
    assert whole[[4, 1]].recipe["parts"] == [{"images": [0], "seed": 1}, {"images": [1], "seed": 0}]


def test_shorter_losses_end_in_nan_and_what_one_lacks_the_whole_lacks():
    longer, shorter = made(2, 7), made(3, 5, seed=1)
    whole = longer + shorter
    assert whole.loss.shape == (7, 5) and whole.member_loss.shape == (7, 2, 5)
    assert whole.loss[5:, 2:].isnan().all() and torch.equal(whole.loss[:5, 2:], shorter.loss)
    assert whole.history is None and whole.history_steps is None  # of other steps
    elsewhere = Metamers(shorter.images, shorter.references)
    whole = longer + elsewhere
    assert whole.loss is None and whole.status == () and whole.starts is None
    assert len(whole) == 5 and "made elsewhere" in repr(whole)


@pytest.mark.parametrize("other, message", [
    (made(images=torch.zeros(6, 3, 9, 8)), r"images differ in shape, \(3, 8, 8\) and \(3, 9, 8\)"),
    (made(recipe={"models": ["c"]}), "the models differ, .* keep these metamers apart"),
    (made(recipe={"stages": ["1", "3"]}), "the stages differ"),
    (made(recipe={"fingerprints": ["1"]}), "differ in weights"),
    ("metamers", "a list of at least one Metamers")])
def test_what_does_not_fit_is_told(other, message):
    with pytest.raises(ValueError, match=message):
        Metamers.concatenate([
            made(recipe={"models": ["a"], "stages": ["1", "2"], "fingerprints": ["0"]}), other])


def test_nothing_and_other_things_are_not_added():
    with pytest.raises(ValueError, match="at least one"):
        Metamers.concatenate([])
    with pytest.raises(TypeError):
        made() + 1


def test_a_part_of_an_unfinished_run_is_no_run(samples, small):
    run = generate(small, samples[:4], "2", steps=9, pause=2)
    part = run[1:3]
    assert part.interrupted and not part.unfinished and run.unfinished
    with pytest.raises(ValueError, match="these differ: images, start"):
        generate(small, samples[:4], "2", steps=9, resume=part)


def test_saved_parts_and_wholes_are_loaded_as_they_were(tmp_path):
    for whole in (made(), made() + made(2, 3, seed=1, recipe={"models": ["a", "b"]})):
        whole.save(tmp_path / "run")
        assert same(Metamers.load(tmp_path / "run"), whole)
    with pytest.raises(FileNotFoundError, match="no metamers"):
        Metamers.load(tmp_path)


# --- Pictures -----------------------------------------------------------------------------------

def words(figure):
    """All texts of a figure: of its title, above the references, below the metamers."""
    title = [] if figure.get_suptitle() == "" else [figure.get_suptitle()]
    return title, [text.get_text() for ax in figure.axes for text in ax.get_xticklabels()], [
        text.get_text() for ax in figure.axes for text in ax.texts]


@pytest.mark.parametrize("count, channels, size, shown, blocks", [
    (1, 3, (32, 32), 1, 1), (11, 1, (8, 20), 11, 2), (1000, 3, (4, 4), 20, 2),
    (3, 3, (200, 20), 3, 1)])
def test_a_picture_shows_the_first_references_with_their_metamers(
        count, channels, size, shown, blocks):
    images = torch.rand(count, channels, *size)
    figure = Metamers(images, images.flip(0)).plot()
    title, above, _ = words(figure)
    assert len(figure.axes) == blocks and above == [str(number) for number in range(shown)]
    assert title == (["the first 20 of 1,000"] if count > shown else [])
    canvas = figure.axes[0].images[0].get_array()
    reference, metamer = (np.moveaxis(x[0].expand(3, *size).numpy(), 0, -1)
                          for x in (images.flip(0), images))
    np.testing.assert_allclose(canvas[:size[0], :size[1]], reference)
    np.testing.assert_allclose(canvas[-size[0]:, :size[1]], metamer)


def test_a_picture_says_what_passed_and_whose_it_is(samples, robust, tmp_path):
    metamers = generate(robust, samples[:4], "group2", steps=3)
    null = null_distribution(robust, "group2", samples)
    table = judge(robust, "group2", metamers, null)
    passed = np.array([True, False, True, True])
    for verdict in (table.assign(passed=passed), passed, torch.from_numpy(passed), passed.tolist()):
        assert words(metamers.plot(verdict))[2] == ["✓ passed", "✕ failed", "✓ passed", "✓ passed"]
    undefined = table.assign(verdict=["undefined", "passed", "failed", "passed"])
    assert words(metamers.plot(undefined, n=2))[2] == ["undefined", "✓ passed"]
    assert words(metamers.plot())[2] == [f"loss {loss:.2g}" for loss in metamers.loss[-1].tolist()]
    assert words(dataclasses.replace(metamers, status=("passed", "non-finite", "steps", "steps"))
                 .plot(n=2))[2] == ["passed", "non-finite"]
    assert words(metamers.plot(labels=samples[:4]))[1] == [
        samples.class_names[label] for label in samples.labels[:4]]
    names = words(metamers.plot(labels=["cats/a.png", "a_very_long_name_of_a_file.png", "", 3]))[1]
    assert names[0] == "a.png" and len(names[1]) <= 14 and names[3] == "3"
    metamers.plot().savefig(tmp_path / "metamers.png")
    assert Image.open(tmp_path / "metamers.png").size > (300, 200)


@pytest.mark.parametrize("verdict, options, message", [
    ([True], {}, "each of the 6 metamers, not 1"), ("passed", {}, "judge.* gives a verdict"),
    (3, {}, "judge.* gives a verdict"), (["maybe"] * 6, {}, "passed, failed, undefined"),
    (None, {"labels": ["a"]}, "labels must have"), (None, {"n": 0}, "nothing to show")])
def test_a_picture_that_cannot_be_drawn_is_refused(verdict, options, message):
    with pytest.raises(ValueError, match=message):
        made().plot(verdict, **options)


# --- Lines --------------------------------------------------------------------------------------

def objects(samples, small):
    null = null_distribution(small, "2", samples)
    grey = ImageSet(torch.rand(30, 1, 300, 200), torch.zeros(30, dtype=torch.int64), (), "grey")
    return [samples, samples[:0], grey, made(), made()[[]],
            made(300, images=torch.rand(300, 3, 64, 64),
                 references=torch.rand(300, 3, 64, 64), status=("steps",) * 300,
                 recipe={"models": ["network"] * 30, "stages": ["2"] * 30}),
            Metamers(torch.full((1, 3, 8, 8), torch.nan), torch.full((1, 3, 8, 8), 2.0)),
            null, published(null), Criterion("mine", null, {}), small,
            Responses("V4", {"a": np.zeros((9, 3, 40)), "b": torch.zeros(9, 5)},
                      {"a": np.zeros((9, 40))}), Responses("none", {}, {})]


def test_every_object_is_told_in_a_line_and_shown_in_less_than_250_pixels(samples, small):
    for thing in objects(samples, small):
        line = repr(thing)
        assert "\n" not in line and len(line) < 250 and "tensor" not in line, line
        html = thing._repr_html_() if hasattr(thing, "_repr_html_") else ""
        assert len(html) < 100_000 and html.count("<img") <= 1
        for height in re.findall(r"height:(\d+)px", html):
            assert 40 < int(height) < 220
        for picture in re.findall(r"base64,([^\"]+)", html):
            assert Image.open(io.BytesIO(b64decode(picture))).size[0] > 5


def test_lines_say_what_is_there(samples, small):
    null = null_distribution(small, "2", samples)
    assert repr(samples) == "<20 images of cifar10-samples: 32 x 32 pixels, 10 classes>"
    assert "small, 2: 380 pairs" in repr(null) and f"{null.maximum['pearson']:.4g}" in repr(null)
    assert f"<td>{null.maximum['snr_db']:.4g}</td>" in null._repr_html_()
    assert "'published' of small, 2" in repr(published(null))
    trials = Responses("V4", {"a": np.zeros((9, 3, 40))}, {"a": np.zeros((9, 40))})
    assert repr(trials) == ("<responses of V4 to 9 references and metamers: 1 stage, "
                            "a (3 trials x 40 units)>")
