"""
A worker that stands still for longer than its lease, as with SIGSTOP, a paused container or a sleeping laptop.

What could go wrong, and is tried here: nobody takes over; or the zombie, when it goes on, writes down an outcome that
is no longer its to tell, or sends what others have sent, or never works again.
"""

from collections import Counter

from tests.faults.arrivals import Answer
from tests.faults.fault_harness import FaultHarness

LEASE = 4.0
"""Seconds: so long that no machine keeps a worker from renewing it which does not stand still."""
LONG = 30.0


async def test_a_worker_that_stood_still_past_its_lease_records_nothing_and_works_on(harness: FaultHarness) -> None:
    answers = [Answer(manner="held"), Answer(manner="held"), Answer()]
    await harness.start_receiver(*answers)
    zombie = await harness.start_worker(lease=LEASE, attempt_timeout=LONG)
    await harness.produce(jobs=4, largest_batch=4)
    await harness.produce(jobs=4, largest_batch=4, keys=1)  # of these, only the first is sent
    await harness.until_arrived(5)
    held = await harness.held_in_the_end(zombie)
    assert len(held) == 5
    with harness.fault("standstill", jobs=held):
        await zombie.freeze()
        await harness.answer(*answers)
        successor = await harness.start_worker(lease=LEASE, attempt_timeout=LONG)
        await harness.until_arrived(10)
        running = await harness.ask("select id, attempts, claim from requeuest.job where state = 'running' order by id")
        zombie.thaw()
        stale = await harness.until_logged(zombie, "outcomes_stale")
    assert stale == {"jobs": 5}
    now_running = await harness.ask("select id, attempts, claim from requeuest.job where state = 'running' order by id")
    assert now_running == running, "its successor's attempts go on"
    await harness.answer(Answer())
    await harness.until_finished()
    await harness.leave(successor)
    await harness.produce(jobs=5)
    await harness.until_finished()
    await harness.leave(zombie)
    history = await harness.must_hold(lease=LEASE)
    times = Counter(arrival.job for arrival in history.arrivals)
    assert {job for job, number in times.items() if number == 2} == held
    assert max(times.values()) == 2
    assert [attempt.reached for attempt in history.attempts if attempt.job in held] == ["unknown", "response"] * 5
