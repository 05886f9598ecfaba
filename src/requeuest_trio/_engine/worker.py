"""One channel's attempts in this process: its own limit and its own buffer, so that no channel can starve another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from requeuest_trio._engine.attempt import Deliverer
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
        self._running = 0
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return (
            f"<Worker for {self.channel!r}: {self._running} running, {len(self._buffer)} waiting, {self.places} free>"
        )

    @property
    def in_hand(self) -> int:
        """Jobs that are running or about to."""
        return self._running + len(self._buffer)

    @property
    def places(self) -> int:
        """How many more jobs may be claimed for it."""
        return self._limit - self.in_hand

    def hand_over(self, jobs: list[Claimed]) -> None:
        """Give it jobs to deliver."""
        self._buffer.extend(jobs)
        self._changed.set()

    async def run(self) -> None:
        """Deliver until nothing is in hand any more."""
        async with trio.open_nursery() as nursery:
            while self.in_hand:
                self._changed = trio.Event()
                while self._buffer:
                    self._running += 1
                    nursery.start_soon(self._attempt, self._buffer.popleft())
                await self._changed.wait()

    async def _attempt(self, job: Claimed) -> None:
        try:
            await self._deliverer.attempt(job)
        finally:
            self._running -= 1
            self._changed.set()
            self._on_place()
