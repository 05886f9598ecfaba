"""
PostgreSQL's queue of notifications is full, because some session that listens sits in a transaction.

What could go wrong: everything. A commit that announces something fails then: nothing could be stored, no outcome
written, and no claim given back, all over what is only a hint.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
import trio

from requeuest_trio import Client, DatabaseUnavailable, Request, open_requeuest
from requeuest_trio._store import notifications
from requeuest_trio.testing import Receiver, open_receiver
from tests.engine.test_logging import check_table
from tests.faults.outages import logged, queue_server
from tests.postgres.harness import Conn, connect, value
from tests.throwaway import Throwaway


@pytest.fixture
def _can_be_small(admin: psycopg.Connection) -> None:
    if (version := admin.info.server_version // 10_000) < 17:
        pytest.skip(f"the queue holds 8 GB before PostgreSQL 17, and this is {version}")


@pytest.fixture
async def small(_can_be_small: None) -> AsyncIterator[Throwaway]:
    """A server whose queue of notifications is soon full."""
    async with queue_server({"max_notify_queue_pages": "64"}) as server:
        yield server


@asynccontextmanager
async def _full(server: Throwaway) -> AsyncIterator[None]:
    """As long as this block lasts, nothing can be announced."""
    async with await connect(server.dsn()) as listener, await connect(server.dsn()) as talker:
        await listener.execute("LISTEN anything")
        async with listener.transaction():
            await listener.execute("select 1")
            # First what is large, and then what is left at the ends of pages.
            await _talk(talker, "select pg_notify('anything', i || repeat('x', 7000)) from generate_series(1, 9) i")
            await _talk(talker, "select pg_notify('anything', '')")
            yield


async def _talk(talker: Conn, query: str) -> None:
    with suppress(psycopg.errors.ProgramLimitExceeded):
        while True:
            await talker.execute(query.encode())


async def test_while_it_is_full_all_is_stored_delivered_and_recorded_and_then_announced_again(
    small: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "_PAUSE_SECONDS", 0.5)
    with logged() as log:
        async with (
            open_receiver() as receiver,
            open_requeuest(small.dsn(), poll_interval=0.2) as one,
            open_requeuest(small.dsn(), (), poll_interval=0.2) as producer,
        ):
            async with _full(small):
                await _use(one, producer, receiver)
                assert log.fields("notify_queue_full")
            await _is_announced_again(small, producer)
            assert not log.fields("record_failed")
    check_table(log)


async def _use(one: Client, producer: Client, receiver: Receiver) -> None:
    """Every way of storing, and every kind of outcome, among them such as are waited for."""
    request = Request.get(receiver.url)
    with trio.fail_after(30):
        for client in (one, producer):
            assert (await client.spawn_returning("a", request)).status_code == 200
            ids = [await client.spawn("a", request, ordering_key="k"), *await client.spawn_many("a", [request] * 5)]
            for job_id in ids:
                assert (await client.result(job_id)).status_code == 200
        try:
            async with producer.transaction() as connection:
                await producer.spawn("a", request, connection=connection)
        except DatabaseUnavailable:
            # The first to find it full; nothing was committed.
            async with producer.transaction() as connection:
                await producer.spawn("a", request, connection=connection)
        await producer.clear(["a"])


async def _is_announced_again(server: Throwaway, producer: Client) -> None:
    """PostgreSQL does not make room by itself, even if everybody has heard everything."""
    async with await connect(server.dsn()) as listener:
        await listener.execute('LISTEN "requeuest:due"')
        with trio.fail_after(20):
            heard: list[psycopg.Notify] = []
            while not heard:
                await producer.spawn("later", Request.get("http://receiver.test"), delay=60)
                heard = [notification async for notification in listener.notifies(timeout=0.1)]
        assert await value(listener, "select pg_notification_queue_usage() < 0.1")
