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
