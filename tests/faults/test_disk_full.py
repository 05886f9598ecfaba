"""
No room is left on the server's disk: for its log, which brings it down, or only for its tables, which does not.

What could go wrong: an error that does not say what the matter is, an outcome that is lost because it can't be written,
a worker that ends, or one that does not go on once there is room.
"""

import os
from uuid import UUID, uuid4

import pytest
import trio

from requeuest_trio import Client, DatabaseUnavailable, Request, migrate, open_requeuest
from requeuest_trio.testing import Receiver, Reply, open_receiver
from tests.faults.outages import IMPATIENT, in_thread, logged, looking_at, queue_server, spawn_surely
from tests.throwaway import CannotStartError, Throwaway

ROOM = 24 << 20

# Its log comes in files of 1 MB. None is kept for later, so that more room is needed soon.
SPARING = {"min_wal_size": "2MB", "max_wal_size": "8MB", "wal_recycle": "off", "wal_init_zero": "on"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")


async def _spawn_until_refused(client: Client, url: str) -> tuple[list[UUID], UUID, str]:
    """Returns what was stored, and the one that was not, as far as its caller knows, and why."""
    stored: list[UUID] = []
    while True:
        job_id = uuid4()
        try:
            stored.append(await client.spawn("a", Request.post(url, content=os.urandom(100_000)), job_id=job_id))
        except DatabaseUnavailable as error:
            assert error.job_ids == (job_id,)  # noqa: PT017 - the loop goes on without an error
            return stored, job_id, str(error)


async def test_no_room_for_the_log_brings_the_server_down_and_loses_nothing() -> None:
    """PostgreSQL ends itself, and can't start before there is room again."""
    async with queue_server(SPARING, wal_room=ROOM) as server, open_receiver() as receiver:
        receiver.decide = lambda _: Reply(delay=0.1)
        async with open_requeuest(server.dsn(), lease=2.0, poll_interval=0.2, config=IMPATIENT) as client:
            running = await client.spawn("a", Request.get(receiver.url))
            await client.wait(running)
            await in_thread(server.fill)
            with logged() as log:
                stored, unknown, _ = await _spawn_until_refused(client, receiver.url)
                await in_thread(server.wait_until_ended)
                for event in ("claim_failed", "listener_lost", "heartbeat_failed", "maintenance_failed"):
                    await log.wait_for(event)
                with pytest.raises(CannotStartError, match="No space left on device"):
                    await in_thread(server.start)
            await in_thread(server.make_room)
            await in_thread(server.start)
            assert await spawn_surely(client, "a", Request.get(receiver.url), job_id=unknown) == unknown
            await _check_all_delivered(server, receiver, {running, unknown, *stored})


async def test_no_room_for_tables_is_an_error_that_says_so_until_there_is_some() -> None:
    """The server goes on; what would grow, fails."""
    async with queue_server(table_room=ROOM) as server, open_receiver() as receiver:
        await _move_tables_to_the_small_room(server)
        receiver.decide = lambda _: Reply(delay=0.5)
        async with open_requeuest(server.dsn("small"), lease=2.0, poll_interval=0.2, config=IMPATIENT) as client:
            first = await client.spawn("a", Request.get(receiver.url))
            await receiver.wait_for(1)
            await in_thread(server.fill)
            stored, refused, reason = await _spawn_until_refused(client, receiver.url)
            assert "No space left on device" in reason
            await in_thread(server.make_room)
            with trio.fail_after(5):
                again = await spawn_surely(client, "a", Request.get(receiver.url))
            assert await client.job(refused) is None
            await _check_all_delivered(server, receiver, {first, again, *stored}, "small")


async def _move_tables_to_the_small_room(server: Throwaway) -> None:
    async with looking_at(server) as probe:
        await probe.connection.execute(f"create tablespace small location '{server.tablespace}'".encode())
        await probe.connection.execute("create database small tablespace small")
    await migrate(server.dsn("small"))


async def _check_all_delivered(
    server: Throwaway, receiver: Receiver, ids: set[UUID], database: str = "postgres"
) -> None:
    async with looking_at(server, database) as probe:
        await probe.until_states(succeeded=len(ids))
        attempts = dict(await probe.rows("select id, attempts from requeuest.job"))
    assert attempts.keys() == ids
    keys = [arrival.header("idempotency-key") for arrival in receiver.arrivals]
    assert set(keys) == {str(job_id) for job_id in ids}
    for job_id in ids:
        assert keys.count(str(job_id)) <= attempts[job_id]
