"""In an `httpx2.AsyncClient`, `TrioTransport` keeps that client's contract: timeouts, streams, errors, closing."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import trio

from requeuest_trio import TrioTransport
from requeuest_trio._http.net.pool import ConnectionStatistics
from requeuest_trio._http.sender import open_sender
from requeuest_trio.testing import Receiver, Reply, Stall
from tests.http.hostile import PATIENT, SHORT, SMALL, raw_server, read_head, says, send, until_left
from tests.http.recording import OK, recorder

NOTHING = ConnectionStatistics(open=0, idle=0, waiting=0)


def client_of(transport: TrioTransport, **options: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=transport, trust_env=False, **options)


async def never(_: trio.abc.Stream) -> None:
    await trio.sleep_forever()


# --- timeouts ---------------------------------------------------------------------------------------------------------


async def test_connect_timeout_covers_the_handshake() -> None:
    transport = TrioTransport()
    async with client_of(transport, timeout=httpx2.Timeout(PATIENT, connect=SHORT)) as client:
        async with raw_server(until_left) as server:
            with pytest.raises(httpx2.ConnectTimeout, match=r"within 0.3 s"):
                await client.get(server.url.replace("http", "https"))
            await server.wait_empty()
        assert transport.statistics() == NOTHING


@pytest.mark.parametrize("begins", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal"])
async def test_read_timeout(begins: bytes) -> None:
    """For each wait, in the head and in the body."""
    transport = TrioTransport()
    async with client_of(transport, timeout=httpx2.Timeout(PATIENT, read=SHORT)) as client:
        async with raw_server(says(begins, then=until_left)) as server:
            with pytest.raises(httpx2.ReadTimeout, match=r"for 0.3 s"):
                await client.get(server.url)
            await server.wait_empty()
        assert transport.statistics() == NOTHING


async def test_place_of_a_connection_that_could_not_be_opened_is_free_again() -> None:
    transport = TrioTransport(max_connections=1)
    async with client_of(transport, timeout=httpx2.Timeout(PATIENT, pool=SHORT)) as client:
        for _ in range(2):
            with pytest.raises(httpx2.ConnectError):
                await client.get("http://127.0.0.1:1")
        assert transport.statistics() == NOTHING


async def test_write_timeout() -> None:
    transport = TrioTransport()
    async with client_of(transport, timeout=httpx2.Timeout(PATIENT, write=SHORT)) as client:
        async with raw_server(never) as server:
            with pytest.raises(httpx2.WriteTimeout, match=r"for 0.3 s"):
                await client.post(server.url, content=b"x" * 10_000_000)
        assert transport.statistics() == NOTHING


async def test_pool_timeout(receiver: Receiver, nursery: trio.Nursery) -> None:
    receiver.script(Stall())
    transport = TrioTransport(max_connections=1)
    async with client_of(transport, timeout=httpx2.Timeout(PATIENT, pool=SHORT)) as client:
        nursery.start_soon(client.get, receiver.url)
        await receiver.wait_for(1)
        with pytest.raises(httpx2.PoolTimeout, match=r"within 0.3 s"):
            await client.get(receiver.url)
        assert transport.statistics() == ConnectionStatistics(open=1, idle=0, waiting=0)
        nursery.cancel_scope.cancel()


async def test_timeout_of_one_request_is_none_of_the_next(receiver: Receiver) -> None:
    """They share a connection."""
    receiver.script(Reply(), Reply(delay=SHORT))
    async with client_of(TrioTransport(), timeout=None) as client:
        await client.get(receiver.url, timeout=SHORT / 2)
        assert (await client.get(receiver.url)).status_code == 200


async def test_deadline_is_for_all_of_it() -> None:
    """No timeout of httpx2's ends what drips."""

    async def drip(stream: trio.abc.Stream) -> None:
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.02)

    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with raw_server(says(head, then=drip)) as server, client_of(TrioTransport(deadline=SHORT)) as client:
        with trio.fail_after(SHORT + 0.5), pytest.raises(httpx2.ReadTimeout, match=r"longer than 0.3 s"):
            await client.get(server.url)
        await server.wait_empty()


# --- streams ----------------------------------------------------------------------------------------------------------


class Alternating(httpx2.AsyncByteStream):
    """Goes on only when the other side has said that it got the last piece."""

    def __init__(self) -> None:
        self.got = trio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in (b"one", b"two", b"three"):
            yield piece
            with trio.fail_after(5):
                await self.got.wait()
            self.got = trio.Event()


async def test_upload_goes_out_piece_by_piece() -> None:
    body = Alternating()
    seen = []

    async def handle(stream: trio.abc.Stream) -> None:
        data = await read_head(stream)
        while not data.endswith(b"0\r\n\r\n"):
            seen.append(data.partition(b"\r\n\r\n")[2] if b"POST" in data else data)
            if seen[-1]:
                body.got.set()
            data = bytes(await stream.receive_some())
        await stream.send_all(OK)

    async with raw_server(handle) as server, client_of(TrioTransport()) as client:
        assert (await client.post(server.url, content=body)).text == "ok"
    assert [piece for piece in seen if piece] == [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"5\r\nthree\r\n"]


