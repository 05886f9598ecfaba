"""
What is measured, in the order in which it is.

A name begins with a word by which it can be selected. What a case is divided by is measured right before it, or near
it, in the same repetition, and is as long as the case: the rate of a client changes with the length of the run.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.backlogs import Backlog
from benchmarks.drains import Drain
from benchmarks.enqueues import Enqueue
from benchmarks.floors import HttpFloor, SqlFloor
from benchmarks.latencies import Latency
from benchmarks.setting import Figures, Setting
from benchmarks.sizes import Sizes

OURS = "requeuest-trio"
PEERS = ("pgqueuer", "procrastinate")
HTTP, SQL, DRAIN, SPAWN, LATENCY = (
    "HTTP floors: the same requests in a bare loop on Trio, nothing kept",
    "SQL floors: the same rows, no queue",
    "Draining: jobs that are queued already, one worker process",
    "Enqueuing: one producer process",
    "Latency: from the call that adds a job to an idle queue to its arrival at the receiver",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure."""

    name: str
    table: str
    """The heading under which it is reported."""
    title: str
    short: str
    """What it is called where others are compared with it."""
    measure: Callable[[Setting], Figures]
    against: tuple[str, ...] = ()
    """Names of the cases that it is divided by; they are measured whenever it is."""
    beside: tuple[str, ...] = ()
    """Names of the cases that it is compared with, if they are measured too."""
    contestant: str | None = None
    modules: tuple[str, ...] = ()
    """What else it imports."""


def all_cases(sizes: Sizes) -> list[Case]:
    """Everything there is, for these sizes."""
    return [
        *_drains(sizes),
        *_shapes(sizes),
        *_long_drains(sizes),
        *_spawns(sizes),
        *_latencies(sizes),
    ]


def selected(cases: Sequence[Case], words: Iterable[str], *, alone: bool) -> list[Case]:
    """
    The cases whose names are, or begin with, one of the words, and (unless alone) what they are divided by.

    Raises:
        ValueError: a word stands for nothing.
    """
    by_name = {case.name: case for case in cases}
    chosen: set[str] = set()
    for word in words:
        found = {name for name in by_name if name == word or name.startswith(f"{word}-")}
        if not found:
            known = sorted({name.partition("-")[0] for name in by_name})
            raise ValueError(f"there is no benchmark {word!r}; there are {', '.join(known)}, and see --list")
        chosen |= found
    if not alone:
        chosen |= {divisor for name in chosen for divisor in by_name[name].against}
        chosen |= {divisor for name in chosen for divisor in by_name[name].against}  # of those that were just added
    return [case for case in cases if case.name in chosen]


def _http(name: str, client: str, requests: int, at_once: int, body_bytes: int | None = None) -> Case:
    size = "" if body_bytes is None else f" of {body_bytes // 1000} kB"
    loop = "raw loop, httptools" if client == "raw" else f"{client} loop"
    measure = HttpFloor(client=client, requests=requests, at_once=at_once)
    if body_bytes is not None:
        measure = HttpFloor(client=client, requests=requests, at_once=at_once, body_bytes=body_bytes)
    title = f"{loop}, {requests:,} requests{size}, {at_once} at once"
    return Case(name=name, table=HTTP, title=title, short=f"{client} loop", measure=measure)


def _sql(name: str, kind: str, title: str, rows: int) -> Case:
    measure = SqlFloor(kind=kind, rows=rows)
    return Case(
        name=name,
        table=SQL,
        title=f"{title}, {rows:,} rows",
        short=title,
        measure=measure,
        modules=("asyncpg", "uvloop"),
    )


def _drain(
    name: str, who: str, what: str, drain: Drain, against: tuple[str, ...], beside: tuple[str, ...] = ()
) -> Case:
    return Case(
        name=name,
        table=DRAIN,
        title=f"{who}, {what}",
        short=what if drain.contestant == "requeuest" else who,
        measure=drain,
        against=against,
        beside=beside,
        contestant=drain.contestant,
    )


def _drains(sizes: Sizes) -> Iterator[Case]:
    """Ours and the peers', each next to the clients that they are divided by."""
    jobs = sizes.drain
    yield _http("http-raw-32", "raw", jobs, 32)
    yield _http("http-httpx2-32", "httpx2", jobs, 32)
    yield _sql("sql-claim", "claim", "claim and finish in batches of 200", jobs)
    yield _drain(
        "drain-requeuest-32",
        OURS,
        f"{jobs:,} jobs, 32 at once",
        Drain(contestant="requeuest", jobs=jobs, concurrency=32),
        ("http-httpx2-32", "http-raw-32", "sql-claim"),
        tuple(f"drain-{peer}-httpx2" for peer in PEERS),
    )
    yield from _peers(jobs, "httpx2")
    yield _http("http-httpx-32", "httpx", jobs, 32)
    yield from _peers(jobs, "httpx")
    yield _http("http-raw-256", "raw", jobs, 256)
    yield _http("http-httpx2-256", "httpx2", jobs, 256)
    # No bare httpx here: at 256 its pool closes connections that are in use, and requests fail.
    yield _drain(
        "drain-requeuest-256",
        OURS,
        f"{jobs:,} jobs, 256 at once",
        Drain(contestant="requeuest", jobs=jobs, concurrency=256),
        ("http-httpx2-256", "http-raw-256", "sql-claim"),
    )


