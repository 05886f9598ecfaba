"""How the statements of one schema are run: what everything that the store does has in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import trio
from psycopg import AsyncCursor
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow, tuple_row

from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._postgres import TrioConnection, execute_encoded
from requeuest_trio._store.queries import Queries

__all__ = ["Key", "Keys", "Statements", "key_columns", "transaction"]

_SILENCE_SECONDS = 5.0

Key = tuple[str, str]
"""An ordering key, after its channel."""
Keys = set[Key]


class Statements:
    """The statements on one schema. Has no connection, and no state but whether it announces."""

    def __init__(self, queries: Queries, schema: str, emitter: Emitter, *, notifications: bool = True) -> None:
        self._queries = queries
        self._emitter = emitter
        self.due_topic: str = f"{schema}:due"
        self.done_topic: str = f"{schema}:done"
        self.notifies = notifications
        self._silent_until = -math.inf

    def fall_silent(self) -> None:
        """Announce nothing for a while: PostgreSQL's queue of notifications is full, and refuses whole commits then.

        It is full for as long as some session, of whichever program, listens and sits in a transaction. A commit is
        worth more than the hint that comes with it.
        """
        if not self._is_silent:
            self._emitter.emit(events.NotifyQueueFull(silent_for=_SILENCE_SECONDS))
        self._silent_until = trio.current_time() + _SILENCE_SECONDS

    @property
    def _is_silent(self) -> bool:
        return not self.notifies or trio.current_time() < self._silent_until

    @property
    def _due(self) -> str | None:
        """What to announce jobs to: nobody, if nothing is announced."""
        return None if self._is_silent else self.due_topic

    @property
    def _done(self) -> str | None:
        """The same for outcomes that are waited for."""
        return None if self._is_silent else self.done_topic

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
