"""procrastinate, with the documented settings that were fastest here."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import procrastinate

from benchmarks.clients import open_client
from benchmarks.contestants import Contestant, WorkerOptions
from benchmarks.workload import HEADERS, Message

WORKER_POOL = 4
PRODUCER_POOL = 8


def _app(dsn: str, pool: int) -> Any:
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, min_size=pool, max_size=pool))


async def install(dsn: str) -> None:
    """Make its schema."""
    async with _app(dsn, 1).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def work(options: WorkerOptions) -> None:
    """Deliver."""
    async with (
        open_client(options.client, options.concurrency) as http,
        _app(options.dsn, WORKER_POOL).open_async() as app,
    ):

        async def deliver(url: str, headers: dict[str, str], body: str) -> None:
            (await http.post(url, headers=headers, content=body.encode())).raise_for_status()

        app.task(name="deliver")(deliver)
        await app.run_worker_async(
            concurrency=options.concurrency, delete_jobs="successful", listen_notify=True, install_signal_handlers=False
        )


class ProcrastinateProducer:
    """Defers."""

    def __init__(self, task: Any) -> None:
        self._task = task

    async def add(self, message: Message) -> None:
        """One by `defer_async`."""
        await self._task.defer_async(**_arguments(message))

    async def add_all(self, messages: Sequence[Message]) -> None:
        """All by `batch_defer_async`."""
        await self._task.batch_defer_async(*map(_arguments, messages))


@asynccontextmanager
async def produce(dsn: str, delivers: bool) -> AsyncIterator[ProcrastinateProducer]:
    """An app that only defers."""
    assert not delivers
    async with _app(dsn, PRODUCER_POOL).open_async() as app:
        yield ProcrastinateProducer(app.configure_task("deliver"))


def _arguments(message: Message) -> dict[str, Any]:
    return {"url": message.url, "headers": HEADERS, "body": message.body.decode()}


CONTESTANT = Contestant(
    backend="asyncio",
    packages=("procrastinate", "psycopg", "psycopg-binary", "psycopg-pool", "uvloop", "httpx", "httpx2"),
    settings={
        "loop": "uvloop",
        "concurrency": "that of the case",
        "worker's pool": f"{WORKER_POOL} connections; the 33 that its documentation suggests were slower",
        "producer's pool": f"{PRODUCER_POOL} connections",
        "delete_jobs": "successful: keeping them was slower",
        "listen_notify": "on",
    },
    install=install,
    finished="SELECT %(jobs)s - count(*) FROM procrastinate_jobs",
    work=work,
    produce=produce,
)
