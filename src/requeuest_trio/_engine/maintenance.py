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

import psycopg
import trio

from requeuest_trio._config import Config
from requeuest_trio._engine.dispatcher import Dispatcher
from requeuest_trio._engine.lease import Lease
from requeuest_trio._model.errors import DatabaseUnavailable, SchemaMismatch
from requeuest_trio._model.events import Event, emit
from requeuest_trio._model.states import JobState
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.database import Database
from requeuest_trio._store.store import Store

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

    async def run(self) -> None:
        """A round every sixth of a lease, until cancelled. Errors are logged; the next round tries again."""
        while True:
            try:
                await self.round()
            except (DatabaseUnavailable, SchemaMismatch, psycopg.Error) as error:
                self._answered_at = -math.inf
                emit(_logger, Event.MAINTENANCE_FAILED, error=error)
            await trio.sleep(self._lease.length / _ROUNDS_PER_LEASE)

    async def round(self) -> None:
        """Do what is to be done now. Raises `DatabaseUnavailable`."""
        await self._dispatcher.give_back_lost_claims()
        await self._free_stranded()
        await self._rescue()
        await self._prune()

    async def _ask(self, operation: Callable[[TrioConnection], Awaitable[T]]) -> T:
        answer = await self._database.run(operation)
        now = trio.current_time()
        if now - self._answered_at > self._lease.length / 2:
            # Not heard from for so long: for all that is known it was down, or stood still.
            self._up_since = now
        self._answered_at = now
        return answer

    async def _free_stranded(self) -> None:
        if channels := await self._ask(self._store.free_stranded):
            emit(_logger, Event.UNSTRANDED, channels=len(channels))
            self._dispatcher.wake(channels)

    async def _rescue(self) -> None:
        # After an outage every lease looks expired. Whoever lives renews it within one lease; so wait for that long.
        while trio.current_time() - self._up_since >= self._lease.length:
            rescued = await self._ask(partial(self._store.rescue, rescuer=self._lease.worker))
            if not rescued:
                return
            emit(_logger, Event.RESCUED, jobs=rescued)
            self._dispatcher.wake_all()

    async def _prune(self) -> None:
        for state, keep in self._keep.items():
            if keep is None:
                continue
            operation = partial(self._store.prune, state=state, keep=timedelta(seconds=keep))
            while pruned := await self._ask(operation):
                emit(_logger, Event.PRUNED, jobs=pruned, state=state)
