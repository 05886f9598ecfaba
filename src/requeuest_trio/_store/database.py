"""The way to PostgreSQL: connections set up for the store, with psycopg's errors translated at this edge."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import NoReturn, Self, TypeVar

import psycopg
import trio
from psycopg import AsyncClientCursor, IsolationLevel, errors
from psycopg.pq import TransactionStatus

from requeuest_trio._config import Config
from requeuest_trio._model.backoff import Backoff
from requeuest_trio._model.errors import DatabaseUnavailable, RequeuestError, SchemaMismatch, first_line
from requeuest_trio._postgres import (
    SETTLE_TIMEOUT,
    ConnectionPool,
    Route,
    TrioConnection,
    TrioTransaction,
    forget_prepared,
    prepared_names,
)
from requeuest_trio._real_time import move_on_after
from requeuest_trio._store.failures import (
    Meaning,
    answer_of,
    is_of_notify_queue,
    is_of_time,
    meaning_of,
    was_answered,
    without_contents,
)
from requeuest_trio._store.queries import Queries
from requeuest_trio._store.remedies import with_remedy

__all__ = [
    "DATABASE_ERRORS",
    "NO_LIMITS",
    "Database",
    "connected",
    "for_callers",
    "in_transaction",
    "run_once",
    "translated",
    "why_unreadable",
]

T = TypeVar("T")

DATABASE_ERRORS = (RequeuestError, psycopg.Error)
"""Whatever an operation may fail of. Tasks that go on for ever survive these, and try again."""

_CONNECT_SECONDS = 10.0
_GRACE_SECONDS = 5.0
_PREPARE_THRESHOLD = 5
_HAS_TRANSACTION_TIMEOUT = 170000
"""The version of PostgreSQL."""
_CONNECTING = Backoff(initial=0.1, cap=2.0)
"""However long an outage was, what waits for its end goes on soon after it."""
NO_LIMITS = {"statement_timeout": "0", "lock_timeout": "0", "idle_timeout": "0", "plan_cache_mode": "auto"}
"""For migrations, which may take long."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's errors into this library's, keeping them as the cause."""
    try:
        yield
    except psycopg.Error as error:
        _raise_translated(error)


@contextmanager
def translated_unless(own: BaseException) -> Iterator[None]:
    """The same, but for one that is somebody else's."""
    try:
        yield
    except psycopg.Error as error:
        if error is own:
            raise
        _raise_translated(error)


def _raise_translated(error: psycopg.Error) -> NoReturn:
    """The error of this library for each meaning; a refusal of data is left for who knows the data."""
    error = without_contents(error)
    match meaning_of(error):
        case Meaning.OUTAGE:
            raise DatabaseUnavailable(f"PostgreSQL is not available: {with_remedy(first_line(error))}") from error
        case Meaning.CONFLICT if isinstance(error, errors.LockNotAvailable):
            raise DatabaseUnavailable(
                f"another transaction held a lock for too long ({first_line(error)}); if it is your own, and has used "
                "the same ordering key or job_id, spawn with its connection="
            ) from error
        case Meaning.CONFLICT:
            raise DatabaseUnavailable(f"another transaction was in the way: {first_line(error)}") from error
        case Meaning.MISUSE:
            raise SchemaMismatch(f"the tables are not what this library expects: {first_line(error)}") from error
        case Meaning.FORBIDDEN:
            raise RequeuestError(f"PostgreSQL refuses: {first_line(error)}: the role lacks a right") from error
        case Meaning.REFUSAL:
            raise error


@contextmanager
def for_callers() -> Iterator[None]:
    """Turn every error of psycopg into one of this library's: callers of its functions need to know no others."""
    try:
        with translated():
            yield
    except psycopg.Error as error:
        # A context manager that raises the same error again gives it its frames back.
        raise RequeuestError(f"PostgreSQL refuses: {first_line(error)}") from without_contents(error)


def why_unreadable(error: Exception, seconds: float, what: str = "a statement") -> str:
    """What to add to "can't be read", of an error that `is_of_what_was_read`."""
    if is_of_time(error):
        return f" within {seconds:g} s, the time for {what}"
    return f": {first_line(answer_of(error) or error)}"


@asynccontextmanager
async def connected(route: Route, connect_timeout: float = _CONNECT_SECONDS) -> AsyncIterator[TrioConnection]:
    """A connection of one's own, in autocommit mode, that changes nothing of its session: it may be a pooler's."""
    connection = await route.connect(connect_timeout, autocommit=True, prepare_threshold=None)
    async with connection:
        yield connection


async def in_transaction(
    connection: TrioConnection,
    queries: Queries,
    limits: Mapping[str, str],
    operation: Callable[[TrioConnection], Awaitable[T]],
) -> T:
    """Run an operation in a transaction that brings the library's settings with it, and needs no session of its own.

    After an error the transaction is left to whoever closes the connection, or takes it back.
    """
    cursor, settings = AsyncClientCursor(connection), {**limits, "is_local": True}
    try:
        await cursor.execute(queries["begin"] + queries["configure"], settings)
    except errors.FeatureNotSupported:
        # A replica. It can be read, and says what is wrong if it is written to.
        await cursor.execute(queries["begin_reading"] + queries["configure"], settings)
    result = await operation(connection)
    if connection.info.transaction_status == TransactionStatus.INERROR:
        raise errors.InFailedSqlTransaction("a statement failed, so the transaction was rolled back")
    await connection.commit()
    return result


