"""Sending one request through an httpx2 transport or client, under limits that are this library's own.

No client's timeouts bound a whole request, so one deadline here does: for name lookup, connecting, TLS, an endless
series of 1xx answers and a body that drips. Whatever goes wrong becomes a `Delivery`; only cancellation comes out.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2
import trio

from requeuest_trio._config import Config
from requeuest_trio._http.decoding import decoder_for
from requeuest_trio._http.describing import causes, described
from requeuest_trio._http.network import open_transport
from requeuest_trio._http.reading import read_body
from requeuest_trio._http.redirects import Hop, next_hop
from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._model.headers import Headers, find, is_secret
from requeuest_trio._model.job import Reached
from requeuest_trio._model.outcome import Answer, Delivery
from requeuest_trio._model.request import Request

__all__ = ["Sender", "open_sender"]

# Below the idle time after which common servers close, so that few connections are lost in the moment of their reuse.
_KEEPALIVE_SECONDS = 4.0
_DEFAULT_HEADERS: Headers = (("User-Agent", "requeuest-trio"), ("Accept-Encoding", "identity"))

# What httpcore calls the steps of a request, and how far a request has come when one begins.
_STEPS: Mapping[str, Reached] = {
    "connect_tcp.started": Reached.CONNECT,
    "connect_unix_socket.started": Reached.CONNECT,
    "start_tls.started": Reached.TLS,
    "send_request_headers.started": Reached.SENT,
    "receive_response_headers.complete": Reached.RESPONSE,
}
_ORDER = (Reached.RESOLVE, Reached.CONNECT, Reached.TLS, Reached.SENT, Reached.RESPONSE)

SendOnce = Callable[[Hop, "_Progress"], Awaitable[Any]]
"""Sends one message, without following redirects, and returns the response with its body still to be read."""


@asynccontextmanager
async def open_sender(http: Any, config: Config) -> AsyncIterator[Sender]:
    """A sender over a transport or client of the caller's, who also closes it, or (None) over one of its own.

    Raises `InvalidRequest` if `http` is neither an `httpx2.AsyncBaseTransport` nor an `AsyncClient` of httpx or httpx2.
    """
    if http is None:
        async with open_transport(_KEEPALIVE_SECONDS) as transport:
            yield Sender(partial(_send_by_transport, transport), config)
    elif isinstance(http, httpx2.AsyncBaseTransport):
        yield Sender(partial(_send_by_transport, http), config)
    elif callable(getattr(http, "build_request", None)) and hasattr(http, "aclose"):
        yield Sender(partial(_send_by_client, http), config)
    else:
        kind = type(http)
        raise InvalidRequest(
            "http", f"must be an httpx2.AsyncBaseTransport or an AsyncClient, not {kind.__module__}.{kind.__qualname__}"
        )


async def _send_by_transport(transport: httpx2.AsyncBaseTransport, hop: Hop, progress: _Progress) -> httpx2.Response:
    # Not through an httpx2.AsyncClient: that would log each URL, secrets included, at INFO.
    headers = hop.headers + tuple(pair for pair in _DEFAULT_HEADERS if find(hop.headers, pair[0]) is None)
    extensions = {"trace": progress.trace}
    return await transport.handle_async_request(
        httpx2.Request(hop.method, hop.url, headers=_raw(headers), content=hop.body, extensions=extensions)
    )


async def _send_by_client(client: Any, hop: Hop, progress: _Progress) -> Any:
    request = client.build_request(
        hop.method,
        hop.url,
        headers=_raw(hop.headers),
        content=hop.body,
        timeout=None,
        extensions={"trace": progress.trace},
    )
    if not hop.is_foreign:
        return await client.send(request, stream=True, follow_redirects=False)
    # The client adds credentials of its own; they too are for the request's origin only.
    for name, value in list(request.headers.multi_items()):
        if is_secret(name, value):
            request.headers.pop(name, None)
    return await client.send(request, stream=True, follow_redirects=False, auth=None)


def _raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


class Sender:
    """Sends requests, any number at once."""

    def __init__(self, send_once: SendOnce, config: Config) -> None:
        self._send_once = send_once
        self._body_limit = config.max_response_body
        self._max_redirects = config.max_redirects

    async def send(self, request: Request, headers: Headers, *, timeout: float) -> Delivery:  # noqa: ASYNC109 - the total
        """Send a request with these headers, and read the answer.

        Ends after `timeout` seconds at the latest. Cancelled: the connection is closed, and how far it came is lost.
        """
        progress = _Progress(headers)
        try:
            with trio.move_on_after(timeout) as deadline:
                return await self._exchange(request, headers, progress)
        except Exception as error:
            # Transports raise what they like; none of it may end the runner. Caught out here, because a transport
            # with a nursery of its own may answer the deadline with a group, which loses its `Cancelled` only now.
            if not deadline.cancelled_caught:
                return progress.failed(error)
        except BaseExceptionGroup as group:
            # A cancellation from outside, in the company of such errors: it alone goes on.
            raise (group.split(Exception)[1] or group) from None
        return progress.timed_out(timeout)

    async def _exchange(self, request: Request, headers: Headers, progress: _Progress) -> Delivery:
        hop = Hop(request.method, request.url, headers, request.body)
        for _ in range(self._max_redirects + 1):
            response = await self._send_once(hop, progress)
            try:
                progress.answered(response)
                following = next_hop(hop, response.status_code, progress.headers) if request.follow_redirects else None
                if following is None:
                    await self._read_body(response, progress)
                    return progress.complete()
            finally:
                # Of a redirect, the body is not read: it may be endless.
                await response.aclose()
            hop = following
            progress.starts_over()
        return Delivery(Reached.RESPONSE, error=f"more than {self._max_redirects} redirects")

    async def _read_body(self, response: Any, progress: _Progress) -> None:
        if response.is_stream_consumed:
            # A transport without a network, or a hook of the caller's client, has read and decoded it already.
            progress.take(response.content, self._body_limit)
            progress.is_decoded = "content-encoding" in response.headers
            return
        decoder = decoder_for(progress.headers)
        if decoder is None:
            await read_body(response, lambda piece: progress.take(piece, self._body_limit))
            return

        def decode(piece: bytes) -> bool:
            progress.is_decoded = True
            return progress.take(decoder.decode(piece, progress.room(self._body_limit) + 1), self._body_limit)

        if await read_body(response, decode):
            decoder.finish()


class _Progress:
    """How far one attempt has come. Read after the attempt was cut short, wherever that was."""

    def __init__(self, sent: Headers) -> None:
        self.body = bytearray()
        self.headers: Headers = ()
        self.is_decoded = False
        self._sent = sent
        self._status: int | None = None
        self._reached = Reached.RESOLVE
        self._is_traced = False
        self._is_truncated = False
        self._is_complete = False

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Follow the steps that httpcore reports, as `<part>.<step>.<started or complete>`."""
        self._is_traced = True
        step = _STEPS.get(event.partition(".")[2], Reached.RESOLVE)
        # Forward only: a second hop, or a second connection, does not unsend the first.
        if _ORDER.index(step) > _ORDER.index(self._reached):
            self._reached = step

    def answered(self, response: Any) -> None:
        """Keep status and headers."""
        self._reached = Reached.RESPONSE
        self._status = int(response.status_code)
        self.headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw)

    def room(self, limit: int) -> int:
        """How many more bytes of the body are wanted."""
        return limit - len(self.body)

    def take(self, piece: bytes, limit: int) -> bool:
        """Keep a part of the body, as far as there is room. False: there was not enough."""
        room = self.room(limit)
        self.body += piece[:room]
        self._is_truncated = len(piece) > room
        return not self._is_truncated

    def starts_over(self) -> None:
        """Forget the answer that led elsewhere; what was sent stays sent."""
        self._status = None
        self._reached = Reached.SENT

    def complete(self) -> Delivery:
        """The answer, read to its end or to the limit."""
        self._is_complete = True
        return self._ended(Delivery(self._reached), cut_off=None)

    def failed(self, error: Exception) -> Delivery:
        """What an exception leaves behind."""
        if self._is_complete:
            # Only closing went wrong.
            return self.complete()
        text = described(error, self._sent)
        reached = self._reached
        if not self._is_traced and reached is Reached.RESOLVE:
            # A transport that does not report its steps: assume the worst unless the error says better.
            reached = _reached_by_kind(error)
        elif reached is Reached.CONNECT and any(isinstance(cause, socket.gaierror) for cause in causes(error)):
            reached = Reached.RESOLVE
        return self._ended(Delivery(reached, error=text), cut_off=text)

    def timed_out(self, timeout: float) -> Delivery:
        """What the deadline leaves behind."""
        if self._is_complete:
            return self.complete()
        text = f"timed out after {timeout:g} s"
        reached = self._reached if self._is_traced else Reached.SENT
        return self._ended(Delivery(reached, error=text), cut_off=text)

    def _ended(self, without_answer: Delivery, cut_off: str | None) -> Delivery:
        if self._status is None:
            return without_answer
        is_truncated = self._is_truncated or cut_off is not None
        return Delivery(
            Reached.RESPONSE, Answer(self._status, self._kept_headers(), bytes(self.body), is_truncated, cut_off)
        )

    def _kept_headers(self) -> Headers:
        if not self.is_decoded:
            return self.headers
        # They are about the body as it came, and the body is kept decoded.
        return tuple(pair for pair in self.headers if pair[0].lower() not in {"content-encoding", "content-length"})


def _reached_by_kind(error: Exception) -> Reached:
    # By name, because httpx and httpx2 have equal but separate classes.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"ConnectError", "ConnectTimeout", "UnsupportedProtocol", "LocalProtocolError", "PoolTimeout"}:
        return Reached.CONNECT
    return Reached.SENT
