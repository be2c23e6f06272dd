"""Tables as a page shows them: a caption, rounded numbers, few columns."""

import html
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

COLUMNS: int = 8  # the most that a page shows side by side
MISSING = "–"


@dataclass(frozen=True)
class Shown:
    """A table with its caption; a notebook shows it as HTML, a terminal as text."""

    caption: str
    heads: list[tuple[str, ...]]  # one for each column, one text for each row of the head
    rows: list[tuple[str, ...]]  # one text for each column
    levels: int  # how many columns were levels of the index: their equal neighbours are merged
    numeric: list[bool]  # which columns are numbers

    def __repr__(self) -> str:
        names = [" ".join(filter(None, head)) for head in self.heads]
        return f"{self.caption}\n{pd.DataFrame(self.rows, columns=names).to_string(index=False)}"

    def _repr_html_(self) -> str:
        caption = html.escape(self.caption)
        heads = "".join(f"<tr>{row}</tr>\n" for row in self._heads())
        rows = "".join(f"<tr>{row}</tr>\n" for row in self._body())
        return (f'<div class="table-box" tabindex="0" role="region" aria-label="{caption}" '
                f'style="overflow-x: auto">\n<table class="dataframe">\n'
                f"<caption>{caption}</caption>\n<thead>\n{heads}</thead>\n"
                f"<tbody>\n{rows}</tbody>\n</table>\n</div>")

    def _heads(self) -> Iterator[str]:
        for level in range(len(self.heads[0])):
            column, cells = 0, ""
            for start, group in groupby(head[:level + 1] for head in self.heads):
                span = len(list(group))
                cells += _cell("th", start[-1], self.numeric[column], scope="col", colspan=span)
                column += span
            yield cells

    def _body(self) -> Iterator[str]:
        for number, row in enumerate(self.rows):
            cells = ""
            for column, text in enumerate(row):
                if column >= self.levels:
                    cells += _cell("td", text, self.numeric[column])
                elif span := self._span(number, column):
                    cells += _cell("th", text, self.numeric[column], scope="row", rowspan=span)
            yield cells

    def _span(self, number: int, column: int) -> int:
        """Over how many rows a cell of the index reaches; 0 where one above reaches here."""
        starts = [row[:column + 1] for row in self.rows]
        if column == self.levels - 1:
            return 1
        if number and starts[number - 1] == starts[number]:
            return 0
        return next((k for k, start in enumerate(starts[number:]) if start != starts[number]),
                    len(starts) - number)


def shown(
    table: pd.DataFrame | pd.Series, caption: str, digits: int | Mapping[Hashable, int] = 2,
) -> Shown:
    """A table as a page shows it.

    Numbers are rounded; one that is not zero keeps a digit that is not zero. Missing ones are a
    dash. Equal neighbours in an index of several levels are merged, and an unnamed default index
    (0, 1, 2, ...) is left out. On a narrow screen the table scrolls inside its box.

    Args:
        table: at most eight columns, the levels of its index included.
        caption: a sentence that says what the rows are, with the units that no column names.
        digits: decimals of numbers that are no integers; or those of some columns by their names,
            and 2 for the others.

    Raises:
        ValueError: an empty caption, or more than eight columns.

    >>> shown(pd.DataFrame({"loss": [0.12345, 3.0]}, index=["adam", "lbfgs"]), "Losses.")
    Losses.
          loss
     adam 0.12
    lbfgs 3.00
    """
    if not caption.strip():
        raise ValueError("A table needs a caption that says what its rows are")
    table = table.to_frame() if isinstance(table, pd.Series) else table
    default = isinstance(table.index, pd.RangeIndex) and table.index.name is None
    levels = [] if default else [table.index.get_level_values(i)
                                 for i in range(table.index.nlevels)]
    columns = [*levels, *(table.iloc[:, i] for i in range(table.shape[1]))]
    if len(columns) > COLUMNS:
        raise ValueError(f"A table of {len(columns)} columns is too wide for a page: show at most "
                         f"{COLUMNS}, its index included")
    places = digits if isinstance(digits, Mapping) else dict.fromkeys(table.columns, digits)
    texts = [[_text(value, places.get(name, 2)) for value in column]
             for name, column in zip([*table.index.names[:len(levels)], *table.columns], columns)]
    numeric = [pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
               for column in columns]
    return Shown(caption, _heads(table, len(levels)), list(zip(*texts)), len(levels), numeric)


def _heads(table: pd.DataFrame, levels: int) -> list[tuple[str, ...]]:
    """The names above each column: those of the index's levels stand in the last row."""
    depth = table.columns.nlevels
    index = [("",) * (depth - 1) + (_text(name, 0) if name is not None else "",)
             for name in table.index.names[:levels]]
    return index + [tuple(_text(part, 0) for part in (name if depth > 1 else (name,)))
                    for name in table.columns]


def _text(value: Any, digits: int) -> str:
    """One value: yes or no, a whole number with commas, a rounded number, or as it is."""
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if pd.api.types.is_integer(value):
        return f"{value:,}"
    if pd.api.types.is_float(value) and not pd.isna(value):
        small = 0 < abs(value) < 0.5 * 10.0**-digits
        return f"{value:.1g}" if small else f"{value:,.{digits}f}"
    return MISSING if value is None or value is pd.NaT or value is pd.NA or value != value \
        else str(value)


def _cell(tag: str, text: str, numeric: bool, **attributes: Any) -> str:
    extra = "".join(f' {key}="{value}"' for key, value in attributes.items() if value != 1)
    return f'<{tag}{extra} class="{"number" if numeric else "text"}">{html.escape(text)}</{tag}>'
