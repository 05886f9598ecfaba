"""
A primary that waits for a replica which does not answer: what it has committed, nobody else has.

PostgreSQL ends that wait when the statement is cancelled, and then tells of a success, with a warning: "The transaction
has already committed locally, but might not have been replicated to the standby." Whoever takes that for a commit loses
the job with the primary.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from uuid import UUID, uuid4

import psycopg
import pytest
import trio

from requeuest_trio import Client, DatabaseUnavailable, Request, open_requeuest
from requeuest_trio._postgres import TrioConnection
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe
from tests.faults.outages import looking_at, open_replica, queue_server
from tests.throwaway import Throwaway

WAITING = "select count(*) = 1 from pg_stat_activity where wait_event = 'SyncRep'"
WAITING_TO_STORE = (
    "select count(*) = 1 from pg_stat_activity where wait_event = 'SyncRep' and position('WITH ordered' in query) > 0"
)
REQUEST = Request.get("http://receiver.invalid/")


class Primary:
    """A server that can be told to wait for a replica."""

    def __init__(self, server: Throwaway, probe: QueueProbe) -> None:
        self.server = server
        self.probe = probe

    async def wait_for(self, replicas: str) -> None:
        await self.probe.connection.execute(f"alter system set synchronous_standby_names = '{replicas}'".encode())
        await self.probe.connection.execute("select pg_reload_conf()")
        await self.probe.until_true("select current_setting('synchronous_standby_names') = %s", replicas)

    async def until_it_waits(self) -> None:
        await self.probe.until_true(WAITING)

    async def break_off(self) -> None:
        """What an administrator can do, and what a client does whose patience is at its end."""
        await self.until_it_waits()
        await self.probe.rows("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")

    async def stored(self, job_id: UUID) -> int:
        stored: int = await self.probe.value("select count(*) from requeuest.job where id = %s", job_id)
        return stored


@pytest.fixture
async def primary() -> AsyncIterator[Primary]:
    async with queue_server() as server, looking_at(server) as probe:
        # Whoever looks must not be made to wait.
        await probe.connection.execute("set synchronous_commit = off")
        yield Primary(server, probe)


# --- a connection -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def inserting(primary: Primary) -> AsyncIterator[TrioConnection]:
    await primary.probe.connection.execute("create table note (text text)")
    await primary.wait_for("nobody")
    async with await TrioConnection.connect(primary.server.dsn(), autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_a_commit_whose_wait_was_broken_off_is_in_doubt(primary: Primary, in_transaction: bool) -> None:
    async with inserting(primary) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(primary.break_off)
        with pytest.raises(psycopg.OperationalError, match="replica"):
            async with connection.transaction() if in_transaction else nullcontext():
                await connection.execute("insert into note values ('a')")
        assert connection.broken
    assert await primary.probe.value("select count(*) from note") == 1


async def test_a_statement_cancelled_in_that_wait_is_no_success(primary: Primary) -> None:
    async with inserting(primary) as connection, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def cancel() -> None:
            await primary.until_it_waits()
            scope.cancel()

        with trio.CancelScope() as scope, pytest.raises(psycopg.OperationalError, match="replica"):
            await connection.execute("insert into note values ('a')")
        assert connection.broken


# --- the queue --------------------------------------------------------------------------------------------------------


async def spawn(client: Client, manner: str, job_id: UUID) -> None:
    if manner == "one":
        await client.spawn("a", REQUEST, job_id=job_id)
    elif manner == "ordered":
        await client.spawn("a", REQUEST, job_id=job_id, ordering_key="k")
    else:
        await client.spawn_many("a", [REQUEST] * 2, job_id=[job_id, UUID(int=job_id.int + 1)])


@pytest.mark.parametrize("manner", ["one", "ordered", "many"])
async def test_a_spawn_returns_only_once_the_replica_has_the_job(primary: Primary, manner: str) -> None:
    """Nor does it when it is repeated, and finds that the job is there."""
    job_id = uuid4()
    async with open_requeuest(primary.server.dsn(), ()) as client:
        await primary.wait_for("nobody")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def break_off() -> None:
                await primary.break_off()
                # The library repeats what is in doubt.
                await primary.break_off()

            with pytest.raises(DatabaseUnavailable, match="may have been stored") as raised:
                await spawn(client, manner, job_id)
        assert job_id in raised.value.job_ids
        assert await primary.stored(job_id) == 1
        async with trio.open_nursery() as nursery:
            returned = trio.Event()

            @nursery.start_soon
            async def repeat() -> None:
                await spawn(client, manner, job_id)
                returned.set()

            await primary.until_it_waits()
            assert not returned.is_set()
            await primary.wait_for("")
            await returned.wait()
        assert await primary.stored(job_id) == 1


async def test_a_job_sent_by_its_own_process_is_not_acknowledged_without_the_replica(
    primary: Primary, receiver: Receiver
) -> None:
    job_id = uuid4()
    async with open_requeuest(primary.server.dsn(), poll_interval=0.2, lease=600.0) as client:
        await primary.wait_for("nobody")
        async with trio.open_nursery() as nursery:
            acknowledged = trio.Event()

            @nursery.start_soon
            async def come_to_an_agreement() -> None:
                await primary.break_off()
                await primary.probe.until_true(WAITING_TO_STORE)
                assert not acknowledged.is_set()
                await primary.wait_for("")

            await client.spawn("a", Request.post(receiver.url), job_id=job_id)
            acknowledged.set()
        assert (await client.wait(job_id)).attempts in {1, 2}
    assert {arrival.header("idempotency-key") for arrival in receiver.arrivals} == {str(job_id)}


async def test_what_a_replica_has_acknowledged_is_there_when_it_takes_over() -> None:
    async with queue_server() as server, open_replica(server) as replica, looking_at(server) as probe:
        await probe.connection.execute("set synchronous_commit = off")
        await Primary(server, probe).wait_for("*")
        await probe.until_true("select count(*) = 1 from pg_stat_replication where sync_state = 'sync'")
        async with open_requeuest(server.dsn(), ()) as client:
            job_ids = [await client.spawn("a", REQUEST) for _ in range(10)]
            job_ids += await client.spawn_many("a", [REQUEST] * 10)
            job_ids.append(await client.spawn("a", REQUEST, ordering_key="k"))
        await trio.to_thread.run_sync(server.stop)
        await trio.to_thread.run_sync(replica.promote)
        async with looking_at(replica) as survivor:
            assert {job_id for [job_id] in await survivor.rows("select id from requeuest.job")} == set(job_ids)
