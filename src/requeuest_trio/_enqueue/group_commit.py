"""Group commit of spawns: whatever was asked for while one flush was under way goes together into the next.

Nobody waits on a timer: an idle spawner flushes at once, a busy one in batches as large as its callers make them.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from uuid import UUID

import psycopg
import trio
from psycopg.errors import LockNotAvailable

from requeuest_trio._enqueue.announcer import Announcer
from requeuest_trio._model.backoff import Backoff
from requeuest_trio._model.errors import DatabaseUnavailable, InvalidRequest, RequeuestError, SchemaMismatch, first_line
from requeuest_trio._postgres import PoolTimeout
from requeuest_trio._store.claimed import Reservation
from requeuest_trio._store.database import DATABASE_ERRORS
from requeuest_trio._store.failures import answer_of
from requeuest_trio._store.new_jobs import NewJob, Stored
from requeuest_trio._store.store import Store
from requeuest_trio._store.waits import Waits, known_waits, without

__all__ = ["FLUSH_LOCK_SECONDS", "Spawner"]

_MAX_ROWS = 1_000
_MAX_BYTES = 16 * 1_048_576
_NOTHING_STORED = (PoolTimeout, LockNotAvailable)
_BUSY_KEYS = Backoff(initial=0.005, cap=0.1)
FLUSH_LOCK_SECONDS = 0.5
"""How long a flush, which all callers share, waits for a lock that one of its jobs needs."""


class _Waiting:
    """A job whose caller waits until it is stored."""

    __slots__ = ("done", "error", "is_left", "job")

    def __init__(self, job: NewJob) -> None:
        self.job = job
        self.done = trio.Event()
        self.error: Exception | None = None
        self.is_left = False
        """The flush has passed it over: another transaction is busy with its ordering key, or with its id."""


class Spawner:
    """Stores jobs for all callers of a client. `run` has to be running.

    Flushes have a connection of their own, so that callers who hold the others can't hold them up. Nor can an
    application's transaction that has an ordering key, or has stored the same id: what it is in the way of is left to
    its caller, who waits alone, for a key without a connection, and never with the last one of the others'.
    """

    def __init__(
        self,
        flushes: Store,
        calls: Store,
        announcer: Announcer,
        wake: Callable[[Waits], None],
        reserve: Callable[[str], AbstractContextManager[Reservation | None]],
        *,
        callers: int,
    ) -> None:
        """
        Args:
            flushes: on the one connection for what callers share.
            calls: on those for callers who wait alone.
            announcer: tells other processes.
            wake: is told after each commit which channels have something due, and when; it is for this process.
            reserve: keeps a slot of this process for a job of a channel, if it could be sent at once.
            callers: how many may be served alone at a time.
        """
        self._announcer = announcer
        self._wake = wake
        self._reserve = reserve
        self._flushes = flushes
        self._calls = calls
        self._calling = trio.Semaphore(callers)
        self._waiting: deque[_Waiting] = deque()
        self._is_flushing = False
        self._wanted = trio.Event()
        self._closed = False

    async def spawn(self, job: NewJob) -> None:
        """Store one job; it is committed when this returns.

        Cancelled while it waits for its turn, nothing is stored; cancelled later, it may be.
        """
        self._require_open()
        waiting = _Waiting(job)
        if self._is_flushing or self._waiting:
            await self._wait_for_flush(waiting)
        else:
            # Nobody to share with: done here, without the detour over another task.
            reserved = self._reserve(job.channel) if job.waits_for_nothing else nullcontext()
            with self._flushing(), reserved as reservation:
                await self._flush([waiting], reservation)
        if waiting.error is not None:
            raise waiting.error
        if waiting.is_left:
            await self.spawn_many([job])

    async def _wait_for_flush(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        try:
            await waiting.done.wait()
        except trio.Cancelled:
            # Not there any more if a flush has taken it.
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            raise

    async def spawn_many(self, jobs: Sequence[NewJob]) -> None:
        """Store jobs in one transaction, apart from the group: all are committed when this returns, or none is."""
        self._require_open()
        deadline = trio.current_time() + self._calls.statement_timeout
        tries = 0
        while await self._try_alone(jobs):
            tries += 1
            if trio.current_time() >= deadline:
                raise await self._held_up(jobs)
            await trio.sleep(_BUSY_KEYS.delay(tries, random.random))
            self._require_open()

    async def _try_alone(self, jobs: Sequence[NewJob]) -> list[NewJob]:
        """Store all of the jobs, or none, which are then returned: they have one channel and ordering key together."""
        async with self._calling:
            try:
                return await self._store_repeatedly(self._calls, jobs)
            except psycopg.Error as refused:
                raise _for_caller(refused, jobs[0]) from refused

    async def _held_up(self, jobs: Sequence[NewJob]) -> DatabaseUnavailable:
        """The error of a caller who did not get an ordering key in time. It says who has it, if that can be seen."""
        holders: list[str] = []
        with suppress(*DATABASE_ERRORS):
            async with self._calling:
                holders = await self._calls.key_holders(jobs)
        who = f" by {', '.join(holders)}" if holders else ""
        return DatabaseUnavailable(
            f"the advisory lock of the ordering key was held for too long{who}; if that is a transaction of your own, "
            "spawn with its connection=",
            job_ids=_ids(jobs),
        )

    def _require_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the client was closed before the job was stored")

    def close(self) -> None:
        """Refuse new jobs, and those that no flush has taken yet."""
        self._closed = True
        while self._waiting:
            waiting = self._waiting.popleft()
            waiting.error = trio.ClosedResourceError("the client was closed before the job was stored")
            waiting.done.set()

    async def run(self) -> None:
        """Flush what callers wait for, until cancelled. Callers whose flush is cut short get `ClosedResourceError`."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            with self._flushing():
                while batch := self._take():
                    await self._flush(batch)
                    # Callers that were served have their turn (Trio runs the tasks of one round in any order): who
                    # spawns again at once shares the next flush with those who came during the last.
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()

    @contextmanager
    def _flushing(self) -> Iterator[None]:
        self._is_flushing = True
        try:
            yield
        finally:
            self._is_flushing = False
            if self._waiting:
                self._wanted.set()

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < _MAX_ROWS and size < _MAX_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].job.request.body)
        return batch

    async def _flush(self, batch: list[_Waiting], reservation: Reservation | None = None) -> None:
        error: Exception | None = trio.ClosedResourceError("the client was closed while the job was being stored")
        left: set[UUID] = set()
        try:
            jobs = [waiting.job for waiting in batch]
            left = {job.id for job in await self._store_repeatedly(self._flushes, jobs, reservation)}
            error = None
        except RequeuestError as problem:
            error = problem
            if isinstance(problem.__cause__, LockNotAvailable):
                # Some transaction is in the way of one of them; of which, each finds out for itself.
                left, error = {job.id for job in jobs}, None
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
                    waiting.is_left = bool(left) and waiting.job.id in left
                    waiting.done.set()

    async def _store_repeatedly(
        self, store: Store, jobs: Sequence[NewJob], reservation: Reservation | None = None
    ) -> list[NewJob]:
        """Store jobs, once more if the first answer is lost: ids are made before, so that nothing is stored twice.

        Returns those that were not stored, because another transaction is busy with their ordering keys.
        """
        # The statement for jobs with ordering keys announces nothing; and what is sent from here need not be.
        goes_along = reservation is None and any(job.ordering_key is None for job in jobs)
        announced = self._announcer.take(known_waits(jobs)) if goes_along else {}
        unannounced = announced
        try:
            stored = await self._try(store, jobs, announced, reservation)
            if stored is None:
                # Without the announcement, which goes by the announcer then: what is stored is not announced again.
                stored = await self._try_again(store, jobs)
            else:
                unannounced = {}
        finally:
            # If nothing was stored, nobody minds.
            self._announcer.note(unannounced)
        self._wake(stored.waits)
        self._announcer.note(without(stored.waits, announced))
        return stored.left

    async def _try(
        self, store: Store, jobs: Sequence[NewJob], announced: Waits, reservation: Reservation | None
    ) -> Stored | None:
        """None: whether they are stored is unknown."""
        try:
            stored = await store.store(jobs, announced=announced, wait_for_keys=False, reservation=reservation)
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, _NOTHING_STORED):
                raise DatabaseUnavailable(str(error), job_ids=_ids(jobs)) from error.__cause__
            return None
        if reservation is not None:
            reservation.settle(jobs[0] if stored.is_claimed else None)
        return stored

    async def _try_again(self, store: Store, jobs: Sequence[NewJob]) -> Stored:
        try:
            return await store.store(jobs, wait_for_keys=False)
        except DatabaseUnavailable as error:
            raise DatabaseUnavailable(
                f"{error}; it may have been stored all the same: to be sure, repeat it with the same job_id",
                job_ids=_ids(jobs),
            ) from error


def _ids(jobs: Sequence[NewJob]) -> tuple[UUID, ...]:
    return tuple(job.id for job in jobs)


def _for_caller(error: Exception, job: NewJob) -> Exception:
    """An exception of its own for each caller: one shared by several tasks would collect all their tracebacks."""
    if isinstance(error, DatabaseUnavailable):
        own: Exception = DatabaseUnavailable(str(error), job_ids=(job.id,))
    elif isinstance(error, psycopg.Error):
        own = InvalidRequest("request", f"PostgreSQL refuses to store it: {first_line(error)}")
    elif type(error) in (SchemaMismatch, RequeuestError, trio.ClosedResourceError):
        own = type(error)(str(error))
    else:
        return error
    own.__cause__ = answer_of(error) or error
    return own
