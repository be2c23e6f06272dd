"""The look of all figures: sizes, colours, line styles and names."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from cycler import cycler
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

COLUMN: float = 9.0  # width of the book's column, in inches at the book's resolution
LINES: tuple[str, ...] = ("-", "--", "-.", ":")
MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P", "X")
PALETTE_PNG = "PNG8"  # the name under which Pillow knows `_save_with_palette`
SHADES = 50  # of heat maps with numbers in many cells, so that these have few colours, too
FEW_COLORS = 8192  # at most so many in a picture without photographs
# Seven colours at even steps of lightness (CIE L* from 0 to 71, no two closer than 10): they stay
# apart in greyscale, and under deuteranopia as Machado et al. (2009) simulate it.
PALETTE: tuple[str, ...] = (
    "#2428bd", "#ea9e39", "#0f6818", "#d72091", "#2d94e8", "#33045f", "#000000")


def use_style() -> None:
    """Give all figures one look: colour-blind safe, light, readable at the book's column width.

    In a notebook, figures are drawn at twice the resolution and keep their size on the page.
    """
    sns.set_theme(style="ticks", palette=list(PALETTE), rc={
        "figure.dpi": 90, "savefig.bbox": "tight", "font.size": 11, "axes.titlesize": 11,
        "axes.labelsize": 11, "axes.spines.top": False, "axes.spines.right": False,
        "legend.frameon": False, "image.interpolation": "nearest",
        "axes.prop_cycle": cycler(
            color=PALETTE, linestyle=[LINES[i % len(LINES)] for i in range(len(PALETTE))])})
    _double_resolution()


def _double_resolution() -> None:
    """Ask a notebook's kernel for twice the pixels; elsewhere do nothing."""
    try:
        from IPython.core.getipython import get_ipython
        from matplotlib_inline.config import InlineBackend
    except ImportError:
        return
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return
    backend = InlineBackend.instance(parent=shell)
    backend.shell = shell
    backend.print_figure_kwargs = {"bbox_inches": "tight", "pil_kwargs": {"format": PALETTE_PNG}}
    backend.figure_formats = {"retina"}


def _save_with_palette(image: Image.Image, file: Any, _name: Any) -> None:
    """Save a picture as PNG, with a palette (a third of the size) unless it has photographs.

    Curves and heat maps have some thousand colours, photographs more; these keep all.
    """
    opaque = image.convert("RGB")
    if opaque.getcolors(FEW_COLORS) is not None:
        opaque = opaque.quantize(256, dither=Image.Dither.NONE)
    opaque.save(file, "PNG", optimize=True)


def as_jpeg(figure: Figure, quality: int = 85) -> Any:
    """A figure with large photographs as a page shows it: as JPEG, a tenth of the bytes of PNG.

    It has twice the resolution of its size on the page. The figure is closed.

    Returns:
        IPython.display.Image.
    """
    from IPython.display import Image as Shown
    with BytesIO() as file:
        figure.savefig(file, format="jpeg", dpi=2 * figure.dpi, bbox_inches="tight",
                       pil_kwargs={"quality": quality})
        with Image.open(file) as image:
            width = image.width // 2
        plt.close(figure)
        return Shown(file.getvalue(), format="jpeg", width=width)


Image.register_save(PALETTE_PNG, _save_with_palette)


def look(number: int) -> dict[str, str]:
    """How the series of this number looks: its colour, its dash and its marker.

    Args:
        number: from 0 to 6.

    Returns:
        Keyword arguments of `Axes.plot` and `Axes.errorbar`.

    Raises:
        ValueError: beyond seven series. A panel with more cannot be read: split it.

    >>> look(1)
    {'color': '#ea9e39', 'linestyle': '--', 'marker': 's'}
    """
    if not 0 <= number < len(PALETTE):
        raise ValueError(f"A panel shows at most {len(PALETTE)} series; this one is series "
                         f"{number + 1}: split the panel")
    return {"color": PALETTE[number], "linestyle": LINES[number % len(LINES)],
            "marker": MARKERS[number]}


def styled(
    names: Iterable[Any], styles: Sequence[str], *, both: bool = False,
) -> list[tuple[Any, tuple[float, float, float], str]]:
    """Each name with one of seven colours, which are safe for the colour-blind, and a style.

    No two of the first seven times as many as there are styles look the same, and none is left
    out.

    Args:
        names: what is told apart.
        styles: lines or markers. The next one is taken when the colours are used up.
        both: take the next style, too, with each colour.
    """
    styled = []
    for number, name in enumerate(names):
        turn, place = divmod(number, len(PALETTE))
        style = styles[(turn + place * both) % len(styles)]
        styled.append((name, to_rgb(PALETTE[place]), style))
    return styled


def short(name: Any) -> str:
    """A model's name without the prefix of the bundled zoo."""
    return str(name).removeprefix("zoo/")
