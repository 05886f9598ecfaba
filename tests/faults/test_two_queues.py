"""
Two queues in one database, each in a schema of its own, with the same channels, ordering keys and job ids.

What could go wrong: whatever the schema does not keep apart by itself. Notifications and advisory locks belong to the
whole database; everything else may only have the wrong schema in a statement.
"""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from requeuest_trio import ALL, Client, JobState, Request, migrate, open_requeuest
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.notifications import Notifications
from requeuest_trio._store.queries import Queries
from requeuest_trio.testing import Receiver, Reply, open_receiver
from tests.postgres.harness import Conn, connect, value
from tests.waiting import until

LONG_POLL = 60.0
SCHEMAS = ("one", "two")


@pytest.fixture
async def queues(dsn: str) -> str:
    """A database with both queues, empty."""
    for schema in SCHEMAS:
        await migrate(dsn, schema=schema)
    return dsn


@pytest.fixture
async def there() -> AsyncIterator[Receiver]:
    """Who receives what is in the second queue; `receiver` has the first."""
    async with open_receiver() as running:
        yield running


@asynccontextmanager
async def _opened(dsn: str, **options: Any) -> AsyncIterator[tuple[Client, Client]]:
    options = {"poll_interval": LONG_POLL, **options}
    async with (
        open_requeuest(dsn, schema="one", **options) as one,
        open_requeuest(dsn, schema="two", **options) as two,
    ):
        yield one, two


async def test_what_is_in_one_is_not_in_the_other(queues: str, receiver: Receiver, there: Receiver) -> None:
    """The same ids, channels and keys, in one process that delivers both."""
    ids = [uuid4() for _ in range(20)]
    async with _opened(queues) as (one, two), trio.open_nursery() as nursery:
        for client, url in ((one, receiver.url), (two, there.url)):
            for n, job_id in enumerate(ids):
                key = f"k{n % 3}" if n % 2 else None
                nursery.start_soon(_spawn_and_wait, client, Request.get(url), job_id, key)
    for arrivals in (receiver.arrivals, there.arrivals):
        assert sorted(str(arrival.header("idempotency-key")) for arrival in arrivals) == sorted(map(str, ids))


async def _spawn_and_wait(client: Client, request: Request, job_id: UUID, key: str | None) -> None:
    await client.spawn("c", request, job_id=job_id, ordering_key=key)
    await client.result(job_id)


async def test_clearing_and_counting_know_one_only(queues: str) -> None:
    async with _opened(queues, channels=()) as (one, two):
        for client in (one, two):
            await client.spawn_many("c", [Request.get("http://a.test")] * 3)
            await client.spawn_many("c", [Request.get("http://a.test")] * 2, ordering_key="k")
        assert await two.clear(ALL) == 5
        assert (await two.stats()).channels == {}
        assert [job async for job in two.jobs()] == []
        assert (await one.stats()).channels == {"c": {JobState.AVAILABLE: 4, JobState.BLOCKED: 1}}


async def test_a_key_of_one_is_free_in_the_other(queues: str, receiver: Receiver, there: Receiver) -> None:
    """An application's transaction in the first queue has the key, for as long as it likes."""
    spawned = partial(Request.get, there.url)
    async with _opened(queues, channels=["c"]) as (one, two), one.transaction() as connection:
        await one.spawn("c", Request.get(receiver.url), ordering_key="k", connection=connection)
        with trio.fail_after(5):
            ids = await two.spawn_many("c", [spawned(), spawned(), spawned()], ordering_key="k")
            for job_id in ids:
                await two.result(job_id)
        assert receiver.arrivals == []


async def test_news_of_one_is_not_heard_in_the_other(queues: str, receiver: Receiver) -> None:
    async with await connect(queues) as listener:
        other = Notifications("two", Emitter())
        for topic in (other.due_topic, other.done_topic):
            await listener.execute(f'LISTEN "{topic}"'.encode())
        async with (
            open_requeuest(queues, schema="one", poll_interval=LONG_POLL),
            open_requeuest(queues, (), schema="one", poll_interval=LONG_POLL) as producer,
        ):
            with trio.fail_after(LONG_POLL / 4):
                await producer.spawn_returning("c", Request.get(receiver.url))
                await producer.spawn_returning("c", Request.get(receiver.url), ordering_key="k")
        # What was committed before this question is told with its answer.
        await value(listener, "select 1")
        assert [note async for note in listener.notifies(timeout=0)] == []


async def test_migrations_of_one_do_not_touch_the_other(queues: str, receiver: Receiver) -> None:
    async with await connect(queues) as holder, holder.transaction():
        await holder.execute(Queries("one")["lock_journal"])
        with trio.fail_after(10):
            await migrate(queues, schema="two", target=0)
            await migrate(queues, schema="two")
            await migrate(queues, schema="two", target=0)
    async with open_requeuest(queues, schema="one") as one:
        assert (await one.spawn_returning("c", Request.get(receiver.url))).status_code == 200


# --- two processes ----------------------------------------------------------------------------------------------------


WORKER = """
import sys, trio
from requeuest_trio import open_requeuest

async def main():
    async with open_requeuest(sys.argv[1], schema=sys.argv[2], lease=1.0, poll_interval=0.1):
        await trio.sleep_forever()

trio.run(main)
"""


@contextmanager
def _worker(dsn: str, schema: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", WORKER, dsn, schema]) as worker:
        try:
            yield worker
        finally:
            worker.kill()


async def _until_registered(connection: Conn, schema: str) -> None:
    async def registered() -> object:
        return await value(connection, f"select count(*) from {schema}.worker")

    await until(registered, patience=30)


async def test_a_process_takes_over_from_none_of_the_other_queue(
    queues: str, receiver: Receiver, there: Receiver
) -> None:
    """The only process of the first queue dies, and that of the second lives on for several leases."""
    receiver.script(Reply(200, delay=60.0), target="/held")
    async with await connect(queues) as probe, _opened(queues, channels=(), poll_interval=0.1) as (one, two):
        with _worker(queues, "one") as first, _worker(queues, "two"):
            for schema in SCHEMAS:
                await _until_registered(probe, schema)
            held = await one.spawn("c", Request.get(receiver.url + "/held"))
            await receiver.wait_for(1)
            first.kill()
            await _lives_on(two, there)
            assert await _state(probe, held) == "running"
            assert await value(probe, "select count(*) from one.worker") == 1
        with _worker(queues, "one"):
            await receiver.wait_for(2)
    assert len(there.arrivals) == 22
    assert {arrival.header("idempotency-key") for arrival in receiver.arrivals} == {str(held)}


async def _lives_on(client: Client, receiver: Receiver) -> None:
    """Two leases and more, in which it rescues, prunes and forgets several times."""
    for _ in range(22):
        await client.spawn_returning("c", Request.get(receiver.url), ordering_key="k")
        await trio.sleep(0.1)


async def _state(probe: Conn, job_id: UUID) -> str:
    return str(await value(probe, "select state::text from one.job where id = %s", job_id))
