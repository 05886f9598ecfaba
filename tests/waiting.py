"""Waiting for a state of the outside world, or of this process, which tells nobody when it changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable

import trio

PATIENCE = 20.0


async def until(
    condition: Callable[[], object | Awaitable[object]],
    *,
    patience: float = PATIENCE,
    every: float = 0.005,
    what: Callable[[], object] = str,
) -> None:
    """Wait until a condition, which may be asynchronous, gives a true value.

    Args:
        condition: asked again and again.
        patience: seconds after which it fails with an `AssertionError`.
        every: seconds between two times.
        what: gives what the error is to say beside that.
    """
    with trio.move_on_after(patience):
        while not await _holds(condition):  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(every)
        return
    raise AssertionError(f"not within {patience} s: {what()}")


async def _holds(condition: Callable[[], object | Awaitable[object]]) -> object:
    answer = condition()
    return await answer if isawaitable(answer) else answer
