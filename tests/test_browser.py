"""The check of the report in a browser finds each defect on a page that has nothing else wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

browser = pytest.importorskip("browser", reason="playwright is in the extra `test`")

PAGE = """<!DOCTYPE html><html lang="en" {root}><head><title>t</title>
<meta name="viewport" content="width=device-width">{head}</head><body><main>{body}</main></body>
</html>"""
PIXEL = ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYP"
         "hfDwAChwGA60e6kgAAAABJRU5ErkJggg==")
CLEAN = [
    f'<p>Plain text, <a href="#end">a link</a> and <img src="{PIXEL}" alt="one pixel"></p>',
    '<div style="overflow-x: auto"><div style="width: 3000px">wide, in a box</div></div>',
    '<p style="color: #777; font-size: 24px">large</p><p id="end">end</p>',
    '<a href="other.html#there">Figure 1</a><a href="https://example.org/x.html">elsewhere</a>',
    '<p style="display: none; color: #fff">hidden</p>',
    '<p style="background: #000"><span style="color: #fff">white on black</span></p>',
    '<details><summary>More</summary>folded</details>',
]
BROKEN = {
    "scrolls sideways": '<div style="width: 3000px">wide</div>',
    "scrolls sideways: 5": '<div style="width: 500px">wide for a phone</div>',
    "an error in the console: oh": "<script>console.error('oh')</script>",
    "an uncaught exception: no": "<script>throw new Error('no')</script>",
    "an uncaught exception: Identifier": "<script>const a = 1</script><script>const a = 2</script>",
    "another machine: https": '<script src="https://example.org/x.js"></script>',
    "another machine: http:": '<img alt="far" src="http://example.org/x.png">',
    "another machine: ws": "<script>new WebSocket('ws://example.org/')</script>",
    "cannot be loaded": '<img alt="gone" src="gone.png">',
    "no alternative text": f'<img src="{PIXEL}">',
    "has no alternative text": f'<img src="{PIXEL}" alt="../_images/0a1b.png">',
    "a drawing": '<svg role="img" viewBox="0 0 1 1"></svg>',
    "contrast 4.48 in its only mode": '<p style="color: #777">pale</p>',
    "contrast 2.85 in its only mode: <p>, rgb(0":
        '<p style="opacity: 0.4">pale as a whole</p>',
    "contrast 1.00": '<details><summary>More</summary><i style="color: #fff">folded</i></details>',
    "contrast 2.85 in its only mode: <p>, rgb(153":
        '<p style="color: #999; font-size: 30px">large, and still pale</p>',
    "contrast 3.95": '<svg><text y="20" fill="#808080">drawn</text></svg>',
    "a dead link": '<a href="nowhere.html">x</a>',
    "a dead anchor: #nowhere": '<a href="#nowhere">x</a>',
    "a dead anchor: other": '<a href="other.html#nowhere">x</a>',
    "out of the report": '<a href="../../x.html">x</a>',
    "a page's top": '<a href="other.html">see Figure 2</a>',
}


@pytest.fixture(scope="module")
def defects(tmp_path_factory):
    """All made-up pages in one report, checked at once."""
    folder = tmp_path_factory.mktemp("report")
    pages = {f"clean{number}": body for number, body in enumerate(CLEAN)}
    pages |= {f"broken{number}": body for number, body in enumerate(BROKEN.values())}
    pages["other"] = '<p id="there">there</p>'
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(PAGE.format(
            root="", head="", body=body + ('<p id="end"></p>' if name == "clean0" else "")))
    dark = "<style>html[data-theme=dark] {background: #000}</style>"
    (folder / "dark.html").write_text(PAGE.format(
        root='data-theme="light"', head=dark, body="black at night"))
    (folder / "index.html").write_text('<meta http-equiv="refresh" content="0; url=gone.html" />')
    try:
        return browser.check(folder)
    except browser.NoBrowser as error:
        pytest.skip(str(error))


def of(defects, page):
    return [what for name, what in defects if name == f"{page}.html"]


@pytest.mark.parametrize("number, wanted", list(enumerate(BROKEN)))
def test_each_defect_is_found_and_no_other(defects, number, wanted):
    found = of(defects, f"broken{number}")
    assert found and all(wanted in what for what in found), found


@pytest.mark.parametrize("number", range(len(CLEAN)))
def test_a_clean_page_has_none(defects, number):
    assert of(defects, f"clean{number}") == []


def test_dark_mode_is_looked_at(defects):
    what, = of(defects, "dark")
    assert what.startswith("contrast 1.00 in dark mode")


def test_a_redirection_is_a_link(defects):
    assert "a dead link: gone.html" in of(defects, "index")[0]


def test_the_script_prints_a_line_for_each_and_fails(tmp_path):
    (tmp_path / "page.html").write_text(PAGE.format(root="", head="", body='<a href="#x">x</a>'))
    script = [sys.executable, str(Path(browser.__file__)), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True)
    if "No browser" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 1 and "page.html: a dead anchor: #x" in done.stdout
    (tmp_path / "page.html").write_text(PAGE.format(root="", head="", body="nothing"))
    assert subprocess.run(script, capture_output=True).returncode == 0


def test_without_a_browser_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    (tmp_path / "page.html").write_text("x")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    assert browser.main([str(tmp_path)]) == 2
    assert "install Chromium" in capsys.readouterr().err


def test_a_folder_without_pages_is_refused(tmp_path, capsys):
    assert browser.main([str(tmp_path)]) == 2
    assert "no page" in capsys.readouterr().err