async def run_once(
    route: Route, queries: Queries, config: Config, operation: Callable[[TrioConnection], Awaitable[T]]
) -> T:
    """Run an operation on a connection made for it, within the limits of `config`.

    In contrast to `Database.run` the first failure to connect is told at once, with its reason.
    """
    patience = config.statement_timeout + _GRACE_SECONDS
    with move_on_after(config.connect_timeout + patience), for_callers():
        async with connected(route, config.connect_timeout) as connection:
            return await in_transaction(connection, queries, _limits(config.statement_timeout), operation)
    raise DatabaseUnavailable(f"PostgreSQL did not answer within {patience:g} s")


class Database:
    """Connections for one purpose: one for a task of the runner, or a few for callers."""

    def __init__(
        self,
        route: Route | str,
        queries: Queries,
        config: Config,
        *,
        size: int,
        lease: float = math.inf,
        patience: float = 1.0,
        lock_timeout: float = math.inf,
        plans_once: bool = False,
        has_sessions: bool = True,
        pause_notifications: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            size: how many connections.
            lease: what its statements must end well within.
            patience: how many times as long as `Config.statement_timeout` they may take.
            lock_timeout: how long a statement waits for a lock at most.
            plans_once: whether a prepared statement is not planned again for other parameters.
            has_sessions: whether a connection leads to the same session all the time. Behind a transaction pooler it
                does not: then every operation is a transaction with settings of its own.
            pause_notifications: is called when a commit failed because of what it announced.
        """
        statement = min(config.statement_timeout * patience, lease / 3)
        self.size = size
        self._has_sessions = has_sessions
        self._pause_notifications = pause_notifications
        self._limits = _limits(statement, lock_timeout, plans_once=plans_once)
        self._queries = queries
        # Longer than the server's own limit, so that this one is met only if the server does not answer at all.
        self._answer_timeout = statement + _GRACE_SECONDS
        self.statement_timeout = statement
        self._acquire_timeout = config.connect_timeout
        self._running: set[trio.CancelScope] = set()
        self._until_one_ends = trio.lowlevel.ParkingLot()
        self._is_closed = False
        self._pool = ConnectionPool(
            route,
            max_size=size,
            configure=self._configure,
            connect_timeout=config.connect_timeout,
            autocommit=True,
            prepare_threshold=_PREPARE_THRESHOLD if has_sessions else None,
            backoff=_CONNECTING,
        )

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End what other tasks are still doing here, and close."""
        self._is_closed = True
        for scope in self._running:
            scope.cancel()
        # Each of them ends within the settle timeout of its connection.
        with move_on_after(2 * SETTLE_TIMEOUT, shield=True, holds=False):  # noqa: ASYNC912 - nothing to wait for is fine
            while self._running:
                await self._until_one_ends.park()  # noqa: ASYNC102 - in a shield of its own
        await self._pool.aclose()  # noqa: ASYNC102 - closes in a cancelled scope too

    async def _configure(self, connection: TrioConnection) -> None:
        if self._has_sessions:
            await self._clean(connection)
        else:
            # For the transactions of callers; see `in_transaction` for the library's.
            await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
            await connection.set_read_only(False)

    async def _clean(self, connection: TrioConnection) -> None:
        """Have the session as the library needs it, whatever is left in it of another client, or of a caller."""
        steps = ("clean_session", "configure", "prepared_statements")
        cursor = AsyncClientCursor(connection)
        await cursor.execute(b"".join(map(self._queries.__getitem__, steps)), {**self._limits, "is_local": False})
        await cursor.set_result(-1)
        if set(await cursor.fetchall()) != {(name, False) for name in prepared_names(connection)}:
            await connection.execute(self._queries["forget_prepared_statements"])
            forget_prepared(connection)

    @asynccontextmanager
    async def connection(self, *, is_lent: bool = False) -> AsyncIterator[TrioConnection]:
        """A connection in autocommit mode, for as long as the block lasts; cleaned after it, if it is lent to a caller.

        Raises `DatabaseUnavailable` if none is had in time. Errors of the block itself come out as they are.
        """
        async with AsyncExitStack() as stack:
            with translated():
                pooled = self._pool.connection(timeout=self._acquire_timeout, start_over=is_lent)
                connection = await stack.enter_async_context(pooled)
            try:
                yield connection
            except psycopg.Error as error:
                self._close_if_over(connection, error)
                raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[TrioConnection]:
        """A connection in a transaction that the application uses itself, with its own database's settings.

        Raises `DatabaseUnavailable` if it can't be begun or committed, each in the time that PostgreSQL may take for a
        statement. Errors of the block itself come out as they are.
        """
        async with self.connection(is_lent=True) as connection:
            transaction = TrioTransaction(connection)
            with translated():
                await self._in_time(partial(self._begin, connection, transaction))
            try:
                yield connection
            except BaseException as error:  # noqa: ASYNC103 - only psycopg's Rollback is not raised again
                if not await self._is_rolled_back_for(error, transaction):  # noqa: ASYNC102 - has shields of its own
                    raise
            else:
                await self._commit(connection, transaction)

    async def _begin(self, connection: TrioConnection, transaction: TrioTransaction) -> None:
        try:
            await transaction.__aenter__()
            settings = self._queries["leave_session_to_caller"]
            if connection.info.server_version >= _HAS_TRANSACTION_TIMEOUT:
                settings += self._queries["leave_transaction_timeout_to_caller"]
            await connection.execute(settings)
        except errors.FeatureNotSupported as error:
            # What a replica says to BEGIN READ WRITE, which is how it is begun behind a pooler.
            connection.close_nowait()
            raise errors.ReadOnlySqlTransaction(first_line(error)) from error
        except BaseException:
            connection.close_nowait()
            raise

    async def _is_rolled_back_for(self, error: BaseException, transaction: TrioTransaction) -> bool:
        """Roll back. Returns whether that is all that was asked for, with psycopg's `Rollback`."""
        with translated_unless(error), move_on_after(self._answer_timeout):
            return await transaction.__aexit__(type(error), error, error.__traceback__)
        return False

    async def _commit(self, connection: TrioConnection, transaction: TrioTransaction) -> None:
        try:
            await self._in_time(partial(transaction.__aexit__, None, None, None), "; it may have been committed")
            return
        except psycopg.Error as error:
            refused = error
        with suppress(psycopg.Error):
            await self._has_made_room(connection, refused)
        with translated():
            raise refused

    async def _in_time(self, step: Callable[[], Awaitable[object]], otherwise: str = "") -> None:
        with move_on_after(self._answer_timeout):
            await step()
            return
        raise DatabaseUnavailable(f"PostgreSQL did not answer within {self._answer_timeout:g} s{otherwise}")

    async def run(self, operation: Callable[[TrioConnection], Awaitable[T]], *, pieces: int = 1) -> T:
        """Run one operation of a few statements, or of several pieces, within the time that PostgreSQL may take for it.

        Raises `DatabaseUnavailable` also if the server does not answer at all, as behind a cut cable; the connection
        is closed then. Cancelled: the operation was done or undone, and which of both is unknown.
        """
        self._require_open()
        limit = self._answer_timeout + (pieces - 1) * self.statement_timeout
        connection = self._pool.take_nowait()
        patience = limit if connection else self._acquire_timeout + limit
        with move_on_after(patience) as scope:  # noqa: ASYNC912 - every operation asks
            self._running.add(scope)
            # Every statement comes through here, so without the help of context managers.
            try:
                connection = connection or await self._pool.acquire(timeout=self._acquire_timeout)
                try:
                    try:
                        return await self._run(connection, operation)
                    except errors.ProgramLimitExceeded as error:
                        refused = error
                    if not await self._has_made_room(connection, refused):
                        raise refused
                    return await self._run(connection, operation)
                except psycopg.Error as error:
                    self._close_if_over(connection, error)
                    raise
                finally:
                    await self._pool.give_back(connection)  # noqa: ASYNC102 - has shields of its own
            except psycopg.Error as error:
                _raise_translated(error)
            finally:
                self._running.remove(scope)
                self._until_one_ends.unpark_all()
        self._require_open()
        if connection is not None:
            self._pool.avoid(connection)
        raise DatabaseUnavailable(f"PostgreSQL did not answer within {limit:g} s")

    async def _run(self, connection: TrioConnection, operation: Callable[[TrioConnection], Awaitable[T]]) -> T:
        if self._has_sessions:
            return await operation(connection)
        return await in_transaction(connection, self._queries, self._limits, operation)

    async def _has_made_room(self, connection: TrioConnection, error: psycopg.Error) -> bool:
        """Announce nothing for a while, if that is why nothing was done. Returns whether it can be done again now."""
        if not is_of_notify_queue(error):
            return False
        self._pause_notifications()
        await connection.execute(self._queries["make_room_for_notifications"])
        return True

    def _close_if_over(self, connection: TrioConnection, error: psycopg.Error) -> None:
        """Ask no more over a connection that an error leaves in doubt."""
        if isinstance(error, errors.ReadOnlySqlTransaction):
            # This server has become a replica, or its name has come to lead to one: look for another.
            self._pool.avoid(connection)
        if not was_answered(error):
            connection.close_nowait()

    def _require_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("the block of open_requeuest has ended")


def _limits(statement: float, lock: float = math.inf, *, plans_once: bool = False) -> dict[str, str]:
    return {
        "statement_timeout": _milliseconds(statement),
        "lock_timeout": _milliseconds(min(statement / 2, lock)),
        "idle_timeout": _milliseconds(statement * 3),
        "plan_cache_mode": "force_generic_plan" if plans_once else "auto",
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
