"""
What is told of a spawn. Invariants: the process that delivers it itself needs no notification; other processes hear of
everything, though not each time, and never wait for another spawn to hear of the last.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import cast

import pytest
import trio
import trio.testing

from requeuest_trio import Config, DatabaseUnavailable, Request, open_requeuest
from requeuest_trio._enqueue.announcer import Announcer
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.store import Store
from requeuest_trio._store.waits import Waits
from requeuest_trio.testing import Receiver
from tests.engine.probe import Log, QueueProbe
from tests.postgres.harness import Conn, connect
from tests.postgres_messages import committing
from tests.proxy import open_proxy

NEVER = 600.0
MANY = 100
REQUEST = Request.get("http://receiver.test/")


async def test_what_is_spawned_here_is_delivered_here_without_a_notification(
    probe: QueueProbe, receiver: Receiver
) -> None:
    request = Request.get(receiver.url)
    async with open_requeuest(probe.dsn, poll_interval=NEVER, config=Config(notifications=False)) as client:
        await receiver_is_idle(probe)
        with trio.fail_after(5):
            await client.spawn("one", request)
            await receiver.wait_for(1)
            await client.spawn_many("many", [request] * 3)
            await receiver.wait_for(4)
            await client.spawn("later", request, delay=0.2)
            await client.spawn("ordered", request, ordering_key="k")
            await receiver.wait_for(6)


async def receiver_is_idle(probe: QueueProbe) -> None:
    """The first look at the queue, which finds everything, is over."""
    await probe.until_true("select count(*) = 1 from requeuest.worker")
    await trio.testing.wait_all_tasks_blocked(0.05)


async def heard_of(listener: Conn, channel: str) -> int:
    """How many notifications of a channel have come, until for a while there is none."""
    heard = 0
    async for notification in listener.notifies(timeout=0.5):
        heard += channel in json.loads(notification.payload)
    return heard


async def test_many_spawns_one_after_the_other_are_announced_less_often_and_the_last_too(probe: QueueProbe) -> None:
    listener = await connect(probe.dsn, autocommit=True)
    try:
        await listener.execute('LISTEN "requeuest:due"')
        async with open_requeuest(probe.dsn, ()) as client:
            began = trio.current_time()
            for _ in range(MANY):
                await client.spawn("busy", REQUEST)
            took = trio.current_time() - began
            await client.spawn("ordered", REQUEST, ordering_key="k")
            await client.spawn("last", REQUEST)
            await client.spawn("last", REQUEST)
            heard = {"busy": 0, "ordered": 0, "last": 0}
            last_heard_at = 0.0
            async for notification in listener.notifies(timeout=0.5):
                for channel in json.loads(notification.payload):
                    heard[channel] += 1
                last_heard_at = trio.current_time()
        assert 1 <= heard["busy"] <= 2 + took / 0.01
        assert heard["ordered"] == 1
        assert heard["last"] == 2, "the second came within a moment of the first, and is announced by itself"
        assert last_heard_at - began < took + 1
    finally:
        listener.close_nowait()


async def test_what_has_not_been_announced_when_the_block_ends_is_announced_then(probe: QueueProbe) -> None:
    listener = await connect(probe.dsn, autocommit=True)
    try:
        await listener.execute('LISTEN "requeuest:due"')
        async with open_requeuest(probe.dsn, ()) as client:
            await client.spawn("a", REQUEST)
            await client.spawn("a", REQUEST)
        assert await heard_of(listener, "a") == 2
    finally:
        listener.close_nowait()


@pytest.mark.needs_sessions("what it loses is a lone statement, not a COMMIT")
async def test_what_a_spawn_that_was_lost_would_have_announced_is_announced_after_it(probe: QueueProbe) -> None:
    """It is repeated without, and then announced by itself, though nothing comes after it."""
    listener = await connect(probe.dsn, autocommit=True)
    try:
        await listener.execute('LISTEN "requeuest:due"')
        async with open_proxy(probe.dsn) as proxy, open_requeuest(proxy.dsn, ()) as client:
            loss = proxy.drop_next_request(committing("spawn_one"))
            await client.spawn("a", REQUEST)
            assert loss.happened.is_set()
            assert await heard_of(listener, "a") == 1
    finally:
        listener.close_nowait()


class Told:
    """In place of the store: keeps what is announced, or fails so many times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.waits: list[Waits] = []

    async def announce(self, waits: Waits) -> None:
        await trio.lowlevel.checkpoint()
        if self.failures:
            self.failures -= 1
            raise DatabaseUnavailable("not now")
        self.waits.append(waits)


