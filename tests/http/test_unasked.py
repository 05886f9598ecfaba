"""No byte that came before a request was sent can answer it, whichever way the request comes to its connection."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import pytest
import trio
import trio.lowlevel

from requeuest_trio import TrioTransport
from tests.http.hostile import raw_server, read_head
from tests.http.recording import OK

SMUGGLED = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"


class Talker:
    """A receiver that answers each request, and says more when it is told to."""

    def __init__(self) -> None:
        self.may_speak = trio.Event()
        self.has_spoken = trio.Event()
        self.requests = 0

    async def handle(self, stream: trio.abc.Stream) -> None:
        await read_head(stream)
        self.requests += 1
        await stream.send_all(OK)
        if self.requests == 1:
            await self.may_speak.wait()
            await stream.send_all(SMUGGLED)
            self.has_spoken.set()
        await self.handle(stream)

    async def trace(self, event: str, _: Mapping[str, Any]) -> None:
        """In the last moment before a request is sent."""
        if event == "http11.send_request_headers.started" and self.requests:
            self.may_speak.set()
            await self.has_spoken.wait()


class Stream(httpx2.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b""


@pytest.mark.parametrize("is_stream", [False, True])
async def test_idle_connection(is_stream: bool) -> None:
    """Nothing was sent over it: so even a stream goes over another one."""
    talker = Talker()
    async with (
        raw_server(talker.handle) as server,
        httpx2.AsyncClient(transport=TrioTransport(), trust_env=False) as client,
    ):
        assert (await client.get(server.url)).text == "ok"
        content = Stream() if is_stream else None
        response = await client.request("GET", server.url, content=content, extensions={"trace": talker.trace})
        assert response.text == "ok"
        assert server.connections == 2


async def test_connection_that_changes_hands(nursery: trio.Nursery) -> None:
    talker = Talker()
    transport = TrioTransport(max_connections_per_origin=1)
    async with (
        raw_server(talker.handle) as server,
        httpx2.AsyncClient(transport=transport, trust_env=False) as client,
    ):
        async with client.stream("GET", server.url) as first:
            texts: list[str] = []

            async def second() -> None:
                texts.append((await client.get(server.url, extensions={"trace": talker.trace})).text)

            nursery.start_soon(second)
            while not transport.statistics().waiting:
                await trio.lowlevel.checkpoint()
            assert await first.aread() == b"ok"
        with trio.fail_after(5):
            while not texts:  # noqa: ASYNC110
                await trio.sleep(0.001)
        assert texts == ["ok"]
        assert server.connections == 2


async def test_answer_behind_a_full_read(nursery: trio.Nursery) -> None:
    """What one read takes ends with the answer, and the next one waits behind it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    body = bytes(65_536 - len(head % 65_000))
    answer = head % len(body) + body
    assert len(answer) == 65_536

    async def handle(stream: trio.abc.Stream) -> None:
        while True:
            await read_head(stream)
            await stream.send_all(answer + SMUGGLED)

    transport = TrioTransport(max_connections_per_origin=1)
    lengths: list[int] = []
    async with (
        raw_server(handle) as server,
        httpx2.AsyncClient(transport=transport, trust_env=False) as client,
        trio.open_nursery() as together,
    ):

        async def one() -> None:
            lengths.append(len((await client.get(server.url)).content))

        for _ in range(20):
            together.start_soon(one)
    assert lengths == [len(body)] * 20
    assert server.connections == 20


async def test_new_connection() -> None:
    """RFC 9112 section 9.2: there was no request, so it is no answer."""
    has_spoken = trio.Event()
    received = bytearray()

    async def handle(stream: trio.abc.Stream) -> None:
        await stream.send_all(SMUGGLED)
        has_spoken.set()
        received.extend(await stream.receive_some())

    async def trace(event: str, _: Mapping[str, Any]) -> None:
        if event == "http11.send_request_headers.started":
            await has_spoken.wait()

    async with (
        raw_server(handle) as server,
        httpx2.AsyncClient(transport=TrioTransport(), trust_env=False) as client,
    ):
        with pytest.raises(httpx2.RemoteProtocolError, match="before it was asked"):
            await client.post(server.url, content=b"body", extensions={"trace": trace})
        await server.wait_empty()
    assert received == b""
