"""One channel's attempts in this process: its own limit and its own buffer, so that no channel can starve another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

import trio

from requeuest_trio._engine.attempt import Deliverer
from requeuest_trio._engine.slots import Wish
from requeuest_trio._store.claimed import Claimed

__all__ = ["ChannelWorker"]

_AHEAD_SECONDS: Final = 0.1
_AHEAD_MOST: Final = 8


class _Slot:
    """Has one attempt at a time. Whoever cancels its scope ends the attempt that is under way in it, and no other."""

    __slots__ = ("job", "scope")

    def __init__(self) -> None:
        self.job: Claimed | None = None
        self.scope = trio.CancelScope()


class ChannelWorker:
    """Delivers what it is handed, up to `limit` jobs at once, each slot by a task that lives while there is work.

    Under load it is handed more than that: as many jobs as it will take up within a tenth of a second, by the
    measure of the last ones. So no slot waits for a claim, and claims are large; and with slow receivers, or little
    to do, nothing is kept from other processes.
    """

    def __init__(
        self,
        channel: str,
        limit: int,
        deliverer: Deliverer,
        nursery: trio.Nursery,
        on_free: Callable[[ChannelWorker], None],
        on_shortage: Callable[[ChannelWorker, Claimed, str], None],
    ) -> None:
        """
        Args:
            channel: whose jobs it delivers.
            limit: how many slots it has.
            deliverer: makes the attempts.
            nursery: where its tasks live.
            on_free: called when more jobs may be claimed for it.
            on_shortage: called with a job that this machine could not send, and why; the job is the caller's then.
        """
        self.channel = channel
        self._limit = limit
        self._deliverer = deliverer
        self._nursery = nursery
        self._on_free = on_free
        self._on_shortage = on_shortage
        self._buffer: deque[Claimed] = deque()
        self._slots: dict[_Slot, None] = {}
        """Those with an attempt under way. Two may have one job: one that is being cut short, and its successor."""
        self._ahead = 0
        self._ended = 0
        self._has_moved = True
        self._counted_since = trio.current_time()

    def __repr__(self) -> str:
        running, waiting = len(self._slots), len(self._buffer)
        return f"<ChannelWorker for {self.channel!r}: {running} running, {waiting} waiting, {self.free} free>"

    @property
    def in_hand(self) -> int:
        """Jobs that are running or about to."""
        return len(self._slots) + len(self._buffer)

    @property
    def occupied(self) -> int:
        """Slots that are taken, or will be at once; what is in hand beyond them only waits for one."""
        return min(self.in_hand, self._limit)

    @property
    def free(self) -> int:
        """How many more jobs it could begin at once."""
        return self._limit - self.occupied

    @property
    def ahead(self) -> int:
        """How many more it could hold for the slots to come; none, while what waits will last for another claim."""
        if len(self._buffer) > self._ahead // 2:
            return 0
        return self._limit + self._ahead - max(self.in_hand, self._limit)

    @property
    def wish(self) -> Wish:
        """What it could have."""
        return Wish(self.channel, self.occupied, self.free, self.ahead)

    @property
    def claims(self) -> set[UUID]:
        """The claims of the jobs in hand."""
        running = {slot.job.claim for slot in self._slots if slot.job is not None}
        return running.union(job.claim for job in self._buffer)

    def hand_over(self, jobs: Iterable[Claimed]) -> None:
        """Give it jobs to deliver."""
        self._look_ahead()
        self._buffer.extend(jobs)
        while self._buffer and len(self._slots) < self._limit:
            slot = _Slot()
            self._begin_next(slot)
            self._nursery.start_soon(self._deliver_in, slot)

    def take_back(self) -> list[Claimed]:
        """Return what has not been begun."""
        jobs = list(self._buffer)
        self._buffer.clear()
        return jobs

    def take_stalled(self) -> list[Claimed]:
        """Return what has not been begun, if no attempt has ended since the last call."""
        if self._has_moved or not self._buffer:
            self._has_moved = False
            return []
        self._ahead = 0
        return self.take_back()

    def _look_ahead(self) -> None:
        now = trio.current_time()
        seconds = now - self._counted_since
        if seconds >= _AHEAD_SECONDS:
            expected = round(self._ended * _AHEAD_SECONDS / seconds)
            self._ahead = min(expected, _AHEAD_MOST * self._limit)
            self._ended, self._counted_since = 0, now

    async def _deliver_in(self, slot: _Slot) -> None:
        """Deliver the job of a slot, and then whatever waits.

        A task and a scope for each would cost more than everything else that is done for it.
        """
        while slot.job is not None:
            with trio.CancelScope() as slot.scope:  # noqa: ASYNC912 - every attempt waits for something
                while slot.job is not None and not slot.scope.cancel_called:
                    await self._attempt(slot, slot.job)
            if slot.job is None:
                # The last attempt was cut short, and with it the scope.
                self._begin_next(slot)

    async def _attempt(self, slot: _Slot, job: Claimed) -> None:
        try:
            problem = await self._deliverer.attempt(job, slot.scope)
        finally:
            slot.job = None
            del self._slots[slot]
            self._ended += 1
            self._has_moved = True
            if self.ahead or self.free:
                self._on_free(self)
        if problem is not None:
            self._on_shortage(self, job, problem)
        self._begin_next(slot)

    def _begin_next(self, slot: _Slot) -> None:
        if self._buffer:
            slot.job = self._buffer.popleft()
            self._slots[slot] = None
