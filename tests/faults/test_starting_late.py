"""
A database that is not there yet, or not any more: opening says so at once, and what is running waits.

What could go wrong: a process that ends, or hangs, because of it; one that comes back only minutes after the database;
jobs that are taken from processes that merely could not renew their lease while nobody could.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from uuid import UUID, uuid4

import pytest
import trio

from requeuest_trio import DatabaseUnavailable, Request, open_requeuest
from requeuest_trio._engine.lease import Lease
from requeuest_trio._model.backoff import Backoff
from requeuest_trio.testing import open_receiver
from tests.engine.probe import Log, QueueProbe
from tests.faults.outages import IMPATIENT, in_thread, logged, looking_at, queue_server
from tests.throwaway import Throwaway
from tests.waiting import until

BACK_WITHIN = 5.0


async def test_opening_a_queue_says_at_once_that_its_database_is_away_and_works_once_it_is_there() -> None:
    async with queue_server() as server, open_receiver() as receiver:
        await in_thread(server.stop)
        with trio.fail_after(2), pytest.raises(DatabaseUnavailable):
            async with open_requeuest(server.dsn()):
                raise AssertionError("it has opened without a database")
        await in_thread(server.launch)
        # While it repairs its data it refuses connections, which says the same in other words.
        await until(partial(_delivers, server, receiver.url), patience=20)
    assert len(receiver.arrivals) == 1


async def _delivers(server: Throwaway, url: str) -> bool:
    try:
        async with open_requeuest(server.dsn()) as client:
            return (await client.spawn_returning("a", Request.get(url))).status_code == 200
    except DatabaseUnavailable:
        return False


async def test_workers_begin_soon_after_their_database_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it was away: every pause is the longest that there is, and the lease is over, as after hours."""
    leases = _remembered_leases(monkeypatch)
    async with (
        queue_server() as server,
        open_receiver() as receiver,
        open_requeuest(server.dsn(), poll_interval=0.5, config=IMPATIENT) as client,
    ):
        late = await client.spawn("a", Request.get(receiver.url), delay=1.0)
        _make_every_pause_the_longest(monkeypatch)
        await in_thread(server.stop)
        with logged() as log:
            for event in ("claim_failed", "listener_lost", "heartbeat_failed"):
                await log.wait_for(event)
            leases[0].lapse()
            await _one_more_vain_try(log)
        await in_thread(server.start)
        with trio.fail_after(BACK_WITHIN):
            await receiver.wait_for(1)
        with trio.fail_after(BACK_WITHIN):
            await client.wait(late)
    assert len(receiver.arrivals) == 1


async def _one_more_vain_try(log: Log) -> None:
    """Wait until the server was looked for in vain once more, so that the longest pause lies ahead."""

    def tries() -> int:
        return sum("connection attempt failed" in record.getMessage() for record in log.records)

    before = tries()
    await until(lambda: tries() > before)


def _make_every_pause_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    delay = Backoff.delay

    def longest(backoff: Backoff, failures: int, _: Callable[[], float]) -> float:
        return delay(backoff, 1000 if failures else 0, lambda: 0.0)

    monkeypatch.setattr(Backoff, "delay", longest)


def _remembered_leases(monkeypatch: pytest.MonkeyPatch) -> list[Lease]:
    leases: list[Lease] = []
    start = Lease.__init__

    def remembered(lease: Lease, length: float) -> None:
        start(lease, length)
        leases.append(lease)

    monkeypatch.setattr(Lease, "__init__", remembered)
    return leases


async def test_after_an_outage_longer_than_a_lease_nobody_rescues_before_a_whole_lease() -> None:
    """Two processes live through it, and a third does not: only its job is taken, and not at once."""
    lease = 1.0
    async with queue_server() as server, open_receiver() as receiver, AsyncExitStack() as stack:
        for _ in range(2):
            opening = open_requeuest(server.dsn(), lease=lease, poll_interval=0.3, config=IMPATIENT)
            await stack.enter_async_context(opening)
        await trio.sleep(lease + 0.1)  # they have seen the database up for a lease, and may rescue
        async with looking_at(server) as probe:
            orphan = await _plant_job_of_a_process(probe, receiver.url, lease)
        await in_thread(server.stop)
        await trio.sleep(1.2 * lease)
        with logged() as log:
            await in_thread(server.start)
            up_since = trio.current_time()
            await log.wait_for("rescued")
            assert trio.current_time() - up_since > lease * 0.95
            with trio.fail_after(lease):
                [arrival] = await receiver.wait_for(1)
        assert arrival.header("idempotency-key") == str(orphan)
        assert log.fields("rescued") == [{"jobs": 1}]


async def _plant_job_of_a_process(probe: QueueProbe, url: str, lease: float) -> UUID:
    """It was seen just now, and will not be seen again."""
    worker, job_id = uuid4(), uuid4()
    await probe.rows(
        "with gone as (insert into requeuest.worker (id, lease, host, pid) values (%s, %s * interval '1 s', '', 1)) "
        "insert into requeuest.job (id, channel, method, url, state, attempts, worker, claim, claimed_at) "
        "values (%s, 'a', 'GET', %s, 'running', 1, %s, gen_random_uuid(), now()) returning id",
        worker, lease, job_id, url, worker,
    )  # fmt: skip
    return job_id
