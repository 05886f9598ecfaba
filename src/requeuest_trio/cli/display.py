"""Text for people: colours on a terminal, plain lines anywhere else."""

import codecs
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO

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
    "say",
    "seconds",
]

_CUT = "\N{HORIZONTAL ELLIPSIS}"


def is_live(stream: TextIO) -> bool:
    """Whether this is a terminal that can be drawn on. rich would also believe some environment variables."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def make_console(stream: TextIO) -> Console:
    """A console that takes text as it is: what receivers and databases say is no markup."""
    return Console(file=stream, force_terminal=is_live(stream), markup=False, highlight=False, emoji=False)


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line, uncut, also above a live display. It stays one line, whatever is in it."""
    console.print(Text(_printable(line), style=style), soft_wrap=True)


def _printable(text: str) -> str:
    """The text without what would steer a terminal: it may come from anywhere."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text.expandtabs(4))


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
