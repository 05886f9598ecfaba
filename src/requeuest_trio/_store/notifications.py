"""The topics of one queue, and whether this process notifies others over them."""

from __future__ import annotations

import math

import trio

from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter

__all__ = ["Notifications"]

_PAUSE_SECONDS = 5.0


class Notifications:
    """One for all connections of a process to a queue."""

    def __init__(self, schema: str, emitter: Emitter, *, enabled: bool = True) -> None:
        self.due_topic: str = f"{schema}:due"
        self.done_topic: str = f"{schema}:done"
        self.enabled = enabled
        self._emitter = emitter
        self._paused_until = -math.inf

    def pause(self) -> None:
        """Send none for a while: PostgreSQL's queue of notifications is full, and refuses whole commits then.

        It is full for as long as some session, of whichever program, listens and sits in a transaction. A commit is
        worth more than the hint that comes with it.
        """
        if self._may_send:
            self._emitter.emit(events.NotifyQueueFull(silent_for=_PAUSE_SECONDS))
        self._paused_until = trio.current_time() + _PAUSE_SECONDS

    @property
    def due(self) -> str | None:
        """The topic of jobs that became available; None while nothing is sent."""
        return self.due_topic if self._may_send else None

    @property
    def done(self) -> str | None:
        """The topic of jobs that are finished and waited for; None while nothing is sent."""
        return self.done_topic if self._may_send else None

    @property
    def _may_send(self) -> bool:
        return self.enabled and trio.current_time() >= self._paused_until
