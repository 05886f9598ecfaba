"""The outcomes that are not yet confirmed, and which of them are to be written next. Pure: time goes in as a number.

An outcome that PostgreSQL refuses, or does not manage to write, is *set aside*: it is tried again after a pause of its
own, by itself, so that it does not hold up the others. All others go in batches, in the order in which they came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

from requeuest_trio._store.outcomes import Report

__all__ = ["MAX_BACKLOG_BYTES", "MAX_BATCH_BYTES", "MAX_BATCH_ROWS", "OutcomeBacklog", "Unconfirmed"]

MAX_BATCH_ROWS = 500
MAX_BATCH_BYTES = 8 * 1_048_576
MAX_BACKLOG_BYTES = 8 * MAX_BATCH_BYTES


@dataclass(slots=True, eq=False)
class Unconfirmed:
    """An outcome that PostgreSQL has not confirmed."""

    report: Report
    logged: str | None = None
    """What is wrong, in words that may be logged."""
    failures: int = 0
    """How often it was set aside."""
    retry_at: float = -math.inf
    """When it is tried again, if it was set aside."""
    is_slow: bool = False
    """PostgreSQL has run out of the time for it."""
    is_refused: bool = False
    """PostgreSQL has refused its data."""

    @property
    def size(self) -> int:
        """The bytes of its answer's body."""
        return len(self.report.outcome.answer.body) if self.report.outcome.answer else 0


class OutcomeBacklog:
    """Keeps each outcome until it is confirmed, whatever becomes of the writes in between."""

    def __init__(self, max_running: int) -> None:
        """`max_running`: how many attempts may end while one batch is written and the next one gathers."""
        self._limit = max_running + 2 * MAX_BATCH_ROWS
        self._fresh: dict[Unconfirmed, None] = {}
        self._set_aside: dict[Unconfirmed, None] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._set_aside)

    def __iter__(self) -> Iterator[Unconfirmed]:
        yield from self._set_aside
        yield from self._fresh

    def __repr__(self) -> str:
        return f"<OutcomeBacklog: {len(self)} unconfirmed, {len(self._set_aside)} of them set aside>"

    @property
    def claims(self) -> set[UUID]:
        """The claims of the outcomes in it."""
        return {entry.report.job.claim for entry in self}

    @property
    def has_room(self) -> bool:
        """Whether attempts may go on: not while there is too much already."""
        return len(self) <= self._limit and self._bytes <= MAX_BACKLOG_BYTES

    @property
    def has_failures(self) -> bool:
        """Whether any is set aside."""
        return bool(self._set_aside)

    @property
    def next_retry(self) -> float:
        """When the first of those that are set aside is to be tried again."""
        return min((entry.retry_at for entry in self._set_aside), default=math.inf)

    def add(self, report: Report, logged: str | None = None) -> None:
        """Keep an outcome; `logged` says what is wrong, in words that may be logged."""
        entry = Unconfirmed(report, logged)
        self._fresh[entry] = None
        self._bytes += entry.size

    def next_batch(self, now: float) -> list[Unconfirmed]:
        """What to write next: one that was set aside and whose pause is over, or else the oldest of the others.

        Each is of another job: after a rescue there may be two of one, under different claims.
        """
        for entry in self._set_aside:
            if entry.retry_at <= now:
                return [entry]
        batch: list[Unconfirmed] = []
        jobs: set[UUID] = set()
        size = 0
        for entry in self._fresh:
            if len(batch) == MAX_BATCH_ROWS or size > MAX_BATCH_BYTES or entry.report.job.id in jobs:
                break
            batch.append(entry)
            jobs.add(entry.report.job.id)
            size += entry.size
        return batch

    def confirm(self, entries: Iterable[Unconfirmed]) -> None:
        """PostgreSQL has them, or has what came of their jobs meanwhile: forget them."""
        for entry in entries:
            del (self._set_aside if entry.failures else self._fresh)[entry]
            self._bytes -= entry.size

    def set_aside(self, entry: Unconfirmed, retry_at: float) -> None:
        """It could not be written, and is not to hold up the others."""
        self._fresh.pop(entry, None)
        self._set_aside[entry] = None
        entry.failures += 1
        entry.retry_at = retry_at

    def end_pauses(self) -> None:
        """Try those again that are set aside, but not what has taken too much time: there is none for another try."""
        for entry in self._set_aside:
            if not entry.is_slow:
                entry.retry_at = -math.inf
