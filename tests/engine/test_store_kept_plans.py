"""What statements read, on the connection that has prepared them. Invariant: a few rows for each that they are about,
however many jobs there are, and whenever their plan was made: it is kept from a time when there were hardly any."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from requeuest_trio._model.states import JobState
from tests.engine.store_harness import StoreHarness, delivered, gave_up, new_job, to_be_retried
from tests.engine.test_store_plans import BACKLOGS, explained, fill, nodes
from tests.faults.scale import scale
from tests.postgres.harness import Conn, value

SIZES = [0, 1_000, 100_000, *([1_000_000] if scale() >= 10 else [])]
WARM = 7
"""After five runs PostgreSQL may keep a plan that is for all parameters; psycopg prepares after as many."""
BATCH = 10
MOST = 5
FEW = 50
"""For statements that look around: a round of maintenance may read so many, whatever there is."""


async def read_of_jobs(conn: Conn) -> int:
    """Rows of jobs that were read since the beginning, by whatever kind of scan."""
    await conn.execute("SELECT pg_stat_force_next_flush()")
    await conn.execute("SELECT pg_stat_clear_snapshot()")
    query = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'job'"
    return int(await value(conn, query))


class Life:
    """Everything that a process asks, over and over, on one connection."""

    def __init__(self, harness: StoreHarness, conn: Conn, worker: UUID) -> None:
        self._harness = harness
        self._conn = conn
        self._worker = worker
        self.read: dict[str, int] = {}

    @asynccontextmanager
    async def _step(self, name: str) -> AsyncIterator[None]:
        before = await read_of_jobs(self._conn)
        yield
        self.read[name] = await read_of_jobs(self._conn) - before

    async def live(self) -> dict[str, int]:
        """Returns how many rows of jobs each step has read."""
        harness, conn, worker = self._harness, self._conn, self._worker
        store = harness.on(conn)
        async with self._step("spawn"):
            await harness.spawn(conn, new_job())
        async with self._step("spawn several"):
            await harness.spawn(conn, *[new_job() for _ in range(BATCH)])
        async with self._step("spawn in order"):
            await harness.spawn(conn, *[new_job("ordered", "k", delay=600.0) for _ in range(BATCH)])
        async with self._step("claim"):
            jobs = await harness.claim(conn, worker, {"c": BATCH, "nobody": BATCH})
        assert len(jobs) == BATCH
        async with self._step("held claims"):
            assert len(await store.held_claims(worker)) == 1
        reports = [delivered(jobs[0]), gave_up(jobs[1]), *[to_be_retried(job, 3_600.0) for job in jobs[2:6]]]
        async with self._step("record"):
            assert len(await harness.record(conn, reports)) == len(reports)
        async with self._step("release jobs"):
            assert await store.release_jobs(worker, jobs[6:8]) == 2
        async with self._step("release"):
            assert await store.release(worker) == 2
        async with self._step("locked jobs"):
            assert await store.locked_jobs([job.id for job in jobs]) == set()
        async with self._step("still unfinished"):
            assert len(await store.still_unfinished([job.id for job in jobs])) == BATCH - 2
        return self.read | await self._look_around()

    async def _look_around(self) -> dict[str, int]:
        store = self._harness.on(self._conn)
        async with self._step("due channels"):
            assert set(await store.due_channels(channels=None, horizon=5.0)) == {"c"}
        async with self._step("due of channels"):
            assert set(await store.due_channels(channels=["c", "nobody"], horizon=5.0)) == {"c"}
        async with self._step("rescue"):
            signs = await store.signs_of_life()
            assert await store.rescue(self._worker, signs[:0]) == 0
        async with self._step("forget"):
            await store.forget(signs[:0])
        async with self._step("bring back"):
            assert await store.bring_back() == (0, {})
        async with self._step("free stranded"):
            await store.free_stranded()
        async with self._step("prune"):
            assert await store.prune(JobState.SUCCEEDED, timedelta(days=1)) == 0
        return self.read


@pytest.mark.parametrize("statistics", ["none", "of an empty table", "fresh", "of finished jobs"])
@pytest.mark.parametrize("size", SIZES)
async def test_plans_that_are_kept_read_a_few_rows_for_each(
    harness: StoreHarness, conn: Conn, other: Conn, size: int, statistics: str
) -> None:
    await conn.execute("ALTER TABLE requeuest.job SET (autovacuum_enabled = off)")
    if statistics == "of an empty table":
        await conn.execute("ANALYZE requeuest.job")
    elif statistics == "of finished jobs":
        await fill(other, BACKLOGS["due"], 5_000)
        await other.execute("UPDATE requeuest.job SET state = 'dead', finished_at = now()")
        await conn.execute("ANALYZE requeuest.job")
    life = Life(harness, conn, await harness.worker(conn))
    for _ in range(WARM):
        await life.live()
    await fill(other, BACKLOGS["due"].replace("1 ms", "1 s"), size)
    if statistics == "fresh":
        await other.execute("ANALYZE requeuest.job")
    read = await life.live()
    assert max(read[step] for step in ("claim", "record", "still unfinished", "locked jobs")) <= MOST * BATCH, read
    # It looks at all that waits for a time to come, once the clock was set; not at what is due.
    assert read.pop("bring back") <= FEW + 2 * BATCH * (WARM + 1), read
    assert max(read.values()) <= FEW, read


@pytest.mark.parametrize("size", SIZES)
async def test_a_claim_uses_the_same_index_whatever_there_is(harness: StoreHarness, conn: Conn, size: int) -> None:
    await conn.execute("ALTER TABLE requeuest.job SET (autovacuum_enabled = off)")
    worker = await harness.worker(conn)
    await fill(conn, BACKLOGS["due"], size)
    places: dict[str, Any] = {"channels": ["c"], "places": [BATCH], "budget": 4_000_000}
    for _ in ("no statistics", "fresh ones"):
        plan = await explained(conn, harness.queries["claim"], worker=worker, claim=worker, **places)
        indexes = {
            node["Index Name"] for node in nodes(plan) if node.get("Relation Name") == "job" and "Index Name" in node
        }
        assert indexes == {"job_available", "job_pkey"}
        await conn.execute("ANALYZE requeuest.job")
