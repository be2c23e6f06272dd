"""The page "See a metamer emerge" does what it says, in a real browser, on a small set of data."""

import functools
import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import torch

from metalib import Metamers, judge, load_images, load_model, load_null

browser = pytest.importorskip("browser", reason="playwright is in the extra `test`")

BOOK = Path(__file__).parents[1] / "book"
NETWORKS = ["zoo/vgg-standard-0", "zoo/vgg-robust-0"]
OTHER, STAGES = "zoo/resnet-standard-0", ["stem", "logits"]
PHOTOGRAPHS, EVALUATIONS = (0, 5, 6), (1, 2, 4, 8, 16)
PIXELS = """(id) => Array.from(document.querySelector(id).getContext("2d")
  .getImageData(0, 0, 32, 32).data).filter((_, place) => place % 4 !== 3)"""


def _explore():
    spec = importlib.util.spec_from_file_location("explore", BOOK / "explore.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


explore = _explore()


@pytest.fixture(scope="module")
def data():
    """Two networks and two stages on their way; a matrix of these and one observer more."""
    return explore.data(
        NETWORKS[:1], NETWORKS, [*NETWORKS, OTHER], ["stem"], PHOTOGRAPHS, EVALUATIONS, STAGES)


@pytest.fixture(scope="module")
def site(data, tmp_path_factory):
    """The page's own HTML in a folder, with its script and the data."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(BOOK / "_static" / "explore", folder / "_static" / "explore")
    (folder / "_static" / "explore" / "data.js").write_text(explore.script(data))
    own = "".join(re.findall(r"```\{raw\} html\n(.*?)```", (BOOK / "explore.md").read_text(), re.S))
    (folder / "book").mkdir()
    (folder / "book" / "explore.html").write_text(
        '<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>t</title>'
        "<style>html[data-theme=dark] {background: #121212; color: #eee}</style></head>"
        f"<body><main>{own}</main></body></html>")
    return folder


@pytest.fixture
def page(site, chromium):
    """The page as it opens. An error in its console, or a request elsewhere, fails the test."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    page, heard = context.new_page(), []
    page.set_default_timeout(120_000)  # ms, for slow machines
    page.on("console", lambda message: heard.append(message.text)
            if message.type == "error" else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url)
            if not request.url.startswith(("file:", "data:", "blob:")) else None)
    _open(page, site)
    yield page
    context.close()
    assert not heard


def _open(page, site):
    page.goto((site / "book" / "explore.html").as_uri())
    page.wait_for_selector("#transfer-cards li")


def _picture(page, place):
    """A picture as it is on the screen, (1, 3, 32, 32) in [0, 1]."""
    return torch.tensor(page.evaluate(PIXELS, place)).reshape(1, 32, 32, 3).movedim(3, 1) / 255


@functools.cache
def _network(name, stage):
    model = load_model(name)
    return model, load_null(model, stage)


def _judged(name, stage, image, photograph):
    model, null = _network(name, stage)
    reference = load_images("cifar10-samples")[[photograph]].images
    return judge(model, stage, Metamers(image, reference), null).iloc[0]


def test_slider_moves_by_keyboard_and_says_where_it_is(page):
    page.focus("#emerge-slider")
    seen = []
    page.keyboard.press("Home")
    for step in (0, *EVALUATIONS):
        page.wait_for_function("(text) => document.querySelector('#emerge-step').textContent"
                               ".startsWith(text)", arg=f"{step} of {EVALUATIONS[-1]} ")
        assert f"After {step} evaluation" in page.inner_text("#emerge-verdict")
        label = page.get_attribute("#emerge-image", "aria-label")
        assert f"after {step} evaluation" in label
        assert page.get_attribute("#emerge-slider", "aria-valuetext").startswith(f"{step} ")
        seen.append(_picture(page, "#emerge-image"))
        page.keyboard.press("ArrowRight")
    assert all(not torch.equal(a, b) for a, b in zip(seen, seen[1:]))
    assert "starts" not in page.inner_text("#emerge-caption")
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('#emerge-caption').textContent.includes('noise')")


