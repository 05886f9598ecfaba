"""What this process does at once with outcomes that are recorded. Others hear of them by notification, or poll."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from requeuest_trio._engine.wake_ups import WakeUps
from requeuest_trio._model.states import JobState
from requeuest_trio._store.outcomes import Report
from requeuest_trio._waiters import Waiters

__all__ = ["AfterRecording"]


class AfterRecording:
    """Wakes callers whose jobs are finished, and the dispatcher for retries and for the next jobs of ordering keys."""

    def __init__(self, waiters: Waiters, wake_ups: WakeUps) -> None:
        self._waiters = waiters
        self._wake_ups = wake_ups

    def __call__(self, reports: Sequence[Report], unblocked: dict[str, float], stale: Collection[UUID]) -> None:
        """These are recorded, but for those of stale jobs; in these channels jobs became available: their waits."""
        self._wake_ups.due(unblocked)
        for report in reports:
            job, outcome = report.job, report.outcome
            if outcome.retry_in is not None:
                self._wake_ups.due({job.channel: outcome.retry_in})
            elif job.awaited and outcome.answer and outcome.state is JobState.SUCCEEDED and job.id not in stale:
                self._waiters.answered(job.id, outcome.answer)
            else:
                self._waiters.wake([job.id])
