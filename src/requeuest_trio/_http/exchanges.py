"""The ways to send one message: with the library's own transport, another one, or a client of the caller's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from copy import copy
from functools import lru_cache, partial
from typing import Any, Final, Protocol

import httpx2
import trio

from requeuest_trio._http.foreign_bodies import read_body
from requeuest_trio._http.net.connection import Connection
from requeuest_trio._http.progress import Progress
from requeuest_trio._http.redirects import Hop, goes_along
from requeuest_trio._http.transport import TrioTransport
from requeuest_trio._http.wire.codings import advertised
from requeuest_trio._http.wire.message import Message, head_of, target_of
from requeuest_trio._model.ecosystem import ReadError, RemoteProtocolError
from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._model.exact import exact_int
from requeuest_trio._model.headers import RESERVED, Headers, find

__all__ = ["Exchange", "Incoming", "exchange_through"]

_USER_AGENT: Final[Headers] = (("User-Agent", "requeuest-trio"),)
_NO_CODING: Final[Headers] = (("Accept-Encoding", "identity"),)
_METHODS_WITH_BODY: Final = frozenset(
    {"POST", "PUT", "PATCH"}
)  # they say so even if it is empty (RFC 9110 section 8.6)


Keep = Callable[[bytes], Awaitable[bool]]
"""Takes a piece of a body, and returns whether more is wanted."""

MAX_CHUNKS: Final = 65_536
"""Of one body. Each takes a microsecond or more, however little is in it."""
MAX_FRAMING: Final = 1_048_576
"""Bytes between the chunks of one body: sizes, extensions, trailer."""


class Incoming(Protocol):
    """An answer whose body is still to be read."""

    status: int
    headers: Headers
    decoded: bytes | None
    """The body, if the transport or client has read and decoded it already."""

    def whole(self) -> bytes | None:
        """The body, if all of it has come together with the head and it has no coding: then it need not be read."""
        ...

    async def read(self, keep: Keep) -> bool:
        """Give `keep` the pieces of the body until it returns False or raises, or the body has more chunks than it may
        have. Returns whether the body has ended."""
        ...

    def stop(self) -> None:
        """End `read`, soon. It returns False."""
        ...

    async def aclose(self) -> None:
        """Leave the rest."""
        ...


Exchange = Callable[[Hop, Progress], Awaitable[Incoming]]
"""Sends one message, without following redirects."""


def exchange_through(http: Any) -> Exchange:
    """The way to send through what was given as `http=`.

    Raises `InvalidRequest` if that is neither an `httpx2.AsyncBaseTransport` nor an `AsyncClient` of httpx or httpx2.
    """
    if isinstance(http, TrioTransport):
        return partial(_by_own_transport, http)
    if isinstance(http, httpx2.AsyncBaseTransport):
        return partial(_by_transport, http)
    if callable(getattr(http, "build_request", None)) and hasattr(http, "aclose"):
        return partial(_by_client, http)
    kind = type(http)
    raise InvalidRequest(
        "http", f"must be an httpx2.AsyncBaseTransport or an AsyncClient, not {kind.__module__}.{kind.__qualname__}"
    )


# --- with the library's own transport ---------------------------------------------------------------------------------


class _Own:
    decoded: bytes | None = None
    _is_stopped = False

    def __init__(self, transport: TrioTransport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        head = connection.answer.head
        self.status = head.status
        self.headers = head.text

    def whole(self) -> bytes | None:
        answer = self._connection.answer
        return b"".join(answer.pieces) if answer.is_complete and not answer.head.has_coding else None

    async def read(self, keep: Keep) -> bool:
        connection = self._connection
        try:
            while piece := await connection.receive_piece():
                chunks, framing = connection.answer.effort
                if chunks > MAX_CHUNKS or framing > MAX_FRAMING or not await keep(piece) or self._is_stopped:
                    return False
        except ReadError:
            if self._is_stopped:
                return False
            raise
        return True

    def stop(self) -> None:
        self._is_stopped = True
        self._connection.close()

    async def aclose(self) -> None:
        self._transport.release(self._connection)


async def _by_own_transport(transport: TrioTransport, hop: Hop, progress: Progress) -> Incoming:
    # Past httpx2's objects, which take longer to make than all that is done with them here.
    target = target_of(hop.url)
    fields = _fields(hop.headers) if not hop.added else _fields(hop.headers) + _lines(hop.added)
    if hop.body or hop.method in _METHODS_WITH_BODY:
        fields += b"Content-Length: %d\r\n" % len(hop.body)
    head = head_of(hop.method, target.path, target.host, fields)
    message = Message(target.origin, hop.method, head, hop.body, share=hop.share)
    return _Own(transport, await transport.exchange(message, progress.step))


@lru_cache(maxsize=256)
def _fields(headers: Headers) -> bytes:
    """Jobs of one application have the same headers again and again."""
    return _lines(_with_defaults(headers))


def _lines(headers: Headers) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")


def _with_defaults(headers: Headers) -> Headers:
    return _with_codings(headers if find(headers, "user-agent") is not None else headers + _USER_AGENT)


def _with_codings(headers: Headers) -> Headers:
    """Asking for no more than is decoded here, also if a client of the caller's would."""
    if find(headers, "accept-encoding") is None:
        return headers + _NO_CODING
    return tuple((name, advertised(value) if name.lower() == "accept-encoding" else value) for name, value in headers)


