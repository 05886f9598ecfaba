"""How far one attempt has come, and what it has brought so far."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import trio

from requeuest_trio._http.error_texts import causes, described
from requeuest_trio._http.net.shortages import is_shortage as caused_by_shortage
from requeuest_trio._http.trace import reached_by
from requeuest_trio._model.headers import RESERVED, Headers
from requeuest_trio._model.job import Reached
from requeuest_trio._model.outcome import Answer, Delivery

__all__ = ["Progress"]

_ORDER: Final = (Reached.RESOLVE, Reached.CONNECT, Reached.TLS, Reached.SENT, Reached.RESPONSE)

_BEFORE_SENT: Final = frozenset({Reached.RESOLVE, Reached.CONNECT, Reached.TLS})


class Progress:
    """How far one attempt has come. Read after the attempt was cut short, wherever that was."""

    def __init__(self, sent: Headers, confirm: Callable[[], bool] = lambda: True) -> None:
        """`confirm` is asked each time before a request begins to be sent; False: it has cancelled that."""
        self.body = bytearray()
        self.headers: Headers = ()
        self.is_decoded = False
        self.sensitive: Collection[str] = ()
        """Names of fields and parameters that are never to be shown."""
        self.foreign: Callable[[], Headers] = tuple
        """The fields as another client sends them, with its own, some of which it adds only while it sends."""
        self._sent = sent
        self._confirm = confirm
        self._status: int | None = None
        self._url: str | None = None
        self._reached = Reached.RESOLVE
        self._is_traced = False
        self._is_truncated = False
        self._is_complete = False
        self._not_followed: str | None = None

    def step(self, reached: Reached) -> Awaitable[None] | None:
        """The library's own transport begins a step. If a cancellation may have come, that is to be waited for."""
        self._is_traced = True
        if reached is Reached.SENT and not self._confirm():
            return self._step_unless_cancelled(reached)
        self._come_to(reached)
        return None

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Another transport does, and tells it as httpcore would."""
        if (cancellation := self.step(reached_by(event))) is not None:
            await cancellation

    def answered(self, status: int, headers: Headers, url: str | None = None) -> None:
        """Keep status and headers, and the URL to which redirects have led."""
        self._reached = Reached.RESPONSE
        self._status = status
        self.headers = headers
        self._url = url

    def room(self, limit: int) -> int:
        """How many more bytes of the body are wanted."""
        return limit - len(self.body)

    def take(self, piece: bytes, limit: int) -> bool:
        """Keep a part of the body, as far as there is room. False: there was not enough."""
        room = self.room(limit)
        self.body += piece[:room]
        self._is_truncated = len(piece) > room
        return not self._is_truncated

    def cut(self) -> None:
        """The rest of the body is left."""
        self._is_truncated = True

    def starts_over(self) -> None:
        """Forget the answer that led elsewhere; what was sent stays sent."""
        self._status = None
        self._reached = Reached.SENT

    def complete(self, not_followed: str | None = None) -> Delivery:
        """The answer, read to its end or to the limit; with the reason, if it is a redirect that was not followed."""
        self._is_complete = True
        self._not_followed = not_followed or self._not_followed
        return self._answered() or Delivery(self._reached)

    def failed(self, error: Exception) -> Delivery:
        """What an exception leaves behind."""
        if self._is_complete:
            # Only closing went wrong.
            return self.complete()
        text = described(error, self._sent, self.sensitive, self._added())
        reached = self._reached
        if not self._is_traced and reached is Reached.RESOLVE:
            # A transport that does not report its steps: assume the worst unless the error says better.
            reached = _reached_by_kind(error)
        elif reached is Reached.CONNECT and any(isinstance(cause, socket.gaierror) for cause in causes(error)):
            reached = Reached.RESOLVE
        is_shortage = reached in _BEFORE_SENT and caused_by_shortage(error)
        return self._answered(cut_off=text) or Delivery(reached, error=text, is_shortage=is_shortage)

    def timed_out(self, timeout: float) -> Delivery:
        """What the deadline leaves behind."""
        if self._is_complete:
            return self.complete()
        text = f"timed out after {timeout:g} s"
        reached = self._reached if self._is_traced else Reached.SENT
        return self._answered(cut_off=text) or Delivery(reached, error=text)

    async def _step_unless_cancelled(self, reached: Reached) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._come_to(reached)

    def _come_to(self, reached: Reached) -> None:
        # Forward only: a second hop, or a second connection, does not unsend the first.
        if _ORDER.index(reached) > _ORDER.index(self._reached):
            self._reached = reached

    def _answered(self, cut_off: str | None = None) -> Delivery | None:
        """The answer as far as it has come, if one has; with the reason, if that is why no more of it came."""
        if self._status is None:
            return None
        is_truncated = self._is_truncated or cut_off is not None
        answer = Answer(self._status, self._kept_headers(), bytes(self.body), is_truncated, cut_off, self._url)
        return Delivery(Reached.RESPONSE, answer, self._not_followed)

    def _added(self) -> Headers:
        return tuple(pair for pair in self.foreign() if pair not in self._sent and pair[0].lower() not in RESERVED)

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
