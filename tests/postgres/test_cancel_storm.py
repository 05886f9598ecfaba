"""
Every operation, cancelled at each of its checkpoints in turn.

Whatever the checkpoint: the connection is usable or closed, the server does nothing any more, nothing leaks, and while
the connection is open, `trio.Cancelled` means that nothing has happened.
"""

# ruff: noqa: PT012 - leaving a block by an error is what is tested

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from secrets import token_hex

import pytest
import trio

from requeuest_trio._postgres import SETTLE_TIMEOUT, Statement, execute_encoded
from tests.postgres.harness import (
    IDLE,
    AtCheckpoint,
    Conn,
    assert_usable,
    connect,
    open_fds,
    stream,
    until_at_rest,
    until_gone,
    value,
)

Operation = Callable[[Conn], Awaitable[object]]
OPERATIONS: dict[str, Operation] = {}

INSERT = Statement(b"insert into t select $1::int4 from pg_sleep(0.002)", 1)
MOST_CHECKPOINTS = 400

# With a server that answers, only what is interrupted in pipeline mode costs the connection, or a ping.
MAY_CLOSE = {"executemany", "pipeline", "pipeline_with_transaction", "ping_and_close", "insert_many"}


def operation(function: Operation) -> Operation:
    OPERATIONS[function.__name__] = function
    return function


@operation
async def query(conn: Conn) -> None:
    await conn.execute("select pg_sleep(0.005)")


@operation
async def query_prepared(conn: Conn) -> None:
    for _ in range(3):
        await conn.execute(f"select pg_sleep(%s) as c{token_hex(4)}".encode(), [0.001], prepare=True)


@operation
async def encoded(conn: Conn) -> None:
    await execute_encoded(conn, INSERT, [[b"\0\0\0\1"]])


@operation
async def encoded_batches(conn: Conn) -> None:
    async with conn.transaction():
        await execute_encoded(conn, INSERT, ([bytes([0, 0, 0, n])] for n in range(8)))


@operation
async def large_parameter(conn: Conn) -> None:
    await conn.execute("select length(%s::text)", ["x" * (2 << 20)])


@operation
async def error(conn: Conn) -> None:
    with pytest.raises(ZeroDivisionError):
        try:
            await conn.execute("select 1/0")
        except conn.DataError:
            raise ZeroDivisionError from None


@operation
async def executemany(conn: Conn) -> None:
    async with conn.cursor() as cursor:
        await cursor.executemany("insert into t values (%s)", [(n,) for n in range(300)])


@operation
async def stream_short(conn: Conn) -> None:
    async with conn.cursor() as cursor, aclosing(stream(cursor, "select generate_series(1, 50)", size=10)) as rows:
        async for _ in rows:
            await trio.lowlevel.checkpoint()


@operation
async def stream_long(conn: Conn) -> None:
    async with conn.cursor() as cursor, aclosing(stream(cursor, "select generate_series(1, 500000)")) as rows:
        for _ in range(5):
            await anext(rows)
            await trio.lowlevel.checkpoint()


@operation
async def server_cursor(conn: Conn) -> None:
    async with conn.transaction(), conn.cursor("c", scrollable=True) as cursor:
        await cursor.execute("select generate_series(1, 20)")
        await cursor.fetchmany(10)
        await cursor.scroll(-2)
        await cursor.fetchall()


@operation
async def server_cursor_held(conn: Conn) -> None:
    async with conn.cursor("held", withhold=True) as cursor:
        await cursor.execute("select generate_series(1, 20)")
        await cursor.fetchall()


@operation
async def transaction(conn: Conn) -> None:
    async with conn.transaction():
        await conn.execute("insert into t values (1)")
        await trio.lowlevel.checkpoint()


@operation
async def savepoints(conn: Conn) -> None:
    async with conn.transaction():
        await conn.execute("insert into t values (1)")
        async with conn.transaction():
            await conn.execute("insert into t values (2)")
        async with conn.transaction(force_rollback=True):
            await conn.execute("insert into t values (3)")


@operation
async def failing_transaction(conn: Conn) -> None:
    with pytest.raises(KeyError):
        async with conn.transaction():
            await conn.execute("insert into t values (1)")
            raise KeyError


@operation
async def pipeline(conn: Conn) -> None:
    async with conn.pipeline() as pipe:
        await conn.execute("select pg_sleep(0.001)")
        cursor = await conn.execute("select 2")
        await pipe.sync()
        await conn.execute("select 3")
        await cursor.fetchall()
        await trio.lowlevel.checkpoint()


@operation
async def pipeline_with_transaction(conn: Conn) -> None:
    async with conn.pipeline(), conn.transaction():
        await conn.execute("insert into t values (1)")
        async with conn.transaction():
            await conn.execute("insert into t values (2)")


