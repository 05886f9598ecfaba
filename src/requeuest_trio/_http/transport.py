"""`TrioTransport`: HTTP/1.1 on Trio, for any httpx2 client and for this library's own sender."""

from __future__ import annotations

import math
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final

import httpx2
import trio

from requeuest_trio._http.net.connection import Connection, Disconnected, NotSent
from requeuest_trio._http.net.connector import Connector, OnStep, tell
from requeuest_trio._http.net.pool import Connections, ConnectionStatistics
from requeuest_trio._http.net.shortages import OutOfResources
from requeuest_trio._http.net.timeouts import NO_TIMEOUTS, Timeouts
from requeuest_trio._http.trace import EVENTS
from requeuest_trio._http.wire.message import Message, message_of
from requeuest_trio._model import checks
from requeuest_trio._model.errors import InvalidRequest, kind_of
from requeuest_trio._model.job import Reached
from requeuest_trio._model.origin import Origin

__all__ = ["TrioTransport"]

_LEAST_PAUSE: Final = 0.1
_MOST_CONNECTIONS: Final = 1_000_000


class TrioTransport(httpx2.AsyncBaseTransport):
    """Sends HTTP/1.1 requests over Trio, with connections kept for the next request. `open_requeuest` uses one.

    It also serves any `httpx2.AsyncClient(transport=TrioTransport())`, whose timeouts (connect, read, write, pool) it
    keeps. HTTP/2, proxies and Unix sockets are httpx2's own transport's.

    Args:
        ssl_context: for https; None is TLS 1.2 or newer with the operating system's trusted certificates. For client
            certificates, load them into a context of your own. ALPN is set by you, too: this speaks `http/1.1` only.
        max_connections: sockets open at once, in all; 1 to 1,000,000. Further requests wait, and origins take turns. A
            host with several addresses is tried at up to three of them at once, as long as there is room.
        max_connections_per_origin: the same, for one scheme, host and port; first come, first served.
        keepalive: seconds for which an idle connection is kept for the next request; less, if the server says so
            (`Keep-Alive: timeout=`). The default is below the idle times of common servers. 0: none is kept.
        deadline: seconds for a whole request, from the wait for a connection to the last byte of the body. None: none.
        max_body: bytes of a response's body; the rest is left, even if that costs the connection, and
            `response.extensions["truncated"]` is True. None: no limit.

    Given to `open_requeuest` as `http=`, the queue's own limits hold instead of `deadline` and `max_body`.

    A request over a connection that had been used before, and that ends before any byte of an answer has come, is sent
    once more over a new one: most likely the server had closed the connection for being idle, at the same moment (RFC
    9112 section 9.3.1). So it is after 408 with `Connection: close` (RFC 9110 section 15.5.9). A request that the
    server has carried out without a word may thus be carried out twice; for a queue, which sends again whatever had no
    answer, that is nothing new. A body that is a stream is not sent again.

    Names are looked up in threads: at most 32 at once for one `share`, 16 for one domain (the last two labels), and 192
    in all, of which half are for shares that have none under way. So names that hang hold up those of other shares
    only if there are very many of these. The extension `share`, a str, says on whose account a request is sent:
    `client.get(url, extensions={"share": "crawler"})`. Without it, that is the name's domain.

    Raises `InvalidRequest`, a `ValueError`, for an argument that is none of these, naming it and its limits; a time is
    at most ten years.

    A request raises `httpx2.ConnectError`, `ReadError`, `WriteError`, `RemoteProtocolError`, `LocalProtocolError` if it
    can't be sent as it stands, `UnsupportedProtocol`, and the timeouts of httpx2.

    Cancellation: the request's connection is closed; nothing is left behind.

    Example::

        async with httpx2.AsyncClient(transport=TrioTransport()) as client:
            response = await client.get("https://api.example.com/charges/7")
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = 1_000,
        max_connections_per_origin: int = 100,
        keepalive: float = 4.0,
        deadline: float | None = None,
        max_body: int | None = None,
    ) -> None:
        if not isinstance(ssl_context, ssl.SSLContext | None):
            raise InvalidRequest("ssl_context", f"must be an ssl.SSLContext or None, not {kind_of(ssl_context)}")
        max_connections = checks.whole_number("max_connections", max_connections, 1, _MOST_CONNECTIONS)
        max_connections_per_origin = checks.whole_number(
            "max_connections_per_origin", max_connections_per_origin, 1, _MOST_CONNECTIONS
        )
        keepalive = checks.number("keepalive", keepalive, 0, checks.MAX_SECONDS)
        if deadline is not None:
            deadline = checks.number("deadline", deadline, 0, checks.MAX_SECONDS)
        if max_body is not None:
            max_body = checks.whole_number("max_body", max_body, 0, sys.maxsize)
        self._connector = Connector(ssl_context)
        self._connections = Connections(
            most=max_connections, most_per_origin=max_connections_per_origin, keepalive=keepalive
        )
        self._deadline = math.inf if deadline is None else deadline
        self._max_body = max_body

    def __repr__(self) -> str:
        return f"<TrioTransport: {self._connections.statistics()}>"

    def statistics(self) -> ConnectionStatistics:
        """Count the connections that are `open` and `idle`, and the requests that are `waiting` for one.

        Example::

            async with TrioTransport() as transport:
                print(transport.statistics().open, "connections")
        """
        return self._connections.statistics()

    async def run(self) -> None:
        """Close idle connections when their time is over, until cancelled.

        Without it that happens too, but not before the next request. `open_requeuest` runs it for its own transport.

        Cancellation: this is how it ends. Connections in use go on.

        Example::

            async with TrioTransport() as transport, trio.open_nursery() as nursery:
                nursery.start_soon(transport.run)
                async with httpx2.AsyncClient(transport=transport) as http:
                    await http.get("https://api.example.com/charges/7")
                nursery.cancel_scope.cancel()
        """
        while True:
            await trio.sleep(max(self._connections.keepalive, _LEAST_PAUSE))
            self._connections.close_expired()

    def close(self) -> None:
        """Close all connections at once. Requests in flight end with `httpx2.ReadError` or `WriteError`."""
        self._connections.close()

    async def aclose(self) -> None:
        """Do what `close` does, under the name Trio uses.

        Cancellation: the connections are closed in any case.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    # --- one request --------------------------------------------------------------------------------------------------

    async def exchange(self, message: Message, on_step: OnStep, timeouts: Timeouts = NO_TIMEOUTS) -> Connection:
        """Send a request, and return the connection with status and fields of the answer; its body is still to be read.

        Whoever calls ends with `release`, however far the body was read. Raises httpx2's errors.
        Cancelled: nothing is left behind.
        """
        can_repeat = isinstance(message.body, bytes)
        is_repeated = False
        while True:  # noqa: ASYNC913 - each turn asks whether it is cancelled
            connection = None if is_repeated else self._connections.acquire_idle(message.origin)
            if connection is None:
                connection = await self._take(message, on_step, timeouts, fresh=is_repeated)
            connection.timeouts = timeouts
            try:
                # Sending need not wait for anything, and what has no more time must not be sent.
                await trio.lowlevel.checkpoint_if_cancelled()
                connection.require_unread_nothing()
                if (pause := on_step(Reached.SENT)) is not None:
                    await pause
                    connection.require_unread_nothing()
                await connection.ask(message)
            except NotSent:
                self._drop(connection)
                if not connection.has_served:
                    raise
                continue
            except Disconnected:
                self._drop(connection)
                if not connection.has_served or not can_repeat:
                    raise
            except BaseException:
                self._drop(connection)
                raise
            else:
                if not (connection.has_served and can_repeat and connection.answer.has_given_up_waiting):
                    return connection
                self.release(connection)
            is_repeated = True

    def release(self, connection: Connection) -> None:
        """Keep the connection for the next request, or close it, if its answer was not read to the end."""
        self._connections.release(connection)

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._connections.release(connection)

    async def _take(self, message: Message, on_step: OnStep, timeouts: Timeouts, *, fresh: bool) -> Connection:
        with timeouts.waiting_for_connection():
            connection = await self._connections.acquire(message.origin, fresh=fresh)
        if connection is None:
            return await self._connect(message.origin, message.share, on_step, timeouts)
        return connection

    async def _connect(self, origin: Origin, share: str | None, on_step: OnStep, timeouts: Timeouts) -> Connection:
        extra = _ExtraSockets(self._connections, origin)
        try:
            with timeouts.connecting():
                connection = Connection(origin, await self._connector.connect(origin, on_step, extra, share))
        except BaseException as error:
            self._connections.release_unopened(origin)
            if isinstance(error, OutOfResources):
                # Idle connections may hold what is lacking.
                self._connections.close_idle()
            raise
        self._connections.opened(connection)
        return connection

    # --- for httpx2 ---------------------------------------------------------------------------------------------------

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request of httpx2's. The response's body is read when it is asked for."""
        message = message_of(request)
        ends_at = trio.current_time() + self._deadline
        with _until(ends_at, self._deadline):
            on_step = _reporting(request.extensions.get("trace"))
            connection = await self.exchange(message, on_step, Timeouts.of(request.extensions.get("timeout")))
            try:
                await tell(on_step, Reached.RESPONSE)
            except BaseException:
                self.release(connection)
                raise
        body = _Body(self, connection, partial(_until, ends_at, self._deadline), self._max_body)
        head = connection.answer.head
        response = httpx2.Response(
            head.status,
            headers=head.fields,
            stream=body,
            extensions={
                "http_version": head.version,
                "reason_phrase": head.reason,
                "truncated": False,
            },
        )
        body.extensions = response.extensions  # a copy
        return response


class _ExtraSockets:
    """Those to one origin, of which the pool admits a few beside the first."""

    def __init__(self, connections: Connections, origin: Origin) -> None:
        self._connections = connections
        self._origin = origin

    def acquire(self) -> bool:
        return self._connections.acquire_extra(self._origin)

    def release(self) -> None:
        self._connections.release_extra(self._origin)


class _Body(httpx2.AsyncByteStream, AsyncIterator[bytes]):
    """The body of a response of httpx2's: read from its connection, which is released at its end."""

    def __init__(
        self,
        transport: TrioTransport,
        connection: Connection,
        within_deadline: Callable[[], AbstractContextManager[None]],
        limit: int | None,
    ) -> None:
        self._transport = transport
        self._connection: Connection | None = connection
        self.extensions: dict[str, Any] = {}
        """Those of the response."""
        self._within_deadline = within_deadline
        self._room = math.inf if limit is None else limit

    # No generator, which would be left to the garbage collector by whoever stops reading.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._next_piece()
        except BaseException:
            self._release()
            raise
        if not piece:
            self._release()
            raise StopAsyncIteration
        return piece

    async def _next_piece(self) -> bytes:
        if self._connection is None:
            return b""
        with self._within_deadline():
            piece = await self._connection.receive_piece()
        if len(piece) > self._room:
            self.extensions["truncated"] = True
            piece = piece[: int(self._room)]
            self._release()
        self._room -= len(piece)
        return piece

    async def aclose(self) -> None:
        """Release the connection."""
        self._release()
        await trio.lowlevel.checkpoint()

    def _release(self) -> None:
        if self._connection is not None:
            self._transport.release(self._connection)
            self._connection = None


@contextmanager
def _until(ends_at: float, deadline: float) -> Iterator[None]:
    with trio.move_on_at(ends_at) as scope:
        yield
    if scope.cancelled_caught:
        raise httpx2.ReadTimeout(f"the request took longer than {deadline:g} s")


def _reporting(trace: Callable[[str, Mapping[str, Any]], Awaitable[None]] | None) -> OnStep:
    if trace is None:
        return _ignore

    async def report(reached: Reached) -> None:
        await trace(EVENTS[reached], {})

    return report


def _ignore(_: Reached) -> None:
    pass
