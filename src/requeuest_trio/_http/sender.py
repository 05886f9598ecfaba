"""Sending one request, under limits that are this library's own, whatever it is sent with.

No client's timeouts bound a whole request, so one deadline of the caller's does, by cancellation: for name lookup,
connecting, TLS, an endless series of 1xx answers and a body that drips. Whatever else goes wrong becomes a `Delivery`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import trio

from requeuest_trio._config import Config
from requeuest_trio._http.exchanges import Exchange, Incoming, exchange_through
from requeuest_trio._http.held_bodies import LARGE, HeldBodies
from requeuest_trio._http.progress import Progress
from requeuest_trio._http.redirects import Hop, is_redirect, next_hop
from requeuest_trio._http.transport import TrioTransport
from requeuest_trio._http.turns import Turns
from requeuest_trio._http.wire.decoding import Decoder, decoder_for
from requeuest_trio._model.headers import Headers, find
from requeuest_trio._model.origin import origin_of
from requeuest_trio._model.outcome import Delivery
from requeuest_trio._model.request import Request

__all__ = ["Sender", "open_sender"]

_DECODED_AT_ONCE: Final = 2_048
_DECODED_TO_AT_ONCE: Final = 16_384
"""So many bytes are undone in one step, and so many come of it: a thousand times as much might."""
_MOST_HELD: Final = 67_108_864


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
        self._held = HeldBodies(max(_MOST_HELD, config.max_response_body))
        self._max_redirects = config.max_redirects
        self._sensitive = config.sensitive
        self._next_hop = partial(next_hop, sensitive=config.sensitive, bodies_to=config.redirect_bodies_to)
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
        redirects_left = self._max_redirects
        hop = Hop(request.method, request.url, request.headers, request.body, added, share=share)
        try:
            while True:
                answer = await self._exchange_once(hop, progress)
                try:
                    progress.answered(answer.status, answer.headers, None if hop.url == request.url else hop.url)
                    following = await self._following(hop, answer) if request.follow_redirects else None
                    if isinstance(following, Hop) and not redirects_left:
                        following = f"more than {self._max_redirects} redirects"
                    if not isinstance(following, Hop):
                        if (body := answer.whole()) is None:
                            await self._read_body(hop, answer, progress)
                        else:
                            progress.take(body, self._body_limit)
                        return progress.complete(following)
                finally:
                    # Of a redirect, the body is not read: it may be endless.
                    await answer.aclose()
                hop = following
                redirects_left -= 1
                progress.starts_over()
        except Exception as error:
            # Transports raise what they like; none of it may end the runner.
            return progress.failed(error)
        except BaseExceptionGroup as group:
            # A cancellation in the company of such errors, from a transport with a nursery: it alone goes on.
            raise (group.split(Exception)[1] or group) from None

    async def _following(self, hop: Hop, answer: Incoming) -> Hop | str | None:
        """Where a redirect leads, see `next_hop`. To take a URL apart may take milliseconds, as its sender likes."""
        if not is_redirect(answer.status, answer.headers):
            return None
        return await _turns_of(hop).step(partial(self._next_hop, hop, answer.status, answer.headers), is_long=True)

    async def _read_body(self, hop: Hop, answer: Incoming, progress: Progress) -> None:
        if answer.decoded is not None:
            progress.take(answer.decoded, self._body_limit)
            progress.is_decoded = find(answer.headers, "content-encoding") is not None
            return
        decoder = decoder_for(answer.headers)
        try:
            if decoder is None:
                is_whole = await answer.read(partial(self._keep, answer, progress))
            else:
                is_whole = await answer.read(partial(self._decode, answer, progress, decoder, _turns_of(hop), [0]))
        finally:
            self._held.leave(answer)
        if not is_whole:
            progress.cut()
        elif decoder is not None:
            decoder.finish()

    async def _keep(self, answer: Incoming, progress: Progress, piece: bytes) -> bool:
        wants_more = progress.take(piece, self._body_limit)
        if len(progress.body) > LARGE:
            self._held.hold(answer, len(progress.body))
        return wants_more

    async def _decode(
        self, answer: Incoming, progress: Progress, decoder: Decoder, turns: Turns, came: list[int], piece: bytes
    ) -> bool:
        """Undo a coding, a little at a time: what it comes to, and how long it takes, the length does not tell."""
        progress.is_decoded = True
        came[0] += len(piece)
        at = 0
        while at < len(piece) or decoder.has_rest:
            if at:
                await trio.lowlevel.checkpoint()
            data = decoder.rest
            if not decoder.has_rest:
                data = piece[at : at + _DECODED_AT_ONCE]
                at += _DECODED_AT_ONCE
            most = min(progress.room(self._body_limit) + 1, _DECODED_TO_AT_ONCE)
            part = await turns.step(partial(decoder.decode, data, most))
            if not await self._keep(answer, progress, part) or decoder.has_enough:
                return False
        return came[0] <= 2 * self._body_limit + LARGE


def _turns_of(hop: Hop) -> Turns:
    return Turns(hop.share, origin_of(hop.url))