# --- with others of httpx's kind --------------------------------------------------------------------------------------


class _Foreign:
    def __init__(self, response: Any) -> None:
        self._response = response
        self._reading = trio.CancelScope()
        self.status = _checked_status(response.status_code)
        self.headers = _text(response.headers.raw)
        # A transport without a network, or a hook of the caller's client, may have done so.
        self.decoded = response.content if response.is_stream_consumed else None

    def whole(self) -> bytes | None:
        return None

    async def read(self, keep: Keep) -> bool:
        return await read_body(self._response, keep, self._reading, MAX_CHUNKS)

    def stop(self) -> None:
        self._reading.cancel()

    async def aclose(self) -> None:
        await self._response.aclose()


def _checked_status(status: object) -> int:
    """That of a transport which may be anything. Three digits are all that HTTP has (RFC 9110 section 15)."""
    if isinstance(status, int) and 100 <= (plain := exact_int(status)) <= 999:
        return plain
    raise RemoteProtocolError("the transport gave a status that is no number from 100 to 999")


async def _by_transport(transport: httpx2.AsyncBaseTransport, hop: Hop, progress: Progress) -> Incoming:
    # Not through an httpx2.AsyncClient: that would log each URL, secrets included, at INFO.
    headers = _raw(_with_defaults(hop.headers + hop.added))
    extensions = _extensions(hop, progress)
    return _Foreign(
        await transport.handle_async_request(
            httpx2.Request(hop.method, hop.url, headers=headers, content=hop.body, extensions=extensions)
        )
    )


async def _by_client(client: Any, hop: Hop, progress: Progress) -> Incoming:
    # Of its own cookies, so that what one answer sets goes into no other job's request, nor into the caller's client.
    client = copy(client)
    client.cookies = client.cookies
    request = client.build_request(
        hop.method,
        hop.url,
        headers=_raw(_with_codings(hop.headers + hop.added)),
        content=hop.body,
        timeout=None,
        extensions=_extensions(hop, progress),
    )
    progress.foreign = lambda: _text(request.headers.raw)
    if not hop.is_foreign:
        return _Foreign(await client.send(request, stream=True, follow_redirects=False))
    # The client adds credentials of its own; they too are for the request's origin only.
    for name, value in list(request.headers.multi_items()):
        if name.lower() not in RESERVED and not goes_along(name, value, progress.sensitive):
            request.headers.pop(name, None)
    return _Foreign(await client.send(request, stream=True, follow_redirects=False, auth=None))


def _extensions(hop: Hop, progress: Progress) -> dict[str, Any]:
    """`share` is known to `TrioTransport`, which may be in a client; others ignore it."""
    return {"trace": progress.trace, "share": hop.share}


def _raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _text(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    return tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw])
