"""However many rows come before it that can't be rescued, a lost job is rescued within its time."""

from __future__ import annotations

from uuid import uuid4

import pytest
import trio

from requeuest_trio import open_requeuest
from requeuest_trio.testing import open_receiver
from tests.engine.probe import open_probe
from tests.engine.store_harness import StoreHarness, open_store_harness
from tests.postgres.harness import value

MANY = 10_000
LEASE, POLL = 1.0, 0.2
BOUND = LEASE + LEASE / 6 + POLL + 2.0
"""From when the rescuer may: lease, sweep, poll, and two seconds for this machine."""

FILL = """
INSERT INTO requeuest.job (channel, method, url, state, worker, claim, claimed_at, attempts)
SELECT %s, 'POST', %s, 'running', %s, gen_random_uuid(), now(), 1 FROM generate_series(1, %s)
"""
ALIVE = "INSERT INTO requeuest.worker (id, lease, host, pid) VALUES (%s, interval '1 h', 'x', 1)"
LOCK = "SELECT id FROM requeuest.job WHERE channel = 'many' FOR UPDATE"


@pytest.mark.parametrize("why", ["their process lives", "another transaction has locked them"])
async def test_one_lost_job_behind_ten_thousand_that_cannot_be_rescued(migrated_dsn: str, why: str) -> None:
    async with (
        open_store_harness(migrated_dsn) as harness,
        open_probe(migrated_dsn) as probe,
        open_receiver() as receiver,
    ):
        conn, locker = await harness.connect(), await harness.connect()
        holder = await _fill(harness, why, receiver.url)
        async with locker.transaction():
            if holder == "dead":
                await locker.execute(LOCK.encode())
            # The first lease: after a start, nobody rescues before having seen the database up for so long.
            async with open_requeuest(migrated_dsn, ["one"], lease=LEASE, poll_interval=POLL):
                with trio.fail_after(LEASE + BOUND):
                    await receiver.wait_for(1)
                await probe.until_true("SELECT count(*) = 1 FROM requeuest.job WHERE state = 'succeeded'")
            assert await value(conn, "SELECT count(*) FROM requeuest.job WHERE state = 'running'") == MANY


async def _fill(harness: StoreHarness, why: str, url: str) -> str:
    conn, many, one = await harness.connect(), uuid4(), uuid4()
    if why == "their process lives":
        await harness.rows(conn, ALIVE, many)
    else:
        one = many  # so that they come first, whatever the order
    await harness.rows(conn, FILL, "many", url, many, MANY)
    await harness.rows(conn, FILL, "one", url, one, 1)
    return "alive" if many != one else "dead"


async def test_a_job_that_was_lost_and_claimed_anew_is_not_taken_from_the_living(migrated_dsn: str) -> None:
    """Between a rescuer's look at the table and its lock, another rescues the job, and a process that lives has it."""
    async with open_store_harness(migrated_dsn) as harness:
        conn, rival, claimer = [await harness.connect() for _ in range(3)]
        await harness.rows(conn, FILL, "c", "http://x.test/", uuid4(), 50)
        await conn.execute(
            b"CREATE FUNCTION slow(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT $1 FROM pg_sleep(0.02)'"
        )
        slowly = harness.queries["rescue"].replace(b"LIMIT 1000", b"AND slow(1) = 1 LIMIT 1000")
        rescued: list[int] = []

        async def rescue_slowly() -> None:
            cursor = await rival.execute(
                slowly, {"rescuer": None, "error": "lost", "topic": None, "lost": [], "seen": []}
            )
            [(number, _)] = await cursor.fetchall()
            rescued.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rescue_slowly)
            await trio.sleep(0.2)
            first = await harness.rescue(conn)
            taken = await harness.claim(claimer, await harness.worker(claimer), 50)
        assert 0 < len(taken) <= first < 50, "the two did not meet"
        assert first + rescued[0] == 50
        assert await value(conn, "SELECT count(*) FROM requeuest.job WHERE state = 'running'") == len(taken)
