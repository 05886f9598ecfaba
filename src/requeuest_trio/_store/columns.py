"""The one list of a job's columns, of which the lists in statements are made, and their parameters.

A new job becomes parameters of the spawn statements: one array for each column, in PostgreSQL's binary form.

A dozen arrays would cost the driver more than anything else here, because it encodes each element by itself. But the
jobs of a batch are much alike: what equals its neighbour is encoded once, and elements of one size are joined in C.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import chain
from operator import attrgetter
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from requeuest_trio._model.headers import Headers
from requeuest_trio._model.retry import DEFAULT_RETRY, RetryPolicy
from requeuest_trio._model.statuses import Statuses

if TYPE_CHECKING:
    from requeuest_trio._store.new_jobs import NewJob

__all__ = ["CLAIMED", "REQUEST", "chunks", "lists", "patience", "spawn_columns", "spawn_values", "text_array"]

_MAX_ROWS = 1_000
_MAX_BYTES = 16 * 1_048_576
_ROWS_OF_PATIENCE = 10_000


class _Type(NamedTuple):
    """A type, by its name, which is looked up along no path, and by the number that it has in every database."""

    name: str
    oid: int


_BOOL = _Type("boolean", 16)
_BYTEA = _Type("pg_catalog.bytea", 17)
_INT2 = _Type("smallint", 21)
_TEXT = _Type("pg_catalog.text", 25)
_JSON = _Type("pg_catalog.json", 114)
_FLOAT8 = _Type("double precision", 701)
_TIMESTAMPTZ = _Type("pg_catalog.timestamptz", 1184)
_UUID = _Type("pg_catalog.uuid", 2950)
_JSONB = _Type("pg_catalog.jsonb", 3802)
_INT4MULTIRANGE = _Type("pg_catalog.int4multirange", 4451)

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_INT16, _INT32, _INT64, _DOUBLE = Struct("!h").pack, Struct("!i").pack, Struct("!q").pack, Struct("!d").pack
_ARRAY_HEADER = Struct("!iiiii").pack
_RANGE = Struct("!ibiiii").pack
_NULL = _INT32(-1)


def chunks(jobs: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    """Jobs in pieces that make statements of a bearable size, and leave other tasks their turns in between."""
    piece: list[NewJob] = []
    size, headers, headers_size = 0, None, 0
    for job in jobs:
        request = job.request
        if request.headers != headers:
            headers, headers_size = request.headers, sum(map(len, chain.from_iterable(request.headers)))
        job_size = len(request.body) + len(request.url) + headers_size
        if piece and (len(piece) == _MAX_ROWS or size + job_size > _MAX_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(job)
        size += job_size
    if piece:
        yield piece


def patience(jobs: Sequence[NewJob]) -> int:
    """For how many statements' time to wait until jobs are stored."""
    size = sum(len(job.request.body) for job in jobs)
    return 1 + len(jobs) // _ROWS_OF_PATIENCE + size // _MAX_BYTES


def spawn_columns(jobs: Sequence[NewJob], encoding: str) -> dict[str, bytes | None]:
    """The parameters of the statements that store several jobs, but for `channels`."""
    return {name: _column(column, list(map(column.value, jobs)), encoding) for name, column in _COLUMNS.items()}


def spawn_values(job: NewJob, encoding: str) -> dict[str, bytes | None]:
    """The parameters of the statement that stores one job."""
    return {
        name: None if (value := column.value(job)) is None else column.encode(encoding, value)
        for name, column in _COLUMNS.items()
    }


def lists(forms: Mapping[str, str]) -> dict[str, str]:
    """What statements list of a job's columns, as fragments of them.

    Args:
        forms: the fragments that say in which form a column is claimed or shown, if not as it is.
    """
    return {
        "given_columns": ", ".join(_GIVEN),
        "given_values": ", ".join(f"%({name})s::{_COLUMNS[name].type.name}" for name in _GIVEN),
        "free_arrays": ", ".join(f"{_unnested(name)} AS {name}" for name in _COLUMNS if name != "ordering_key"),
        "keyed_arrays": ", ".join(map(_unnested, _COLUMNS)),
        "keyed_columns": ", ".join(_COLUMNS),
        "claimed_columns": ", ".join(forms.get(f"claimed_{name}", name) for name in CLAIMED),
        "unclaimed_columns": ", ".join("NULL" for _ in CLAIMED),
        "shown_request": ", ".join(forms.get(f"shown_{name}", name) for name in REQUEST),
    }


def _unnested(name: str) -> str:
    return f"pg_catalog.unnest(%({name})s::{_COLUMNS[name].type.name}[])"


def text_array(values: Sequence[str], encoding: str) -> bytes:
    """Texts as a parameter of the type `text[]`."""
    return _array(_TEXT, [value.encode(encoding) for value in values])


