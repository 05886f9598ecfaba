"""
Sessions that `client.transaction()` has lent. Invariant: whatever the application does to its session, and however the
block ends, whoever has it next finds it as new; what can't be made so is closed, and no caller waits long for that.

What could go wrong: statements of the library that run along the application's path, in its role or under its limits;
locks and temporary tables that stay for as long as the client; statements that psycopg takes for prepared, and that are
gone, or others; and cleaning that hides the error of a block, or takes for ever.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import TextLoader

from requeuest_trio import Client, Config, Request, open_requeuest
from requeuest_trio._postgres import pool, prepared_names
from requeuest_trio._postgres.transaction import TrioServerCursor
from tests.engine.probe import QueueProbe
from tests.engine.roles import another_role
from tests.postgres.harness import AtCheckpoint, Conn, value
from tests.waiting import until

pytestmark = pytest.mark.needs_sessions("there is none to be cleaned; see faults/test_pooler.py")

REQUEST = Request.get("http://x.test/")
ONE_SESSION = Config(pool_size=2)
"""One for the application's transactions; what comes after one of them takes the same."""
STATE = """
    SELECT session_user, current_user,
           (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name NOT LIKE 'transaction_%'),
           ARRAY(SELECT name FROM pg_prepared_statements WHERE from_sql), ARRAY(SELECT pg_listening_channels()),
           ARRAY(SELECT name FROM pg_cursors WHERE is_holdable),
           ARRAY(SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
           ARRAY(SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
           coalesce(current_setting('mine.own', true), '')
"""
LEFT = {
    "a path": "SET search_path = nowhere",
    "limits": "SET statement_timeout = '54s'; SET lock_timeout = '1ms'",
    "formats": "SET DateStyle = German; SET TimeZone = 'Asia/Kathmandu'; SET client_encoding = LATIN1",
    "plans": "SET enable_seqscan = on; SET enable_indexscan = off; SET jit = on",
    "a kind of transaction": "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
    "a setting of its own": "SET mine.own = 'x'",
    "a role": "SET ROLE {role}",
    "a user": "SET SESSION AUTHORIZATION {role}",
    "a statement": "PREPARE mine AS SELECT 1",
    "a subscription": "LISTEN mine",
    "temporary tables": "CREATE TEMP TABLE job (id int); CREATE TEMP VIEW pg_class AS SELECT 1 AS oid",
    "a cursor": "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
    "a lock": "SELECT pg_advisory_lock(7237)",
    "the value of a sequence": "CREATE TEMP SEQUENCE mine; SELECT nextval('mine')",
}


class Mine(Exception):
    """The application's own."""


async def state(client: Client) -> tuple[Any, ...]:
    """Of the session that the next caller has, its number first."""
    async with client._database.connection() as connection:
        cursor = await connection.execute(STATE.encode())
        [row] = await cursor.fetchall()
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            await connection.execute(b"SELECT lastval()")
        return connection.info.backend_pid, *row


async def work(client: Client) -> None:
    """More often than psycopg needs to prepare a statement."""
    for _ in range(7):
        async with client.transaction() as connection:
            await client.spawn("c", REQUEST, connection=connection)
            await client.spawn("c", REQUEST, ordering_key="k", connection=connection)
    assert [job async for job in client.jobs()]


async def lent(client: Client, left: str, *, fails: bool = False) -> None:
    with suppress(Mine):
        async with client.transaction() as connection:
            await connection.execute(left.encode())
            if fails:
                raise Mine


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
async def test_whatever_is_left_is_gone_and_the_session_goes_on(probe: QueueProbe, left: str, fails: bool) -> None:
    with another_role(probe.dsn) as theirs:
        async with open_requeuest(probe.dsn, (), config=ONE_SESSION) as client:
            await work(client)
            before = await state(client)
            await lent(client, left.replace("{role}", str(conninfo_to_dict(theirs)["user"])), fails=fails)
            assert await state(client) == before
            await work(client)


@pytest.mark.parametrize(
    "left", ["DEALLOCATE ALL", "DEALLOCATE {0}", "DEALLOCATE {0}; PREPARE {0} AS SELECT 'not yours'"]
)
async def test_no_statement_is_taken_for_prepared_that_is_not(probe: QueueProbe, left: str) -> None:
    async with open_requeuest(probe.dsn, (), config=ONE_SESSION) as client:
        await work(client)
        before = await state(client)
        async with client.transaction() as connection:
            for name in prepared_names(connection) if "{0}" in left else [""]:
                await connection.execute(left.format(name).encode(), prepare=False)
        await work(client)
        assert await state(client) == before


