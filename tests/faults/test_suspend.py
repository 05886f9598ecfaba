"""
A machine is suspended, with a worker on it, for longer than its lease.

What could go wrong, and is tried here: it goes on as if no time had passed, since Trio's clock says so, and sends what
others have sent meanwhile; what it had in flight goes on; it never works again; two that wake up rob each other.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from uuid import UUID

import pytest
import trio

from requeuest_trio import Config, Request
from requeuest_trio._engine.lease import Lease
from requeuest_trio._http.progress import Progress
from requeuest_trio._http.sender import open_sender
from requeuest_trio.testing import Receiver
from tests.faults.arrivals import Answer
from tests.faults.fault_harness import FaultHarness
from tests.faults.journal import read_journal
from tests.faults.processes import Program
from tests.faults.wall import Wall

LEASE = 1.5
FIVE_MINUTES = 300.0
CONCURRENCY = 2
ANSWER = Answer(delay=0.02)
UNFINISHED = "select id from requeuest.job where finished_at is null"
LONG = 30.0
"""A lease that nobody loses, however slow the machine is."""


async def holding_more_than_it_sends(harness: FaultHarness, worker: Program) -> tuple[frozenset[UUID], frozenset[UUID]]:
    """
    Let it go on until it has jobs that wait for its places, and stands still with them.

    Returns what it holds, and what is in flight: what has arrived, and has no answer recorded. In part that is from
    before, if this machine is so slow that the worker has lost its lease on the way to here.
    """
    while True:
        await worker.freeze()
        held = await harness.held_in_the_end(worker)
        await harness.answer_from_now(ANSWER)
        arrived = frozenset(arrival.job for arrival in harness.arrivals())
        if held & arrived and held - arrived:
            return held, arrived & {job for [job] in await harness.ask(UNFINISHED)}
        worker.thaw()
        await trio.sleep(0.01)


def sent_twice(harness: FaultHarness) -> set[UUID]:
    return {job for job, number in Counter(arrival.job for arrival in harness.arrivals()).items() if number > 1}


@pytest.mark.parametrize("seconds", [0.0, FIVE_MINUTES])
async def test_after_suspend_it_sends_nothing_that_others_may_have_sent(harness: FaultHarness, seconds: float) -> None:
    wall = Wall(harness.dsn)
    await wall.hang_up(FIVE_MINUTES)
    await harness.start_receiver(ANSWER)
    others = [await harness.start_worker(lease=LEASE, channels=("none yet",)) for _ in range(2)]
    worker = await harness.start_worker(lease=LEASE, concurrency=CONCURRENCY)
    await harness.produce(jobs=1_500, largest_batch=500)
    held, in_flight = await holding_more_than_it_sends(harness, worker)
    async with worker.suspended(seconds):
        others.append(await harness.start_worker(lease=LONG, concurrency=16))
        await harness.until_finished()
        await wall.set(seconds)
    await harness.until_logged(worker, "lease_lost")
    assert sent_twice(harness) <= in_flight
    await wall.set(0.0)
    # It is a worker like any other again.
    for other in others:
        await harness.leave(other)
    await harness.produce(jobs=5)
    await harness.until_finished()
    harness.note_fault("suspend", 0.0, jobs=held | in_flight)
    await harness.leave(worker)
    await harness.must_hold(lease=LEASE)


async def test_what_was_in_flight_ends_soon_after_suspend(harness: FaultHarness) -> None:
    """Its receivers have not answered meanwhile."""
    await harness.start_receiver(Answer(manner="never"), Answer())
    worker = await harness.start_worker(lease=LEASE, concurrency=CONCURRENCY, attempt_timeout=60.0)
    await harness.produce(jobs=CONCURRENCY, largest_batch=CONCURRENCY)
    await harness.until_arrived(CONCURRENCY)
    async with worker.suspended():
        await trio.sleep(2 * LEASE)
    assert (await harness.until_logged(worker, "lease_lost"))["cut_short"] == CONCURRENCY
    await harness.until_finished()
    assert {arrival.status for arrival in harness.arrivals()[:CONCURRENCY]} == {None}


async def test_all_wake_up_at_once(harness: FaultHarness) -> None:
    """With a database that went on: each looks lost to each, and nobody is taken for dead."""
    await harness.start_receiver(Answer(manner="never"), Answer())
    workers = [await harness.start_worker(lease=LEASE, concurrency=1, attempt_timeout=60.0) for _ in range(3)]
    await harness.produce(jobs=3, largest_batch=3)
    await harness.until_arrived(3)
    async with workers[0].suspended(), workers[1].suspended(), workers[2].suspended():
        await trio.sleep(2 * LEASE)
    await harness.until_finished()
    for worker in workers:
        assert "rescued" not in {line["event"] for line in read_journal(worker.log)}
    assert Counter(Counter(arrival.job for arrival in harness.arrivals()).values()) == {2: 3}


async def test_all_of_it_is_in_suspend_for_five_minutes(harness: FaultHarness) -> None:
    """Three workers and their database, with jobs in flight and others that were claimed and not begun."""
    wall = Wall(harness.dsn)
    await wall.hang_up(FIVE_MINUTES)
    await harness.start_receiver(ANSWER)
    await harness.produce(jobs=3_000, largest_batch=500)
    workers = [await harness.start_worker(lease=LONG, concurrency=CONCURRENCY) for _ in range(3)]
    holdings = [await holding_more_than_it_sends(harness, worker) for worker in workers]
    held, in_flight = (frozenset[UUID]().union(*parts) for parts in zip(*holdings, strict=True))
    async with AsyncExitStack() as suspends:
        for worker in workers:
            await suspends.enter_async_context(worker.suspended(FIVE_MINUTES))
        await wall.set(FIVE_MINUTES)
    for worker in workers:
        await harness.until_logged(worker, "lease_lost")
    await harness.until_finished()
    assert sent_twice(harness) <= in_flight
    await wall.set(0.0)
    harness.note_fault("suspend", 0.0, jobs=held | in_flight)
    for worker in workers:
        await harness.leave(worker)
    await harness.must_hold()


async def test_before_the_first_byte_the_lease_is_looked_at(receiver: Receiver) -> None:
    """The connection is there, and then the machine was in suspend: Trio's clock has not noticed it yet."""
    now = 0.0
    lease = Lease(10.0, lambda: now)
    lease.renewed(now)

    def confirm() -> bool:
        nonlocal now
        now = 300.0
        return lease.confirm()

    request = Request.get(receiver.url)
    async with open_sender(None, Config()) as sender:
        with trio.CancelScope() as scope:
            lease.begin(scope, trio.current_time() + 60.0)
            await sender.send(request, Progress(request.headers, confirm))
        assert scope.cancelled_caught
        assert lease.ended(scope)
    assert receiver.arrivals == []
