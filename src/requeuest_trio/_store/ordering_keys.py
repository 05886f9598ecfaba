"""Ordering keys: their locks, and the next of their jobs."""

from __future__ import annotations

from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.statements import Statements, operation

__all__ = ["WHOLE_CHANNEL", "Key", "Keys", "OrderingKeys", "key_columns"]

Key = tuple[str, str]
"""An ordering key, after its channel."""
Keys = set[Key]

WHOLE_CHANNEL = ""
"""The ordering key of all jobs of an ordered channel."""


class OrderingKeys(Statements):
    """What other parts of the store do with ordering keys."""

    @operation
    async def unblock_what_is_free(self, connection: TrioConnection, keys: Keys) -> tuple[dict[str, float], Keys]:
        """Make the next jobs of ordering keys available, and tell, but for keys that another transaction has.

        Returns channels of jobs that became available, with their waits, and the keys that were left.
        """
        return await self._unblock_what_is_free(connection, keys)

    async def _unblock_what_is_free(self, connection: TrioConnection, keys: Keys) -> tuple[dict[str, float], Keys]:
        async with connection.transaction():
            free = await self._try_keys(connection, keys)
            return await self._unblock(connection, free, self._notifications.due), keys - free

    async def _unblock(self, connection: TrioConnection, keys: Keys, topic: str | None = None) -> dict[str, float]:
        cursor = await self._execute(connection, "unblock", **key_columns(keys), topic=topic)
        return dict(await cursor.fetchall())

    async def _lock_keys(self, connection: TrioConnection, keys: Keys) -> None:
        cursor = await self._execute(connection, "lock_keys", **key_columns(keys))
        [(isolation, _)] = await cursor.fetchall()
        if isolation not in {"read committed", "read uncommitted"}:
            # A snapshot from before the locks may show a head that has finished since: the job would wait for ever.
            raise InvalidRequest("connection", f"an ordering key needs READ COMMITTED, not {isolation.upper()}")

    async def _try_keys(self, connection: TrioConnection, keys: Keys) -> Keys:
        cursor = await self._execute(connection, "try_keys", **key_columns(keys))
        return set(await cursor.fetchall())


def key_columns(keys: Keys) -> dict[str, list[str]]:
    """Ordering keys as two parameters."""
    return {"channels": [channel for channel, _ in keys], "keys": [key for _, key in keys]}
