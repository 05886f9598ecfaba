"""The reference model in place of the store and its database, for tests on virtual time: it may fail at any statement,
before it is carried out or after."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

import trio

from requeuest_trio import DatabaseUnavailable
from requeuest_trio._store.claimed import Claimed, ClaimedBatch
from requeuest_trio._store.maintaining import FIRST_KEY, Sign
from requeuest_trio._store.outcomes import Recorded, Report
from requeuest_trio._store.statements import operation
from tests.faults.store_model import ModelQueue, Spawned

__all__ = ["FakeDatabase", "FakeQueue", "FakeStore"]


class FakeDatabase:
    """Runs operations, each after a while, and one after the other, because it has one connection."""

    statement_timeout = 10.0

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.connection = trio.Lock()
        self.failing = 0.0
        """How likely a statement fails: half of those that do are carried out, and only the answer is lost."""

    async def run(self, operation: Callable[[Any], Awaitable[Any]], *, pieces: int = 1) -> Any:
        fails, is_lost = self.chance.random() < self.failing, self.chance.random() < 0.5
        async with self.connection:
            await trio.sleep(self.chance.choice([0, 0, 0.001, 0.1]))
            if fails and not is_lost:
                raise DatabaseUnavailable("not carried out")
            answer = await operation(None)
            await trio.lowlevel.checkpoint()
        if fails:
            raise DatabaseUnavailable("the answer is lost")
        return answer


class FakeQueue:
    """What is in the database, and what has become of it."""

    def __init__(self, jobs: Iterable[Spawned], requests: Callable[[Spawned, UUID, int], Claimed]) -> None:
        self.queue = ModelQueue(())
        self.queue.spawn(jobs)
        self.requests = requests
        self.recorded: Counter[tuple[UUID, UUID]] = Counter()
        self.bug: Exception | None = None
        """Raised by the next record: not an error of the database, but of a programmer."""
        self.bug_was_met = False

    @property
    def now(self) -> ModelQueue:
        self.queue.clock = trio.current_time()
        return self.queue


class FakeStore:
    """What the engine asks of a store."""

    def __init__(self, connections: FakeDatabase, there: FakeQueue) -> None:
        self.connections = connections
        self.there = there
        self.statement_timeout = connections.statement_timeout

    @operation
    async def register(self, _: object, worker: UUID, lease: float) -> float:
        self.there.now.seen[worker] = self.there.queue.clock
        return self.there.queue.clock

    @operation
    async def heartbeat(self, _: object, worker: UUID) -> float | None:
        if worker not in self.there.now.seen:
            return None
        self.there.queue.seen[worker] = self.there.queue.clock
        return self.there.queue.clock

    @operation
    async def deregister(self, _: object, worker: UUID) -> None:
        self.there.now.seen.pop(worker, None)

    @operation
    async def due_channels(self, _: object, channels: Iterable[str] | None, horizon: float) -> dict[str, float]:
        waits: dict[str, float] = {}
        for job in self.there.now.jobs.values():
            wait = job.due[0] - self.there.queue.clock
            if job.state == "available" and wait <= horizon:
                waits[job.new.channel] = min(wait, waits.get(job.new.channel, wait))
        return waits

    @operation
    async def claim(self, _: object, worker: UUID, claim: UUID, places: dict[str, int]) -> ClaimedBatch:
        taken = self.there.now.claim(worker, claim, places)
        jobs = [
            self.there.requests(self.there.queue.jobs[job_id].new, claim, number) for job_id, number in sorted(taken)
        ]
        return ClaimedBatch(jobs, is_cut=False, oversized=[])

    @operation
    async def first_due(self, _: object, channel: str) -> tuple[UUID, int] | None:
        waiting = [
            job for job in self.there.now.jobs.values() if (job.new.channel, job.state) == (channel, "available")
        ]
        return (min(waiting, key=lambda job: job.due).new.id, 1_000) if waiting else None

    @operation
    async def record(self, _: object, /, reports: Sequence[Report], **_options: object) -> Recorded:
        if self.there.bug is not None:
            self.there.bug_was_met = True
            raise self.there.bug
        rows = [(r.job.id, r.job.claim, str(r.outcome.state), r.outcome.retry_in or 0.0) for r in reports]
        counted = self.there.now.record(rows)
        self.there.recorded.update((r.job.id, r.job.claim) for r in reports if r.job.id in counted)
        return Recorded({r.job.id for r in reports} - counted, {}, set())

    @operation
    async def release(self, _: object, worker: UUID, claims: Collection[UUID] | None = None) -> int:
        held = [job for job in self.there.now.jobs.values() if job.worker == worker]
        pairs = {(job.new.id, job.claim) for job in held if job.claim and (claims is None or job.claim in claims)}
        return self.there.queue.release(worker, pairs)

    @operation
    async def release_jobs(self, _: object, worker: UUID, jobs: Collection[Claimed]) -> int:
        return self.there.now.release(worker, {(job.id, job.claim) for job in jobs})

    @operation
    async def orphan(self, _: object, worker: UUID, claims: Collection[UUID]) -> int:
        held = [job for job in self.there.now.jobs.values() if job.worker == worker and job.claim in claims]
        for job in held:
            job.worker = UUID(int=0)
        return len(held)

    @operation
    async def held_claims(self, _: object, worker: UUID) -> set[UUID]:
        return {job.claim for job in self.there.queue.jobs.values() if job.worker == worker and job.claim}

    @operation
    async def locked_jobs(self, _: object, job_ids: Iterable[UUID]) -> set[UUID]:
        return set()

    @operation
    async def signs_of_life(self, _: object) -> list[Sign]:
        return []

    @operation
    async def rescue(self, _: object, rescuer: UUID, lost: object) -> int:
        return self.there.now.rescue(rescuer)

    @operation
    async def forget(self, _: object, lost: object) -> None:
        """`rescue` has."""

    @operation
    async def bring_back(self, _: object) -> tuple[int, dict[str, float]]:
        return 0, {}

    @operation
    async def free_stranded(self, _: object, after: object) -> tuple[dict[str, float], object]:
        return {}, FIRST_KEY

    @operation
    async def prune(self, _: object, state: str, keep: object, latest: float) -> int:
        return 0
