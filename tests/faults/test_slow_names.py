"""
Promise 5: names that do not resolve delay no others, and are told as what they are.

What could go wrong, and is tried here: lookups that hang, and go on when their attempts are long over, take all the
places that there are for lookups, or all of the memory; a failure of the resolver counts as if something had been sent.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

import pytest
import trio

from requeuest_trio import Client, JobState, Reached, Request, RetryPolicy, open_requeuest
from requeuest_trio._http.net import lookup_threads
from requeuest_trio.testing import Receiver, Reply, open_receiver
from tests.engine.probe import QueueProbe, nothing_left
from tests.faults.memory import Peak
from tests.faults.steady import Steady, percentile
from tests.http.lookups import Lookups
from tests.waiting import until

NAMES = 150
HANGING = lookup_threads._MOST_PER_SHARE
"""Lookups: all that a channel may have. Each hangs for longer than its attempt, and keeps its place."""
TIMEOUT = 2.0
RATE = 25.0
"""Healthy requests per second: few enough not to be a load themselves."""
AT_ONCE = RetryPolicy(initial=0.01, multiplier=1.0, jitter=0.0)
TWICE = RetryPolicy(max_attempts=2, initial=0.01)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lookups]:
    fake = Lookups()
    monkeypatch.setattr(socket, "getaddrinfo", fake.getaddrinfo)
    yield fake
    fake.may_end.set()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Every request to it needs a connection of its own, and so a lookup."""
    async with open_receiver() as opened:
        opened.decide = lambda _: Reply(headers=(("Connection", "close"),))
        yield opened


def at(receiver: Receiver, host: str) -> str:
    return receiver.url.replace("127.0.0.1", host) + "/path"


async def test_names_that_hang_delay_no_other(probe: QueueProbe, receiver: Receiver, lookups: Lookups) -> None:
    async with nothing_left(probe):
        async with open_requeuest(probe.dsn, concurrency=NAMES, grace=0) as client:
            healthy, peak = Steady(client, receiver, url=at(receiver, "healthy.fine"), rate=RATE), Peak()
            requests = [Request.get(at(receiver, f"{number}.slow"), timeout=TIMEOUT) for number in range(NAMES)]
            ids = await client.spawn_many("dead", requests, retry=AT_ONCE)
            await until(lambda: lookups.running.total() >= HANGING)
            delays = await healthy.flow_for(2.0)
            assert percentile(delays, 0.9) / healthy.stretch < TIMEOUT / 2
            assert lookups.running.total() == HANGING
            assert max(lookups.running.values()) <= 2
            assert 1 < lookups.asked["healthy.fine"] <= len(delays)
            assert peak.growth() < 64_000_000
            await assert_never_sent(client, ids[0])
        lookups.may_end.set()
        await lookups.until_running(0)
    assert {arrival.header("host") for arrival in receiver.arrivals} == {at(receiver, "healthy.fine")[7:-5]}
    assert await probe.value("select count(*) from requeuest.attempt where duration > %s", TIMEOUT + 0.5) == 0


async def assert_never_sent(client: Client, job_id: UUID) -> None:
    attempts = await client.attempts(job_id)
    assert attempts
    for attempt in attempts:
        assert (attempt.reached, attempt.error) == (Reached.RESOLVE, f"timed out after {TIMEOUT:g} s")


async def test_failures_of_the_resolver_are_retried_and_told(
    probe: QueueProbe, receiver: Receiver, lookups: Lookups
) -> None:
    errors = {"a.servfail": "Temporary failure", "b.nxdomain": "not known", "c.nxdomain.": "not known"}
    async with nothing_left(probe), open_requeuest(probe.dsn) as client:
        for host, text in errors.items():
            job_id = await client.spawn("c", Request.get(at(receiver, host)), retry=TWICE)
            assert (await client.wait(job_id)).state is JobState.DEAD
            attempts = await client.attempts(job_id)
            assert [attempt.reached for attempt in attempts] == [Reached.RESOLVE] * 2
            assert all(text in str(attempt.error) for attempt in attempts), attempts
            assert lookups.asked[host] == 2
    assert receiver.arrivals == []


async def test_absolute_and_international_names_arrive(probe: QueueProbe, receiver: Receiver, lookups: Lookups) -> None:
    names = {"a.fine": "a.fine", "a.fine.": "a.fine.", "bücher.fine": "xn--bcher-kva.fine", "A.FINE": "a.fine"}
    async with nothing_left(probe), open_requeuest(probe.dsn) as client, trio.open_nursery() as nursery:
        for given in names:
            nursery.start_soon(client.spawn_returning, "c", Request.get(at(receiver, given)))
    port = receiver.url.rpartition(":")[2]
    assert sorted(str(arrival.header("host")) for arrival in receiver.arrivals) == sorted(
        f"{name}:{port}" for name in names.values()
    )
    assert lookups.asked.keys() >= set(names.values())
