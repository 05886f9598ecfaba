"""
A worker that is cut off from the database, but not from the receivers.

What could go wrong, and is tried here: it goes on sending, or begins to send what it holds, when others may have taken
that over; its outcomes count when it is back; nobody takes over; it never works again.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from uuid import UUID

import pytest
import trio

from tests.faults.arrivals import Answer
from tests.faults.checker import CLOCKS
from tests.faults.fault_harness import FaultHarness
from tests.faults.history import Arrival, History
from tests.faults.namespaces import open_cable
from tests.faults.processes import Program
from tests.proxy import Toward, open_proxy
from tests.waiting import until

LEASE = 3.0
IMPATIENT = {"connect_timeout": 1.0, "statement_timeout": 0.5}


@dataclass(frozen=True, slots=True)
class Way:
    """How a worker gets to the database."""

    dsn: str
    cut: Callable[[], None]
    mend: Callable[[], None]
    is_heard: bool = False
    """Whether what it asks for is done all the same."""


@asynccontextmanager
async def way_through_proxy(dsn: str) -> AsyncIterator[Way]:
    """Cut: nothing gets through, new connections are accepted, and that is all."""
    async with open_proxy(dsn) as proxy:
        yield Way(proxy.dsn, proxy.freeze, proxy.thaw)


@asynccontextmanager
async def way_without_answers(dsn: str) -> AsyncIterator[Way]:
    """Cut: what it asks for is done, and it does not hear of it."""
    async with open_proxy(dsn) as proxy:
        yield Way(proxy.dsn, partial(proxy.freeze, Toward.CLIENT), proxy.thaw, is_heard=True)


@asynccontextmanager
async def way_over_cable(dsn: str) -> AsyncIterator[Way]:
    """Cut: packets are lost."""
    with open_cable() as cable:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(cable.listen()))
        async with open_proxy(dsn, listener) as proxy:
            yield Way(proxy.dsn, cable.cut, cable.mend)


WAYS = {"frozen": way_through_proxy, "answers lost": way_without_answers, "packets lost": way_over_cable}


@pytest.mark.parametrize("open_way", WAYS.values(), ids=WAYS)
async def test_a_partitioned_worker_stops_before_another_one_takes_over(
    harness: FaultHarness, open_way: Callable[[str], AbstractAsyncContextManager[Way]]
) -> None:
    await harness.start_receiver(Answer(delay=0.02))
    # It is there for so long that it may rescue at the very moment when the lease is over.
    await harness.start_worker("rescuer", lease=LEASE, channels=("no other",), config=IMPATIENT)
    async with open_way(harness.dsn) as way:
        cut_off = await harness.start_worker("cut-off", dsn=way.dsn, lease=LEASE, concurrency=2, config=IMPATIENT)
        await harness.produce(jobs=60, largest_batch=10, keys=4, channels=("ordered",))
        await harness.produce(jobs=400, largest_batch=100)
        await harness.until_arrived(60)
        cut_at, held = await _cut_off_with_jobs_in_hand(harness, cut_off, way)
        successor = await harness.start_worker("successor", lease=LEASE, config=IMPATIENT)
        await until(lambda: max(_times(harness.arrivals()).values()) == 2)
        way.mend()  # while its successor is sending what was its own
        if not way.is_heard:  # or its outcomes may have been recorded in time, and confirmed now
            await harness.until_logged(cut_off, "outcomes_stale")
        await harness.until_finished()
        harness.note_fault("partition", cut_at, jobs=held | await _rescued(harness))
        await harness.leave(successor)
        await harness.produce(jobs=5)
        await harness.produce(jobs=5, keys=1, channels=("ordered",))
        await harness.until_finished()
        await harness.leave(cut_off)
    history = await harness.must_hold()
    _must_have_fenced_itself(history, held, is_heard=way.is_heard)
    _must_have_sent_one_at_a_time(history.arrivals)
    assert max(_times(history.arrivals).values()) == 2


def _times(arrivals: Sequence[Arrival]) -> Counter[UUID]:
    """How often each job has arrived."""
    return Counter(arrival.job for arrival in arrivals)


async def _cut_off_with_jobs_in_hand(harness: FaultHarness, worker: Program, way: Way) -> tuple[float, frozenset[UUID]]:
    """Its places are taken by receivers that never answer, and it has more jobs that wait for these places."""
    while True:
        await harness.answer(Answer(manner="never"))
        before = len(harness.arrivals())
        await harness.until_arrived(before + 1)
        if len(await harness.held_by(worker)) > 4:
            break
        # It had just run out of jobs that wait: let it work on.
        await harness.answer(Answer(delay=0.02))
        await harness.produce(jobs=100, largest_batch=100)
    cut_at = time.monotonic()
    way.cut()
    held = await harness.held_by(worker)
    await harness.answer(Answer(), Answer(delay=1.5))
    # What it had asked for is still done. But who is heard also gives back what waits, and records what it cuts short.
    return cut_at, held if way.is_heard else await harness.held_in_the_end(worker)


async def _rescued(harness: FaultHarness) -> frozenset[UUID]:
    """With those that it has claimed without ever hearing of it."""
    return frozenset(
        row[0] for row in await harness.ask("select job_id from requeuest.attempt where reached = 'unknown'")
    )


def _must_have_fenced_itself(history: History, held: frozenset[UUID], *, is_heard: bool) -> None:
    """What it held, it did not send any more once its lease was over, and not before it was taken over did another."""
    [partition] = history.faults
    arrivals = [arrival for arrival in history.arrivals if arrival.job in held]
    fenced = [arrival.ended_at for arrival in arrivals if arrival.status is None and arrival.at < partition.at]
    assert fenced
    assert max(fenced) < partition.at + LEASE
    rescued_at = {
        attempt.job: attempt.ended_at
        for attempt in history.attempts
        if attempt.reached == "unknown" and attempt.job in held
    }
    assert is_heard or len(rescued_at) > 4
    assert max(fenced) < min(rescued_at.values(), default=math.inf)
    for arrival in arrivals:
        if arrival.job in rescued_at:
            assert arrival.at < min(fenced) or arrival.at > rescued_at[arrival.job] - CLOCKS
    by_job = defaultdict(list)
    for arrival in arrivals:
        by_job[arrival.job].append(arrival)
    for of_job in by_job.values():
        for earlier, later in pairwise(of_job):
            assert earlier.ended_at <= later.at + CLOCKS


def _must_have_sent_one_at_a_time(arrivals: Sequence[Arrival]) -> None:
    """Of each key, also while one worker took over from the other: more than the checker asks for."""
    by_key = defaultdict(list)
    for arrival in arrivals:
        if arrival.key is not None:
            by_key[arrival.key].append(arrival)
    assert by_key
    for of_key in by_key.values():
        for earlier, later in pairwise(sorted(of_key, key=lambda arrival: arrival.at)):
            assert earlier.ended_at <= later.at + CLOCKS
