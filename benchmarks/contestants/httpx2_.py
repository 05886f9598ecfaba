"""No queue: `adding` a request sends it, with a bare httpx2 client. The floor for latency."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from benchmarks.clients import open_client
from benchmarks.contestants import Contestant, WorkerOptions
from benchmarks.workload import HEADERS, Message


class Sender:
    """Sends."""

    def __init__(self, http: Any) -> None:
        self._http = http

    async def add(self, message: Message) -> None:
        """Send one."""
        (await self._http.post(message.url, headers=HEADERS, content=message.body)).raise_for_status()

    async def add_all(self, messages: Sequence[Message]) -> None:
        """Send them one after the other."""
        for message in messages:
            await self.add(message)


@asynccontextmanager
async def produce(_dsn: str, _delivers: bool) -> AsyncIterator[Sender]:
    """A client, whatever the database."""
    async with open_client("httpx2", 1) as http:
        yield Sender(http)


async def install(_dsn: str) -> None:
    """Nothing."""


async def work(_options: WorkerOptions) -> NoReturn:
    """There is no queue to work on."""
    raise NotImplementedError


CONTESTANT = Contestant(
    backend="trio",
    packages=("httpx2", "httpcore2", "trio"),
    settings={},
    install=install,
    finished="SELECT %(jobs)s",
    work=work,
    produce=produce,
)
