"""Which processes live, what becomes of the jobs of those that do not, and what is removed."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from requeuest_trio._model.channel import Channel
from requeuest_trio._model.states import JobState
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.ordering_keys import Key, OrderingKeys, key_columns
from requeuest_trio._store.statements import operation

__all__ = ["FIRST_KEY", "Maintaining", "Sign"]

FIRST_KEY: Key = ("", "")
"""Where a walk over all ordering keys begins: before the first of them."""

_LOST = "the process that made this attempt was lost before it could record the outcome"


class Sign(NamedTuple):
    """That a process lives, or has lived."""

    worker: UUID
    seen_at: str
    """By the database's clock, which may be set at any time: good for nothing but to be compared with itself."""
    lease: float
    """Of the process, in seconds."""


class Maintaining(OrderingKeys):
    """The part of the store that keeps the queue in order."""

    @operation
    async def set_channel(self, connection: TrioConnection, channel: Channel) -> None:
        """Keep a channel's settings."""
        await self._execute(connection, "set_channel", name=channel.name, ordered=channel.ordered)

    @operation
    async def register(self, connection: TrioConnection, worker: UUID, lease: float) -> float:
        """Announce a process. Returns the database's clock, in seconds since 1970."""
        cursor = await self._execute(
            connection, "register", worker=worker, lease=lease, host=ascii(socket.gethostname())[1:-1], pid=os.getpid()
        )
        [(clock,)] = await cursor.fetchall()
        return float(clock)

    @operation
    async def heartbeat(self, connection: TrioConnection, worker: UUID) -> float | None:
        """Renew a process's lease. Returns the database's clock, or None if the lease is lost."""
        row = await (await self._execute(connection, "heartbeat", worker=worker)).fetchone()
        return None if row is None else float(row[0])

    @operation
    async def deregister(self, connection: TrioConnection, worker: UUID) -> None:
        """Take a process off the list."""
        await self._execute(connection, "deregister", worker=worker)

    @operation
    async def signs_of_life(self, connection: TrioConnection) -> list[Sign]:
        """The last of each process."""
        return [Sign(*row) for row in await (await self._execute(connection, "signs_of_life")).fetchall()]

    @operation
    async def rescue(self, connection: TrioConnection, rescuer: UUID | None = None, lost: Collection[Sign] = ()) -> int:
        """Make jobs of lost processes available again. Returns how many; call it until that is 0.

        Lost is who is not registered, and who has given no sign since the one in `lost`.
        """
        cursor = await self._execute(
            connection, "rescue", rescuer=rescuer, error=_LOST, topic=self._notifications.due, **_columns_of(lost)
        )
        [(rescued, _)] = await cursor.fetchall()
        return int(rescued)

    @operation
    async def forget(self, connection: TrioConnection, lost: Collection[Sign]) -> None:
        """Take lost processes off the list that hold nothing."""
        await self._execute(connection, "forget_workers", **_columns_of(lost))

    @operation
    async def bring_back(self, connection: TrioConnection) -> tuple[int, dict[str, float]]:
        """Make due what waits only because the database's clock was put back since it was written.

        Returns how many jobs, which is 0 in the end, and their channels, with waits.
        """
        cursor = await self._execute(connection, "bring_back", topic=self._notifications.due)
        [(jobs, waits, _)] = await cursor.fetchall()
        return int(jobs), json.loads(waits or "{}")

    @operation
    async def free_stranded(self, connection: TrioConnection, after: Key = FIRST_KEY) -> tuple[dict[str, float], Key]:
        """Make the first of jobs that wait behind nobody available, and tell: of some of the keys after the given one.

        Returns their channels, with waits, and the key after which to go on.
        """
        channel, key = after
        rows = await (await self._execute(connection, "stranded_keys", channel=channel, key=key)).fetchall()
        last = next(((channel, key) for channel, key, _, is_last in rows if is_last), FIRST_KEY)
        stranded = {(channel, key) for channel, key, is_stranded, _ in rows if is_stranded}
        if not stranded:
            return {}, last
        unblocked, _ = await self._unblock_what_is_free(connection, stranded)
        return unblocked, last

    @operation
    async def prune(
        self, connection: TrioConnection, state: JobState, keep: timedelta, latest: float = math.inf
    ) -> int:
        """Remove finished jobs that are old enough. Returns how many; call it until that is 0.

        None, if the database's clock is past `latest`, in seconds since 1970.
        """
        columns = {"state": state, "keep": keep.total_seconds(), "latest": latest}
        return await _count(await self._execute(connection, "prune", **columns))

    @operation
    async def clock(self, connection: TrioConnection) -> datetime:
        """The database's time."""
        now: datetime
        [(now,)] = await (await self._execute(connection, "clock")).fetchall()
        return now

    @operation
    async def clear_free(self, connection: TrioConnection, channels: list[str] | None, before: datetime) -> int:
        """Remove some jobs without an ordering key that are not running. Returns how many; call it until that is 0."""
        return await _count(
            await self._execute(connection, "clear", channels=channels, before=before, topic=self._notifications.done)
        )

    @operation
    async def clear_ordered(self, connection: TrioConnection, channels: list[str] | None, before: datetime) -> int:
        """Remove some jobs with an ordering key that are not running. Returns how many; call it until that is 0."""
        cursor = await self._execute(connection, "keys_to_clear", channels=channels, before=before)
        keys = set(await cursor.fetchall())
        if not keys:
            return 0
        async with connection.transaction():
            await self._lock_keys(connection, keys)
            columns = key_columns(keys)
            removed = await _count(
                await self._execute(connection, "clear_keys", **columns, before=before, topic=self._notifications.done)
            )
            # What was added meanwhile behind a job that is gone now is the next.
            await self._unblock(connection, keys, self._notifications.due)
            return removed


def _columns_of(lost: Collection[Sign]) -> dict[str, list[Any]]:
    return {"lost": [sign.worker for sign in lost], "seen": [sign.seen_at for sign in lost]}


async def _count(cursor: Any) -> int:
    row = await cursor.fetchone()
    return int(row[0])
