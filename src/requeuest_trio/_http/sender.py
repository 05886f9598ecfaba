"""Sending one request, under limits that are this library's own, whatever it is sent with.

No client's timeouts bound a whole request, so one deadline of the caller's does, by cancellation: for name lookup,
connecting, TLS, an endless series of 1xx answers and a body that drips. Whatever else goes wrong becomes a `Delivery`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from requeuest_trio._config import Config
from requeuest_trio._http.decoding import decoder_for
from requeuest_trio._http.exchanges import Exchange, Incoming, exchange_through
from requeuest_trio._http.progress import Progress
from requeuest_trio._http.redirects import Hop, next_hop
from requeuest_trio._http.transport import TrioTransport
from requeuest_trio._model.headers import Headers, find
from requeuest_trio._model.outcome import Delivery
from requeuest_trio._model.request import Request

__all__ = ["Sender", "open_sender"]


@asynccontextmanager
async def open_sender(http: Any, config: Config) -> AsyncIterator[Sender]:
    """A sender over a transport or client of the caller's, who also closes it, or (None) over one of its own.

    Raises `InvalidRequest` if `http` is neither an `httpx2.AsyncBaseTransport` nor an `AsyncClient` of httpx or httpx2.
    """
    if http is not None:
        yield Sender(exchange_through(http), config)
        return
    # One for each attempt that there may be, so that none of them waits for a connection, and some that make connecting
    # to several addresses faster.
    sockets = config.max_running + max(1, config.max_running // 4)
    transport = TrioTransport(max_connections=sockets, max_connections_per_origin=sockets)
    try:
        yield Sender(exchange_through(transport), config, transport.run)
    finally:
        transport.close()


class Sender:
    """Sends requests, any number at once."""

    def __init__(
        self, exchange: Exchange, config: Config, run: Callable[[], Awaitable[None]] = trio.sleep_forever
    ) -> None:
        self._exchange_once = exchange
        self._body_limit = config.max_response_body
        self._max_redirects = config.max_redirects
        self._sensitive = config.sensitive
        self._following = partial(next_hop, sensitive=config.sensitive, bodies_to=config.redirect_bodies_to)
        self.run = run
        """Closes what has been idle for too long, until cancelled."""

    async def send(
        self, request: Request, progress: Progress, added: Headers = (), share: str | None = None
    ) -> Delivery:
        """Send a request, with some headers added to its own, and read the answer.

        Names are looked up on the account of `share`; None is that of the name's domain.

        It takes as long as it takes: the caller has the deadline, and `Progress.timed_out` afterwards.

        Cancelled: the connection is closed, and `progress` tells how far it came. Raises nothing else.
        """
        progress.sensitive = self._sensitive
        try:
            hop = Hop(request.method, request.url, request.headers, request.body, added, share=share)
            return await self._exchange(request, hop, progress)
        except Exception as error:
            # Transports raise what they like; none of it may end the runner.
            return progress.failed(error)
        except BaseExceptionGroup as group:
            # A cancellation in the company of such errors, from a transport with a nursery: it alone goes on.
            raise (group.split(Exception)[1] or group) from None

    async def _exchange(self, request: Request, hop: Hop, progress: Progress) -> Delivery:
        redirects_left = self._max_redirects
        while True:
            answer = await self._exchange_once(hop, progress)
            try:
                progress.answered(answer.status, answer.headers, None if hop.url == request.url else hop.url)
                following = self._following(hop, answer.status, answer.headers) if request.follow_redirects else None
                if isinstance(following, Hop) and not redirects_left:
                    following = f"more than {self._max_redirects} redirects"
                if not isinstance(following, Hop):
                    await self._read_body(answer, progress)
                    return progress.complete(following)
            finally:
                # Of a redirect, the body is not read: it may be endless.
                await answer.aclose()
            hop = following
            redirects_left -= 1
            progress.starts_over()

    async def _read_body(self, answer: Incoming, progress: Progress) -> None:
        if answer.decoded is not None:
            progress.take(answer.decoded, self._body_limit)
            progress.is_decoded = find(answer.headers, "content-encoding") is not None
            return
        decoder = decoder_for(answer.headers)
        if decoder is None:
            await answer.read(lambda piece: progress.take(piece, self._body_limit))
            return

        def decode(piece: bytes) -> bool:
            progress.is_decoded = True
            return progress.take(decoder.decode(piece, progress.room(self._body_limit) + 1), self._body_limit)

        if await answer.read(decode):
            decoder.finish()
