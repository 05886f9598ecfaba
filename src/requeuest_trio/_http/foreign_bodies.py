"""Reading the body of an answer as far as it is wanted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import trio

__all__ = ["read_body"]

_MOST_BUFFERED_PIECES = 1_000
_PIECES_AT_ONCE = 10


async def read_body(
    response: Any, keep: Callable[[bytes], Awaitable[bool]], leaving: trio.CancelScope, most_pieces: int
) -> bool:
    """Give `keep` the pieces of the body as they come, until it returns False or raises `ValueError`, or there were so
    many of them, or the caller cancels `leaving`, which is entered here.

    Returns whether the body was read to its end.

    The pieces come from the response's stream itself: `aiter_raw` passes over empty ones, and a stream that gives
    nothing else, without ever waiting, would not be left.

    A body that is not wanted any more is left by a cancellation. Nothing else unwinds all the generators that a client
    has nested around its socket; closing the outermost would leave the others to the garbage collector.
    """
    problem: ValueError | None = None
    pieces_left = _MOST_BUFFERED_PIECES
    number = 0
    with leaving:  # noqa: ASYNC912 - it waits inside the stream
        try:
            async with aclosing(_pieces_of(response.stream)) as pieces:
                async for piece in pieces:
                    if leaving.cancel_called:
                        # It was received already, so that nothing had to be waited for.
                        pieces_left -= 1
                        if not pieces_left:
                            break
                        continue
                    number += 1
                    if number % _PIECES_AT_ONCE == 0:
                        # Many of them may come at once, and others have their turn.
                        await trio.lowlevel.checkpoint()
                    try:
                        wants_more = number <= most_pieces and await keep(piece)
                    except ValueError as error:
                        problem, wants_more = error, False
                    if not wants_more:
                        leaving.cancel()
        except Exception:
            if not leaving.cancel_called:
                raise
    if problem is not None:
        raise problem
    return not leaving.cancel_called


async def _pieces_of(stream: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    pieces = aiter(stream)
    try:
        async for piece in pieces:
            yield piece
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()  # not left to the garbage collector
