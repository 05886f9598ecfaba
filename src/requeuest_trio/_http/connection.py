"""One HTTP/1.1 connection: a request goes out, its answer comes in, then the next."""

from __future__ import annotations

import math
from contextlib import aclosing
from typing import Final

import trio

from requeuest_trio._http.answer import AnswerParser
from requeuest_trio._http.message import Message, Origin
from requeuest_trio._http.streams import Stream
from requeuest_trio._http.timeouts import NO_TIMEOUTS
from requeuest_trio._model.ecosystem import ReadError, ReadTimeout, RemoteProtocolError, WriteError, WriteTimeout

__all__ = ["Connection", "Disconnected"]

_BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
_SENT_TOGETHER: Final = 65_536


class Disconnected(RemoteProtocolError):
    """The connection ended before any byte of an answer came. On one that was used before, it was probably closed for
    being idle, while the request was under way."""


class Connection:
    """A stream and what is read from it. One request at a time; whoever makes one closes the connection afterwards, or
    gives it back if `is_reusable`."""

    __slots__ = (
        "_is_last", "_stream", "answer", "expires_at", "has_served", "is_closed", "origin",
        "timeouts",
    )  # fmt: skip

    def __init__(self, origin: Origin, stream: Stream) -> None:
        self.origin = origin
        self._stream = stream
        self.answer = AnswerParser()
        self.has_served = False
        """Whether an answer was read over it already."""
        self._is_last = False
        self.is_closed = False
        self.timeouts = NO_TIMEOUTS
        """Those of the request under way."""
        self.expires_at = 0.0
        """While it is idle: when not to use it any more, by Trio's clock."""

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "used before" if self.has_served else "new"
        return f"<Connection to {self.origin.host}:{self.origin.port}, {state}>"

    @property
    def is_reusable(self) -> bool:
        """Whether another request can be sent over it."""
        return self.answer.is_reusable and not self.is_closed and not self._is_last

    def is_alive(self) -> bool:
        """Whether, being idle, it still looks usable: nothing may have come, neither data nor an end."""
        return not self._stream.has_news()

    def close(self) -> None:
        """Close it at once."""
        self.is_closed = True
        self._stream.close()

    async def send(self, message: Message) -> None:
        """Send a request.

        An answer that comes before the whole body has gone is an answer all the same (RFC 9112 section 9.5): so if
        sending fails, reading tells what the matter is.

        Raises `Disconnected`, `WriteError` or `WriteTimeout`, and what a body in pieces raises.
        """
        self._is_last = message.is_last
        self.answer.expect(is_head=message.method == "HEAD")
        try:
            await self._send(message)
        except WriteError as error:
            if self.is_closed:
                raise
            try:
                await self.receive_head()
            except Disconnected as lost:
                raise lost from error
            except (ReadError, RemoteProtocolError):
                raise error from None
            # The other side may still wait for the rest of the request.
            self.answer.keep_alive = False

    async def _send(self, message: Message) -> None:
        body = message.body
        if not isinstance(body, bytes):
            await self._write(message.head)
            async with aclosing(body):
                async for piece in body:
                    await self._write(piece)
        elif len(body) <= _SENT_TOGETHER:
            await self._write(message.head + body)
        else:
            await self._write(message.head)
            await self._write(body)

    async def _write(self, data: bytes) -> None:
        try:
            if self.timeouts.write == math.inf:
                await self._stream.send(data)
                return
            with trio.move_on_after(self.timeouts.write):
                await self._stream.send(data)
                return
        except _BROKEN as error:
            raise WriteError(_text(error)) from error
        raise WriteTimeout(f"could not send for {self.timeouts.write:g} s")

    async def _read(self) -> bytes:
        if self.timeouts.read == math.inf:
            return await self._stream.receive()
        with trio.move_on_after(self.timeouts.read):
            return await self._stream.receive()
        raise ReadTimeout(f"nothing came for {self.timeouts.read:g} s")

    async def receive_head(self) -> None:
        """Read until status and fields are there. Raises `Disconnected`, `ReadError` or `RemoteProtocolError`."""
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

    async def _receive(self) -> None:
        if self.answer.problem is not None:
            raise RemoteProtocolError(self.answer.problem)
        if self.answer.has_more:
            # What can be sent in little time may take a lot of it to read: others have their turn.
            await trio.lowlevel.checkpoint()
            self.answer.go_on()
            return
        try:
            data = await self._read()
        except _BROKEN as error:
            if self.answer.has_begun or self.is_closed:
                raise ReadError(_text(error)) from error
            raise Disconnected(f"the connection broke before an answer came: {_text(error)}") from error
        if data:
            self.answer.feed(data)
        elif self.answer.has_begun:
            self.answer.feed_eof(is_certain=not self._stream.was_cut)
        else:
            raise Disconnected("the connection was closed before an answer came")


def _text(error: BaseException) -> str:
    return str(error.__cause__ or error) or type(error).__name__
