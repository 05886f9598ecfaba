"""Writes outcomes in batches: whatever has ended while one write was under way goes together into the next.

An outcome is kept here until PostgreSQL has confirmed it, through outages too. Writing one twice does no harm, since a
record counts only for the claim that is still current.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import psycopg
import trio

from requeuest_trio._config import Config
from requeuest_trio._model.errors import DatabaseUnavailable, SchemaMismatch
from requeuest_trio._model.events import Event, emit
from requeuest_trio._model.outcome import Outcome
from requeuest_trio._model.states import JobState
from requeuest_trio._postgres import Backoff
from requeuest_trio._store.database import Database
from requeuest_trio._store.rows import Report
from requeuest_trio._store.store import Store

__all__ = ["Recorder"]

_logger = logging.getLogger("requeuest_trio.recorder")
_MAX_ROWS = 500
_MAX_BYTES = 8 * 1_048_576
_REFUSED_RETRY_SECONDS = 60.0

OnRecorded = Callable[[Sequence[Report], dict[str, float]], None]
"""Told what was recorded, and the channels whose next ordered jobs became available, with their waits."""


class Recorder:
    """Outcomes on their way to the database. `run` has to be running, or `flush` to be called."""

    def __init__(self, database: Database, store: Store, config: Config, on_recorded: OnRecorded) -> None:
        self._database = database
        self._store = store
        self._excerpt = config.excerpt
        self._limit = 2 * config.max_running
        self._on_recorded = on_recorded
        self._backlog: deque[Report] = deque()
        self._wanted = trio.Event()
        self._has_room = trio.Event()
        self._backoff = Backoff(initial=0.1, cap=5.0)

    def __repr__(self) -> str:
        return f"<Recorder: {len(self._backlog)} outcomes to be written>"

    @property
    def backlog(self) -> int:
        """How many outcomes are not yet confirmed."""
        return len(self._backlog)

    def submit(self, report: Report) -> None:
        """Take an outcome over. It is this recorder's from here on, whatever happens to the caller."""
        self._backlog.append(report)
        self._wanted.set()

    async def wait_for_room(self) -> None:
        """Back-pressure: hold the caller, and with it a place of its channel, while too much is unconfirmed."""
        while len(self._backlog) > self._limit:
            await self._has_room.wait()

    async def run(self) -> None:
        """Write outcomes until cancelled; what is then unconfirmed stays for `flush`."""
        failures = 0
        while True:
            await self._wanted.wait()
            try:
                await self.flush()
                failures = 0
            except (DatabaseUnavailable, SchemaMismatch) as error:
                failures += 1
                pause = self._backoff.delay(failures, random.random)
                emit(_logger, Event.RECORD_FAILED, error=error, backlog=self.backlog, retry_in=round(pause, 2))
                await trio.sleep(pause)

    async def flush(self) -> None:
        """Write what is unconfirmed. Raises `DatabaseUnavailable`; nothing is lost then, nor by cancellation."""
        while self._backlog:
            batch = self._next_batch()
            await self._write(batch)
            # Confirmed only now: whatever cut the write short has left the batch where it was.
            for _ in batch:
                self._backlog.popleft()
            self._has_room.set()
            self._has_room = trio.Event()
        self._wanted = trio.Event()

    def _next_batch(self) -> list[Report]:
        batch: list[Report] = []
        size = 0
        for report in self._backlog:
            if len(batch) == _MAX_ROWS or size > _MAX_BYTES:
                break
            batch.append(report)
            size += len(report.outcome.answer.body) if report.outcome.answer else 0
        return batch

    async def _write(self, batch: Sequence[Report]) -> None:
        try:
            await self._write_together(batch)
        except psycopg.Error as error:
            # Not the connection's fault: something in an outcome is refused. Find out which, and let only that one go.
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            [report] = batch
            emit(_logger, Event.OUTCOME_REFUSED, job=report.job.id, error=error)
            await self._write_together([_without_answer(report, error)])

    async def _write_together(self, batch: Sequence[Report]) -> None:
        recorded, unblocked = await self._database.run(
            partial(self._store.record, reports=batch, now=trio.current_time(), excerpt=self._excerpt)
        )
        stale = sum(report.job.id not in recorded for report in batch)
        if stale:
            emit(_logger, Event.OUTCOMES_STALE, jobs=stale)
        self._on_recorded([report for report in batch if report.job.id in recorded], unblocked)


def _without_answer(report: Report, error: psycopg.Error) -> Report:
    """The plainest outcome that keeps the job in the queue."""
    plain = Outcome(
        JobState.AVAILABLE,
        report.outcome.reached,
        retry_in=_REFUSED_RETRY_SECONDS,
        error=f"the outcome could not be recorded: {type(error).__name__}",
    )
    return replace(report, outcome=plain)
