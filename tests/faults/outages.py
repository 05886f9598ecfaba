"""What the tests of the server's faults share: a queue on a server of the test's own, and looks at it from outside."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID, uuid4

import trio

from requeuest_trio import Client, Config, DatabaseUnavailable, Request, migrate
from tests.engine.probe import Log, QueueProbe, open_probe
from tests.throwaway import Throwaway, throwaway_server

IMPATIENT = Config(connect_timeout=0.5, statement_timeout=1.0)

in_thread = trio.to_thread.run_sync


@asynccontextmanager
async def queue_server(
    settings: dict[str, str] | None = None, *, wal_room: int | None = None, table_room: int | None = None
) -> AsyncIterator[Throwaway]:
    """A server of the test's own in which the schema is up to date."""
    manager = throwaway_server(settings, wal_room=wal_room, table_room=table_room)
    server = await in_thread(manager.__enter__)
    try:
        await migrate(server.dsn())
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await in_thread(manager.__exit__, None, None, None)


@contextmanager
def logged() -> Iterator[Log]:
    """What the library logs meanwhile."""
    handler, logger = Log(), logging.getLogger("requeuest_trio")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@asynccontextmanager
async def looking_at(server: Throwaway, database: str = "postgres") -> AsyncIterator[QueueProbe]:
    """The queue as the server sees it, over a connection that has known none of its ends."""
    async with open_probe(server.dsn(database)) as probe:
        yield probe


async def spawn_surely(
    client: Client, channel: str, request: Request, ordering_key: str | None = None, job_id: UUID | None = None
) -> UUID:
    """As the docs say: after `DatabaseUnavailable` once more, with the same id."""
    job_id = job_id or uuid4()
    while True:
        try:
            return await client.spawn(channel, request, job_id=job_id, ordering_key=ordering_key)
        except DatabaseUnavailable:
            await trio.sleep(0.02)


@asynccontextmanager
async def open_replica(server: Throwaway) -> AsyncIterator[Throwaway]:
    """A replica of the server, which is never waited for."""
    manager = server.replica()
    replica = await in_thread(manager.__enter__)
    try:
        yield replica
    finally:
        with trio.CancelScope(shield=True):
            await in_thread(manager.__exit__, None, None, None)
