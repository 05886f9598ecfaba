"""
A worker that stands still for longer than its lease, as with SIGSTOP, a paused container or a sleeping laptop.

What could go wrong, and is tried here: nobody takes over; or the zombie, when it goes on, writes down an outcome that
is no longer its to tell, or sends what others have sent, or never works again.
"""

from collections import Counter

from tests.faults.arrivals import Answer
from tests.faults.rig import Rig


async def test_a_worker_that_stood_still_past_its_lease_records_nothing_and_works_on(rig: Rig) -> None:
    await rig.start_receiver(Answer(delay=0.3), Answer(delay=1.5), Answer())
    zombie = await rig.start_worker(lease=1.0)
    await rig.produce(jobs=4, largest_batch=4)
    await rig.produce(jobs=4, largest_batch=4, keys=1)  # of these, only the first is sent
    await rig.until_arrived(5)
    held = await rig.held_in_the_end(zombie)
    assert len(held) == 5
    with rig.fault("standstill", jobs=held):
        await zombie.freeze()
        successor = await rig.start_worker(lease=1.0)
        await rig.until_arrived(10)
        running = await rig.ask("select id, attempts, claim from requeuest.job where state = 'running' order by id")
        zombie.thaw()
        stale = await rig.until_logged(zombie, "outcomes_stale")
    assert stale == {"jobs": 5}
    now_running = await rig.ask("select id, attempts, claim from requeuest.job where state = 'running' order by id")
    assert now_running == running, "its successor's attempts go on"
    await rig.until_finished()
    await rig.leave(successor)
    await rig.produce(jobs=5)
    await rig.until_finished()
    await rig.leave(zombie)
    history = await rig.must_hold()
    times = Counter(arrival.job for arrival in history.arrivals)
    assert {job for job, number in times.items() if number == 2} == held
    assert max(times.values()) == 2
    assert [attempt.reached for attempt in history.attempts if attempt.job in held] == ["unknown", "response"] * 5
