"""The two kinds of byte streams under a connection: a plain socket, and TLS over one.

Both can be closed without waiting, so that whatever ends an attempt, its cancellation too, leaves no socket behind.
"""

from __future__ import annotations

import select
import socket
import ssl
from typing import Protocol

import trio

__all__ = ["PlainStream", "Stream", "TlsStream", "open_tls"]


class Stream(Protocol):
    """One connection to a receiver, for one task at a time. What breaks it raises `OSError` or Trio's errors."""

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        ...

    async def receive(self) -> bytes:
        """Wait for the next bytes; none at the end. Always a checkpoint, so that a fast sender starves nobody."""
        ...

    def has_news(self) -> bool:
        """Whether something can be read that nobody has asked for: most often, that the other side has closed."""
        ...

    def close(self) -> None:
        """Close it at once. A task that waits for it gets `trio.ClosedResourceError`."""
        ...


_RECEIVED_AT_ONCE = 65_536


class PlainStream:
    """A TCP connection.

    Not a `trio.SocketStream`, whose every call is a checkpoint: to send a request that fits into the socket's buffer
    needs no waiting, and the wait for the answer follows at once.
    """

    __slots__ = ("_poll", "_socket")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    async def send(self, data: bytes) -> None:
        """Send all of it. A checkpoint only if it has to wait."""
        sent = self._try_to_send(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                await trio.lowlevel.wait_writable(self._socket)
                rest = rest[self._try_to_send(rest) :]

    def _try_to_send(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def receive(self) -> bytes:
        """Wait for the next bytes; none at the end."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(_RECEIVED_AT_ONCE)
            except BlockingIOError:
                continue

    def has_news(self) -> bool:
        """Whether something can be read."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Close it at once."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class TlsStream:
    """TLS over a TCP connection. To be made by `open_tls`."""

    __slots__ = ("_plain", "_tls")

    def __init__(self, plain: PlainStream, tls: trio.SSLStream[trio.SocketStream]) -> None:
        self._plain = plain
        self._tls = tls

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await self._tls.send_all(data)

    async def receive(self) -> bytes:
        """Wait for the next bytes; none at the end, with or without TLS's own closing message, as on all of the web."""
        return bytes(await self._tls.receive_some(_RECEIVED_AT_ONCE))

    def has_news(self) -> bool:
        """Whether something can be read; what TLS sends for itself counts too."""
        return self._plain.has_news()

    def close(self) -> None:
        """Close it at once, without TLS's closing message: what was sent is framed by HTTP."""
        self._plain.close()


async def open_tls(sock: socket.socket, context: ssl.SSLContext, host: str) -> TlsStream:
    """Shake hands over a connected socket, which is this function's from here on.

    Cancelled, or if the handshake fails, the socket is closed.
    """
    plain = PlainStream(sock)
    try:
        inner = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        tls = trio.SSLStream(inner, context, server_hostname=host, https_compatible=True)
        await tls.do_handshake()
    except BaseException:
        plain.close()
        raise
    return TlsStream(plain, tls)
