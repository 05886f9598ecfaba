"""How the statements of one queue are run: what everything that the store does has in common."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

from psycopg import AsyncCursor
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow, tuple_row

from requeuest_trio._postgres import TrioConnection, execute_encoded
from requeuest_trio._store.notifications import Notifications
from requeuest_trio._store.queries import Queries

__all__ = ["Connections", "OneConnection", "Statements", "operation", "transaction"]

P = ParamSpec("P")
T = TypeVar("T")


class Connections(Protocol):
    """What runs operations: a `Database`, each on a connection that is free, or `OneConnection`."""

    statement_timeout: float

    async def run(self, operation: Callable[[TrioConnection], Awaitable[T]], *, pieces: int = 1) -> T:
        """Run an operation of some statements on one connection. `pieces` says how much longer than one it may take."""
        ...


class OneConnection:
    """Runs operations on a connection that is in use already, within the transaction that is open there, if one is."""

    statement_timeout = math.inf

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def run(self, operation: Callable[[TrioConnection], Awaitable[T]], *, pieces: int = 1) -> T:
        """Run an operation. Its time is the connection's owner's concern."""
        return await operation(self._connection)


class Statements:
    """The statements of one queue, bound to the connections that run them."""

    def __init__(self, connections: Connections, queries: Queries, notifications: Notifications) -> None:
        self.connections = connections
        self._queries = queries
        self._notifications = notifications

    def on(self, connection: TrioConnection) -> Self:
        """The same on one connection, such as that of an application's transaction."""
        return type(self)(OneConnection(connection), self._queries, self._notifications)

    @property
    def statement_timeout(self) -> float:
        """For how many seconds a statement may run."""
        return self.connections.statement_timeout

    async def _execute(self, connection: TrioConnection, query: str, **parameters: Any) -> AsyncCursor[TupleRow]:
        # A cursor of its own kind, because a connection of the application's may have been set to another one.
        cursor = AsyncCursor(connection, row_factory=tuple_row)
        return await cursor.execute(self._queries[query], parameters or None)

    async def _run_encoded(
        self, connection: TrioConnection, query: str, batches: Iterable[Mapping[str, bytes | None]]
    ) -> list[PGresult]:
        statement, names = self._queries.numbered(query)
        return await execute_encoded(connection, statement, ([batch[name] for name in names] for batch in batches))


class _Bound(Protocol):
    @property
    def connections(self) -> Connections: ...


S = TypeVar("S", bound=_Bound)


def operation(
    method: Callable[Concatenate[S, TrioConnection, P], Awaitable[T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Make of a method that needs a connection one that has it from the connections to which its store is bound."""

    @wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return self.connections.run(lambda connection: method(self, connection, *args, **kwargs))

    return run


def transaction(connection: TrioConnection) -> AbstractAsyncContextManager[object]:
    """A transaction, unless one is open, or the next statement opens one of itself."""
    if connection.info.transaction_status == TransactionStatus.IDLE and connection.autocommit:
        return connection.transaction()
    return nullcontext()
