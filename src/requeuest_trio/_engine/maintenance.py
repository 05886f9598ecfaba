"""Repairs and tidies: jobs of lost processes, jobs that wait behind nobody, and old finished rows.

Every process that delivers does this, without a leader: the statements skip what another has locked.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial

import psycopg
import trio

from requeuest_trio._config import Config
from requeuest_trio._model.errors import DatabaseUnavailable, SchemaMismatch
from requeuest_trio._model.events import Event, emit
from requeuest_trio._model.states import JobState
from requeuest_trio._store.database import Database
from requeuest_trio._store.store import Store

__all__ = ["Maintenance"]

_logger = logging.getLogger("requeuest_trio.maintenance")
_ROUNDS_PER_LEASE = 6


class Maintenance:
    """Rounds of repair for as long as `run` is running."""

    def __init__(self, database: Database, store: Store, config: Config, *, lease: float) -> None:
        self._database = database
        self._store = store
        self._lease = lease
        self._keep = {JobState.SUCCEEDED: config.keep_succeeded, JobState.DEAD: config.keep_dead}
        self._up_since: float | None = None

    async def run(self) -> None:
        """A round every sixth of a lease, until cancelled. Errors are logged; the next round tries again."""
        while True:
            try:
                await self.round()
            except (DatabaseUnavailable, SchemaMismatch, psycopg.Error) as error:
                self._up_since = None
                emit(_logger, Event.MAINTENANCE_FAILED, error=error)
            await trio.sleep(self._lease / _ROUNDS_PER_LEASE)

    async def round(self) -> None:
        """Do what is to be done now. Raises `DatabaseUnavailable`."""
        await self._rescue()
        await self._free_stranded()
        await self._prune()

    async def _rescue(self) -> None:
        # After an outage every lease looks expired. Whoever lives renews it within one lease; so wait for that long.
        now = trio.current_time()
        if self._up_since is None:
            self._up_since = now
        if now - self._up_since < self._lease:
            return
        while rescued := await self._database.run(self._store.rescue):
            emit(_logger, Event.RESCUED, jobs=rescued)

    async def _free_stranded(self) -> None:
        if channels := await self._database.run(self._store.free_stranded):
            emit(_logger, Event.UNSTRANDED, channels=len(channels))

    async def _prune(self) -> None:
        for state, keep in self._keep.items():
            if keep is None:
                continue
            operation = partial(self._store.prune, state=state, keep=timedelta(seconds=keep))
            while pruned := await self._database.run(operation):
                emit(_logger, Event.PRUNED, jobs=pruned, state=state)
