"""The pool: bounded, fair, healthy, honest about outages, and closed when it is closed."""

# ruff: noqa: PT012 - leaving a block by an error is what is tested

import math
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
import trio
from psycopg.rows import dict_row

from requeuest_trio._model.backoff import Backoff
from requeuest_trio._postgres import ConnectionPool, PoolTimeout, TrioConnection
from tests.postgres.harness import (
    IDLE,
    INTRANS,
    AtCheckpoint,
    Conn,
    is_alive,
    open_fds,
    stream,
    terminate,
    until_at_rest,
    until_gone,
    value,
)
from tests.proxy import Proxy
from tests.waiting import until

QUICK = Backoff(initial=0.01, cap=0.05)


def make_pool(dsn: str, **options: Any) -> ConnectionPool:
    return ConnectionPool(dsn, **{"max_size": 2, "autocommit": True, "backoff": QUICK, **options})


async def test_it_connects_only_when_needed_and_reuses(dsn: str) -> None:
    async with make_pool(dsn) as pool:
        assert pool.statistics().size == 0
        async with pool.connection() as first:
            assert pool.statistics().in_use == 1
        async with pool.connection() as second:
            assert second is first
        assert pool.statistics().connects == 1
        assert repr(pool) == "<ConnectionPool open, 1 idle, 0 in use, 0 waiting, at most 2>"
    assert first.closed
    assert repr(pool) == "<ConnectionPool closed, 0 idle, 0 in use, 0 waiting, at most 2>"


async def test_it_never_exceeds_its_size(dsn: str) -> None:
    most = 0
    async with make_pool(dsn, max_size=3) as pool:

        async def use() -> None:
            nonlocal most
            async with pool.connection() as conn:
                most = max(most, pool.statistics().in_use)
                await conn.execute("select pg_sleep(0.001)")

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(use)
        assert most == 3
        assert pool.statistics().connects == 3


async def test_first_come_first_served(dsn: str) -> None:
    served: list[int] = []
    async with make_pool(dsn, max_size=1) as pool, trio.open_nursery() as nursery:

        async def use(number: int) -> None:
            async with pool.connection():
                served.append(number)

        async with pool.connection():
            for number in range(5):
                nursery.start_soon(use, number)
                await trio.testing.wait_all_tasks_blocked()
            assert pool.statistics().waiting == 5
    assert served == list(range(5))


async def test_a_cancelled_waiter_loses_nothing_and_the_next_is_served(dsn: str) -> None:
    served: list[int] = []
    scopes: list[trio.CancelScope] = []
    async with make_pool(dsn, max_size=1) as pool, trio.open_nursery() as nursery:

        async def use(number: int) -> None:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                async with pool.connection():
                    served.append(number)

        async with pool.connection():
            for number in range(4):
                nursery.start_soon(use, number)
                await trio.testing.wait_all_tasks_blocked()
            scopes[0].cancel()
            scopes[2].cancel()
    assert served == [1, 3]
    assert pool.statistics().waiting == 0


async def test_connections_are_configured_once_each(dsn: str) -> None:
    configured: list[object] = []

    async def configure(conn: Conn) -> None:
        configured.append(conn)
        await conn.execute("set application_name = 'configured'")

    for autocommit in (True, False):
        async with make_pool(dsn, configure=configure, autocommit=autocommit) as pool:
            for _ in range(2):
                async with pool.connection() as conn:
                    assert conn.info.transaction_status == IDLE
                    assert await value(conn, "show application_name") == "configured"
                    await conn.rollback()
    assert len(configured) == 2


async def test_an_error_in_configuring_closes_the_connection(dsn: str) -> None:
    fds = open_fds()

    async def configure(conn: Conn) -> None:
        await conn.execute("set no_such_parameter = 1")

    async with make_pool(dsn, configure=configure) as pool:
        with pytest.raises(psycopg.errors.UndefinedObject):
            async with pool.connection():
                pass
        assert pool.statistics().size == 0
        assert open_fds() == fds


