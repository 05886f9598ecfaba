"""The events that one subscriber reads: a few, the newest, and how many are missing before them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import trio

from requeuest_trio._observe import events
from requeuest_trio._observe.event import Event

__all__ = ["MOST_UNREAD", "EventStream"]

MOST_UNREAD: Final = 1_000
"""How many events wait for their reader. Whoever reads more slowly than they come gets the newest."""


class EventStream(AsyncIterator[Event]):
    """The unread events of one subscriber. Who puts events in never waits for who reads them."""

    def __init__(self, require_owner: Callable[[], None]) -> None:
        """`require_owner` raises where this must not be read: in another Trio run than that of the events."""
        self._require_owner = require_owner
        self._unread: deque[Event] = deque(maxlen=MOST_UNREAD)
        self._dropped = 0
        self._without_pause = 0
        """How many may be read before other tasks must have had a turn."""
        self._is_closed = False
        self._readers = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<EventStream {state}: {len(self._unread)} unread, {self._dropped} dropped before them>"

    def put(self, event: Event) -> None:
        """Take an event. The oldest goes, if there are too many."""
        if len(self._unread) == MOST_UNREAD:
            self._dropped += 1
        self._unread.append(event)
        self._readers.unpark()

    def close(self) -> None:
        """Nothing comes any more: reading ends after what is unread."""
        self._is_closed = True
        self._readers.unpark_all()

    async def __anext__(self) -> Event:
        """The next event. Cancelled, it has taken none."""
        self._require_owner()
        if self._without_pause:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
            while not (self._unread or self._is_closed):
                await self._readers.park()
            # A turn of the event loop for each would be too slow for a thousand attempts in flight.
            self._without_pause = len(self._unread)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            return events.Dropped(count=dropped)
        if not self._unread:
            raise StopAsyncIteration
        self._without_pause -= 1
        return self._unread.popleft()
