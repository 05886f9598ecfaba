"""Whoever changes several jobs, or takes several keys, locks them in one order. Else two could each have what the other
waits for, and PostgreSQL would end one of them. Shown without chance: somebody has the first, and who comes for all of
them waits for it, and has none of the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
import trio

from requeuest_trio._store.claimed import Claimed
from tests.engine.store_harness import StoreHarness, delivered, new_id, new_job
from tests.postgres.harness import Conn, until_waiting_for_a_lock, value

JOBS = 20
PLANS = {
    "any plan": (),
    "nested loops": ("enable_hashjoin", "enable_mergejoin"),
    "hash joins": ("enable_nestloop", "enable_mergejoin"),
    "merge joins": ("enable_nestloop", "enable_hashjoin"),
}
FREE = "SELECT count(*) FROM (SELECT FROM requeuest.job FOR UPDATE SKIP LOCKED) AS free"

Change = Callable[[StoreHarness, Conn, list[Claimed]], Awaitable[object]]


async def record(harness: StoreHarness, conn: Conn, jobs: list[Claimed]) -> object:
    return await harness.record(conn, map(delivered, jobs))


async def release(harness: StoreHarness, conn: Conn, jobs: list[Claimed]) -> object:
    return await harness.on(conn).release(await worker_of(conn), {job.claim for job in jobs})


async def release_all(harness: StoreHarness, conn: Conn, _: list[Claimed]) -> object:
    return await harness.on(conn).release(await worker_of(conn))


async def give_back(harness: StoreHarness, conn: Conn, jobs: list[Claimed]) -> object:
    return await harness.on(conn).release_jobs(await worker_of(conn), jobs)


async def orphan(harness: StoreHarness, conn: Conn, jobs: list[Claimed]) -> object:
    return await harness.on(conn).orphan(await worker_of(conn), {job.claim for job in jobs})


async def worker_of(conn: Conn) -> UUID:
    worker: UUID = await value(conn, "SELECT id FROM requeuest.worker")
    return worker


@pytest.mark.parametrize("change", [record, release, release_all, give_back, orphan])
@pytest.mark.parametrize("plan", PLANS)
async def test_jobs_are_locked_in_the_order_of_their_ids(
    harness: StoreHarness, conn: Conn, other: Conn, change: Change, plan: str
) -> None:
    ids = [new_id() for _ in range(JOBS)]
    for job_id in reversed(ids):  # the other way round they lie in the table, and are taken
        await harness.spawn(conn, new_job(id=job_id))
    worker = await harness.worker(conn)
    jobs = [job for _ in range(JOBS) for job in await harness.claim(conn, worker, 1)]
    assert [job.id for job in jobs] == ids[::-1]
    for setting in PLANS[plan]:
        await other.execute(f"SET {setting} = off".encode())
    async with trio.open_nursery() as nursery, conn.transaction():
        await harness.rows(conn, "SELECT FROM requeuest.job WHERE id = %s FOR UPDATE", ids[0])
        nursery.start_soon(change, harness, other, jobs)
        observer = await harness.connect()
        await until_waiting_for_a_lock(observer, other.info.backend_pid)
        assert await value(observer, FREE) == JOBS - 1
    assert "running" not in await harness.states(conn) or change is orphan


async def test_keys_are_locked_in_one_order(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    """That of their locks, so that it is the same for everybody."""
    jobs = [new_job(key=f"k{number}") for number in range(2 * JOBS)]
    lock = "SELECT pg_advisory_xact_lock(min(requeuest.key_lock('c', key))) FROM unnest(%s::text[]) AS keys (key)"
    async with trio.open_nursery() as nursery, conn.transaction():
        await harness.rows(conn, lock, [job.ordering_key for job in jobs])
        nursery.start_soon(harness.spawn, other, *jobs)
        await until_waiting_for_a_lock(conn, other.info.backend_pid)
        held = "SELECT count(*) FROM pg_locks WHERE pid = %s AND locktype = 'advisory' AND granted"
        assert await value(conn, held, other.info.backend_pid) == 0
    assert await harness.states(conn) == ["available"] * len(jobs)
