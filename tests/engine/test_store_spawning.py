"""Spawning, statement by statement. Invariants: an id is stored once; what is stored is what was given; a channel that
turns out to be ordered gets its key; nothing is announced to nobody."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import trio
from psycopg.rows import dict_row

from requeuest_trio import (
    Channel,
    InvalidRequest,
    Job,
    JobState,
    Request,
    RequeuestError,
    RetryPolicy,
    StatusClass,
    migrate,
    open_requeuest,
)
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.new_jobs import NewJob
from requeuest_trio._store.notifications import Notifications
from requeuest_trio._store.statements import OneConnection
from requeuest_trio._store.store import Store
from tests.engine.store_harness import StoreHarness, delivered, new_id, new_job
from tests.postgres.harness import Conn, connect, until_running, value


async def test_the_same_id_is_stored_once(harness: StoreHarness, conn: Conn) -> None:
    job = new_job()
    await harness.spawn(conn, job)
    await harness.spawn(conn, new_job(id=job.id, channel="elsewhere"))
    assert await harness.rows(conn, "SELECT id, channel FROM requeuest.job") == [(job.id, "c")]


@pytest.mark.parametrize("key", [None, "k"])
async def test_the_same_id_twice_in_a_batch_is_stored_once(harness: StoreHarness, conn: Conn, key: str | None) -> None:
    job = new_job(key=key)
    await harness.spawn(conn, job, new_job(id=job.id, key=key), new_job(id=job.id, key=key))
    assert await harness.states(conn) == ["available"]


async def test_the_same_id_at_once_from_two_connections_is_stored_once(
    harness: StoreHarness, conn: Conn, other: Conn
) -> None:
    job = new_job(key="k")
    async with trio.open_nursery() as nursery, conn.transaction():
        await harness.spawn(conn, job)
        nursery.start_soon(harness.spawn, other, new_job(id=job.id, key="k"))
        await until_running(await harness.connect(), other.info.backend_pid, "pg_advisory_xact_lock")
    assert await harness.states(conn) == ["available"]


async def test_batches_with_the_same_ids_the_other_way_round_do_not_deadlock(
    harness: StoreHarness, conn: Conn, other: Conn
) -> None:
    ids = [new_id() for _ in range(200)]
    await conn.execute("SET deadlock_timeout = '20ms'")
    await other.execute("SET deadlock_timeout = '20ms'")
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harness.spawn, conn, *(new_job(id=job_id) for job_id in ids))
            nursery.start_soon(harness.spawn, other, *(new_job(id=job_id) for job_id in reversed(ids)))
        assert await value(conn, "SELECT count(*) FROM requeuest.job") == len(ids)
        await conn.execute("TRUNCATE requeuest.job")


async def test_what_is_stored_is_what_was_given(harness: StoreHarness, conn: Conn) -> None:
    request = Request(
        "PATCH",
        "https://user@receiver.test/ü?q=%20",
        headers=[("X-A", "1"), ("X-A", "2"), ("x-b", "caf\xe9")],
        body=bytes(range(256)),
        accept=[StatusClass.SUCCESS, 404, range(301, 304)],
        timeout=7.5,
        follow_redirects=True,
    )
    policy = RetryPolicy(max_attempts=3, initial=0.5, give_up_on=[410, StatusClass.SERVER_ERROR])
    at = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    await harness.spawn(conn, new_job("ünïcode", request=request, retry=policy, at=at, priority=-7))
    [(job_id,)] = await harness.rows(conn, "SELECT id FROM requeuest.job")
    job = await harness.on(conn).job(job_id)
    assert job is not None
    assert (job.channel, job.state, job.priority, job.due_at) == ("ünïcode", JobState.AVAILABLE, -7, at)
    assert job.request == request
    await conn.execute("UPDATE requeuest.job SET due_at = now()")
    [claimed] = await harness.claim(conn, await harness.worker(conn), {"ünïcode": 1})
    assert claimed.read() == (request, policy)


BYTES = bytes(range(256))


def different_jobs() -> list[NewJob]:
    """Jobs that have little in common: each column has values, lengths and NULLs of its own."""
    at = datetime(2031, 5, 6, 7, 8, 9, 123_456, tzinfo=UTC)
    return [
        new_job("c"),
        new_job("ünïcode", request=Request.get("http://x.test/ü?q=%20"), priority=-100, at=at, awaited=True),
        new_job("c", request=Request.delete("http://x.test/", accept=[404, 410]), delay=9.5, timeout=0.25),
        new_job(
            "c", request=Request.post("http://x.test/", content=bytes(range(256)), timeout=7, follow_redirects=True)
        ),
        new_job("d", retry=RetryPolicy(max_attempts=3, give_up_on=[410]), priority=100, at=at.replace(year=1971)),
        new_job("c", request=Request.put("http://x.test/", content=b"x" * 100_000, headers=[("a", ""), ("a", "\xff")])),
    ]


STORED = """
SELECT channel, priority, due_at = now() OR due_at - created_at = interval '9.5 s', extract(year FROM due_at), method,
       url, headers::text, body, accept::text, timeout, follow_redirects, retry::text, awaited
