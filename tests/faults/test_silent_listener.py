"""
The listening connection alone is frozen: nobody says that it is dead, and nothing is heard any more.

What could go wrong, and is tried here: jobs wait for longer than until the next poll; it is never noticed; what came
while nothing was heard waits for the poll that comes after the reconnect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from requeuest_trio import Client, Request, open_requeuest
from requeuest_trio._engine import listener
from requeuest_trio._postgres import SETTLE_TIMEOUT
from requeuest_trio.testing import Receiver
from tests.engine.conftest import log
from tests.engine.probe import Log, QueueProbe, nothing_left
from tests.proxy import Proxy, open_proxy
from tests.waiting import until

__all__ = ["log"]

NEVER = 600.0
POLL = 1.0
NOTICED_WITHIN = 20.0
LOOKS = ("due_of_channels", "due_channels")


def _has_looked_since_it_listens(proxy: Proxy) -> bool:
    return "listen" in proxy.executed and not set(LOOKS).isdisjoint(proxy.executed[proxy.executed.index("listen") :])


@asynccontextmanager
async def deaf(probe: QueueProbe, receiver: Receiver, poll_interval: float) -> AsyncIterator[tuple[Proxy, Client]]:
    """A process that delivers, whose listening connection is frozen; and a client of another one, which is not."""
    async with nothing_left(probe), open_proxy(probe.dsn) as proxy:
        delivering = open_requeuest(proxy.dsn, ["a"], poll_interval=poll_interval)
        async with delivering, open_requeuest(probe.dsn, ()) as client:
            await client.spawn_returning("a", Request.get(receiver.url))
            # Whoever has begun to listen looks at everything once: that look is not the one that the tests wait for.
            await until(lambda: _has_looked_since_it_listens(proxy))
            [listening] = proxy.used_for("listen")
            listening.freeze()
            yield proxy, client


async def test_a_job_waits_until_the_poll_and_no_longer(probe: QueueProbe, receiver: Receiver) -> None:
    async with deaf(probe, receiver, POLL) as (_, client):
        for number in range(2, 5):
            with trio.fail_after(POLL + 1):
                await client.spawn("a", Request.get(receiver.url))
                await receiver.wait_for(number)


async def test_it_is_noticed_and_then_everything_is_looked_at_once(
    probe: QueueProbe, receiver: Receiver, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fifth of the time that it takes outside of tests."""
    seconds = listener._CHECK_SECONDS + listener._ANSWER_SECONDS
    assert seconds + SETTLE_TIMEOUT < NOTICED_WITHIN
    monkeypatch.setattr(listener, "_CHECK_SECONDS", listener._CHECK_SECONDS / 5)
    monkeypatch.setattr(listener, "_ANSWER_SECONDS", listener._ANSWER_SECONDS / 5)
    async with deaf(probe, receiver, NEVER) as (proxy, client):
        others = [link for link in proxy.links if not link.has_executed("listen")]
        looks = sum(map(proxy.executed.count, LOOKS))
        await client.spawn("a", Request.get(receiver.url))
        with trio.fail_after(seconds / 5 + SETTLE_TIMEOUT + 2):
            await log.wait_for("listener_lost")
            await receiver.wait_for(2)
        await log.wait_for("listener_back")
        assert sum(map(proxy.executed.count, LOOKS)) == looks + 1
        assert [link for link in proxy.links if link in others] == others, "the other connections were disturbed"
        with trio.fail_after(3):
            await client.spawn("a", Request.get(receiver.url))
            await receiver.wait_for(3)
