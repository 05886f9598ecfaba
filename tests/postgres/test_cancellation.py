"""The cancellation rule where the storm does not reach: dead networks, dead servers, other tasks, Ctrl-C."""

# ruff: noqa: PT012 - leaving a block by an error is what is tested

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import psycopg
import pytest
import trio
from psycopg import capabilities

from requeuest_trio._postgres import SETTLE_TIMEOUT, connection
from tests.postgres.harness import (
    IDLE,
    INERROR,
    INTRANS,
    AtCheckpoint,
    Conn,
    assert_usable,
    connect,
    is_running,
    open_fds,
    stream,
    terminate,
    until_at_rest,
    until_gone,
    until_running,
    value,
)
from tests.proxy import Proxy

SOON = 0.3


@pytest.fixture
def short_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a server after 0.3 seconds, so that the test need not wait for two."""
    monkeypatch.setattr(connection, "SETTLE_TIMEOUT", SOON)


@asynccontextmanager
async def cancelled_once_it_runs(conn: Conn, observer: Conn) -> AsyncIterator[trio.CancelScope]:
    """The block, which sleeps in the server, is cancelled once it does."""

    async def cancel(scope: trio.CancelScope) -> None:
        await until_running(observer, conn.info.backend_pid, "pg_sleep")
        scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel, scope)
            yield scope


async def test_a_slow_query_is_cancelled_on_the_server_at_once(conn: Conn, observer: Conn) -> None:
    pid = conn.info.backend_pid
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.execute, "select pg_sleep(60)")
        await until_running(observer, pid, "pg_sleep")
        nursery.cancel_scope.cancel()
        started = trio.current_time()
    assert trio.current_time() - started < SETTLE_TIMEOUT
    assert not await is_running(observer, pid)
    await assert_usable(conn)


async def test_a_server_that_stands_still_while_much_is_sent_is_asked_again(
    conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the socket takes: what is left is sent between one request to cancel and the next."""
    pid, asked, cancel = conn.info.backend_pid, 0, conn.cancel_safe

    async def cancel_and_count(*, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - as its original
        nonlocal asked
        await cancel(timeout=timeout)
        asked += 1
        if asked == 3:
            os.kill(pid, signal.SIGCONT)

    monkeypatch.setattr(conn, "cancel_safe", cancel_and_count)
    os.kill(pid, signal.SIGSTOP)
    try:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(conn.execute, "select length(%s::text)", ["x" * (4 << 20)])
                await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert asked >= 3
    await assert_usable(conn)


async def test_in_a_cancelled_scope_nothing_is_sent(conn: Conn, observer: Conn) -> None:
    await conn.execute("select 'the last thing sent'")
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn.execute("select 1")
    assert scope.cancelled_caught
    last = "select query from pg_stat_activity where pid = %s"
    assert await value(observer, last, conn.info.backend_pid) == "select 'the last thing sent'"
    await assert_usable(conn)


async def test_inside_a_transaction_it_leaves_a_failed_transaction(conn: Conn, observer: Conn) -> None:
    with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="rolled back"):
        async with conn.transaction():
            async with cancelled_once_it_runs(conn, observer):
                await conn.execute("select pg_sleep(60)")
            assert conn.info.transaction_status == INERROR
    await assert_usable(conn)


async def test_inside_a_savepoint_only_the_savepoint_fails(conn: Conn) -> None:
    await conn.execute("create table t (a int)")
    async with conn.transaction():
        await conn.execute("insert into t values (1)")
        with trio.CancelScope() as scope:
            async with conn.transaction():
                await conn.execute("insert into t values (2)")
                scope.cancel()
                await trio.sleep_forever()
    assert await value(conn, "select sum(a) from t") == 1


async def test_an_error_caught_inside_a_transaction_is_not_passed_over(conn: Conn) -> None:
    """COMMIT of a failed transaction is a ROLLBACK, and PostgreSQL does not call that an error. We do."""
    await conn.execute("create table t (a int)")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        async with conn.transaction():
            await conn.execute("insert into t values (1)")
            with suppress(psycopg.Error):
                await conn.execute("select 1/0")
    await assert_usable(conn)
    async with conn.transaction(force_rollback=True):
        with suppress(psycopg.Error):
            await conn.execute("select 1/0")
    await assert_usable(conn)


