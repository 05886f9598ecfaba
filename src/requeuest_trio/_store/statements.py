"""How the statements of one schema are run: what everything that the store does has in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from psycopg import AsyncCursor
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow, tuple_row

from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._postgres import TrioConnection, execute_encoded
from requeuest_trio._store.queries import Queries

__all__ = ["Key", "Keys", "Statements", "key_columns", "transaction"]

Key = tuple[str, str]
"""An ordering key, after its channel."""
Keys = set[Key]


class Statements:
    """The statements on one schema. Has no connection and no state but the names that it uses."""

    def __init__(self, queries: Queries, schema: str, *, notifications: bool = True) -> None:
        self._queries = queries
        self.due_topic = f"{schema}:due"
        self.done_topic = f"{schema}:done"
        self.notifies = notifications
        self._due = self.due_topic if notifications else None
        self._done = self.done_topic if notifications else None

    async def _execute(self, connection: TrioConnection, query: str, **parameters: Any) -> AsyncCursor[TupleRow]:
        # A cursor of its own kind, because a connection of the application's may have been set to another one.
        cursor = AsyncCursor(connection, row_factory=tuple_row)
        return await cursor.execute(self._queries[query], parameters or None)

    async def _run_encoded(
        self, connection: TrioConnection, query: str, batches: Iterable[Mapping[str, bytes | None]]
    ) -> list[PGresult]:
        statement, names = self._queries.numbered(query)
        return await execute_encoded(connection, statement, ([batch[name] for name in names] for batch in batches))

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


def transaction(connection: TrioConnection) -> AbstractAsyncContextManager[object]:
    """A transaction, unless one is open, or the next statement opens one of itself."""
    if connection.info.transaction_status == TransactionStatus.IDLE and connection.autocommit:
        return connection.transaction()
    return nullcontext()
