"""Group commit of spawns. Invariants: callers share commits; one bad row fails alone; a call is stored whole or not at
all, once, whatever is cut; nobody is told that something is stored which is not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from uuid import uuid4

import psycopg
import pytest
import trio

from requeuest_trio import (
    Client,
    DatabaseUnavailable,
    InvalidRequest,
    Request,
    RequeuestError,
    SchemaMismatch,
    migrate,
    open_requeuest,
)
from requeuest_trio._config import Config
from tests.engine.probe import QueueProbe
from tests.machine import within
from tests.postgres.harness import terminate
from tests.postgres_messages import committing
from tests.proxy import Proxy, open_proxy
from tests.waiting import until

REQUEST = Request.post("http://x.test/", content=b"x" * 200)


async def commits(probe: QueueProbe) -> int:
    """By how many transactions the jobs were stored."""
    return int(await probe.value("SELECT count(DISTINCT xmin::text) FROM requeuest.job"))


async def test_two_hundred_callers_share_few_commits(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, ()) as client:
        await client.spawn("c", REQUEST)
        before = await commits(probe)
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(
                    lambda n: client.spawn("c", REQUEST, ordering_key=f"k{n}" if n % 4 else None), number
                )
        assert await commits(probe) - before <= 8
    assert await probe.states() == {"available": 201}


async def test_a_poisoned_row_fails_alone(probe: QueueProbe) -> None:
    await probe.connection.execute("ALTER TABLE requeuest.job ADD CHECK (channel <> 'poison')")
    refused: list[str] = []

    async def spawn(channel: str) -> None:
        try:
            await client.spawn(channel, REQUEST)
        except InvalidRequest as error:
            refused.append(str(error))

    async with open_requeuest(probe.dsn, ()) as client:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(spawn, "poison" if number == 15 else "c")
        assert len(refused) == 1
        assert refused[0].startswith("request: PostgreSQL refuses to store it: ")
        with pytest.raises(InvalidRequest, match="PostgreSQL refuses to store it"):
            await client.spawn_many("poison", [REQUEST] * 3)
    assert await probe.states() == {"available": 29}


async def test_cancelled_before_its_turn_nothing_is_stored(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, (), config=Config(statement_timeout=30)) as client:
        async with probe.connection.transaction():
            await probe.connection.execute("LOCK TABLE requeuest.job IN EXCLUSIVE MODE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.spawn, "flushing", REQUEST)
                await until(lambda: is_waiting(probe))
                with trio.move_on_after(0.05) as scope:
                    await client.spawn("never", REQUEST)
                assert scope.cancelled_caught
                await probe.connection.execute("SAVEPOINT a")
                nursery.cancel_scope.cancel()
        await client.spawn("after", REQUEST)
    # A flush of several is nobody's own, and goes on; a lone one is its caller's, and is cancelled with it.
    assert await probe.rows("SELECT channel FROM requeuest.job") == [("after",)]


async def is_waiting(probe: QueueProbe) -> bool:
    return bool(await probe.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))


async def test_many_are_stored_in_one_transaction(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, ()) as client:
        await client.spawn_many("c", [REQUEST])
        before = await commits(probe)
        ids = await client.spawn_many("c", [REQUEST] * 10_001)
        assert await commits(probe) - before == 1
        assert len(set(ids)) == 10_001
        big = [Request.post("http://x.test/", content=b"%d" % n + b"x" * 3_000_000) for n in range(12)]
        await client.spawn_many("big", big, ordering_key="k")
        assert await commits(probe) - before == 2
    lengths = await probe.rows(
        "SELECT count(*), min(length(body)), count(DISTINCT body) FROM requeuest.job WHERE channel = 'big'"
    )
    assert lengths == [(12, 3_000_001, 12)]


async def kill_while_inserting(probe: QueueProbe) -> None:
    sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    await probe.until_true(sleeping)
    await terminate(probe.connection, await probe.value(sleeping))


SLOW_ONCE = """
CREATE SEQUENCE public.tries;
CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.tries') %% 10000 = 5000 AND currval('public.tries') < {until} THEN
        PERFORM pg_sleep(30);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER slow BEFORE INSERT ON requeuest.job FOR EACH ROW EXECUTE FUNCTION public.slow();
