"""
A database that neither answers nor breaks its connections, as behind a cut cable or a firewall that has lost its state.

What could go wrong, and is tried here: a call, or the end of a block, that hangs; an attempt that goes on when its
lease is over, and is sent a second time; a process that does not go on afterwards; connections that stay behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from requeuest_trio import Client, Config, DatabaseUnavailable, Request, _open, open_requeuest
from requeuest_trio._engine import listener
from requeuest_trio._engine.runner import FINISH_SECONDS
from requeuest_trio._postgres import SETTLE_TIMEOUT
from requeuest_trio._store import database
from requeuest_trio.testing import Receiver, Stall
from tests.engine.conftest import log
from tests.engine.probe import Log, QueueProbe, nothing_left
from tests.faults.arrivals import Answer
from tests.faults.fault_harness import FaultHarness
from tests.faults.outages import spawn_surely
from tests.faults.scale import scaled
from tests.proxy import Proxy, open_proxy

__all__ = ["log"]

LEASE, GRACE = 1.5, 0.3
LONGEST_SHIELD = 5.0
SLACK = 1.5
"""For a machine that is busy with something else."""
MOST_CONNECTIONS = 8
"""Four for callers, and one for each of the others."""
SESSIONS = "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
CONFIG = Config(connect_timeout=1.0, statement_timeout=0.4)
EVENTS = ("claim_failed", "record_failed", "heartbeat_failed", "listener_lost", "maintenance_failed", "lease_lost")


@pytest.fixture
async def proxy(probe: QueueProbe) -> AsyncIterator[Proxy]:
    async with open_proxy(probe.dsn) as opened:
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server is given to answer, beyond its own time limit, and to the listener, is shorter than usual."""
    monkeypatch.setattr(database, "_GRACE_SECONDS", 0.6)
    for seconds in ("_CHECK_SECONDS", "_ANSWER_SECONDS"):
        monkeypatch.setattr(listener, seconds, 1.0)


@pytest.mark.usefixtures("impatient")
async def test_it_stops_in_time_tells_of_it_and_goes_on_afterwards(
    probe: QueueProbe, receiver: Receiver, proxy: Proxy, log: Log
) -> None:
    receiver.script(*[Stall()] * 3)
    async with nothing_left(probe), open_requeuest(proxy.dsn, lease=LEASE, poll_interval=0.3, config=CONFIG) as client:
        [first, _] = await client.spawn_many("a", [Request.get(receiver.url)] * 2, ordering_key="k")
        running = [first, *await client.spawn_many("b", [Request.get(receiver.url)] * 2)]
        await receiver.wait_for(3)
        await _freeze_until_all_have_noticed(client, proxy, log, receiver)
        await spawn_surely(client, "a", Request.get(receiver.url), "k")
        await probe.until_true("select bool_and(state = 'succeeded') from requeuest.job")
        await probe.until_true(f"select count(*) <= {MOST_CONNECTIONS} from ({SESSIONS}) as sessions")
    for job_id in running:
        assert (await probe.job(job_id))[1] == 2, "it was cut short once, and that counts"
    assert await probe.value("select max(attempts) from requeuest.job") == 2


async def _freeze_until_all_have_noticed(client: Client, proxy: Proxy, log: Log, receiver: Receiver) -> None:
    proxy.freeze()
    frozen_at, arrived = trio.current_time(), len(receiver.arrivals)
    await log.wait_for("lease_lost")
    assert trio.current_time() - frozen_at < LEASE, "it was sending when others might have begun to"
    limit = 2 * (CONFIG.connect_timeout + CONFIG.statement_timeout + 0.6) + SETTLE_TIMEOUT
    with trio.fail_after(limit + SLACK), pytest.raises(DatabaseUnavailable):
        await client.spawn("a", Request.get(receiver.url))
    with trio.fail_after(limit + SLACK), pytest.raises(DatabaseUnavailable):
        await client.stats()
    for event in EVENTS:
        await log.wait_for(event)
    assert len(receiver.arrivals) == arrived, "it has sent something without a lease"
    proxy.thaw()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("frozen_at", ["begin", "commit", "rollback"])
