"""What has happened, put together afterwards from the logs of all processes and from the database.

All times are CLOCK_MONOTONIC; the database's are converted.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

import psycopg

from tests.faults.journal import read_journal

FINISHED = frozenset({"succeeded", "dead", "cancelled"})


class Answer(NamedTuple):
    """What a receiver has said, as it knows it itself or as it is stored."""

    status: int | None
    number: str | None
    """Its header X-Answer."""
    body: str
    """The hash of its body."""
    is_whole: bool = True


class Raised(NamedTuple):
    """An exception that a caller saw."""

    kind: str
    job_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """A job that a producer has asked for."""

    job: UUID
    batch: tuple[str, int]
    """Producer and number: what was asked for together."""
    place: int
    """In its batch."""
    channel: str
    key: str | None
    seq: int
    body: str
    invoked_at: float
    ended_at: float
    """Infinite: the producer did not live to see it."""
    result: Literal["ok", "fail", "unknown"]
    raised: tuple[Raised, ...] = ()
    """What the producer saw before that; it may have asked several times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request at the receiver."""

    job: UUID
    at: float
    key: str | None
    seq: int
    body: str
    ended_at: float
    """When it was answered, or its sender went away. Infinite: neither."""
    status: int | None
    """None: it was not answered."""
    answer: Answer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    """A job as it stands in the database at the end."""

    id: UUID
    channel: str
    key: str | None
    position: int | None
    state: str
    attempts: int
    max_attempts: int
    finished_at: float
    """Infinite: it is not."""
    answer: Answer | None = None
    """None: no attempt had one."""
    false_created_at: float | None = None
    """When it was stored by the database's clock, if that was wrong then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAttempt:
    """An attempt as it stands in the database at the end."""

    job: UUID
    number: int
    started_at: float
    ended_at: float
    reached: str
    status: int | None
    retry_at: float
    """Infinite: it was the last."""
    excerpt: str | None = None
    """The hash of what is kept of the answer's body; that is all of it, here. None: there was no answer."""
    false_retry_at: float | None = None
    """What stands in the database for `retry_at`, if its clock was wrong then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that was done to the system."""

    kind: str
    at: float
    until: float
    """Not before this, the system can begin to recover."""
    jobs: frozenset[UUID] | None
    """Whose attempts may have been lost by it, and so be repeated. None: any."""
    uncounted: bool = False
    """Whether the attempts that it broke off went back without being counted, as after a cancellation."""
    delays: bool = False
    """Whether any job may have had to wait because of it, also one whose attempts it has not touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Something that must not grow: memory, files, tasks, connections."""

    what: str
    before: float
    after: float
    allowed: float
    """How much more there may be afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """The times that were agreed on, in seconds."""

    lease: float = 30.0
    poll_interval: float = 5.0
    attempt_timeout: float = 30.0
    recovery: float = 60.0
    """After the last fault, within this the throughput is back."""

    @property
    def stuck_after(self) -> float:
        """Lease, a round of maintenance (a sixth of a lease), poll, and a moment."""
        return self.lease + self.lease / 6 + self.known_after

    @property
    def known_after(self) -> float:
        """Poll, and a moment: then every process knows that something is due."""
        return self.poll_interval + 2.0

    @property
    def zombie_for(self) -> float:
        """An attempt that is under way when its job is taken away may still arrive for so long."""
        return self.attempt_timeout + 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All of it."""

    promise: Promise
    spawns: Sequence[Spawn] = ()
    arrivals: Sequence[Arrival] = ()
    """In the order of their coming."""
    jobs: Sequence[StoredJob] = ()
    attempts: Sequence[StoredAttempt] = ()
    faults: Sequence[Fault] = ()
    usages: Sequence[Usage] = ()
    load: tuple[float, float] | None = None
    """From when to when there was always more to deliver than could be delivered, if there was such a time."""
    by_job: dict[UUID, StoredJob] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_job", {job.id: job for job in self.jobs})


def read_spawns(logs: Iterable[Path]) -> list[Spawn]:
    """What producers have written down."""
    spawns = []
    for path in logs:
        ends: dict[int, tuple[float, Any]] = {}
        raised: dict[int, tuple[Raised, ...]] = defaultdict(tuple)
        events = read_journal(path)
        for event in events:
            if event["event"] != "invoke":
                ends[event["batch"]] = (event["at"], event["event"])
            if "raised" in event:
                raised[event["batch"]] += (Raised(event["raised"], tuple(map(UUID, event["job_ids"]))),)
        for event in events:
            if event["event"] == "invoke":
                ended_at, result = ends.get(event["batch"], (math.inf, "unknown"))
                spawns += [
                    Spawn(
                        job=UUID(job["job"]),
                        batch=(event["producer"], event["batch"]),
                        place=place,
                        channel=event["channel"],
                        key=event["key"],
                        seq=job["seq"],
                        body=job["body"],
                        invoked_at=event["at"],
                        ended_at=ended_at,
                        result=result,
                        raised=raised[event["batch"]],
                    )
                    for place, job in enumerate(event["jobs"])
                ]
    return spawns


