"""One HTTP/1.1 connection: a request goes out, its answer comes in, then the next."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

import trio

from requeuest_trio._http.net.streams import Stream
from requeuest_trio._http.net.timeouts import NO_TIMEOUTS, Timeouts
from requeuest_trio._http.turns import Turns
from requeuest_trio._http.wire.answer import LONG_HEAD, AnswerParser
from requeuest_trio._http.wire.bodies import Pieces
from requeuest_trio._http.wire.message import Message
from requeuest_trio._model.ecosystem import ReadError, ReadTimeout, RemoteProtocolError, WriteError, WriteTimeout
from requeuest_trio._model.groups import Kept
from requeuest_trio._model.origin import Origin

__all__ = ["Connection", "Disconnected", "NotSent"]

_BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
_SENT_TOGETHER: Final = 65_536
_STUCK_SECONDS: Final = 1.0
_RECEIVING_A_BYTE: Final = 0.5e-9
"""Seconds of the processor's time, roughly: to ask for the time would be a system call more for each answer."""


class Disconnected(RemoteProtocolError):
    """The connection ended before any byte of an answer came. On one that was used before, it was probably closed for
    being idle, while the request was under way."""


class NotSent(Disconnected):
    """Nothing of the request was sent, because the connection could not be trusted with it."""


