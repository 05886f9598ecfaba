"""What psycopg documents for async connections works under Trio: queries, cursors, adaptation, settings."""

# ruff: noqa: PT012 - leaving a block by an error is what is tested

from contextlib import aclosing
from typing import Any

import psycopg
import pytest
import trio
from psycopg import sql
from psycopg.rows import dict_row, namedtuple_row, scalar_row
from psycopg.types.json import Jsonb

from requeuest_trio._postgres import TrioConnection
from tests.postgres.harness import IDLE, INTRANS, Conn, assert_usable, connect, stream, value
from tests.waiting import until


async def test_execute_returns_rows(conn: Conn) -> None:
    cursor = await conn.execute("select n, n * n from generate_series(1, 3) n")
    assert await cursor.fetchall() == [(1, 1), (2, 4), (3, 9)]


async def test_parameters_are_adapted_both_ways(conn: Conn) -> None:
    sent = [1, "ä", b"\x00\xff", None, [1, 2], {"a": [1]}]
    row = await (
        await conn.execute("select %s::int, %s::text, %s::bytea, %s::int, %s::int[], %s", [*sent[:5], Jsonb(sent[5])])
    ).fetchone()
    assert list(row or ()) == sent


async def test_binary_results_and_parameters(conn: Conn) -> None:
    cursor = await conn.execute("select %b::int8 + 1, now() is not null", [2**40], binary=True)
    assert await cursor.fetchone() == (2**40 + 1, True)


async def test_named_parameters_and_composed_sql(conn: Conn) -> None:
    query = sql.SQL("select %(n)s::int as {}").format(sql.Identifier("we ird"))
    cursor = await conn.execute(query, {"n": 7})
    assert cursor.description is not None
    assert cursor.description[0].name == "we ird"
    assert await cursor.fetchone() == (7,)


async def test_fetching_in_pieces_and_scrolling(conn: Conn) -> None:
    cursor = await conn.execute("select generate_series(1, 10)")
    assert await cursor.fetchone() == (1,)
    assert await cursor.fetchmany(2) == [(2,), (3,)]
    await cursor.scroll(2)
    assert [row async for row in cursor] == [(n,) for n in range(6, 11)]
    await cursor.scroll(0, mode="absolute")
    assert await cursor.fetchone() == (1,)


async def test_several_statements_give_several_results(conn: Conn) -> None:
    cursor = await conn.execute("select 1; select 2")
    assert [await result.fetchone() async for result in cursor.results()] == [(1,), (2,)]


async def test_row_factories_of_connection_and_cursor(dsn: str) -> None:
    async with await TrioConnection.connect(dsn, row_factory=dict_row) as conn:
        assert await (await conn.execute("select 1 as a")).fetchone() == {"a": 1}
        async with conn.cursor(row_factory=scalar_row) as cursor:
            assert await (await cursor.execute("select 5")).fetchall() == [5]
        async with conn.cursor(row_factory=namedtuple_row) as named:
            row: Any = await (await named.execute("select 6 as b")).fetchone()
            assert row.b == 6


async def test_other_cursor_classes(dsn: str) -> None:
    for factory in (psycopg.AsyncClientCursor, psycopg.AsyncRawCursor):
        cursor_factory: Any = factory
        placeholder = b"$1" if factory is psycopg.AsyncRawCursor else b"%s"
        async with await TrioConnection.connect(dsn, cursor_factory=cursor_factory) as conn:
            assert await (await conn.execute(b"select " + placeholder + b"::int", [3])).fetchone() == (3,)


async def test_executemany(conn: Conn) -> None:
    await conn.execute("create table t (a int, b text)")
    async with conn.cursor() as cursor:
        await cursor.executemany("insert into t values (%s, %s)", [(n, str(n)) for n in range(5000)])
        assert cursor.rowcount == 5000
    assert await value(conn, "select sum(a) from t") == sum(range(5000))


async def test_executemany_returning(conn: Conn) -> None:
    async with conn.cursor() as cursor:
        await cursor.executemany("select %s::int", [(1,), (2,)], returning=True)
        assert [await result.fetchone() async for result in cursor.results()] == [(1,), (2,)]


async def test_executemany_with_an_error_leaves_a_usable_connection(conn: Conn) -> None:
    await conn.execute("create table t (a int primary key)")
    async with conn.cursor() as cursor:
        with pytest.raises(psycopg.errors.UniqueViolation):
            await cursor.executemany("insert into t values (%s)", [(1,), (2,), (1,)])
    assert await value(conn, "select count(*) from t") == 0
    await assert_usable(conn)


@pytest.mark.parametrize("size", [1, 7])
async def test_stream(conn: Conn, size: int) -> None:
    async with conn.cursor() as cursor, aclosing(stream(cursor, "select generate_series(1, 100)", size=size)) as rows:
        assert [row[0] async for row in rows] == list(range(1, 101))
    await assert_usable(conn)


async def test_stream_left_early_is_cancelled_on_the_server(conn: Conn) -> None:
    async with conn.cursor() as cursor, aclosing(stream(cursor, "select generate_series(1, 100000000)")) as rows:
        async for _ in rows:
            break
    await assert_usable(conn)


async def test_forgotten_stream_is_cleaned_up_by_the_garbage_collector(conn: Conn) -> None:
    rows = stream(conn.cursor(), "select generate_series(1, 100000000)")
    await anext(rows)
    with pytest.warns(ResourceWarning, match="garbage collected"):
        del rows

    async def is_free() -> bool:
        return not conn.lock.locked()

    await until(is_free)
    await assert_usable(conn)


