"""The lock of a connection: one operation at a time, first come, first served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("ConnectionLock",)


class ConnectionLock:
    """
    What psycopg's ``async with self.lock`` uses instead of an `asyncio.Lock`.

    It differs from `trio.Lock` in two points, both because of what stands inside those blocks:

    - Taking a free lock is not a checkpoint. The operation inside starts with one of its own, and the way out of a
      cancelled pipeline has to take the lock although its scope is cancelled.
    - Any task may release it. The lock of an unfinished ``stream()`` or ``notifies()`` is released by whoever closes
      that generator, and for a forgotten one that is Trio's garbage collector hook, in a system task.

    Like `trio.Lock`, it raises `RuntimeError` where a task would wait for itself.

    Cancellation: a task cancelled while waiting has not got the lock, and its place in the queue goes to the next.
    """

    __slots__ = ("_owner", "_waiters")

    def __init__(self) -> None:
        self._owner: trio.lowlevel.Task | None = None
        self._waiters = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        state = "locked" if self.locked() else "unlocked"
        return f"<{type(self).__qualname__} {state}, {len(self._waiters)} waiting>"

    def locked(self) -> bool:
        """Whether an operation holds the lock."""
        return self._owner is not None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> None:
        task = trio.lowlevel.current_task()
        if self._owner is None:
            self._owner = task
        elif self._owner is task:
            raise RuntimeError("this task is already in the middle of an operation on this connection")
        else:
            await self._waiters.park()  # whoever wakes us has made us the owner

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        woken = self._waiters.unpark()
        self._owner = woken[0] if woken else None
