"""
A table that nobody gets at for a while, as during a migration of the application's or a VACUUM FULL.

What could go wrong: statements that wait without end, and keep the process's other statements from their connection,
until its lease is lost; callers who are kept waiting and told nothing; something that is not taken up again.
"""

import pytest
import trio

from requeuest_trio import Config, DatabaseUnavailable, Request, open_requeuest
from tests.faults.arrivals import Answer
from tests.faults.journal import read_journal
from tests.faults.rig import Rig

LEASE = 1.5
LOCKED = 2.5 * LEASE
"""Fifteen times as long as the workers' statements wait for a lock."""


async def test_a_table_that_is_locked_for_several_leases_costs_no_lease(rig: Rig) -> None:
    await rig.start_receiver(Answer(delay=0.05))
    workers = [await rig.start_worker(lease=LEASE) for _ in range(2)]
    producers = [await rig.start_producer(pause=0.02, keys=keys) for keys in (0, 3)]
    await rig.until_arrived(30)
    with rig.fault("table locked", jobs=()):
        async with rig.locked("job", "ACCESS EXCLUSIVE"):
            until = trio.current_time() + LOCKED
            await _is_told(rig)
            for worker in workers:
                failed = await rig.until_logged(worker, "claim_failed")
                assert "held a lock for too long" in failed["error"]
            await trio.sleep_until(until)
            # The lease of both is renewed all the while.
            [[least]] = await rig.ask("select min(extract(epoch from seen_at + lease - now())) from requeuest.worker")
            assert least > LEASE / 2
    before = len(rig.arrivals())
    await rig.until_arrived(before + 30)
    for producer in producers:
        producer.terminate()
        await producer.ended()
    await rig.until_finished()
    for worker in workers:
        await rig.leave(worker)
        assert {line["event"] for line in read_journal(worker.log)}.isdisjoint({"lease_lost", "rescued"})
    await rig.must_hold()


async def _is_told(rig: Rig) -> None:
    """Whoever spawns meanwhile learns soon that it could not be stored, and why."""
    async with open_requeuest(rig.dsn, (), config=Config(statement_timeout=0.6)) as client:
        for key in (None, "k"):
            with trio.fail_after(5), pytest.raises(DatabaseUnavailable, match="held a lock for too long"):
                await client.spawn("a", Request.get("http://receiver.test"), ordering_key=key)
