"""
Workers that join and leave, in order and by cancellation, while jobs flow: a deployment that never ends.

What could go wrong, and is tried here: a job that is left with a worker that is gone, or kept from those that are
there; a claim given back twice; a connection, a task or memory left by each that comes and goes.
"""

from tests.faults.arrivals import Answer
from tests.faults.fault_harness import FaultHarness
from tests.faults.history import Usage
from tests.faults.processes import Program
from tests.faults.scale import scale, scaled

PATIENCE = 60.0 * max(1.0, scale())
CLIENTS = "select count(*) from pg_stat_activity where application_name like 'worker%'"


def note_cancellations(harness: FaultHarness, workers: list[Program]) -> int:
    """A cancelled block may break off attempts: they go back uncounted, though their receivers may have got them."""
    left = [line for worker in workers for line in worker.heard if line["said"] == "left"]
    for line in left:
        if line["cancelled"]:
            harness.note_fault("cancel", line["since"], uncounted=True)
    return len(left)


async def test_workers_join_and_leave_while_jobs_flow_and_none_is_lost_or_stuck(harness: FaultHarness) -> None:
    """Fifty of them with 20,000 jobs in the long tier; in the fast one, twelve."""
    await harness.start_receiver(Answer(delay=0.005, failing=0.02))
    blocks, jobs = scaled(4, most=17), scaled(1_000, most=20_000)
    # However many there are, so many come and go in a second.
    stay = (0.025 * blocks, 0.15 * blocks)
    workers = [
        await harness.start_worker(f"worker-{number}", blocks=blocks, stay=stay, concurrency=4, lease=2.0)
        for number in range(3)
    ]
    # Who leaves before a lease has passed rescues nobody, and somebody may not manage to sign off on a busy machine.
    lasting = await harness.start_worker("worker-lasting", concurrency=1, lease=2.0)
    retry = {"initial": 0.05, "max_backoff": 0.2}
    await harness.start_producer(jobs=jobs // 2, largest_batch=40, pause=0.02, retry=retry)
    await harness.start_producer(jobs=jobs - jobs // 2, keys=100, largest_batch=5, writers=4, retry=retry)
    for producer in harness.programs[-2:]:
        await producer.ended(patience=PATIENCE)
    await harness.until_finished(patience=PATIENCE)
    # The jobs may have been finished before so many had left.
    for worker in workers:
        await worker.said("left", blocks, patience=PATIENCE)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        await harness.leave_after_signal(worker)
    await harness.leave(lasting)
    assert note_cancellations(harness, workers) >= blocks * 3
    [[clients]] = await harness.ask(CLIENTS)
    harness.usages.append(Usage(what="connections", before=0, after=clients, allowed=0))
    assert not await harness.ask("select 1 from requeuest.worker")
    harness.note_lost_leases(lasting, *workers)
    history = await harness.must_hold()
    assert len(history.jobs) == jobs
