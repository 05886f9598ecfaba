"""pgqueuer, with the documented settings that were fastest here."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pgqueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.queries import Queries

from benchmarks.clients import open_client
from benchmarks.contestants import Contestant, WorkerOptions
from benchmarks.workload import HEADERS, Message

BATCH = 32
POOL = {"min_size": 5, "max_size": 8}


async def install(dsn: str) -> None:
    """Make its schema, with the autovacuum settings that it recommends."""
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()
    await connection.close()


async def work(options: WorkerOptions) -> None:
    """Deliver; it takes jobs without limit, and a semaphore limits the requests."""
    limit = asyncio.Semaphore(options.concurrency)
    async with (
        open_client(options.client, options.concurrency) as http,
        asyncpg.create_pool(options.dsn, **POOL) as pool,
    ):

        async def deliver(job: Any) -> None:
            request = json.loads(job.payload)
            async with limit:
                response = await http.post(request["url"], headers=request["headers"], content=request["body"].encode())
            response.raise_for_status()

        queue = pgqueuer.PgQueuer.from_asyncpg_pool(pool)
        queue.entrypoint("deliver")(deliver)
        await queue.run(batch_size=BATCH)


class PgQueuerProducer:
    """Enqueues."""

    def __init__(self, queries: Any) -> None:
        self._queries = queries

    async def add(self, message: Message) -> None:
        """One by `enqueue`."""
        await self._queries.enqueue("deliver", _payload(message))

    async def add_all(self, messages: Sequence[Message]) -> None:
        """All by one `enqueue`."""
        count = len(messages)
        await self._queries.enqueue(["deliver"] * count, [_payload(message) for message in messages], [0] * count)


@asynccontextmanager
async def produce(dsn: str, delivers: bool) -> AsyncIterator[PgQueuerProducer]:
    """Queries that only enqueue."""
    assert not delivers
    async with asyncpg.create_pool(dsn, **POOL) as pool:
        yield PgQueuerProducer(Queries(AsyncpgPoolDriver(pool)))


def _payload(message: Message) -> bytes:
    return json.dumps({"url": message.url, "headers": HEADERS, "body": message.body.decode()}).encode()


CONTESTANT = Contestant(
    backend="asyncio",
    packages=("pgqueuer", "asyncpg", "uvloop", "httpx", "httpx2"),
    settings={
        "loop": "uvloop, as its command does",
        "driver": f"asyncpg pool of {POOL['min_size']} to {POOL['max_size']} connections",
        "batch_size": str(BATCH),
        "max_concurrent_tasks": "unlimited; a semaphore limits requests, which was faster than its own limit",
        "autovacuum": "the settings of its optimize_autovacuum",
    },
    install=install,
    finished="SELECT %(jobs)s - count(*) FROM pgqueuer",
    work=work,
    produce=produce,
)
