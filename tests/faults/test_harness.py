"""The harness itself: what it starts delivers, what it writes down is judged, and a failure tells its seed."""

from tests.faults.arrivals import Answer
from tests.faults.rig import Rig


async def test_what_is_produced_is_delivered_and_every_invariant_holds(rig: Rig) -> None:
    await rig.start_receiver(Answer(status=503), Answer())
    worker = await rig.start_worker()
    await rig.produce(jobs=60, largest_batch=10, writers=3, retry={"initial": 0.05})
    await rig.produce(jobs=40, largest_batch=5, keys=5, writers=2, retry={"initial": 0.05})
    await rig.until_finished()
    await rig.leave(worker)
    history = await rig.must_hold()
    assert len(history.arrivals) == 200
    assert len(history.spawns) == 100
    assert len(history.attempts) == 200


async def test_who_was_in_suspend_can_be_left_without_descriptors(rig: Rig) -> None:
    """Its clock is the test's, and goes on."""
    await rig.start_receiver()
    worker = await rig.start_worker()
    async with worker.suspended():
        pass
    with worker.starved(0):
        await rig.produce(jobs=5, largest_batch=5)
        await rig.until_logged(worker, "shortage")
    await rig.until_finished()
    await rig.leave(worker)
    await rig.must_hold()
