"""Everything at once. Invariants: no deadlock, no lost job, no job delivered under two claims, no key left stranded."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest
import trio

from requeuest_trio import JobState
from requeuest_trio._store.claimed import Claimed
from tests.engine.store_harness import StoreHarness, delivered, gave_up, new_job, to_be_retried
from tests.postgres.harness import Conn, value
from tests.waiting import until

CHANNELS = ("a", "b", "c")
PLACES = 15
SECONDS = 2.5


@pytest.mark.parametrize(
    "forbidden",
    [(), ("enable_hashjoin", "enable_mergejoin"), ("enable_nestloop",)],
    ids=["any plan", "nested loops", "no nested loops"],
)
async def test_claimers_recorders_rescuer_pruner_clearer_and_producers_do_not_deadlock(
    harness: StoreHarness, forbidden: tuple[str, ...]
) -> None:
    """Whatever the plans: also no claim takes more than it has places for, and none what another has."""
    conn = await harness.connect()
    database = await value(conn, "SELECT current_database()")
    for setting in forbidden:
        await conn.execute(f"ALTER DATABASE {database} SET {setting} = off".encode())
    name = await value(conn, "SELECT current_database()")
    await conn.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '100ms'".encode())
    before = await deadlocks(conn)
    recorded: Counter[UUID] = Counter()
    claimed: Counter[tuple[UUID, int]] = Counter()
    to_record, outcomes = trio.open_memory_channel[list[Claimed]](20)

    async def end_after_enough(scope: trio.CancelScope) -> None:
        """Less than this would prove nothing, however long it takes."""
        await trio.sleep(SECONDS)
        await until(lambda: len(recorded) > 100, patience=60)
        scope.cancel()

    async def produce(connection: Conn, seed: int) -> None:
        chance = random.Random(seed)
        while True:
            keys = [chance.choice([None, None, "k1", "k2", f"k{seed}"]) for _ in range(20)]
            await harness.spawn(connection, *(new_job(chance.choice(CHANNELS), key=key) for key in keys))

    async def claim(connection: Conn) -> None:
        worker = await harness.worker(connection)
        while True:
            if jobs := await harness.claim(connection, worker, dict.fromkeys(CHANNELS, PLACES)):
                assert max(Counter(job.channel for job in jobs).values()) <= PLACES
                claimed.update((job.id, job.attempt) for job in jobs)
                await to_record.send(jobs)

    async def record(connection: Conn, seed: int) -> None:
        chance = random.Random(seed)
        async for jobs in outcomes.clone():
            chance.shuffle(jobs)
            finish = (delivered, delivered, gave_up, to_be_retried)
            reports = [chance.choice(finish)(job) for job in jobs]
            counted = await harness.record(connection, reports)
            recorded.update(r.job.id for r in reports if r.job.id in counted and r.outcome.state != JobState.AVAILABLE)

    async def repair(connection: Conn) -> None:
        while True:
            await connection.execute("UPDATE requeuest.worker SET seen_at = now() - random() * interval '40 s'")
            await harness.rescue(connection)
            await harness.on(connection).free_stranded()

    async def remove(connection: Conn) -> None:
        while True:
            await harness.on(connection).prune(JobState.SUCCEEDED, timedelta(0))
            now = await harness.on(connection).clock()
            await harness.on(connection).clear_free(["a"], now)
            await harness.on(connection).clear_ordered(["a", "b"], now)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_after_enough, scope)
            for seed in range(2):
                nursery.start_soon(produce, await harness.connect(), seed)
            for seed in range(4):
                nursery.start_soon(claim, await harness.connect())
                nursery.start_soon(record, await harness.connect(), seed)
            nursery.start_soon(repair, await harness.connect())
            nursery.start_soon(remove, await harness.connect())

    assert await deadlocks(conn) == before
    assert set(recorded.values()) == {1}, "a job was finished twice"
    assert set(claimed.values()) == {1}, "an attempt of a job was claimed twice"
    await finish_all(harness, conn)


async def finish_all(harness: StoreHarness, conn: Conn) -> None:
    """What is left can be delivered to the last job."""
    await conn.execute("DELETE FROM requeuest.worker")
    while await harness.rescue(conn):
        pass
    await harness.on(conn).free_stranded()
    worker = await harness.worker(conn)
    while jobs := await harness.claim(conn, worker, dict.fromkeys(CHANNELS, 500)):
        await harness.record(conn, map(delivered, jobs))
    assert await value(conn, "SELECT count(*) FROM requeuest.job WHERE finished_at IS NULL") == 0


async def deadlocks(conn: Conn) -> int:
    await conn.execute("SELECT pg_stat_force_next_flush()")
    return int(await value(conn, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
