"""
The database's clock is set, with three workers: by a minute or an hour, forward or back.

What could go wrong, and is tried here: the living take each other for dead, and what is in flight is sent twice; the
dead are taken for living, and what they had is stuck; what was dated by a false clock is due only when that time comes;
what is old only by a false clock is removed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import trio

from requeuest_trio import Config, Request, migrate, open_requeuest
from requeuest_trio._engine.clocks import DatabaseClock
from requeuest_trio._engine.signs_of_life import SignsOfLife
from requeuest_trio._store.maintaining import Sign
from requeuest_trio.testing import open_receiver
from tests.engine.probe import open_probe
from tests.faults.arrivals import Answer
from tests.faults.conftest import HARNESS
from tests.faults.fault_harness import FaultHarness, open_fault_harness
from tests.faults.journal import read_journal
from tests.faults.outages import logged
from tests.faults.processes import Program
from tests.faults.wall import Wall
from tests.waiting import until

LEASE = 1.5
POLL = 0.3
WORKERS, CONCURRENCY = 3, 5
HOUR = 3_600.0
STEPS = [60.0, -60.0, HOUR, -HOUR]


@pytest.fixture
async def wall(dsn: str) -> Wall:
    """The clock of a database in which the schema is up to date."""
    await migrate(dsn)
    wall = Wall(dsn)
    await wall.hang_up()
    return wall


@pytest.fixture
async def harness(
    dsn: str, wall: Wall, tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> AsyncIterator[FaultHarness]:
    async with open_fault_harness(dsn, tmp_path, seed) as opened:
        request.node.stash[HARNESS] = opened
        yield opened


async def start_worker(harness: FaultHarness) -> Program:
    return await harness.start_worker(lease=LEASE, poll_interval=POLL, concurrency=CONCURRENCY, attempt_timeout=30.0)


@pytest.mark.parametrize("seconds", STEPS)
async def test_the_living_do_not_rob_each_other(harness: FaultHarness, wall: Wall, seconds: float) -> None:
    """Attempts are under way for two leases after the step; then the clock is put right, with others under way."""
    await harness.start_receiver(Answer(delay=2.2 * LEASE))
    workers = [await start_worker(harness) for _ in range(WORKERS)]
    places = WORKERS * CONCURRENCY
    await harness.produce(jobs=2 * places, largest_batch=10)
    await harness.until_arrived(places)
    await wall.set(seconds)
    await harness.until_arrived(2 * places)
    await wall.set(0.0)
    await harness.until_finished()
    for worker in workers:
        await harness.until_logged(worker, "clock_set", 2)
        events = Counter(line["event"] for line in read_journal(worker.log))
        assert not events.keys() & {"rescued", "lease_lost", "outcomes_stale"}
    assert Counter(Counter(arrival.job for arrival in harness.arrivals()).values()) == {1: 2 * places}
    assert await harness.ask("select attempts, count(*) from requeuest.job group by attempts") == [(1, 2 * places)]


@asynccontextmanager
async def kept_from_beating(harness: FaultHarness, worker: Program) -> AsyncIterator[None]:
    """A worker gives no sign of life as long as this block lasts."""
    connection = await trio.to_thread.run_sync(partial(psycopg.connect, harness.dsn))
    try:
        locked = connection.execute("select from requeuest.worker where pid = %s for update", [worker.pid])
        assert locked.rowcount == 1
        yield
    finally:
        connection.close()


async def until_rescued(harness: FaultHarness) -> None:
    """Wait for a round of maintenance: it rescues a job of a process that never was."""
    [[orphan]] = await harness.ask(
        "insert into requeuest.job (channel, method, url, state, attempts, worker, claim, claimed_at) "
        "values ('orphans', 'GET', %s, 'running', 1, gen_random_uuid(), gen_random_uuid(), now()) returning id",
        harness.url,
    )
    await harness.until_true("select exists (select from requeuest.attempt where job_id = %s)", orphan)


async def test_who_has_given_no_sign_since_the_step_is_not_robbed(harness: FaultHarness, wall: Wall) -> None:
    """Two others have, and look for lost processes."""
    await harness.start_receiver(Answer(manner="never"))
    terms: dict[str, Any] = {"lease": 6.0, "poll_interval": POLL, "concurrency": CONCURRENCY, "attempt_timeout": 60.0}
    workers = [await harness.start_worker(**terms) for _ in range(WORKERS)]
    places = WORKERS * CONCURRENCY
    await harness.produce(jobs=places, largest_batch=10)
    await harness.until_arrived(places)
    await until_rescued(harness)  # from now on those that were started first would rescue
    async with kept_from_beating(harness, workers[-1]):
        await wall.set(60.0)
        await until_rescued(harness)
    assert await harness.ask("select count(*)::int from requeuest.attempt") == [(2,)]


@pytest.mark.parametrize("seconds", STEPS)
async def test_the_dead_are_known_for_dead(harness: FaultHarness, wall: Wall, seconds: float) -> None:
    """Once they have been watched for a lease, whatever the clock shows meanwhile."""
    await harness.start_receiver(Answer(manner="never"), Answer())
    doomed = await start_worker(harness)
    await harness.produce(jobs=CONCURRENCY, largest_batch=CONCURRENCY)
    await harness.until_arrived(CONCURRENCY)
    held = await harness.held_by(doomed)
    assert len(held) == CONCURRENCY
    living = [await start_worker(harness) for _ in range(WORKERS - 1)]
    at = time.monotonic()
    await doomed.kill()
    await wall.set(seconds)
    await harness.until_arrived(2 * CONCURRENCY)
    arrivals = harness.arrivals()[CONCURRENCY:]
    assert {arrival.job for arrival in arrivals} == held
    assert min(arrival.at for arrival in arrivals) - at > LEASE * 5 / 6 - 0.1
    for worker in living:
        assert not [line for line in read_journal(worker.log) if line["event"] == "lease_lost"]


async def test_what_was_dated_in_a_false_future_comes_back(harness: FaultHarness, wall: Wall) -> None:
    """What was to be tried again in a second."""
    await harness.start_receiver(Answer(status=503), Answer())
    await wall.set(HOUR)
    worker = await start_worker(harness)
    retry = {"initial": 1.0, "jitter": 0.0}
    await harness.produce(jobs=5, largest_batch=5, retry=retry)
    await harness.until_true("select count(*) = 5 from requeuest.attempt")
    failed = {arrival.job: arrival.at for arrival in harness.arrivals()}
    await wall.set(0.0)
    await harness.until_arrived(10)
    await harness.until_finished()
    for arrival in harness.arrivals()[5:]:
        assert arrival.at - failed[arrival.job] > 0.95, "tried again too early"
    assert (await harness.until_logged(worker, "brought_back"))["jobs"] == 5


async def test_what_was_stored_in_a_false_future_is_delivered(dsn: str, wall: Wall) -> None:
    """In a key, too; but not what the application itself has put off. Nobody who delivers saw the clock being set."""
    async with open_receiver() as receiver, open_probe(dsn) as probe:
        request = Request.get(receiver.url)
        await wall.set(HOUR)
        async with open_requeuest(dsn, ()) as client:
            await client.spawn_many("free", [request] * 3)
            await client.spawn_many("in order", [request] * 3, ordering_key="k")
            await client.spawn("put off", request, delay=HOUR)
        await wall.set(0.0)
        with logged() as log:
            async with open_requeuest(dsn, lease=LEASE, poll_interval=POLL):
                await probe.until_states(succeeded=6, available=1)
        assert log.fields("brought_back") == [{"jobs": 6}]
        assert await probe.value("select count(*) = 1 from requeuest.job where due_at > now() + interval '90 min'")


async def test_what_is_old_only_by_a_false_clock_is_kept(dsn: str, wall: Wall) -> None:
    config = Config(keep_succeeded=timedelta(hours=1).total_seconds())
    async with open_receiver() as receiver, open_probe(dsn) as probe:
        with logged() as log:
            async with open_requeuest(dsn, lease=LEASE, poll_interval=POLL, config=config) as client:
                job_id = await client.spawn("c", Request.get(receiver.url))
                await client.wait(job_id)
                await wall.set(2 * HOUR)
                await log.wait_for("clock_set")
                # Lost, so that it shows that rounds of maintenance were made.
                await probe.rows(
                    "insert into requeuest.job (channel, method, url, state, attempts, worker, claim, claimed_at) "
                    "values ('c', 'GET', %s, 'running', 1, gen_random_uuid(), gen_random_uuid(), now()) returning id",
                    receiver.url,
                )
                await log.wait_for("rescued")
                await until(lambda: len(receiver.arrivals) == 2)
                assert await client.job(job_id) is not None


# --- what it rests on -------------------------------------------------------------------------------------------------


def test_a_step_is_told_from_a_slow_answer() -> None:
    clock = DatabaseClock()
    assert clock.told(1_000.0, asked_at=0.0, answered_at=0.1) == 0.0
    assert clock.told(1_005.0, asked_at=0.5, answered_at=9.0) == 0.0, "a slow answer"
    assert clock.told(1_010.0, asked_at=10.0, answered_at=10.1) == 0.0
    assert 59 < clock.told(1_075.0, asked_at=15.0, answered_at=15.1) < 61
    assert -61 < clock.told(1_020.0, asked_at=20.0, answered_at=20.1) < -59
    assert clock.told(1_320.0, asked_at=320.0, answered_at=320.1) == 0.0, "both were in suspend"
    assert (clock.times_set, clock.set_at) == (2, 20.1)
    assert 1_330.0 <= clock.latest(330.0) < 1_332.0


def test_a_process_is_lost_once_nothing_has_changed_for_its_own_lease() -> None:
    seen = SignsOfLife()
    signs = [Sign(UUID(int=number), "2026-01-01", float(lease)) for number, lease in enumerate([1, 1, 30])]
    seen.look(signs, 100.0)
    assert seen.lost(100.99) == []
    assert seen.next_loss(100.5) == 101.0
    beat = signs[0]._replace(seen_at="1999-01-01")  # an earlier time is a sign as well
    seen.look([beat, *signs[1:]], 100.9)
    assert seen.lost(101.0) == [signs[1]]
    seen.look([beat], 102.0)
    assert seen.lost(102.0) == [beat]
    seen.start_over()
    seen.look([beat], 103.0)
    assert seen.lost(103.5) == []
    assert seen.next_loss(103.5) == 104.0
