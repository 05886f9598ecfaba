"""Each fault of the proxy does what it says, to the direction and the connections that are meant, and to no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from requeuest_trio import Config, Request, migrate, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe, nothing_left
from tests.postgres.harness import Conn, connect, value
from tests.postgres_messages import committing, executing, query_texts
from tests.proxy import Proxy, Toward, open_proxy
from tests.waiting import until

NOTE = "insert into note values (%s)"
NOTED = "insert into note values ($1)"
SHORT = 0.2


@pytest.fixture
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    async with open_proxy(dsn) as opened:
        yield opened


@pytest.fixture
async def direct(dsn: str) -> AsyncIterator[Conn]:
    """A connection past the proxy, and a table."""
    async with await connect(dsn) as connection:
        await connection.execute("create table note (number integer)")
        yield connection


@asynccontextmanager
async def through(proxy: Proxy) -> AsyncIterator[Conn]:
    connection = await connect(proxy.dsn)
    try:
        yield connection
    finally:
        connection.close_nowait()


async def _numbers(direct: Conn) -> list[int]:
    return [number for (number,) in await (await direct.execute("select number from note order by 1")).fetchall()]


async def test_everything_passes(proxy: Proxy, direct: Conn) -> None:
    async with through(proxy) as conn:
        for number in range(10):  # some of them by a prepared statement
            await conn.execute(NOTE, [number])
        assert proxy.links[0].conversation.executed.count(NOTED) == 10
        large = "x" * 3_000_000
        assert await value(conn, "select %s::text", large) == large
        with pytest.raises(psycopg.errors.DivisionByZero):
            await conn.execute("select 1 / %s", [0])
        async with conn.cursor() as cursor, cursor.copy("copy note from stdin") as copy:
            await copy.write_row([10])
        with trio.move_on_after(SHORT):
            await conn.execute("select pg_sleep(60)")  # which is cancelled over a connection of its own
        assert await value(conn, "select 1") == 1
        assert proxy.accepted >= 2
    assert await _numbers(direct) == [*range(11)]


async def test_a_frozen_direction_lets_nothing_through_until_it_is_thawed(proxy: Proxy, direct: Conn) -> None:
    async with through(proxy) as conn, trio.open_nursery() as nursery:
        for number, toward in enumerate(Toward):
            proxy.freeze(toward)
            with trio.move_on_after(SHORT):
                await connect(proxy.dsn)
                raise AssertionError("a new connection was served")
            nursery.start_soon(conn.execute, NOTE, [number])
            await trio.sleep(SHORT)
            # Frozen towards the client, it is carried out, and nobody hears of it.
            assert (number in await _numbers(direct)) == (toward is Toward.CLIENT)
            assert nursery.child_tasks
            proxy.thaw()
            await until(lambda: not nursery.child_tasks)
    assert await _numbers(direct) == [0, 1]


async def test_one_connection_is_frozen_and_others_go_on(proxy: Proxy, direct: Conn) -> None:
    async with through(proxy) as one, through(proxy) as other:
        await one.execute(NOTE, [1])
        [link] = proxy.used_for(NOTED)
        link.freeze()
        with trio.fail_after(5):
            await other.execute("select 1")
        with trio.move_on_after(SHORT) as waiting:
            await trio.lowlevel.wait_readable(one.fileno())
        assert waiting.cancelled_caught
    assert await _numbers(direct) == [1]


async def test_a_cut_connection_breaks_at_once(proxy: Proxy) -> None:
    async with through(proxy) as conn:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(_must_break, conn))
            await until(lambda: proxy.used_for("select pg_sleep(60)"))
            proxy.cut()
        assert conn.broken
    assert not proxy.links


async def _must_break(conn: Conn) -> None:
    with trio.fail_after(5), pytest.raises(psycopg.OperationalError, match=r"reset by peer|closed"):
        await conn.execute("select pg_sleep(60)")


async def test_a_delay_counts_for_each_direction(proxy: Proxy) -> None:
    async with through(proxy) as conn:
        [link] = proxy.links
        for towards, least in (((Toward.SERVER,), SHORT), ((Toward.CLIENT,), SHORT), ((), 2 * SHORT)):
            link.delay(SHORT, *towards)
            began = trio.current_time()
            await conn.execute("select 1")
            assert trio.current_time() - began >= least
            link.delay(0)


async def test_a_half_closed_connection_ends_for_one_side(proxy: Proxy, direct: Conn) -> None:
    async with through(proxy) as conn:
        proxy.links[0].half_close(Toward.CLIENT)
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(conn.fileno())
        with pytest.raises(psycopg.OperationalError):
            await conn.execute(NOTE, [1])
    async with through(proxy) as conn:
        proxy.links[-1].half_close(Toward.SERVER)
        with pytest.raises(psycopg.OperationalError):  # the server ends the session
            await conn.execute(NOTE, [2])


@pytest.mark.parametrize("times", [1, 10], ids=["once", "prepared"])
async def test_a_lost_reply_was_carried_out_and_a_lost_request_was_not(proxy: Proxy, direct: Conn, times: int) -> None:
    for drop, number in ((proxy.drop_next_request, 1), (proxy.drop_next_reply, 2)):
        async with through(proxy) as conn, through(proxy) as other:
            for _ in range(times):
                await conn.execute(NOTE, [0])
            loss = drop(executing(NOTED))
            with pytest.raises(psycopg.OperationalError):
                await conn.execute(NOTE, [number])
            assert loss.happened.is_set()
            await other.execute(NOTE, [3])  # the next one is not lost
    assert sorted({*await _numbers(direct)}) == [0, 2, 3]


async def test_the_commit_that_is_lost_is_that_of_a_certain_transaction(proxy: Proxy, direct: Conn) -> None:
    async with through(proxy) as conn:
        loss = proxy.drop_next_reply(committing(NOTED))
        async with conn.transaction():
            await conn.execute("select 1")
        assert not loss.happened.is_set()
        with pytest.raises(psycopg.OperationalError):
            async with conn.transaction():
                await conn.execute(NOTE, [1])
        assert loss.happened.is_set()
    assert await _numbers(direct) == [1]


async def test_a_connection_is_known_by_the_name_of_its_program(proxy: Proxy) -> None:
    dsn = make_conninfo(proxy.dsn, application_name="a program")
    async with through(proxy), await connect(dsn):
        assert [link.conversation.program for link in proxy.links] == [None, "a program"]


async def test_statements_of_the_library_go_by_their_names(probe: QueueProbe, receiver: Receiver) -> None:
    async with nothing_left(probe), open_proxy(probe.dsn) as proxy:
        async with open_requeuest(proxy.dsn, poll_interval=0.2, lease=1.0, config=Config(pool_size=2)) as client:
            request = Request.get(receiver.url)
            await client.spawn_returning("a", request)
            await client.spawn_many("a", [request] * 2, ordering_key="k")
            await probe.until_states(succeeded=3)
            for names in (["listen"], ["claim"], ["record"], ["spawn_one", "spawn_claimed"], ["spawn_ordered"]):
                assert len(proxy.used_for(*names)) == 1, names
            assert proxy.used_for("listen") != proxy.used_for("claim") != proxy.used_for("record")
        assert await migrate(proxy.dsn) == []
    assert set(proxy.executed) - query_texts().keys() == {"BEGIN", "COMMIT"}
