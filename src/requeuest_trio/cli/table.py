"""Tables for people: each row is one line, on a terminal of any width and where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from requeuest_trio.cli.display import one_line, say

__all__ = ["Column", "print_table"]

_GAP = "  "
_CUT = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and what happens to the values under it where the terminal is too narrow for all."""

    heading: str
    at_right: bool = False
    least: int | None = None
    """Values may be cut to so many cells; None: they are shown whole."""
    by_ending: bool = False
    """Values that are cut keep their last `least` characters, without a mark, so that these can be copied."""
    leaves: int | None = None
    """Columns that may be left out go in this order, the lowest first; None: it stays."""


def print_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a heading. Off a terminal all values are whole, however long the lines become.

    On a terminal each line fits: values are cut if that is enough, else columns are left out one by one, which is said
    below. Columns share the room that is left, the narrowest first.

    Args:
        console: where to.
        columns: from left to right.
        rows: a value for each column.
    """
    table = [[column.heading for column in columns], *([one_line(str(value)) for value in row] for row in rows)]
    natural = [max(map(cell_len, values)) for values in zip(*table, strict=True)]
    shown, widths = list(range(len(columns))), natural
    if console.is_terminal:
        shown = _kept(columns, natural, console.width)
        widths = _shared(columns, natural, shown, console.width)
    for number, row in enumerate(table):
        cells = (_fitted(row[place], widths[place], columns[place]) for place in shown)
        line = _GAP.join(cells).rstrip()
        if console.is_terminal and cell_len(line) > console.width:
            line = _cut(line, console.width)
        say(console, line, "" if number else "bold")
    if left_out := [column.heading for place, column in enumerate(columns) if place not in shown]:
        say(console, f"left out for want of room: {', '.join(left_out)}", "dim")


def _kept(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """The places of the columns that fit, at their narrowest."""
    kept = list(range(len(columns)))
    goers = sorted((column.leaves, place) for place, column in enumerate(columns) if column.leaves is not None)
    for _, place in goers:
        if _line([_narrowest(columns[one], natural[one]) for one in kept]) <= width:
            break
        kept.remove(place)
    return kept


def _narrowest(column: Column, natural: int) -> int:
    return natural if column.least is None else min(natural, max(column.least, cell_len(column.heading)))


def _line(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _shared(columns: Sequence[Column], natural: Sequence[int], shown: Sequence[int], width: int) -> list[int]:
    """How wide each column is. Those that are shown by their endings are so unless they fit whole after all others."""
    widths = [_narrowest(column, whole) for column, whole in zip(columns, natural, strict=True)]
    room = width - _line([widths[place] for place in shown])
    while room > 0 and (short := list(_growing(columns, natural, shown, widths))):
        widths[min(short, key=lambda place: widths[place])] += 1
        room -= 1
    for place in shown:
        if (missing := natural[place] - widths[place]) <= room:
            widths[place] += missing
            room -= missing
    return widths


def _growing(
    columns: Sequence[Column], natural: Sequence[int], shown: Sequence[int], widths: Sequence[int]
) -> Iterator[int]:
    return (place for place in shown if widths[place] < natural[place] and not columns[place].by_ending)


def _fitted(text: str, width: int, column: Column) -> str:
    """The text in so many cells of the terminal, of which some characters take two."""
    if (length := cell_len(text)) > width:
        return set_cell_size(text[::-1], width)[::-1] if column.by_ending else _cut(text, width)
    return " " * (width - length) + text if column.at_right else text + " " * (width - length)


def _cut(text: str, width: int) -> str:
    return set_cell_size(text, width - 1) + _CUT
