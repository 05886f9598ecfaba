"""Whatever a receiver does: each attempt ends in time, in the right class, within bounded memory, and leaves nothing.

Each receiver is met by the sender (what did it reach?) and by an httpx2 client (which error?), over `TrioTransport`.
"""

import gzip
import resource
import socket
import ssl
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
import trio
import trustme

from requeuest_trio import Reached, Request, TrioTransport
from requeuest_trio._http.pool import ConnectionStatistics
from requeuest_trio._http.sender import open_sender
from requeuest_trio._model.outcome import Delivery
from tests.http.hostile import SHORT, SMALL, Handler, RawServer, raw_server, read_head, says, send_request, until_left
from tests.postgres.harness import open_fds

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
NEVER_SENT = {Reached.CONNECT, Reached.TLS}
MAYBE_SENT = {Reached.SENT}
ANSWERED = {Reached.RESPONSE}
PATIENT = 5.0


def for_ever(head: bytes, piece: bytes, pause: float = 0.0) -> Handler:
    async def handle(stream: trio.abc.Stream) -> None:
        await says(head)(stream)
        while True:
            await stream.send_all(piece)
            await trio.sleep(pause)

    return handle


def resets(answer: bytes) -> Handler:
    async def handle(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        await says(answer)(stream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return handle


async def leaves(_: trio.abc.Stream) -> None:
    """Without a word."""


async def plain_400(stream: trio.abc.Stream) -> None:
    """A plain server that gets the first bytes of TLS."""
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def half_a_handshake(stream: trio.abc.Stream) -> None:
    await stream.receive_some()
    await stream.send_all(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03")
    await until_left(stream)


async def tls_alert(stream: trio.abc.Stream) -> None:
    """A TLS server that gets plain HTTP."""
    await stream.receive_some()
    await stream.send_all(b"\x15\x03\x01\x00\x02\x02\x46")


@dataclass(frozen=True)
class Case:
    """A receiver, and what comes of it."""

    handle: Handler
    reached: set[Reached]
    error: type[Exception] | None
    """What a client of httpx2's gets; None is an answer."""
    timeout: float = PATIENT
    """`SHORT` if only the deadline ends it."""
    body: Callable[[bytes], bool] | None = None
    truncated: bool | None = None
    scheme: str = "http"


BOMB = gzip.compress(b"\0" * 100_000_000, 1)

CASES = {
    "accepts and is silent": Case(until_left, MAYBE_SENT, httpx2.ReadTimeout, SHORT),
    "closes at once": Case(leaves, MAYBE_SENT, httpx2.TransportError),
    "drips a field": Case(for_ever(OK + b"X: ", b"x", 0.01), MAYBE_SENT, httpx2.ReadTimeout, SHORT),
    "drips fields": Case(for_ever(OK, b"X: y\r\n", 0.01), MAYBE_SENT, httpx2.ReadTimeout, SHORT),
    "103 for ever": Case(for_ever(b"", b"HTTP/1.1 103 \r\n\r\n"), MAYBE_SENT, httpx2.RemoteProtocolError),
    "a field without end": Case(for_ever(OK + b"X: ", b"x" * 9_999), MAYBE_SENT, httpx2.RemoteProtocolError),
    "fields without end": Case(for_ever(OK, b"X: y\r\n" * 999), MAYBE_SENT, httpx2.RemoteProtocolError),
    "a huge head at once": Case(says(OK + b"X: " + b"x" * 9_999_999), MAYBE_SENT, httpx2.RemoteProtocolError),
    "reset before the answer": Case(resets(b""), MAYBE_SENT, httpx2.TransportError),
    "reset in the head": Case(resets(b"HTTP/1.1 20"), MAYBE_SENT, httpx2.TransportError),
    "drips chunks": Case(for_ever(CHUNKED, b"1\r\nx\r\n", 0.01), ANSWERED, httpx2.ReadTimeout, SHORT, truncated=True),
    "drips a body": Case(for_ever(OK + b"\r\n", b"x", 0.01), ANSWERED, httpx2.ReadTimeout, SHORT, truncated=True),
    "a body without end": Case(for_ever(OK + b"\r\n", b"x" * 65_536), ANSWERED, None, truncated=True),
    "chunks without end": Case(for_ever(CHUNKED, b"fff\r\n" + b"x" * 4_095 + b"\r\n"), ANSWERED, None, truncated=True),
    "a chunk without end": Case(for_ever(CHUNKED + b"fffffffffff\r\n", b"x" * 9_999), ANSWERED, None, truncated=True),
    "an extension without end": Case(
        for_ever(CHUNKED + b"1;", b"x" * 9_999), ANSWERED, httpx2.RemoteProtocolError, truncated=True
    ),
    "a trailer without end": Case(
        for_ever(CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n" * 999), ANSWERED, httpx2.RemoteProtocolError, truncated=True
    ),
    "a trailer's field without end": Case(
        for_ever(CHUNKED + b"1\r\nx\r\n0\r\nX: ", b"x" * 9_999), ANSWERED, httpx2.RemoteProtocolError, truncated=True
    ),
    "Content-Length too large": Case(
        says(OK + b"Content-Length: 9\r\n\r\nbody"), ANSWERED, httpx2.RemoteProtocolError, truncated=True
    ),
    "Content-Length too small": Case(says(OK + b"Content-Length: 3\r\n\r\nbody"), ANSWERED, None, truncated=False),
    "reset in the body": Case(
        resets(OK + b"Content-Length: 9\r\n\r\nbody"), ANSWERED | MAYBE_SENT, httpx2.TransportError
    ),
    "a bomb of gzip": Case(
        says(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB),
        ANSWERED, None, truncated=True,
    ),
    "TLS on the HTTP port": Case(tls_alert, MAYBE_SENT, httpx2.RemoteProtocolError),
    "HTTP on the TLS port": Case(plain_400, NEVER_SENT, httpx2.ConnectError, scheme="https"),
    "silence on the TLS port": Case(until_left, NEVER_SENT, httpx2.ReadTimeout, SHORT, scheme="https"),
    "half a handshake": Case(half_a_handshake, NEVER_SENT, httpx2.ReadTimeout, SHORT, scheme="https"),
    "closes in the handshake": Case(
        leaves, NEVER_SENT, httpx2.ConnectError, scheme="https"
    ),
}  # fmt: skip


@asynccontextmanager
async def bounded(transport: TrioTransport) -> AsyncIterator[None]:
    """Fails if memory grows by more than a few MB, or anything is left open."""
    fds, tasks = open_fds(), trio.lowlevel.current_statistics().tasks_living
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    transport.close()
    assert transport.statistics() == ConnectionStatistics(open=0, idle=0, waiting=0)
    with trio.fail_after(5):
        while (open_fds(), trio.lowlevel.current_statistics().tasks_living) != (fds, tasks):  # noqa: ASYNC110
            await trio.sleep(0.001)


@pytest.mark.parametrize("name", CASES)
async def test_attempt(name: str) -> None:
    case = CASES[name]
    transport = TrioTransport()
    async with raw_server(case.handle) as server, bounded(transport), open_sender(transport, SMALL) as sender:
        with trio.fail_after(case.timeout + 0.5):
            request = Request.post(server.url.replace("http", case.scheme), content=b"x")
            delivery = await send_request(sender, request, timeout=case.timeout)
    assert delivery.reached in case.reached, delivery
    assert_told(case, delivery)


def assert_told(case: Case, delivery: Delivery) -> None:
    if delivery.reached is Reached.RESPONSE:
        assert delivery.answer is not None
        assert len(delivery.answer.body) <= SMALL.max_response_body
        assert case.truncated in {None, delivery.answer.truncated}
        assert bool(delivery.answer.cut_off) == (case.error is not None)
    else:
        assert delivery.answer is None
        assert delivery.error
        assert ("timed out" in delivery.error) == (case.timeout == SHORT)


@pytest.mark.parametrize("name", CASES)
async def test_client_of_httpx2(name: str) -> None:
    case = CASES[name]
    transport = TrioTransport(deadline=case.timeout, max_body=SMALL.max_response_body)
    async with raw_server(case.handle) as server, bounded(transport):
        client = httpx2.AsyncClient(transport=transport, trust_env=False, timeout=None)
        url = server.url.replace("http", case.scheme)
        with trio.fail_after(case.timeout + 0.5):
            if case.error is not None:
                with pytest.raises(case.error):
                    await client.post(url, content=b"x")
            else:
                async with client.stream("POST", url, content=b"x") as response:
                    body = b"".join([piece async for piece in response.aiter_raw()])
                assert len(body) <= SMALL.max_response_body
                assert response.extensions["truncated"] in {case.truncated, len(body) == SMALL.max_response_body}


async def test_never_accepts() -> None:
    """The kernel does, until the queue of connections is full; there nothing was sent."""
    transport = TrioTransport()
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        async with bounded(transport), open_sender(transport, SMALL) as sender:
            with trio.fail_after(SHORT + 0.5):
                delivery = await send_request(sender, Request.get(url), timeout=SHORT)
        for filler in fillers:
            filler.close()
    assert (delivery.answer, delivery.reached) == (None, Reached.CONNECT)


# --- certificates -----------------------------------------------------------------------------------------------------


async def reached_with(server: RawServer, context: ssl.SSLContext, host: str = "localhost") -> Delivery:
    transport = TrioTransport(ssl_context=context)
    async with bounded(transport), open_sender(transport, SMALL) as sender:
        request = Request.get(f"https://{host}:{server.port}/")
        return await send_request(sender, request, timeout=PATIENT)


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def test_certificates_that_are_refused(authority: trustme.CA, client_tls: ssl.SSLContext) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    refused = {
        "unable to get local issuer": trustme.CA().issue_cert("localhost"),
        "expired": authority.issue_cert("localhost", not_before=yesterday - timedelta(days=1), not_after=yesterday),
        "mismatch": authority.issue_cert("other.example"),
    }
    for word, certificate in refused.items():
        heads: list[bytes] = []

        async def handle(stream: trio.abc.Stream, heads: list[bytes] = heads) -> None:
            heads.append(await read_head(stream))

        async with raw_server(handle, tls=server_context(certificate)) as server:
            delivery = await reached_with(server, client_tls)
            await server.wait_empty()
        assert (delivery.answer, delivery.reached, heads) == (None, Reached.TLS, [])
        assert word in str(delivery.error), delivery.error


async def test_memory_of_many_at_once() -> None:
    """A hundred endless heads: each within its own limit, and gone afterwards."""
    transport = TrioTransport()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with raw_server(for_ever(OK + b"X: ", b"x" * 65_536)) as server, open_sender(transport, SMALL) as sender:
        request = Request.get(server.url)
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(lambda: send_request(sender, request, timeout=PATIENT))
        transport.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
