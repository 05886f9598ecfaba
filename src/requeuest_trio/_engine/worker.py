"""One channel's attempts in this process: its own limit and its own buffer, so that no channel can starve another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from uuid import UUID

import trio

from requeuest_trio._engine.attempt import Deliverer
from requeuest_trio._model.groups import raise_bare
from requeuest_trio._store.rows import Claimed

__all__ = ["Worker"]


class Worker:
    """Delivers what it is handed, up to `limit` jobs at once. Its task lives while it has work."""

    def __init__(self, channel: str, limit: int, deliverer: Deliverer, on_place: Callable[[], None]) -> None:
        self.channel = channel
        self._limit = limit
        self._deliverer = deliverer
        self._on_place = on_place
        self._buffer: deque[Claimed] = deque()
        # By claim and id: an attempt that is being cut short and its successor are of the same job.
        self._running: set[tuple[UUID, UUID]] = set()
        self._changed = trio.Event()

    def __repr__(self) -> str:
        running, waiting = len(self._running), len(self._buffer)
        return f"<Worker for {self.channel!r}: {running} running, {waiting} waiting, {self.places} free>"

    @property
    def in_hand(self) -> int:
        """Jobs that are running or about to."""
        return len(self._running) + len(self._buffer)

    @property
    def places(self) -> int:
        """How many more jobs may be claimed for it."""
        return self._limit - self.in_hand

    @property
    def claims(self) -> set[UUID]:
        """The claims of the jobs in hand."""
        return {claim for claim, _ in self._running} | {job.claim for job in self._buffer}

    def hand_over(self, jobs: list[Claimed]) -> None:
        """Give it jobs to deliver."""
        self._buffer.extend(jobs)
        self._changed.set()

    async def run(self) -> None:
        """Deliver until nothing is in hand any more."""
        try:
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                while self.in_hand:
                    self._changed = trio.Event()
                    while self._buffer:
                        job = self._buffer.popleft()
                        self._running.add((job.claim, job.id))
                        nursery.start_soon(self._attempt, job)
                    await self._changed.wait()
        except BaseExceptionGroup as group:
            raise_bare(group)

    async def _attempt(self, job: Claimed) -> None:
        try:
            await self._deliverer.attempt(job)
        finally:
            self._running.remove((job.claim, job.id))
            self._changed.set()
            self._on_place()
