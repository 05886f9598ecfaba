"""How late the event loop is: while anything blocks it, this process sends nothing and renews no lease.

A task asks to be woken four times a second, and notes by how much it was later. Not more often, so that a host program
that waits for all tasks to be blocked, as tests do, finds a moment when they are.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter

__all__ = ["LoopLag"]

_INTERVAL: Final = 0.25
_WINDOW: Final = 60.0


class LoopLag:
    """The worst lag of the last minute. `run` has to be running."""

    def __init__(self, alarming: float, emitter: Emitter) -> None:
        self._alarming = alarming
        self._emitter = emitter
        self._due_at: float | None = None
        # Only what is larger than all that came later: the first is the worst.
        self._lags: deque[tuple[float, float]] = deque()

    def __repr__(self) -> str:
        return f"<LoopLag: at worst {self.worst:.3f} s>"

    @property
    def worst(self) -> float:
        """Seconds. What the task itself has not yet been woken to see counts already."""
        now = trio.current_time()
        while self._lags and self._lags[0][0] < now - _WINDOW:
            self._lags.popleft()
        current = 0.0 if self._due_at is None else max(now - self._due_at, 0.0)
        return max(current, self._lags[0][1]) if self._lags else current

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self._due_at = trio.current_time() + _INTERVAL
            await trio.sleep_until(self._due_at)
            now = trio.current_time()
            self._note(now, now - self._due_at)

    def _note(self, now: float, lag: float) -> None:
        while self._lags and self._lags[-1][1] <= lag:
            self._lags.pop()
        self._lags.append((now, lag))
        if lag > self._alarming:
            self._emitter.emit(events.LoopStalled(lag=round(lag, 2)))
