"""Repairs and tidies: jobs of lost processes, jobs that wait behind nobody, lost claims, and old finished rows.

Every process that delivers does this, without a leader: the statements skip what another has locked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

import trio

from requeuest_trio._config import Config
from requeuest_trio._engine.dispatcher import Dispatcher
from requeuest_trio._engine.lease import Lease
from requeuest_trio._model.events import Event, emit
from requeuest_trio._model.states import JobState
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.database import DATABASE_ERRORS, Database
from requeuest_trio._store.failures import answer_of, was_answered
from requeuest_trio._store.store import FIRST_KEY, Store

__all__ = ["Maintenance"]

_logger = logging.getLogger("requeuest_trio.maintenance")
_ROUNDS_PER_LEASE = 6

T = TypeVar("T")


class Maintenance:
    """Rounds of repair for as long as `run` is running."""

    def __init__(self, database: Database, store: Store, config: Config, lease: Lease, dispatcher: Dispatcher) -> None:
        self._database = database
        self._store = store
        self._lease = lease
        self._dispatcher = dispatcher
        self._keep = {JobState.SUCCEEDED: config.keep_succeeded, JobState.DEAD: config.keep_dead}
        self._answered_at = -math.inf
        self._up_since = math.inf
        self._walked = FIRST_KEY

    async def run(self) -> None:
        """A round every sixth of a lease, until cancelled."""
        steps: list[Callable[[], Awaitable[None]]] = [
            self._rescue,
            self._dispatcher.give_back_lost_claims,
            self._free_stranded,
            *(partial(self._prune, state, keep) for state, keep in self._keep.items() if keep is not None),
        ]
        while True:
            for step in steps:
                await self._take(step)
            await trio.sleep(self._lease.length / _ROUNDS_PER_LEASE)

    async def _take(self, step: Callable[[], Awaitable[None]]) -> None:
        """Errors are logged, and the next round tries again: one step that fails for long disables no other."""
        try:
            await step()
        except DATABASE_ERRORS as error:
            if (answer := answer_of(error)) is not None and was_answered(answer):
                self._note_answer()
            else:
                self._answered_at = -math.inf
            emit(_logger, Event.MAINTENANCE_FAILED, error=error)

    async def _ask(self, operation: Callable[[TrioConnection], Awaitable[T]]) -> T:
        answer = await self._database.run(operation)
        self._note_answer()
        return answer

    def _note_answer(self) -> None:
        now = trio.current_time()
        if now - self._answered_at > self._lease.length / 2:
            # Not heard from for so long: for all that is known it was down, or stood still.
            self._up_since = now
        self._answered_at = now

    def _was_up_for_a_lease(self) -> bool:
        """After an outage every lease looks expired. Whoever lives renews it within one lease; so wait for that long.

        If the last answer is not a recent one, the outage may be going on, or have ended just now.
        """
        now, lease = trio.current_time(), self._lease.length
        return now - self._answered_at <= lease / 2 and now - self._up_since >= lease

    async def _free_stranded(self) -> None:
        """Look at some of the ordering keys, the next round at those after them; go on at once if some are found."""
        while True:
            channels, self._walked = await self._ask(partial(self._store.free_stranded, after=self._walked))
            if not channels:
                return
            emit(_logger, Event.UNSTRANDED, channels=len(channels))
            self._dispatcher.wake(channels)

    async def _rescue(self) -> None:
        while self._was_up_for_a_lease():
            try:
                rescued = await self._ask(partial(self._store.rescue, rescuer=self._lease.worker))
            except DATABASE_ERRORS:
                # Perhaps the table of processes is locked: then none could renew its lease, and all look lost after it.
                self._answered_at = -math.inf
                raise
            if not rescued:
                return
            emit(_logger, Event.RESCUED, jobs=rescued)
            self._dispatcher.wake_all()

    async def _prune(self, state: JobState, keep: float) -> None:
        operation = partial(self._store.prune, state=state, keep=timedelta(seconds=keep))
        while pruned := await self._ask(operation):
            emit(_logger, Event.PRUNED, jobs=pruned, state=state)