@pytest.mark.parametrize("stage", STAGES)
def test_shown_picture_has_the_shown_numbers_and_verdict(page, stage):
    photo = 1
    page.select_option("#emerge-stage", stage)
    page.select_option("#emerge-photograph", str(photo))
    reference = load_images("cifar10-samples")[[PHOTOGRAPHS[photo]]]
    verdicts = []
    for frame, step in enumerate((0, *EVALUATIONS)):
        page.evaluate("""(frame) => { const slider = document.querySelector("#emerge-slider");
            slider.value = frame; slider.dispatchEvent(new Event("input")); }""", frame)
        page.wait_for_function("""([step, stage]) => document.querySelector("#emerge-image")
            .getAttribute("aria-label").match(`after ${step} .* at ${stage}:`)""",
                               arg=[step, stage])
        assert torch.equal(_picture(page, "#emerge-reference"), reference.images)
        found = _judged(NETWORKS[0], stage, _picture(page, "#emerge-image"), PHOTOGRAPHS[photo])
        rows = page.eval_on_selector_all(
            "#emerge-measures tr", "rows => rows.map(row => [...row.cells].map(c => c.innerText))")
        shown = {row[0]: row[1:] for row in rows}
        for name, measure, digits in (("Pearson", "pearson", 4), ("Spearman", "spearman", 4),
                                      ("signal to noise", "snr_db", 1)):
            value = float(shown[name][0].replace("−", "-").removesuffix(" dB"))
            assert value == pytest.approx(found[measure], abs=0.6 * 10 ** -digits)
        assert ("yes" in shown["answer"][2]) == found["class_match"]
        assert ("not asked" in shown["Spearman"][2]) == (stage == "logits")
        verdict = page.inner_text("#emerge-verdict")
        assert verdict.startswith("✓ passes") == found["passed"] == all(
            "no" not in row[2].split() for row in shown.values())
        verdicts.append(bool(found["passed"]))
    assert not verdicts[0] and verdicts[-1]


def test_play_reaches_the_end_and_stops(page):
    page.focus("#emerge-slider")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.click("#emerge-play")
    assert page.inner_text("#emerge-play") == "Pause"
    page.wait_for_function("document.querySelector('#emerge-play').textContent === 'Play'")
    page.wait_for_function(
        "document.querySelector('#emerge-step').textContent.startsWith('16 of 16')")
    page.click("#emerge-play")  # from the end on it begins anew, and a second press halts it
    page.click("#emerge-play")
    assert page.inner_text("#emerge-play") == "Play"
    assert page.input_value("#emerge-slider") != str(len(EVALUATIONS))


def test_with_reduced_motion_nothing_moves_by_itself(page, site):
    page.emulate_media(reduced_motion="reduce")
    _open(page, site)
    assert page.inner_text("#emerge-play") == "Next"
    before = int(page.input_value("#emerge-slider"))
    page.click("#emerge-play")
    page.wait_for_timeout(700)  # longer than a frame of Play
    assert int(page.input_value("#emerge-slider")) == before + 1


def test_cell_shows_pictures_and_what_the_observer_makes_of_them(page, data):
    page.click("#transfer-matrix [data-row='1'][data-column='0']")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):  # to the third observer, the first row
        page.keyboard.press(key)
    focused = page.evaluate("({...document.activeElement.dataset})")
    assert focused == {"row": "0", "column": "2"}
    page.wait_for_function("""document.querySelector("#transfer-summary").textContent
        .startsWith("Made for VGG standard 0 at stem, seen by ResNet standard 0")""")
    cards = page.query_selector_all("#transfer-cards li")
    assert len(cards) == len(PHOTOGRAPHS)
    same = passed = 0
    for place, (card, number) in enumerate(zip(cards, PHOTOGRAPHS)):
        selector = f"#transfer-cards li:nth-child({place + 1}) div > div:nth-child(2) canvas"
        found = _judged(OTHER, "stem", _picture(page, selector), number)
        text = card.inner_text()
        assert ("✓ passes" in text) == found["passed"]
        match = re.search(r"Pearson ([\d.]+)", text)
        assert match and float(match[1]) == pytest.approx(found["pearson"], abs=6e-5)
        same, passed = same + bool(found["class_match"]), passed + bool(found["passed"])
    assert (f"{same} of 3 get the photograph's answer, {passed} of 3 pass"
            in page.inner_text("#transfer-summary"))
    cell = "#transfer-matrix [data-row='0'][data-column='2']"
    assert page.inner_text(cell) == str(same)
    page.select_option("#transfer-count", "passed")
    assert page.inner_text(cell) == str(passed)
    assert [page.get_attribute(f"#transfer-matrix {at}", "tabindex") for at in (
        "[data-row='0'][data-column='2']", "[data-row='1'][data-column='1']")] == ["0", "-1"]
    own = page.get_attribute("#transfer-matrix [data-row='1'][data-column='1']", "aria-label")
    assert "seen by itself: 3 of 3" in own


@pytest.mark.parametrize("width", browser.WIDTHS)
def test_page_has_no_defect_in_light_and_dark(site, chromium, width):
    view = browser.View(chromium, width, dark=True)
    defects, _, _ = view.visit(site / "book" / "explore.html")
    assert defects == []
    view.page.close()


def test_missing_data_are_said(page, site):
    page.route("**/data.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    page.goto((site / "book" / "explore.html").as_uri())
    assert "python book/explore.py" in page.inner_text("#explore-problem")


def test_data_are_made_once_and_stay_small(data, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(explore, "PLACE", tmp_path / "data.js")
    monkeypatch.setattr(explore, "data", lambda: made.append(1) or data)
    explore.main()
    explore.main()
    assert len(made) == 1
    monkeypatch.setattr(explore, "present_hash", lambda: "another")
    explore.main()
    assert len(made) == 2
    with pytest.raises(ValueError, match="more than 1000"):
        explore.script(data, limit=1000)
