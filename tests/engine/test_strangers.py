"""
A role that may connect to the database, and nothing else. Invariant: it can take any advisory lock, but none that the
queue needs is known to it before it has been seen; and one that was seen holds up only new jobs of its key, for a time.

What could go wrong: a number made of names that everybody can guess; a secret that others may read, or a function of it
that they may call; and an outcome, a job without a key or another key that waits for what the stranger has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from requeuest_trio import Config, DatabaseUnavailable, Request, migrate, open_requeuest
from requeuest_trio._store.migrate import migrations
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe
from tests.engine.roles import another_role
from tests.poolers import direct
from tests.postgres.harness import Conn, connect, value
from tests.waiting import until

FORMER = """
    SELECT pg_advisory_lock(hashtextextended('migrate requeuest', 7237)), pg_advisory_lock(7237),
           pg_advisory_lock(hashtextextended(E'c\\x1fk', 7237)),
           pg_advisory_lock(hashtextextended(E'c\\x1fk', coalesce(to_regclass('requeuest.job')::oid::bigint, 0)))
"""
HELD = """
    SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
    WHERE locktype = 'advisory' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
PRODUCER = """
    GRANT USAGE ON SCHEMA requeuest TO {role}; GRANT SELECT ON requeuest.migration, requeuest.channel TO {role};
    GRANT SELECT, INSERT ON requeuest.job TO {role}; GRANT USAGE ON SEQUENCE requeuest.job_position TO {role}
"""
UP = [f"{step.name}.up" for step in migrations()]
DOWN = [f"{step.name}.down" for step in reversed(migrations())]


@asynccontextmanager
async def stranger(dsn: str) -> AsyncIterator[Conn]:
    with another_role(dsn) as theirs:
        async with await connect(theirs) as connection:
            yield connection


@asynccontextmanager
async def answering_later() -> AsyncIterator[tuple[str, trio.Event, trio.Event]]:
    """A receiver of one request: its URL, an event that it has come, and one that lets it be answered."""
    asked, answer = trio.Event(), trio.Event()

    async def serve() -> None:
        async with await listener.accept() as stream:
            await stream.receive_some()
            asked.set()
            await answer.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve)  # noqa: ASYNC113 - it is waited for below
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/", asked, answer
        nursery.cancel_scope.cancel()


async def test_what_was_known_of_the_locks_is_in_nobody_s_way(probe: QueueProbe) -> None:
    async with stranger(probe.dsn) as theirs, open_requeuest(probe.dsn, ()) as client:
        # The number of the table is in the catalogue, which is open to everybody.
        number = await probe.value("SELECT 'requeuest.job'::regclass::oid::bigint")
        await theirs.execute("SELECT pg_advisory_lock(hashtextextended(E'c\\x1fk', %s))", [number])
        await theirs.execute("SELECT pg_advisory_lock(hashtextextended(E'c\\x1fk', 7237))")
        with trio.fail_after(5):
            await client.spawn("c", Request.get("http://x.test/"), ordering_key="k")


async def test_migrations_take_no_lock_that_a_stranger_could(dsn: str) -> None:
    async with stranger(dsn) as theirs:
        await theirs.execute(FORMER.encode())
        held = await value(theirs, f"SELECT count(*) FROM ({HELD}) AS held")
        with trio.fail_after(20):
            assert await migrate(dsn) == UP
            assert await migrate(dsn) == []
            async with await connect(dsn) as holder, trio.open_nursery() as nursery, holder.transaction():
                await holder.execute(b"LOCK TABLE requeuest.job IN SHARE UPDATE EXCLUSIVE MODE")
                nursery.start_soon(_take_away, dsn)

                async def is_waiting() -> bool:
                    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'requeuest.job'::regclass"
                    return bool(await value(holder, waiting))

                await until(is_waiting)
                assert await value(theirs, f"SELECT count(*) FROM ({HELD}) AS held") == held


async def _take_away(dsn: str) -> None:
    assert await migrate(dsn, target=0) == DOWN


