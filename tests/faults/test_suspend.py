"""
A machine is suspended, with a worker on it, for longer than its lease.

What could go wrong, and is tried here: it goes on as if no time had passed, since Trio's clock says so, and sends what
others have sent meanwhile; what it had in flight goes on; it never works again; two that wake up rob each other.
"""

from __future__ import annotations

from collections import Counter

import trio

from requeuest_trio import Config, Request
from requeuest_trio._engine.lease import Lease
from requeuest_trio._http.progress import Progress
from requeuest_trio._http.sender import open_sender
from requeuest_trio.testing import Receiver
from tests.faults.arrivals import Answer
from tests.faults.journal import read_journal
from tests.faults.processes import Program
from tests.faults.rig import Rig

LEASE = 1.5
CONCURRENCY = 2
FINISHED = "select count(*) = 0 from requeuest.job where id = any(%s) and finished_at is null"


async def hold_more_than_it_sends(rig: Rig, worker: Program) -> None:
    """Until it has jobs that wait for its places, and stands still with them."""
    while True:
        await worker.freeze()
        if len(await rig.held_in_the_end(worker)) > CONCURRENCY:
            return
        worker.thaw()
        await trio.sleep(0.01)


async def test_after_suspend_it_sends_nothing_that_others_may_have_sent(rig: Rig) -> None:
    await rig.start_receiver(Answer(delay=0.02))
    others = [await rig.start_worker(lease=LEASE, channels=("none yet",)) for _ in range(2)]
    worker = await rig.start_worker(lease=LEASE, concurrency=CONCURRENCY)
    await rig.produce(jobs=1_500, largest_batch=500)
    await hold_more_than_it_sends(rig, worker)
    held = await rig.held_by(worker)
    in_flight = {arrival.job for arrival in rig.arrivals()} & held
    async with worker.suspended():
        others.append(await rig.start_worker(lease=LEASE, concurrency=16))
        await rig.until_true(FINISHED, list(held))
    await rig.until_logged(worker, "lease_lost")
    await rig.until_finished()
    times = Counter(arrival.job for arrival in rig.arrivals())
    assert {job for job, number in times.items() if number > 1} <= in_flight
    # It is a worker like any other again.
    for other in others:
        await rig.leave(other)
    await rig.produce(jobs=5)
    await rig.until_finished()
    rig.note_fault("suspend", 0.0, jobs=held)
    await rig.leave(worker)
    await rig.must_hold()


async def test_what_was_in_flight_ends_soon_after_suspend(rig: Rig) -> None:
    """Its receivers have not answered meanwhile."""
    await rig.start_receiver(Answer(manner="never"), Answer())
    worker = await rig.start_worker(lease=LEASE, concurrency=CONCURRENCY, attempt_timeout=60.0)
    await rig.produce(jobs=CONCURRENCY, largest_batch=CONCURRENCY)
    await rig.until_arrived(CONCURRENCY)
    async with worker.suspended():
        await trio.sleep(2 * LEASE)
    assert (await rig.until_logged(worker, "lease_lost"))["cut_short"] == CONCURRENCY
    await rig.until_finished()
    assert {arrival.status for arrival in rig.arrivals()[:CONCURRENCY]} == {None}


async def test_all_wake_up_at_once(rig: Rig) -> None:
    """With a database that went on: each looks lost to each, and nobody is taken for dead."""
    await rig.start_receiver(Answer(manner="never"), Answer())
    workers = [await rig.start_worker(lease=LEASE, concurrency=1, attempt_timeout=60.0) for _ in range(3)]
    await rig.produce(jobs=3, largest_batch=3)
    await rig.until_arrived(3)
    async with workers[0].suspended(), workers[1].suspended(), workers[2].suspended():
        await trio.sleep(2 * LEASE)
    await rig.until_finished()
    for worker in workers:
        assert "rescued" not in {line["event"] for line in read_journal(worker.log)}
    assert Counter(Counter(arrival.job for arrival in rig.arrivals()).values()) == {2: 3}


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
