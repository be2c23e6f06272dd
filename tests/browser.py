"""Open every page of a built report in a real browser and say what is wrong with it.

    python tests/browser.py _build/html

No page may scroll sideways at the width of a desk or of a phone, log an error, ask anything of
another machine, show a picture without alternative text or text that is too pale (WCAG AA, in
light and dark mode), or have a link that leads nowhere. Each defect is a line; with any the exit
status is 1.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urljoin, urlparse

from playwright.sync_api import Browser, ConsoleMessage, Playwright, Request, Route, sync_playwright

WIDTHS = (1400, 420)  # px
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run",
         "--allow-file-access-from-files")
SCRIPT = Path(__file__).with_suffix(".js").read_text()
MISSING = ("No browser was found: install Chromium (for example `apt install chromium` or "
           "`playwright install chromium`), or set BROWSER_PATH to one.")
READY = """async () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  const still = document.createElement("style");
  still.textContent = "* {transition: none !important; animation: none !important}";
  document.head.append(still);
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  await document.fonts.ready;
}"""
OUTSIDE = re.compile(r"^(?!file:|data:|blob:|about:)")
REDIRECT = r'<meta http-equiv="refresh" content="0; *url=([^"]+)"'
THEME = "(theme) => { document.documentElement.dataset.theme = theme; }"


class NoBrowser(RuntimeError):
    """There is no browser on this machine."""


class Defect(NamedTuple):
    """What is wrong on a page, whose name is relative to the report."""

    page: str
    what: str


class Link(NamedTuple):
    page: str
    href: str  # absolute
    raw: str  # as the page has it
    text: str
    prose: bool  # in the text, and not in a list of pages


def check(folder: str | Path, widths: Sequence[int] = WIDTHS) -> list[Defect]:
    """All defects of the report in a folder, page by page.

    Raises:
        NoBrowser: none was found.
        FileNotFoundError: there is no page in the folder.
    """
    folder = Path(folder).resolve()
    pages = sorted(path for path in folder.rglob("*.html") if "_static" not in path.parts)
    if not pages:
        raise FileNotFoundError(f"There is no page in {folder}")
    found, links, anchors = [], [], {}
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for width in widths:
            view = View(browser, width, width == widths[0])
            for path in pages:
                name = path.relative_to(folder).as_posix()
                defects, ids, targets = view.visit(path)
                found += [Defect(name, what) for what in defects]
                links += [Link(name, **target) for target in targets]
                anchors[path] = anchors.get(path, set()) | ids
        browser.close()
    return sorted(dict.fromkeys([*found, *dead(links, folder, anchors)]))


def find_browser(playwright: Playwright) -> str:
    """The path of a Chromium: BROWSER_PATH, one of the system, or playwright's own."""
    own = playwright.chromium.executable_path
    found = (os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, PROGRAMS)), None)
             or own)
    if not Path(found).is_file():
        raise NoBrowser(MISSING)
    return found


def launch(playwright: Playwright) -> Browser:
    """A headless browser that asks the network for nothing by itself."""
    return playwright.chromium.launch(executable_path=find_browser(playwright), args=list(FLAGS))


class View:
    """A window of one width, which looks at one page after the other."""

    def __init__(self, browser: Browser, width: int, dark: bool) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(120_000)  # ms; slow machines, and pages with many pictures
        self.width, self.dark = width, dark
        self.heard: list[str] = []
        self._listen()

    def visit(self, path: Path) -> tuple[list[str], set[str], list[dict]]:
        """The defects of one page, its anchors and its links."""
        self.heard.clear()
        defects, anchors, links = [], set(), []
        if target := re.search(REDIRECT, path.read_text(errors="replace"), re.I):
            href = urljoin(path.as_uri(), target[1])
            return [], set(), [{"href": href, "raw": target[1], "text": "", "prose": False}]
        self.page.goto(path.as_uri(), wait_until="load")
        self.page.evaluate(READY)
        for theme in self._themes():
            found = self.page.evaluate(SCRIPT, theme)
            defects += found["defects"]
            anchors, links = anchors | set(found["ids"]), links or found["links"]
        return [*dict.fromkeys(self.heard + defects)], anchors, links

    def _themes(self) -> Iterator[str]:
        """Put the page into each of its modes; one that has no modes stays as it is."""
        if self.page.evaluate("document.documentElement.dataset.theme === undefined"):
            yield "its only"
            return
        for theme in ("light", "dark") if self.dark else ("light",):
            self.page.evaluate(THEME, theme)
            yield theme

    def _listen(self) -> None:
        """Hear of errors and requests; those to other machines are blocked."""
        self.page.route(OUTSIDE, self._block)
        self.page.on("websocket", lambda socket: self.heard.append(
            f"a request to another machine: {socket.url}"))
        self.page.on("requestfailed", self._fail)
        self.page.on("console", self._log)
        self.page.on("pageerror", lambda error: self.heard.append(
            f"an uncaught exception: {str(error).splitlines()[0][:200]}"))

    def _block(self, route: Route) -> None:
        self.heard.append(f"a request to another machine: {route.request.url}")
        route.abort()

    def _fail(self, request: Request) -> None:
        if not OUTSIDE.match(request.url):
            self.heard.append(f"a file that cannot be loaded: {request.url.rpartition('/')[2]}")

    def _log(self, message: ConsoleMessage) -> None:
        told = ("Failed to load resource", "WebSocket connection")  # by the other listeners
        if message.type == "error" and not message.text.startswith(told):
            self.heard.append(f"an error in the console: {message.text.splitlines()[0][:200]}")


def dead(links: Sequence[Link], folder: Path, anchors: dict[Path, set[str]]) -> Iterator[Defect]:
    """Links inside the report that lead nowhere, or to a page's top in place of a figure."""
    for link in links:
        address, anchor = urldefrag(link.href)
        if urlparse(address).scheme != "file":
            continue
        target = Path(unquote(urlparse(address).path))
        if folder not in target.parents:
            yield Defect(link.page, f"a link out of the report: {link.raw}")
        elif not target.is_file():
            yield Defect(link.page, f"a dead link: {link.raw} (\"{link.text}\")")
        elif anchor and target in anchors and unquote(anchor) not in anchors[target]:
            yield Defect(link.page, f"a dead anchor: {link.raw} (\"{link.text}\")")
        elif link.prose and not anchor and re.search(r"\b(figure|fig\.|table)", link.text, re.I):
            yield Defect(link.page, f"a link to a page's top: {link.raw} (\"{link.text}\")")


def main(arguments: Sequence[str]) -> int:
    """Print the defects of the report in the one folder that is given."""
    if len(arguments) != 1:
        print(__doc__)
        return 2
    try:
        defects = check(arguments[0])
    except (NoBrowser, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    for page, what in defects:
        print(f"{page}: {what}")
    print(f"{len(defects)} defects" if defects else "No defect")
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
