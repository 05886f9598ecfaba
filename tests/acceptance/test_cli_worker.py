"""`requeuest worker`: it waits for its database, delivers, and stops as it is told."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import psycopg
import pytest
import trio

from requeuest_trio import JobState, Request, open_requeuest
from requeuest_trio.testing import open_receiver
from tests.acceptance.cli import invoke, requeuest, running
from tests.servers import TestServer

GREETING = "Ctrl-C or SIGTERM stops"


@dataclass(slots=True)
class Gate:
    """A receiver that answers when the test says so."""

    url: str = ""
    arrived: trio.Event = field(default_factory=trio.Event)
    opened: trio.Event = field(default_factory=trio.Event)

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            self.arrived.set()
            await self.opened.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@asynccontextmanager
async def open_gate() -> AsyncIterator[Gate]:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, gate.serve, 0, host="127.0.0.1"))
        gate.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        yield gate
        nursery.cancel_scope.cancel()


async def test_it_delivers_its_channels_and_no_other(migrated_dsn: str) -> None:
    async with open_receiver() as receiver, open_requeuest(migrated_dsn, ()) as client:
        other = await client.spawn("other", Request.get(receiver.url))
        async with running("worker", "a", "b", dsn=migrated_dsn) as worker:
            await worker.wait_to_say("delivering channels a, b;")
            for channel in ("a", "b"):
                response = await client.spawn_returning(channel, Request.get(receiver.url))
                assert response.status_code == 200
            worker.signal(signal.SIGTERM)
            assert await worker.status() == 0
        job = await client.job(other)
    assert job is not None
    assert (job.state, job.attempts) == (JobState.AVAILABLE, 0)


async def test_all_channels(migrated_dsn: str) -> None:
    async with (
        open_receiver() as receiver,
        open_requeuest(migrated_dsn, ()) as client,
        running("worker", "--all", "--verbose", dsn=migrated_dsn) as worker,
    ):
        await worker.wait_to_say("delivering all channels")
        await client.spawn_returning("some", Request.get(receiver.url))
        await worker.wait_to_say("debug requeuest_trio.attempt: attempt job=")
        worker.signal(signal.SIGINT)
        assert await worker.status() == 0


async def test_the_first_signal_lets_it_finish(migrated_dsn: str) -> None:
    async with open_gate() as gate, open_requeuest(migrated_dsn, ()) as client:
        job_id = await client.spawn("a", Request.get(gate.url))
        async with running("worker", "a", "--grace", "60", dsn=migrated_dsn) as worker:
            await gate.arrived.wait()
            worker.signal(signal.SIGTERM)
            await worker.wait_to_say("SIGTERM: finishing the requests under way, for 60 s at most; once more to stop")
            gate.opened.set()
            assert await worker.status() == 0
            await worker.wait_to_say("stopped")
        job = await client.job(job_id)
    assert job is not None
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)


async def test_the_second_signal_ends_it_at_once(migrated_dsn: str) -> None:
    async with open_gate() as gate, open_requeuest(migrated_dsn, ()) as client:
        job_id = await client.spawn("a", Request.get(gate.url))
        async with running("worker", "a", "--grace", "600", dsn=migrated_dsn) as worker:
            await gate.arrived.wait()
            worker.signal(signal.SIGTERM)
            await worker.wait_to_say("once more to stop at once")
            worker.signal(signal.SIGINT)
            assert await worker.status() == 130
            await worker.wait_to_say("SIGINT: stopping at once; what is unfinished goes back to the queue")
        job = await client.job(job_id)
    assert job is not None
    assert (job.state, job.attempts) == (JobState.AVAILABLE, 0)


async def test_it_waits_for_its_database(server: TestServer, admin: psycopg.Connection, migrated_template: str) -> None:
    async with running("worker", "--all", dsn=server.dsn("comes_later")) as worker:
        await worker.wait_to_say("trying again in")
        admin.execute(f"CREATE DATABASE comes_later TEMPLATE {migrated_template}")
        try:
            await worker.wait_to_say(GREETING)
            worker.signal(signal.SIGTERM)
            assert await worker.status() == 0
        finally:
            admin.execute("DROP DATABASE comes_later WITH (FORCE)")
    assert "Traceback" not in worker.said


async def test_a_signal_while_it_waits(server: TestServer) -> None:
    async with running("worker", "--all", dsn=server.dsn("never_comes")) as worker:
        await worker.wait_to_say("trying again in")
        worker.signal(signal.SIGTERM)
        assert await worker.status() == 0


async def test_a_missing_schema_is_not_waited_for(dsn: str) -> None:
    ended = await requeuest("worker", "--all", dsn=dsn)
    assert ended.status == 2
    assert "run: requeuest migrate --dsn" in ended.err
    async with running("worker", "--all", "--migrate", dsn=dsn) as worker:
        await worker.wait_to_say(GREETING)
        worker.signal(signal.SIGTERM)
        assert await worker.status() == 0


@pytest.mark.parametrize("arguments", [(), ("a", "--all")])
def test_which_channels(arguments: tuple[str, ...]) -> None:
    ended = invoke("worker", *arguments, "--dsn", "postgresql:///x")
    assert ended.status == 2
    assert "name the channels to deliver, or say --all" in ended.err


def test_a_channel_that_can_be_none() -> None:
    ended = invoke("worker", "", "--dsn", "postgresql:///x")
    assert (ended.status, ended.err) == (2, "requeuest: channel: must have 1 to 200 characters, not 0\n")
