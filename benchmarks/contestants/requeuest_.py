"""requeuest-trio with its defaults, through its public interface."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from benchmarks.contestants import Contestant, WorkerOptions
from benchmarks.workload import HEADERS, Message, channel_name
from requeuest_trio import ALL, Client, Config, Request, migrate, open_requeuest


async def work(options: WorkerOptions) -> None:
    """Deliver; with several channels, all of them, and `concurrency` over all as well as for each."""
    channels = [channel_name(0)] if options.channels == 1 else ALL
    config = Config(max_running=options.concurrency)
    async with open_requeuest(options.dsn, channels, concurrency=options.concurrency, config=config):
        await trio.sleep_forever()


class RequeuestProducer:
    """Spawns."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def add(self, message: Message) -> None:
        """One by `spawn`."""
        await self._client.spawn(message.channel, _request(message), ordering_key=message.ordering_key)

    async def add_all(self, messages: Sequence[Message]) -> None:
        """All by `spawn_many`, into the channel of the first."""
        await self._client.spawn_many(messages[0].channel, [_request(message) for message in messages])


@asynccontextmanager
async def produce(dsn: str, delivers: bool) -> AsyncIterator[RequeuestProducer]:
    """A queue that only enqueues, or one that delivers too."""
    async with open_requeuest(dsn, [channel_name(0)] if delivers else ()) as client:
        yield RequeuestProducer(client)


def _request(message: Message) -> Request:
    return Request.post(message.url, headers=HEADERS, content=message.body)


CONTESTANT = Contestant(
    backend="trio",
    packages=("requeuest-trio", "trio", "psycopg", "psycopg-binary", "httpx2"),
    settings={
        "transport": "the default of open_requeuest",
        "Config": "max_running = concurrency, everything else by default",
        "finished jobs": "are kept, with their attempts and responses (the default)",
    },
    install=migrate,
    finished="SELECT count(*) FROM requeuest.job WHERE state = 'succeeded' AND finished_at IS NOT NULL",
    work=work,
    produce=produce,
)
