"""
A worker that is told to end: in good order by one signal, at once by two.

What could go wrong, and is tried here: a worker that stays for longer than its grace; one that keeps what it has not
begun; an attempt that is lost, or counted though it was broken off; an outcome that is known and not written down, so
that the request is sent again; a second signal that leaves something behind.
"""

import time
from collections import Counter

from tests.faults.arrivals import Answer
from tests.faults.fault_harness import RECORD, FaultHarness
from tests.faults.processes import Program
from tests.machine import OwnTime

CONCURRENCY = 4


async def busy_worker(harness: FaultHarness, *, grace: float, delay: float) -> Program:
    """A worker with more in hand than it can send at once, now that the receiver has become slow."""
    await harness.start_receiver(Answer())
    producer = await harness.start_producer(jobs=4000, largest_batch=400)
    worker = await harness.start_worker(lease=20.0, concurrency=CONCURRENCY, grace=grace)
    await harness.until_arrived(300)
    await harness.answer(Answer(delay=delay))
    await producer.ended()
    while len(await harness.held_by(worker)) <= CONCURRENCY:
        # What waits behind slow attempts goes back after a second or two; so be quick.
        await harness.answer(Answer())
        await harness.until_arrived(len(harness.arrivals()) + 100)
        await harness.answer(Answer(delay=delay))
    return worker


async def until_only_begun_jobs_are_held(harness: FaultHarness) -> None:
    await harness.until_true("select count(*) <= %s from requeuest.job where state = 'running'", CONCURRENCY)


async def test_one_signal_lets_it_finish_what_it_has_begun_and_give_back_the_rest_at_once(
    harness: FaultHarness,
) -> None:
    worker = await busy_worker(harness, grace=5.0, delay=1.5)
    own = OwnTime()
    worker.terminate()
    await until_only_begun_jobs_are_held(harness)
    assert own.alone < 1.0, "what it had not begun, others could have sent"
    begun = await harness.held_by(worker)
    assert begun
    await harness.leave_after_signal(worker)
    assert own.alone < 3.0
    assert await harness.ask("select distinct state::text from requeuest.job where id = any (%s)", list(begun)) == [
        ("succeeded",)
    ]
    assert not await harness.ask("select 1 from requeuest.worker")
    await harness.answer(Answer())
    await harness.start_worker(lease=20.0, concurrency=32)
    await harness.until_finished()
    history = await harness.must_hold()
    assert len(history.arrivals) == len(history.jobs), "nothing was sent twice"


async def test_what_is_slower_than_the_grace_goes_back_uncounted(harness: FaultHarness) -> None:
    await harness.start_receiver(Answer(delay=30.0), Answer())
    worker = await harness.start_worker(lease=20.0, grace=1.0)
    await harness.produce(jobs=6, largest_batch=6)
    await harness.until_arrived(6)
    begun = await harness.held_by(worker)
    at, own = time.monotonic(), OwnTime()
    worker.terminate()
    await harness.leave_after_signal(worker)
    assert time.monotonic() - at > 0.9
    assert own.alone < 2.5
    harness.note_fault("cancel", at, jobs=begun, uncounted=True)
    await harness.start_worker(lease=20.0)
    await harness.until_finished(patience=5.0)
    history = await harness.must_hold()
    assert {job.attempts for job in history.jobs} == {1}
    assert len(history.arrivals) == 12


async def test_a_second_signal_ends_it_at_once_and_gives_back_everything(harness: FaultHarness) -> None:
    await harness.start_receiver(Answer(delay=30.0), Answer())
    worker = await harness.start_worker(lease=20.0, grace=20.0)
    await harness.produce(jobs=6, largest_batch=6)
    await harness.until_arrived(6)
    begun = await harness.held_by(worker)
    at, own = time.monotonic(), OwnTime()
    worker.terminate()
    await harness.until_logged(worker, "draining")
    worker.interrupt()
    await harness.leave_after_signal(worker)
    assert own.alone < 2.0
    assert not await harness.ask("select 1 from requeuest.job where state = 'running'")
    harness.note_fault("cancel", at, jobs=begun, uncounted=True)
    await harness.start_worker(lease=20.0)
    await harness.until_finished(patience=5.0)
    history = await harness.must_hold()
    assert {job.attempts for job in history.jobs} == {1}


async def test_signals_while_outcomes_are_being_written_lose_none_of_them(harness: FaultHarness) -> None:
    """The statement is broken off by the second signal, and what it would have written is written after all."""
    await harness.start_receiver(Answer())
    worker = await harness.start_worker(lease=20.0, grace=20.0)
    async with harness.locked("attempt"):
        await harness.produce(jobs=30, largest_batch=30)
        await harness.until_arrived(30)
        await harness.until_held_up(worker, RECORD)
        worker.terminate()
        await harness.until_logged(worker, "draining")
        worker.interrupt()
        await worker.said("signal", 2)
        own = OwnTime()
    await harness.leave_after_signal(worker)
    assert own.alone < 3.0
    assert await harness.ask("select state::text, count(*) from requeuest.job group by 1") == [("succeeded", 30)]
    history = await harness.must_hold()
    assert set(Counter(arrival.job for arrival in history.arrivals).values()) == {1}
