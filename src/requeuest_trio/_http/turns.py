"""How much of the processor costly answers may take, all of one event loop together."""

from __future__ import annotations

from typing import Final

import trio
from trio.lowlevel import RunVar

__all__ = ["Turns"]

_FREE: Final = 0.0005
"""Seconds of the processor's time that each answer has before it waits: a megabyte of an honest body takes less."""
_PAUSES: Final = 4
"""So many times as long as a step of a costly answer took, no other costly one has a step: a fifth of the processor is
theirs."""

_line: Final[RunVar[trio.Lock]] = RunVar("costly answers")


class Turns:
    """The steps in which one answer is read.

    An answer that has used up what is free stands in line with all others that have, first come, first served, and the
    line moves on as slowly as what it has just cost. However many there are, the rest of the processor is left to
    everybody else.
    """

    __slots__ = ("_spent",)

    def __init__(self) -> None:
        self._spent = 0.0

    async def after(self, seconds: float) -> None:
        """Wait as long as is due after a step that took so much of the processor's time."""
        self._spent += seconds
        if self._spent > _FREE:
            async with _line_of_this_run():
                await trio.sleep(seconds * _PAUSES)


def _line_of_this_run() -> trio.Lock:
    try:
        return _line.get()
    except LookupError:
        line = trio.Lock()
        _line.set(line)
        return line
