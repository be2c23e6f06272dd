"""The look of all figures: sizes, colours, line styles and names."""

from collections.abc import Iterable, Sequence
from typing import Any

import seaborn as sns

COLUMN: float = 9.0  # width of the book's column, in inches at the book's resolution
LINES: tuple[str, ...] = ("-", "--", "-.", ":")
MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P", "X")


def use_style() -> None:
    """Give all figures one look: colour-blind safe, light, readable at the book's column width."""
    sns.set_theme(style="ticks", palette="colorblind", rc={
        "figure.dpi": 90, "savefig.bbox": "tight", "font.size": 11, "axes.titlesize": 11,
        "axes.labelsize": 11, "axes.spines.top": False, "axes.spines.right": False,
        "legend.frameon": False, "image.interpolation": "nearest"})


def styled(
    names: Iterable[Any], styles: Sequence[str], *, both: bool = False,
) -> list[tuple[Any, tuple[float, float, float], str]]:
    """Each name with one of ten colours, which are safe for the colour-blind, and a style.

    No two of the first ten times as many as there are styles look the same, and none is left out.

    Args:
        names: what is told apart.
        styles: lines or markers. The next one is taken when the colours are used up.
        both: take the next style, too, with each colour.
    """
    colors, styled = sns.color_palette("colorblind", 10), []
    for number, name in enumerate(names):
        turn, place = divmod(number, len(colors))
        style = styles[(turn + place * both) % len(styles)]
        styled.append((name, colors[place], style))
    return styled


def short(name: Any) -> str:
    """A model's name without the prefix of the bundled zoo."""
    return str(name).removeprefix("zoo/")
