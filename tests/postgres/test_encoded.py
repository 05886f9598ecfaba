"""
Statements whose parameters come encoded.

What could go wrong, and is tried here: NULL and types, a statement that psycopg has prepared or thrown away meanwhile,
an error or a cancellation in one of several batches, a batch that can't be made, pipelines, transactions.
"""

from collections.abc import Iterator
from struct import Struct

import psycopg
import pytest
import trio
from psycopg import pq

from requeuest_trio._postgres import Statement, TrioConnection, execute_encoded
from tests.postgres.harness import IDLE, Conn, assert_usable, until_running, value

number = Struct("!i").pack
INSERT = Statement(b"insert into t values ($1::int4)", 1)
SUM = Statement(b"select $1::int4 + $2::int4, $3::text", 3)


@pytest.fixture
async def conn(conn: Conn) -> Conn:
    await conn.execute("create table t (a int primary key)")
    return conn


async def numbers(conn: Conn) -> list[int]:
    cursor = await conn.execute("select a from t order by a")
    return [a for (a,) in await cursor.fetchall()]


@pytest.mark.parametrize("autocommit", [True, False])
async def test_values_and_nulls(conn: Conn, autocommit: bool) -> None:
    await conn.set_autocommit(autocommit)
    both, none = await execute_encoded(conn, SUM, [[number(40), number(2), "ü".encode()], [None, number(2), None]])
    assert (both.get_value(0, 0), both.get_value(0, 1)) == (b"42", "ü".encode())
    assert (none.get_value(0, 0), none.get_value(0, 1)) == (None, None)
    assert conn.pgconn.transaction_status == (IDLE if autocommit else pq.TransactionStatus.INTRANS)
    assert await execute_encoded(conn, SUM, []) == []


async def test_it_is_prepared_as_the_connection_prepares(conn: Conn, dsn: str) -> None:
    for _ in range(3):  # a rollback makes psycopg throw away what it has prepared
        await execute_encoded(conn, SUM, [[number(n), number(n), b"x"] for n in range(10)])
        assert await value(conn, "select count(*) from pg_prepared_statements where statement like '%%int4 +%%'") == 1
        async with conn.transaction(force_rollback=True):
            await execute_encoded(conn, SUM, [[number(1), number(1), b"x"]])
    async with await TrioConnection.connect(dsn, autocommit=True, prepare_threshold=None) as unprepared:
        await execute_encoded(unprepared, SUM, [[number(n), number(n), b"x"] for n in range(10)])
        assert await value(unprepared, "select count(*) from pg_prepared_statements") == 0


async def test_the_next_batch_is_made_while_the_server_works(conn: Conn) -> None:
    seen = []

    def batches() -> Iterator[list[bytes]]:
        for n in range(3):
            seen.append(conn.pgconn.transaction_status)
            yield [number(n)]

    assert [result.command_tuples for result in await execute_encoded(conn, INSERT, batches())] == [1, 1, 1]
    assert seen == [IDLE, pq.TransactionStatus.ACTIVE, pq.TransactionStatus.ACTIVE]
    assert await numbers(conn) == [0, 1, 2]


@pytest.mark.parametrize("repeat", [1, 7])
async def test_an_error_ends_it(conn: Conn, repeat: int) -> None:
    for _ in range(repeat):  # past the point where it is prepared
        await conn.execute("truncate t")
        with pytest.raises(psycopg.errors.UniqueViolation):
            await execute_encoded(conn, INSERT, [[number(n)] for n in (1, 2, 2, 3)])
        assert await numbers(conn) == [1, 2]
        await assert_usable(conn)


async def test_a_batch_that_cannot_be_made(conn: Conn) -> None:
    def batches() -> Iterator[list[bytes]]:
        yield [number(1)]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await execute_encoded(conn, INSERT, batches())
    await assert_usable(conn)
    assert await numbers(conn) in ([], [1])


async def test_a_large_parameter_fills_the_socket(conn: Conn) -> None:
    length = Statement(b"select length($1::bytea)", 1)
    results = await execute_encoded(conn, length, [[bytes(8 << 20)], [bytes(9 << 20)]])
    assert [result.get_value(0, 0) for result in results] == [b"8388608", b"9437184"]


async def test_in_a_pipeline(conn: Conn) -> None:
    async with conn.pipeline():
        before = await conn.execute("select 1")
        [result] = await execute_encoded(conn, SUM, [[number(1), None, b"x"]])
        await execute_encoded(conn, INSERT, [[number(1)], [number(2)]])
        after = await conn.execute("select 2")
        assert (result.get_value(0, 0), result.get_value(0, 1)) == (None, b"x")
    assert (await before.fetchone(), await after.fetchone()) == ((1,), (2,))
    assert await numbers(conn) == [1, 2]


async def test_cancelled_in_the_second_of_three(conn: Conn, observer: Conn) -> None:
    sleep = Statement(b"insert into t select $1::int4 from pg_sleep($1::int4)", 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(execute_encoded, conn, sleep, [[number(0)], [number(60)], [number(1)]])
        await until_running(observer, conn.info.backend_pid, "pg_sleep")
        with trio.fail_after(5):
            while not await numbers(observer):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await assert_usable(conn)
    assert await numbers(conn) == [0]
