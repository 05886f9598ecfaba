"""The whole public API as its users write it: checked by mypy, never run."""

import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import assert_type
from uuid import UUID

import httpx
import httpx2

from requeuest_trio import (
    ALL,
    All,
    Attempt,
    Channel,
    Client,
    Config,
    DatabaseUnavailable,
    Event,
    InvalidRequest,
    Job,
    JobCancelled,
    JobDead,
    JobNotFound,
    JobState,
    Reached,
    Request,
    RequeuestError,
    RetryPolicy,
    SchemaMismatch,
    SpawnOptions,
    Stats,
    StatusClass,
    TrioConnection,
    events,
    migrate,
    open_requeuest,
)
from requeuest_trio.testing import Action, Arrival, Receiver, Reply, Reset, Stall, open_receiver

URL = "https://api.example.com/charges"


async def dsn_of_now() -> str:
    return "postgresql:///app"


def requests() -> list[Request]:
    options_of_many_kinds = [
        Request.get(URL, params={"page": 2, "tags": ["a", "b"], "all": True, "none": None}),
        Request.get(URL, params=[("page", "2"), ("page", 3)]),
        Request.head(URL, headers={"X-A": "b"}),
        Request.options(URL, headers=[("X-A", "b"), ("X-A", "c")]),
        Request.delete(URL, accept=[200, 404, range(300, 304), StatusClass.REDIRECTION]),
        Request.post(URL, json={"order": 7}, timeout=timedelta(seconds=3)),
        Request.put(URL, form={"a": "b", "c": ["d"]}, timeout=3),
        Request.patch(URL, content=b"x", follow_redirects=True),
        Request.post(URL, content="text"),
        Request("POST", URL, headers=(("X-A", "b"),), body=b"x", accept=201, timeout=1.5, follow_redirects=False),
        Request.from_httpx(httpx.Request("GET", URL)),
        Request.from_httpx(httpx2.Request("GET", URL)),
    ]
    first = options_of_many_kinds[0]
    assert_type(first.method, str)
    assert_type(first.url, str)
    assert_type(first.headers, tuple[tuple[str, str], ...])
    assert_type(first.body, bytes)
    assert_type(first.accept, tuple[range, ...])
    assert_type(first.timeout, float | None)
    assert_type(first.follow_redirects, bool)
    return options_of_many_kinds


def wrong_uses() -> None:
    """Each of these is an error to mypy, which would complain about an ignore that ignores nothing."""
    Request.get(b"http://h/")  # type: ignore[arg-type]
    Request.get(URL, jsn={})  # type: ignore[call-arg]
    Request.get(URL, headers={"X-A": 7})  # type: ignore[arg-type]
    Request.get(URL, accept="200")  # type: ignore[arg-type]
    Request("GET", URL, (("X-A", "b"),))  # type: ignore[call-arg]
    RetryPolicy(3)  # type: ignore[call-arg]
    Config(10.0)  # type: ignore[call-arg]
    Channel("a", True)  # type: ignore[call-arg]
    Request.get(URL).method = "PUT"  # type: ignore[misc]


def policies() -> list[RetryPolicy]:
    return [
        RetryPolicy(),
        RetryPolicy(
            max_attempts=5,
            initial=timedelta(seconds=1),
            multiplier=3,
            max_backoff=60,
            jitter=0,
            give_up_on=[400, range(404, 411), StatusClass.REDIRECTION],
            respect_retry_after=False,
        ),
        RetryPolicy(give_up_on=404),
    ]


async def spawning(client: Client) -> None:
    request = Request.post(URL, json=[1])
    assert_type(await client.spawn("billing", request), UUID)
    await client.spawn("billing", request, delay=5, priority=1, ordering_key="customer-7", retry=RetryPolicy())
    await client.spawn("billing", request, at=datetime(2030, 1, 1, tzinfo=UTC), timeout=timedelta(seconds=3))
    await client.spawn("billing", request, job_id=UUID(int=7))
    options: SpawnOptions = {"delay": 5, "ordering_key": "customer-7"}
    await client.spawn("billing", request, **options)
    assert_type(await client.spawn_many("billing", [request, request], delay=timedelta(hours=1)), list[UUID])
    assert_type(await client.spawn_returning("billing", request), httpx2.Response)
    async with client.transaction() as connection:
        assert_type(connection, TrioConnection)
        await connection.execute("UPDATE account SET charged = true")
        await client.spawn("billing", request, connection=connection)