FROM requeuest.job ORDER BY id
"""


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
async def test_one_by_one_and_in_a_batch_the_same_is_stored(harness: StoreHarness, conn: Conn, encoding: str) -> None:
    await conn.execute(f"SET client_encoding TO {encoding}".encode())
    async with conn.transaction():
        for job in different_jobs():
            await harness.spawn(conn, job)
        one_by_one = await harness.rows(conn, STORED)
        await conn.execute("TRUNCATE requeuest.job")
        await harness.spawn(conn, *different_jobs())
        assert await harness.rows(conn, STORED) == one_by_one
    stored = list(await harness.on(conn).jobs(after=None, channel=None, state=None, ordering_key=None, limit=100))
    assert [what_was_given(job) for job in stored] == [what_was_given(job) for job in different_jobs()]


def what_was_given(job: NewJob | Job) -> tuple[object, ...]:
    request = job.request
    return job.channel, job.priority, request.method, request.url, request.headers, request.body, request.accept


async def test_a_long_batch_skips_what_is_known_wherever_it_is(harness: StoreHarness, conn: Conn) -> None:
    jobs = [new_job() for _ in range(2_500)]
    known = jobs[::100]
    await harness.spawn(conn, *(new_job("known", id=job.id) for job in known))
    await harness.spawn(conn, *jobs)
    counts = dict(await harness.rows(conn, "SELECT channel, count(*) FROM requeuest.job GROUP BY channel"))
    assert counts == {"known": 25, "c": 2_475}


async def test_a_long_batch_of_an_ordered_channel_keeps_the_order_given(
    harness: StoreHarness, conn: Conn, other: Conn
) -> None:
    await harness.on(other).set_channel(Channel("ledger", ordered=True))
    jobs = [new_job("ledger") for _ in range(2_500)][::-1]
    await harness.spawn(conn, *jobs)
    rows = await harness.rows(conn, "SELECT id FROM requeuest.job WHERE ordering_key = '' ORDER BY position")
    assert [job_id for (job_id,) in rows] == [job.id for job in jobs]
    assert await value(conn, "SELECT count(DISTINCT xmin::text) FROM requeuest.job") == 1


async def test_a_long_batch_of_all_kinds(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    """Those without a key, with one, of a channel that is ordered, and twice the same."""
    await harness.on(other).set_channel(Channel("ledger", ordered=True))
    kinds: list[tuple[str, str | None]] = [("free", None), ("free", "k"), ("ledger", None)]
    jobs = [new_job(*kinds[number % 3]) for number in range(3_300)]
    await harness.spawn(conn, *jobs, *jobs)
    rows = await harness.rows(conn, "SELECT channel, ordering_key, count(*) FROM requeuest.job GROUP BY 1, 2")
    assert sorted(rows, key=str) == [("free", "k", 1_100), ("free", None, 1_100), ("ledger", "", 1_100)]
    assert await value(conn, "SELECT count(*) FROM requeuest.job WHERE state = 'available'") == 1_102


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("number", [1, 2, 1_500])
async def test_in_a_pipeline_of_the_application(
    harness: StoreHarness, conn: Conn, number: int, key: str | None
) -> None:
    theirs = await harness.connect()
    async with theirs.pipeline(), theirs.transaction():
        await harness.spawn(theirs, *(new_job(key=key) for _ in range(number)))
    assert await value(conn, "SELECT count(*) FROM requeuest.job") == number


async def test_a_channel_ordered_by_another_process_gets_its_key_late(
    harness: StoreHarness, conn: Conn, other: Conn
) -> None:
    await harness.on(other).set_channel(Channel("ledger", ordered=True))
    jobs = [new_job("ledger"), new_job("free"), new_job("ledger"), new_job("ledger", key="own")]
    await harness.spawn(conn, *jobs)
    rows = await harness.rows(conn, "SELECT ordering_key, state::text FROM requeuest.job ORDER BY id")
    assert rows == [("", "available"), (None, "available"), ("", "blocked"), ("", "blocked")]


async def test_order_is_turned_off_again(harness: StoreHarness, conn: Conn) -> None:
    await harness.on(conn).set_channel(Channel("ledger", ordered=True))
    await harness.spawn(conn, new_job("ledger"), new_job("ledger"))
    await harness.on(conn).set_channel(Channel("ledger", ordered=False))
    await harness.spawn(conn, new_job("ledger"))
    assert await harness.states(conn) == ["available", "blocked", "available"]
    worker = await harness.worker(conn)
    claimed = await harness.claim(conn, worker, {"ledger": 9})
    await harness.record(conn, map(delivered, claimed))
    assert await harness.states(conn) == ["succeeded", "available", "succeeded"]


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_connection_of_the_application_may_be_set_up_otherwise(
    harness: StoreHarness, conn: Conn, autocommit: bool, key: str | None
) -> None:
    theirs: Any = await harness.connect(autocommit=autocommit)
    theirs.row_factory = dict_row
    # "order" is part of the name of a column that the statement returns.
    await harness.on(theirs).spawn([new_job("order", key=key), new_job("order", key=key)])
    await theirs.commit()
    keys = await harness.rows(conn, "SELECT DISTINCT ordering_key FROM requeuest.job")
    assert keys == [(key,)]
    assert await value(conn, "SELECT count(*) FROM requeuest.job") == 2


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_an_ordering_key_needs_a_snapshot_that_moves(harness: StoreHarness, conn: Conn, level: str) -> None:
    async with conn.transaction():
        await conn.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
        await harness.spawn(conn, new_job())
        with pytest.raises(InvalidRequest, match="connection: an ordering key needs READ COMMITTED, not"):
            await harness.spawn(conn, new_job(key="k"))
    assert await harness.states(conn) == ["available"]


async def test_announcements_name_channels_and_when(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    await harness.on(other).listen([harness.notifications.due_topic])
    await harness.spawn(conn, new_job("now"), new_job("now"), new_job("later", delay=60.0), new_job("k", key="k"))
    payloads = [notification.payload async for notification in other.notifies(timeout=5, stop_after=2)]
    assert json.loads(payloads[0]) == {"now": [0], "later": [60]}
    assert json.loads(payloads[1]) == {"k": [0]}
    await harness.spawn(conn, new_job("both"), new_job("both", delay=60.0), new_job("both", delay=90.0))
    [both] = [notification.payload async for notification in other.notifies(timeout=5, stop_after=1)]
    assert sorted(json.loads(both)["both"]) == [0, 60], "what is due now, and what is due next"
    await harness.spawn(conn, new_job("k", key="k"))  # blocked: nobody has to know
    await harness.spawn(conn, *(new_job(f"channel {number} " + "x" * 180) for number in range(50)))
    [long] = [notification.payload async for notification in other.notifies(timeout=5, stop_after=1)]
    assert long == "", "what is too long for a notification means: look at everything"


@pytest.mark.parametrize("key", [None, "k"])
async def test_who_stores_it_again_tells_of_it_too(harness: StoreHarness, conn: Conn, key: str | None) -> None:
    """The first may not have heard that it was stored."""
    job = new_job(key=key)
    first, again = [await harness.on(conn).store([job]) for _ in range(2)]
    assert first.waits.keys() == again.waits.keys() == {"c"}


async def test_nothing_is_announced_without_notifications(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    silent = Store(OneConnection(conn), harness.queries, Notifications("requeuest", Emitter(), enabled=False))
    await harness.on(other).listen([harness.notifications.due_topic, harness.notifications.done_topic])
    await silent.spawn([new_job(), new_job(key="k")])
    await conn.execute("NOTIFY \"requeuest:due\", 'last'")
    assert [n.payload async for n in other.notifies(timeout=5, stop_after=1)] == ["last"]


@pytest.mark.parametrize("options", [{}, {"delay": 60}, {"ordering_key": "k"}])
async def test_what_a_trigger_drops_is_not_accepted(dsn: str, options: dict[str, Any]) -> None:
    """An id that exists is not stored again, and what is dropped looks alike; but only one of them is there."""
    await migrate(dsn)
    request = Request.get("http://x.test/")
    async with await connect(dsn) as owner, open_requeuest(dsn, []) as client:
        known = await client.spawn("c", request, **options)
        await owner.execute("CREATE FUNCTION dropping() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        await owner.execute(
            "CREATE TRIGGER dropping BEFORE INSERT ON requeuest.job FOR EACH ROW EXECUTE FUNCTION dropping()"
        )
        assert await client.spawn("c", request, job_id=known, **options) == known
        with pytest.raises(RequeuestError, match="has not stored 1 of 1 jobs: a trigger or rule"):
            await client.spawn("c", request, **options)
        with pytest.raises(RequeuestError, match="has not stored 2 of 3 jobs"):
            await client.spawn_many("c", [request] * 3, job_id=[uuid4(), known, uuid4()], **options)
        with pytest.raises(RequeuestError, match="has not stored 1 of 1 jobs"):
            async with client.transaction() as connection:
                await client.spawn("c", request, connection=connection, **options)
        assert [job.id async for job in client.jobs()] == [known]