async def test_nobody_can_work_the_number_of_a_lock_out(probe: QueueProbe) -> None:
    async with stranger(probe.dsn) as theirs:
        for statement in ("SELECT requeuest.key_lock('c', 'k')", "SELECT value FROM requeuest.key_secret"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await theirs.execute(statement.encode())
    with another_role(probe.dsn, PRODUCER) as producer:
        async with open_requeuest(producer, ()) as client:
            await client.spawn("c", Request.get("http://x.test/"), ordering_key="k")
        async with await connect(producer) as theirs:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await theirs.execute(b"SELECT value FROM requeuest.key_secret")


async def test_a_lock_that_was_seen_and_taken_holds_up_new_jobs_of_its_key_only(
    probe: QueueProbe, receiver: Receiver
) -> None:
    request = Request.get(receiver.url)
    config = Config(statement_timeout=1.0)
    async with (
        stranger(probe.dsn) as theirs,
        answering_later() as (slow_url, asked, answer),
        open_requeuest(probe.dsn, poll_interval=0.1, config=config) as client,
    ):
        slow = await client.spawn("c", Request.get(slow_url), ordering_key="k")
        await asked.wait()
        async with client.transaction() as connection:
            await client.spawn("c", request, ordering_key="k", connection=connection)
            [number] = [row[0] for row in await (await theirs.execute(HELD.encode())).fetchall()]
        await theirs.execute("SELECT pg_advisory_lock(%s)", [number])
        who = f"process {theirs.info.backend_pid} of {theirs.info.user}"
        with trio.fail_after(10):
            with pytest.raises(DatabaseUnavailable, match=f"advisory lock of the ordering key .* by {who};"):
                await client.spawn("c", request, ordering_key="k")
            with pytest.raises(DatabaseUnavailable, match=f"advisory lock of the ordering key .* by {who};"):
                await client.spawn_many("c", [request], ordering_key="k")
            assert (await client.spawn_returning("c", request)).status_code == 200
            assert (await client.spawn_returning("c", request, ordering_key="another")).status_code == 200
            answer.set()
            assert (await client.result(slow)).status_code == 200
        await theirs.execute("SELECT pg_advisory_unlock(%s)", [number])
        await probe.until_states(succeeded=4)


async def test_the_secret_is_one_queue_s_own_and_goes_with_its_migration(dsn: str) -> None:
    async with await connect(dsn) as probe:
        lock = "SELECT {}.key_lock('c', 'k')"
        for schema in ("one", "two"):
            await migrate(dsn, schema=schema, target=3)
        former = await value(probe, lock.format("one"))
        for schema in ("one", "two"):
            await migrate(dsn, schema=schema)
        first = await value(probe, lock.format("one"))
        assert len({former, first, await value(probe, lock.format("two"))}) == 3
        assert await value(probe, "SELECT octet_length(value) FROM one.key_secret") == 32
        await migrate(dsn, schema="one", target=3)
        assert await value(probe, lock.format("one")) == former
        await migrate(dsn, schema="one")
        assert await value(probe, lock.format("one")) not in {former, first}


async def test_the_secret_belongs_to_the_owner_whoever_of_its_members_migrates(dsn: str) -> None:
    with (
        another_role(dsn, "CREATE SCHEMA requeuest AUTHORIZATION {role}") as owner,
        another_role(dsn, f"GRANT {conninfo_to_dict(owner)['user']} TO {{role}}") as member,
    ):
        await migrate(owner, target=3)
        await migrate(member)
        async with open_requeuest(owner, ()) as client:
            await client.spawn("c", Request.get("http://x.test/"), ordering_key="k")


async def test_without_the_secret_no_lock_is_passed_over(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, ()) as client:
        await probe.connection.execute(b"DELETE FROM requeuest.key_secret")
        with pytest.raises(DatabaseUnavailable, match="returned no rows"):
            await client.spawn("c", Request.get("http://x.test/"), ordering_key="k")


@pytest.mark.parametrize("is_committed", [True, False])
async def test_two_make_the_schema_and_the_second_goes_on_from_the_first(dsn: str, is_committed: bool) -> None:
    async with await connect(dsn) as first, await connect(direct(dsn)) as observer:
        applied: list[str] = []

        async def second() -> None:
            applied.extend(await migrate(dsn))

        async def is_waiting() -> bool:
            return bool(await value(observer, "SELECT count(*) FROM pg_locks WHERE NOT granted"))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery, first.transaction(force_rollback=not is_committed):
                await first.execute(b"CREATE SCHEMA requeuest")
                nursery.start_soon(second)
                await until(is_waiting)
        assert applied == UP
