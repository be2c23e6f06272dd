"""Chapters at full scale: execute those of a profile that have no record yet, and list all records.

    python book/record.py full       # what `make full` runs
    python book/record.py full --images folder:PATH         # images from there
    python book/record.py full --results 04_transfer_study=study/table.parquet

A profile is a folder of notebooks/profiles/, with a papermill parameter file for each chapter.
`--images` replaces the images of the profile; with `--results` a chapter reads what a sweep
computed. Records are written to book/full/ when they are complete, without times and paths of this
machine, and with a last cell that says what they were made with; they are listed in the table of
contents. To make a record again, delete it. A chapter that fails does not stop the others; how far
it came is kept in .cache/full/.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
import yaml

from metalib import chapters, store
from metalib.runs.documents import read_yaml

ROOT = Path(__file__).parents[1]
PART = "Full-scale results"


class Indented(yaml.SafeDumper):
    """Writes lists indented, as a person would."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


def parameters_of(profile, images=None, results=()):
    """The parameters of a chapter, as its file in a profile sets them.

    Args:
        profile: path of the file.
        images: a source of images, which replaces those that the file names.
        results: a list of texts such as "04_transfer_study=PATH", tables of sweeps for chapters.

    Raises:
        ValueError: names that are not parameters of the chapter, or values of another type.
    """
    parameters = read_yaml(profile)
    tables = dict(text.partition("=")[::2] for text in results)
    if profile.stem in tables:
        parameters["results"] = tables[profile.stem]
    if images:
        parameters |= {name: images for name in ("image_set", "natural_set") if name in parameters}
    return chapters.check_parameters(chapter_of(profile), parameters)


def chapter_of(profile):
    return ROOT / "notebooks" / f"{profile.stem}.ipynb"


def record(profile, path, parameters):
    """Execute the chapter of a profile and write its record to `path`, complete or not at all."""
    chapter, folder = chapter_of(profile), ROOT / ".cache" / "full"
    folder.mkdir(parents=True, exist_ok=True)
    chapters.execute(chapter, folder / path.name, parameters, progress=sys.stderr.isatty())
    done = chapters.cleaned(nbformat.read(folder / path.name, as_version=4))
    if missing := chapters.unglued(done):
        raise ValueError(f"the text shows what no cell computed: {', '.join(missing)}")
    for cell in done.cells:
        cell.source = cell.source.replace("](../book/", "](../")  # as seen from book/full/
        cell.source = re.sub(r"\]\((\d\d_\w+\.ipynb)", r"](../../notebooks/\1", cell.source)
    title, _, text = done.cells[0].source.partition("\n")
    done.cells[0].source = f"{title}\n\n{note(profile)}\n{text}"
    read = (" and the table of a sweep, whose own provenance stands above"
            if parameters.get("results") else "")
    done.cells.append(nbformat.v4.new_markdown_cell(
        stamp(store.provenance(), profile, chapter, read)))
    with store.atomic_write(path) as temporary:
        nbformat.write(done, temporary)


def note(profile):
    """The text below the title of a record."""
    chapter = f"[chapter](../../notebooks/{profile.stem}.ipynb)"
    return (f"*This page is a record at another scale than the {chapter}'s.* Its figures, tables, "
            "and the numbers that are computed are of this run, whose parameters stand below the "
            "defaults. The sentences are the chapter's: what they say of the default run, such as "
            "its number of photographs, does not hold here.")


def stamp(made, profile, chapter, read=""):
    """The last cell of a record."""
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return (f"*This record* was made on {made['date'][:10]} with the parameters of "
            f"`{profile.relative_to(ROOT).as_posix()}`{read}, on {made['hardware']}; {versions}; "
            f"code of `metalib` {made['code'][:12]}, cells of the chapter "
            f"{store.address_of(chapters.code_of(chapter))[:12]} (SHA-256).")


def list_records():
    """List all records in the table of contents, as a separate part after the results."""
    path = ROOT / "_toc.yml"
    contents = yaml.safe_load(path.read_text())
    found = sorted(path.stem for path in (ROOT / "book" / "full").glob("*.ipynb"))
    records = [{"file": f"book/full/{stem}",
                "title": f"Chapter {stem[:2].lstrip('0')}, {stem.partition('-')[2] or 'full'}"}
               for stem in found]
    parts = [part for part in contents["parts"] if part["caption"] != PART]
    if records:
        place = [part["caption"] for part in parts].index("Results") + 1
        parts.insert(place, {"caption": PART, "chapters": records})
    with store.atomic_write(path) as temporary:
        Path(temporary).write_text(
            yaml.dump({**contents, "parts": parts}, Dumper=Indented, sort_keys=False))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", choices=sorted(
        path.name for path in (ROOT / "notebooks" / "profiles").iterdir()))
    parser.add_argument("--images", help="a source of load_images, such as folder:PATH")
    parser.add_argument(
        "--results", action="append", default=[], metavar="CHAPTER=TABLE",
        help="table.parquet of a sweep, which that chapter reads instead of computing; "
             "may be given again")
    options = parser.parse_args()
    profiles = sorted((ROOT / "notebooks" / "profiles" / options.profile).glob("*.yml"))
    if wrong := [text for text in options.results
                 if text.partition("=")[0] not in {profile.stem for profile in profiles}]:
        raise ValueError(f"the profile {options.profile} has no chapter for --results "
                         f"{', '.join(wrong)}")
    # all are checked before hours are spent on the first
    parameters = [parameters_of(profile, options.images, options.results) for profile in profiles]
    suffix, failed = "" if options.profile == "full" else f"-{options.profile}", []
    for number, profile in enumerate(profiles, 1):
        path = ROOT / "book" / "full" / f"{profile.stem}{suffix}.ipynb"
        print(f"[{number}/{len(profiles)}] {path.relative_to(ROOT)}",
              "is there" if path.is_file() else "...", flush=True)
        try:
            if not path.is_file():
                record(profile, path, parameters[number - 1])
        except Exception as error:  # whatever fails in a chapter, the next one is tried
            failed.append(f"{profile.stem}: {type(error).__name__}: {error}; "
                          f"see .cache/full/{path.name}")
    list_records()
    if failed:
        raise SystemExit("\n".join(["Not finished; the same command tries these again:", *failed]))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(f"{error}") from error
