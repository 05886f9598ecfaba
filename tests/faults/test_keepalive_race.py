"""
Promises 1 and 2: connections that the receiver closes at the moment of their reuse lose nothing.

Through the queue, because it decides what a failed attempt means. A request arrives a second time only if the receiver
had read it whole the first time, and then closed the connection instead of answering: nobody else can know better.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import trio

from requeuest_trio import Client, JobState, Request, RetryPolicy, open_requeuest
from tests.engine.probe import QueueProbe, nothing_left
from tests.http.hostile import Handler, RawServer, raw_server, read_head
from tests.http.recording import OK, job_of

JOBS = 100
AT_ONCE = RetryPolicy(initial=0.01, jitter=0.0)


@dataclass
class Idling:
    """How long the receiver keeps an idle connection: as long as the next request takes, whatever the machine."""

    seconds: float = 0.02

    def adjust(self, *, was_kept: bool) -> None:
        self.seconds *= 1 / 1.1 if was_kept else 1.1


async def deliver_one_by_one(client: Client, server: RawServer, idling: Idling) -> list[str]:
    """Each when the connection of the one before is about to be closed."""
    ids = []
    for _ in range(JOBS):
        opened = server.connections
        job_id = await client.spawn("a", Request.get(server.url), retry=AT_ONCE)
        job = await client.wait(job_id)
        assert job.state is JobState.SUCCEEDED
        ids.append(str(job_id))
        idling.adjust(was_kept=server.connections == opened)
    return ids


async def test_closed_when_idle_each_arrives_once(probe: QueueProbe) -> None:
    arrivals, idling = Counter[str](), Idling()

    async def handle(stream: trio.abc.Stream) -> None:
        while True:
            with trio.move_on_after(idling.seconds) as idle:
                head = await read_head(stream)
            if idle.cancelled_caught:
                return
            arrivals[job_of(head)] += 1
            await stream.send_all(OK)

    async with raw_server(handle) as server, nothing_left(probe), open_requeuest(probe.dsn, ["a"]) as client:
        ids = await deliver_one_by_one(client, server, idling)
        assert JOBS / 20 < server.connections < JOBS * 19 / 20, "it should be a race"
    assert arrivals == Counter(ids)
    assert await probe.value("select max(attempts) from requeuest.job") == 1


def closes_instead_of(answers: random.Random, arrivals: Counter[str], swallowed: Counter[str]) -> Handler:
    """Sometimes it reads a request over a used connection, and closes that."""

    async def handle(stream: trio.abc.Stream) -> None:
        is_used = False
        while True:
            job = job_of(await read_head(stream))
            arrivals[job] += 1
            if is_used and answers.random() < 0.3:
                swallowed[job] += 1
                return
            await stream.send_all(OK)
            is_used = True

    return handle


async def test_closed_after_reading_it_each_arrives_again_at_once(probe: QueueProbe) -> None:
    """Within the same attempt, over a new connection; whoever was answered hears of it no more."""
    arrivals, swallowed = Counter[str](), Counter[str]()
    handle = closes_instead_of(random.Random(36), arrivals, swallowed)
    async with raw_server(handle) as server, nothing_left(probe), open_requeuest(probe.dsn, ["a"]) as client:
        ids = [str(job_id) for job_id in await client.spawn_many("a", [Request.get(server.url)] * JOBS, retry=AT_ONCE)]
        for job_id in ids:
            await probe.until_true("select state = 'succeeded' from requeuest.job where id = %s", job_id)
    assert sum(swallowed.values()) > JOBS / 10
    assert max(swallowed.values()) == 1
    assert arrivals == Counter(ids) + swallowed
    assert await probe.value("select max(attempts) from requeuest.job") == 1
