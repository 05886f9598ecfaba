"""Ordering keys, with interleavings forced by transactions that hold a key's lock. Invariants: at most one head of a
key; the order is that of commits; a successor never stays behind nobody; a key that is held holds up only itself."""

from __future__ import annotations

import pytest
import trio

from requeuest_trio._store.claimed import Claimed
from requeuest_trio._store.maintaining import FIRST_KEY
from tests.engine.store_harness import StoreHarness, delivered, gave_up, new_id, new_job, to_be_retried
from tests.postgres.harness import Conn, until_running, value


async def order(harness: StoreHarness, conn: Conn, key: str = "k") -> list[int]:
    """The numbers of a key's jobs, in the order in which they are claimed and delivered."""
    worker, numbers = await harness.worker(conn), []
    while claimed := await harness.claim(conn, worker):
        assert len(claimed) <= 1, "two jobs of a key in flight"
        numbers += [job.id.int for job in claimed]
        await harness.record(conn, map(delivered, claimed))
    ranks = sorted(numbers)
    assert (
        await value(conn, "SELECT count(*) FROM requeuest.job WHERE state = 'blocked' AND ordering_key = %s", key) == 0
    )
    return [ranks.index(number) for number in numbers]


async def test_the_order_is_that_of_commits_and_not_of_ids(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    first, second, third = new_id(), new_id(), new_id()
    async with trio.open_nursery() as nursery, conn.transaction():
        await harness.spawn(conn, new_job(key="k", id=third))
        nursery.start_soon(harness.spawn, other, new_job(key="k", id=second))
        await until_running(await harness.connect(), other.info.backend_pid, "pg_advisory_xact_lock")
    await harness.spawn(conn, new_job(key="k", id=first))
    assert await order(harness, conn) == [2, 1, 0]


async def test_order_within_a_batch_is_that_given(harness: StoreHarness, conn: Conn) -> None:
    ids = [new_id() for _ in range(50)]
    shuffled = ids[::7] + [job_id for number, job_id in enumerate(ids) if number % 7]
    await harness.spawn(conn, *(new_job(key="k", id=job_id) for job_id in shuffled))
    assert await order(harness, conn) == [ids.index(job_id) for job_id in shuffled]


@pytest.mark.parametrize("head", ["available", "delayed", "running", "retried", "released", "rescued"])
async def test_an_unfinished_head_blocks(harness: StoreHarness, conn: Conn, head: str) -> None:
    await harness.spawn(conn, new_job(key="k", delay=60.0 if head == "delayed" else 0.0))
    worker = await harness.worker(conn)
    if head in {"running", "retried", "released", "rescued"}:
        [claimed] = await harness.claim(conn, worker)
        if head == "retried":
            await harness.record(conn, [to_be_retried(claimed, 60.0)])
        elif head == "released":
            await harness.on(conn).release(worker)
        elif head == "rescued":
            await harness.on(conn).deregister(worker)
            assert await harness.rescue(conn) == 1
    await harness.spawn(conn, new_job(key="k"), new_job(key="k"), new_job(key="other"))
    assert (await harness.states(conn))[1:] == ["blocked", "blocked", "available"]
    assert await harness.on(conn).free_stranded() == ({}, FIRST_KEY)


@pytest.mark.parametrize("finish", [delivered, gave_up])
async def test_a_finished_head_frees_exactly_one(harness: StoreHarness, conn: Conn, finish: type) -> None:
    await harness.spawn(conn, *(new_job(key="k") for _ in range(3)))
    [head] = await harness.claim(conn, await harness.worker(conn))
    stale, unblocked, busy = await harness.on(conn).record([finish(head)], now=0.0, excerpt=0)
    assert not stale
    assert list(unblocked) == ["c"]
    assert not busy
    assert (await harness.states(conn))[1:] == ["available", "blocked"]


async def finishing(harness: StoreHarness, conn: Conn) -> Claimed:
    """A head about to be finished."""
    await harness.spawn(conn, new_job(key="k"))
    [head] = await harness.claim(conn, await harness.worker(conn))
    return head


async def test_spawned_while_the_head_is_being_recorded(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    head = await finishing(harness, conn)
    async with trio.open_nursery() as nursery, conn.transaction():
        await harness.record(conn, [delivered(head)])
        nursery.start_soon(harness.spawn, other, new_job(key="k"))
        await until_running(await harness.connect(), other.info.backend_pid, "pg_advisory_xact_lock")
    assert await harness.states(conn) == ["succeeded", "available"]


async def test_recorded_while_a_successor_is_being_spawned(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    head = await finishing(harness, conn)
    async with trio.open_nursery() as nursery, conn.transaction():
        await harness.spawn(conn, new_job(key="k"))
        nursery.start_soon(harness.record, other, [delivered(head)])
        await until_running(await harness.connect(), other.info.backend_pid, "pg_advisory_xact_lock")
    assert await harness.states(conn) == ["succeeded", "available"]


async def test_an_outcome_does_not_wait_for_a_transaction_that_stays_open(
    harness: StoreHarness, conn: Conn, other: Conn
) -> None:
    """Nor do the outcomes of other channels that are written with it. The successor is found afterwards."""
    head = await finishing(harness, conn)
    await harness.spawn(conn, new_job("free"), new_job("keyed", key="k2"), new_job("keyed", key="k2"))
    rest = await harness.claim(conn, await harness.worker(conn), {"free": 1, "keyed": 1})
    async with conn.transaction():
        await harness.spawn(conn, new_job(key="k"))
        with trio.fail_after(5):
            assert len(await harness.record(other, [delivered(head), *map(delivered, rest)])) == 3
            assert await harness.on(other).free_stranded() == ({}, FIRST_KEY)
        assert await harness.states(other) == ["succeeded", "succeeded", "succeeded", "available"]
    assert await harness.states(conn) == ["succeeded", "succeeded", "succeeded", "available", "blocked"]
    await harness.on(conn).listen([harness.notifications.due_topic])
    assert list((await harness.on(other).free_stranded())[0]) == ["c"]
    assert (await harness.states(conn))[-1] == "available"
    assert [n.payload async for n in conn.notifies(timeout=5, stop_after=1)] == ['{ "c" : 0 }']


async def test_busy_keys_are_left_to_their_callers(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    async with conn.transaction():
        await harness.spawn(conn, new_job(key="busy"))
        busy, idle, free = new_job(key="busy"), new_job(key="idle"), new_job()
        assert (await harness.on(other).store([busy, idle, free], wait_for_keys=False)).left == [busy]
    assert (await harness.on(other).store([busy], wait_for_keys=False)).left == []
    assert await value(conn, "SELECT count(*) FROM requeuest.job") == 4


async def test_who_comes_while_others_wait_behind_nobody_comes_after_them(harness: StoreHarness, conn: Conn) -> None:
    """Their head is finished, and they are not yet told: as after an outcome that did not wait for the key."""
    await harness.spawn(conn, *(new_job(key="k") for _ in range(3)))
    await conn.execute("DELETE FROM requeuest.job WHERE state = 'available'")
    await harness.spawn(conn, new_job(key="k"))
    assert await harness.states(conn) == ["blocked"] * 3
    await harness.on(conn).free_stranded()
    assert await order(harness, conn) == [0, 1, 2]


async def test_the_key_of_an_unfinished_head_is_left_alone(harness: StoreHarness, conn: Conn) -> None:
    """It was found stranded, and has a head again by the time of its lock."""
    await harness.spawn(conn, new_job(key="k"), new_job(key="k"))
    assert await harness.on(conn).unblock_what_is_free({("c", "k")}) == ({}, set())
    assert await harness.states(conn) == ["available", "blocked"]


async def test_the_same_id_again_does_not_block_the_key(harness: StoreHarness, conn: Conn) -> None:
    job = new_job(key="k")
    await harness.spawn(conn, job)
    await harness.spawn(conn, new_job(key="k", id=job.id))
    await harness.spawn(conn, new_job(key="k", id=job.id), new_job(key="k"))
    assert await harness.states(conn) == ["available", "blocked"]
    assert await order(harness, conn) == [0, 1]


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM requeuest.job WHERE state = 'available'",
        "UPDATE requeuest.job SET state = 'dead', finished_at = now() WHERE state = 'available'",
    ],
)
async def test_keys_whose_head_another_program_took_are_healed(harness: StoreHarness, conn: Conn, damage: str) -> None:
    await harness.spawn(conn, *(new_job(f"c{n % 4}", key=f"k{n % 12}") for n in range(36)))
    await conn.execute(damage.encode())
    assert sorted((await harness.on(conn).free_stranded())[0]) == ["c0", "c1", "c2", "c3"]
    assert await value(conn, "SELECT count(*) FROM requeuest.job WHERE state = 'available'") == 12
    assert await harness.on(conn).free_stranded() == ({}, FIRST_KEY)


async def test_equal_keys_of_different_channels_are_different(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, new_job("a", key="k"), new_job("b", key="k"), new_job("a", key="l"))
    assert await harness.states(conn) == ["available"] * 3


async def test_two_heads_of_a_key_are_refused_by_the_table(harness: StoreHarness, conn: Conn) -> None:
    import psycopg

    await harness.spawn(conn, new_job(key="k"), new_job(key="k"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        await conn.execute("UPDATE requeuest.job SET state = 'available'")


async def test_stranded_keys_are_looked_for_piece_by_piece(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, *(new_job(key=f"k{n:04}") for n in range(1_200) for _ in range(2)))
    await conn.execute("DELETE FROM requeuest.job WHERE ordering_key IN ('k0003', 'k1100') AND state = 'available'")
    unblocked, after = await harness.on(conn).free_stranded()
    assert (list(unblocked), after) == (["c"], ("c", "k0999"))
    unblocked, after = await harness.on(conn).free_stranded(after)
    assert (list(unblocked), after) == (["c"], FIRST_KEY)
    assert await value(conn, "SELECT count(*) FROM requeuest.job WHERE state = 'blocked'") == 1_198
