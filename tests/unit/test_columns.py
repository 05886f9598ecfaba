"""Jobs on their way to PostgreSQL: pieces of bearable size, what there is to tell of them, and the one list of their
columns. (That the columns are read as they were given is tested where there is a server.)"""

import inspect
import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from requeuest_trio import Request
from requeuest_trio._store.claimed import StoredRequest
from requeuest_trio._store.columns import CLAIMED, REQUEST, chunks, patience
from requeuest_trio._store.new_jobs import NewJob
from requeuest_trio._store.waits import firsts, known_waits, merged, waits_of, without

MIB = 1_048_576
SOURCES = Path(__file__).parents[2] / "src" / "requeuest_trio"
OF_REQUESTS = {"_model", "_http", "cli"}
"""Rooms that know requests, and no columns."""
LISTED_WITHIN = 400
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def job(size: int = 0, header: int = 0, channel: str = "c", **options: object) -> NewJob:
    headers = [(f"X-{n}", "v" * 4_000) for n in range(header // 4_000)]
    request = Request.post("http://x.test/", content=bytes(size), headers=headers)
    return NewJob(id=uuid4(), channel=channel, request=request, **options)  # type: ignore[arg-type]


def sizes(*jobs: NewJob) -> list[int]:
    return [len(piece) for piece in chunks(jobs)]


def test_pieces_are_bounded_in_rows_and_in_bytes() -> None:
    assert sizes() == []
    assert sizes(*[job()] * 2_500) == [1_000, 1_000, 500]
    assert sizes(*[job(7 * MIB)] * 5) == [2, 2, 1]
    assert sizes(job(), job(20 * MIB), job(), job(17 * MIB)) == [1, 1, 1, 1], "one that is too large goes alone"
    assert all(270 < size < 280 for size in sizes(*[job(header=60_000)] * 600)[:2]), "headers count too"


def test_patience_grows_with_what_there_is_to_send() -> None:
    assert patience([job()]) == 1
    assert patience([job()] * 25_000) == 3
    assert patience([job(8 * MIB)] * 10) == 6


def test_what_there_is_to_tell() -> None:
    assert firsts([("a", 5), ("b", -1), ("a", 3), ("b", 0), ("b", 7), ("b", 9)]) == {"a": [3], "b": [0, 7]}
    jobs = [
        job(channel="a"),
        job(channel="a", delay=60.0),
        job(channel="b", at=NOW + timedelta(seconds=9)),
        job(channel="b", at=NOW - timedelta(seconds=9)),
        job(channel="k", ordering_key="k"),
    ]
    known = known_waits(jobs)
    assert known == {"a": [0, 60]}
    assert waits_of(jobs, NOW.timestamp()) == {"a": [0, 60], "b": [0, 9]}
    assert without(waits_of(jobs, NOW.timestamp()), known) == {"b": [0, 9]}
    assert merged({"a": [3]}, {"a": [0, 9], "b": [1]}) == {"a": [0, 3], "b": [1]}
    assert merged({}, known) == known


def lists_columns(text: str) -> bool:
    """Whether nearly all columns that make a request stand close together."""
    found = [(name.start(), name[0]) for name in re.finditer(rf"\b(?:{'|'.join(REQUEST)})\b", text)]
    return any(
        len({name for at, name in found if start <= at < start + LISTED_WITHIN}) >= len(REQUEST) - 1
        for start, _ in found
    )


def test_columns_are_listed_in_one_place_and_in_the_type_of_what_is_read() -> None:
    assert lists_columns("SELECT method, url, headers::text, body, accept::text, timeout FROM job")
    assert not lists_columns("SELECT method, url, headers::text, body FROM job")
    files = [path.relative_to(SOURCES) for path in SOURCES.rglob("*") if path.suffix in {".py", ".sql"}]
    listing = {
        path.as_posix()
        for path in files
        if path.parts[0] not in OF_REQUESTS and lists_columns((SOURCES / path).read_text("utf-8"))
    }
    assert listing == {"_store/columns.py", "_store/claimed.py"}


def test_what_is_read_is_in_the_order_of_the_columns() -> None:
    assert [field.name for field in fields(StoredRequest)] == REQUEST
    assert list(inspect.signature(Request.restored).parameters) == REQUEST
    assert [*REQUEST, "retry", "awaited"] == CLAIMED