def _column(column: _Column, values: list[Any], encoding: str) -> bytes:
    if values.count(values[0]) == len(values):
        value = None if values[0] is None else column.encode(encoding, values[0])
        return _header(column.type, len(values)) + _element(value) * len(values)
    return _array(column.type, _each(values, partial(column.encode, encoding)))


def _each(values: Iterable[Any], encode: Callable[[Any], bytes | None]) -> list[bytes | None]:
    """Encode values, but those that are equal to the one before only once."""
    encoded: list[bytes | None] = []
    before, result = None, None
    for value in values:
        if value is not before and value != before:
            before, result = value, None if value is None else encode(value)
        encoded.append(result)
    return encoded


def _array(element_type: _Type, elements: Sequence[bytes | None]) -> bytes:
    header = _header(element_type, len(elements))
    if None not in elements:
        sized = cast("Sequence[bytes]", elements)
        sizes = set(map(len, sized))
        if len(sizes) == 1:
            size = _INT32(sizes.pop())
            return header + size + size.join(sized)
    return header + b"".join(map(_element, elements))


def _header(element_type: _Type, number: int) -> bytes:
    return _ARRAY_HEADER(1, 0, element_type.oid, number, 1)


def _element(value: bytes | None) -> bytes:
    return _NULL if value is None else _INT32(len(value)) + value


def _text(encoding: str, text: str) -> bytes:
    return text.encode(encoding)


def _instant(_: str, at: datetime) -> bytes:
    return _INT64((at - _EPOCH) // _MICROSECOND)


@lru_cache(maxsize=64)
def _headers(_: str, headers: Headers) -> bytes:
    return json.dumps(headers).encode("ascii")


@lru_cache(maxsize=64)
def _multirange(_: str, statuses: Statuses) -> bytes:
    # Each range: its length, that the lower bound belongs to it, and both bounds with their lengths.
    return _INT32(len(statuses)) + b"".join([_RANGE(17, 2, 4, part.start, 4, part.stop) for part in statuses])


def _bool(_: str, value: bool) -> bytes:
    return b"\1" if value else b"\0"


def _retry(_: str, policy: RetryPolicy) -> bytes | None:
    # The default is NULL; before the text of a jsonb stands the version of its format.
    return (
        None
        if policy is DEFAULT_RETRY or not (stored := policy.to_json())
        else b"\1" + json.dumps(stored).encode("ascii")
    )


class _Column(NamedTuple):
    """How a column comes from a job."""

    type: _Type
    value: Callable[[NewJob], Any]
    encode: Callable[[str, Any], bytes | None]


_COLUMNS = {
    "id": _Column(_UUID, attrgetter("id.bytes"), lambda _, data: data),
    "channel": _Column(_TEXT, attrgetter("channel"), _text),
    "priority": _Column(_INT2, attrgetter("priority"), lambda _, number: _INT16(number)),
    "at": _Column(_TIMESTAMPTZ, attrgetter("at"), _instant),
    "delay": _Column(_FLOAT8, attrgetter("delay"), lambda _, number: _DOUBLE(number)),
    "ordering_key": _Column(_TEXT, attrgetter("ordering_key"), _text),
    "method": _Column(_TEXT, attrgetter("request.method"), _text),
    "url": _Column(_TEXT, attrgetter("request.url"), _text),
    "headers": _Column(_JSON, attrgetter("request.headers"), _headers),
    "body": _Column(_BYTEA, attrgetter("request.body"), lambda _, data: data),
    "accept": _Column(_INT4MULTIRANGE, attrgetter("request.accept"), _multirange),
    "timeout": _Column(_FLOAT8, attrgetter("attempt_timeout"), lambda _, number: _DOUBLE(number)),
    "follow_redirects": _Column(_BOOL, attrgetter("request.follow_redirects"), _bool),
    "retry": _Column(_JSONB, attrgetter("retry"), _retry),
    "awaited": _Column(_BOOL, attrgetter("awaited"), _bool),
}
"""All that is given of a job. The statements follow a new line here; what reads it is typed, and has a field more."""

_MADE_INTO_OTHERS = {"at", "delay", "ordering_key"}
"""Of these, statements make when a job is due, its state and its position."""
_GIVEN = [name for name in _COLUMNS if name not in _MADE_INTO_OTHERS]
"""What is stored as it was given."""
CLAIMED = [name for name in _GIVEN if name not in {"id", "channel", "priority"}]
"""What a claim reads of that, beside which job it is: the request, and how it is attempted."""
REQUEST = [name for name in CLAIMED if name not in {"retry", "awaited"}]
"""What makes the request, in the order in which `StoredRequest` has it."""
