"""
The library's connections come to an end, those of one role at a time, again and again: by the server, which says so, by
a reset, or without a word.

What could go wrong, and is tried here: a job is lost, or sent twice, or out of turn; a connection that was not ended is
given up too; connections pile up; one of them does not come back.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Literal, get_args
from uuid import uuid4

import pytest
import trio

from requeuest_trio import Client, DatabaseUnavailable, Request, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.conftest import log
from tests.engine.probe import Log, QueueProbe, nothing_left
from tests.faults.outages import spawn_surely
from tests.faults.scale import scaled
from tests.proxy import Link, Proxy, Toward, open_proxy
from tests.waiting import until

__all__ = ["log"]

ROLES = {
    "listener": ("listen",),
    "claims": ("register", "heartbeat", "claim", "due_channels"),
    "outcomes": ("record",),
    "spawns": ("spawn", "spawn_one", "spawn_claimed", "spawn_ordered"),
    "callers": ("job",),
}
"""The connections of one block, by what is executed on them."""
LEASE = 15.0
"""It never runs out, so nothing excuses a second delivery."""
TIMES = 5
EVERY = 0.2
Manner = Literal["terminated", "reset", "half closed"]
MOST_CONNECTIONS = 8
"""Four for callers, and one for each of the others."""


def _others(proxy: Proxy, role: str) -> list[Link]:
    """Connections of the other roles."""
    return [
        link
        for link in proxy.links
        if not link.has_executed(*ROLES[role]) and any(link.has_executed(*names) for names in ROLES.values())
    ]


@pytest.mark.parametrize("manner", get_args(Manner))
@pytest.mark.parametrize("role", ROLES)
async def test_connections_that_are_ended_again_and_again(
    role: str, manner: Manner, probe: QueueProbe, receiver: Receiver, log: Log
) -> None:
    async with nothing_left(probe), open_proxy(probe.dsn) as proxy:
        async with open_requeuest(proxy.dsn, lease=LEASE, poll_interval=0.5) as client:
            spawned: list[str] = []
            await _until_all_are_in_use(client, proxy, receiver.url)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_spawn_for_ever, client, receiver.url, spawned)
                nursery.start_soon(_look_for_ever, client)
                for _ in range(scaled(TIMES)):
                    await _end(role, manner, probe, proxy)
                    await trio.sleep(EVERY)
                    await until(lambda: len(proxy.links) <= MOST_CONNECTIONS)
                await until(lambda: proxy.used_for(*ROLES[role]))
                nursery.cancel_scope.cancel()
            await probe.until_true("select bool_and(state = 'succeeded') from requeuest.job")
        _must_have_been_sent_in_order(receiver, spawned)
    rows = await probe.rows("select id::text, attempts from requeuest.job where channel = 'a'")
    assert {job_id for job_id, _ in rows} >= set(spawned)
    arrivals = Counter(arrival.header("idempotency-key") for arrival in receiver.arrivals)
    assert {(arrivals[job_id], attempts) for job_id, attempts in rows} == {(1, 1)}
    if role != "claims":
        assert not log.fields("heartbeat_failed")
        assert not log.fields("claim_failed")
    if role != "outcomes":
        assert not log.fields("record_failed")
    if role != "listener":
        assert not log.fields("listener_lost")


async def _until_all_are_in_use(client: Client, proxy: Proxy, url: str) -> None:
    job_id = await client.spawn("before", Request.get(url))
    await client.wait(job_id)
    await until(lambda: all(proxy.used_for(*names) for names in ROLES.values()))


async def _spawn_for_ever(client: Client, url: str, spawned: list[str]) -> None:
    for number in range(1_000_000):
        request = Request.get(f"{url}/{number}")
        spawned.append(str(await spawn_surely(client, "a", request, "k" if number % 2 else None)))
        await trio.sleep(0.01)


async def _look_for_ever(client: Client) -> None:
    while True:
        with suppress(DatabaseUnavailable):
            assert await client.job(uuid4()) is None
        await trio.sleep(0.01)


async def _end(role: str, manner: Manner, probe: QueueProbe, proxy: Proxy) -> None:
    """End what there is of a role, once it is back; the others don't notice."""
    await until(lambda: proxy.used_for(*ROLES[role]))
    others = _others(proxy, role)
    links = proxy.used_for(*ROLES[role])
    backends = [link.conversation.backend for link in links]
    match manner:
        case "terminated":
            await probe.rows("select pg_terminate_backend(pid) from unnest(%s::int[]) as pid", backends)
        case "reset":
            for link in links:
                link.cut()
        case "half closed":
            for link in links:
                link.half_close(Toward.CLIENT)
    await probe.until_true("select count(*) = 0 from pg_stat_activity where pid = any (%s)", backends)
    assert [link for link in proxy.links if link in others] == others


def _must_have_been_sent_in_order(receiver: Receiver, spawned: list[str]) -> None:
    """Every other one has the ordering key."""
    numbers = [int(arrival.target[1:] or 0) for arrival in receiver.arrivals]
    of_key = [number for number in numbers if number % 2]
    assert of_key == sorted(of_key)
    assert len(of_key) >= len(spawned) // 2