def read_arrivals(log: Path) -> list[Arrival]:
    """What a receiver has written down."""
    events = read_journal(log)
    ends = {event["number"]: event for event in events if event["event"] != "arrival"}
    arrivals = []
    for event in events:
        if event["event"] == "arrival":
            end = ends.get(event["number"], {})
            arrivals.append(
                Arrival(
                    job=UUID(event["job"]),
                    at=event["at"],
                    key=event["key"],
                    seq=event["seq"],
                    body=event["body"],
                    ended_at=end.get("at", math.inf),
                    status=end.get("status"),
                    answer=Answer(end["status"], str(event["number"]), end["answer"]) if "answer" in end else None,
                )
            )
    return arrivals


class Instant(NamedTuple):
    """A time that the database has written down."""

    right: float
    """When it was."""
    false: float | None
    """What its clock said, if that was wrong."""


def clock_of(connection: psycopg.Connection[Any]) -> Callable[[float | None], Instant]:
    """
    Converts the database's time, as seconds since 1970, to that of CLOCK_MONOTONIC; None to infinity.

    Also what was written while its clock was set to a false time (see `wall.py`), if it is right again.
    """
    apart = _apart(connection)
    offsets = []
    for _ in range(5):
        before = time.monotonic()
        row = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
        after = time.monotonic()
        assert row is not None
        offsets.append((after - before, (before + after) / 2 - row[0]))
    _, offset = min(offsets)
    now = time.monotonic() - offset

    def convert(at: float | None) -> Instant:
        if at is None:
            return Instant(math.inf, None)
        # The test began less than half of `apart` ago.
        ahead = 0.0 if apart is None else apart * round((at - now + apart / 4) / apart)
        return Instant(float(at + offset - ahead), float(at + offset) if ahead else None)

    return convert


def _apart(connection: psycopg.Connection[Any]) -> float | None:
    """By how many seconds the times differ that its clock was set to. None: it can't be set."""
    if connection.execute("select to_regclass('wall.clock')").fetchone() == (None,):
        return None
    row = connection.execute("select extract(epoch from apart)::float8 from wall.clock").fetchone()
    return None if row is None or row[0] is None else float(row[0])


def read_jobs(connection: psycopg.Connection[Any]) -> list[StoredJob]:
    """All jobs as they stand."""
    clock = clock_of(connection)
    rows = connection.execute(
        "select id, channel, ordering_key, position, state::text, attempts, "
        "coalesce((retry->>'max_attempts')::int, 100001), extract(epoch from finished_at)::float8, "
        "status, response_headers::text, left(encode(sha256(response_body), 'hex'), 16), response_truncated, "
        "extract(epoch from created_at)::float8 from requeuest.job"
    )
    return [
        StoredJob(
            id=row[0],
            channel=row[1],
            key=row[2],
            position=row[3],
            state=row[4],
            attempts=row[5],
            max_attempts=row[6],
            finished_at=clock(row[7]).right,
            answer=None if row[8] is None else Answer(row[8], _number_in(row[9]), row[10] or "", not row[11]),
            false_created_at=clock(row[12]).false,
        )
        for row in rows
    ]


def _number_in(headers: str | None) -> str | None:
    return {name.lower(): value for name, value in json.loads(headers or "[]")}.get("x-answer")


def read_attempts(connection: psycopg.Connection[Any]) -> list[StoredAttempt]:
    """All attempts that have ended."""
    clock = clock_of(connection)
    rows = connection.execute(
        "select job_id, number, extract(epoch from started_at)::float8, duration, reached, status, "
        "extract(epoch from retry_at)::float8, left(encode(sha256(excerpt), 'hex'), 16) "
        "from requeuest.attempt order by job_id, number"
    )
    return [
        StoredAttempt(
            job=row[0],
            number=row[1],
            started_at=clock(row[2]).right,
            # How long a claim lived that was found dead is told by the database's clock, which may have been set.
            ended_at=clock(row[6]).right if row[4] == "unknown" else clock(row[2]).right + row[3],
            reached=row[4],
            status=row[5],
            retry_at=clock(row[6]).right,
            excerpt=row[7],
            false_retry_at=clock(row[6]).false,
        )
        for row in rows
    ]
