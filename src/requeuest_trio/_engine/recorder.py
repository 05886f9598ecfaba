"""Writes outcomes in batches: whatever has ended while one write was under way goes together into the next.

An outcome is kept in the backlog until PostgreSQL has confirmed it, through outages too. Writing one twice does no
harm, since a record counts only for the claim that is still current. Only one task at a time may write: `run`, and
after its end whoever calls `finish`.

One whose data PostgreSQL refuses is written without its answer; after any other error the answer is kept, and the
outcome tried again whole.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Sequence
from uuid import UUID

import psycopg
import trio
from psycopg import errors

from requeuest_trio._config import Config
from requeuest_trio._engine.outcome_backlog import OutcomeBacklog, Unconfirmed
from requeuest_trio._model.backoff import Backoff
from requeuest_trio._model.errors import DatabaseUnavailable, first_line
from requeuest_trio._model.outcome import Answer, Outcome
from requeuest_trio._model.states import JobState
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.database import DATABASE_ERRORS
from requeuest_trio._store.failures import Meaning, complaint_of, meaning_of
from requeuest_trio._store.ordering_keys import Keys
from requeuest_trio._store.outcomes import Report
from requeuest_trio._store.store import Store

__all__ = ["OnRecorded", "Recorder"]

_REFUSED_RETRY_SECONDS = 60.0
_BUSY_ROWS = 8
_BUSY_PAUSE = 0.01
_BUSY_KEYS_SECONDS = 0.5

OnRecorded = Callable[[Sequence[Report], dict[str, float], Collection[UUID]], None]
"""Told what was written; channels in which ordered jobs became available, with their waits; and of which jobs the
outcome was stale, and left out."""


class Recorder:
    """Outcomes on their way to the database. `run` has to be running, or `flush` to be called."""

    def __init__(self, store: Store, config: Config, on_recorded: OnRecorded, emitter: Emitter) -> None:
        self._store = store
        self._excerpt, self._keep = config.excerpt, config.keep_response
        self._on_recorded = on_recorded
        self._emitter = emitter
        self._backlog = OutcomeBacklog(config.max_running)
        self._busy_keys: Keys = set()
        """Ordering keys whose next jobs are still to be made available."""
        self._busy_keys_at = math.inf
        self._problem: Exception | None = None
        self._wanted = trio.Event()
        self._has_room = trio.Event()
        self._backoff = Backoff(initial=0.1, cap=5.0)
        self._own_backoff = Backoff(initial=0.2, cap=10.0)

    def __repr__(self) -> str:
        return f"<Recorder: {len(self._backlog)} outcomes to be written>"

    @property
    def backlog(self) -> int:
        """How many outcomes are not yet confirmed."""
        return len(self._backlog)

    @property
    def claims(self) -> set[UUID]:
        """The claims of outcomes that are not yet confirmed."""
        return self._backlog.claims

    def submit(self, report: Report, logged: str | None = None) -> None:
        """Take an outcome over. It is this recorder's from here on, whatever happens to the caller."""
        self._backlog.add(report, logged)
        self._wanted.set()

    @property
    def has_room(self) -> bool:
        """Whether there is not yet too much that is unconfirmed."""
        return self._backlog.has_room

    async def wait_for_room(self) -> None:
        """Back-pressure: hold the caller, and with it a slot of its channel, while there is none."""
        while not self._backlog.has_room:
            await self._has_room.wait()

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write outcomes until cancelled; what is then unconfirmed stays for `finish`."""
        failures = 0
        while True:
            with trio.move_on_at(self._next_retry):
                await self._wanted.wait()
            try:
                problem = await self.flush()
                failures = 0
                if problem is not None:
                    self._tell_of_failure(problem, max(self._next_retry - trio.current_time(), 0.0))
            except DATABASE_ERRORS as error:
                failures += 1
                pause = self._backoff.delay(failures, random.random)
                self._tell_of_failure(error, pause)
                await trio.sleep(pause)

    def _tell_of_failure(self, error: Exception, pause: float) -> None:
        self._emitter.emit(events.RecordFailed(error=first_line(error), backlog=self.backlog, retry_in=round(pause, 2)))

    @property
    def _next_retry(self) -> float:
        """When, after a flush, there is something to do although nothing is submitted."""
        return min(self._busy_keys_at, self._backlog.next_retry)

    async def flush(self) -> Exception | None:
        """Write what is unconfirmed. Whatever is raised, cancellation too, no outcome is lost by it.

        Returns what the matter is with outcomes that were set aside. Raises `DatabaseUnavailable`.
        """
        self._problem = None
        if self._busy_keys_at <= trio.current_time():
            await self._unblock_busy_keys()
        while batch := self._backlog.next_batch(trio.current_time()):
            began, is_busy = trio.current_time(), len(batch) >= _BUSY_ROWS
            if self._backlog.has_failures:
                # Not to wait for every lock anew.
                batch = await self._set_locked_aside(batch)
            if batch:
                await self._write(batch)
            if is_busy:
                # A lone outcome is written at once; where many come, they are given a moment to gather.
                await trio.sleep_until(began + _BUSY_PAUSE)
        self._wanted = trio.Event()
        return self._problem

    async def finish(self) -> Exception | None:
        """A last `flush`, then one of what was set aside: what still remains will be sent again."""
        problem = await self.flush()
        self._backlog.end_pauses()
        if self._busy_keys:
            self._busy_keys_at = -math.inf
        return await self.flush() or (problem if self._backlog else None)

    # --- one batch ----------------------------------------------------------------------------------------------------

    async def _write(self, batch: Sequence[Unconfirmed]) -> None:
        """Write outcomes, and take them off the backlog, or set them aside."""
        try:
            await self._write_together(batch, [entry.report for entry in batch])
            return
        except DATABASE_ERRORS as error:
            if (complaint := complaint_of(error)) is None:
                raise
        if isinstance(complaint, errors.LockNotAvailable):
            free = await self._set_locked_aside(batch)
            if len(free) == len(batch):
                # Not their rows: the table, or it is over by now.
                raise complaint
            if free:
                await self._write(free)
        elif len(batch) > 1:
            # Something in one of them. Find out in which, and let only that one go.
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
        elif meaning_of(complaint) is Meaning.REFUSAL:
            await self._write_refused(batch[0], complaint)
        else:
            batch[0].is_slow = isinstance(complaint, errors.QueryCanceled)
            self._set_aside(batch[0], complaint)

    async def _write_refused(self, entry: Unconfirmed, refusal: psycopg.Error) -> None:
        if not entry.is_refused:
            entry.is_refused = True
            self._emitter.emit(events.OutcomeRefused(job=entry.report.job.id, error=first_line(refusal)))
        try:
            await self._write_together([entry], [_without_answer(entry.report, refusal)])
        except DATABASE_ERRORS as error:
            if complaint_of(error) is None:
                raise
            self._set_aside(entry, error)

    async def _write_together(self, batch: Sequence[Unconfirmed], reports: Sequence[Report]) -> None:
        stale, unblocked, busy = await self._store.record(
            reports, now=trio.current_time(), excerpt=self._excerpt, keep=self._keep
        )
        # Confirmed only now, and without a checkpoint since: whatever cuts a write short leaves its batch where it was.
        self._backlog.confirm(batch)
        self._has_room.set()
        self._has_room = trio.Event()
        if busy:
            self._busy_keys |= busy
            self._busy_keys_at = min(self._busy_keys_at, trio.current_time() + _BUSY_KEYS_SECONDS)
        self._tell_of_the_dead(batch, stale)
        again = [report for report in reports if report.job.id in stale] if stale else []
        if again:
            self._emitter.emit(events.OutcomesStale(jobs=len(again)))
        # It may have been recorded before, by a write whose answer was lost, and with it the names of these channels.
        self._on_recorded(reports, unblocked | {report.job.channel: 0.0 for report in again}, stale)

    def _tell_of_the_dead(self, batch: Sequence[Unconfirmed], stale: set[UUID]) -> None:
        for entry in batch:
            job, outcome = entry.report.job, entry.report.outcome
            if outcome.state is JobState.DEAD and job.id not in stale:
                status = outcome.answer.status if outcome.answer else None
                self._emitter.emit(
                    events.JobDead(
                        job=job.id, channel=job.channel, attempts=job.attempt, status=status, error=entry.logged
                    )
                )

    # --- what is left for later ---------------------------------------------------------------------------------------

    async def _set_locked_aside(self, batch: Sequence[Unconfirmed]) -> list[Unconfirmed]:
        """Returns the others: those of jobs whose rows no other transaction has locked."""
        locked = await self._store.locked_jobs([entry.report.job.id for entry in batch])
        for entry in batch:
            if entry.report.job.id in locked:
                self._set_aside(entry, DatabaseUnavailable("another transaction has locked the job's row"))
        return [entry for entry in batch if entry.report.job.id not in locked]

    def _set_aside(self, entry: Unconfirmed, error: Exception) -> None:
        pause = self._own_backoff.delay(entry.failures + 1, random.random)
        self._backlog.set_aside(entry, trio.current_time() + pause)
        self._problem = error

    async def _unblock_busy_keys(self) -> None:
        """Try again to unblock the next jobs of keys that an application's transaction had."""
        self._busy_keys_at = trio.current_time() + _BUSY_KEYS_SECONDS
        try:
            unblocked, self._busy_keys = await self._store.unblock_what_is_free(self._busy_keys)
        except DATABASE_ERRORS as error:
            if complaint_of(error) is None:
                raise
            self._problem = error
            return
        if not self._busy_keys:
            self._busy_keys_at = math.inf
        self._on_recorded((), unblocked, ())


def _without_answer(report: Report, error: psycopg.Error) -> Report:
    """The plainest outcome that leaves the job in the right state: a delivered request is not sent again."""
    outcome, answer = report.outcome, report.outcome.answer
    plain = Outcome(
        outcome.state,
        outcome.reached,
        retry_in=_REFUSED_RETRY_SECONDS if outcome.state is JobState.AVAILABLE else None,
        answer=answer and Answer(answer.status, (), b"", truncated=True),
        error=f"the outcome could not be recorded as it was: {type(error).__name__}",
    )
    return report._replace(outcome=plain)
