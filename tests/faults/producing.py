"""
The producer: a process of its own that spawns jobs, and writes down what it was told became of them.

`invoke` stands in its log before it asks; then `ok`, `fail` (nothing can have been stored) or `unknown`. A producer
that was killed leaves an `invoke` alone, which means the same as `unknown`. The ids are its own, so that it can ask
again.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import trio

from requeuest_trio import (
    ALL,
    All,
    Client,
    Config,
    DatabaseUnavailable,
    InvalidRequest,
    Request,
    RequeuestError,
    RetryPolicy,
    open_requeuest,
)
from requeuest_trio.cli.signals import stopping_on_signals
from tests.faults.arrivals import body_hash
from tests.faults.journal import Journal, log_events
from tests.faults.program import hear, say


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a producer is to do."""

    url: str
    jobs: int | None = None
    """None: until it is stopped."""
    channels: tuple[str, ...] = ("a",)
    keys: int = 0
    """How many ordering keys there are; every batch has one of them. 0: no keys."""
    prefix: str = ""
    """What the names of the keys begin with."""
    largest_batch: int = 1
    """Batches of up to so many, by `spawn_many`; those of one by `spawn`."""
    writers: int = 1
    """Tasks that spawn at the same time."""
    pause: float = 0.0
    """Seconds between two batches of a writer."""
    largest_body: int = 200
    asks_again: bool = False
    """Whether it repeats what has an unknown outcome, with the same ids, until it is known."""
    retry: dict[str, float] | None = None
    """A `RetryPolicy`."""
    timeout: float | None = None
    """For each attempt."""
    lease: float | None = None
    """With one, this process delivers too, as a web server might that needs no workers."""
    config: dict[str, Any] | None = None
    """A `Config`."""


@dataclass(slots=True)
class Batch:
    """Jobs that are spawned together."""

    number: int
    channel: str
    key: str | None
    ids: list[UUID]
    requests: list[Request]
    entries: list[dict[str, Any]]
    """What the log says of them."""


class Producer:
    """Spawns batches, several at the same time."""

    def __init__(self, client: Client, orders: Orders, name: str, seed: int, journal: Journal) -> None:
        self._client = client
        self._orders = orders
        self._name = name
        self._random = random.Random(seed)
        self._journal = journal
        self._batches = self._make_batches()
        self.spawned = 0

    def _make_batches(self) -> Iterator[Batch]:
        orders, left, number, seq = self._orders, self._orders.jobs, 0, 0
        while left is None or left > 0:
            number += 1
            size = self._random.randint(1, orders.largest_batch)
            size = size if left is None else min(size, left)
            key = f"{orders.prefix}{self._random.randrange(orders.keys)}" if orders.keys else None
            batch = Batch(number, self._random.choice(orders.channels), key, [], [], [])
            for _ in range(size):
                seq += 1
                self._add_job(batch, seq)
            left = None if left is None else left - size
            yield batch

    def _add_job(self, batch: Batch, seq: int) -> None:
        # Not from the seed: producers of the same seed must not share ids.
        job_id = uuid4()
        body = self._random.randbytes(self._random.randint(0, self._orders.largest_body))
        headers = {"x-seq": str(seq)} | ({} if batch.key is None else {"x-key": batch.key})
        batch.ids.append(job_id)
        batch.requests.append(Request.post(self._orders.url, content=body, headers=headers))
        batch.entries.append({"job": job_id, "seq": seq, "body": body_hash(body)})

    async def write(self) -> None:
        """Spawn until there is nothing left."""
        for batch in self._batches:
            await self._spawn(batch)
            await trio.sleep(self._orders.pause)

    async def _spawn(self, batch: Batch) -> None:
        identity = {"producer": self._name, "batch": batch.number}
        self._journal.write("invoke", **identity, channel=batch.channel, key=batch.key, jobs=batch.entries)
        while True:
            try:
                await self._ask(batch)
            except InvalidRequest as error:
                self._journal.write("fail", **identity, **_seen(error))
            except RequeuestError as error:
                self._journal.write("unknown", **identity, **_seen(error))
                if self._orders.asks_again:
                    await trio.sleep(self._random.uniform(0.02, 0.2))
                    continue
            else:
                self._journal.write("ok", **identity)
                self.spawned += len(batch.ids)
            return

    async def _ask(self, batch: Batch) -> None:
        retry = None if self._orders.retry is None else RetryPolicy(**self._orders.retry)  # type: ignore[arg-type] # by name
        timeout = self._orders.timeout
        if len(batch.ids) == 1:
            [request], [job_id] = batch.requests, batch.ids
            await self._client.spawn(
                batch.channel, request, ordering_key=batch.key, retry=retry, timeout=timeout, job_id=job_id
            )
        else:
            await self._client.spawn_many(
                batch.channel, batch.requests, ordering_key=batch.key, retry=retry, timeout=timeout, job_id=batch.ids
            )


def _seen(error: RequeuestError) -> dict[str, Any]:
    """What a caller can tell from an exception."""
    job_ids = error.job_ids if isinstance(error, DatabaseUnavailable) else ()
    return {"error": error, "raised": type(error).__name__, "job_ids": job_ids}


async def main(settings: dict[str, Any]) -> None:
    orders = Orders(**settings["orders"])
    log_events(Journal(f"{settings['log']}.events"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        async with stopping_on_signals(lambda _: None) as stop:
            channels: tuple[str, ...] | All = () if orders.lease is None else ALL
            config = Config(**(orders.config or {}))
            async with open_requeuest(
                settings["dsn"], channels, lease=orders.lease or 30.0, poll_interval=0.3, config=config
            ) as client:
                name, seed = settings["name"], settings["seed"]
                producer = Producer(client, orders, name, seed, Journal(settings["log"]))
                say("ready")
                with stop.gracefully(""):
                    async with trio.open_nursery() as writers:
                        for _ in range(orders.writers):
                            writers.start_soon(producer.write)
            say("done", spawned=producer.spawned)
        nursery.cancel_scope.cancel()
