"""Bad arguments. Invariant: `InvalidRequest` names the argument and what is allowed, before anything is stored."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from requeuest_trio import (
    Channel,
    Client,
    Config,
    InvalidRequest,
    Request,
    RequeuestError,
    RetryPolicy,
    migrate,
    open_requeuest,
)
from tests.engine.probe import QueueProbe

URL = "http://x.test/"
GOOD = Request.get(URL)
NAMES: list[tuple[Any, str]] = [
    ("", "1 to 200"),
    ("x" * 201, "1 to 200"),
    ("a\0b", "NUL"),
    ("\ud800", "surrogate"),
    (7, "must be a str"),
    (None, "must be a str"),
]
OPTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"delay": -1}, "delay", "at least 0"),
    ({"delay": float("nan")}, "delay", "ten years"),
    ({"delay": float("inf")}, "delay", "ten years"),
    ({"delay": 10**10}, "delay", "ten years"),
    ({"delay": 10**400}, "delay", "ten years"),
    ({"delay": "5"}, "delay", "seconds or a timedelta"),
    ({"delay": True}, "delay", "seconds or a timedelta"),
    ({"delay": timedelta(days=-1)}, "delay", "at least 0"),
    ({"delay": 1, "at": datetime.now(UTC)}, "at", "together with delay: give one of them"),
    ({"at": datetime(2030, 1, 1)}, "at", "aware"),  # noqa: DTZ001
    ({"at": "2030-01-01"}, "at", "must be a datetime"),
    ({"at": datetime.max.replace(tzinfo=UTC)}, "at", "between the years"),
    ({"at": datetime.min.replace(tzinfo=UTC)}, "at", "between the years"),
    ({"priority": 101}, "priority", "-100 to 100"),
    ({"priority": -101}, "priority", "-100 to 100"),
    ({"priority": 1.5}, "priority", "must be an int"),
    ({"priority": None}, "priority", "must be an int"),
    ({"priority": True}, "priority", "must be an int"),
    *(({"ordering_key": name}, "ordering_key", text) for name, text in NAMES if name is not None),
    ({"retry": 5}, "retry", r"must be a RetryPolicy, such as RetryPolicy\(max_attempts=5\), not int"),
    ({"retry": 0}, "retry", "must be a RetryPolicy"),
    ({"timeout": 0}, "timeout", "more than 0"),
    ({"timeout": -1}, "timeout", "more than 0"),
    ({"timeout": "1"}, "timeout", "seconds or a timedelta"),
]
CHANNEL: list[tuple[tuple[Any, ...], dict[str, Any], str, str]] = [
    ((name, GOOD), {}, "channel", text) for name, text in NAMES
]
REQUEST: list[tuple[tuple[Any, ...], dict[str, Any], str, str]] = [
    (("c", "GET http://x.test/"), {}, "request", "must be a requeuest_trio.Request, not str$"),
    (("c", None), {}, "request", "must be a requeuest_trio.Request, not None"),
    (("c", httpx2.Request("GET", URL)), {}, "request", r"not httpx2.Request; write Request.from_httpx\(...\)"),
    (("c", Request.post(URL, content=b"x" * 101)), {}, "body", "at most 100 bytes .Config.max_request_body., not 101"),
]
JOB_ID: list[tuple[tuple[Any, ...], dict[str, Any], str, str]] = [
    (("c", GOOD), {"job_id": str(uuid4())}, "job_id", r"must be a uuid.UUID, not str; write uuid.UUID\("),
    (("c", GOOD), {"job_id": 7}, "job_id", "must be a uuid.UUID"),
]


@pytest.fixture
async def client(probe: QueueProbe) -> Any:
    async with open_requeuest(
        probe.dsn, [Channel("ledger", ordered=True)], config=Config(max_request_body=100)
    ) as opened:
        yield opened
        assert await probe.states() == {}


def refused(argument: str, text: str) -> Any:
    return pytest.raises(InvalidRequest, match=rf"^{argument}: .*{text}")


async def test_spawn_and_spawn_returning(client: Client) -> None:
    given = [(("c", GOOD), options, argument, text) for options, argument, text in OPTIONS]
    for arguments, options, argument, text in given + CHANNEL + REQUEST + JOB_ID:
        for call in (client.spawn, client.spawn_returning):
            with refused(argument, text) as caught:
                await call(*arguments, **options)
            assert caught.value.argument == argument
            assert isinstance(caught.value, ValueError)
    with refused("connection", "must be a TrioConnection, not str"):
        await client.spawn("c", GOOD, connection="x")  # type: ignore[arg-type]
    with refused("ordering_key", "is ordered as a whole"):
        await client.spawn("ledger", GOOD, ordering_key="k")


@pytest.mark.parametrize("huge", ["x" * 1_000_000, 10**5_000, b"x" * 1_000_000], ids=["str", "int", "bytes"])
async def test_a_huge_filter_is_refused_in_few_words(client: Client, huge: Any) -> None:
    for name in ("channel", "state", "ordering_key"):
        with pytest.raises(InvalidRequest) as caught:
            client.jobs(**{name: huge})
        assert caught.value.argument == name
        assert len("".join(traceback.format_exception(caught.value))) < 3_000


async def test_spawn_many(client: Client) -> None:
    for options, argument, text in OPTIONS:
        with refused(argument, text):
            await client.spawn_many("c", [GOOD], **options)
    for arguments, _, argument, text in CHANNEL + REQUEST:
        with refused(argument, text):
            await client.spawn_many(arguments[0], [GOOD, arguments[1], GOOD])
    for requests in (GOOD, "http://x.test/", b"x", None, 5):
        with refused("requests", "must be a collection of Request, not"):
            await client.spawn_many("c", requests)  # type: ignore[arg-type]
    transaction: Any = client.transaction()
    with refused("connection", r"write async with client.transaction\(\) as connection"):
        await client.spawn("c", GOOD, connection=transaction)
    one = uuid4()
    ids: list[tuple[Any, str]] = [
        ([one], "must have one id for each of 2 requests, not 1"),
        ([one, one], "has one of them twice"),
        ([one, "x"], "must be a uuid.UUID, not str"),
        *((job_id, "must be a sequence") for job_id in (one, str(one), {one, uuid4()}, 5)),
    ]
    for job_id, text in ids:
        with refused("job_id", text):
            await client.spawn_many("c", [GOOD, GOOD], job_id=job_id)
    with refused("connection", "must be a TrioConnection"):
        await client.spawn_many("c", [GOOD], connection=5)  # type: ignore[arg-type]


async def test_reading_and_clearing(client: Client) -> None:
    anything: Any = "not an id"
    for call in (client.wait, client.result, client.job, client.attempts):
        with refused("job_id", "must be a uuid.UUID, not str"):
            await call(anything)
    bad: list[tuple[dict[str, Any], str, str]] = [
        ({"channel": ""}, "channel", "1 to 200"),
        ({"channel": 5}, "channel", "must be a str"),
        ({"state": "finished"}, "state", "must be a JobState, not 'finished'"),
        ({"state": 5}, "state", "must be a JobState"),
        ({"ordering_key": "a\0"}, "ordering_key", "NUL"),
        ({"ordering_key": 5}, "ordering_key", "must be a str"),
    ]
    for filters, argument, text in bad:
        with refused(argument, text):
            client.jobs(**filters)
    channels: list[tuple[Any, str, str]] = [
        ("abc", "channels", "must be a collection of names; write"),
        (5, "channels", "must be a collection of names, not int"),
        (None, "channels", "must be a collection of names"),
        ([""], "channel", "1 to 200"),
        (["a", 5], "channel", "must be a str"),
    ]
    for names, argument, text in channels:
        with refused(argument, text):
            await client.clear(names)


REQUESTS: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: Request.get("/relative"), "url", "absolute"),
    (lambda: Request.get("ftp://x.test/"), "url", "http or https"),
    (lambda: Request.get("http://x.test/\r\nX: 1"), "url", "control characters"),
    (lambda: Request.get("http://x.test:99999/"), "url", ""),
    (lambda: Request.get("http://" + "x" * 9_000), "url", "8192"),
    (lambda: Request("BREW", URL), "method", "must be one of"),
    (lambda: Request.get(URL, headers={"X": "a\r\nb"}), "headers", "CR, LF, NUL"),
    (lambda: Request.get(URL, headers={"X": "a\0"}), "headers", "CR, LF, NUL"),
    (lambda: Request.get(URL, headers={"Host": "y"}), "headers", "Host is set by the library"),
    (lambda: Request.get(URL, headers={"content-length": "1"}), "headers", "content-length is set"),
    (lambda: Request.get(URL, headers={"Transfer-Encoding": "chunked"}), "headers", "is set by the library"),
    (lambda: Request.get(URL, headers={"Connection": "close"}), "headers", "is set by the library"),
    (lambda: Request.get(URL, headers={"X": None}), "headers", "of 'X' must be a str, not None: leave the field out"),  # type: ignore[arg-type]
    (lambda: Request.get(URL, headers={"X": 7}), "headers", "the value of 'X' must be a str, not int"),  # type: ignore[arg-type]
    (lambda: Request.get(URL, headers={7: "X"}), "headers", "a name must be a str, not int"),  # type: ignore[arg-type]
    (lambda: Request.post(URL, json={1, 2}), "json", "can't be written as JSON"),
    (lambda: Request.post(URL, json={"at": datetime.now(UTC)}), "json", "datetime .*; convert that first"),
    (lambda: Request.post(URL, json=float("nan")), "json", "can't be written as JSON"),
    (lambda: Request.post(URL, content=iter([b"x"])), "content", "stream"),  # type: ignore[arg-type]
    (lambda: Request.post(URL, content=5), "content", "must be bytes"),  # type: ignore[arg-type]
    (lambda: Request.get(URL, accept=[]), "accept", "at least one"),
    (lambda: Request.get(URL, accept=99), "accept", "100 and 599"),
    (lambda: Request.get(URL, timeout=0), "timeout", "more than 0"),
    (lambda: RetryPolicy(max_attempts=0), "max_attempts", "1 to 1,000,000"),
    (lambda: RetryPolicy(jitter=2), "jitter", "0 to 1"),
    (lambda: RetryPolicy(initial=9, max_backoff=1), "max_backoff", "at least initial"),
    (lambda: Channel(""), "channel", "1 to 200"),
    (lambda: Config(pool_size=0), "pool_size", "from"),
]


def test_values() -> None:
    for make, argument, text in REQUESTS:
        with refused(argument, text):
            make()


OPENINGS: list[tuple[dict[str, Any], str, str]] = [
    ({"dsn": 5}, "dsn", 'must be a PostgreSQL URL, a connection string of libpq, or "embedded:", not int'),
    ({"dsn": None}, "dsn", "not None"),
    ({"dsn": "nonsense"}, "dsn", 'must be a PostgreSQL URL, a connection string of libpq, or "embedded:"; libpq'),
    ({"channels": "abc"}, "channels", "must be a collection of names; write"),
    ({"channels": 5}, "channels", "must be a collection of names or ALL"),
    ({"channels": ["a", "a"]}, "channels", "each channel once"),
    ({"channels": [""]}, "channel", "1 to 200"),
    ({"channels": ["a", 5]}, "channels", "must be names or Channel objects, not int"),
    ({"http": 5}, "http", "must be an httpx2.AsyncBaseTransport or an AsyncClient"),
    ({"schema": "a b"}, "schema", "a-z, 0-9 and _"),
    ({"schema": 5}, "schema", "a-z, 0-9 and _"),
    ({"concurrency": 0}, "concurrency", "from 1 to 10,000"),
    ({"concurrency": 1.5}, "concurrency", "must be an int"),
    ({"concurrency": 1_000}, "concurrency", "at most Config.max_running, which is 512, not 1,000"),
    ({"lease": 0.5}, "lease", "at least 1 and at most 3,600 s"),
    ({"lease": "1"}, "lease", "seconds or a timedelta"),
    ({"grace": -1}, "grace", "at least 0 and at most 3,600 s"),
    ({"grace": 9_999}, "grace", "at least 0 and at most 3,600 s"),
    ({"poll_interval": 0}, "poll_interval", "at least 0.05 and at most 3,600 s"),
    ({"config": {}}, "config", "must be a Config, not dict"),
]


async def test_open_requeuest_and_migrate(probe: QueueProbe) -> None:
    for options, argument, text in OPENINGS:
        with refused(argument, text):
            async with open_requeuest(**({"dsn": probe.dsn} | options)):
                pass
    migrations: list[tuple[dict[str, Any], str, str]] = [
        ({"schema": "Schema"}, "schema", "a-z"),
        ({"target": -1}, "target", "an int from 0 to"),
        ({"target": 99}, "target", "an int from 0 to"),
        ({"target": "1"}, "target", "an int from 0 to"),
        ({"target": True}, "target", "an int from 0 to"),
        ({"dsn": None}, "dsn", "must be a PostgreSQL URL"),
    ]
    for options, argument, text in migrations:
        with refused(argument, text):
            await migrate(**({"dsn": probe.dsn} | options))


async def test_arguments_are_checked_before_the_database_is_asked() -> None:
    for options, argument, text in OPENINGS:
        with refused(argument, text):
            async with open_requeuest(**({"dsn": "host=127.0.0.1 port=1"} | options)):
                pass


def test_under_asyncio() -> None:
    import asyncio

    async def main() -> None:
        async with open_requeuest("postgresql:///x"):
            pass

    for call in (main(), migrate("postgresql:///x")):
        with pytest.raises(RequeuestError, match=r"on Trio only, .* trio.run\(main\) .* --worker-class trio"):
            asyncio.run(call)


@pytest.mark.parametrize("time", ["infinity", "-infinity", "4000-01-01 BC", "20000-01-01"])
async def test_times_that_no_program_can_read_are_shown_as_near_as_can_be(probe: QueueProbe, time: str) -> None:
    columns = "(channel, method, url, state, due_at, created_at, finished_at)"
    for state, finished in (("available", None), ("dead", time)):
        await probe.connection.execute(
            f"INSERT INTO requeuest.job {columns} VALUES ('c', 'GET', %s, %s, %s, %s, %s)".encode(),
            [URL, state, time, time, finished],
        )
    async with open_requeuest(probe.dsn, ()) as client:
        jobs = [job async for job in client.jobs()]
        assert {job.due_at.year for job in jobs} < {1, 9999}
        assert {job.finished_at and job.finished_at.year for job in jobs} < {None, 1, 9999}
        for job in jobs:
            assert await client.job(job.id) == job
