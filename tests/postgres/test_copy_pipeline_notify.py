"""COPY in all its forms, pipeline mode, and notifications."""

# ruff: noqa: PT012 - leaving a block by an error is what is tested

from contextlib import aclosing

import psycopg
import pytest
import trio
from psycopg.copy import AsyncLibpqWriter

from tests.postgres.harness import IDLE, Conn, assert_usable, value


class TestCopy:
    @pytest.fixture
    async def conn(self, conn: Conn) -> Conn:
        await conn.execute("create table t (a int, b text)")
        return conn

    async def test_rows_in(self, conn: Conn) -> None:
        async with conn.cursor() as cursor:
            async with cursor.copy("copy t from stdin") as copy:
                for n in range(1000):
                    await copy.write_row((n, f"line\n{n}"))
            assert cursor.rowcount == 1000
        assert await value(conn, "select b from t where a = 7") == "line\n7"

    async def test_binary_rows_in(self, conn: Conn) -> None:
        async with conn.cursor() as cursor, cursor.copy("copy t from stdin (format binary)") as copy:
            copy.set_types(["int4", "text"])
            await copy.write_row((1, "x"))
        assert await value(conn, "select count(*) from t") == 1

    async def test_blocks_in(self, conn: Conn) -> None:
        """Eight megabytes in one write: the socket's buffer fills, and the writer waits."""
        block = "".join(f"{n}\t{'y' * 80}\n" for n in range(100_000))
        async with conn.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
            await copy.write(block)
        assert await value(conn, "select count(*) from t") == 100_000

    async def test_a_writer_of_ones_own(self, conn: Conn) -> None:
        async with conn.cursor() as cursor:
            writer = AsyncLibpqWriter(cursor)
            async with cursor.copy("copy t from stdin", writer=writer) as copy:
                await copy.write_row((1, "x"))
        assert await value(conn, "select count(*) from t") == 1

    async def test_out_in_blocks_and_in_rows(self, conn: Conn) -> None:
        async with conn.cursor() as cursor:
            async with cursor.copy("copy (select generate_series(1, 1000)) to stdout") as copy:
                blocks = [bytes(block) async for block in copy]
            assert b"".join(blocks).split() == [b"%d" % n for n in range(1, 1001)]
            async with cursor.copy("copy (select 1, 'a' union select 2, null) to stdout") as copy:
                copy.set_types(["int4", "text"])
                assert [row async for row in copy.rows()] == [(1, "a"), (2, None)]
            async with cursor.copy("copy (select 5::int4) to stdout (format binary)") as copy:
                copy.set_types(["int4"])
                assert await copy.read_row() == (5,)
                assert await copy.read_row() is None

    async def test_out_left_early(self, conn: Conn) -> None:
        with pytest.raises(KeyError):
            query = "copy (select generate_series(1, 100000000)) to stdout"
            async with conn.cursor() as cursor, cursor.copy(query) as copy:
                await copy.read()
                raise KeyError
        await assert_usable(conn)

    async def test_an_error_in_the_block_undoes_the_copy(self, conn: Conn) -> None:
        with pytest.raises(KeyError):
            async with conn.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
                await copy.write_row((1, "x"))
                raise KeyError
        assert await value(conn, "select count(*) from t") == 0
        await assert_usable(conn)

    async def test_bad_data_is_the_servers_error(self, conn: Conn) -> None:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            async with conn.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
                await copy.write("no number\tx\n")
        await assert_usable(conn)

    async def test_between_two_connections(self, conn: Conn, observer: Conn) -> None:
        await conn.execute("insert into t select n, 'x' from generate_series(1, 5000) n")
        await observer.execute("create table u (like t)")
        async with (
            conn.cursor() as source,
            observer.cursor() as sink,
            source.copy("copy t to stdout") as out,
            sink.copy("copy u from stdin") as into,
        ):
            async for block in out:
                await into.write(block)
        assert await value(observer, "select count(*) from u") == 5000