async def test_one_that_is_to_start_over_is_configured_once_more(dsn: str) -> None:
    configured: list[object] = []

    async def configure(conn: Conn) -> None:
        configured.append(conn)
        await conn.execute("set application_name = 'configured'")

    async with make_pool(dsn, configure=configure, autocommit=False, prepare_threshold=3) as pool:
        for start_over in (True, False):
            async with pool.connection(start_over=start_over) as conn:
                await conn.execute("set application_name = 'changed'")
                await conn.commit()
                conn.prepare_threshold = 7
        async with pool.connection() as conn:
            assert await value(conn, "show application_name") == "changed"
            assert conn.prepare_threshold == 7
        async with pool.connection(start_over=True):
            pass
        async with pool.connection() as conn:
            assert await value(conn, "show application_name") == "configured"
            assert conn.prepare_threshold == 3
    assert configured == [conn] * 3


@pytest.mark.parametrize("obstacle", ["an error", "a delay", "the connection is lost"])
async def test_one_that_cannot_start_over_is_closed_and_nobody_is_told(
    dsn: str, observer: Conn, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    monkeypatch.setattr("requeuest_trio._postgres.pool.SETTLE_TIMEOUT", 0.1)
    configured: list[object] = []

    async def configure(conn: Conn) -> None:
        configured.append(conn)
        if len(configured) == 2:
            match obstacle:
                case "an error":
                    await conn.execute("select 1 / 0")
                case "a delay":
                    await conn.execute("select pg_sleep(60)")
                case _:
                    await terminate(observer, conn.info.backend_pid)
                    await conn.execute("select 1")

    async with make_pool(dsn, configure=configure, max_size=1) as pool:
        with trio.fail_after(10):
            async with pool.connection(start_over=True) as conn:
                pass
        assert conn.closed
        assert pool.statistics().size == 0
        async with pool.connection() as other:
            assert await value(other, "select 1") == 1
            assert other is not conn


async def test_starting_over_is_not_cut_short_by_a_cancellation(dsn: str) -> None:
    async def configure(conn: Conn) -> None:
        await conn.execute("set application_name = 'configured'")

    async with make_pool(dsn, configure=configure, max_size=1) as pool:
        with trio.CancelScope() as scope:
            async with pool.connection(start_over=True) as first:
                await first.execute("set application_name = 'changed'")
                scope.cancel()
        async with pool.connection() as second:
            assert second is first
            assert await value(second, "show application_name") == "configured"


async def test_an_open_transaction_is_rolled_back_on_return(dsn: str) -> None:
    async with make_pool(dsn, autocommit=False, max_size=1) as pool:
        async with pool.connection() as first:
            await first.execute("create table t (a int)")
            assert first.info.transaction_status == INTRANS
        async with pool.connection() as second:
            assert second is first
            assert second.info.transaction_status == IDLE
            assert await value(second, "select to_regclass('t')") is None


async def test_a_failed_transaction_is_rolled_back_in_a_cancelled_scope_too(dsn: str) -> None:
    async with make_pool(dsn, autocommit=False, max_size=1) as pool:
        with trio.move_on_after(0.2) as scope:
            async with pool.connection() as first:
                await first.execute("select pg_sleep(60)")
        assert scope.cancelled_caught
        async with pool.connection() as second:
            assert second is first
            assert second.info.transaction_status == IDLE


async def test_a_connection_returned_in_the_middle_of_an_operation_is_closed(dsn: str, observer: Conn) -> None:
    async with make_pool(dsn) as pool:
        async with pool.connection() as conn:
            rows = stream(conn.cursor(), "select generate_series(1, 1000000)")
            await anext(rows)
            pid = conn.info.backend_pid
        assert conn.closed
        assert pool.statistics().size == 0
        assert pool.statistics().discarded == 1
        await rows.aclose()
        await until_gone(observer, pid)


@pytest.mark.parametrize("change", ["autocommit", "row_factory", "isolation_level"])
async def test_a_connection_with_other_settings_is_closed_on_return(dsn: str, change: str) -> None:
    async with make_pool(dsn) as pool:
        async with pool.connection() as conn:
            if change == "autocommit":
                await conn.set_autocommit(False)
            elif change == "row_factory":
                conn.row_factory = dict_row  # type: ignore[assignment]  # what a user may do all the same
            else:
                await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        assert conn.closed


async def test_a_connection_the_server_has_closed_is_never_lent_out(dsn: str, observer: Conn) -> None:
    async with make_pool(dsn) as pool:
        for _ in range(20):
            async with pool.connection() as conn:
                assert await value(conn, "select 1") == 1
                pid = conn.info.backend_pid
            await terminate(observer, pid)
        assert pool.statistics().connects == 20
        assert pool.statistics().discarded == 19


async def test_a_broken_connection_is_replaced(dsn: str, observer: Conn) -> None:
    async with make_pool(dsn, max_size=1) as pool:
        for _ in range(5):
            with pytest.raises(psycopg.OperationalError):
                async with pool.connection() as conn:
                    await terminate(observer, conn.info.backend_pid)
                    await conn.execute("select 1")
        async with pool.connection() as conn:
            assert await value(conn, "select 1") == 1


async def test_one_long_idle_is_asked_before_it_is_lent_out(dsn: str, proxy: Proxy) -> None:
    """A connection through a dead network looks alive until somebody talks."""
    async with make_pool(proxy.dsn, check_after=0.0, connect_timeout=0.2) as pool:
        async with pool.connection() as first:
            pass
        async with pool.connection() as second:
            assert second is first
        proxy.freeze()
        with pytest.raises(PoolTimeout):
            async with pool.connection(timeout=0.5):
                pass
        assert first.closed
        assert pool.statistics().discarded == 1
        proxy.thaw()
        async with pool.connection() as third:
            assert third is not first


async def test_a_notification_does_not_make_an_idle_connection_unusable(dsn: str, observer: Conn) -> None:
    async with make_pool(dsn) as pool:
        async with pool.connection() as first:
            await first.execute("listen topic")
        await observer.execute("notify topic")
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(first.fileno())
        async with pool.connection() as second:
            assert second is first


async def test_connections_idle_for_too_long_are_closed(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = trio.current_time
    later = 0.0
    async with make_pool(dsn, max_idle=60) as pool:
        async with pool.connection() as first, pool.connection() as second:
            pass
        monkeypatch.setattr(trio, "current_time", lambda: clock() + later)
        later = 59.0
        async with pool.connection() as third:
            assert third is first  # the one returned last
        later = 61.0
        async with pool.connection():
            assert second.closed
            assert pool.statistics().size == 1


class TestOutage:
    async def test_patience_ends_with_the_reason(self) -> None:
        async with make_pool("host=/nowhere") as pool:
            with pytest.raises(PoolTimeout) as caught:
                async with pool.connection(timeout=0.05):
                    pass
            assert isinstance(caught.value, psycopg.OperationalError)
            assert "No such file" in str(caught.value.__cause__)
            assert pool.statistics().connect_failures == pool.statistics().failures_in_a_row > 0

    async def test_patience_ends_without_an_outage(self, dsn: str) -> None:
        async with make_pool(dsn, max_size=1, acquire_timeout=0.02) as pool, pool.connection():
            with pytest.raises(PoolTimeout, match="all 1 are in use") as caught:
                async with pool.connection():
                    pass
            assert caught.value.__cause__ is None

    async def test_a_password_or_a_bad_dsn_is_not_tried_again(self) -> None:
        async with make_pool("nonsense") as pool:
            with pytest.raises(psycopg.ProgrammingError):
                async with pool.connection():
                    pass

    async def test_waiters_share_one_attempt_at_a_time_and_recover_together(
        self, dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        down, under_way, most, attempts = True, 0, 0, 0
        real = TrioConnection.connect

        async def connect(*args: Any, **kwargs: Any) -> Conn:
            nonlocal under_way, most, attempts
            attempts += 1
            under_way += 1
            if down:
                most = max(most, under_way)
            try:
                await trio.sleep(0.001)
                if down:
                    raise psycopg.OperationalError("down")
                return await real(*args, **kwargs)
            finally:
                under_way -= 1

        monkeypatch.setattr(TrioConnection, "connect", connect)
        async with make_pool(dsn, max_size=5, backoff=Backoff(initial=0.02, cap=0.02, jitter=0)) as pool:
            while not pool.statistics().failures_in_a_row:  # an attempt that was cut short is none
                with pytest.raises(PoolTimeout):
                    async with pool.connection(timeout=0.05):
                        pass
            attempts = most = 0

            async def use() -> None:
                async with pool.connection() as conn:
                    assert await value(conn, "select 1") == 1

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(use)
                started = trio.current_time()

                async def several_attempts() -> bool:
                    return attempts >= 4

                await until(several_attempts)
                assert trio.current_time() - started > 0.02 * 2
                down = False
            assert most == 1
            assert pool.statistics().failures_in_a_row == 0
            assert pool.statistics().waiting == 0

    async def test_failures_side_by_side_count_once(self) -> None:
        async with make_pool("host=/nowhere", max_size=10, backoff=Backoff(initial=30, cap=30)) as pool:

            async def use() -> None:
                with pytest.raises(PoolTimeout):
                    async with pool.connection(timeout=0.1):
                        pass

            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(use)
            assert pool.statistics().failures_in_a_row == 1

    async def test_a_returned_connection_serves_who_waits_for_a_new_one(
        self, dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when the server has no connections left: those we have must not lie idle."""
        async with make_pool(dsn, backoff=Backoff(initial=60, cap=60)) as pool, trio.open_nursery() as nursery:
            async with pool.connection() as first:

                async def refuse(*args: Any, **kwargs: Any) -> Conn:
                    await trio.lowlevel.checkpoint()
                    raise psycopg.OperationalError("too many clients")

                monkeypatch.setattr(TrioConnection, "connect", refuse)

                @nursery.start_soon
                async def wait() -> None:
                    async with pool.connection() as second:
                        assert second is first

                await trio.testing.wait_all_tasks_blocked()
                assert pool.statistics().waiting == 1
            with trio.fail_after(5):
                while pool.statistics().waiting:
                    await trio.testing.wait_all_tasks_blocked()

    async def test_a_slow_connect_is_cut_off(self, dsn: str, proxy: Proxy) -> None:
        proxy.freeze()
        async with make_pool(proxy.dsn, connect_timeout=0.1) as pool:
            with pytest.raises(PoolTimeout) as caught:
                async with pool.connection(timeout=0.25):
                    pass
            assert isinstance(caught.value.__cause__, psycopg.errors.ConnectionTimeout)

    async def test_it_survives_cut_connections(self, dsn: str, proxy: Proxy) -> None:
        async with make_pool(proxy.dsn) as pool:
            for _ in range(5):
                async with pool.connection() as conn:
                    assert await value(conn, "select 1") == 1
                proxy.cut()
                await trio.testing.wait_all_tasks_blocked(0.005)


class TestClosing:
    async def test_closed_is_closed(self, dsn: str) -> None:
        pool = make_pool(dsn)
        await pool.aclose()
        await pool.aclose()
        with pytest.raises(trio.ClosedResourceError):
            async with pool.connection():
                pass

    async def test_those_in_use_are_closed_too(self, dsn: str) -> None:
        pool = make_pool(dsn)

        async def use_it() -> None:
            with pytest.raises(psycopg.OperationalError):
                async with pool.connection() as conn:
                    await conn.execute("select pg_sleep(60)")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use_it)
            while not pool.statistics().in_use:
                await trio.lowlevel.checkpoint()
            await pool.aclose()
        assert pool.statistics().size == 0

    async def test_waiters_are_told(self, dsn: str) -> None:
        pool = make_pool(dsn, max_size=1, acquire_timeout=math.inf)

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                async with pool.connection():
                    pass

        async with pool.connection(), trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await pool.aclose()
        assert pool.statistics().waiting == 0

    async def test_closing_in_a_cancelled_scope_closes(self, dsn: str) -> None:
        with trio.CancelScope() as scope:
            async with make_pool(dsn) as pool:
                async with pool.connection() as conn:
                    pass
                scope.cancel()
        assert conn.closed


async def test_it_needs_room_for_one(dsn: str) -> None:
    with pytest.raises(ValueError, match="max_size"):
        ConnectionPool(dsn, max_size=0)


async def test_acquiring_cancelled_at_every_checkpoint_loses_no_place(dsn: str, observer: Conn) -> None:
    async def configure(conn: Conn) -> None:
        await conn.execute("set application_name = 'configured'")

    fds = open_fds()
    for fresh in (True, False):
        async with make_pool(dsn, max_size=1, configure=configure, check_after=math.inf if fresh else 0.0) as pool:
            for k in range(100):
                with trio.CancelScope() as scope, AtCheckpoint(k, scope.cancel):
                    if k == 0:
                        scope.cancel()
                    async with pool.connection() as conn:
                        await conn.execute("select 1")
                statistics = pool.statistics()
                assert statistics.in_use == statistics.waiting == 0
                if fresh and pool._idle:
                    pool._discard(pool._idle.pop().connection)
                if k > 0 and not scope.cancel_called:
                    break
            assert k > 1
            async with pool.connection(timeout=5) as conn:
                assert await value(conn, "select 1") == 1
        assert open_fds() == fds


async def test_idle_connections_to_an_address_that_is_avoided_are_closed(dsn: str) -> None:
    """If one connection gets no answer, the others to the same server get none either, each after its own wait."""
    async with make_pool(dsn, max_size=3) as pool:
        async with pool.connection() as one, pool.connection() as other:
            pass
        pool.avoid(one)
        async with pool.connection() as new:
            assert new not in {one, other}
            assert one.closed
            assert other.closed
        async with pool.connection() as again:
            assert again is new, "what was made since then is as good as any"


async def test_after_a_storm_of_cancellations_it_works_as_before(dsn: str, observer: Conn) -> None:
    fds = open_fds()
    dice = random.Random(20)  # seeded: a failure can be repeated
    async with make_pool(dsn, max_size=4) as pool:

        async def use(patience: float, query: str) -> None:
            # The connection that is terminated below was idle when it was chosen, but may have been lent out since. Of
            # its end libpq hears from the server, or from the socket, or from the pooler in between.
            with trio.move_on_after(patience), suppress(psycopg.OperationalError):
                async with pool.connection() as conn, conn.transaction():
                    await conn.execute(query.encode())
                    await conn.execute("select pg_sleep(0.002)")

        async with trio.open_nursery() as nursery:
            for _ in range(300):
                query = dice.choice(["select 1", "select pg_sleep(0.01)", "select generate_series(1, 10000)"])
                nursery.start_soon(use, dice.uniform(0, 0.3), query)
                if dice.random() < 0.02 and pool._idle:
                    await terminate(observer, pool._idle[-1].connection.info.backend_pid)
                await trio.lowlevel.checkpoint()
        for _ in range(20):
            async with pool.connection(timeout=5) as conn:
                assert conn.info.transaction_status == IDLE
                assert await value(conn, "select 1") == 1
        statistics = pool.statistics()
        assert statistics.in_use == statistics.waiting == 0
        assert 0 < statistics.size <= 4
        assert pool._places.value == 4
        pids = [idle.connection.info.backend_pid for idle in pool._idle]
        for pid in pids:
            await until_at_rest(observer, pid)
    for pid in pids:
        await until_gone(observer, pid)
        assert not await is_alive(observer, pid)
    assert open_fds() == fds


@pytest.fixture
def fixed_random() -> Callable[[], float]:
    return lambda: 0.0


async def test_the_pauses_are_the_backoffs(monkeypatch: pytest.MonkeyPatch, fixed_random: Callable[[], float]) -> None:
    pauses: list[float] = []
    real = trio.move_on_at

    def move_on_at(deadline: float, **kwargs: Any) -> trio.CancelScope:
        pauses.append(deadline - trio.current_time())
        return real(trio.current_time(), **kwargs)

    monkeypatch.setattr(trio, "move_on_at", move_on_at)
    backoff = Backoff(initial=1, cap=4, multiplier=2)
    async with make_pool("host=/nowhere", backoff=backoff, random=fixed_random) as pool:
        with pytest.raises(PoolTimeout):
            async with pool.connection(timeout=0.05):
                pass
    assert pauses[:4] == pytest.approx([1, 2, 4, 4], abs=0.2)
