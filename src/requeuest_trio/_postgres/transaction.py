"""Transactions and server-side cursors whose way out also works in a cancelled scope."""

# ruff: noqa: SLF001 - the generators are psycopg's way of being extended.

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import psycopg
import trio
from psycopg import pq
from psycopg.rows import Row

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from requeuest_trio._postgres.connection import TrioConnection

__all__ = ("TrioServerCursor", "TrioTransaction")

logger = logging.getLogger("requeuest_trio.postgres")

_INERROR = pq.TransactionStatus.INERROR


class TrioTransaction(psycopg.AsyncTransaction):
    """
    psycopg's transaction block, with an exit that keeps its word whatever happens.

    psycopg would run the ROLLBACK like any other statement, so that a cancelled scope would cut it off as well and
    leave the transaction open, with its locks. Here:

    - An exception, cancellation included, really rolls back, or else closes the connection.
    - Left normally, the block has been committed. If it cannot be, because an error or a cancellation inside was
      caught, or because the connection was lost, leaving it raises instead of passing over the loss.

    Cancellation: before COMMIT is sent, the transaction is rolled back. From then on the answer is waited for, at most
    `SETTLE_TIMEOUT`, and counts: a success returns normally, and the cancellation is noticed at the next checkpoint. If
    no answer comes, the connection is closed, and only then is the outcome unknown.
    """

    @property
    def _trio_conn(self) -> TrioConnection[Any]:
        return cast("TrioConnection[Any]", self._conn)

    async def __aenter__(self) -> Self:
        async with self._trio_conn.lock:
            if self.status != self.Status.NOT_STARTED:
                raise TypeError("a transaction block can be entered only once")
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                await self._trio_conn.finish(self._enter_gen())
            except BaseException as error:
                await self._leave_locked(error)
                raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if exc is not None or self.force_rollback:
            return await self._leave(exc)
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_committable()
        except BaseException as obstacle:
            await self._leave(obstacle)
            raise
        return await self._leave(None)

    def _check_committable(self) -> None:
        """Raise where psycopg would pass over it: nothing sent to a dead connection, COMMIT of a failed transaction."""
        if self.pgconn.status != pq.ConnStatus.OK:
            raise psycopg.OperationalError("the connection was lost before the transaction could be committed")
        if self._outer_transaction and self.pgconn.transaction_status == _INERROR:
            raise psycopg.errors.InFailedSqlTransaction("a statement failed, so the transaction was rolled back")

    async def _leave(self, error: BaseException | None) -> bool:
        try:
            async with self._trio_conn.lock:
                return await self._leave_locked(error)
        except BaseException:
            if self.status == self.Status.ACTIVE:  # cancelled while another task had the lock: nothing was sent
                self._trio_conn.abandon("its transaction could not be ended")
            raise

    async def _leave_locked(self, error: BaseException | None) -> bool:
        conn = self._trio_conn
        if self.pgconn.status != pq.ConnStatus.OK:
            self.status = self.Status.FAILED
            return False
        handled = await conn.finish(self._exit_gen(None if error is None else type(error), error, None))
        if conn._pipeline:  # the command is only queued: make it happen now, since a cancelled pipeline never would
            try:
                await conn.finish(conn._pipeline._sync_gen())
            except psycopg.Error as failure:
                if error is None:
                    raise
                logger.warning("error ignored in rollback of %r: %s", self, failure)
        return handled


class TrioServerCursor(psycopg.AsyncServerCursor[Row]):
    """psycopg's named cursor, which is also closed on the server when its scope is cancelled."""

    async def close(self) -> None:
        """Close the cursor; in a cancelled scope too, as long as the server answers within `SETTLE_TIMEOUT`."""
        conn = cast("TrioConnection[Any]", self._conn)
        try:
            async with conn.lock:
                if not self.closed and not conn.closed:
                    await conn.finish(self._close_gen())
        finally:
            self._close()
