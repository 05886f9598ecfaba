"""How much of the processor costly answers may take, all of one event loop together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import trio
from trio.lowlevel import RunVar

__all__ = ["Turns"]

_FREE: Final = 0.0005
"""Seconds of the processor's time that each answer has before it waits: a megabyte of an honest body takes less."""
_PAUSES: Final = 4
"""So many times as long as a step of a costly answer took, no other costly one has a step: a fifth of the processor is
theirs."""
_AHEAD: Final = 0.004
"""Seconds of pauses that may be owed: no sleep is as short as what a single step costs."""

_T = TypeVar("_T")


class _Line:
    """Where costly answers stand, first come, first served."""

    __slots__ = ("free_at", "lock")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.free_at = 0.0
        """When the pauses for all that was done are over."""


_line: Final[RunVar[_Line]] = RunVar("costly answers")


class Turns:
    """The steps in which one answer is read.

    An answer that has used up what is free, or whose next step is known to be long, stands in line with all others like
    it, and the line moves on as slowly as what was done in it has cost. However many there are, they do not have a step
    at the same time, and the rest of the processor is left to everybody else.
    """

    __slots__ = ("_spent",)

    def __init__(self) -> None:
        self._spent = 0.0

    async def step(self, work: Callable[[], _T], *, took: float = 0.0, is_long: bool = False) -> _T:
        """Do some work for the answer, at once or when its turn has come; it has taken so many seconds already."""
        if not is_long and self._spent + took <= _FREE:
            began = time.thread_time()
            try:
                return work()
            finally:
                self._spent += took + time.thread_time() - began
        line = _line_of_this_run()
        async with line.lock:
            await trio.sleep_until(line.free_at - _AHEAD)
            began = time.thread_time()
            try:
                return work()
            finally:
                took += time.thread_time() - began
                self._spent += took
                line.free_at = max(line.free_at, trio.current_time()) + took * _PAUSES


def _line_of_this_run() -> _Line:
    try:
        return _line.get()
    except LookupError:
        line = _Line()
        _line.set(line)
        return line
