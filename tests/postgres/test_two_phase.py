"""Two-phase commit, on a server of its own, since it is switched off by default."""

from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from tests.postgres.harness import AtCheckpoint, Conn, assert_usable, connect, value
from tests.servers import running_server


@pytest.fixture(scope="module")
def two_phase_dsn() -> Iterator[str]:
    with running_server({"max_prepared_transactions": "8"}) as server:
        yield server.dsn()


@pytest.fixture
async def conn(two_phase_dsn: str) -> AsyncIterator[Conn]:
    async with await connect(two_phase_dsn, autocommit=False) as connection:
        await connection.execute("drop table if exists t")
        await connection.execute("create table t (a int)")
        await connection.commit()
        yield connection


@pytest.fixture
async def observer(two_phase_dsn: str) -> AsyncIterator[Conn]:
    async with await connect(two_phase_dsn) as connection:
        yield connection


@pytest.mark.parametrize(("finish", "rows"), [("commit", 1), ("rollback", 0)])
async def test_prepare_and_finish(conn: Conn, observer: Conn, finish: str, rows: int) -> None:
    await conn.tpc_begin(conn.xid(1, "gtrid", "bqual"))
    await conn.execute("insert into t values (1)")
    await conn.tpc_prepare()
    [xid] = await observer.tpc_recover()
    assert (xid.gtrid, xid.bqual) == ("gtrid", "bqual")
    await (conn.tpc_commit if finish == "commit" else conn.tpc_rollback)()
    assert await observer.tpc_recover() == []
    assert await value(observer, "select count(*) from t") == rows
    await assert_usable(conn)


async def test_finish_from_another_connection(conn: Conn, observer: Conn) -> None:
    await conn.tpc_begin("left behind")
    await conn.execute("insert into t values (1)")
    await conn.tpc_prepare()
    await conn.close()
    await observer.tpc_commit("left behind")
    assert await value(observer, "select count(*) from t") == 1


async def test_without_prepare(conn: Conn, observer: Conn) -> None:
    await conn.tpc_begin("one")
    await conn.execute("insert into t values (1)")
    await conn.tpc_rollback()
    await conn.tpc_begin("two")
    await conn.execute("insert into t values (2)")
    await conn.tpc_commit()
    assert await value(observer, "select sum(a) from t") == 2


async def test_cancelled_anywhere_it_is_usable_or_closed(two_phase_dsn: str, conn: Conn, observer: Conn) -> None:
    """And never is a transaction left open that nobody knows of."""
    for k in range(100):
        victim = await connect(two_phase_dsn, autocommit=False)
        with trio.CancelScope() as scope, AtCheckpoint(k, scope.cancel):
            if k == 0:
                scope.cancel()
            await victim.tpc_begin("storm")
            await victim.execute("insert into t values (1)")
            await victim.tpc_prepare()
            await victim.tpc_commit()
        if not victim.closed and not victim._tpc:  # otherwise its transaction is begun or prepared, and it knows
            await assert_usable(victim)
        await victim.close()
        for xid in await observer.tpc_recover():
            await observer.tpc_rollback(xid)
        if not scope.cancelled_caught and k > 0:
            break
    assert k > 3
    assert not scope.cancelled_caught
