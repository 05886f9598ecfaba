"""What the store is meant to do, in a hundred lines: the reference that PostgreSQL is compared with.

Time is a number that a test moves on. What has the same time is in the order of the events that brought it about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

__all__ = ["LEASE", "ModelJob", "ModelQueue", "Spawned"]

LEASE = 60.0
UNFINISHED_HEAD = {"available", "running"}
FINISHED = {"succeeded", "dead"}


@dataclass(frozen=True)
class Spawned:
    """What a job is stored with."""

    id: UUID
    channel: str
    key: str | None
    priority: int
    delay: float


@dataclass
class ModelJob:
    """A job as the queue has it."""

    new: Spawned
    key: str | None
    due: tuple[float, int]
    position: int
    state: str = "available"
    attempts: int = 0
    claim: UUID | None = None
    worker: UUID | None = None
    finished: float = 0.0
    outcomes: dict[int, str] = field(default_factory=dict)

    def let_go(self, state: str) -> None:
        self.state, self.claim, self.worker = state, None, None


class ModelQueue:
    """The whole queue."""

    def __init__(self, ordered: Collection[str]) -> None:
        self.ordered = ordered
        self.clock = 0.0
        self.jobs: dict[UUID, ModelJob] = {}
        self.seen: dict[UUID, float] = {}
        self._events = count()

    def spawn(self, jobs: Iterable[Spawned]) -> None:
        event = next(self._events)
        for new in jobs:
            if new.id not in self.jobs:
                key = "" if new.channel in self.ordered else new.key
                job = ModelJob(new, key, (self.clock + new.delay, event), next(self._events))
                if key is not None and any(self._of_key(job, UNFINISHED_HEAD | {"blocked"})):
                    job.state = "blocked"
                self.jobs[new.id] = job

    def spawn_claimed(self, new: Spawned, worker: UUID, claim: UUID) -> bool:
        """Store a job as claimed by a process that has a place for it, if that may be; otherwise as any other."""
        may_be = new.id not in self.jobs and new.channel not in self.ordered and worker in self.seen
        self.spawn([new])
        if may_be:
            self._take(self.jobs[new.id], worker, claim)
        return may_be

    def claim(self, worker: UUID, claim: UUID, places: dict[str, int]) -> set[tuple[UUID, int]]:
        taken = []
        for channel, number in places.items() if worker in self.seen else ():
            due = [j for j in self.jobs.values() if j.new.channel == channel and j.state == "available"]
            due = [job for job in due if job.due[0] <= self.clock]
            taken += sorted(due, key=lambda job: (-job.new.priority, job.due, job.new.id))[:number]
        for job in taken:
            self._take(job, worker, claim)
        return {(job.new.id, job.attempts) for job in taken}

    def record(self, reports: Iterable[tuple[UUID, UUID, str, float]]) -> set[UUID]:
        """Returns the jobs whose outcomes counted."""
        event, counted = next(self._events), list[ModelJob]()
        for job_id, claim, state, retry_in in reports:
            job = self.jobs.get(job_id)
            if job is not None and job.claim == claim:
                job.let_go(state)
                job.outcomes.setdefault(job.attempts, "response")
                job.finished = self.clock
                if state == "available":
                    job.due = (self.clock + retry_in, event)
                counted.append(job)
        for job in counted:
            self._unblock(job)
        return {job.new.id for job in counted}

    def release(self, worker: UUID, pairs: Collection[tuple[UUID, UUID | None]] | None = None) -> int:
        held = [job for job in self.jobs.values() if job.worker == worker]
        held = [job for job in held if pairs is None or (job.new.id, job.claim) in pairs]
        for job in held:
            job.let_go("available")
            job.attempts -= 1
        return len(held)

    def rescue(self, rescuer: UUID | None) -> int:
        """With what follows if there is nothing (more) to rescue."""
        event, rescued = next(self._events), 0
        if rescuer is None or self._age(rescuer) < LEASE / 2:
            for job in self.jobs.values():
                if job.worker is not None and self._age(job.worker) >= LEASE:
                    job.let_go("available")
                    if sum(reached == "unknown" for reached in job.outcomes.values()) >= 2:
                        job.due = (self.clock, event)
                    job.outcomes.setdefault(job.attempts, "unknown")
                    rescued += 1
        if not rescued:
            holding = {job.worker for job in self.jobs.values()}
            self.seen = {w: at for w, at in self.seen.items() if w in holding or self._age(w) < 2 * LEASE}
        return rescued

    def prune(self, state: str, keep: float) -> int:
        return self._remove(j for j in self.jobs.values() if j.state == state and self.clock - j.finished >= keep)

    def clear(self, channels: Collection[str]) -> int:
        return self._remove(j for j in self.jobs.values() if j.new.channel in channels and j.state != "running")

    def _take(self, job: ModelJob, worker: UUID, claim: UUID) -> None:
        job.state, job.claim, job.worker, job.attempts = "running", claim, worker, job.attempts + 1

    def _remove(self, jobs: Iterable[ModelJob]) -> int:
        gone = [job.new.id for job in jobs]
        for job_id in gone:
            del self.jobs[job_id]
        return len(gone)

    def _unblock(self, job: ModelJob) -> None:
        if job.key is not None and job.state in FINISHED and not any(self._of_key(job, UNFINISHED_HEAD)):
            for behind in sorted(self._of_key(job, {"blocked"}), key=lambda other: other.position)[:1]:
                behind.state = "available"

    def _of_key(self, job: ModelJob, states: set[str]) -> Iterable[ModelJob]:
        return (
            other
            for other in self.jobs.values()
            if (other.new.channel, other.key) == (job.new.channel, job.key) and other.state in states
        )

    def _age(self, worker: UUID) -> float:
        return self.clock - self.seen.get(worker, -LEASE)