"""


@pytest.mark.parametrize("times", [1, 2])
async def test_a_backend_killed_in_the_middle_leaves_all_or_nothing(probe: QueueProbe, times: int) -> None:
    """Once: the call is repeated, and everything is stored once. Twice: it fails, and nothing is."""
    await probe.connection.execute(SLOW_ONCE.format(until=10_000 * times).replace("%%", "%").encode())
    async with (
        open_requeuest(probe.dsn, (), config=Config(statement_timeout=60)) as client,
        trio.open_nursery() as nursery,
    ):

        async def kill() -> None:
            for _ in range(times):
                await kill_while_inserting(probe)
                # The rows of the try that was killed have counted up to the middle; make the next begin anew.
                begin = 10_000 if times == 1 else 9_999
                await probe.connection.execute(f"SELECT setval('public.tries', {begin})".encode())

        nursery.start_soon(kill)
        ids = [uuid4() for _ in range(9_000)]
        if times == 1:
            assert await client.spawn_many("c", [REQUEST] * 9_000, job_id=ids) == ids
        else:
            with pytest.raises(DatabaseUnavailable, match="repeat it with the same job_id") as caught:
                await client.spawn_many("c", [REQUEST] * 9_000, job_id=ids)
            assert caught.value.job_ids == tuple(ids)
    assert await probe.states() == ({"available": 9_000} if times == 1 else {})


@pytest.mark.needs_sessions("what it loses is the answer to a lone statement, not to a COMMIT")
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_commit_whose_answer_is_lost_is_repeated_and_stored_once(probe: QueueProbe, key: str | None) -> None:
    async with open_proxy(probe.dsn) as proxy, _enqueuing(proxy) as client:
        for call, statement in ((spawn, "spawn_one"), (spawn_many, "spawn")):
            await call(client, "warm", key)
            loss = proxy.drop_next_reply(committing(statement if key is None else "spawn_ordered"))
            await call(client, call.__name__, key)
            assert loss.happened.is_set()
    counts = await probe.rows("SELECT channel, count(*) FROM requeuest.job GROUP BY channel ORDER BY channel")
    assert counts == [("spawn", 1), ("spawn_many", 3), ("warm", 4)]
    assert await probe.states() == ({"available": 8} if key is None else {"available": 3, "blocked": 5})


def _enqueuing(proxy: Proxy) -> AbstractAsyncContextManager[Client]:
    return open_requeuest(proxy.dsn, (), config=Config(notifications=False))


async def spawn(client: Client, channel: str, key: str | None) -> None:
    await client.spawn(channel, REQUEST, ordering_key=key)


async def spawn_many(client: Client, channel: str, key: str | None) -> None:
    await client.spawn_many(channel, [REQUEST] * 3, ordering_key=key)


@pytest.mark.needs_sessions("what it loses is the answer to a lone statement, not to a COMMIT")
async def test_the_commit_of_a_long_batch_whose_answer_is_lost_is_repeated(probe: QueueProbe) -> None:
    async with open_proxy(probe.dsn) as proxy, _enqueuing(proxy) as client:
        await client.spawn_many("warm", [REQUEST] * 2_500)
        loss = proxy.drop_next_reply(committing("spawn"))
        await client.spawn_many("c", [REQUEST] * 2_500)
        assert loss.happened.is_set()
    assert await probe.states() == {"available": 5_000}


async def test_callers_who_come_back_at_once_share_every_commit(probe: QueueProbe) -> None:
    """Those that a flush has served are in the next one, together with who came meanwhile."""

    async def spawn_again_and_again() -> None:
        for _ in range(20):
            await client.spawn("c", REQUEST)

    async with open_requeuest(probe.dsn, ()) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(32):
                nursery.start_soon(spawn_again_and_again)
        assert await commits(probe) <= 24
    assert await probe.states() == {"available": 640}


async def test_an_outage_is_told_soon_and_over_with_its_end(probe: QueueProbe) -> None:
    async with open_proxy(probe.dsn) as proxy:
        config = Config(connect_timeout=0.5, notifications=False)
        async with open_requeuest(proxy.dsn, (), config=config) as client:
            await client.spawn("c", REQUEST)
            proxy.freeze()
            proxy.cut()
            with trio.fail_after(4), pytest.raises(DatabaseUnavailable) as caught:
                await client.spawn("c", REQUEST)
            assert len(caught.value.job_ids) == 1
            proxy.thaw()
            await client.spawn("c", REQUEST)
    assert await probe.states() == {"available": 2}


async def test_tables_that_vanish_are_an_error_of_each_call_and_not_the_end(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, (), poll_interval=0.05) as client:
        job_id = await client.spawn("c", REQUEST)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.wait, job_id)
            await probe.until_true("SELECT awaited FROM requeuest.job")
            await probe.connection.execute("ALTER SCHEMA requeuest RENAME TO elsewhere")
            for _ in range(2):
                with pytest.raises(SchemaMismatch, match="the tables are not what this library expects"):
                    await client.spawn("c", REQUEST)
                with pytest.raises(SchemaMismatch):
                    await client.spawn_many("c", [REQUEST])
            await trio.sleep(0.2)  # several polls of the waiters
            await probe.connection.execute("ALTER SCHEMA elsewhere RENAME TO requeuest")
            await client.spawn("c", REQUEST)
            nursery.cancel_scope.cancel()
    assert await probe.states() == {"available": 2}
    await migrate(probe.dsn)


async def test_an_id_that_another_transaction_has_stored_holds_up_its_caller_alone(probe: QueueProbe) -> None:
    taken, told = uuid4(), list[str]()

    async def spawn_taken(client: Client) -> None:
        with pytest.raises(DatabaseUnavailable, match=r"job_id, spawn with its connection=") as caught:
            await client.spawn("c", REQUEST, job_id=taken)
        assert caught.value.job_ids == (taken,)
        told.append(str(caught.value))

    async with (
        open_requeuest(probe.dsn, (), config=Config(statement_timeout=4)) as client,
        client.transaction() as connection,
        trio.open_nursery() as nursery,
    ):
        await client.spawn("c", REQUEST, job_id=taken, connection=connection)
        nursery.start_soon(spawn_taken, client)
        with within(1.5):
            async with trio.open_nursery() as others:
                for _ in range(50):
                    others.start_soon(client.spawn, "c", REQUEST)
        assert not told
    assert "may have been stored" not in told[0]
    assert await probe.states() == {"available": 51}


async def test_callers_who_wait_for_a_key_leave_the_connections_to_others(probe: QueueProbe) -> None:
    async with (
        open_requeuest(probe.dsn, (), config=Config(statement_timeout=4, pool_size=2)) as client,
        trio.open_nursery() as nursery,
        client.transaction() as connection,
    ):
        await client.spawn("c", REQUEST, ordering_key="k", connection=connection)
        for _ in range(10):
            nursery.start_soon(lambda: client.spawn_many("c", [REQUEST] * 2, ordering_key="k"))
            nursery.start_soon(lambda: client.spawn("c", REQUEST, ordering_key="k"))
        await trio.sleep(0.3)
        with within(1):
            for _ in range(10):
                await client.job(uuid4())
    assert await probe.states() == {"available": 1, "blocked": 30}


async def test_what_postgresql_refuses_is_an_error_of_the_library(probe: QueueProbe) -> None:
    refusal = "RETURNS {} LANGUAGE plpgsql AS $$ BEGIN RAISE insufficient_privilege; END $$;"
    async with open_requeuest(probe.dsn, ()) as client:
        job_id = await client.spawn("c", REQUEST)
        await probe.connection.execute(
            f"CREATE FUNCTION public.refuse() {refusal.format('trigger')}"
            f"CREATE OR REPLACE FUNCTION requeuest.readable(at timestamptz) {refusal.format('timestamptz')}"
            "CREATE TRIGGER no BEFORE INSERT ON requeuest.job FOR EACH ROW EXECUTE FUNCTION public.refuse()".encode()
        )
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: client.job(job_id),
            lambda: anext(aiter(client.jobs())),
            lambda: client.spawn("c", REQUEST),
            lambda: client.spawn_many("c", [REQUEST]),
        ]
        for call in calls:
            with pytest.raises(RequeuestError, match=r"^PostgreSQL refuses: insufficient_privilege") as caught:
                await call()
            assert isinstance(caught.value.__cause__, psycopg.errors.InsufficientPrivilege)
