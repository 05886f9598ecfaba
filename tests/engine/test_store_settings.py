"""A database whose defaults are not PostgreSQL's own. Invariant: the library works the same, in every step of a job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC

import psycopg
import pytest
import trio
from psycopg import sql

from requeuest_trio import (
    Channel,
    DatabaseUnavailable,
    InvalidRequest,
    JobDead,
    Request,
    RetryPolicy,
    migrate,
    open_requeuest,
)
from requeuest_trio._config import Config
from requeuest_trio.testing import Receiver, Reply
from tests.engine.support import Eye, Log
from tests.poolers import direct
from tests.postgres.harness import connect
from tests.servers import TestServer

DEFAULTS = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "search_path": "nowhere",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
    "statement_timeout": "5s",
    "extra_float_digits": "-15",
    "idle_session_timeout": "300ms",
    "row_security": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "backslash_quote": "off",
    "quote_all_identifiers": "on",
    "jit": "on",
    "jit_above_cost": "0",
    "enable_indexscan": "off",
    "enable_indexonlyscan": "off",
    "enable_nestloop": "off",
    "enable_sort": "off",
    "enable_hashagg": "off",
    "enable_material": "off",
}


def change_defaults(dsn: str, settings: dict[str, str]) -> None:
    with psycopg.connect(direct(dsn), autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        for setting, to in settings.items():
            change = sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, sql.Identifier(setting), sql.Literal(to))
            connection.execute(change)


@pytest.mark.parametrize(
    "without", [(), ("search_path", "client_encoding", "DateStyle", "default_transaction_isolation")]
)
async def test_everything_works_with_other_defaults(dsn: str, receiver: Receiver, without: tuple[str, ...]) -> None:
    change_defaults(dsn, {name: to for name, to in DEFAULTS.items() if name not in without})
    assert (await migrate(dsn))[0] == "0001_queue.up"
    receiver.script(Reply(200, body=b"\\\xff\0'"), target="/ok")
    receiver.script(Reply(503), Reply(404), target="/dead")
    async with open_requeuest(dsn, poll_interval=0.2) as client:
        body = bytes(range(256)) + b"\\x41'\\"
        policy = RetryPolicy(initial=0.01, give_up_on=404)
        request = Request.post(receiver.url + "/ok", content=body, timeout=12.3456789)
        response = await client.spawn_returning("ü\\'", request)
        assert [job.request async for job in client.jobs()] == [request]
        assert response.content == b"\\\xff\0'"
        ids = [
            await client.spawn(
                "k", Request.get(receiver.url + "/dead", headers={"X-A": "é"}), ordering_key="\\", retry=policy
            )
            for _ in range(2)
        ]
        with pytest.raises(JobDead):
            await client.result(ids[0])
        assert (await client.result(ids[1])).status_code == 200
        attempts = await client.attempts(ids[0])
        assert [attempt.status for attempt in attempts] == [503, 404]
        assert all(attempt.started_at.tzinfo is not None for attempt in attempts)
        job = await client.job(ids[0])
        assert job is not None
        assert job.due_at.utcoffset() == UTC.utcoffset(None)
        assert attempts[0].retry_at == job.due_at
        async with client.transaction() as connection:
            await client.spawn("k", Request.get(receiver.url + "/late"), ordering_key="\\", connection=connection)
        assert receiver.arrivals[0].body == body
        await receiver.wait_for(5)
        assert await client.clear(["ü\\'"]) == 1
    assert (await migrate(dsn, target=0))[-1] == "0001_queue.down"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_in_another_encoding(server: TestServer, receiver: Receiver, encoding: str) -> None:
    """What it can't hold is refused, and nothing of it stored; everything else comes back as it was."""
    async with _database(server, encoding) as dsn:
        await migrate(dsn)
        receiver.script(Reply(503, body="Größe".encode()), Reply(200, body="\u2192".encode()), target="/a")
        async with open_requeuest(dsn, poll_interval=0.2) as client:
            request = Request.post(receiver.url + "/a", json={"to": "\u2192"}, headers={"X-A": "é"})
            job_id = await client.spawn("Größe", request, ordering_key="é", retry=RetryPolicy(initial=0.01))
            assert (await client.result(job_id)).text == "\u2192"
            job = await client.job(job_id)
            assert job is not None
            assert (job.channel, job.ordering_key, job.request.headers) == ("Größe", "é", request.headers)
            refused = pytest.raises(InvalidRequest, match="PostgreSQL refuses to store it")
            with refused if encoding == "LATIN1" else nullcontext():
                await client.spawn("\u2192", Request.get(receiver.url))
            expected = {"Größe"} if encoding == "LATIN1" else {"Größe", "\u2192"}
            assert (await client.stats()).channels.keys() == expected