@pytest.mark.parametrize("failures", [0, 3])
async def test_what_comes_in_a_quiet_moment_is_announced_after_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, failures: int
) -> None:
    """Though nothing comes after it, and as often as it fails."""
    told = Told(failures)
    announcer = Announcer(cast("Store", told), Emitter())
    nursery.start_soon(announcer.run)
    spawn_again(announcer)
    await trio.sleep(10)
    assert told.waits == [{"a": [0.0]}]
    nursery.cancel_scope.cancel()


async def test_what_is_quiet_at_the_end_is_announced_then(autojump_clock: trio.testing.MockClock) -> None:
    told = Told()
    announcer = Announcer(cast("Store", told), Emitter())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announcer.run)
        await trio.testing.wait_all_tasks_blocked()
        spawn_again(announcer)
        nursery.cancel_scope.cancel()
    assert told.waits == [{"a": [0.0]}]


def spawn_again(announcer: Announcer) -> None:
    """What a spawn does in the moment after another."""
    assert announcer.take({"a": [0.0]}) == {"a": [0.0]}
    assert announcer.take({"a": [0.0]}) == {}
    announcer.note({"a": [0.0]})


REFUSE = """
CREATE OR REPLACE FUNCTION requeuest.announce(topic text, payload text) RETURNS void LANGUAGE plpgsql STRICT AS $$
BEGIN RAISE object_in_use; END $$
"""
NOTIFY = """
CREATE OR REPLACE FUNCTION requeuest.announce(topic text, payload text) RETURNS void LANGUAGE sql STRICT
AS 'SELECT pg_notify(topic, payload)'
"""


async def test_what_could_not_be_announced_after_its_commit_is_announced_later(probe: QueueProbe, log: Log) -> None:
    """What is announced with a commit, and refused with it, is tried in `faults/test_notify_queue.py`."""
    listener = await connect(probe.dsn, autocommit=True)
    try:
        await listener.execute('LISTEN "requeuest:due"')
        async with open_requeuest(probe.dsn, ()) as client:
            await probe.connection.execute(REFUSE.encode())
            await client.spawn("full", REQUEST, ordering_key="k")
            assert await probe.states() == {"available": 1}
            await log.wait_for("announce_failed")
            await probe.connection.execute(NOTIFY.encode())
            with trio.fail_after(10):
                heard = [n.payload async for n in listener.notifies(timeout=10, stop_after=1)]
        assert json.loads(heard[0]) == {"full": [0]}
    finally:
        listener.close_nowait()


async def test_times_and_delays_are_announced_as_the_database_sees_them(probe: QueueProbe) -> None:
    listener = await connect(probe.dsn, autocommit=True)
    now = await probe.value("select now()")
    waits: dict[str, set[int]] = {"a": set(), "b": set()}
    try:
        await listener.execute('LISTEN "requeuest:due"')
        async with open_requeuest(probe.dsn, ()) as client:
            await client.spawn("a", REQUEST, at=now + timedelta(seconds=100))
            await client.spawn("a", REQUEST, at=now - timedelta(seconds=100))
            await client.spawn_many("b", [REQUEST] * 3, delay=50)
            await client.spawn("b", REQUEST, delay=200)
            await client.spawn("b", REQUEST)
        async for notification in listener.notifies(timeout=0.5):
            for channel, of_channel in json.loads(notification.payload).items():
                waits[channel].update(round(wait, -1) for wait in of_channel)
    finally:
        listener.close_nowait()
    assert waits["a"] == {0, 100}
    assert waits["b"] >= {0, 50}
