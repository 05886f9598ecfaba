"""A request that meets the end of an idle connection is sent once more, over a new one, within the same attempt.

Only if nothing of an answer had come, the connection had served before, and the body is there to be sent again; and
only once.
"""

import random
import socket
import struct
from collections.abc import AsyncIterator

import httpx2
import pytest
import trio

from requeuest_trio import Reached, TrioTransport
from requeuest_trio._http.sender import Sender
from requeuest_trio._model.outcome import Delivery
from tests.http.hostile import Handler, RawServer, raw_server, read_head, send
from tests.http.recording import OK
from tests.machine import OwnTime

IDLE = 0.005


async def closes_when_idle(stream: trio.abc.Stream) -> None:
    """As a server does whose idle time is very short."""
    while True:
        with trio.move_on_after(IDLE) as idle:
            await read_head(stream)
        if idle.cancelled_caught:
            return
        await stream.send_all(OK)


async def test_reuse_at_the_moment_of_closing(sender: Sender) -> None:
    """Whichever comes first by how little ever: nothing is lost."""
    chance = random.Random(35)
    async with raw_server(closes_when_idle) as server:
        for _ in range(300):
            delivery = await send(sender, server.url, method="POST", body=b"body")
            assert delivery.error is None
            await trio.sleep(IDLE + chance.uniform(-0.001, 0.001))
        assert 1 < server.connections <= 300


def one_answer_then(*ends: bytes | None, reset: bool = False) -> tuple[Handler, list[int]]:
    """A handler: each connection answers once, if it is the first; then comes what is said, and the end.

    None: it goes on answering. Also returned: how many requests came over each connection.
    """
    requests: list[int] = []

    async def handle(stream: trio.abc.Stream) -> None:
        number = len(requests)
        requests.append(0)
        end = ends[min(number, len(ends) - 1)]
        while True:
            await read_head(stream)
            requests[number] += 1
            if end is not None and (number > 0 or requests[number] > 1):
                if end:
                    await stream.send_all(end)
                if reset:
                    assert isinstance(stream, trio.SocketStream)
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            await stream.send_all(OK)

    return handle, requests


async def twice(sender: Sender, server: RawServer) -> Delivery:
    assert (await send(sender, server.url, method="POST")).error is None
    return await send(sender, server.url, method="POST")


@pytest.mark.parametrize("reset", [False, True])
async def test_once_more_on_a_fresh_connection(sender: Sender, reset: bool) -> None:
    """One attempt, one delivery."""
    handle, requests = one_answer_then(b"", None, reset=reset)
    async with raw_server(handle) as server:
        delivery = await twice(sender, server)
    assert delivery.answer is not None
    assert (delivery.reached, delivery.answer.status, delivery.answer.body) == (Reached.RESPONSE, 200, b"ok")
    assert requests == [2, 1]


TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
TIMED_OUT_1_0 = b"HTTP/1.0 408 Request Timeout\r\n\r\n"


@pytest.mark.parametrize("end", [TIMED_OUT, TIMED_OUT_1_0])
async def test_408_is_the_end_of_an_idle_connection(sender: Sender, end: bytes) -> None:
    """RFC 9110 section 15.5.9: the server says what it would otherwise have done without a word."""
    handle, requests = one_answer_then(end, None)
    async with raw_server(handle) as server:
        delivery = await twice(sender, server)
    assert delivery.answer is not None
    assert (delivery.answer.status, delivery.answer.body) == (200, b"ok")
    assert requests == [2, 1]


async def test_408_on_a_fresh_connection_is_an_answer(sender: Sender) -> None:
    handle, requests = one_answer_then(TIMED_OUT, TIMED_OUT)
    async with raw_server(handle) as server:
        delivery = await twice(sender, server)
        assert delivery.answer is not None
        assert delivery.answer.status == 408
        assert requests == [2, 1]


async def test_408_without_an_end_is_an_answer(sender: Sender) -> None:
    handle, requests = one_answer_then(TIMED_OUT.replace(b"close", b"keep-alive"), None)
    async with raw_server(handle) as server:
        delivery = await twice(sender, server)
    assert delivery.answer is not None
    assert delivery.answer.status == 408
    assert requests == [2]


