"""The same as a job meets it, from the row to the outcome: an answer that comes before the request has gone decides."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest
import trio

from requeuest_trio import Client, JobDead, JobState, Reached, Request, RetryPolicy, TrioTransport, open_requeuest
from tests.engine.probe import QueueProbe
from tests.http.hostile import RawServer, raw_server, read_head

BODY = bytes(9_000_000)
GIVES_UP = RetryPolicy(give_up_on=[413], initial=0.01)
TWICE = RetryPolicy(max_attempts=2, initial=0.01, give_up_on=[413])
PATIENCE = 15.0
"""Seconds; an attempt that hung would take its timeout, which is longer."""
NEVER = 60.0


@pytest.fixture(params=["plain", "TLS"])
def tls(
    request: pytest.FixtureRequest, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    return (server_tls, client_tls) if request.param == "TLS" else None


Contexts = tuple[ssl.SSLContext, ssl.SSLContext] | None
Afterwards = Callable[[trio.abc.Stream], Awaitable[None]]


@dataclass
class Early:
    """A receiver that answers once it has the head, and what a queue makes of it."""

    status: int
    afterwards: Afterwards
    tls: Contexts
    heads: int = 0

    async def handle(self, stream: trio.abc.Stream) -> None:
        self.heads += 1
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 %d Early\r\nContent-Length: 5\r\n\r\nearly" % self.status)
        await self.afterwards(stream)

    @asynccontextmanager
    async def met_by_a_queue(self, probe: QueueProbe) -> AsyncIterator[tuple[Client, RawServer, TrioTransport]]:
        transport = TrioTransport(ssl_context=self.tls and self.tls[1])
        async with (
            raw_server(self.handle, tls=self.tls and self.tls[0]) as server,
            open_requeuest(probe.dsn, http=transport) as client,
        ):
            with trio.fail_after(PATIENCE):
                yield client, server, transport
            assert transport.statistics().open == 0
        transport.close()


async def reads_no_more(_: trio.abc.Stream) -> None:
    await trio.sleep_forever()


def plain(stream: trio.abc.Stream) -> trio.SocketStream:
    inner = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    assert isinstance(inner, trio.SocketStream)
    return inner


async def ends_its_side(stream: trio.abc.Stream) -> None:
    await plain(stream).send_eof()
    await trio.sleep_forever()


async def closes(_: trio.abc.Stream) -> None:
    """With bytes unread, which is a reset too: the kernel tells that they have come to nothing."""


async def resets(stream: trio.abc.Stream) -> None:
    plain(stream).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def statuses(client: Client, job_id: UUID) -> list[tuple[Reached, int | None]]:
    return [(attempt.reached, attempt.status) for attempt in await client.attempts(job_id)]


@pytest.mark.parametrize("afterwards", [reads_no_more, ends_its_side, closes, resets])
async def test_a_status_to_give_up_on_ends_the_job_at_once(
    probe: QueueProbe, tls: Contexts, afterwards: Afterwards
) -> None:
    """Also if a reset follows: the kernel keeps what had come before it, and it is read."""
    early = Early(413, afterwards, tls)
    async with early.met_by_a_queue(probe) as (client, server, _):
        request = Request.post(server.url, content=BODY, timeout=NEVER)
        with pytest.raises(JobDead) as caught:
            await client.result(job_id := await client.spawn("c", request, retry=GIVES_UP))
        assert (caught.value.job.status, caught.value.job.attempts) == (413, 1)
        assert await statuses(client, job_id) == [(Reached.RESPONSE, 413)]
    assert early.heads == 1


@pytest.mark.parametrize("afterwards", [reads_no_more, closes])
async def test_any_other_refusal_is_tried_again_as_the_policy_says(
    probe: QueueProbe, tls: Contexts, afterwards: Afterwards
) -> None:
    early = Early(401, afterwards, tls)
    async with early.met_by_a_queue(probe) as (client, server, _):
        request = Request.post(server.url, content=BODY, timeout=NEVER)
        with pytest.raises(JobDead):
            await client.result(job_id := await client.spawn("c", request, retry=TWICE))
        assert await statuses(client, job_id) == [(Reached.RESPONSE, 401)] * 2
    assert early.heads == 2


@pytest.mark.parametrize("afterwards", [reads_no_more, ends_its_side, closes])
async def test_an_early_success_is_a_success(probe: QueueProbe, tls: Contexts, afterwards: Afterwards) -> None:
    """Sending goes on for as long as the rest is read, and ends when it is stuck."""
    early = Early(200, afterwards, tls)
    async with early.met_by_a_queue(probe) as (client, server, _):
        request = Request.post(server.url, content=BODY, timeout=NEVER)
        response = await client.result(job_id := await client.spawn("c", request, retry=TWICE))
        assert (response.status_code, response.text) == (200, "early")
        job = await client.job(job_id)
        assert job is not None
        assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert early.heads == 1


async def test_the_rest_of_the_request_is_not_sent(probe: QueueProbe, tls: Contexts) -> None:
    may_look, came = trio.Event(), 0

    async def looks_later(stream: trio.abc.Stream) -> None:
        nonlocal came
        await may_look.wait()
        while more := await stream.receive_some():
            came += len(more)

    early = Early(413, looks_later, tls)
    async with early.met_by_a_queue(probe) as (client, server, transport):
        with pytest.raises(JobDead):
            await client.result(
                await client.spawn("c", Request.post(server.url, content=BODY, timeout=NEVER), retry=GIVES_UP)
            )
        assert transport.statistics().open == 0
        may_look.set()
        await server.wait_empty()
    assert came < len(BODY)
