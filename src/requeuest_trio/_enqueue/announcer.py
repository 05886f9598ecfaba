"""Announces what was spawned to other processes: at once, but each channel only so often.

Commits that notify wait for each other, all over the server, and each of them wakes every process that listens. So a
channel that has just been announced keeps quiet for a moment; what comes to it meanwhile is announced with the next
jobs, or by itself, if there are none.
"""

from __future__ import annotations

import random
from contextlib import suppress

import trio

from requeuest_trio._model.backoff import Backoff
from requeuest_trio._model.errors import first_line
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._real_time import move_on_after
from requeuest_trio._store.database import DATABASE_ERRORS
from requeuest_trio._store.store import Store
from requeuest_trio._store.waits import Waits, first_two

__all__ = ["QUIET_SECONDS", "Announcer"]

QUIET_SECONDS = 0.01
"""How soon after one announcement of a channel the next may follow."""
_PATIENCE = QUIET_SECONDS
_LAST_SECONDS = 1.0


class Announcer:
    """Says what may be announced now, and announces what has had to wait. `run` has to be running.

    What it was told is announced, whatever comes or does not come after it, unless the process is killed before: then
    the polls of other processes find it.
    """

    def __init__(self, store: Store, emitter: Emitter, *, enabled: bool = True) -> None:
        """Without `enabled`, nothing is ever announced."""
        self._store = store
        self._emitter = emitter
        self._enabled = enabled
        self._pending: dict[str, list[float]] = {}
        """When something is due, by Trio's clock, of the channels still to be announced."""
        self._quiet: dict[str, float] = {}
        """Until when channels keep quiet, in the order of these times."""
        self._wanted = trio.Event()
        self._backoff = Backoff(initial=0.05, cap=5.0)

    def note(self, waits: Waits) -> None:
        """Channels have something due in so many seconds; it is in the database by now."""
        if not self._enabled:
            return
        now = trio.current_time()
        for channel, of_channel in waits.items():
            if not self._pending or self._quiet.get(channel, now) <= now:
                # Otherwise the task that announces has something to wait for already.
                self._wanted.set()
            pending = self._pending.get(channel)
            if not pending:
                self._pending[channel] = [now + wait for wait in of_channel]
            elif pending[0] > now or of_channel != [0]:
                waits_before = (max(0.0, instant - now) for instant in pending)
                self._pending[channel] = [now + wait for wait in first_two({*of_channel, *waits_before})]

    def take(self, waits: Waits) -> Waits:
        """What to announce together with jobs that are about to be stored, and have these waits.

        Whoever takes it either announces it, or gives it to `note`.
        """
        if not self._enabled:
            return {}
        now = trio.current_time()
        while self._quiet and (first := next(iter(self._quiet.items())))[1] <= now:
            del self._quiet[first[0]]
        taken = {channel: of_channel for channel, of_channel in waits.items() if channel not in self._quiet}
        for channel in [channel for channel in self._pending if channel not in self._quiet]:
            pending = (max(0.0, instant - now) for instant in self._pending.pop(channel))
            taken[channel] = first_two({*taken.get(channel, ()), *pending})
        self._quiet.update(dict.fromkeys(taken, now + QUIET_SECONDS))
        return taken

    async def run(self) -> None:
        """Announce until cancelled, and then, for a second at most, what is left."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                await self._announce_pending()
        finally:
            self._quiet.clear()
            if taken := self.take({}):
                with move_on_after(_LAST_SECONDS, shield=True), suppress(*DATABASE_ERRORS):
                    await self._announce(taken)  # noqa: ASYNC102 - in a shield of its own

    async def _announce_pending(self) -> None:
        failures = 0
        while self._pending:
            try:
                if taken := self.take({}):
                    await self._announce(taken)
                else:
                    await self._wait_for_quiet_ones()
                failures = 0
            except DATABASE_ERRORS as error:
                failures += 1
                pause = self._backoff.delay(failures, random.random)
                self._emitter.emit(events.AnnounceFailed(error=first_line(error), retry_in=round(pause, 2)))
                await trio.sleep(pause)

    async def _wait_for_quiet_ones(self) -> None:
        """Wait until the first may be announced, and then a little: with the next jobs it costs next to nothing."""
        with trio.move_on_at(next(iter(self._quiet.values())) + _PATIENCE):
            await self._wanted.wait()
            self._wanted = trio.Event()

    async def _announce(self, waits: Waits) -> None:
        try:
            await self._store.announce(waits)
        except BaseException:
            self.note(waits)
            raise
