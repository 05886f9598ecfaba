"""
Promise 5 and 6: attempts that are cut off all the time, wherever they are, leave nothing behind that is missing later.

Forty places over ten connections; most attempts are cancelled by a deadline of 1 to 20 ms, some of them while they wait
for a connection. A client that loses a connection that way is soon without any.
"""

from __future__ import annotations

import random

import trio

from requeuest_trio import Client, JobState, Request, RetryPolicy, TrioTransport, open_requeuest
from requeuest_trio._http.net.pool import ConnectionStatistics
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import QueueProbe, nothing_left
from tests.faults.scale import scale
from tests.waiting import PATIENCE, until

PLACES = 40
CONNECTIONS = 10
SECONDS = 2.0 * scale()
ENOUGH = 100
SHORT, LONG = 0.02, 0.2
"""Seconds after which attempts are cut off at the latest: two of three of them, and the third."""
LASTING = RetryPolicy(max_attempts=10, initial=0.01, multiplier=1.0, jitter=0.0)
"""But not for ever: those that are never answered make room for others."""


async def churn(client: Client, probe: QueueProbe, receiver: Receiver) -> None:
    """Until there was enough of both kinds, however slow the machine."""
    chance = random.Random(36)
    receiver.decide = lambda _: Reply(body=b"x" * 5_000, delay=chance.random() * 0.005)
    end = trio.current_time() + SECONDS
    while trio.current_time() < end or min(await ended(probe)) < ENOUGH:
        if await waiting(probe) < 2 * PLACES:
            # A machine that answers hardly any in this time gets more and more of it.
            long = LONG * (1.0 + max(trio.current_time() - end, 0.0))
            requests = [
                Request.post(receiver.url, content=b"y" * 1_000, timeout=chance.uniform(0.001, latest))
                for latest in chance.choices([SHORT, SHORT, long], k=2 * PLACES)
            ]
            await client.spawn_many("churn", requests, retry=LASTING)
        await trio.sleep(0.02)


async def waiting(probe: QueueProbe) -> int:
    return int(await probe.value("select count(*) from requeuest.job where state = 'available'"))


async def ended(probe: QueueProbe) -> tuple[int, int]:
    """How many attempts were answered, and how many cut off."""
    [row] = await probe.rows("select count(*) filter (where error is null), count(error) from requeuest.attempt")
    return row[0], row[1]


async def test_after_a_storm_of_cancellations_all_connections_are_there(probe: QueueProbe, receiver: Receiver) -> None:
    transport = TrioTransport(max_connections=CONNECTIONS)
    async with nothing_left(probe), transport:
        async with open_requeuest(probe.dsn, concurrency=PLACES, http=transport) as client:
            await churn(client, probe, receiver)
            await clear_all(client, probe)
            assert at_rest(transport)

            receiver.decide = lambda _: None
            ids = await client.spawn_many("healthy", [Request.get(receiver.url, timeout=5.0)] * 100)
            for job_id in ids:
                assert (await client.wait(job_id)).state is JobState.SUCCEEDED
                assert await probe.job(job_id) == ("succeeded", 1, None)
            assert at_rest(transport)
            assert 1 <= transport.statistics().idle <= CONNECTIONS
        transport.close()
        assert transport.statistics() == ConnectionStatistics(open=0, idle=0, waiting=0)


async def clear_all(client: Client, probe: QueueProbe) -> None:
    """What is running while others are cleared is not cleared with them, and may come back."""

    async def is_empty() -> bool:
        await client.clear(["churn"])
        return not await probe.value("select count(*) from requeuest.job")

    await until(is_empty, patience=PATIENCE)


def at_rest(transport: TrioTransport) -> bool:
    """No place of the pool is taken, and nobody waits for one."""
    seen = transport.statistics()
    return (seen.open - seen.idle, seen.waiting) == (0, 0)
