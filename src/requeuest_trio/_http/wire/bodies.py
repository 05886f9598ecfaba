"""A request's body that comes in pieces, framed as it goes over the wire (RFC 9112 sections 6 and 7.1)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Self

from requeuest_trio._model.ecosystem import LocalProtocolError

__all__ = ["LAST_CHUNK", "Chunked", "Pieces", "Sized", "chunk"]

LAST_CHUNK = b"0\r\n\r\n"


def chunk(piece: bytes) -> bytes:
    """One piece of a chunked body; not an empty one, which would end it."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class Pieces:
    """The pieces of a body, ready to be sent. To be closed, since the sending may end before them."""

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        self._pieces: AsyncIterator[bytes] = aiter(pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Not to leave a generator to the garbage collector."""
        if isinstance(self._pieces, AsyncGenerator):
            await self._pieces.aclose()


class Chunked(Pieces):
    """A body of unknown length."""

    _has_ended = False

    async def __anext__(self) -> bytes:
        if self._has_ended:
            raise StopAsyncIteration
        async for piece in self._pieces:
            if piece:
                return chunk(piece)
        self._has_ended = True
        return LAST_CHUNK


class Sized(Pieces):
    """A body whose length was announced, and which has to have it."""

    def __init__(self, pieces: AsyncIterable[bytes], length: int) -> None:
        super().__init__(pieces)
        self._length = self._left = length

    async def __anext__(self) -> bytes:
        async for piece in self._pieces:
            self._left -= len(piece)
            if self._left < 0:
                break
            return piece
        if self._left:
            is_more = "more" if self._left < 0 else "less"
            raise LocalProtocolError(f"Content-Length is {self._length}, and the body has {is_more}")
        raise StopAsyncIteration
