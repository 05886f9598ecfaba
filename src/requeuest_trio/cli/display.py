"""Text for people: colours on a terminal, plain lines anywhere else."""

import codecs
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

__all__ = [
    "body_text",
    "cut",
    "is_live",
    "logging_to",
    "make_console",
    "moment",
    "one_line",
    "print_table",
    "say",
    "say_text",
    "seconds",
]

_GAP = "  "
_CUT = "\N{HORIZONTAL ELLIPSIS}"


def is_live(stream: TextIO) -> bool:
    """Whether this is a terminal that can be drawn on. rich would also believe some environment variables."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `run`. rich would end the command with status 1."""
        raise BrokenPipeError


def make_console(stream: TextIO) -> Console:
    """A console that takes text as it is: what receivers and databases say is no markup."""
    return _Console(file=stream, force_terminal=is_live(stream), markup=False, highlight=False, emoji=False)


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line, uncut, also above a live display. It stays one line, whatever is in it."""
    console.print(Text(_printable(line), style=style), soft_wrap=True)


def say_text(console: Console, text: str) -> None:
    """Print a text of several lines."""
    console.print(Text(_printable(text, kept="\n\t")), soft_wrap=True)


def _printable(text: str, kept: str = "") -> str:
    """The text without what would steer a terminal: it may come from anywhere."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in kept else "\N{REPLACEMENT CHARACTER}" for char in text)


def one_line(text: str) -> str:
    """The text with single spaces, in one line."""
    return _printable(" ".join(text.split()))


def cut(text: str, longest: int) -> str:
    """The text, or its beginning."""
    return text if len(text) <= longest else text[: longest - 1] + _CUT


def seconds(value: float) -> str:
    """A length of time."""
    return f"{value:.2f} s" if value < 10 else f"{value:,.0f} s"


def moment(value: datetime | None) -> str:
    """An instant, to the second, in UTC."""
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%SZ}"


def body_text(body: bytes) -> str | None:
    """The body as text; None if it is none. It may have been cut off in the middle of a character."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(body)
    except UnicodeDecodeError:
        return None
    return text if all(char.isprintable() or char in "\r\n\t" for char in text) else None


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str] = (),
    shortened: str | None = None,
    below: Sequence[str] = (),
) -> None:
    """Print rows under a heading. Off a terminal each row is one line, however long; on a terminal it has to fit.

    Args:
        console: where to.
        columns: the headings.
        rows: a value for each column.
        right: the columns to align at the right.
        shortened: the column whose values are cut if it does not fit. All others are shown whole.
        below: the columns that then go on a line of their own under each row, cut to fit.
    """
    table = [list(columns), *([one_line(str(value)) for value in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    excess = _width(widths) - console.width if console.is_terminal else 0
    under = [columns.index(name) for name in below] if excess > 0 else []
    beside = [number for number in range(len(columns)) if number not in under]
    if excess > 0 and shortened is not None:
        excess = _width([widths[number] for number in beside]) - console.width
        place = columns.index(shortened)
        widths[place] = min(widths[place], max(widths[place] - excess, len(shortened)))
    for number, row in enumerate(table):
        padded = (_fitted(row[place], widths[place], at_right=columns[place] in right) for place in beside)
        say(console, _GAP.join(padded).rstrip(), "" if number else "bold")
        if number and (rest := [row[place] for place in under if row[place]]):
            say(console, _GAP + _GAP.join(_shared(rest, console.width - len(_GAP) * len(rest))))


def _shared(texts: Sequence[str], room: int) -> list[str]:
    """The texts in so many cells: what a short one leaves goes to the longer ones, and these are cut."""
    fitted = list(texts)
    by_length = sorted(range(len(texts)), key=lambda place: cell_len(texts[place]))
    for done, place in enumerate(by_length):
        fitted[place] = _fitted(texts[place], min(cell_len(texts[place]), room // (len(texts) - done)))
        room -= cell_len(fitted[place])
    return fitted


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _fitted(text: str, width: int, *, at_right: bool = False) -> str:
    """The text in so many cells of the terminal, of which some characters take two."""
    if (length := cell_len(text)) > width:
        return set_cell_size(text, width - 1) + _CUT
    return " " * (width - length) + text if at_right else text + " " * (width - length)


@contextmanager
def logging_to(console: Console, level: int, *, without: Sequence[str] = ()) -> Iterator[None]:
    """Show what the library logs for as long as the block lasts, a line each.

    Args:
        console: where to.
        level: the least that is shown.
        without: events that the command tells of itself.
    """
    logger, handler = logging.getLogger("requeuest_trio"), _LogLines(console, level, without)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


class _LogLines(logging.Handler):
    def __init__(self, console: Console, level: int, without: Sequence[str]) -> None:
        super().__init__(level)
        self._console = console
        self._without = without

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) in self._without:
            return
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        say(self._console, one_line(f"{at} {record.levelname.lower()} {record.name}: {record.getMessage()}"))
