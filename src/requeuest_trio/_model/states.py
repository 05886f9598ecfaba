"""The states of a job, in one table. The migrations repeat it as constraints, the docs draw it, tests walk it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["FINISHED", "TRANSITIONS", "JobState", "Transition"]


class JobState(StrEnum):
    """Where a job stands. "Scheduled" and "retrying" are no states: such a job is `AVAILABLE` with a later `due_at`."""

    HELD = "held"
    """Stored, but not yet committed by its producer; nothing is sent."""
    BLOCKED = "blocked"
    """Behind an unfinished job of its ordering key; nothing is sent."""
    AVAILABLE = "available"
    """Will be sent as soon as it is due and its channel has a free slot."""
    RUNNING = "running"
    """Claimed by a process, which is sending it now."""
    SUCCEEDED = "succeeded"
    """Delivered: an accepted status came back. Final."""
    DEAD = "dead"
    """Given up: attempts used up, a status of `give_up_on`, or a damaged row. Kept. Final."""
    CANCELLED = "cancelled"
    """Withdrawn before it was delivered. Final."""


FINISHED = frozenset({JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED})


class Transition(NamedTuple):
    """One way from a state to another (`None`: not stored yet), and what makes it happen."""

    before: JobState | None
    after: JobState
    cause: str


TRANSITIONS = (
    Transition(None, JobState.AVAILABLE, "spawn"),
    Transition(None, JobState.BLOCKED, "spawn behind an unfinished job of the same ordering key"),
    Transition(None, JobState.RUNNING, "spawn where it can be sent at once"),
    Transition(JobState.BLOCKED, JobState.AVAILABLE, "the job before it has finished or was cleared"),
    Transition(JobState.AVAILABLE, JobState.RUNNING, "claim"),
    Transition(JobState.AVAILABLE, JobState.DEAD, "condemn: it can't be read"),
    Transition(JobState.BLOCKED, JobState.DEAD, "condemn: it is larger than limits that came after it"),
    Transition(JobState.RUNNING, JobState.SUCCEEDED, "record: an accepted status"),
    Transition(JobState.RUNNING, JobState.AVAILABLE, "record: try again later; release; rescue"),
    Transition(JobState.RUNNING, JobState.DEAD, "record: given up"),
)
