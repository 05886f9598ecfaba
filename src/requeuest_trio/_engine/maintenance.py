"""Repairs and tidies: jobs of lost processes, jobs that wait behind no other, lost claims, and old finished rows.

Every process that delivers does this, without a leader: the statements skip what another has locked.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

import trio

from requeuest_trio._config import Config
from requeuest_trio._engine.claims import Claims
from requeuest_trio._engine.clocks import DatabaseClock
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.signs_of_life import SignsOfLife
from requeuest_trio._engine.wake_ups import WakeUps
from requeuest_trio._model.errors import first_line
from requeuest_trio._model.states import JobState
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.database import DATABASE_ERRORS
from requeuest_trio._store.failures import answer_of, was_answered
from requeuest_trio._store.maintaining import FIRST_KEY
from requeuest_trio._store.store import Store

__all__ = ["Maintenance"]

_ROUNDS_PER_LEASE = 6
_UNSURE_SECONDS = 3_600.0

T = TypeVar("T")


class Maintenance:
    """Rounds of repair for as long as `run` is running."""

    def __init__(
        self,
        store: Store,
        config: Config,
        lease: Lease,
        claims: Claims,
        wake_ups: WakeUps,
        clock: DatabaseClock,
        emitter: Emitter,
    ) -> None:
        self._store = store
        self._lease = lease
        self._wake_ups = wake_ups
        keep = {JobState.SUCCEEDED: config.keep_succeeded, JobState.DEAD: config.keep_dead}
        self._steps: list[Callable[[], Awaitable[None]]] = [
            self._bring_back,
            self._rescue,
            claims.release_lost,
            self._free_stranded,
            *(partial(self._prune, state, seconds) for state, seconds in keep.items() if seconds is not None),
        ]
        self._clock = clock
        self._emitter = emitter
        self._signs = SignsOfLife()
        self._answered_at = -math.inf
        self._up_since = math.inf
        self._times_set: int | None = None
        self._walked = FIRST_KEY

    async def run(self) -> None:
        """A round every sixth of a lease, until cancelled."""
        while True:
            await self.round()
            await self._until_next_round()

    async def round(self) -> None:
        """Repair and tidy once."""
        for step in self._steps:
            await self._take(step)

    async def _until_next_round(self) -> None:
        now = trio.current_time()
        await trio.sleep_until(min(now + self._lease.length / _ROUNDS_PER_LEASE, self._signs.next_loss(now)))

    async def _take(self, step: Callable[[], Awaitable[None]]) -> None:
        """Errors are logged, and the next round tries again: one step that fails for long disables no other."""
        try:
            await step()
        except DATABASE_ERRORS as error:
            if (answer := answer_of(error)) is not None and was_answered(answer):
                self._note_answer()
            else:
                self._answered_at = -math.inf
            self._emitter.emit(events.MaintenanceFailed(error=first_line(error)))

    async def _ask(self, operation: Awaitable[T]) -> T:
        answer = await operation
        self._note_answer()
        return answer

    def _note_answer(self) -> None:
        now = self._lease.clock()
        if now - self._answered_at > self._lease.length / 2:
            # Not heard from for so long: for all that is known it was down or stood still, or this machine did.
            self._up_since = trio.current_time()
            self._signs.start_over()
        self._answered_at = now

    def _was_up_for_a_lease(self) -> bool:
        """After an outage every lease looks expired. Whoever lives renews it within one lease; so wait for that long.

        If the last answer is not a recent one, the outage may be going on, or have ended just now.
        """
        lease = self._lease.length
        was_heard = self._lease.clock() - self._answered_at <= lease / 2
        return was_heard and trio.current_time() - self._up_since >= lease

    async def _free_stranded(self) -> None:
        """Look at some of the ordering keys, the next round at those after them; go on at once if some are found."""
        while True:
            channels, self._walked = await self._ask(self._store.free_stranded(self._walked))
            if not channels:
                return
            self._emitter.emit(events.Unstranded(channels=len(channels)))
            self._wake_ups.due(channels)

    async def _bring_back(self) -> None:
        """Once after each time that the database's clock was set; and at the start: who was there to see it before?"""
        times_set = self._clock.times_set
        while self._times_set != times_set:
            jobs, waits = await self._ask(self._store.bring_back())
            if not jobs:
                self._times_set = times_set
                return
            self._emitter.emit(events.BroughtBack(jobs=jobs))
            self._wake_ups.due(waits)

    async def _rescue(self) -> None:
        try:
            signs = await self._ask(self._store.signs_of_life())
            self._signs.look(signs, trio.current_time())
            while self._was_up_for_a_lease():
                lost = self._signs.lost(trio.current_time())
                rescued = await self._ask(self._store.rescue(self._lease.worker, lost))
                if not rescued:
                    await self._ask(self._store.forget(lost))
                    return
                self._emitter.emit(events.Rescued(jobs=rescued))
                self._wake_ups.anything()
        except DATABASE_ERRORS:
            # Perhaps the table of processes is locked: then none could renew its lease, and all look lost after it.
            self._answered_at = -math.inf
            raise

    async def _prune(self, state: JobState, keep: float) -> None:
        """Not soon after the database's clock was set: if that was an error, all would be gone before it is noticed."""
        if self._lease.clock() - self._clock.set_at < _UNSURE_SECONDS:
            return
        while pruned := await self._ask(self._prune_some(state, keep)):
            self._emitter.emit(events.Pruned(jobs=pruned, state=state))

    def _prune_some(self, state: JobState, keep: float) -> Awaitable[int]:
        return self._store.prune(state, timedelta(seconds=keep), self._clock.latest(self._lease.clock()))
