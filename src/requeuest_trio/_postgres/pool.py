"""A bounded set of connections that survives outages of the database. It has no task of its own."""

# ruff: noqa: ASYNC109 - borrowing has a timeout of its own, because its error says what connecting failed of.

from __future__ import annotations

import logging
import random
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
import trio

from requeuest_trio._model.backoff import Backoff
from requeuest_trio._postgres.connection import SETTLE_TIMEOUT, TrioConnection
from requeuest_trio._postgres.forgetting import forget_news, forget_options
from requeuest_trio._postgres.route import Route
from requeuest_trio._real_time import move_on_after, move_on_at

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from types import TracebackType
    from typing import Self

__all__ = ("ConnectionPool", "PoolStatistics", "PoolTimeout")

logger = logging.getLogger("requeuest_trio.postgres")

Connection: TypeAlias = TrioConnection[tuple[Any, ...]]


class PoolTimeout(psycopg.OperationalError):
    """No connection was to be had in time. If connecting had failed, the last such error is the ``__cause__``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """
    A snapshot of a pool.

    Attributes:
      max_size: how many connections there may be.
      size: how many there are, idle or in use.
      idle: how many wait for somebody to use them.
      in_use: how many are lent out.
      waiting: how many tasks wait for one, including those that connect just now.
      connects: how many connections have been made so far.
      connect_failures: how many attempts to make one have failed so far.
      failures_in_a_row: how many of these since the last success; above 0, the pool is backing off.
      discarded: how many connections have been found broken, or were too old, and were closed.
      closed: whether the pool is closed.
    """

    max_size: int
    size: int
    idle: int
    in_use: int
    waiting: int
    connects: int
    connect_failures: int
    failures_in_a_row: int
    discarded: int
    closed: bool


@dataclass(frozen=True, slots=True)
class _Idle:
    connection: Connection
    since: float


class ConnectionPool:
    """
    Lends out connections, at most ``max_size`` at once, first come, first served.

    It connects when somebody needs a connection, and not before. After a failure to connect it tries again by itself,
    one attempt at a time for all who wait, with growing pauses, until a caller's patience is over. With
    ``max_size=1`` it is also what a task with one long-lived connection needs.

    Args:
      route: the way to the database, or just its connection string.
      max_size: the most connections at once.
      configure: called with each new connection, before anybody else gets it, such as for setting session parameters;
        and with one that is to start over.
      connect_timeout: seconds for connecting and for ``configure`` together, and for the answer to a health check.
      acquire_timeout: seconds that `connection` waits unless it is told otherwise; `math.inf` waits for ever.
      check_after: a connection that was idle for so many seconds is asked whether it still works before it is lent out.
        One that was idle for less is only looked at: that costs no round trip, and finds what the server has closed.
      max_idle: seconds after which an idle connection is closed, at the next occasion that somebody uses the pool.
      autocommit: whether the connections start in autocommit mode.
      prepare_threshold: as in `TrioConnection.connect`.
      backoff: the pauses after failures to connect.
      random: where their jitter comes from, a source of numbers in [0, 1).

    Example::

        async with ConnectionPool("postgresql:///app", max_size=4) as pool:
            async with pool.connection(timeout=5.0) as conn:
                await conn.execute("select 1")
    """

    def __init__(
        self,
        route: Route | str,
        *,
        max_size: int,
        configure: Callable[[Connection], Awaitable[None]] | None = None,
        connect_timeout: float = 10.0,
        acquire_timeout: float = 30.0,
        check_after: float = 30.0,
        max_idle: float = 300.0,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        backoff: Backoff = Backoff(),  # noqa: B008  # a frozen value
        random: Callable[[], float] = random.random,
    ) -> None:
        if max_size < 1:
            raise ValueError(f"max_size is less than 1: {max_size}")
        self._route = Route(route) if isinstance(route, str) else route
        self._configure = configure
        self._connect_timeout = connect_timeout
        self._acquire_timeout = acquire_timeout
        self._check_after = check_after
        self._max_idle = max_idle
        self._autocommit = autocommit
        self._prepare_threshold = prepare_threshold
        self._backoff = backoff
        self._random = random

        self._configured: tuple[object, ...] = ()  # the settings of a connection nobody has used yet
        self._max_size = max_size
        self._places = trio.Semaphore(max_size)
        self._idle: deque[_Idle] = deque()  # the most recently used at the right, which is where they are taken from
        self._in_use: set[Connection] = set()
        self._acquiring: set[trio.CancelScope] = set()
        self._closed = False

        self._returned = trio.lowlevel.ParkingLot()  # for who waits until a connection comes back
        self._one_at_a_time = trio.Lock()  # held for each attempt to connect during an outage
        self._failures = 0
        self._next_attempt = 0.0
        self._last_error: psycopg.Error | None = None
        self._connects = self._connect_failures = self._discarded = 0

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return (
            f"<{type(self).__qualname__} {state}, {len(self._idle)} idle, {len(self._in_use)} in use, "
            f"{len(self._acquiring)} waiting, at most {self._max_size}>"
        )

    def statistics(self) -> PoolStatistics:
        """Return a snapshot of the pool's state."""
        return PoolStatistics(
            max_size=self._max_size,
            size=len(self._idle) + len(self._in_use),
            idle=len(self._idle),
            in_use=len(self._in_use),
            waiting=len(self._acquiring),
            connects=self._connects,
            connect_failures=self._connect_failures,
            failures_in_a_row=self._failures,
            discarded=self._discarded,
            closed=self._closed,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        Close the pool with all its connections, at once.

        Whoever waits for one gets `trio.ClosedResourceError`, whoever is using one `psycopg.OperationalError`.

        Cancellation: the pool is closed in any case.
        """
        self._closed = True
        for scope in self._acquiring:
            scope.cancel()
        while self._idle:
            self._idle.pop().connection.close_nowait()
        for conn in self._in_use:
            conn.close_nowait()
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def connection(self, *, timeout: float | None = None, start_over: bool = False) -> AsyncGenerator[Connection]:
        """
        Borrow a connection for the length of a block.

        A transaction that is still open at the end of the block is rolled back, within `SETTLE_TIMEOUT`. A connection
        that is broken, in the middle of an operation, or no longer has its row factory, autocommit or isolation
        settings, is closed. What was changed by SQL, such as ``SET`` or ``LISTEN``, stays, unless it is to start over.

        Args:
          timeout: seconds to wait for a connection, instead of the pool's ``acquire_timeout``.
          start_over: whether the connection is made as good as new after the block: psycopg forgets what it was told of
            it, and ``configure`` is called once more. If that fails, or takes longer than `SETTLE_TIMEOUT`, the
            connection is closed.

        Raises:
          PoolTimeout: it took too long; the ``__cause__`` is the last error in connecting, if there was one.
          trio.ClosedResourceError: the pool is closed.
          psycopg.Error: an error other than `psycopg.OperationalError` in connecting, which another try would not cure.

        Cancellation: before the block nothing is lost, and the next in the queue is served. In the block it is up to
        the operation; see `TrioConnection`.
        """
        conn = await self.acquire(timeout=timeout)
        try:
            yield conn
        finally:
            await self.give_back(conn, start_over=start_over)

    async def acquire(self, *, timeout: float | None = None) -> Connection:
        """
        Borrow a connection until it is given to `give_back`; as `connection`, for those who can't afford its block.

        No checkpoint, if there is one at hand.
        """
        patience = self._acquire_timeout if timeout is None else timeout
        if self._closed:
            raise trio.ClosedResourceError("the pool is closed")
        if conn := self.take_nowait():
            return conn
        with move_on_after(patience) as scope:
            self._acquiring.add(scope)
            try:
                return await self._take_place_and_connection()
            finally:
                self._acquiring.remove(scope)
        if self._closed:
            raise trio.ClosedResourceError("the pool was closed")
        raise PoolTimeout(f"no connection within {patience:g} s: {self._obstacle()}") from self._last_error

    def _obstacle(self) -> psycopg.Error | str:
        """Why none is to be had."""
        if len(self._in_use) == self._max_size:
            return f"all {self._max_size} are in use"
        return self._last_error or "the server does not answer"

    def take_nowait(self) -> Connection | None:
        """Take the connection used last, if no one waits for it, and it needs no asking; it goes to `give_back`."""
        self._close_expired()
        if not self._places.value or not self._idle or not self._is_fresh(self._idle[-1]):
            return None
        self._places.acquire_nowait()
        conn = self._idle.pop().connection
        self._in_use.add(conn)
        return conn

    async def _take_place_and_connection(self) -> Connection:
        await self._places.acquire()
        try:
            conn = await self._find_idle() or await self._connect_patiently()
        except BaseException:
            self._places.release()
            raise
        self._in_use.add(conn)
        return conn

    async def _find_idle(self) -> Connection | None:
        """Return an idle connection that works, closing those that do not."""
        self._close_expired()
        while self._idle:
            idle = self._idle.pop()
            usable = False
            try:
                if usable := await self._is_usable(idle):
                    return idle.connection
            finally:
                if not usable:
                    self._discard(idle.connection)
        return None

    async def _is_usable(self, idle: _Idle) -> bool:
        conn = idle.connection
        if conn.needs_reset() or self._route.is_in_doubt(conn, idle.since):
            return False
        if self._is_fresh(idle):
            return True
        try:
            with move_on_after(self._connect_timeout):
                await conn.ping()
                return True
        except psycopg.Error:
            pass
        return False

    def _is_fresh(self, idle: _Idle) -> bool:
        """Whether a connection can do without a round trip to find out that it works."""
        if trio.current_time() - idle.since >= self._check_after:
            return False
        conn = idle.connection
        return not (conn.needs_reset() or conn.has_news() or self._route.is_in_doubt(conn, idle.since))

    async def _connect_patiently(self) -> Connection:
        """Connect, however often it takes. During an outage all who wait here share one attempt at a time."""
        if not self._failures and (conn := await self._try_to_connect()):
            return conn
        async with self._one_at_a_time:
            while True:
                if self._failures:
                    with move_on_at(self._next_attempt):
                        await self._returned.park()
                if conn := await self._find_idle() or await self._try_to_connect():
                    return conn

    async def _try_to_connect(self) -> Connection | None:
        failures = self._failures
        try:
            conn = await self._connect()
        except psycopg.OperationalError as error:
            self._failures = max(self._failures, failures + 1)  # attempts that fail side by side are one failure
            self._connect_failures += 1
            self._next_attempt = trio.current_time() + self._backoff.delay(self._failures, self._random)
            self._last_error = error
            return None
        self._failures = 0
        self._connects += 1
        self._last_error = None
        return conn

    async def _connect(self) -> Connection:
        deadline = monotonic() + self._connect_timeout
        conn: Connection = await self._route.connect(
            self._connect_timeout, autocommit=self._autocommit, prepare_threshold=self._prepare_threshold
        )
        with move_on_after(max(0.0, deadline - monotonic())):
            try:
                if self._configure:
                    await self._configure(conn)
                    await conn.commit()
                self._configured = _settings(conn)
                return conn
            except BaseException:
                conn.close_nowait()
                raise
        self._route.avoid(conn)
        raise psycopg.errors.ConnectionTimeout(f"no connection within connect_timeout={self._connect_timeout} s")

    async def give_back(self, conn: Connection, *, start_over: bool = False) -> None:
        """Take back what `acquire` has given. No checkpoint, if it is in order, and need not start over."""
        try:
            if conn.needs_reset():
                await conn.reset()
            if start_over and not conn.closed:
                await self._start_over(conn)
        finally:
            self._in_use.discard(conn)
            self._places.release()
            if self._closed:
                conn.close_nowait()
            elif conn.needs_reset() or _settings(conn) != self._configured:
                self._discard(conn)
            else:
                self._idle.append(_Idle(conn, trio.current_time()))
                self._returned.unpark_all()
            self._close_expired()

    async def _start_over(self, conn: Connection) -> None:
        """Make a connection as good as new, or close it. Cancellation: the same."""
        is_new = False
        try:
            forget_options(conn, self._prepare_threshold)
            with move_on_after(SETTLE_TIMEOUT, shield=True):
                if self._configure:
                    await self._configure(conn)
                    await conn.commit()
                forget_news(conn)
                is_new = True
        except psycopg.Error as error:
            logger.debug("a connection could not start over: %s", error)
        finally:
            if not is_new:
                conn.abandon("it could not start over")

    def avoid(self, conn: Connection) -> None:
        """Make the next connection to another address than this one's, if there is another; see `Route`."""
        self._route.avoid(conn)

    def _close_expired(self) -> None:
        while self._idle and trio.current_time() - self._idle[0].since > self._max_idle:
            self._discard(self._idle.popleft().connection)

    def _discard(self, conn: Connection) -> None:
        conn.close_nowait()
        self._discarded += 1


def _settings(conn: Connection) -> tuple[object, ...]:
    return (
        conn.autocommit,
        conn.row_factory,
        conn.cursor_factory,
        conn.isolation_level,
        conn.read_only,
        conn.deferrable,
    )
