"""Wake-ups: what makes the dispatcher take its next step, each with the moment at which it came.

They are hints. One may be lost, or come twice, or be invented by another role; the poll finds what they miss.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio

from requeuest_trio._engine.readiness import Readiness
from requeuest_trio._store.waits import Waits, pairs

__all__ = ["WakeUps"]


class WakeUps:
    """Notes in `readiness` what is told, and wakes the dispatcher if that may change what comes next."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._woken = trio.Event()

    def due(self, waits: Mapping[str, float]) -> None:
        """Channels are known to have something due in so many seconds."""
        if waits:
            now = trio.current_time()
            for channel, wait in waits.items():
                if self._readiness.due(channel, wait, now):
                    self._woken.set()

    def stored(self, waits: Waits) -> None:
        """Jobs are known to be stored in channels, due in so many seconds."""
        now = trio.current_time()
        for channel, wait in pairs(waits):
            if self._readiness.due(channel, wait, now):
                self._woken.set()

    def heard(self, waits: Waits) -> None:
        """Channels are said to have something due in so many seconds."""
        now = trio.current_time()
        for channel, wait in pairs(waits):
            if self._readiness.heard(channel, wait, now):
                self._woken.set()

    def anything(self) -> None:
        """Anything may be due: look at the database, soon."""
        if self._readiness.look_soon(trio.current_time()):
            self._woken.set()

    def slot_freed(self) -> None:
        """More may be claimed than before."""
        if self._readiness.ready:
            self._woken.set()

    def wake(self) -> None:
        """There is something to do that has nothing to do with readiness."""
        self._woken.set()

    async def wait(self, until: float) -> None:
        """Wait for a wake-up, at most until that time. What came since the last call counts."""
        with trio.move_on_at(until):
            await self._woken.wait()
        self._woken = trio.Event()

    @property
    def is_awaited(self) -> bool:
        """Whether the dispatcher has nothing to do until the next."""
        return self._woken.statistics().tasks_waiting > 0 and not self._woken.is_set()
