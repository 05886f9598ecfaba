"""Receivers that do whatever a receiver should not, each with what must come of it."""

import gzip
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

import httpx2
import trio

from requeuest_trio import Reached
from tests.http.hostile import SHORT, Handler, says, until_left

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
NEVER_SENT = {Reached.CONNECT, Reached.TLS}
MAYBE_SENT = {Reached.SENT}
ANSWERED = {Reached.RESPONSE}
PATIENT = 30.0


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


# Each is 100 MB of zeros.
BOMB = gzip.compress(b"\0" * 100_000_000, 1)
BROTLI_BOMB = bytes.fromhex(
    "cfffff7ff82700e2b14020f7fe9ffffffff04f00c4610180eefd3fffffffe19f0088c32200ddfb7ffeffffc33f01"
    "10870500baf7fffcffff877f02200e0b0074effff31fbc1eff04401c1600e862d703"
)
# RFC 8878: the magic number, a window of 128 kB, and blocks that say "131,072 times this byte".
ZSTD_BOMB = b"\x28\xb5\x2f\xfd\x00\x38" + b"\x02\x00\x10\x00" * 762 + b"\x03\x00\x10\x00"

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
    # The sender asks for neither, and takes neither off.
    "a bomb of brotli": Case(
        says(OK + b"Content-Encoding: br\r\nContent-Length: %d\r\n\r\n" % len(BROTLI_BOMB) + BROTLI_BOMB),
        ANSWERED, None, body=BROTLI_BOMB.__eq__, truncated=False,
    ),
    "a bomb of zstd": Case(
        says(OK + b"Content-Encoding: zstd\r\nContent-Length: %d\r\n\r\n" % len(ZSTD_BOMB) + ZSTD_BOMB),
        ANSWERED, None, body=ZSTD_BOMB.__eq__, truncated=False,
    ),
    "10 GB": Case(
        for_ever(OK + b"Content-Length: 10000000000\r\n\r\n", b"x" * 65_536), ANSWERED, None, truncated=True
    ),
    "TLS on the HTTP port": Case(tls_alert, MAYBE_SENT, httpx2.RemoteProtocolError),
    "HTTP on the TLS port": Case(plain_400, NEVER_SENT, httpx2.ConnectError, scheme="https"),
    "silence on the TLS port": Case(until_left, NEVER_SENT, httpx2.ReadTimeout, SHORT, scheme="https"),
    "half a handshake": Case(half_a_handshake, NEVER_SENT, httpx2.ReadTimeout, SHORT, scheme="https"),
    "closes in the handshake": Case(
        leaves, NEVER_SENT, httpx2.ConnectError, scheme="https"
    ),
}  # fmt: skip