async def test_the_statements_of_the_library_stay_prepared(probe: QueueProbe) -> None:
    """What makes spawning in a transaction cost what it does."""
    async with open_requeuest(probe.dsn, (), config=ONE_SESSION) as client:
        await work(client)
        async with client._database.connection() as connection:
            before = prepared_names(connection)
        await work(client)
        async with client._database.connection() as connection:
            assert prepared_names(connection) == before != set()


class Upper(TextLoader):
    def load(self, data: psycopg.abc.Buffer) -> str:
        return str(super().load(data)).upper()


async def test_what_psycopg_was_told_is_forgotten_too(probe: QueueProbe) -> None:
    heard: list[str] = []
    async with open_requeuest(probe.dsn, (), config=ONE_SESSION) as client:
        async with client.transaction() as connection:
            connection.adapters.register_loader("text", Upper)
            connection.adapters.register_loader("uuid", Upper)
            connection.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
            connection.add_notify_handler(lambda notification: heard.append(notification.channel))
            connection.server_cursor_factory = psycopg.AsyncServerCursor
            connection.prepare_threshold = None
            connection.prepared_max = 1
        job_id = await client.spawn("c", REQUEST, ordering_key="k")
        [job] = [job async for job in client.jobs()]
        assert (type(job.id), job.id, job.channel) == (UUID, job_id, "c")
        async with client._database.connection() as connection:
            await connection.execute(b"DO $$ BEGIN RAISE NOTICE 'not yours'; END $$; LISTEN here; NOTIFY here")
            await connection.execute(b"SELECT 1; UNLISTEN *")
            assert (connection.prepare_threshold, connection.prepared_max) == (5, 100)
            assert connection.server_cursor_factory is TrioServerCursor
    assert heard == []


async def test_what_a_caller_listened_for_is_not_heard_by_the_next(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, (), config=ONE_SESSION) as client:
        async with client.transaction() as connection:
            await connection.execute(b"LISTEN mine; COMMIT; BEGIN")
            # It comes with the answer to the last COMMIT.
            await probe.connection.execute(b"NOTIFY mine, 'not yours'")
        async with client._database.connection() as again:
            assert again is connection
            assert [notification async for notification in again.notifies(timeout=0)] == []


async def test_who_only_uses_the_client_pays_nothing(probe: QueueProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_requeuest(probe.dsn, (), config=ONE_SESSION) as client:
        await work(client)
        monkeypatch.setitem(client._database._queries._statements, "clean_session", b"SELECT 1 / 0;")
        pid, *_ = await state(client)
        await client.spawn_many("c", [REQUEST])
        await client.stats()
        assert (await state(client))[0] == pid


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("cleaning", ["SELECT 1 / 0;", "SET statement_timeout = 0; SELECT pg_sleep(30);"])
async def test_a_session_that_cannot_be_cleaned_is_closed_within_a_time(
    probe: QueueProbe, monkeypatch: pytest.MonkeyPatch, cleaning: str, fails: bool
) -> None:
    monkeypatch.setattr(pool, "SETTLE_TIMEOUT", 0.2)
    async with open_requeuest(probe.dsn, (), config=ONE_SESSION) as client:
        statements = client._database._queries._statements
        before, began = await state(client), trio.current_time()
        with monkeypatch.context() as changed:
            changed.setitem(statements, "clean_session", cleaning.encode())
            raised = None
            try:
                async with client.transaction() as connection:
                    await client.spawn("c", REQUEST, connection=connection)
                    await connection.execute(b"SET search_path = nowhere")
                    if fails:
                        raise Mine
            except Mine as error:
                raised = error
            assert trio.current_time() - began < 10
            assert (raised is not None) == fails
            assert connection.closed
        after = await state(client)
        assert after[0] != before[0]
        assert after[1:] == before[1:]
    assert await probe.states() == ({} if fails else {"available": 1})


async def test_cancelled_at_any_point_it_is_clean_or_closed(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, (), config=ONE_SESSION) as client:
        _, *before = await state(client)
        for k in count(1):
            with trio.CancelScope() as scope, AtCheckpoint(k, scope.cancel) as checkpoint:
                async with client.transaction() as connection:
                    await connection.execute(b"SET search_path = nowhere")
                    await connection.execute(b"SELECT pg_catalog.pg_advisory_lock(7237)")
            _, *after = await state(client)
            assert after == before, k
            await until_unlocked(probe.connection)
            if checkpoint.reached < k:
                break
        assert k > 5
        assert client._database._pool.statistics().in_use == 0


async def until_unlocked(observer: Conn) -> None:
    """The server needs a moment to see that a connection is closed."""

    async def unlocked() -> bool:
        return not await value(observer, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")

    await until(unlocked)
