"""Every call of a client, cancelled at each of its checkpoints in turn: the client goes on working, none of its
connections is left busy, and nothing is left running on the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
import trio

from requeuest_trio import Client, Request, open_requeuest
from tests.engine.probe import QueueProbe, open_probe
from tests.engine.store_harness import new_id
from tests.postgres.harness import AtCheckpoint
from tests.waiting import until

MOST_CHECKPOINTS = 60
REQUEST = Request.get("http://receiver.test/")

BUSY = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND state <> 'idle'
"""
DONE = """
INSERT INTO requeuest.job (id, channel, method, url, state, status, response_headers, response_body,
                           response_truncated, finished_at)
VALUES (%s, 'done', 'GET', 'http://receiver.test/', 'succeeded', 200, '[]', '', false, now())
"""

Call = Callable[[Client, UUID], Awaitable[object]]
CALLS: dict[str, Call] = {}
"""Of each what it is called with, and the id of a job that has been delivered."""
NOT_CALLED = {"close"}
"""For `open_requeuest` only."""


def call(function: Call) -> Call:
    CALLS[function.__name__] = function
    return function


@call
async def spawn(client: Client, done: UUID) -> None:
    await client.spawn("c", REQUEST)


@call
async def spawn_with_a_key(client: Client, done: UUID) -> None:
    await client.spawn("c", REQUEST, ordering_key="k")


@call
async def spawn_many(client: Client, done: UUID) -> None:
    await client.spawn_many("c", [REQUEST] * 3)


@call
async def spawn_many_in_pieces(client: Client, done: UUID) -> None:
    """Several statements in one transaction."""
    await client.spawn_many("c", [REQUEST] * 1_001, ordering_key="k")


@call
async def spawn_returning(client: Client, done: UUID) -> None:
    """Its job has been delivered before: the same call again."""
    await client.spawn_returning("done", REQUEST, job_id=done)


@call
async def transaction(client: Client, done: UUID) -> None:
    async with client.transaction() as connection:
        await connection.execute("SELECT 1")
        await client.spawn("c", REQUEST, connection=connection)


@call
async def wait(client: Client, done: UUID) -> None:
    await client.wait(done)


@call
async def result(client: Client, done: UUID) -> None:
    await client.result(done)


@call
async def job(client: Client, done: UUID) -> None:
    await client.job(done)


@call
async def jobs(client: Client, done: UUID) -> None:
    async for _ in client.jobs(channel="done"):
        pass


@call
async def events(client: Client, done: UUID) -> None:
    async with client.events():
        await client.job(done)


@call
async def attempts(client: Client, done: UUID) -> None:
    await client.attempts(done)


@call
async def stats(client: Client, done: UUID) -> None:
    await client.stats()


@call
async def clear(client: Client, done: UUID) -> None:
    await client.clear(["c"])


def test_no_call_is_forgotten() -> None:
    names = {name for name in vars(Client) if not name.startswith("_")}
    assert names - NOT_CALLED <= set(CALLS)


@asynccontextmanager
async def enqueuing(dsn: str) -> AsyncIterator[tuple[Client, QueueProbe, UUID]]:
    """A client that only enqueues, with two connections for its callers, and a job that has been delivered."""
    from requeuest_trio import Config

    done = new_id()
    async with open_probe(dsn) as probe, open_requeuest(dsn, (), config=Config(pool_size=2)) as client:
        await probe.connection.execute(DONE.encode(), [done])
        yield client, probe, done


@pytest.mark.parametrize("name", CALLS)
async def test_cancelled_at_every_checkpoint(name: str, migrated_dsn: str) -> None:
    async with enqueuing(migrated_dsn) as (client, probe, done):

        async def at_rest() -> bool:
            return bool(await probe.value(BUSY) == 0)

        for k in range(MOST_CHECKPOINTS):
            with trio.fail_after(10), trio.CancelScope() as scope, AtCheckpoint(k, scope.cancel):
                if k == 0:
                    scope.cancel()
                await CALLS[name](client, done)
            await until(at_rest)
            with trio.fail_after(5):
                # With both connections at once, and through the connection of the spawns.
                async with client.transaction() as connection:
                    await connection.execute("SELECT 1")
                    assert await client.job(done) is not None
                await client.spawn("c", REQUEST)
            if k > 0 and not scope.cancel_called:
                break
        else:
            pytest.fail(f"not through after {k} checkpoints")
        assert k > 1
        assert await probe.value("SELECT count(*) FROM requeuest.job WHERE channel = 'done'") == 1


async def test_a_spawn_that_was_cancelled_is_whole_or_absent(migrated_dsn: str) -> None:
    """Three jobs of one call: never one or two."""
    async with enqueuing(migrated_dsn) as (client, probe, _):
        for k in range(1, MOST_CHECKPOINTS):
            ids = [new_id() for _ in range(3)]
            with trio.CancelScope() as scope, AtCheckpoint(k, scope.cancel):
                await client.spawn_many("c", [REQUEST] * 3, job_id=ids, ordering_key="k")
            stored = await probe.value("SELECT count(*) FROM requeuest.job WHERE id = ANY (%s)", ids)
            assert stored in {0, 3}
            if not scope.cancel_called:
                assert stored == 3
                break
        assert k > 2
