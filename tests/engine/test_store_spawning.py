"""Spawning, statement by statement. Invariants: an id is stored once; what is stored is what was given; a channel that
turns out to be ordered gets its key; nothing is announced to nobody."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from psycopg.rows import dict_row

from requeuest_trio import Channel, InvalidRequest, JobState, Request, RetryPolicy, StatusClass
from tests.engine.bench import Bench, delivered, new_id, new_job
from tests.postgres.harness import Conn, until_running, value


async def test_the_same_id_is_stored_once(bench: Bench, conn: Conn) -> None:
    job = new_job()
    await bench.spawn(conn, job)
    await bench.spawn(conn, new_job(id=job.id, channel="elsewhere"))
    assert await bench.rows(conn, "SELECT id, channel FROM requeuest.job") == [(job.id, "c")]


@pytest.mark.parametrize("key", [None, "k"])
async def test_the_same_id_twice_in_a_batch_is_stored_once(bench: Bench, conn: Conn, key: str | None) -> None:
    job = new_job(key=key)
    await bench.spawn(conn, job, new_job(id=job.id, key=key), new_job(id=job.id, key=key))
    assert await bench.states(conn) == ["available"]


async def test_the_same_id_at_once_from_two_connections_is_stored_once(bench: Bench, conn: Conn, other: Conn) -> None:
    job = new_job(key="k")
    async with trio.open_nursery() as nursery, conn.transaction():
        await bench.spawn(conn, job)
        nursery.start_soon(bench.spawn, other, new_job(id=job.id, key="k"))
        await until_running(await bench.connect(), other.info.backend_pid, "pg_advisory_xact_lock")
    assert await bench.states(conn) == ["available"]


async def test_batches_with_the_same_ids_the_other_way_round_do_not_deadlock(
    bench: Bench, conn: Conn, other: Conn
) -> None:
    ids = [new_id() for _ in range(200)]
    await conn.execute("SET deadlock_timeout = '20ms'")
    await other.execute("SET deadlock_timeout = '20ms'")
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.spawn, conn, *(new_job(id=job_id) for job_id in ids))
            nursery.start_soon(bench.spawn, other, *(new_job(id=job_id) for job_id in reversed(ids)))
        assert await value(conn, "SELECT count(*) FROM requeuest.job") == len(ids)
        await conn.execute("TRUNCATE requeuest.job")


async def test_what_is_stored_is_what_was_given(bench: Bench, conn: Conn) -> None:
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
    await bench.spawn(conn, new_job("ünïcode", request=request, retry=policy, at=at, priority=-7))
    [(job_id,)] = await bench.rows(conn, "SELECT id FROM requeuest.job")
    job = await bench.store.job(conn, job_id)
    assert job is not None
    assert (job.channel, job.state, job.priority, job.due_at) == ("ünïcode", JobState.AVAILABLE, -7, at)
    assert job.request == request
    await conn.execute("UPDATE requeuest.job SET due_at = now()")
    [claimed] = await bench.claim(conn, await bench.worker(conn), {"ünïcode": 1})
    assert claimed.read() == (request, policy)


async def test_a_channel_ordered_by_another_process_gets_its_key_late(bench: Bench, conn: Conn, other: Conn) -> None:
    await bench.store.set_channel(other, Channel("ledger", ordered=True))
    jobs = [new_job("ledger"), new_job("free"), new_job("ledger"), new_job("ledger", key="own")]
    await bench.spawn(conn, *jobs)
    rows = await bench.rows(conn, "SELECT ordering_key, state::text FROM requeuest.job ORDER BY id")
    assert rows == [("", "available"), (None, "available"), ("", "blocked"), ("", "blocked")]


async def test_order_is_turned_off_again(bench: Bench, conn: Conn) -> None:
    await bench.store.set_channel(conn, Channel("ledger", ordered=True))
    await bench.spawn(conn, new_job("ledger"), new_job("ledger"))
    await bench.store.set_channel(conn, Channel("ledger", ordered=False))
    await bench.spawn(conn, new_job("ledger"))
    assert await bench.states(conn) == ["available", "blocked", "available"]
    worker = await bench.worker(conn)
    claimed = await bench.claim(conn, worker, {"ledger": 9})
    await bench.record(conn, map(delivered, claimed))
    assert await bench.states(conn) == ["succeeded", "available", "succeeded"]


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_connection_of_the_application_may_be_set_up_otherwise(
    bench: Bench, conn: Conn, autocommit: bool, key: str | None
) -> None:
    theirs: Any = await bench.connect(autocommit=autocommit)
    theirs.row_factory = dict_row
    # "order" is part of the name of a column that the statement returns.
    await bench.store.spawn(theirs, [new_job("order", key=key), new_job("order", key=key)])
    await theirs.commit()
    keys = await bench.rows(conn, "SELECT DISTINCT ordering_key FROM requeuest.job")
    assert keys == [(key,)]
    assert await value(conn, "SELECT count(*) FROM requeuest.job") == 2


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_an_ordering_key_needs_a_snapshot_that_moves(bench: Bench, conn: Conn, level: str) -> None:
    async with conn.transaction():
        await conn.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
        await bench.spawn(conn, new_job())
        with pytest.raises(InvalidRequest, match="connection: an ordering key needs READ COMMITTED, not"):
            await bench.spawn(conn, new_job(key="k"))
    assert await bench.states(conn) == ["available"]


async def test_announcements_name_channels_and_when(bench: Bench, conn: Conn, other: Conn) -> None:
    await bench.store.listen(other, [bench.store.due_topic])
    await bench.spawn(conn, new_job("now"), new_job("now"), new_job("later", delay=60.0), new_job("k", key="k"))
    payloads = [notification.payload async for notification in other.notifies(timeout=5, stop_after=2)]
    assert json.loads(payloads[0]) == {"now": [0], "later": [60]}
    assert json.loads(payloads[1]) == {"k": [0]}
    await bench.spawn(conn, new_job("both"), new_job("both", delay=60.0), new_job("both", delay=90.0))
    [both] = [notification.payload async for notification in other.notifies(timeout=5, stop_after=1)]
    assert sorted(json.loads(both)["both"]) == [0, 60], "what is due now, and what is due next"
    await bench.spawn(conn, new_job("k", key="k"))  # blocked: nobody has to know
    await bench.spawn(conn, *(new_job(f"channel {number} " + "x" * 180) for number in range(50)))
    [long] = [notification.payload async for notification in other.notifies(timeout=5, stop_after=1)]
    assert long == "", "what is too long for a notification means: look at everything"


async def test_nothing_is_announced_without_notifications(bench: Bench, conn: Conn, other: Conn) -> None:
    from requeuest_trio._store.store import Store

    silent = Store(bench.queries, "requeuest", notifications=False)
    await bench.store.listen(other, [bench.store.due_topic, bench.store.done_topic])
    await silent.spawn(conn, [new_job(), new_job(key="k")])
    await conn.execute("NOTIFY \"requeuest:due\", 'last'")
    assert [n.payload async for n in other.notifies(timeout=5, stop_after=1)] == ["last"]