async def test_a_transaction_whose_connection_was_lost_is_not_passed_over(conn: Conn, observer: Conn) -> None:
    with pytest.raises(psycopg.OperationalError, match="lost before"):
        async with conn.transaction():
            await terminate(observer, conn.info.backend_pid)
            with suppress(psycopg.Error):
                await conn.execute("select 1")
    assert conn.broken


async def test_a_connection_block_whose_connection_was_lost_is_not_passed_over(dsn: str, observer: Conn) -> None:
    with pytest.raises(psycopg.OperationalError, match="lost"):
        async with await connect(dsn, autocommit=False) as conn:
            await conn.execute("select 1")
            await terminate(observer, conn.info.backend_pid)
            with suppress(psycopg.Error):
                await conn.execute("select 1")


async def test_waiting_for_the_lock_is_cancelled_without_a_trace(conn: Conn, observer: Conn) -> None:
    await observer.execute("select pg_advisory_lock(1)")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.execute, "select pg_advisory_lock(1)")
        await until_running(observer, conn.info.backend_pid, "pg_advisory_lock")
        with trio.move_on_after(0.01) as scope:
            await conn.execute("select 1")
        assert scope.cancelled_caught
        assert await is_running(observer, conn.info.backend_pid)
        await observer.execute("select pg_advisory_unlock(1)")
    await assert_usable(conn)


async def test_a_transaction_that_cannot_get_the_lock_to_roll_back_closes_the_connection(
    conn: Conn, observer: Conn
) -> None:
    failures: list[psycopg.Error] = []

    async def outliving() -> None:
        try:
            await conn.execute("select pg_sleep(60)")
        except psycopg.Error as error:
            failures.append(error)

    pid = conn.info.backend_pid
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with conn.transaction():
                nursery.start_soon(outliving)
                await until_running(observer, pid, "pg_sleep")
                scope.cancel()
        assert conn.closed
    assert isinstance(failures[0], psycopg.OperationalError)
    await observer.execute("select pg_terminate_backend(%s)", [pid])


