"""Reads what stands in columns: another program may have written anything there."""

from __future__ import annotations

import json

from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._model.statuses import Statuses

__all__ = ["LAST_URL", "headers_in", "statuses_in"]

LAST_URL = ":url"
"""Before the headers of an answer may stand, as one that no field can be, the URL that redirects have led to."""


def headers_in(text: str) -> tuple[tuple[str, str], ...]:
    """Read headers from their JSON. Raises `ValueError`, or what `json.loads` does."""
    pairs = json.loads(text)
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InvalidRequest("headers", "must be a list of pairs")
    return tuple((name, value) for name, value in pairs)


def statuses_in(multirange: str) -> Statuses:
    """Read a multirange as PostgreSQL writes it: always in the form `{[a,b),[c,d)}`."""
    inner = multirange.strip("{}")
    if not inner:
        raise InvalidRequest("accept", "must have at least one status")
    bounds = [part.strip("[)").split(",") for part in inner.split("),")]
    return tuple(range(int(start), int(stop)) for start, stop in bounds)
