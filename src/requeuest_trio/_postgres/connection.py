"""
A psycopg connection that lives in Trio.

Everything psycopg offers on an `AsyncConnection` is inherited; what is replaced is what touches the event loop:
connecting, waiting, locking, cancelling and closing. The rule for cancellation stands in `TrioConnection`.
"""

# ruff: noqa: SLF001, ASYNC109 - the generators, and the timeout arguments, are psycopg's way of being extended.

from __future__ import annotations

import logging
import math
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, TypeVar, cast

import psycopg
import trio
from psycopg import capabilities, pq
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, timeout_from_conninfo
from psycopg.rows import Row, tuple_row

from requeuest_trio._postgres.connecting import Address, Addresses, connection_attempts, first_to_connect
from requeuest_trio._postgres.draining import come_to_rest, dispose_of, request_cancel
from requeuest_trio._postgres.lock import ConnectionLock
from requeuest_trio._postgres.transaction import TrioServerCursor, TrioTransaction
from requeuest_trio._postgres.waiting import SocketWaiter, run_connecting
from requeuest_trio._real_time import move_on_after

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType
    from typing import Self

    from psycopg.abc import AdaptContext, ConnParam, PQGen
    from psycopg.pq.abc import PGconn
    from psycopg.rows import AsyncRowFactory

__all__ = ("SETTLE_TIMEOUT", "TrioConnection")

logger = logging.getLogger("requeuest_trio.postgres")

T = TypeVar("T")

SETTLE_TIMEOUT = 2.0
"""How long, in seconds, a cancelled operation may take to leave its connection in order before that is closed."""

# A cancel request may find the server between two statements, or not having read ours yet: then it has no effect, and
# the next one follows after this many seconds, and the one after that after twice as many.
_CANCEL_AGAIN_AFTER = 0.05

# Of the time for a connection.
_SHARE_OF_LOOKUPS = 1 / 3

_ACTIVE = pq.TransactionStatus.ACTIVE
_IDLE = pq.TransactionStatus.IDLE

# Where the server warns from, in whatever language, that it has told of a commit which the replica may not have.
_WAIT_FOR_REPLICA = "SyncRepWaitForLSN"


