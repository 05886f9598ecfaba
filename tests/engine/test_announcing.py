"""
What is told of a spawn. Invariants: the process that delivers it itself needs no notification; other processes hear of
everything, though not each time, and never wait for another spawn to hear of the last.
"""

from __future__ import annotations

import json

import trio

from requeuest_trio import Config, Request, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.support import Eye
from tests.postgres.harness import Conn, connect

NEVER = 600.0
MANY = 100
REQUEST = Request.get("http://receiver.test/")


async def test_what_is_spawned_here_is_delivered_here_without_a_notification(eye: Eye, receiver: Receiver) -> None:
    request = Request.get(receiver.url)
    async with open_requeuest(eye.dsn, poll_interval=NEVER, config=Config(notifications=False)) as client:
        await receiver_is_idle(eye)
        with trio.fail_after(5):
            await client.spawn("one", request)
            await receiver.wait_for(1)
            await client.spawn_many("many", [request] * 3)
            await receiver.wait_for(4)
            await client.spawn("later", request, delay=0.2)
            await client.spawn("ordered", request, ordering_key="k")
            await receiver.wait_for(6)


async def receiver_is_idle(eye: Eye) -> None:
    """The first look at the queue, which finds everything, is over."""
    await eye.until_true("select count(*) = 1 from requeuest.worker")
    await trio.testing.wait_all_tasks_blocked(0.05)


async def heard_of(listener: Conn, channel: str) -> int:
    """How many notifications of a channel have come, until for a while there is none."""
    heard = 0
    async for notification in listener.notifies(timeout=0.5):
        heard += channel in json.loads(notification.payload)
    return heard


async def test_many_spawns_one_after_the_other_are_announced_less_often_and_the_last_too(eye: Eye) -> None:
    listener = await connect(eye.dsn, autocommit=True)
    try:
        await listener.execute('LISTEN "requeuest:due"')
        async with open_requeuest(eye.dsn, ()) as client:
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


async def test_what_has_not_been_announced_when_the_block_ends_is_announced_then(eye: Eye) -> None:
    listener = await connect(eye.dsn, autocommit=True)
    try:
        await listener.execute('LISTEN "requeuest:due"')
        async with open_requeuest(eye.dsn, ()) as client:
            await client.spawn("a", REQUEST)
            await client.spawn("a", REQUEST)
        assert await heard_of(listener, "a") == 2
    finally:
        listener.close_nowait()