class Connection:
    """A stream and what is read from it. One request at a time; whoever makes one closes the connection afterwards, or
    keeps it if `is_reusable`."""

    __slots__ = (
        "_is_last", "_share", "_stream", "_turns", "answer", "expires_at", "has_served", "is_closed", "origin",
        "timeouts",
    )  # fmt: skip

    def __init__(self, origin: Origin, stream: Stream) -> None:
        self.origin: Origin = origin
        self._stream = stream
        self.answer: AnswerParser = AnswerParser()
        self._share: str | None = None
        """On whose account the answer is read."""
        self._turns: Turns | None = None
        """Those of an answer that takes more than one step."""
        self.has_served: bool = False
        """Whether an answer was read over it already."""
        self._is_last = False
        self.is_closed: bool = False
        self.timeouts: Timeouts = NO_TIMEOUTS
        """Those of the request under way."""
        self.expires_at: float = 0.0
        """While it is idle: when not to use it any more, by Trio's clock."""

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "used before" if self.has_served else "new"
        return f"<Connection to {self.origin.host}:{self.origin.port}, {state}>"

    @property
    def is_reusable(self) -> bool:
        """Whether another request can be sent over it."""
        return self.answer.is_reusable and not self.is_closed and not self._is_last

    def require_unread_nothing(self) -> None:
        """Raise `NotSent` if something has come, data or an end. To be called right before `ask`: what comes before a
        request answers nothing (RFC 9112 section 9.2)."""
        if self._stream.is_readable():
            raise NotSent("the connection was closed, or said something, before it was asked anything")

    def close(self) -> None:
        """Close it at once."""
        self.is_closed = True
        self._stream.close()

    async def ask(self, message: Message) -> None:
        """Send a request, unless an answer comes before it has gone: who answers early may read no more of it. Then
        read the answer until status and fields are there.

        Raises `Disconnected`, `WriteError`, `WriteTimeout`, `ReadError`, `ReadTimeout` or
        `RemoteProtocolError`, and what a body in pieces raises.
        """
        self._is_last = message.is_last
        self.answer.expect(is_head=message.method == "HEAD")
        self._turns, self._share = None, message.share
        body = message.body
        try:
            if isinstance(body, bytes) and len(body) <= _SENT_TOGETHER:
                if not self._start(message.head + body):
                    await self._send_watching(self._finish)
            else:
                await self._send_watching(partial(self._send, message.head, body))
        except WriteError as error:
            if self.is_closed:
                raise
            try:
                await self._receive_head()
            except Disconnected as lost:
                raise lost from error
            except (ReadError, RemoteProtocolError):
                raise error from None
            # The other side may still wait for the rest of the request.
            self.answer.keep_alive = False
        # Not by `_receive_head`, which would be one more coroutine for each attempt.
        while not self.answer.is_head_complete:
            await self._receive()

    async def _send_watching(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send, and stop if an answer comes, or the connection ends (RFC 9112 section 9.5)."""
        errors, errors_of_watching, is_sent = Kept(), Kept(), False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope, errors_of_watching)
            with errors:
                await send()
                is_sent = True
            nursery.cancel_scope.cancel()
        if errors or errors_of_watching:
            raise (errors or errors_of_watching)[0]
        if not is_sent:
            self.answer.keep_alive = False

    async def _watch(self, sending: trio.CancelScope, errors: Kept) -> None:
        with errors:
            while not self.answer.is_head_complete:
                await self._receive(while_sending=True)
            if self.answer.status < 300:
                # It may well read on; the request is whole only if it does.
                await self._until_stuck()
        sending.cancel()

    async def _until_stuck(self) -> None:
        before = self._stream.unsent
        while True:
            await trio.sleep(_STUCK_SECONDS)
            if self._stream.unsent is before and before:
                return
            before = self._stream.unsent

    async def _send(self, head: bytes, body: bytes | Pieces) -> None:
        await self._write(head)
        if isinstance(body, bytes):
            await self._write(body)
            return
        async with aclosing(body):
            async for piece in body:
                await self._write(piece)

    async def _write(self, data: bytes) -> None:
        if not self._start(data):
            await self._finish()

    def _start(self, data: bytes) -> bool:
        try:
            return self._stream.start_sending(data)
        except _BROKEN as error:
            raise WriteError(_text(error)) from error

    async def _finish(self) -> None:
        try:
            with trio.move_on_after(self.timeouts.write):
                await self._stream.finish_sending()
                return
        except _BROKEN as error:
            raise WriteError(_text(error)) from error
        raise WriteTimeout(f"could not send for {self.timeouts.write:g} s")

    async def _read_in_time(self) -> bytes:
        with trio.move_on_after(self.timeouts.read):
            return await self._stream.receive()
        raise ReadTimeout(f"nothing came for {self.timeouts.read:g} s")

    async def _receive_head(self) -> None:
        while not self.answer.is_head_complete:
            await self._receive()

    async def receive_piece(self) -> bytes:
        """What has come of the body, or else the next that comes; nothing at its end.

        Raises `ReadError` or `RemoteProtocolError`.
        """
        answer = self.answer
        while not answer.pieces:
            if answer.is_complete:
                return b""
            await self._receive()
        piece = answer.pieces[0] if len(answer.pieces) == 1 else b"".join(answer.pieces)
        answer.pieces = []
        return piece

    async def _receive(self, *, while_sending: bool = False) -> None:
        if self.answer.problem is not None:
            raise RemoteProtocolError(self.answer.problem)
        if self.answer.has_more:
            await trio.lowlevel.checkpoint()
            await self._step(self.answer.go_on, is_long=self.answer.has_long_head())
            return
        try:
            if self.timeouts.read == math.inf or while_sending:
                data = await self._stream.receive(while_sending=while_sending)
            else:
                data = await self._read_in_time()
        except _BROKEN as error:
            if self.answer.has_begun or self.is_closed:
                raise ReadError(_text(error)) from error
            raise Disconnected(f"the connection broke before an answer came: {_text(error)}") from error
        if data and len(data) <= LONG_HEAD and not self.answer.has_begun:
            self.answer.feed(data)
        elif data:
            is_long = self.answer.has_long_head(data)
            took = self._stream.took + len(data) * _RECEIVING_A_BYTE
            await self._step(partial(self.answer.feed, data), took, is_long=is_long)
        elif self.answer.has_begun:
            self.answer.feed_eof(is_certain=not self._stream.was_cut)
        else:
            raise Disconnected("the connection was closed before an answer came")

    async def _step(self, read: Callable[[], None], took: float = 0.0, *, is_long: bool) -> None:
        """Read more of an answer than a short beginning: what is little to send may be a lot to read."""
        if self._turns is None:
            self._turns = Turns(self._share, self.origin)
        await self._turns.step(read, took=took, is_long=is_long)


def _text(error: BaseException) -> str:
    return str(error.__cause__ or error) or type(error).__name__
