"""Reading single jobs, each on a connection that is taken for it: what waiting callers need."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from uuid import UUID

from requeuest_trio._model.job import Job
from requeuest_trio._store.database import Database
from requeuest_trio._store.store import Store

__all__ = ["Reader"]


class Reader:
    """The store's reading queries on one database."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store

    async def await_job(self, job_id: UUID) -> bool:
        """See `Store.await_job`."""
        return await self._database.ask(partial(self._store.await_job, job_id=job_id))

    async def job(self, job_id: UUID) -> Job | None:
        """See `Store.job`."""
        return await self._database.ask(partial(self._store.job, job_id=job_id))

    async def still_unfinished(self, job_ids: Iterable[UUID]) -> set[UUID]:
        """See `Store.still_unfinished`."""
        return await self._database.ask(partial(self._store.still_unfinished, job_ids=job_ids))
