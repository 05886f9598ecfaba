"""Group commit of spawns: whatever was asked for while one flush was under way goes together into the next.

Nobody waits on a timer: an idle spawner flushes at once, a busy one in batches as large as its callers make them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

import psycopg
import trio

from requeuest_trio._model.errors import DatabaseUnavailable
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.database import Database
from requeuest_trio._store.rows import NewJob
from requeuest_trio._store.store import Store

__all__ = ["Spawner"]

_MAX_ROWS = 1_000
_MAX_BYTES = 16 * 1_048_576


class _Waiting:
    """A job whose caller waits until it is stored."""

    __slots__ = ("done", "error", "job")

    def __init__(self, job: NewJob) -> None:
        self.job = job
        self.done = trio.Event()
        self.error: Exception | None = None


class Spawner:
    """Stores jobs for all callers of a client. `run` has to be running."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store
        self._waiting: deque[_Waiting] = deque()
        self._wanted = trio.Event()
        self._closed = False

    async def spawn(self, job: NewJob) -> None:
        """Store one job; it is committed when this returns.

        Cancelled while it waits for its turn, nothing is stored; cancelled later, it may be.
        """
        if self._closed:
            raise trio.ClosedResourceError
        waiting = _Waiting(job)
        self._waiting.append(waiting)
        self._wanted.set()
        try:
            await waiting.done.wait()
        except trio.Cancelled:
            # Not there any more if a flush has taken it.
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            raise
        if waiting.error is not None:
            raise waiting.error

    async def spawn_many(self, jobs: Sequence[NewJob]) -> None:
        """Store jobs in one transaction, apart from the group: all are committed when this returns, or none is."""
        if self._closed:
            raise trio.ClosedResourceError
        await self._store_repeatedly(jobs)

    def close(self) -> None:
        """Refuse new jobs, and those that no flush has taken yet."""
        self._closed = True
        while self._waiting:
            waiting = self._waiting.popleft()
            waiting.error = trio.ClosedResourceError("the client was closed before the job was stored")
            waiting.done.set()

    async def run(self) -> None:
        """Flush what callers ask for, until cancelled. Callers whose flush is cut short get `ClosedResourceError`."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while batch := self._take():
                await self._flush(batch)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < _MAX_ROWS and size < _MAX_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].job.request.body)
        return batch

    async def _flush(self, batch: list[_Waiting]) -> None:
        error: Exception | None = trio.ClosedResourceError("the client was closed while the job was being stored")
        try:
            await self._store_repeatedly([waiting.job for waiting in batch])
            error = None
        except DatabaseUnavailable as unavailable:
            error = unavailable
        except psycopg.Error as refused:
            if len(batch) > 1:
                # One row is at fault: let it fail alone.
                for waiting in batch:
                    await self._flush([waiting])
                return
            error = refused
        finally:
            for waiting in batch:
                if not waiting.done.is_set():
                    waiting.error = error and _for_caller(error, waiting.job)
                    waiting.done.set()

    async def _store_repeatedly(self, jobs: Sequence[NewJob]) -> None:
        """Store jobs, once more if the first answer is lost: ids are made before, so that nothing is stored twice."""
        try:
            await self._database.run(partial(self._store_chunks, jobs=jobs))
        except DatabaseUnavailable:
            try:
                await self._database.run(partial(self._store_chunks, jobs=jobs))
            except DatabaseUnavailable as error:
                raise DatabaseUnavailable(
                    f"{error}; it may have been stored all the same: to be sure, repeat it with the same job_id",
                    job_ids=tuple(job.id for job in jobs),
                ) from error

    async def _store_chunks(self, connection: TrioConnection, jobs: Sequence[NewJob]) -> None:
        chunks = list(_chunks(jobs))
        if len(chunks) == 1:
            await self._store.spawn(connection, jobs)
            return
        async with connection.transaction():
            for chunk in chunks:
                await self._store.spawn(connection, chunk)


def _chunks(jobs: Sequence[NewJob]) -> list[list[NewJob]]:
    """Jobs in pieces that make statements of a bearable size."""
    chunks: list[list[NewJob]] = [[]]
    size = 0
    for job in jobs:
        size += len(job.request.body)
        if chunks[-1] and (len(chunks[-1]) == 10 * _MAX_ROWS or size > _MAX_BYTES):
            chunks.append([])
            size = len(job.request.body)
        chunks[-1].append(job)
    return chunks


def _for_caller(error: Exception, job: NewJob) -> Exception:
    """An exception of its own for each caller: one shared by several tasks would collect all their tracebacks."""
    if isinstance(error, DatabaseUnavailable):
        own: Exception = DatabaseUnavailable(str(error), job_ids=(job.id,))
    elif isinstance(error, trio.ClosedResourceError):
        own = trio.ClosedResourceError(str(error))
    else:
        return error
    own.__cause__ = error
    return own