class TrioConnection(psycopg.AsyncConnection[Row]):
    """
    A connection to PostgreSQL, used from Trio.

    Use it as psycopg's documentation describes for `psycopg.AsyncConnection`. Every operation that talks to the server
    is a checkpoint. The parts of a COPY, a ``stream()`` or a pipeline notice a cancellation each time, but let other
    tasks run only when they have to wait, or every millisecond.

    Cancellation: in a scope that is cancelled already, nothing is sent. An operation cancelled under way is cancelled
    on the server too, and afterwards the connection is either usable or closed:

    - If `trio.Cancelled` is raised and the connection is open, the statement has had no effect. (Inside a transaction
      that has failed now, as after any error.) If the answer wins the race against the cancel request, it is returned
      as usual, and the cancellation is noticed at the next checkpoint.
    - If the server does not react within `SETTLE_TIMEOUT`, the connection is closed, and whether the statement took
      effect is unknown. A connection interrupted in pipeline mode (``executemany()`` uses it) is closed as well, since
      that is what undoes the part of the batch that was already sent.
    - COMMIT, ROLLBACK and their like are not cancelled, but waited for as long.

    A commit that waits for a synchronous replica is local already, and cancelling the statement only ends the wait. The
    server calls that a success; here `psycopg.OperationalError` is raised, and the connection is closed. The same if
    another session has cancelled the statement.

    A `KeyboardInterrupt` does the same, but it is always raised, and so tells nothing about the statement.

    Example::

        async with await TrioConnection.connect("postgresql:///app") as conn:
            async with conn.transaction():
                await conn.execute("insert into note (text) values (%s)", ["hello"])
    """

    def __init__(self, pgconn: PGconn, row_factory: AsyncRowFactory[Row] | None = None) -> None:
        super().__init__(pgconn, row_factory or cast("AsyncRowFactory[Row]", tuple_row))
        # psycopg only ever says ``async with`` to it.
        self.lock: ConnectionLock = ConnectionLock()  # type: ignore[assignment]
        self.server_cursor_factory: type[psycopg.AsyncServerCursor[Row]] = TrioServerCursor
        self._waiter = SocketWaiter(pgconn)
        self._is_unconfirmed = False
        self.address: Address = ()
        """Which of several it leads to."""
        self.add_notice_handler(self._note)

    def _note(self, warning: psycopg.errors.Diagnostic) -> None:
        if warning.source_function == _WAIT_FOR_REPLICA:
            self._is_unconfirmed = True

    @classmethod
    async def connect(  # type: ignore[override]  # two arguments more, which libpq has no parameters for
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[Row]] | None = None,
        within: float = math.inf,
        addresses: Addresses | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """
        Connect to a database server.

        Several hosts, and several addresses of a host, are tried in turn. ``connect_timeout`` (whole seconds, at least
        2, by default 130) applies to each attempt and to each name lookup. With ``within``, in seconds, each attempt
        has besides an equal share of what is left of that; and ``addresses`` remembers from one connection to the next
        which of them have failed.

        Raises:
          psycopg.OperationalError: no attempt succeeded. With more than one, the text lists them all.
          psycopg.ProgrammingError: ``conninfo`` cannot be understood.

        Cancellation: nothing is left open.
        """
        params = conninfo_to_dict(conninfo, **kwargs)
        timeout = timeout_from_conninfo(params)
        deadline = monotonic() + within
        if addresses is None:
            addresses = Addresses()
        lookup_timeout = min(timeout, within * _SHARE_OF_LOOKUPS)
        attempts, unresolved = await connection_attempts(params, lookup_timeout, addresses)
        left = deadline - monotonic()
        conn, address = await first_to_connect(cls._connect_gen, attempts, unresolved, timeout, left, addresses)
        conn.address = address
        conn._autocommit = bool(autocommit)
        conn.prepare_threshold = prepare_threshold
        if row_factory:
            conn.row_factory = row_factory
        if cursor_factory:
            conn.cursor_factory = cursor_factory
        if context:
            conn._adapters = AdaptersMap(context.adapters)
        return conn

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Commit, or roll back after an exception, and close the connection, in a cancelled scope too.

        Raises:
          psycopg.OperationalError: the connection was lost, and with it a transaction that should be committed.
        """
        try:
            if exc is not None:
                await self.reset()
            elif not self.closed or (self.broken and not self.autocommit):
                await self.commit()
        finally:
            self.close_nowait()

    async def close(self) -> None:
        """
        Close the connection. A task in the middle of an operation on it gets `psycopg.OperationalError`.

        Cancellation: the connection is closed in any case.
        """
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """
        Do what `close` does, under the name Trio uses.

        Cancellation: the connection is closed in any case.
        """
        await self.close()

    def close_nowait(self) -> None:
        """Do what `close` does, without a checkpoint."""
        if not self.closed:
            self._closed = True
            self._release()

    def abandon(self, reason: str) -> None:
        """Close the connection at once because its state is in doubt; it counts as ``broken`` afterwards."""
        if not self.closed:
            logger.warning("connection closed: %s: %r", reason, self)
            self._release()

    def _release(self) -> None:
        # libpq closes the socket without Trio's knowledge, and a task waiting for it would wait for ever.
        with suppress(psycopg.OperationalError):  # it has no socket any more
            trio.lowlevel.notify_closing(self.pgconn.socket)
        self.pgconn.finish()

    # -- waiting, and what follows when it is interrupted

    async def wait(self, gen: PQGen[T], interval: float | None = None, timeout: float | None = None) -> T:
        """
        Run one of psycopg's generators; every operation of psycopg comes through here.

        Args:
          gen: the generator.
          interval: resume the generator with nothing after so many seconds in which the socket was not ready (older
            psycopg relies on it in ``notifies()``). Without it there are no idle wake-ups.
          timeout: raise psycopg's internal timeout error after so many seconds, having looked at the socket once.
        """
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            gen.close()
            await self._settle(None)  # this was to be a step of a longer operation, such as COPY, which ends here
            raise
        try:
            if timeout is None:
                value = await self._waiter.run(gen, interval=interval)
            else:
                value = await self._run_within(timeout, gen)
        except (psycopg.Error, trio.BusyResourceError):
            raise  # psycopg deals with its own errors, and a socket another task waits for is not ours to settle
        except BaseException as interruption:
            outcome = await self._settle(gen)
            if outcome is None or not isinstance(interruption, trio.Cancelled):
                raise
            (value,) = outcome
        self._require_confirmed()
        if not self._waiter.waited:
            await self._waiter.end_turn(at_once=self.pgconn.transaction_status != _ACTIVE)
        return value

    async def finish(self, gen: PQGen[T]) -> T:
        """
        Run a generator that must not be broken off, such as that of a COMMIT. The lock must be held.

        Cancellation: it gets `SETTLE_TIMEOUT` to finish, and the cancellation waits for the next checkpoint. If it does
        not finish, the connection is closed.
        """
        try:
            value = await self._waiter.run(gen)
        except (psycopg.Error, trio.BusyResourceError):
            raise
        except BaseException as interruption:
            outcome: tuple[T] | None = None
            try:
                with move_on_after(SETTLE_TIMEOUT, shield=True):
                    outcome = (await self._waiter.run(gen, has_begun=True),)
            finally:
                if self.pgconn.transaction_status == _ACTIVE:
                    self.abandon("the server did not answer in time")
                dispose_of(gen)
            if outcome is None or not isinstance(interruption, trio.Cancelled):
                raise
            (value,) = outcome
        self._require_confirmed()
        if not self._waiter.waited:
            await self._waiter.end_turn(at_once=True)
        return value

    def _require_confirmed(self) -> None:
        if self._is_unconfirmed:
            self.abandon("the wait for a synchronous replica was broken off")
            raise psycopg.OperationalError("committed, but the wait for a synchronous replica was broken off")

    async def _run_within(self, timeout: float, gen: PQGen[T]) -> T:
        with trio.move_on_after(timeout):
            return await self._waiter.run(gen, try_first=True)
        await self._settle(None)
        raise psycopg.errors._WaitTimeout("wait timeout expired")

    async def _settle(self, gen: PQGen[T] | None) -> tuple[T] | None:
        """
        Make an interrupted connection usable, or close it, within `SETTLE_TIMEOUT` and whatever scope is cancelled.

        Return the value of the operation, in a tuple, if it came to its end nevertheless.
        """
        outcome: tuple[T] | None = None
        if self.pgconn.transaction_status != _ACTIVE:  # it waited for a notification, or has lost its connection
            dispose_of(gen)
            return None
        try:
            with move_on_after(SETTLE_TIMEOUT, shield=True):
                if self.pgconn.pipeline_status:
                    await self._request_cancel()
                else:
                    outcome = await self._run_cancelled(come_to_rest(self.pgconn, gen))
        except psycopg.Error as error:
            logger.debug("connection lost during a cancellation: %s", error)
        finally:
            # psycopg believes a two-phase command has worked as soon as it is sent, so after a failure it is confused.
            if self.pgconn.transaction_status == _ACTIVE or (self._tpc and outcome is None):
                self.abandon("it could not be put in order after a cancellation")
            dispose_of(gen)
        return outcome

    async def _run_cancelled(self, gen: PQGen[T]) -> T:
        """Run a generator to its end while asking the server to cancel, again and again."""
        patience = _CANCEL_AGAIN_AFTER
        has_begun = False
        while True:
            # Always to the end of the request: one still on its way could hit the connection's next statement.
            await self._request_cancel()
            with move_on_after(patience):
                return await self._waiter.run(gen, has_begun=has_begun)
            has_begun = True
            patience *= 2

    async def _request_cancel(self) -> None:
        try:
            await self.cancel_safe(timeout=0)
        except psycopg.Error as error:
            logger.debug("cancel request failed: %s", error)

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """
        Ask the server to cancel the operation in progress, over a connection of its own.

        Args:
          timeout: in seconds; 0 for none.

        Raises:
          psycopg.errors.CancellationTimeout: the request was not acknowledged in time.
          psycopg.OperationalError: the server can't be reached.

        Guarantee: the server has got the request. The operation may have ended before.

        Cancellation: whether the server gets the request is unknown.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._should_cancel():
            return
        with move_on_after(timeout or float("inf")):
            if capabilities.has_cancel_safe():
                await run_connecting(request_cancel(self.pgconn))
            else:
                await trio.to_thread.run_sync(self.pgconn.get_cancel().cancel, abandon_on_cancel=True)
            return
        raise psycopg.errors.CancellationTimeout("cancellation timeout expired")

    async def _try_cancel(self, *, timeout: float = SETTLE_TIMEOUT) -> None:
        """Cancel what is in progress; psycopg's way out of ``stream()`` and COPY, taken in cancelled scopes too."""
        with move_on_after(min(timeout, SETTLE_TIMEOUT), shield=True) as scope:
            await self._request_cancel()
        if scope.cancelled_caught:
            self.abandon("a cancel request got no answer")

    # -- transactions

    async def commit(self) -> None:
        """
        Commit the transaction in progress.

        Raises:
          psycopg.Error: the commit failed; after an ``OperationalError`` it is unknown whether it happened.

        Cancellation: in a scope that is cancelled already, nothing is sent. Later, the commit is waited for, for up to
        `SETTLE_TIMEOUT`; then the connection is closed.
        """
        async with self.lock:
            await trio.lowlevel.checkpoint_if_cancelled()
            await self.finish(self._commit_gen())

    async def rollback(self) -> None:
        """
        Roll back the transaction in progress.

        Cancellation: it is rolled back nevertheless, or the connection is closed, unless another task has the lock.
        """
        async with self.lock:
            await self.finish(self._rollback_gen())
        await trio.lowlevel.checkpoint_if_cancelled()

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncGenerator[TrioTransaction]:
        """
        Open a transaction, or a savepoint inside one, for the length of a block. See `TrioTransaction`.

        Args:
          savepoint_name: chosen by itself if not given.
          force_rollback: roll back at the end of the block even without an error.

        Guarantee: when the block has ended normally, the transaction is committed, unless ``force_rollback``.

        Cancellation: before the end of the block it is rolled back; a commit that has begun is waited for.
        """
        tx = TrioTransaction(self, savepoint_name, force_rollback)
        if self._pipeline:
            async with self.pipeline(), tx, self.pipeline():
                yield tx
        else:
            async with tx:
                yield tx

    # -- for the pool

    async def ping(self) -> None:
        """
        Make sure that the server answers, without opening a transaction.

        Raises:
          psycopg.OperationalError: it does not.

        Cancellation: the connection is closed at once. What does not answer in time is not worth more waiting.
        """
        async with self.lock:
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                await self._waiter.run(self._exec_command(b"SELECT 1"))
            finally:
                if self.pgconn.transaction_status == _ACTIVE:
                    self.abandon("no answer to a ping")

    def needs_reset(self) -> bool:
        """Whether somebody else could not use the connection just as it is."""
        return self.pgconn.transaction_status != _IDLE or self.lock.locked() or bool(self.pgconn.pipeline_status)

    def has_news(self) -> bool:
        """Whether the server has sent something unasked: a notification, or that it has closed the connection."""
        return self._waiter.readable()

    async def reset(self) -> None:
        """
        Leave the connection outside any transaction, or closed, within `SETTLE_TIMEOUT`.

        Cancellation: the same.
        """
        if self.closed:
            return
        if self.lock.locked() or self.pgconn.transaction_status == _ACTIVE or self.pgconn.pipeline_status:
            self.abandon("it was returned in the middle of an operation")
        elif self.pgconn.transaction_status != _IDLE:
            try:
                with move_on_after(SETTLE_TIMEOUT, shield=True):
                    await self._waiter.run(self._rollback_gen())
            except psycopg.Error as error:
                logger.debug("rollback failed: %s", error)
            finally:
                if self.pgconn.transaction_status != _IDLE:
                    self.abandon("it was returned in a transaction that could not be rolled back")
