"""Keeps this process's lease: one row, one UPDATE per beat, however many jobs are running."""

from __future__ import annotations

import logging
from functools import partial

import psycopg
import trio

from requeuest_trio._engine.lease import Lease
from requeuest_trio._model.errors import DatabaseUnavailable, SchemaMismatch
from requeuest_trio._model.events import Event, emit
from requeuest_trio._store.database import Database
from requeuest_trio._store.store import Store

__all__ = ["Heartbeat"]

_logger = logging.getLogger("requeuest_trio.heartbeat")
_BEATS_PER_LEASE = 6


class Heartbeat:
    """Renews the lease, and lets it lapse in time if it can't be renewed."""

    def __init__(self, database: Database, store: Store, lease: Lease) -> None:
        self._database = database
        self._store = store
        self._lease = lease
        self.interval = lease.length / _BEATS_PER_LEASE

    async def register(self) -> None:
        """Announce this process. Raises `DatabaseUnavailable`."""
        asked_at = trio.current_time()
        await self._database.run(partial(self._store.register, worker=self._lease.worker, lease=self._lease.length))
        self._lease.renewed(asked_at)

    async def run(self) -> None:
        """Beat until cancelled. `watch` has to be running too."""
        while True:
            await trio.sleep(self.interval)
            try:
                await self._beat()
            except (DatabaseUnavailable, SchemaMismatch, psycopg.Error) as error:
                emit(_logger, Event.HEARTBEAT_FAILED, error=error, lease_left=round(self._lease.left, 1))

    async def _beat(self) -> None:
        asked_at = trio.current_time()
        if await self._database.run(partial(self._store.heartbeat, worker=self._lease.worker)):
            self._lease.renewed(asked_at)
            return
        # Others have struck this process off the list, and rescue what it had.
        emit(_logger, Event.LEASE_LOST, cut_short=self._lease.lapse())
        self._lease.start_anew()
        await self.register()

    async def watch(self) -> None:
        """Let the lease lapse on time, also while a beat hangs, until cancelled."""
        while True:
            was_valid = self._lease.is_valid
            await trio.sleep(max(self._lease.left, 0.0) if was_valid else self.interval / 10)
            if was_valid and not self._lease.is_valid:
                emit(_logger, Event.LEASE_LOST, cut_short=self._lease.lapse())