async def test_a_transaction_of_the_application_begins_and_ends_in_time(
    proxy: Proxy, receiver: Receiver, probe: QueueProbe, frozen_at: str
) -> None:
    """What it does in between is its own affair."""
    limit = CONFIG.statement_timeout + 0.6 + SETTLE_TIMEOUT + SLACK
    async with nothing_left(probe), open_requeuest(proxy.dsn, (), config=CONFIG) as client:
        async with client.transaction():
            pass
        expected = _Refusal if frozen_at == "rollback" else DatabaseUnavailable
        if frozen_at == "begin":
            proxy.freeze()
        with trio.fail_after(limit), pytest.raises(expected):
            await _spawn_and_freeze(client, proxy, expected)
        proxy.thaw()
        await spawn_surely(client, "a", Request.get(receiver.url))


async def _spawn_and_freeze(client: Client, proxy: Proxy, expected: type[Exception]) -> None:
    async with client.transaction() as connection:
        await client.spawn("a", Request.get("http://receiver.invalid"), connection=connection)
        proxy.freeze()
        if expected is _Refusal:
            raise _Refusal


class _Refusal(Exception):
    """The application's own."""


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["left", "cancelled"])
async def test_the_block_ends_in_time(
    probe: QueueProbe, receiver: Receiver, proxy: Proxy, log: Log, is_cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the limits are for connecting and for statements: those of the end are shorter."""
    assert max(FINISH_SECONDS, SETTLE_TIMEOUT) <= LONGEST_SHIELD
    monkeypatch.setattr(_open, "FINISH_SECONDS", 1.0)
    receiver.script(Stall())
    with trio.CancelScope() as scope:
        async with open_requeuest(proxy.dsn, lease=LEASE, grace=GRACE, poll_interval=0.3) as client:
            job_id = await client.spawn("a", Request.get(receiver.url))
            await receiver.wait_for(1)
            proxy.freeze()
            await log.wait_for("lease_lost")  # so that there is an outcome to be written down
            left_at = trio.current_time()
            if is_cancelled:
                scope.cancel()
    grace = 0.0 if is_cancelled else GRACE
    assert trio.current_time() - left_at < grace + SETTLE_TIMEOUT + 1.0 + SLACK
    [problem] = log.fields("close_incomplete")[-1:]
    assert "did not answer" in problem["error"] or "no connection" in problem["error"]
    proxy.thaw()
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=LEASE, poll_interval=0.3) as other:
        await other.wait(job_id)
        # The one that could not sign off is forgotten.
        await probe.until_true("select count(*) = 1 from requeuest.worker")
    assert len(receiver.arrivals) == 2
    assert not await probe.sessions()


async def test_statements_under_way_have_their_time_to_be_put_in_order(
    proxy: Proxy, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the tasks, then that of the end, then that of the announcer: docs/guarantees.md adds them up."""
    monkeypatch.setattr(_open, "FINISH_SECONDS", 1.0)
    request = Request.get(receiver.url)
    config = Config(statement_timeout=1.0)
    with trio.CancelScope() as scope:
        async with open_requeuest(proxy.dsn, ["a"], lease=LEASE, poll_interval=0.3, config=config) as client:
            # Every connection has been used, and there is something left to announce.
            await client.spawn_returning("a", request)
            await client.spawn("b", request, ordering_key="x")
            proxy.freeze()
            left_at = trio.current_time()
            scope.cancel()
    proxy.thaw()
    assert trio.current_time() - left_at < 3 * SETTLE_TIMEOUT + 1.0 + 1.0 + SLACK


async def test_workers_and_producers_under_load_go_on_after_it(harness: FaultHarness) -> None:
    """For some leases, again and again; with the time limits as they are."""
    await harness.start_receiver(Answer(delay=0.01))
    config = {"connect_timeout": 1.0, "statement_timeout": 0.4}
    async with open_proxy(harness.dsn) as proxy:
        workers = [await harness.start_worker(dsn=proxy.dsn, lease=1.0, config=config) for _ in range(2)]
        producers = [
            await harness.start_producer(dsn=proxy.dsn, asks_again=True, largest_batch=3, pause=0.03, keys=keys)
            for keys in (0, 10)
        ]
        for _ in range(scaled(2, most=50)):
            await harness.run_for(1.0)
            with harness.fault("freeze"):
                proxy.freeze()
                await harness.run_for(3.0)
                proxy.thaw()
        await harness.run_for(1.0)
        for producer in producers:
            producer.terminate()
            await producer.ended(patience=40)
        await harness.until_finished()
        for worker in workers:
            await harness.until_true(
                f"select count(*) <= {MOST_CONNECTIONS} from pg_stat_activity where application_name = %s", worker.name
            )
            await harness.leave(worker)
    await harness.must_hold()