@asynccontextmanager
async def _database(server: TestServer, encoding: str) -> AsyncIterator[str]:
    name = f"in_{encoding}".lower()
    async with await connect(server.dsn()) as admin:
        await admin.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'".encode()
        )
        try:
            yield server.dsn(name)
        finally:
            with trio.CancelScope(shield=True):
                await admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.needs_sessions("about how long they may be idle")
async def test_a_session_may_be_idle_for_longer_than_others(eye: Eye, log: Log) -> None:
    change_defaults(eye.dsn, {"idle_session_timeout": "100ms"})
    async with open_requeuest(eye.dsn, lease=60.0, poll_interval=60.0) as client:
        before = await eye.sessions()
        await trio.sleep(0.5)
        assert (await eye.sessions()).keys() == before.keys()
        await client.stats()
    assert log.fields("listener_lost") == []


@pytest.mark.needs_sessions("it looks at its session too")
async def test_a_transaction_of_the_caller_has_the_callers_settings(migrated_dsn: str) -> None:
    settings = {"statement_timeout": "54321ms", "lock_timeout": "4321ms", "idle_in_transaction_session_timeout": "99s"}
    settings |= {"TimeZone": "Asia/Kathmandu", "DateStyle": "German, DMY", "extra_float_digits": "0"}
    settings |= {"enable_seqscan": "on", "enable_indexscan": "off", "enable_nestloop": "off", "enable_sort": "off"}
    change_defaults(migrated_dsn, settings)
    async with open_requeuest(migrated_dsn, ()) as client:
        for _ in range(8):  # more often than psycopg needs to prepare a statement
            async with client.transaction() as connection:
                shown = {
                    name: await (await connection.execute(f"SHOW {name}".encode())).fetchone() for name in settings
                }
        assert {name: row and row[0] for name, row in shown.items()} == settings
        async with client._database.connection() as connection:
            row = await (await connection.execute("SHOW TimeZone")).fetchone()
            assert row == ("UTC",)
            needed = "SELECT count(*) FROM pg_settings WHERE name ~ '^enable_(index|nest|sort)' AND setting = 'on'"
            row = await (await connection.execute(needed)).fetchone()
            assert row == (4,), "what the queue's plans are made of"


@pytest.mark.parametrize("table", ["migration", "channel"])
async def test_opening_has_limits_too(eye: Eye, table: str) -> None:
    config = Config(statement_timeout=0.4)
    async with eye.connection.transaction():
        await eye.connection.execute(f"LOCK TABLE requeuest.{table}".encode())
        with trio.fail_after(3), pytest.raises(DatabaseUnavailable, match="held a lock for too long"):
            async with open_requeuest(eye.dsn, [Channel("c", ordered=True)], config=config):
                pass


async def test_opening_keeps_to_the_connect_timeout() -> None:
    """A server that accepts, and then says nothing."""
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    dsn = f"postgresql://x@127.0.0.1:{listener.getsockname()[1]}/x"
    with listener, trio.fail_after(3), pytest.raises(DatabaseUnavailable, match=r"no connection within 0.2 s"):
        async with open_requeuest(dsn, (), config=Config(connect_timeout=0.2)):
            pass


@pytest.mark.needs_sessions("it looks at the settings of sessions")
async def test_only_the_runners_statements_are_bound_to_the_lease(eye: Eye) -> None:
    config = Config(statement_timeout=7)
    async with (
        open_requeuest(eye.dsn, lease=1.0, config=config) as client,
        client._database.connection() as connection,
    ):
        row = await (await connection.execute("SELECT current_setting('statement_timeout')")).fetchone()
    assert row == ("7s",)
