"""Checks of plain arguments that more than one public call takes. Each raises `InvalidRequest` naming the argument."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from requeuest_trio._model.errors import InvalidRequest

__all__ = [
    "MAX_CHANNEL_LENGTH",
    "MAX_KEY_LENGTH",
    "MAX_PRIORITY",
    "MAX_SECONDS",
    "channel_name",
    "channel_names",
    "instant",
    "job_id",
    "priority",
    "seconds",
    "short_text",
]

MAX_CHANNEL_LENGTH = 200
MAX_KEY_LENGTH = 200
MAX_PRIORITY = 100
MAX_SECONDS = 10 * 365 * 86_400.0
"""Ten years: further than anybody plans, and safely inside what PostgreSQL's intervals hold."""


def short_text(argument: str, value: object, longest: int) -> str:
    """A text of 1 to `longest` characters that PostgreSQL can store."""
    if not isinstance(value, str):
        raise InvalidRequest(argument, f"must be a str, not {type(value).__name__}")
    if not 1 <= len(value) <= longest:
        raise InvalidRequest(argument, f"must have 1 to {longest} characters, not {len(value)}")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidRequest(argument, "must not have NUL or lone surrogate characters")
    return value


def channel_name(value: object) -> str:
    """A channel's name: 1 to 200 characters."""
    return short_text("channel", value, MAX_CHANNEL_LENGTH)


def channel_names(values: Iterable[str]) -> list[str]:
    """Several channels' names. A lone `str` is refused: its letters are hardly meant."""
    if isinstance(values, str):
        raise InvalidRequest("channels", f"must be a collection of names; write [{values!r}]")
    return sorted({channel_name(value) for value in values})


def seconds(argument: str, value: float | timedelta, *, positive: bool = False) -> float:
    """A length of time in seconds, from a number or a `timedelta`: 0 (or, if `positive`, more) to ten years."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidRequest(argument, f"must be seconds or a timedelta, not {type(value).__name__}")
    if not math.isfinite(number) or number > MAX_SECONDS:
        raise InvalidRequest(argument, f"must be at most ten years ({MAX_SECONDS:.0f} s), not {number}")
    if number < 0 or (positive and number == 0):
        raise InvalidRequest(argument, f"must {'be more than 0' if positive else 'not be negative'}, not {number}")
    return float(number)


def instant(argument: str, value: object) -> datetime:
    """An aware `datetime`."""
    if not isinstance(value, datetime):
        raise InvalidRequest(argument, f"must be a datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise InvalidRequest(argument, "must be aware: give the datetime a tzinfo, such as datetime.UTC")
    return value


def priority(value: object) -> int:
    """A priority: -100 to 100, the highest first."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest("priority", f"must be an int, not {type(value).__name__}")
    if not -MAX_PRIORITY <= value <= MAX_PRIORITY:
        raise InvalidRequest("priority", f"must lie between -{MAX_PRIORITY} and {MAX_PRIORITY}, not {value}")
    return value


def job_id(value: object) -> UUID:
    """A job's id."""
    if not isinstance(value, UUID):
        raise InvalidRequest("job_id", f"must be a uuid.UUID, not {type(value).__name__}")
    return value
