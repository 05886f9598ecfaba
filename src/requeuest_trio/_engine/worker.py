"""One channel's attempts in this process: its own limit and its own buffer, so that no channel can starve another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final
from uuid import UUID

import trio

from requeuest_trio._engine.attempt import Deliverer
from requeuest_trio._store.claimed import Claimed

__all__ = ["Worker"]

_AHEAD_SECONDS: Final = 0.1
_AHEAD_MOST: Final = 8


class Worker:
    """Delivers what it is handed, up to `limit` jobs at once, each place by a task that lives while there is work.

    Under load it is handed more than that: as many jobs as it will take up within a tenth of a second, by the
    measure of the last ones. So no place waits for a claim, and claims are large; and with slow receivers, or little
    to do, nothing is kept from other processes.
    """

    def __init__(
        self,
        channel: str,
        limit: int,
        deliverer: Deliverer,
        nursery: trio.Nursery,
        on_place: Callable[[Worker], None],
        on_shortage: Callable[[Worker, Claimed, str], None],
    ) -> None:
        """
        Args:
            on_place: called when more jobs may be claimed for it.
            on_shortage: called with a job that this machine could not send, and why; the job is the caller's then.
        """
        self.channel = channel
        self._limit = limit
        self._deliverer = deliverer
        self._nursery = nursery
        self._on_place = on_place
        self._on_shortage = on_shortage
        self._buffer: deque[Claimed] = deque()
        # By identity: an attempt that is being cut short and its successor are of the same job.
        self._running: dict[int, Claimed] = {}
        self._ahead = 0
        self._ended = 0
        self._has_moved = True
        self._counted_since = trio.current_time()

    def __repr__(self) -> str:
        running, waiting = len(self._running), len(self._buffer)
        return f"<Worker for {self.channel!r}: {running} running, {waiting} waiting, {self.free} free>"

    @property
    def in_hand(self) -> int:
        """Jobs that are running or about to."""
        return len(self._running) + len(self._buffer)

    @property
    def occupied(self) -> int:
        """Places that are taken, or will be at once; what is in hand beyond them only waits for one."""
        return min(self.in_hand, self._limit)

    @property
    def free(self) -> int:
        """How many more jobs it could begin at once."""
        return self._limit - self.occupied

    @property
    def ahead(self) -> int:
        """How many more it could hold for the places to come; none, while what waits will last for another claim."""
        if len(self._buffer) > self._ahead // 2:
            return 0
        return self._limit + self._ahead - max(self.in_hand, self._limit)

    @property
    def slots(self) -> tuple[int, int, int]:
        """`occupied`, `free` and `ahead`."""
        return self.occupied, self.free, self.ahead

    @property
    def claims(self) -> set[UUID]:
        """The claims of the jobs in hand."""
        return {job.claim for job in (*self._running.values(), *self._buffer)}

    def hand_over(self, jobs: list[Claimed]) -> None:
        """Give it jobs to deliver."""
        self._look_ahead()
        self._buffer.extend(jobs)
        while self._buffer and len(self._running) < self._limit:
            self._nursery.start_soon(self._occupy_place, self._begin())

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

    async def _occupy_place(self, job: Claimed | None) -> None:
        """Deliver a job, and then whatever waits.

        A task and a scope for each would cost more than everything else that is done for it.
        """
        while job is not None:
            with trio.CancelScope() as scope:  # noqa: ASYNC912 - every attempt waits for something
                while job is not None and not scope.cancel_called:
                    begun, job = job, None
                    try:
                        problem = await self._deliverer.attempt(begun, scope)
                    finally:
                        del self._running[id(begun)]
                        self._ended += 1
                        self._has_moved = True
                        if self.ahead or self.free:
                            self._on_place(self)
                    if problem is not None:
                        self._on_shortage(self, begun, problem)
                    job = self._begin() if self._buffer else None
            if job is None and self._buffer:
                # The last attempt's time was over, and with it the scope's.
                job = self._begin()

    def _begin(self) -> Claimed:
        job = self._buffer.popleft()
        self._running[id(job)] = job
        return job
