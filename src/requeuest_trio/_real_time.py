"""Time limits for what waits for the real world, such as the answer of a server.

They are those of Trio, unless its clock is a `trio.testing.MockClock`: a server does not answer sooner because a test's
clock is run faster, or jumps. Then they are measured in real time; and as long as one is running, a clock that jumps
when all tasks are blocked does not, since to wait for a server is not to be idle.
"""

from __future__ import annotations

import math
import sys
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

__all__ = ("is_mocked", "move_on_after", "move_on_at")


def is_mocked() -> bool:
    """Whether Trio's clock says nothing about the real time."""
    testing = sys.modules.get("trio.testing")
    return testing is not None and isinstance(trio.lowlevel.current_clock(), testing.MockClock)


def move_on_after(
    seconds: float, *, shield: bool = False, holds: bool = True
) -> AbstractContextManager[trio.CancelScope]:
    """
    Do what `trio.move_on_after` does, with seconds of the real world.

    Args:
      seconds: the time limit.
      shield: as Trio's.
      holds: whether a mock clock does not jump meanwhile. Not for what waits for other tasks, which may be asleep.
    """
    return _RealScope(seconds, shield, holds) if is_mocked() else trio.move_on_after(seconds, shield=shield)


def move_on_at(deadline: float) -> AbstractContextManager[trio.CancelScope]:
    """Do what `trio.move_on_at` does; what is left until then, by Trio's clock, are seconds of the real world."""
    if is_mocked():
        return move_on_after(max(0.0, deadline - trio.current_time()))
    return trio.move_on_at(deadline)


class _RealScope:
    """A scope that is cancelled by a thread, and holds a mock clock meanwhile."""

    def __init__(self, seconds: float, shield: bool, holds: bool) -> None:
        self._scope = trio.CancelScope(shield=shield)
        self._holds = holds
        self._holding = trio.CancelScope()
        self._ends_at = monotonic() + seconds
        self._timer: threading.Timer | None = None

    def __enter__(self) -> trio.CancelScope:
        token = trio.lowlevel.current_trio_token()
        left = self._ends_at - monotonic()
        if left <= 0:
            self._scope.cancel()
        elif left < threading.TIMEOUT_MAX:
            self._timer = threading.Timer(left, self._time_is_over, [token])
            self._timer.daemon = True
            self._timer.start()
        if self._holds:
            trio.lowlevel.spawn_system_task(self._hold)
        return self._scope.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        self._holding.cancel()
        return self._scope.__exit__(exc_type, exc, traceback)

    def _time_is_over(self, token: trio.lowlevel.TrioToken) -> None:
        with suppress(trio.RunFinishedError):  # the scope was left in the last moment
            token.run_sync_soon(self._scope.cancel)

    async def _hold(self) -> None:
        """While a task waits like this, Trio does not let its clock jump."""
        with self._holding:
            await sys.modules["trio.testing"].wait_all_tasks_blocked(math.inf)
