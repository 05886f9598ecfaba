"""Keeps this process's lease: one row, one UPDATE per beat, however many jobs are running.

Each beat also tells the database's clock, and so whether it was set since the one before.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from requeuest_trio._engine.clocks import DatabaseClock
from requeuest_trio._engine.lease import Lease
from requeuest_trio._model.errors import first_line
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.database import DATABASE_ERRORS, for_callers
from requeuest_trio._store.store import Store

__all__ = ["Heartbeat"]

_BEATS_PER_LEASE = 6
_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 0.25
"""How soon after a suspension what is being sent ends: until then, Trio's clock knows nothing of it."""


class Heartbeat:
    """Renews the lease, and tells if it could not be renewed in time."""

    def __init__(
        self, store: Store, lease: Lease, clock: DatabaseClock, on_lost: Callable[[], None], emitter: Emitter
    ) -> None:
        self._store = store
        self._lease = lease
        self._clock = clock
        self._on_lost = on_lost
        self._emitter = emitter
        self.interval = lease.length / _BEATS_PER_LEASE

    async def register(self) -> None:
        """Announce this process. Raises `RequeuestError`: at the start its caller is the application."""
        asked_at = self._lease.clock()
        with for_callers():
            clock = await self._store.register(self._lease.worker, self._lease.length)
        self._answered(clock, asked_at)

    async def run(self) -> None:
        """Beat until cancelled. `watch` has to be running too."""
        pause = self.interval
        while True:
            await trio.sleep(pause)
            pause = self.interval
            try:
                await self._beat()
            except DATABASE_ERRORS as error:
                # Once the lease is over, all of this process waits for this.
                pause = min(self.interval, _RETRY_SECONDS)
                self._emitter.emit(
                    events.HeartbeatFailed(error=first_line(error), lease_left=round(self._lease.left, 1))
                )

    async def _beat(self) -> None:
        asked_at = self._lease.clock()
        clock = await self._store.heartbeat(self._lease.worker)
        if clock is not None:
            self._answered(clock, asked_at)
            return
        # Others have struck this process off the list, and rescue what it had.
        self._lost()
        self._lease.start_anew()
        await self.register()

    def _answered(self, clock: float, asked_at: float) -> None:
        if not self._lease.is_valid:
            # It ran out while the whole process stood still, and this task was the first to go on.
            self._lost()
        self._lease.renewed(asked_at)
        if was_set_by := self._clock.told(clock, asked_at=asked_at, answered_at=self._lease.clock()):
            self._emitter.emit(events.ClockSet(seconds=round(was_set_by, 1)))

    def _lost(self) -> None:
        cut_short = self._lease.lapse()
        self._on_lost()
        if cut_short is not None:
            self._emitter.emit(events.LeaseLost(cut_short=cut_short))

    async def watch(self) -> None:
        """Tell of a loss when it comes, also while a beat hangs, until cancelled.

        The attempts end without it, unless the machine was suspended.
        """
        while True:
            await trio.sleep(min(self._lease.left, _LOOK_SECONDS) if self._lease.is_valid else self.interval / 10)
            if not self._lease.is_valid:
                self._lost()
