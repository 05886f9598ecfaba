"""Clearing. Invariants: what was there and not running is gone, with its attempts; what runs goes on; what is spawned
meanwhile stays and is sent; the queue works afterwards."""

from __future__ import annotations

import pytest
import trio

from requeuest_trio import ALL, JobState, Request, RetryPolicy, open_requeuest
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import QueueProbe
from tests.engine.store_harness import StoreHarness, delivered, new_job
from tests.postgres.harness import Conn, until_running, value


async def fill(probe: QueueProbe, receiver: Receiver) -> None:
    """Jobs of all kinds that are not running, in channels a and b."""
    receiver.script(Reply(404), Reply(503), target="/bad")
    once, again = RetryPolicy(max_attempts=1), RetryPolicy(initial=60)
    async with open_requeuest(probe.dsn) as client:
        for channel in ("a", "b"):
            await client.spawn_returning(channel, Request.get(receiver.url))
        await client.spawn("a", Request.get(receiver.url + "/bad"), retry=once)
        await probe.until_true("SELECT count(*) = 1 FROM requeuest.job WHERE state = 'dead'")
        await client.spawn("b", Request.get(receiver.url + "/bad"), retry=again, ordering_key="k")
        await probe.until_true("SELECT count(*) = 4 FROM requeuest.attempt")
    async with open_requeuest(probe.dsn, ()) as client:
        for channel in ("a", "b"):
            for key in (None, "k"):
                await client.spawn_many(channel, [Request.get(receiver.url)] * 3, ordering_key=key, delay=60)


async def test_channels_are_cleared(probe: QueueProbe, receiver: Receiver) -> None:
    await fill(probe, receiver)
    async with open_requeuest(probe.dsn, ()) as client:
        assert await client.clear([]) == 0
        assert await client.clear(["nobody"]) == 0
        assert await client.clear(["a", "nobody"]) == 8
        assert await probe.rows("SELECT channel, count(*) FROM requeuest.job GROUP BY channel") == [("b", 8)]
        assert await probe.value("SELECT count(*) FROM requeuest.attempt") == 2
        assert await client.clear(["a"]) == 0


@pytest.mark.parametrize("ordering_key", [None, "k"])
async def test_all_is_cleared_and_the_queue_works_afterwards(
    probe: QueueProbe, receiver: Receiver, ordering_key: str | None
) -> None:
    await fill(probe, receiver)
    async with open_requeuest(probe.dsn, poll_interval=600) as client:
        assert await client.clear(ALL) == 16
        assert await probe.value("SELECT count(*) FROM requeuest.job") == 0
        assert await probe.value("SELECT count(*) FROM requeuest.attempt") == 0
        with trio.fail_after(5):
            for _ in range(3):
                await client.spawn_returning("a", Request.get(receiver.url), ordering_key=ordering_key)


async def test_what_is_running_goes_on(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(Reply(delay=0.3), target="/slow")
    async with open_requeuest(probe.dsn, ["c"], concurrency=1) as client:
        slow = await client.spawn("c", Request.get(receiver.url + "/slow"), ordering_key="k")
        await receiver.wait_for(1)
        await client.spawn_many("c", [Request.get(receiver.url)] * 5, ordering_key="k")
        await client.spawn_many("c", [Request.get(receiver.url)] * 5)
        assert await client.clear(["c"]) == 10
        assert (await client.result(slow)).status_code == 200
        await client.spawn_returning("c", Request.get(receiver.url + "/new"), ordering_key="k")
        assert await client.clear(["c"]) == 2
    assert [arrival.target for arrival in receiver.arrivals] == ["/slow", "/new"]


async def test_what_another_producer_adds_behind_a_cleared_head_is_next(
    harness: StoreHarness, conn: Conn, other: Conn
) -> None:
    """The other producer has the key first, and its job was not there when clearing began."""
    await harness.spawn(conn, new_job(key="k"), new_job(key="k"))
    before = await harness.on(conn).clock()
    await harness.on(conn).listen([harness.notifications.due_topic])
    async with trio.open_nursery() as nursery, conn.transaction():
        await harness.spawn(conn, new_job(key="k"))
        nursery.start_soon(harness.on(other).clear_ordered, ["c"], before)
        await until_running(await harness.connect(), other.info.backend_pid, "pg_advisory_xact_lock")
    assert await harness.states(conn) == ["available"]
    assert await harness.on(other).clear_ordered(["c"], before) == 0
    assert await harness.states(conn) == ["available"]
    assert [n.payload async for n in conn.notifies(timeout=5, stop_after=1)] == ['{ "c" : 0 }']


async def test_a_job_added_while_a_key_is_being_cleared_is_its_head(
    harness: StoreHarness, conn: Conn, other: Conn
) -> None:
    await harness.spawn(conn, new_job(key="k"), new_job(key="k"))
    async with trio.open_nursery() as nursery, conn.transaction():
        assert await harness.on(conn).clear_ordered(["c"], await harness.on(conn).clock()) == 2
        nursery.start_soon(harness.spawn, other, new_job(key="k"))
        await until_running(await harness.connect(), other.info.backend_pid, "pg_advisory_xact_lock")
    assert await harness.states(conn) == ["available"]


async def test_clearing_ends_though_producers_go_on(probe: QueueProbe) -> None:
    request = Request.get("http://x.test/")
    async with open_requeuest(probe.dsn, ()) as client, trio.open_nursery() as nursery:

        async def produce(key: str | None) -> None:
            while True:
                await client.spawn_many("c", [request] * 20, ordering_key=key)

        nursery.start_soon(produce, None)
        nursery.start_soon(produce, "k")
        await probe.until_true("SELECT count(*) > 200 FROM requeuest.job")
        with trio.fail_after(10):
            assert await client.clear(ALL) >= 200
        nursery.cancel_scope.cancel()
    assert (
        await probe.value(
            "SELECT count(*) FROM requeuest.job k WHERE state = 'blocked' AND NOT EXISTS "
            "(SELECT FROM requeuest.job h WHERE h.ordering_key = k.ordering_key AND h.state = 'available')"
        )
        == 0
    )


async def test_a_key_with_more_jobs_than_a_page(harness: StoreHarness, conn: Conn) -> None:
    await conn.execute("""INSERT INTO requeuest.job (channel, method, url, state, ordering_key, position, placed)
        SELECT 'c', 'GET', 'http://x.test/', CASE i WHEN 0 THEN 'available' ELSE 'blocked' END::requeuest.job_state,
               'k', i, true
        FROM generate_series(0, 20999) AS i""")
    now = await harness.on(conn).clock()
    removed = [await harness.on(conn).clear_ordered(None, now) for _ in range(4)]
    assert removed == [10_000, 10_000, 1_000, 0]


async def test_jobs_locked_by_somebody_do_not_hold_clearing_up(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    await harness.spawn(conn, *(new_job(key=key) for key in (None, None, "k", "l")))
    now = await harness.on(conn).clock()
    async with other.transaction():
        [job] = await harness.claim(other, await harness.worker(conn), 1)
        with trio.fail_after(5):
            assert await harness.on(conn).clear_free(None, now) + await harness.on(conn).clear_ordered(None, now) == 3
    assert await harness.record(conn, [delivered(job)]) == {job.id}
    assert await value(conn, "SELECT state::text FROM requeuest.job") == JobState.SUCCEEDED
