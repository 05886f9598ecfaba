"""The harness itself: what it starts delivers, what it writes down is judged, and a failure tells its seed."""

from tests.faults.arrivals import Answer
from tests.faults.fault_harness import FaultHarness


async def test_what_is_produced_is_delivered_and_every_invariant_holds(harness: FaultHarness) -> None:
    await harness.start_receiver(Answer(status=503), Answer())
    worker = await harness.start_worker()
    await harness.produce(jobs=60, largest_batch=10, writers=3, retry={"initial": 0.05})
    await harness.produce(jobs=40, largest_batch=5, keys=5, writers=2, retry={"initial": 0.05})
    await harness.until_finished()
    await harness.leave(worker)
    history = await harness.must_hold()
    assert len(history.arrivals) == 200
    assert len(history.spawns) == 100
    assert len(history.attempts) == 200


async def test_who_was_in_suspend_can_be_left_without_descriptors(harness: FaultHarness) -> None:
    """Its clock is the test's, and goes on."""
    await harness.start_receiver()
    worker = await harness.start_worker()
    async with worker.suspended():
        pass
    with worker.starved(0):
        await harness.produce(jobs=5, largest_batch=5)
        await harness.until_logged(worker, "shortage")
    await harness.until_finished()
    await harness.leave(worker)
    await harness.must_hold()
