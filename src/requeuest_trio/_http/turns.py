"""How much of the processor long and costly answers may take, all of one event loop together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import trio
from trio.lowlevel import RunVar

__all__ = ["Turns"]

_FREE: Final = 0.0005
"""Seconds of the processor's time that each answer has before it is costly: a megabyte of an honest body takes less."""
_PAUSES_OF_LONG: Final = 1
"""So many times as long as a step of a long answer took, no other long one has a step: half of the processor is
theirs."""
_PAUSES_OF_COSTLY: Final = 4
"""The same for costly ones: a fifth is theirs."""
_AHEAD: Final = 0.004
"""Seconds of pauses that may be owed: no sleep is as short as what a single step costs."""

_T = TypeVar("_T")


class _Line:
    """Where answers stand, first come, first served."""

    __slots__ = ("_free_at", "_lock", "_pauses")

    def __init__(self, pauses: float) -> None:
        self._pauses = pauses
        self._lock = trio.Lock()
        self._free_at = 0.0
        """When the pauses for all that was done are over."""

    async def step(self, turns: Turns, work: Callable[[], _T], took: float) -> _T:
        """Do some work for one of them when its turn has come."""
        async with self._lock:
            if (wait_until := self._free_at - _AHEAD) > trio.current_time():
                await trio.sleep_until(wait_until)
            before = turns.spent
            try:
                return turns.timed(work, took)
            finally:
                self._free_at = max(self._free_at, trio.current_time()) + (turns.spent - before) * self._pauses


class _Lines:
    def __init__(self) -> None:
        self.long = _Line(_PAUSES_OF_LONG)
        self.costly = _Line(_PAUSES_OF_COSTLY)


_lines: Final[RunVar[_Lines]] = RunVar("answers in line")


class Turns:
    """The steps in which one answer is read.

    The first is free. From the second on, an answer stands in line with all others that have more than one, and in each
    turn of the event loop one of them has a step. A job waits for many turns until it is done, and in none of them must
    it wait for a step of every long answer.

    An answer that has used up what is free, or whose next step is known to be long, is costly, and stands in a line of
    its own kind. However many there are, they do not have a step at the same time, and each line moves on more slowly
    than what was done in it has cost: the rest of the processor is left to everybody else.
    """

    __slots__ = ("_has_begun", "spent")

    def __init__(self) -> None:
        self._has_begun = False
        self.spent = 0.0
        """Seconds of the processor's time that the answer has had."""

    async def step(self, work: Callable[[], _T], *, took: float = 0.0, is_long: bool = False) -> _T:
        """Do some work for the answer, at once or when its turn has come; it has taken so many seconds already."""
        if is_long or self.spent + took > _FREE:
            return await _lines_of_this_run().costly.step(self, work, took)
        if self._has_begun:
            return await _lines_of_this_run().long.step(self, work, took)
        self._has_begun = True
        return self.timed(work, took)

    def timed(self, work: Callable[[], _T], took: float) -> _T:
        """Do some work at once, and count it."""
        began = time.thread_time()
        try:
            return work()
        finally:
            self.spent += took + time.thread_time() - began


def _lines_of_this_run() -> _Lines:
    try:
        return _lines.get()
    except LookupError:
        lines = _Lines()
        _lines.set(lines)
        return lines
