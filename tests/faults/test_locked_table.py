"""
A table that nobody gets at for a while, as during a migration of the application's or a VACUUM FULL.

What could go wrong: statements that wait without end, and keep the process's other statements from their connection,
until its lease is lost; callers who are kept waiting and told nothing; something that is not taken up again.
"""

import pytest
import trio

from requeuest_trio import Config, DatabaseUnavailable, Request, open_requeuest
from tests.faults.arrivals import Answer
from tests.faults.fault_harness import FaultHarness
from tests.faults.journal import read_journal

LEASE = 1.5
LOCKED = 2.5 * LEASE
"""Fifteen times as long as the workers' statements wait for a lock."""


async def test_a_table_that_is_locked_for_several_leases_costs_no_lease(harness: FaultHarness) -> None:
    await harness.start_receiver(Answer(delay=0.05))
    workers = [await harness.start_worker(lease=LEASE) for _ in range(2)]
    producers = [await harness.start_producer(pause=0.02, keys=keys) for keys in (0, 3)]
    await harness.until_arrived(30)
    with harness.fault("table locked", jobs=()):
        async with harness.locked("job", "ACCESS EXCLUSIVE"):
            until = trio.current_time() + LOCKED
            await _is_told(harness)
            for worker in workers:
                failed = await harness.until_logged(worker, "claim_failed")
                assert "held a lock for too long" in failed["error"]
            await trio.sleep_until(until)
            # The lease of both is renewed all the while.
            [[least]] = await harness.ask(
                "select min(extract(epoch from seen_at + lease - now())) from requeuest.worker"
            )
            assert least > LEASE / 2
    before = len(harness.arrivals())
    await harness.until_arrived(before + 30)
    for producer in producers:
        producer.terminate()
        await producer.ended()
    await harness.until_finished()
    for worker in workers:
        await harness.leave(worker)
        assert {line["event"] for line in read_journal(worker.log)}.isdisjoint({"lease_lost", "rescued"})
    await harness.must_hold()


async def _is_told(harness: FaultHarness) -> None:
    """Whoever spawns meanwhile learns soon that it could not be stored, and why."""
    async with open_requeuest(harness.dsn, (), config=Config(statement_timeout=0.6)) as client:
        for key in (None, "k"):
            with trio.fail_after(5), pytest.raises(DatabaseUnavailable, match="held a lock for too long"):
                await client.spawn("a", Request.get("http://receiver.test"), ordering_key=key)
