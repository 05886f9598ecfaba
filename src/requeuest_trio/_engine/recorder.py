"""Writes outcomes in batches: whatever has ended while one write was under way goes together into the next.

An outcome is kept here until PostgreSQL has confirmed it, through outages too. Writing one twice does no harm, since a
record counts only for the claim that is still current. Only one task at a time may write: `run`, and after its end
whoever calls `flush`.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

import psycopg
import trio

from requeuest_trio._config import Config
from requeuest_trio._model.errors import DatabaseUnavailable, SchemaMismatch
from requeuest_trio._model.events import Event, emit
from requeuest_trio._model.outcome import Answer, Outcome
from requeuest_trio._model.states import JobState
from requeuest_trio._postgres import Backoff
from requeuest_trio._store.database import Database
from requeuest_trio._store.rows import Report
from requeuest_trio._store.store import Store

__all__ = ["Recorder"]

_logger = logging.getLogger("requeuest_trio.recorder")
_MAX_ROWS = 500
_MAX_BYTES = 8 * 1_048_576
_MAX_BACKLOG_BYTES = 8 * _MAX_BYTES
_REFUSED_RETRY_SECONDS = 60.0

OnRecorded = Callable[[Sequence[Report], dict[str, float]], None]
"""Told what was recorded, and channels in which ordered jobs became available, with their waits. Both are hints."""


class Recorder:
    """Outcomes on their way to the database. `run` has to be running, or `flush` to be called."""

    def __init__(self, database: Database, store: Store, config: Config, on_recorded: OnRecorded) -> None:
        self._database = database
        self._store = store
        self._excerpt = config.excerpt
        self._limit = 2 * config.max_running
        self._on_recorded = on_recorded
        self._backlog: deque[Report] = deque()
        self._bytes = 0
        self._wanted = trio.Event()
        self._has_room = trio.Event()
        self._backoff = Backoff(initial=0.1, cap=5.0)

    def __repr__(self) -> str:
        return f"<Recorder: {len(self._backlog)} outcomes to be written>"

    @property
    def backlog(self) -> int:
        """How many outcomes are not yet confirmed."""
        return len(self._backlog)

    @property
    def claims(self) -> set[UUID]:
        """The claims of outcomes that are not yet confirmed."""
        return {report.job.claim for report in self._backlog}

    def submit(self, report: Report) -> None:
        """Take an outcome over. It is this recorder's from here on, whatever happens to the caller."""
        self._backlog.append(report)
        self._bytes += _size(report)
        self._wanted.set()

    async def wait_for_room(self) -> None:
        """Back-pressure: hold the caller, and with it a place of its channel, while too much is unconfirmed."""
        while len(self._backlog) > self._limit or self._bytes > _MAX_BACKLOG_BYTES:
            await self._has_room.wait()

    async def run(self) -> None:
        """Write outcomes until cancelled; what is then unconfirmed stays for `flush`."""
        failures = 0
        while True:
            await self._wanted.wait()
            try:
                await self.flush()
                failures = 0
            except (DatabaseUnavailable, SchemaMismatch, psycopg.Error) as error:
                failures += 1
                pause = self._backoff.delay(failures, random.random)
                emit(_logger, Event.RECORD_FAILED, error=error, backlog=self.backlog, retry_in=round(pause, 2))
                await trio.sleep(pause)

    async def flush(self) -> None:
        """Write what is unconfirmed. Whatever is raised, cancellation too, no outcome is lost by it.

        Raises `DatabaseUnavailable`, or psycopg's error if PostgreSQL refuses an outcome in any form.
        """
        while self._backlog:
            await self._write(self._next_batch())
        self._wanted = trio.Event()

    def _next_batch(self) -> list[Report]:
        """The oldest outcomes, each of another job: after a rescue there may be two of one, under different claims."""
        batch: list[Report] = []
        jobs: set[UUID] = set()
        size = 0
        for report in self._backlog:
            if len(batch) == _MAX_ROWS or size > _MAX_BYTES or report.job.id in jobs:
                break
            batch.append(report)
            jobs.add(report.job.id)
            size += _size(report)
        return batch

    async def _write(self, batch: Sequence[Report]) -> None:
        """Write the first outcomes of the backlog, and take them off it."""
        try:
            await self._write_together(batch)
        except psycopg.Error as error:
            # Not the connection's fault: something in an outcome is refused. Find out which, and let only that one go.
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
            else:
                await self._write_refused(batch[0], error)

    async def _write_refused(self, report: Report, error: psycopg.Error) -> None:
        emit(_logger, Event.OUTCOME_REFUSED, job=report.job.id, error=error)
        try:
            await self._write_together([_without_answer(report, error)])
        except psycopg.Error:
            # Not even that. It stays, but behind the others.
            self._backlog.rotate(-1)
            raise

    async def _write_together(self, batch: Sequence[Report]) -> None:
        recorded, unblocked = await self._database.run(
            partial(self._store.record, reports=batch, now=trio.current_time(), excerpt=self._excerpt)
        )
        # Confirmed only now, and without a checkpoint since: whatever cuts a write short leaves its batch where it was.
        for _ in batch:
            self._bytes -= _size(self._backlog.popleft())
        self._has_room.set()
        self._has_room = trio.Event()
        stale = [report for report in batch if report.job.id not in recorded]
        if stale:
            emit(_logger, Event.OUTCOMES_STALE, jobs=len(stale))
        # It may have been recorded before, by a write whose answer was lost, and with it the names of these channels.
        self._on_recorded(batch, unblocked | {report.job.channel: 0.0 for report in stale})


def _size(report: Report) -> int:
    return len(report.outcome.answer.body) if report.outcome.answer else 0


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
    return replace(report, outcome=plain)
