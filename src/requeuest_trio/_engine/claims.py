"""Claims, and what makes them safe: whatever goes wrong with one, this process sends only what is its own.

*Lost claims.* Where only the answer to a claim is lost, this process holds jobs without knowing them; they are released
as soon as it can ask which claims it holds. *Forgotten outcomes.* PostgreSQL may forget what it had confirmed, after a
crash or a failover; the jobs of such claims are made orphans: their attempts were made, and count. *Unreadable rows.* A
row that fails the claim which reads it is found by claiming one by one (`caution.py`), and its job given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol
from uuid import UUID, uuid4

from requeuest_trio._engine.caution import Caution
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.wake_ups import WakeUps
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.claimed import TOO_LARGE, Claimed, ClaimedBatch
from requeuest_trio._store.database import DATABASE_ERRORS, why_unreadable
from requeuest_trio._store.failures import is_of_time, is_of_what_was_read
from requeuest_trio._store.store import Store

__all__ = ["Claims", "Holder"]

_REMEMBERED_CLAIMS = 10_000
"""Those of some seconds: what PostgreSQL may forget is younger."""


class Holder(Protocol):
    """Has jobs of this process, or their outcomes."""

    @property
    def claims(self) -> set[UUID]:
        """Under which it has them."""
        ...


class Claims:
    """What this process claims, under its lease."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        holders: Sequence[Holder],
        wake_ups: WakeUps,
        on_given_up: Callable[[Iterable[UUID]], None],
        emitter: Emitter,
    ) -> None:
        """
        Args:
            store: where jobs are claimed. Its database has one connection.
            lease: under which.
            holders: everything that jobs and outcomes of this process are in.
            wake_ups: told of channels that have something due.
            on_given_up: told of jobs that were given up because they can't be read.
            emitter: told what happened.
        """
        self._store = store
        self._lease = lease
        self._holders = holders
        self._wake_ups = wake_ups
        self._on_given_up = on_given_up
        self._emitter = emitter
        self._caution = Caution()
        self._problem = ""
        """Of what the last claim has failed that has failed of what it read."""
        self._may_hold_unknown = False
        self._trusted: deque[UUID] = deque(maxlen=_REMEMBERED_CLAIMS)
        """The last claims whose jobs were handed to workers."""

    # --- one claim ----------------------------------------------------------------------------------------------------

    def limited(self, wanted: dict[str, int]) -> dict[str, int]:
        """How much of this one claim may ask for."""
        return self._caution.limited(wanted)

    def nothing_is_ready(self) -> None:
        """What was due when a claim failed is claimed, or due no more."""
        self._caution.over()

    async def take(self, wanted: dict[str, int]) -> ClaimedBatch | None:
        """Claim so many jobs of channels. None: the answer came too late for the lease; the jobs will be released."""
        worker, term, claim = self._lease.worker, self._lease.term, uuid4()
        try:
            found = await self._store.claim(worker, claim, wanted)
        except BaseException as error:
            # If only the answer is lost, they are claimed, and this process does not know them.
            self._may_hold_unknown = True
            if isinstance(error, DATABASE_ERRORS) and is_of_what_was_read(error):
                self._caution.failed(wanted, was_time=is_of_time(error))
                self._problem = why_unreadable(error, self._store.statement_timeout)
            raise
        if self._caution:
            self._caution.passed(wanted)
        if not self.is_trusted(term):
            self._may_hold_unknown = True
            return None
        if found.jobs:
            self.trust(claim, len(found.jobs), len({job.channel for job in found.jobs}))
        return found

    # --- a claim that a spawn makes -----------------------------------------------------------------------------------

    def is_trusted(self, term: int) -> bool:
        """Whether what was claimed in a term of the lease may be sent: else it may be another process's by now."""
        return self._lease.is_valid and self._lease.term == term

    def trust(self, claim: UUID, jobs: int, channels: int) -> None:
        """Jobs of a claim go to their workers."""
        self._trusted.append(claim)
        if self._emitter.takes(events.Claimed):
            self._emitter.emit(events.Claimed(jobs=jobs, channels=channels))

    def doubt(self) -> None:
        """A claim may have been made of which this process does not know."""
        self._may_hold_unknown = True

    # --- what is not sent ---------------------------------------------------------------------------------------------

    async def release(self, jobs: Sequence[Claimed]) -> None:
        """Release jobs that this process will not send, their attempts not counted.

        If that fails it may be done again: a job is released under its claim only. Raises `DatabaseUnavailable`.
        """
        await self._store.release_jobs(self._lease.worker, jobs)

    async def clear_doubts(self) -> None:
        """Release lost claims, and find out about unreadable rows. Raises `DatabaseUnavailable`."""
        if self._may_hold_unknown:
            await self.release_lost()
        if self._caution.accused is not None:
            await self._examine(self._caution.accused)

    async def release_lost(self) -> None:
        """Release what this process holds without knowing it. Raises `DatabaseUnavailable`.

        A claim may even be carried out long after it was given up, when a network delivers what it had kept back; so
        maintenance comes here again and again.
        """
        self._may_hold_unknown = False
        try:
            released, orphaned = await self._release_unknown()
        except BaseException:
            self._may_hold_unknown = True
            raise
        if orphaned:
            self._emitter.emit(events.OutcomesLost(jobs=orphaned))
        if released:
            self._emitter.emit(events.ClaimLost(jobs=released))
            self._wake_ups.anything()

    async def _release_unknown(self) -> tuple[int, int]:
        worker = self._lease.worker
        held = await self._store.held_claims(worker)
        # Compared only now. Claims go over the same, only connection: none of those held is on its way here; and that
        # of a job that is being stored was noted before.
        unknown = held.difference(*(holder.claims for holder in self._holders))
        if not unknown:
            return 0, 0
        forgotten = unknown.intersection(self._trusted)
        orphaned = await self._store.orphan(worker, forgotten)
        return await self._store.release(worker, unknown - forgotten), orphaned

    # --- rows that can't be read --------------------------------------------------------------------------------------

    async def _examine(self, channel: str) -> None:
        """Find out which job of a channel could not be claimed alone, and give it up if that is not the first time."""
        found = await self._store.first_due(channel)
        if found is None:
            self._caution.acquit()
        elif self._caution.is_guilty(channel, *found):
            await self._give_up([found[0]], f"it can't be read{self._problem}")

    async def give_up_oversized(self, job_ids: Collection[UUID]) -> None:
        """Give up jobs that are larger than a job may be. Raises `DatabaseUnavailable`."""
        await self._give_up(job_ids, TOO_LARGE)

    async def _give_up(self, job_ids: Collection[UUID], problem: str) -> None:
        dead, unblocked = await self._store.condemn(job_ids, problem)
        for event in dead:
            self._emitter.emit(event)
        self._on_given_up(job_ids)
        self._wake_ups.due(unblocked)
