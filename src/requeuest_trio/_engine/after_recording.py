"""What this process does at once with outcomes that are recorded. Others hear of them by notification, or poll."""

from __future__ import annotations

from collections.abc import Sequence

from requeuest_trio._engine.wake_ups import WakeUps
from requeuest_trio._store.outcomes import Report
from requeuest_trio._waiters import Waiters

__all__ = ["AfterRecording"]


class AfterRecording:
    """Wakes callers whose jobs are finished, and the dispatcher for retries and for the next jobs of ordering keys."""

    def __init__(self, waiters: Waiters, wake_ups: WakeUps) -> None:
        self._waiters = waiters
        self._wake_ups = wake_ups

    def __call__(self, reports: Sequence[Report], unblocked: dict[str, float]) -> None:
        """These are recorded, and in these channels jobs became available, due in so many seconds."""
        self._waiters.wake(report.job.id for report in reports if report.outcome.retry_in is None)
        self._wake_ups.due(unblocked)
        for report in reports:
            if report.outcome.retry_in is not None:
                self._wake_ups.due({report.job.channel: report.outcome.retry_in})
