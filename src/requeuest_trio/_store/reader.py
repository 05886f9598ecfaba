"""Reading single jobs, each on a connection that is taken for it: what waiting callers need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from uuid import UUID

from requeuest_trio._model.job import Job
from requeuest_trio._store.database import Database
from requeuest_trio._store.store import Store
from requeuest_trio._store.waits import Waits

__all__ = ["Reader"]


class Reader:
    """The store's reading queries on one database."""

    def __init__(self, database: Database, store: Store, wake: Callable[[Waits], None]) -> None:
        """`wake` is told what this process may have passed over, for want of which it would be found by the poll."""
        self._database = database
        self._store = store
        self._wake = wake

    async def await_job(self, job_id: UUID) -> bool:
        """See `Store.await_job`."""
        due = await self._database.ask(partial(self._store.await_job, job_id=job_id))
        if due:
            self._wake(due)
        return due is not None

    async def job(self, job_id: UUID) -> Job | None:
        """See `Store.job`."""
        return await self._database.ask(partial(self._store.job, job_id=job_id))

    async def still_unfinished(self, job_ids: Iterable[UUID]) -> set[UUID]:
        """See `Store.still_unfinished`."""
        return await self._database.ask(partial(self._store.still_unfinished, job_ids=job_ids))
