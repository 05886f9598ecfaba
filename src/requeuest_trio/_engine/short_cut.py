"""The short cut: a lone job that is spawned here and could be sent at once is stored as claimed already.

That spares a commit, and every process the wake-up for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import trio

from requeuest_trio._engine.channel_workers import ChannelWorkers
from requeuest_trio._engine.claims import Claims
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.readiness import Readiness
from requeuest_trio._engine.slots import Slots
from requeuest_trio._engine.wake_ups import WakeUps
from requeuest_trio._store.claimed import Reservation

__all__ = ["ShortCut"]


class ShortCut:
    """Reserves the slot for such a job. One at a time."""

    def __init__(
        self,
        readiness: Readiness,
        slots: Slots,
        workers: ChannelWorkers,
        claims: Claims,
        lease: Lease,
        wake_ups: WakeUps,
    ) -> None:
        self._readiness = readiness
        self._slots = slots
        self._workers = workers
        self._claims = claims
        self._lease = lease
        self._wake_ups = wake_ups
        self._is_open = True
        self._may_send = True
        self._is_stored = trio.Event()

    def __repr__(self) -> str:
        return f"<ShortCut: {'open' if self._is_open else 'closing' if self._may_send else 'closed'}>"

    @contextmanager
    def reserve(self, channel: str) -> Iterator[Reservation | None]:
        """Reserve a slot for a job that is about to be stored; None if it could not be sent at once.

        What becomes of the job is to be noted in the reservation; else it counts as a claim whose answer was lost.
        """
        if not self._leads_through(channel):
            yield None
            return
        term, reservation = self._lease.term, Reservation(channel, self._lease.worker, uuid4())
        try:
            with self._workers.reserving(reservation):
                yield reservation
        finally:
            self._send(reservation, term)
            self._is_stored.set()
            self._is_stored = trio.Event()

    def _leads_through(self, channel: str) -> bool:
        """Whether there is a slot for a job of a channel, and nothing known that should have it first."""
        if not self._is_open or self._workers.has_reserved or not self._lease.is_fresh:
            return False
        if not self._readiness.comes_first(channel) or not self._workers.is_unlimited(channel):
            return False
        taken = self._workers.occupied + self._workers.expected
        return self._slots.grantable(taken, self._workers.wish(channel)) > 0

    def _send(self, reservation: Reservation, term: int) -> None:
        job = reservation.job
        if job is not None and self._may_send and self._claims.is_trusted(term):
            self._workers.hand_over(job.channel, [job])
            self._claims.trust(job.claim, 1, 1)
            return
        if job is not None or reservation.is_unknown:
            self._claims.doubt()
        self._wake_ups.wake()

    def close(self) -> None:
        """Reserve nothing more; what is being stored may still be sent."""
        self._is_open = False

    async def finish(self) -> None:
        """Send nothing more, after the tasks have ended: what is being stored is for the others then."""
        self._is_open = self._may_send = False
        while self._workers.has_reserved:
            await self._is_stored.wait()