class TestPipeline:
    async def test_results_arrive(self, conn: Conn) -> None:
        async with conn.pipeline(), conn.cursor() as one, conn.cursor() as two:
            await one.execute("select 1")
            await two.execute("select 2")
            assert await two.fetchone() == (2,)
            assert await one.fetchone() == (1,)
        await assert_usable(conn)

    async def test_sync_reports_errors_and_the_pipeline_goes_on(self, conn: Conn) -> None:
        async with conn.pipeline() as pipeline:
            with pytest.raises(psycopg.errors.DivisionByZero):  # whichever operation its answer reaches first
                await conn.execute("select 1/0")
                await pipeline.sync()
            await pipeline.sync()
            assert await value(conn, "select 3") == 3
        await assert_usable(conn)

    async def test_leaving_reports_errors(self, conn: Conn) -> None:
        with pytest.raises(psycopg.errors.UndefinedTable):
            async with conn.pipeline():
                await conn.execute("select * from nowhere")
        await assert_usable(conn)

    async def test_nested_with_a_transaction(self, conn: Conn) -> None:
        await conn.execute("create table t (a int)")
        async with conn.pipeline(), conn.transaction():
            await conn.execute("insert into t values (1)")
            async with conn.pipeline(), conn.transaction():
                await conn.execute("insert into t values (2)")
        assert await value(conn, "select count(*) from t") == 2
        await assert_usable(conn)

    async def test_a_failed_transaction_inside_is_rolled_back(self, conn: Conn) -> None:
        await conn.execute("create table t (a int)")
        async with conn.pipeline():
            with pytest.raises(KeyError):
                async with conn.transaction():
                    await conn.execute("insert into t values (1)")
                    raise KeyError
            assert await value(conn, "select count(*) from t") == 0
        await assert_usable(conn)

    async def test_many_large_commands_and_answers_do_not_deadlock(self, conn: Conn) -> None:
        """Both directions fill up at once, so both have to be waited for at once."""
        big = "x" * (1 << 20)
        async with conn.pipeline():
            cursors = [await conn.execute("select %s::text", [big]) for _ in range(20)]
            for cursor in cursors:
                assert await cursor.fetchone() == (big,)
        await assert_usable(conn)

    async def test_other_tasks_have_their_turn_during_a_long_executemany(self, conn: Conn) -> None:
        await conn.execute("create table t (a int)")
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery, conn.cursor() as cursor:
            nursery.start_soon(count)
            await cursor.executemany("insert into t values (%s)", [(n,) for n in range(5000)])
            nursery.cancel_scope.cancel()
        assert turns > 5


class TestNotifications:
    async def test_they_are_received_from_another_connection(self, conn: Conn, observer: Conn) -> None:
        await conn.execute("listen topic")
        received: list[str] = []

        async def receive() -> None:
            async with aclosing(conn.notifies(stop_after=2)) as notifications:
                async for notification in notifications:
                    assert notification.channel == "topic"
                    assert notification.pid == observer.info.backend_pid
                    received.append(notification.payload)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await observer.execute("notify topic, 'a'")
            await observer.execute("notify topic, 'b'")
        assert received == ["a", "b"]
        await assert_usable(conn)

    async def test_those_received_during_other_operations_are_kept(self, conn: Conn) -> None:
        await conn.execute("listen topic")
        await conn.execute("notify topic, 'kept'")
        async with aclosing(conn.notifies(timeout=0)) as notifications:
            assert [notification.payload async for notification in notifications] == ["kept"]

    async def test_timeout(self, conn: Conn) -> None:
        await conn.execute("listen topic")
        started = trio.current_time()
        async with aclosing(conn.notifies(timeout=0.1)) as notifications:
            assert [notification async for notification in notifications] == []
        assert 0.1 <= trio.current_time() - started < 2
        await assert_usable(conn)

    async def test_timeout_of_nothing_still_looks_at_the_socket(self, conn: Conn, observer: Conn) -> None:
        await conn.execute("listen topic")
        await observer.execute("notify topic, 'there'")
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(conn.fileno())
        async with aclosing(conn.notifies(timeout=0)) as notifications:
            assert [notification.payload async for notification in notifications] == ["there"]

    async def test_handlers(self, conn: Conn) -> None:
        payloads: list[str] = []
        conn.add_notify_handler(lambda notification: payloads.append(notification.payload))
        await conn.execute("listen topic")
        await conn.execute("notify topic, 'x'")
        await conn.execute("select 1")
        assert payloads == ["x"]

    async def test_a_failing_handler_leaves_a_usable_connection(self, conn: Conn) -> None:
        def fail(notification: psycopg.Notify) -> None:
            raise KeyError(notification.payload)

        conn.add_notify_handler(fail)
        await conn.execute("listen topic")
        with pytest.raises(KeyError):
            await conn.execute("notify topic, 'x'")
        conn.remove_notify_handler(fail)
        assert conn.info.transaction_status == IDLE
        await assert_usable(conn)

    async def test_cancelling_the_wait_loses_nothing(self, conn: Conn, observer: Conn) -> None:
        """A notification that arrives afterwards is still there, and no cancel request was needed."""
        await conn.execute("listen topic")
        with trio.move_on_after(0.05):
            async with aclosing(conn.notifies()) as notifications:
                async for _ in notifications:
                    pass
        await assert_usable(conn)
        await observer.execute("notify topic, 'late'")
        with trio.fail_after(5):
            async with aclosing(conn.notifies(stop_after=1)) as notifications:
                assert [notification.payload async for notification in notifications] == ["late"]
