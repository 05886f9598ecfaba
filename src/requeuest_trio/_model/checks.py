"""Checks of plain arguments that more than one public call takes. Each raises `InvalidRequest` naming the argument."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

from requeuest_trio._model.errors import InvalidRequest, kind_of, shown
from requeuest_trio._model.exact import exact_int, exact_number, exact_text

__all__ = [
    "MAX_CHANNEL_LENGTH",
    "MAX_KEY_LENGTH",
    "MAX_PRIORITY",
    "MAX_SECONDS",
    "channel_name",
    "channel_names",
    "instant",
    "job_id",
    "new_name",
    "number",
    "priority",
    "seconds",
    "short_text",
    "whole_number",
]

MAX_CHANNEL_LENGTH = 200
MAX_KEY_LENGTH = 200
MAX_PRIORITY = 100
MAX_SECONDS = 10 * 365 * 86_400.0
"""Ten years: further than anybody plans, and safely inside what PostgreSQL's intervals hold."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# Line ends, escape sequences and all other controls, and what turns the direction of writing (Unicode Annex 9).
_STEERING = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u206f\\ufeff\\ufff9-\\ufffb]"
)
# Python's datetimes end with the year 9999, in whatever zone an instant is read back.
_FIRST_YEAR, _LAST_YEAR = 1970, 9000


def short_text(argument: str, value: object, longest: int) -> str:
    """A text of 1 to `longest` characters that PostgreSQL can store."""
    if not isinstance(value, str):
        raise InvalidRequest(argument, f"must be a str, not {kind_of(value)}")
    value = exact_text(value)
    if not 1 <= len(value) <= longest:
        raise InvalidRequest(argument, f"must have 1 to {longest} characters, not {len(value)}")
    if _UNSTORABLE.search(value):
        raise InvalidRequest(argument, "must not have NUL or lone surrogate characters")
    return value


def new_name(argument: str, value: object, longest: int) -> str:
    """The same for a name that is to be stored: without what would change how a line looks that it stands in.

    What is stored already, by an older version or by another program, can still be looked up, delivered and cleared.
    """
    name = short_text(argument, value, longest)
    if not name.isprintable() and _STEERING.search(name):
        raise InvalidRequest(argument, f"must not have line ends, control or bidirectional characters: {shown(name)}")
    return name


def channel_name(value: object) -> str:
    """A channel's name: 1 to 200 characters."""
    return short_text("channel", value, MAX_CHANNEL_LENGTH)


def channel_names(values: Iterable[str]) -> list[str]:
    """Several channels' names. A lone `str` is refused: its letters are hardly meant."""
    if isinstance(values, str):
        raise InvalidRequest("channels", f"must be a collection of names; write [{shown(values)}]")
    if not isinstance(values, Iterable):
        raise InvalidRequest("channels", f"must be a collection of names, not {type(values).__name__}")
    return sorted({channel_name(value) for value in values})


def whole_number(argument: str, value: object, least: int, most: int) -> int:
    """An `int` from `least` to `most`."""
    plain = exact_int(value) if isinstance(value, int) and not isinstance(value, bool) else None
    return _bounded(argument, value, plain, least, most, f"an int from {least:,} to {most:,}")


def number(argument: str, value: object, least: float, most: float) -> float:
    """An `int` or a `float` from `least` to `most`, and so no NaN."""
    plain = exact_number(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if plain is None and isinstance(value, timedelta):
        raise InvalidRequest(argument, f"must be a number, not {shown(value)}; write its total_seconds()")
    return _bounded(argument, value, plain, least, most, f"a number from {least:,.10g} to {most:,.10g}")


def seconds(
    argument: str, value: float | timedelta, least: float = 0.0, most: float = MAX_SECONDS, *, positive: bool = False
) -> float:
    """A length of time in seconds, from a number or a `timedelta`: from `least` (or, if `positive`, above it)."""
    number = timedelta.total_seconds(value) if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidRequest(argument, f"must be seconds or a timedelta, not {type(value).__name__}")
    longest = f"{most:,g} s" if most < MAX_SECONDS else f"ten years ({most:.0f} s)"
    span = f"{'more than' if positive else 'at least'} {least:g} and at most {longest}"
    plain = exact_number(number)
    return float(_bounded(argument, plain, plain, math.nextafter(least, most) if positive else least, most, span))


_Number = TypeVar("_Number", int, float)


def _bounded(
    argument: str, value: object, plain: _Number | None, least: _Number, most: _Number, expected: str
) -> _Number:
    """`plain`, which is the number of `value` or None, if it lies within the bounds.

    `value` itself is never compared: an instance of a subclass may say anything of itself.
    """
    # NaN compares false with everything.
    if plain is None or not least <= plain <= most:
        raise InvalidRequest(argument, f"must be {expected}, not {shown(value)}")
    return plain


def instant(argument: str, value: object) -> datetime:
    """An aware `datetime` of the years 1970 to 9000 in UTC, in UTC: PostgreSQL does not know every zone of Python."""
    if not isinstance(value, datetime):
        raise InvalidRequest(argument, f"must be a datetime, not {type(value).__name__}")
    try:
        offset = datetime.utcoffset(value)
    except Exception as error:  # whatever a tzinfo of somebody's raises
        raise InvalidRequest(argument, f"its tzinfo gives no offset from UTC: {shown(error)}") from error
    if offset is None:
        raise InvalidRequest(argument, "must be aware: give the datetime a tzinfo, such as datetime.UTC")
    # Not `astimezone`, which a subclass may have another of.
    local = datetime.combine(datetime.date(value), datetime.time(value))
    try:
        plain = local - offset
    except OverflowError:
        plain = local
    if not _FIRST_YEAR <= plain.year <= _LAST_YEAR:
        raise InvalidRequest(
            argument, f"must lie between the years {_FIRST_YEAR} and {_LAST_YEAR} in UTC, not in {plain.year}"
        )
    return plain.replace(tzinfo=UTC)


def priority(value: object) -> int:
    """A priority: -100 to 100, the highest first."""
    return whole_number("priority", value, -MAX_PRIORITY, MAX_PRIORITY)


def job_id(value: object) -> UUID:
    """A job's id."""
    if not isinstance(value, UUID):
        remedy = "; write uuid.UUID(...) around it" if isinstance(value, str) else ""
        raise InvalidRequest("job_id", f"must be a uuid.UUID, not {kind_of(value)}{remedy}")
    return value