async def test_server_side_cursor(dsn: str) -> None:
    async with await connect(dsn, autocommit=False) as conn:
        async with conn.cursor("numbers", scrollable=True) as cursor:
            cursor.itersize = 10
            await cursor.execute("select generate_series(1, 25)")
            assert await cursor.fetchone() == (1,)
            assert await cursor.fetchmany(2) == [(2,), (3,)]
            await cursor.scroll(-1)
            assert [row[0] async for row in cursor] == list(range(3, 26))
        assert await value(conn, "select count(*) from pg_cursors") == 0


async def test_held_server_side_cursor_outlives_its_transaction(conn: Conn) -> None:
    async with conn.cursor("held", withhold=True) as cursor:
        async with conn.transaction():
            await cursor.execute("select generate_series(1, 3)")
        assert await cursor.fetchall() == [(1,), (2,), (3,)]
    assert await value(conn, "select count(*) from pg_cursors") == 0


async def test_stealing_a_server_side_cursor(dsn: str) -> None:
    async with await connect(dsn, autocommit=False) as conn:
        await conn.execute("declare c cursor for select generate_series(1, 3)")
        async with conn.cursor("c") as cursor:
            assert await cursor.fetchall() == [(1,), (2,), (3,)]


async def test_prepared_statements(conn: Conn) -> None:
    for _ in range(8):
        await conn.execute("select %s::int", [1])
    assert await value(conn, "select count(*) from pg_prepared_statements") == 1
    await conn.execute("select 2", prepare=True)
    assert await value(conn, "select count(*) from pg_prepared_statements") == 2
    conn.prepare_threshold = None
    assert conn.prepare_threshold is None


async def test_prepared_statements_are_evicted(conn: Conn) -> None:
    conn.prepared_max = 2
    for number in range(5):
        await conn.execute(f"select {number}".encode(), prepare=True)
    assert await value(conn, "select count(*) from pg_prepared_statements") == 2


async def test_autocommit_off_opens_a_transaction_that_ends_with_commit_or_rollback(dsn: str, observer: Conn) -> None:
    async with await connect(dsn, autocommit=False) as conn:
        await conn.execute("create table t (a int)")
        assert conn.info.transaction_status == INTRANS
        await conn.commit()
        assert conn.info.transaction_status == IDLE
        await conn.execute("insert into t values (1)")
        await conn.rollback()
        assert await value(observer, "select count(*) from t") == 0


async def test_leaving_the_connection_block_commits_and_closes(dsn: str, observer: Conn) -> None:
    async with await connect(dsn, autocommit=False) as conn:
        await conn.execute("create table t (a int)")
    assert conn.closed
    assert not conn.broken
    assert await value(observer, "select to_regclass('t') is not null")


async def test_leaving_the_connection_block_with_an_error_rolls_back(dsn: str, observer: Conn) -> None:
    with pytest.raises(KeyError):
        async with await connect(dsn, autocommit=False) as conn:
            await conn.execute("create table t (a int)")
            raise KeyError
    assert conn.closed
    assert await value(observer, "select to_regclass('t') is null")


async def test_transaction_settings(conn: Conn) -> None:
    await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
    await conn.set_read_only(True)
    await conn.set_deferrable(True)
    async with conn.transaction():
        assert await value(conn, "show transaction_isolation") == "serializable"
        assert await value(conn, "show transaction_read_only") == "on"
        assert await value(conn, "show transaction_deferrable") == "on"
        with pytest.raises(psycopg.ProgrammingError):
            await conn.set_autocommit(False)
    await conn.set_autocommit(False)
    assert not conn.autocommit
    with pytest.raises(AttributeError, match="set_autocommit"):
        conn.autocommit = True


async def test_errors_carry_their_diagnostics_and_leave_a_usable_connection(conn: Conn) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable) as caught:
        await conn.execute("select * from nowhere")
    assert caught.value.diag.sqlstate == "42P01"
    await assert_usable(conn)


async def test_notices_reach_their_handler(conn: Conn) -> None:
    notices: list[str | None] = []
    conn.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
    await conn.execute("do $$ begin raise notice 'hello'; end $$")
    assert notices == ["hello"]


async def test_large_values_travel_both_ways(conn: Conn) -> None:
    """Eight megabytes: more than any socket buffer, so sending has to wait, too."""
    big = "x" * (8 << 20)
    assert await value(conn, "select %s::text", big) == big


async def test_two_tasks_may_share_a_connection(conn: Conn) -> None:
    """Their operations follow each other."""
    seen: list[int] = []

    async def use(number: int) -> None:
        assert await value(conn, "select %s::int from pg_sleep(0.001)", number) == number
        seen.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(use, number)
    assert sorted(seen) == list(range(20))


async def test_an_operation_inside_an_operation_is_an_error_instead_of_a_deadlock(conn: Conn) -> None:
    async with conn.cursor() as cursor, aclosing(stream(cursor, "select generate_series(1, 3)")) as rows:
        await anext(rows)
        with pytest.raises(RuntimeError, match="in the middle of an operation"):
            await conn.execute("select 1")


async def test_every_operation_is_a_checkpoint(conn: Conn) -> None:
    with trio.testing.assert_checkpoints():
        await conn.execute("select 1")
    with trio.testing.assert_checkpoints():
        await conn.commit()
    with trio.testing.assert_checkpoints():
        await conn.rollback()
    with trio.testing.assert_checkpoints():
        await conn.set_autocommit(True)
    with trio.testing.assert_checkpoints():
        await conn.ping()
    with trio.testing.assert_checkpoints():
        await conn.close()
    with trio.testing.assert_checkpoints():
        await conn.aclose()


async def test_closed_connection_says_so(conn: Conn) -> None:
    await conn.close()
    assert conn.closed
    with pytest.raises(psycopg.OperationalError, match="closed"):
        await conn.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match="closed"):
        await conn.commit()
    with pytest.raises(psycopg.OperationalError):
        async for _ in conn.notifies():
            pass
