"""Callers that wait for jobs to be finished, here or in another process.

A wake-up is a hint: whoever is woken reads the job again. Hints come from this process's recorder, from
notifications, and from a poll that finds what both have missed. Only the recorder hands over an answer as well, which
spares whoever has spawned the job the reading.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol
from uuid import UUID

import psycopg
import trio

from requeuest_trio._model.errors import JobNotFound, RequeuestError, first_line
from requeuest_trio._model.job import Job
from requeuest_trio._model.outcome import Answer
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter

__all__ = ["JobReader", "Waiters"]

_PAUSE_SECONDS = 0.01

Waits = dict[str, list[float]]
"""In how many seconds channels have something due."""


class JobReader(Protocol):
    """What is asked of the database. Each may raise `RequeuestError` or `psycopg.Error`."""

    async def await_job(self, job_id: UUID) -> Waits | None:
        """Have the end of a job announced. None: it is finished already, or there is none.

        Tells its channel if it is due, and when: a claim may have passed it over meanwhile.
        """
        ...

    async def job(self, job_id: UUID) -> Job | None:
        """The job, or None."""
        ...

    async def still_unfinished(self, job_ids: Iterable[UUID]) -> set[UUID]:
        """Those that exist and are not finished."""
        ...


class _Waiter:
    """A caller that waits."""

    __slots__ = ("answer", "woken")

    def __init__(self) -> None:
        self.woken = trio.Event()
        self.answer: Answer | None = None


class Waiters:
    """The waiting callers of one client. `run` has to be running."""

    def __init__(
        self, reader: JobReader, on_due: Callable[[Waits], None], emitter: Emitter, *, poll_interval: float
    ) -> None:
        """`on_due` is told what this process may have passed over, which otherwise the poll would find."""
        self._reader = reader
        self._on_due = on_due
        self._emitter = emitter
        self._poll_interval = poll_interval
        self._waiting: dict[UUID, set[_Waiter]] = {}
        self._look_now = trio.Event()
        self._closed = False

    async def wait(self, job_id: UUID) -> Job:
        """Return the job once it is finished. Cancelling leaves the job in the queue.

        Raises `JobNotFound`, also for a job that is removed meanwhile, and `DatabaseUnavailable` if it can't be read.
        """
        while not self._closed:
            with self._registered(job_id) as waiter:
                # Registered first and asked then, so that no moment is left in which the hint could be missed.
                due = await self._reader.await_job(job_id)
                if due:
                    self._on_due(due)
                if due is not None:
                    await waiter.woken.wait()
                if not self._closed and (job := await self._read(job_id)).is_finished:
                    return job
        raise trio.ClosedResourceError("the client was closed while it waited for a job")

    async def wait_for_new(self, job_id: UUID, store: Callable[[], Awaitable[None]]) -> Job | Answer:
        """Store a job that exists nowhere yet, whose end is announced, and return it once it is finished.

        As `wait` after `store`, whose errors come out; but nothing has to be asked before the job is finished. Of a job
        that this process has delivered, the answer is returned, as it was recorded.
        """
        with self._registered(job_id) as waiter:
            await store()
            await waiter.woken.wait()
            if waiter.answer is not None:
                return waiter.answer
            if not self._closed and (job := await self._read(job_id)).is_finished:
                return job
        return await self.wait(job_id)

    async def _read(self, job_id: UUID) -> Job:
        job = await self._reader.job(job_id)
        if job is None:
            raise JobNotFound(job_id)
        return job

    @contextmanager
    def _registered(self, job_id: UUID) -> Iterator[_Waiter]:
        waiter = _Waiter()
        self._waiting.setdefault(job_id, set()).add(waiter)
        try:
            yield waiter
        finally:
            waiters = self._waiting[job_id]
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[job_id]

    def answered(self, job_id: UUID, answer: Answer) -> None:
        """A job was delivered here, and that is recorded with the whole answer."""
        for waiter in self._waiting.get(job_id, ()):
            waiter.answer = answer
            waiter.woken.set()

    def wake(self, job_ids: Iterable[UUID]) -> None:
        """Let those who wait for these jobs look again."""
        if not self._waiting:
            return
        for job_id in job_ids:
            for waiter in self._waiting.get(job_id, ()):
                waiter.woken.set()

    def wake_all(self) -> None:
        """Something may have been missed: look now, for all at once."""
        self._look_now.set()

    def close(self) -> None:
        """End all waiting."""
        self._closed = True
        self.wake(self._waiting)

    async def run(self) -> None:
        """Look regularly for finished jobs whose announcement was missed, until cancelled."""
        while True:
            with trio.move_on_after(self._poll_interval):
                await self._look_now.wait()
            self._look_now = trio.Event()
            # Anybody can ask for looks, as many as he likes.
            await trio.sleep(_PAUSE_SECONDS)
            asked = set(self._waiting)
            if not asked:
                continue
            try:
                unfinished = await self._reader.still_unfinished(asked)
            except (RequeuestError, psycopg.Error) as error:
                self._emitter.emit(events.PollFailed(error=first_line(error)))
            else:
                self.wake(asked - unfinished)
