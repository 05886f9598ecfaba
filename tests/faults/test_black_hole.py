"""
Promise 5: a destination that swallows everything, with a long backlog, does not delay another channel.

What could go wrong, and is tried here: its attempts take the places, the connections or the claims of others; more of
it are under way than its channel may have.
"""

from __future__ import annotations

import pytest
import trio

from requeuest_trio import Client, Request, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe, nothing_left
from tests.faults.steady import Steady, percentile
from tests.http.hostile import RawServer, never_accepting, raw_server, until_left

BACKLOG = 10_000
LIMIT = 16
SECONDS = 1.2
ROUNDS = 4
"""So many, because whatever else the machine does may spoil one of them; what holds up a channel spoils all."""
TIMEOUTS = [0.4 + number / 100 for number in range(40)]
"""Not all the same, as those of one customer's receivers: attempts begin and end all the time, not all at once."""


async def p99(healthy: Steady) -> float:
    """As on a machine that has nothing else to do."""
    return percentile(await healthy.flow_for(SECONDS), 0.99) / healthy.stretch


async def fill(client: Client, channel: str, url: str) -> None:
    requests = [Request.post(url, content=b"x", timeout=timeout) for timeout in TIMEOUTS]
    await client.spawn_many(channel, requests * (BACKLOG // len(requests)))


async def watch(probe: QueueProbe, server: RawServer, held: dict[str, int], most: list[int]) -> None:
    """Note the most that are under way at once, as the database and as the receiver sees it."""
    while True:
        rows = await probe.rows("select channel, count(*) from requeuest.job where state = 'running' group by channel")
        for channel, number in rows:
            held[channel] = max(held.get(channel, 0), number)
        most.append(server.open)
        await trio.sleep(0.05)


async def test_a_black_hole_delays_no_other_channel(probe: QueueProbe, receiver: Receiver) -> None:
    held, connected = dict[str, int](), list[int]()
    async with raw_server(until_left) as hole, nothing_left(probe):
        with never_accepting() as nowhere:
            async with open_requeuest(probe.dsn, concurrency=LIMIT, grace=0) as client:
                healthy = Steady(client, receiver)
                baseline = max([await p99(healthy), await p99(healthy)])
                await fill(client, "silent", hole.url)
                await fill(client, "unreachable", nowhere)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch, probe, hole, held, connected)
                    await probe.until_true(
                        "select count(*) > 100 from requeuest.attempt where error like 'timed out%%'"
                    )
                    delays = []
                    for _ in range(ROUNDS):
                        delays.append(await p99(healthy))
                        if delays[-1] < 2 * baseline:
                            break
                    else:
                        pytest.fail(f"{baseline} s without black holes, with them {delays}")
                    nursery.cancel_scope.cancel()
        await hole.wait_empty()
    assert max(connected) == LIMIT
    # Claimed are those, what will be begun within a tenth of a second, and what has ended and is being recorded.
    assert LIMIT <= held["silent"] <= 2 * LIMIT
    assert LIMIT <= held["unreachable"] <= 2 * LIMIT
    assert set(await states_of(probe, "healthy")) == {"succeeded"}
    assert sum((await states_of(probe, "silent")).values()) == BACKLOG


async def states_of(probe: QueueProbe, channel: str) -> dict[str, int]:
    return dict(
        await probe.rows("select state::text, count(*) from requeuest.job where channel = %s group by state", channel)
    )
