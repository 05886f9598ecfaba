"""Jobs in transactions of the application's. Invariants: a job shares the fate of its transaction; workers are woken
when it commits; the application's errors and settings stay its own; nobody else is held up."""

from __future__ import annotations

import psycopg
import pytest
import trio

from requeuest_trio import (
    DatabaseUnavailable,
    InvalidRequest,
    JobState,
    Request,
    TrioConnection,
    migrate,
    open_requeuest,
)
from requeuest_trio._config import Config
from requeuest_trio._postgres import PoolTimeout
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe
from tests.postgres.harness import connect, terminate

NEVER = 600.0
"""A poll interval that shows who was woken by a notification."""


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_commit_wakes_the_workers_and_rollback_sends_nothing(probe: QueueProbe, receiver: Receiver) -> None:
    await probe.connection.execute("CREATE TABLE orders (id int)")
    async with open_requeuest(probe.dsn, poll_interval=NEVER) as client:
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012
            async with client.transaction() as connection:
                await connection.execute("INSERT INTO orders VALUES (1)")
                await client.spawn("c", Request.get(receiver.url + "/no"), connection=connection)
                raise KeyError("mine")
        async with client.transaction() as connection:
            await connection.execute("INSERT INTO orders VALUES (2)")
            first = await client.spawn("c", Request.get(receiver.url + "/1"), connection=connection)
            rest = await client.spawn_many(
                "c", [Request.get(f"{receiver.url}/{n}") for n in (2, 3)], ordering_key="k", connection=connection
            )
            assert await client.job(first) is None
            assert receiver.arrivals == []
        with trio.fail_after(5):
            for job_id in (first, *rest):
                await client.result(job_id)
    assert sorted(arrival.target for arrival in receiver.arrivals) == ["/1", "/2", "/3"]
    assert await probe.rows("SELECT id FROM orders") == [(2,)]


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_connection_of_the_users_own(
    probe: QueueProbe, receiver: Receiver, autocommit: bool, key: str | None
) -> None:
    request = Request.get(receiver.url)
    async with open_requeuest(probe.dsn, (), poll_interval=NEVER) as client:
        connection = await TrioConnection.connect(probe.dsn, autocommit=autocommit)
        async with connection:
            if autocommit:
                await client.spawn("c", request, ordering_key=key, connection=connection)
                assert await probe.states() == {"available": 1}
            else:
                await client.spawn("c", request, ordering_key=key, connection=connection)
                assert await probe.states() == {}
                await connection.rollback()
                assert await probe.states() == {}
                await client.spawn_many("c", [request], ordering_key=key, connection=connection)
                await connection.commit()
                assert await probe.states() == {"available": 1}


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_a_savepoint_rolled_back_takes_its_jobs_along(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_requeuest(probe.dsn, poll_interval=NEVER) as client:
        async with client.transaction() as connection:
            kept = await client.spawn("c", Request.get(receiver.url + "/a"), ordering_key="k", connection=connection)
            with pytest.raises(psycopg.errors.DivisionByZero):  # noqa: PT012
                async with connection.transaction():
                    await client.spawn("c", Request.get(receiver.url + "/b"), ordering_key="k", connection=connection)
                    await connection.execute("SELECT 1 / 0")
            last = await client.spawn("c", Request.get(receiver.url + "/c"), ordering_key="k", connection=connection)
        await client.result(kept)
        await client.result(last)
    assert [arrival.target for arrival in receiver.arrivals] == ["/a", "/c"]
    assert await probe.states() == {"succeeded": 2}


@pytest.mark.needs_sessions("it looks at its session")
async def test_the_librarys_limits_do_not_apply_inside_and_the_connection_comes_back_clean(probe: QueueProbe) -> None:
    config = Config(statement_timeout=0.1, pool_size=2)
    async with open_requeuest(probe.dsn, (), config=config) as client:
        async with client.transaction() as connection:
            await connection.execute("SELECT pg_sleep(0.3)")
            await connection.execute("SET LOCAL work_mem = '7MB'")
            pid = connection.info.backend_pid
        async with client._database.connection() as again:
            assert again.info.backend_pid == pid
            assert again.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            row = await (await again.execute("SELECT current_setting('statement_timeout')")).fetchone()
            assert row == ("100ms",)
            with pytest.raises(psycopg.errors.QueryCanceled):
                await again.execute("SELECT pg_sleep(5)")
        assert client._database._pool.statistics().in_use == 0


@pytest.mark.needs_sessions("it looks at its session")
async def test_errors_inside_are_bare_and_those_at_the_edges_are_translated(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, (), config=Config(connect_timeout=0.5, pool_size=2)) as client:
        with pytest.raises(psycopg.errors.UndefinedTable):
            async with client.transaction() as connection:
                await connection.execute("SELECT * FROM nowhere")
        with pytest.raises(psycopg.OperationalError):  # noqa: PT012
            async with client.transaction() as connection:
                await terminate(probe.connection, connection.info.backend_pid)
                await connection.execute("SELECT 1")
        with pytest.raises(DatabaseUnavailable) as caught:  # noqa: PT012
            async with client.transaction() as connection:
                await client.spawn("c", Request.get("http://x.test/"), connection=connection)
                await terminate(probe.connection, connection.info.backend_pid)
        assert isinstance(caught.value.__cause__, psycopg.OperationalError)
        async with client._database.connection(), client._database.connection():
            with pytest.raises(DatabaseUnavailable) as caught:
                async with client.transaction():
                    pass
        assert isinstance(caught.value.__cause__, PoolTimeout)
    assert await probe.states() == {}


async def test_repeatable_read_with_an_ordering_key_is_a_clear_error(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, ()) as client:
        with pytest.raises(InvalidRequest, match="needs READ COMMITTED, not REPEATABLE READ"):  # noqa: PT012
            async with client.transaction() as connection:
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                await client.spawn("c", Request.get("http://x.test/"), ordering_key="k", connection=connection)
    assert await probe.states() == {}


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_a_transaction_that_holds_a_key_holds_up_nobody_else(probe: QueueProbe, receiver: Receiver) -> None:
    request = Request.get(receiver.url)
    async with open_requeuest(probe.dsn, poll_interval=NEVER, lease=3.0, grace=0) as client:
        first = await client.spawn("c", request, ordering_key="k")
        await client.result(first)
        async with trio.open_nursery() as nursery, client.transaction() as connection:
            await client.spawn("c", request, ordering_key="k", connection=connection)
            nursery.start_soon(lambda: client.spawn("c", request, ordering_key="k"))
            with trio.fail_after(3):
                for channel in ("c", "d"):
                    await client.spawn_returning(channel, request)
                await client.spawn_returning("c", request, ordering_key="another")
            assert await probe.states() == {"succeeded": 4}
        await probe.until_states(succeeded=6)


async def test_a_key_held_for_too_long_is_said_to_be(probe: QueueProbe) -> None:
    request = Request.get("http://x.test/")
    config = Config(statement_timeout=0.2)
    async with open_requeuest(probe.dsn, (), config=config) as client, client.transaction() as connection:
        await client.spawn("c", request, ordering_key="k", connection=connection)
        with pytest.raises(DatabaseUnavailable, match="the advisory lock of the ordering key was held for too long"):
            await client.spawn("c", request, ordering_key="k")
    assert await probe.states() == {"available": 1}


async def test_two_queues_in_one_database_do_not_see_each_other(probe: QueueProbe, receiver: Receiver) -> None:
    await migrate(probe.dsn, schema="second")
    await probe.connection.execute("CREATE TABLE job (id int); CREATE TABLE attempt (id int); CREATE SCHEMA mine")
    async with (
        open_requeuest(probe.dsn, ["c"], poll_interval=0.1) as one,
        open_requeuest(probe.dsn, (), schema="second", poll_interval=0.1) as two,
    ):
        there = await two.spawn("c", Request.get(receiver.url + "/two"))
        here = await one.spawn("c", Request.get(receiver.url + "/one"))
        await one.result(here)
        assert await one.job(there) is None
        assert await two.job(here) is None
        job = await two.job(there)
        assert job is not None
        assert job.state is JobState.AVAILABLE
    assert [arrival.target for arrival in receiver.arrivals] == ["/one"]


async def test_a_failed_transaction_says_so(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, ()) as client, await connect(probe.dsn, autocommit=False) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("SELECT 1 / 0")
        with pytest.raises(InvalidRequest, match=r"^connection: a statement of its transaction has failed"):
            await client.spawn("c", Request.get("http://x.test/"), connection=connection)
        await connection.rollback()
        await client.spawn("c", Request.get("http://x.test/"), connection=connection)
    with pytest.raises(trio.ClosedResourceError):
        async with client.transaction():
            pass


async def test_waiting_for_a_transaction_has_an_end(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, (), config=Config(pool_size=2, connect_timeout=0.2)) as client:
        async with client.transaction():
            with trio.fail_after(2), pytest.raises(DatabaseUnavailable, match=r"within 0.2 s: .*Config.pool_size"):
                async with client.transaction():
                    pass
        async with client.transaction():
            pass


async def test_a_connection_after_its_block_is_refused(probe: QueueProbe) -> None:
    request = Request.get("http://x.test/")
    async with open_requeuest(probe.dsn, ()) as client:
        async with client.transaction() as connection:
            pass
        with pytest.raises(InvalidRequest, match=r"^connection: its client.transaction\(\) block has ended"):
            await client.spawn("c", request, connection=connection)
        async with await connect(probe.dsn) as own:
            pass
        with pytest.raises(InvalidRequest, match=r"^connection: is closed"):
            await client.spawn("c", request, connection=own)
    assert await probe.states() == {}
