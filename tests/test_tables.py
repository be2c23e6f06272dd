"""Tables as pages show them, and the palette of all figures."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from skimage.color import rgb2lab

from metalib import plots

TABLE = pd.DataFrame({"rule": ["a", "a", "b"], "images": [1, 2000, 3], "share": [0.126, None, 1e-5],
                      "passed": [True, False, True]})


def test_a_table_has_a_caption_and_rounded_numbers():
    page = plots.shown(TABLE, "Shares < 1")._repr_html_()
    assert "<caption>Shares &lt; 1</caption>" in page and 'class="dataframe"' in page
    cells = [cell.split("</td>")[0].split(">")[-1] for cell in page.split("<td")[1:]]
    assert cells == ["a", "1", "0.13", "yes", "a", "2,000", "–", "no", "b", "3", "1e-05", "yes"]


def test_a_table_scrolls_inside_its_box():
    assert "overflow-x: auto" in plots.shown(TABLE, "Shares")._repr_html_().split("<table")[0]


def test_equal_neighbours_of_an_index_are_merged():
    page = plots.shown(TABLE.set_index(["rule", "images"]), "Shares")._repr_html_()
    assert page.count("<th scope=\"row\" rowspan=\"2\"") == 1 and page.count(">a</th>") == 1


def test_neighbours_of_a_head_share_it():
    table = TABLE.pivot_table(index="rule", columns=["passed", "images"], values="share",
                              dropna=False)
    page = plots.shown(table.iloc[:, :4], "Shares")._repr_html_()
    assert 'colspan="3"' in page and page.count("<tr>") == 4


def test_decimals_are_those_of_the_column():
    page = plots.shown(TABLE, "Shares", {"share": 1})._repr_html_()
    assert ">0.1</td>" in page


@pytest.mark.parametrize("table, caption, message", [
    (pd.DataFrame(np.zeros((2, 9))), "Zeros", "9 columns"),
    (pd.DataFrame(np.zeros((2, 8)), index=["a", "b"]), "Zeros", "9 columns"),
    (TABLE, " ", "caption"),
])
def test_what_no_page_can_show_is_refused(table, caption, message):
    with pytest.raises(ValueError, match=message):
        plots.shown(table, caption)


def test_terminals_get_text():
    assert repr(plots.shown(TABLE, "Shares")).startswith("Shares\n")


# --- Colours ------------------------------------------------------------------------------------

# Machado, Oliveira & Fernandes (2009), deuteranopia, on linear RGB.
DEUTERANOPIA = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                         [-0.011820, 0.042940, 0.968881]])


def seen(colors, matrix):
    rgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ matrix.T
    linear = linear.clip(0, 1)
    bright = 1.055 * linear ** (1 / 2.4) - 0.055
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, bright))


@pytest.mark.parametrize("matrix", [np.eye(3), DEUTERANOPIA], ids=["as it is", "deuteranopia"])
def test_colours_are_told_apart(matrix):
    pairs = itertools.combinations(seen(plots.PALETTE, matrix), 2)
    assert min(np.linalg.norm(a - b) for a, b in pairs) > 30


def test_colours_are_told_apart_in_greyscale():
    lightness = np.sort(seen(plots.PALETTE, np.eye(3))[:, 0])
    assert np.diff(lightness).min() > 9


def test_seven_series_look_different_and_an_eighth_is_refused():
    assert len({tuple(plots.look(number).values()) for number in range(7)}) == 7
    with pytest.raises(ValueError, match="split the panel"):
        plots.look(7)