async def looking(client: Client, job_id: UUID) -> None:
    job = await client.wait(job_id)
    assert_type(job, Job)
    assert_type(job.id, UUID)
    assert_type(job.channel, str)
    assert_type(job.state, JobState)
    assert_type(job.request, Request)
    assert_type(job.priority, int)
    assert_type(job.ordering_key, str | None)
    assert_type(job.attempts, int)
    assert_type(job.due_at, datetime)
    assert_type(job.created_at, datetime)
    assert_type(job.finished_at, datetime | None)
    assert_type(job.status, int | None)
    assert_type(job.response, httpx2.Response | None)
    assert_type(job.error, str | None)
    assert_type(job.is_finished, bool)
    assert_type(await client.result(job_id), httpx2.Response)
    assert_type(await client.job(job_id), Job | None)
    assert_type(client.jobs(), AsyncIterator[Job])
    for attempt in await client.attempts(job_id):
        assert_type(attempt, Attempt)
        assert_type(attempt.number, int)
        assert_type(attempt.started_at, datetime)
        assert_type(attempt.duration, float)
        assert_type(attempt.reached, Reached)
        assert_type(attempt.status, int | None)
        assert_type(attempt.error, str | None)
        assert_type(attempt.excerpt, bytes)
        assert_type(attempt.retry_at, datetime | None)
    stats = await client.stats()
    assert_type(stats, Stats)
    assert_type(stats.channels, Mapping[str, Mapping[JobState, int]])
    assert_type(stats.count(JobState.DEAD), int)
    assert_type(stats.running + stats.unrecorded, int)
    assert_type(stats.loop_lag, float)
    async with client.events() as stream:
        assert_type(stream, AsyncIterator[Event])
        async for event in stream:
            assert_type(event, Event)
            assert_type(event.name + event.room, str)
            assert_type(event.level, int)
            match event:
                case events.Attempt(job=job_id, number=number, status=status):
                    assert_type(job_id, UUID)
                    assert_type(number, int)
                    assert_type(status, int | None)
                    assert_type(event.reached, Reached)
                    assert_type(event.state, JobState)
                case events.Opened(channels=channels):
                    assert_type(channels, tuple[str, ...] | All)
                case events.Dropped(count=count):
                    assert_type(count, int)
                case _:
                    json.dumps(event.fields())
    assert_type(await client.clear(ALL), int)
    assert_type(await client.clear(["billing"]), int)


async def opening() -> None:
    assert_type(await migrate("postgresql:///app", schema="requeuest"), list[str])
    everything: All = ALL
    async with open_requeuest("postgresql:///app") as client:
        assert_type(client, Client)
    async with open_requeuest(lambda: "postgresql:///app", config=Config(listen_dsn=dsn_of_now)):
        pass
    async with open_requeuest(dsn_of_now):
        await migrate(dsn_of_now)
    async with open_requeuest("embedded:", everything, migrate=True):
        pass
    async with open_requeuest(
        "postgresql:///app",
        ["mail", Channel("ledger", ordered=True)],
        http=httpx2.AsyncHTTPTransport(),
        schema="queue",
        concurrency=8,
        lease=20,
        grace=5,
        poll_interval=1,
        config=Config(attempt_timeout=10, keep_dead=None, notifications=False),
    ):
        pass
    async with httpx2.AsyncClient() as http, open_requeuest("postgresql:///app", (), http=http):
        pass
    async with httpx.AsyncClient() as older, open_requeuest("postgresql:///app", (), http=older):
        pass


async def failing(client: Client, job_id: UUID) -> None:
    try:
        await client.result(job_id)
    except InvalidRequest as error:
        assert_type(error.argument, str)
        as_value_error: ValueError = error
        raise as_value_error from None
    except (JobDead, JobCancelled) as error:
        assert_type(error.job, Job)
    except JobNotFound as error:
        assert_type(error.job_id, UUID)
    except DatabaseUnavailable as error:
        assert_type(error.job_ids, tuple[UUID, ...])
    except (SchemaMismatch, RequeuestError):
        pass


async def receiving() -> None:
    def decide(arrival: Arrival) -> Action | None:
        return Stall() if arrival.header("x-a") else None

    async with open_receiver(backlog=8) as receiver:
        assert_type(receiver, Receiver)
        receiver.decide = decide
        receiver.script(Reply(503, headers=(("Retry-After", "1"),), body=b"", delay=0.1), Reset(), target="/hook")
        assert_type(await receiver.wait_for(2), list[Arrival])
        assert_type(receiver.arrivals, list[Arrival])
        assert_type(receiver.url, str)