def _peers(jobs: int, client: str) -> Iterator[Case]:
    for peer in PEERS:
        yield _drain(
            f"drain-{peer}-{client}",
            f"{peer} with {client}",
            f"{jobs:,} jobs, 32 at once",
            Drain(contestant=peer, jobs=jobs, concurrency=32, client=client),
            (f"http-{client}-32",),
        )


def _shapes(sizes: Sizes) -> Iterator[Case]:
    """Queues of other shapes: many channels, many keys, large bodies, a million behind."""
    jobs, keyed = sizes.drain, 2 * sizes.ordering_keys
    yield _drain(
        "channels-requeuest",
        OURS,
        f"{jobs:,} jobs in {sizes.channels:,} channels, 256 at once over all",
        Drain(contestant="requeuest", jobs=jobs, concurrency=256, channels=sizes.channels),
        ("drain-requeuest-256",),
    )
    yield _drain(
        "keys-requeuest",
        OURS,
        f"{keyed:,} jobs with {sizes.ordering_keys:,} ordering keys, 32 at once",
        Drain(contestant="requeuest", jobs=keyed, concurrency=32, ordering_keys=sizes.ordering_keys),
        ("drain-requeuest-32",),
    )
    for client in ("raw", "httpx2"):
        yield _http(f"http-bodies-{client}", client, sizes.large_bodies, 32, sizes.large_body)
    yield _drain(
        "bodies-requeuest",
        OURS,
        f"{sizes.large_bodies:,} jobs of {sizes.large_body // 1000} kB, 32 at once",
        Drain(contestant="requeuest", jobs=sizes.large_bodies, concurrency=32, body_bytes=sizes.large_body),
        ("http-bodies-httpx2", "http-bodies-raw"),
    )
    for name, title, stands_behind in (
        ("backlog-behind", f"{jobs:,} jobs before {sizes.backlog:,} of a lower priority", True),
        ("backlog-due", f"the first {jobs:,} of {sizes.backlog:,} due jobs", False),
    ):
        yield Case(
            name=name,
            table=DRAIN,
            title=f"{OURS}, {title}, 32 at once",
            short=title,
            measure=Backlog(jobs=jobs, backlog=sizes.backlog, stands_behind=stands_behind),
            against=("drain-requeuest-32",),
            contestant="requeuest",
        )


def _long_drains(sizes: Sizes) -> Iterator[Case]:
    jobs = sizes.long_drain
    yield _sql("sql-long-claim", "claim", "claim and finish in batches of 200", jobs)
    for at_once in (32, 256):
        yield _http(f"http-long-raw-{at_once}", "raw", jobs, at_once)
        yield _http(f"http-long-httpx2-{at_once}", "httpx2", jobs, at_once)
        yield _drain(
            f"long-requeuest-{at_once}",
            OURS,
            f"{jobs:,} jobs, {at_once} at once",
            Drain(contestant="requeuest", jobs=jobs, concurrency=at_once),
            (f"http-long-httpx2-{at_once}", f"http-long-raw-{at_once}", "sql-long-claim"),
        )


def _spawns(sizes: Sizes) -> Iterator[Case]:
    one, jobs = sizes.spawn_one_by_one, sizes.spawn
    yield _sql("sql-insert", "insert", "insert and commit, 1 connection", one)
    yield from _enqueues("one", "one by one", one, "one by one", 1, ("sql-insert",))
    yield _sql("sql-notify", "notify", "insert, NOTIFY and commit, 8 connections", jobs)
    yield from _enqueues("32", "32 at once", jobs, "at once", 32, ("sql-notify",))
    yield _sql("sql-unnest", "unnest", "one INSERT from unnest", jobs)
    yield _sql("sql-copy", "copy", "one COPY", jobs)
    yield from _enqueues("many", "in bulk", jobs, "bulk", jobs, ("sql-unnest", "sql-copy"))


def _enqueues(name: str, title: str, jobs: int, way: str, width: int, against: tuple[str, ...]) -> Iterator[Case]:
    for contestant in ("requeuest", *PEERS):
        shown = OURS if contestant == "requeuest" else contestant
        yield Case(
            name=f"spawn-{name}-{contestant}",
            table=SPAWN,
            title=f"{shown}, {jobs:,} jobs, {title}",
            short=shown,
            measure=Enqueue(contestant=contestant, jobs=jobs, way=way, width=width),
            against=against,
            contestant=contestant,
        )


def _latencies(sizes: Sizes) -> Iterator[Case]:
    for name, title, contestant, workers in (
        ("latency-httpx2", "no queue: a bare httpx2 request", "httpx2", "none"),
        ("latency-requeuest", f"{OURS}, delivered by another process", "requeuest", "other"),
        ("latency-requeuest-same", f"{OURS}, delivered by the process that spawns", "requeuest", "same"),
        *((f"latency-{peer}", f"{peer} with httpx2", peer, "other") for peer in PEERS),
    ):
        yield Case(
            name=name,
            table=LATENCY,
            title=f"{title}, {sizes.latency:,} jobs",
            short=title.removeprefix("no queue: "),
            measure=Latency(contestant=contestant, jobs=sizes.latency, workers=workers),
            against=() if workers == "none" else ("latency-httpx2",),
            contestant=contestant,
        )