async def test_a_cancel_request_that_came_to_nothing_is_repeated(
    conn: Conn, observer: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does between two statements of one operation, or when it overtakes the query."""
    requests = 0
    real_request = conn._request_cancel

    async def request_cancel() -> None:
        nonlocal requests
        requests += 1
        if requests > 2:
            await real_request()

    monkeypatch.setattr(conn, "_request_cancel", request_cancel)
    async with cancelled_once_it_runs(conn, observer):
        await conn.execute("select pg_sleep(60)")
    assert requests == 3
    await assert_usable(conn)


async def test_the_answer_counts_if_it_is_faster_than_the_cancel_request(
    conn: Conn, observer: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conn, "_request_cancel", trio.lowlevel.checkpoint)
    async with cancelled_once_it_runs(conn, observer) as scope:
        cursor = await conn.execute("select 7 from pg_sleep(0.5)")
        assert await cursor.fetchone() == (7,)
    assert not scope.cancelled_caught
    assert scope.cancel_called


async def test_libpq_before_17_cancels_in_a_thread(conn: Conn, observer: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "has_cancel_safe", lambda: False)
    async with cancelled_once_it_runs(conn, observer) as scope:
        await conn.execute("select pg_sleep(60)")
    assert scope.cancelled_caught
    assert not await is_running(observer, conn.info.backend_pid)
    await assert_usable(conn)


async def test_cancel_safe_from_another_task(conn: Conn, observer: Conn) -> None:
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def query() -> None:
            with pytest.raises(psycopg.errors.QueryCanceled):
                await conn.execute("select pg_sleep(60)")

        await until_running(observer, conn.info.backend_pid, "pg_sleep")
        await conn.cancel_safe()
    await assert_usable(conn)
    await conn.close()
    await conn.cancel_safe()


async def test_cancel_safe_times_out(dsn: str, proxy: Proxy) -> None:
    async with await connect(proxy.dsn) as conn:
        proxy.freeze()
        with pytest.raises(psycopg.errors.CancellationTimeout):
            await conn.cancel_safe(timeout=0.1)
        proxy.thaw()


class TestFrozenNetwork:
    """The server cannot be reached, for cancelling neither: after a short while the connection is closed."""

    pytestmark = pytest.mark.usefixtures("short_settling")

    async def give_up(self, proxy: Proxy, conn: Conn, operation: Callable[[], Awaitable[object]]) -> None:
        """Cancel the operation soon after the network has frozen: before it began, or in the midst of it."""

        async def cancel() -> None:
            await proxy.has_frozen.wait()
            scope.deadline = trio.current_time() + 0.05

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                await operation()
        assert scope.cancelled_caught
        assert trio.current_time() < scope.deadline + SOON * 2 + 1
        assert conn.closed
        assert conn.broken

    async def test_query(self, dsn: str, proxy: Proxy) -> None:
        conn = await connect(proxy.dsn)
        proxy.freeze()
        await self.give_up(proxy, conn, partial(conn.execute, "select 1"))

    async def test_commit(self, dsn: str, proxy: Proxy) -> None:
        conn = await connect(proxy.dsn, autocommit=False)
        await conn.execute("select 1")
        proxy.freeze()
        await self.give_up(proxy, conn, conn.commit)

    async def test_rollback(self, dsn: str, proxy: Proxy) -> None:
        conn = await connect(proxy.dsn, autocommit=False)
        await conn.execute("select 1")
        proxy.freeze()
        await self.give_up(proxy, conn, conn.rollback)

    async def test_transaction(self, dsn: str, proxy: Proxy) -> None:
        conn = await connect(proxy.dsn)

        async def transact() -> None:
            async with conn.transaction():
                await conn.execute("select 1")
                proxy.freeze()
                await trio.sleep_forever()

        await self.give_up(proxy, conn, transact)

    async def test_copy_in(self, dsn: str, proxy: Proxy) -> None:
        conn = await connect(proxy.dsn)
        await conn.execute("create temp table t (a int)")

        async def copy_in() -> None:
            async with conn.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
                proxy.freeze()
                while True:
                    await copy.write("1\n" * 100_000)

        await self.give_up(proxy, conn, copy_in)

    async def test_large_query_that_cannot_be_sent(self, dsn: str, proxy: Proxy) -> None:
        conn = await connect(proxy.dsn)
        proxy.freeze()
        await self.give_up(proxy, conn, partial(conn.execute, "select length(%s)", ["x" * (32 << 20)]))

    async def test_executemany(self, dsn: str, proxy: Proxy) -> None:
        conn = await connect(proxy.dsn)
        proxy.freeze()
        await self.give_up(proxy, conn, partial(conn.cursor().executemany, "select %s", [(n,) for n in range(10)]))

    async def test_stream_left_early(self, dsn: str, proxy: Proxy) -> None:
        """No scope is cancelled here: leaving a stream asks the server to stop, and that request has its own limit."""
        conn = await connect(proxy.dsn)
        rows = stream(conn.cursor(), "select generate_series(1, 10000000)")
        await anext(rows)
        proxy.freeze()
        with trio.fail_after(SOON + 1):
            await rows.aclose()
        assert conn.closed

    async def test_reset(self, dsn: str, proxy: Proxy) -> None:
        conn = await connect(proxy.dsn, autocommit=False)
        await conn.execute("select 1")
        proxy.freeze()
        with trio.fail_after(SOON + 1):
            await conn.reset()
        assert conn.closed

    async def test_notifications_need_no_server_to_be_cancelled(self, dsn: str, proxy: Proxy) -> None:
        conn = await connect(proxy.dsn)
        await conn.execute("listen topic")
        proxy.freeze()
        notifications = conn.notifies()
        with trio.move_on_after(0.05):
            await anext(notifications)
        await notifications.aclose()
        proxy.thaw()
        await assert_usable(conn)
        await conn.close()


async def test_connection_cut_during_a_query(dsn: str, proxy: Proxy, observer: Conn) -> None:
    conn = await connect(proxy.dsn)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def query() -> None:
            with pytest.raises(psycopg.OperationalError):
                await conn.execute("select pg_sleep(60)")

        await until_running(observer, conn.info.backend_pid, "pg_sleep")
        pid = conn.info.backend_pid
        proxy.cut()
    assert conn.closed
    await observer.execute("select pg_terminate_backend(%s)", [pid])


@pytest.mark.parametrize("query", ["select pg_sleep(60)", "listen topic"])
async def test_server_process_killed(dsn: str, observer: Conn, query: str) -> None:
    fds = open_fds()
    conn = await connect(dsn)
    pid = conn.info.backend_pid

    async def use() -> None:
        with pytest.raises(psycopg.OperationalError):
            await conn.execute(query.encode())
            async for _ in conn.notifies():
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await terminate(observer, pid)
    assert conn.closed
    assert conn.broken
    assert open_fds() == fds


async def test_closing_wakes_a_task_that_waits_on_the_connection(dsn: str, observer: Conn) -> None:
    """libpq closes the socket by itself: without `notify_closing`, the task would wait for ever."""
    conn = await connect(dsn)
    pid = conn.info.backend_pid
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def use() -> None:
                with pytest.raises(psycopg.OperationalError, match="closed"):
                    await conn.execute("select pg_sleep(60)")

            await until_running(observer, pid, "pg_sleep")
            await conn.close()
    assert conn.closed
    assert not conn.broken
    await observer.execute("select pg_terminate_backend(%s)", [pid])


async def test_closing_in_a_cancelled_scope_closes(dsn: str) -> None:
    conn = await connect(dsn)
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn.aclose()
    assert scope.cancelled_caught
    assert conn.closed


async def test_leaving_the_connection_block_in_a_cancelled_scope(dsn: str, observer: Conn) -> None:
    """It is closed and rolled back, whether an exception or the cancellation leaves the block."""
    await observer.execute("create table t (a int)")
    with trio.CancelScope() as scope:
        async with await connect(dsn, autocommit=False) as conn:
            await conn.execute("insert into t values (1)")
            scope.cancel()
    assert scope.cancelled_caught
    assert conn.closed
    with pytest.raises(KeyError), trio.CancelScope() as scope:
        async with await connect(dsn, autocommit=False) as conn:
            await conn.execute("insert into t values (1)")
            scope.cancel()
            raise KeyError
    assert conn.closed
    assert await value(observer, "select count(*) from t") == 0


async def test_rolling_back_in_a_cancelled_scope_rolls_back(dsn: str) -> None:
    async with await connect(dsn, autocommit=False) as conn:
        await conn.execute("select 1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await conn.rollback()
        assert scope.cancelled_caught
        assert conn.info.transaction_status == IDLE


async def test_locks_are_gone_when_a_cancelled_transaction_block_has_been_left(conn: Conn, observer: Conn) -> None:
    await conn.execute("create table t (a int)")
    with trio.CancelScope() as scope:
        async with conn.transaction():
            await conn.execute("lock table t")
            assert conn.info.transaction_status == INTRANS
            scope.cancel()
            await trio.sleep_forever()
    async with observer.transaction():
        await observer.execute("lock table t nowait")


# -- Ctrl-C: Trio raises KeyboardInterrupt in the main task, at its next checkpoint


async def _query(conn: Conn) -> None:
    await conn.execute("select pg_sleep(0.01)")


async def _transaction(conn: Conn) -> None:
    async with conn.transaction():
        await conn.execute("insert into t values (1)")


async def _copy(conn: Conn) -> None:
    async with conn.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
        for _ in range(3):
            await copy.write("1\n" * 50_000)


async def _executemany(conn: Conn) -> None:
    async with conn.cursor() as cursor:
        await cursor.executemany("insert into t values (%s)", [(n,) for n in range(100)])


@pytest.mark.parametrize("operation", [_query, _transaction, _copy, _executemany])
@pytest.mark.parametrize("again", [False, True], ids=["once", "and again at every following step"])
def test_keyboard_interrupt_at_every_checkpoint(
    dsn: str, operation: Callable[[Conn], Awaitable[None]], again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second Ctrl-C, during the cleanup, closes the connection if need be; neither hangs."""
    interrupt = partial(signal.raise_signal, signal.SIGINT)

    async def interrupted_at(k: int) -> bool:
        async with await connect(dsn) as observer:
            await observer.execute("create table if not exists t (a int)")
            conn = await connect(dsn)
            pid = conn.info.backend_pid
            interrupted = False
            with trio.fail_after(10):
                try:
                    with AtCheckpoint(k, interrupt, again=again):
                        await operation(conn)
                    await trio.lowlevel.checkpoint()  # to which an interrupt at the very end is put off
                except KeyboardInterrupt:
                    interrupted = True
                except psycopg.OperationalError:
                    # psycopg before 3.3.9 lets its own error from ending a COPY hide what ended it.
                    if operation is not _copy:
                        raise
                    interrupted = True
                with suppress(KeyboardInterrupt):
                    await trio.lowlevel.checkpoint()
                with suppress(KeyboardInterrupt):
                    await trio.lowlevel.checkpoint()
            if conn.closed:
                await (until_gone if not again else until_at_rest)(observer, pid)
            else:
                await assert_usable(conn)
                await conn.close()
            return interrupted

    k = 1
    while trio.run(interrupted_at, k):
        k += 1
        assert k < 200
    assert k > 1
