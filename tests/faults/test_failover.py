"""
A replica takes over: what was not replicated is gone, and everything else goes on by itself.

The connection string names both servers and asks for the one that can be written to. Replication is asynchronous, and
was interrupted before the end, so that there is something to be lost.
"""

from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
import trio
from psycopg.conninfo import make_conninfo

from requeuest_trio import Client, DatabaseUnavailable, Job, Request, open_requeuest
from requeuest_trio._embedded.server import PORT
from requeuest_trio.testing import Reply, open_receiver
from tests.engine.probe import QueueProbe
from tests.faults.outages import IMPATIENT, in_thread, logged, looking_at, open_replica, queue_server, spawn_surely
from tests.throwaway import Throwaway

BACK_WITHIN = 15.0
SILENT_PRIMARY = 30.0
"""With the default lease, from the promotion to the first delivery."""


def _either(*servers: Throwaway, attributes: str = "read-write") -> str:
    hosts, ports = ",".join(str(server.socket) for server in servers), ",".join([str(PORT)] * len(servers))
    return make_conninfo(servers[0].dsn(), host=hosts, port=ports, target_session_attrs=attributes)


async def test_workers_follow_to_the_new_primary_and_only_what_it_does_not_have_is_lost() -> None:
    async with queue_server() as server, open_replica(server) as replica, open_receiver() as receiver:
        dsn = _either(server, replica)
        async with open_requeuest(dsn, lease=1.0, poll_interval=0.2) as client:
            replicated = await client.spawn_many("a", [Request.get(receiver.url)] * 20, delay=1.5)
            delivered = await client.spawn("a", Request.get(receiver.url))
            await client.wait(delivered)
            async with looking_at(replica) as probe:
                await probe.until_true("select count(*) = 1 from requeuest.job where state = 'succeeded'")
                await _stop_following(probe)
            lost = await client.spawn("a", Request.get(receiver.url), delay=1.5)
            forgotten = await client.spawn("b", Request.get(receiver.url))
            await client.wait(forgotten)
            await in_thread(server.stop)
            await in_thread(replica.promote)
            promoted_at = trio.current_time()
            after = await spawn_surely(client, "a", Request.get(receiver.url))
            await client.wait(after)
            assert trio.current_time() - promoted_at < BACK_WITHIN
            for job_id in replicated:
                assert (await client.wait(job_id)).attempts == 1
            assert await client.job(lost) is None
            assert await client.job(forgotten) is None
    sent = {arrival.header("idempotency-key") for arrival in receiver.arrivals}
    assert sent == {str(job_id) for job_id in (*replicated, delivered, forgotten, after)}
    assert len(receiver.arrivals) == len(sent)


@pytest.mark.parametrize("attributes", ["read-write", "primary", "any"])
async def test_a_silent_primary_is_left_for_the_one_that_was_promoted(attributes: str) -> None:
    """It holds its connections, takes new ones, and answers nothing: as a frozen machine, or behind a cut cable."""
    async with queue_server() as server, open_replica(server) as replica, open_receiver() as receiver:
        dsn = _either(server, replica, attributes=attributes)
        async with open_requeuest(dsn, poll_interval=1.0) as client:
            await client.spawn_returning("a", Request.get(receiver.url))
            waiting = await client.spawn_many("a", [Request.get(receiver.url)] * 5, delay=2.0)
            async with looking_at(server) as probe:
                await probe.until_true("select pg_current_wal_lsn() = replay_lsn from pg_stat_replication")
            server.stand_still()
            await in_thread(replica.promote)
            with trio.fail_after(SILENT_PRIMARY):
                await receiver.wait_for(2)
            with trio.fail_after(SILENT_PRIMARY):
                for job_id in waiting:
                    assert (await _surely(client, job_id)).attempts == 1
                await client.wait(await spawn_surely(client, "a", Request.get(receiver.url)))
    assert len(receiver.arrivals) == 7


async def _surely(client: Client, job_id: UUID) -> Job:
    while True:
        with suppress(DatabaseUnavailable):
            return await client.wait(job_id)


async def _stop_following(standby: QueueProbe) -> None:
    """What the primary commits from here on, the replica never sees."""
    await standby.connection.execute("alter system set primary_conninfo = ''")
    await standby.connection.execute("select pg_reload_conf()")
    await standby.until_true("select count(*) = 0 from pg_stat_wal_receiver")


async def test_outcomes_that_the_new_primary_does_not_have_are_sent_again() -> None:
    async with queue_server() as server, open_replica(server) as replica, open_receiver() as receiver:
        receiver.decide = lambda _: Reply(delay=0.5)
        async with open_requeuest(_either(server, replica), lease=1.0, poll_interval=0.2) as client:
            ids = await client.spawn_many("a", [Request.get(receiver.url)] * 10)
            await receiver.wait_for(10)
            async with looking_at(replica) as probe:
                await probe.until_true("select count(*) = 10 from requeuest.job where state = 'running'")
                await _stop_following(probe)
            for job_id in ids:
                await client.wait(job_id)
            await in_thread(server.stop)
            with logged() as log:
                await in_thread(replica.promote)
                assert await log.wait_for("outcomes_lost") == [{"jobs": 10}]
            async with looking_at(replica) as probe:
                await probe.until_states(succeeded=10)
                assert await probe.rows("select distinct attempts from requeuest.job") == [(2,)]
    assert len(receiver.arrivals) == 20


async def test_a_server_that_can_only_be_read_is_left_for_the_one_that_can_be_written_to(tmp_path: Path) -> None:
    """The name leads to a replica for a while, as a name server's answer may do in a failover."""
    async with queue_server() as server, open_replica(server) as replica, open_receiver() as receiver:
        async with looking_at(server) as probe:
            await probe.until_true("select pg_current_wal_lsn() = replay_lsn from pg_stat_replication")
        name = server.data.parents[1] / "name"
        name.symlink_to(server.socket)
        dsn = make_conninfo(server.dsn(), host=str(name))
        async with open_requeuest(dsn, lease=1.0, poll_interval=0.2, config=IMPATIENT) as client:
            await client.spawn_returning("a", Request.get(receiver.url))
            name.unlink()
            name.symlink_to(replica.socket)
            await in_thread(server.restart)
            with logged() as log:
                await log.wait_for("heartbeat_failed", 2)
                with pytest.raises(DatabaseUnavailable, match="read-only"):
                    await client.spawn("a", Request.get(receiver.url))
            name.unlink()
            name.symlink_to(server.socket)
            with trio.fail_after(BACK_WITHIN):
                job_id = await spawn_surely(client, "a", Request.get(receiver.url))
                await client.wait(job_id)