@pytest.mark.parametrize("reset", [False, True])
async def test_never_a_second_time(sender: Sender, reset: bool) -> None:
    handle, requests = one_answer_then(b"", b"", reset=reset)
    async with raw_server(handle) as server:
        delivery = await twice(sender, server)
        await server.wait_empty()
    assert (delivery.answer, delivery.reached) == (None, Reached.SENT)
    assert requests == [2, 1]


async def test_even_if_other_idle_connections_are_there(sender: Sender) -> None:
    """They are as old as the one that failed."""
    started, may_answer = trio.Event(), trio.Event()
    requests = 0

    async def handle(stream: trio.abc.Stream) -> None:
        nonlocal requests
        is_old = server.connections <= 3
        await read_head(stream)
        requests += 1
        if is_old:
            if requests == 3:
                started.set()
            await may_answer.wait()
        await stream.send_all(OK)
        await read_head(stream)
        requests += 1

    async with raw_server(handle) as server:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(send, sender, server.url)
            await started.wait()
            may_answer.set()
        assert (await send(sender, server.url)).error is None
        assert (requests, server.connections) == (5, 4)


async def test_not_on_a_fresh_connection(sender: Sender) -> None:
    """There it is no race: the server does not want the request."""
    requests = 0

    async def handle(stream: trio.abc.Stream) -> None:
        nonlocal requests
        await read_head(stream)
        requests += 1

    async with raw_server(handle) as server:
        delivery = await send(sender, server.url)
    assert (delivery.answer, delivery.reached, requests) == (None, Reached.SENT, 1)


@pytest.mark.parametrize(
    "part", [b"H", b"HTTP/1.1 200", b"HTTP/1.1 103 Hints\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal"]
)
@pytest.mark.parametrize("reset", [False, True])
async def test_not_after_a_part_of_an_answer(sender: Sender, part: bytes, reset: bool) -> None:
    """The request has arrived: to send it again is for the queue to decide."""
    handle, requests = one_answer_then(part, None, reset=reset)
    async with raw_server(handle) as server:
        delivery = await twice(sender, server)
    assert delivery.error or (delivery.answer and delivery.answer.cut_off)
    # A reset may overtake the part of an answer: then it is as if there had been none.
    assert requests == [2] or (reset and requests == [2, 1])


class Stream(httpx2.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"body"


async def test_not_for_a_body_that_is_a_stream() -> None:
    handle, requests = one_answer_then(b"", None)
    async with (
        raw_server(handle) as server,
        httpx2.AsyncClient(transport=TrioTransport(), trust_env=False) as client,
    ):
        await client.post(server.url)
        with pytest.raises(httpx2.TransportError):
            await client.post(server.url, content=Stream())
        assert (await client.post(server.url)).text == "ok"
    assert requests == [2, 1]


async def test_408_to_a_body_that_is_a_stream_is_an_answer() -> None:
    handle, requests = one_answer_then(TIMED_OUT, None)
    async with (
        raw_server(handle) as server,
        httpx2.AsyncClient(transport=TrioTransport(), trust_env=False) as client,
    ):
        await client.post(server.url)
        assert (await client.post(server.url, content=Stream())).status_code == 408
    assert requests == [2]


async def test_counts_for_the_same_deadline(sender: Sender) -> None:
    """The attempt is no longer for it."""

    async def handle(stream: trio.abc.Stream) -> None:
        is_first = server.connections == 1
        await read_head(stream)
        if is_first:
            await stream.send_all(OK)
            await read_head(stream)
            await trio.sleep(0.2)
        else:
            await trio.sleep_forever()

    async with raw_server(handle) as server:
        await send(sender, server.url)
        began, own = trio.current_time(), OwnTime()
        delivery = await send(sender, server.url, timeout=0.4)
        assert trio.current_time() - began >= 0.4
        assert own.seconds < 0.6
        assert server.connections == 2
    assert (delivery.reached, delivery.error) == (Reached.SENT, "timed out after 0.4 s")