@operation
async def copy_in(conn: Conn) -> None:
    async with conn.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
        for n in range(5):
            await copy.write_row((n,))
            await trio.lowlevel.checkpoint()


@operation
async def copy_in_large(conn: Conn) -> None:
    async with conn.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
        for _ in range(2):
            await copy.write("1\n" * (1 << 18))


@operation
async def copy_out(conn: Conn) -> None:
    async with conn.cursor() as cursor, cursor.copy("copy (select generate_series(1, 5)) to stdout") as copy:
        while await copy.read():
            await trio.lowlevel.checkpoint()


@operation
async def copy_out_left_early(conn: Conn) -> None:
    with pytest.raises(KeyError):
        async with conn.cursor() as cursor, cursor.copy("copy (select generate_series(1, 500000)) to stdout") as copy:
            await copy.read()
            raise KeyError


@operation
async def notifications(conn: Conn) -> None:
    await conn.execute("listen topic")
    await conn.execute("notify topic")
    async with aclosing(conn.notifies(stop_after=1, timeout=1)) as received:
        async for _ in received:
            await trio.lowlevel.checkpoint()
    await conn.execute("unlisten topic")


@operation
async def commit_and_rollback(conn: Conn) -> None:
    await conn.set_autocommit(False)
    try:
        await conn.execute("insert into t values (1)")
        await conn.commit()
        await conn.execute("insert into t values (1)")
        await conn.rollback()
    finally:
        await conn.reset()  # noqa: ASYNC102 - what is tried here
        with trio.CancelScope(shield=True):
            if not conn.closed:
                await conn.set_autocommit(True)


@operation
async def ping_and_close(conn: Conn) -> None:
    await conn.ping()
    await conn.close()


@pytest.fixture
async def table(conn: Conn) -> None:
    await conn.execute("create table t (a int)")


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_at_every_checkpoint(name: str, dsn: str, observer: Conn, table: None) -> None:
    victim = await connect(dsn)
    fds = open_fds()
    for k in range(MOST_CHECKPOINTS):
        pid = victim.info.backend_pid
        with trio.fail_after(SETTLE_TIMEOUT + 5), trio.CancelScope() as scope, AtCheckpoint(k, scope.cancel):
            if k == 0:
                scope.cancel()
            await OPERATIONS[name](victim)
        if victim.closed:
            assert name in MAY_CLOSE
            await until_gone(observer, pid)
            victim = await connect(dsn)
        else:
            await until_at_rest(observer, pid)
            await assert_usable(victim)
        assert open_fds() == fds
        if k > 0 and not scope.cancel_called:
            break
    else:
        pytest.fail(f"not through after {k} checkpoints")
    assert k > 1
    await victim.close()


EFFECTS: dict[str, Operation] = {}


def effect(function: Operation) -> Operation:
    EFFECTS[function.__name__] = function
    return function


@effect
async def insert(conn: Conn) -> None:
    await conn.execute("insert into t values (1)")


@effect
async def insert_in_transaction(conn: Conn) -> None:
    async with conn.transaction():
        await conn.execute("insert into t values (1)")


@effect
async def insert_many(conn: Conn) -> None:
    async with conn.cursor() as cursor:
        await cursor.executemany("insert into t values (%s)", [(n,) for n in range(500)])


@effect
async def insert_by_copy(conn: Conn) -> None:
    async with conn.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
        for n in range(100):
            await copy.write_row((n,))


@pytest.mark.parametrize("name", EFFECTS)
async def test_cancelled_means_without_effect(name: str, dsn: str, observer: Conn, table: None) -> None:
    """If it is raised and the connection is open, there is no row; if it is not raised, there are all of them."""
    victim = await connect(dsn)
    for k in range(MOST_CHECKPOINTS):
        await observer.execute("truncate t")
        done = False
        with trio.CancelScope() as scope, AtCheckpoint(k, scope.cancel):
            if k == 0:
                scope.cancel()
            await EFFECTS[name](victim)
            done = True
        if victim.closed:
            assert not done
            assert name in MAY_CLOSE
            victim = await connect(dsn)
        else:
            assert bool(await value(observer, "select count(*) from t")) == done
            assert victim.info.transaction_status == IDLE
        if k > 0 and not scope.cancel_called:
            break
    else:
        pytest.fail(f"not through after {k} checkpoints")
    await victim.close()


async def test_connecting_cancelled_at_every_checkpoint_leaks_nothing(dsn: str, observer: Conn) -> None:
    fds = open_fds()
    for k in range(MOST_CHECKPOINTS):
        with trio.CancelScope() as scope, AtCheckpoint(k, scope.cancel):
            if k == 0:
                scope.cancel()
            await (await connect(dsn)).close()
        assert open_fds() == fds
        if k > 0 and not scope.cancel_called:
            break
    assert k > 2