async def test_download_comes_in_piece_by_piece() -> None:
    may_go_on = trio.Event()

    async def second_half(stream: trio.abc.Stream) -> None:
        await may_go_on.wait()
        await stream.send_all(b"second")

    async with (
        raw_server(says(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nfirst", then=second_half)) as server,
        client_of(TrioTransport()) as client,
        client.stream("GET", server.url) as response,
    ):
        pieces = response.aiter_raw()
        assert await anext(pieces) == b"first"
        may_go_on.set()
        assert [piece async for piece in pieces] == [b"second"]


async def test_stream_left_early_costs_its_connection_only() -> None:
    transport = TrioTransport()
    async with recorder() as record, client_of(transport) as client:
        record.answer = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
        async with client.stream("GET", record.url) as response:
            assert response.headers["content-length"] == "1000000"
            assert transport.statistics() == ConnectionStatistics(open=1, idle=0, waiting=0)
        assert transport.statistics() == NOTHING
        record.answer = lambda _: OK
        assert (await client.get(record.url)).text == "ok"


async def test_error_in_the_body_of_a_request_comes_out(receiver: Receiver) -> None:
    class Breaks(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"piece"
            raise KeyError("theirs")

    transport = TrioTransport()
    async with client_of(transport) as client:
        with pytest.raises(KeyError, match="theirs"):
            await client.post(receiver.url, content=Breaks())
        assert transport.statistics() == NOTHING
        assert (await client.get(receiver.url)).status_code == 200
    assert [arrival.method for arrival in receiver.arrivals] == ["GET"]


@pytest.mark.parametrize(
    ("size", "truncated"), [(0, False), (999, False), (1_000, False), (1_001, True), (10**6, True)]
)
async def test_limit_of_the_body(receiver: Receiver, size: int, truncated: bool) -> None:
    receiver.script(Reply(body=b"x" * size))
    transport = TrioTransport(max_body=1_000)
    async with client_of(transport) as client:
        response = await client.get(receiver.url)
        assert len(response.content) == min(size, 1_000)
        assert response.extensions["truncated"] is truncated
        assert transport.statistics().open == transport.statistics().idle


async def test_limit_of_no_body_at_all(receiver: Receiver) -> None:
    async with client_of(TrioTransport(max_body=0)) as client:
        response = await client.get(receiver.url)
        assert (response.content, response.extensions["truncated"]) == (b"", True)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["gopher://h/", "ftp://h/", "/relative", "//h/p", "http:///p"])
async def test_what_is_no_http_url(url: str) -> None:
    transport = TrioTransport()
    with pytest.raises(httpx2.UnsupportedProtocol):
        await transport.handle_async_request(httpx2.Request("GET", url))
    assert transport.statistics() == NOTHING


@pytest.mark.parametrize("method", ["CONNECT", "", "G ET", "GET\r\n", "GÉT"])
async def test_method_that_can_not_be_sent(method: str) -> None:
    transport = TrioTransport()
    with pytest.raises(httpx2.LocalProtocolError):
        await transport.handle_async_request(httpx2.Request(method, "http://127.0.0.1:9/"))
    assert transport.statistics() == NOTHING


async def test_error_knows_its_request() -> None:
    async with raw_server(says(b"nonsense")) as server, client_of(TrioTransport()) as client:
        with pytest.raises(httpx2.RemoteProtocolError) as caught:
            await client.get(server.url)
    assert caught.value.request.url == server.url


# --- closing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_used_before", [False, True])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"", b""),
        (b"HTTP/1.1 200", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b""),
        (b"", b"x" * 10**7),
    ],
)
async def test_closed_with_requests_under_way(answer: bytes, body: bytes, is_used_before: bool) -> None:
    """They end with an error of httpx2's, and start nothing anew."""
    transport = TrioTransport(max_connections=1)
    reached = trio.Event()

    async def handle(stream: trio.abc.Stream) -> None:
        if is_used_before:
            await says(OK)(stream)
        if not body:
            await read_head(stream)
            await stream.send_all(answer)
        reached.set()
        await (never(stream) if body else until_left(stream))

    async def fails(*kinds: type[Exception]) -> None:
        with pytest.raises(kinds):
            await client.post(server.url, content=body)

    async with raw_server(handle) as server:
        client = client_of(transport, timeout=None)
        if is_used_before:
            await client.get(server.url)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, httpx2.WriteError if body else httpx2.ReadError)
            await reached.wait()
            nursery.start_soon(fails, httpx2.ConnectError)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await client.aclose()
        assert transport.statistics() == NOTHING
        assert server.connections == 1
    with pytest.raises(httpx2.ConnectError, match="the transport is closed"):
        await transport.handle_async_request(httpx2.Request("GET", server.url))


async def test_closed_while_connecting() -> None:
    transport = TrioTransport()
    async with raw_server(until_left) as server:
        async with trio.open_nursery() as nursery:

            async def fails() -> None:
                with pytest.raises(httpx2.TransportError):
                    await transport.handle_async_request(httpx2.Request("GET", server.url, extensions={"trace": close}))

            async def close(event: str, _: object) -> None:
                if event == "connection.connect_tcp.started":
                    transport.close()

            nursery.start_soon(fails)
        await server.wait_empty()
    assert transport.statistics() == NOTHING


# --- as `http=` -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_client", [False, True])
async def test_given_to_the_queue(receiver: Receiver, in_client: bool) -> None:
    """It is used, and not closed."""
    transport = TrioTransport()
    http = client_of(transport, headers={"X-Team": "billing"}) if in_client else transport
    for _ in range(2):
        async with open_sender(http, SMALL) as sender:
            delivery = await send(sender, receiver.url, method="POST", body=b"body")
            assert delivery.answer is not None
            assert (delivery.answer.status, delivery.answer.body) == (200, b"ok")
    assert transport.statistics() == ConnectionStatistics(open=1, idle=1, waiting=0)
    assert [arrival.header("x-team") for arrival in receiver.arrivals] == ["billing" if in_client else None] * 2
    await http.aclose()
    assert transport.statistics() == NOTHING
