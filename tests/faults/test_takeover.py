"""
How soon the jobs of a killed worker are begun elsewhere: within the lease, a round of maintenance, and a moment.

What could go wrong, and is tried here: jobs that are found lost too late; or in time, and then have to wait behind a
backlog that has come after them.
"""

import pytest

from tests.faults.arrivals import Answer
from tests.faults.fault_harness import FaultHarness
from tests.faults.figures import takeover_time
from tests.faults.scale import VARIABLE, scale

A_MOMENT = 3.0
DELAY = 0.1
PLACES = 2

DEFAULT = pytest.mark.skipif(scale() < 5, reason=f"takes a minute; {VARIABLE}=5 and more")


@pytest.mark.parametrize(
    ("lease", "poll_interval"),
    [pytest.param(1.5, 0.3, id="short lease"), pytest.param(30.0, 5.0, id="default lease", marks=DEFAULT)],
)
async def test_jobs_of_a_killed_worker_are_begun_elsewhere_in_time_also_with_a_backlog(
    harness: FaultHarness, lease: float, poll_interval: float
) -> None:
    """With the default lease of 30 s, within 38 s."""
    within = lease * 7 / 6 + A_MOMENT
    await harness.start_receiver(Answer(delay=DELAY))
    # One worker alone can't empty it in twice that time.
    await harness.produce(jobs=round(3 * within * PLACES / DELAY), largest_batch=100)
    victim, _ = [
        await harness.start_worker(lease=lease, poll_interval=poll_interval, concurrency=PLACES) for _ in range(2)
    ]
    await harness.until_arrived(4 * PLACES)
    in_hand = await harness.kill(victim)
    assert in_hand
    begun_again = "select every(attempts = 2 or state = 'succeeded') from requeuest.job where id = any(%s)"
    await harness.until_true(begun_again, list(in_hand), patience=3 * within)
    assert await harness.ask("select 1 from requeuest.job where state = 'available'"), "there was a backlog"
    await harness.answer(Answer())
    await harness.until_finished()
    taken_over = takeover_time(await harness.must_hold())
    assert taken_over is not None
    assert taken_over < within
