"""A database whose defaults are not PostgreSQL's own. Invariant: the library works the same, in every step of a job."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC

import httpx2
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
from requeuest_trio._store.queries import Queries
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import Log, QueueProbe, open_probe
from tests.poolers import direct
from tests.postgres.harness import connect, value
from tests.servers import TestServer
from tests.waiting import until

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
    "client_min_messages": "error",
    "exit_on_error": "on",
}

# What each setting is to us that a database, or a role, may have set. The names are patterns.
OVERRIDDEN = """
    DateStyle TimeZone client_encoding client_min_messages exit_on_error extra_float_digits search_path
    default_transaction_isolation default_transaction_read_only
    statement_timeout lock_timeout idle_in_transaction_session_timeout idle_session_timeout transaction_timeout
    client_connection_check_interval jit plan_cache_mode
    enable_seqscan enable_bitmapscan enable_indexscan enable_indexonlyscan enable_nestloop enable_sort
"""
LEFT = {
    "BEGIN says it, or the default does": "transaction_isolation transaction_read_only",
    "is for SERIALIZABLE READ ONLY, which we never are": "(default_)?transaction_deferrable",
    "how durable a commit is, is for the owner of the data to say": "synchronous_commit",
    "off makes an error of what would be hidden, and opening tells of it": "row_security",
    "who may do what": "role session_replication_role allow_system_table_mods createrole_self_grant event_triggers",
    "our statements read tables only": "restrict_nonsystem_relation_kind",
    "psycopg reads every form, or we ask for no such value": "IntervalStyle bytea_output xml.*",
    "psycopg asks the connection how to quote": "standard_conforming_strings escape_string_warning backslash_quote",
    "our arrays with NULL are sent in binary form": "array_nulls",
    "no statement of ours compares with a literal NULL, or is shown": "transform_null_equals quote_all_identifiers",
    "errors go by SQLSTATE, instants by offset, and nothing is formatted": "lc_.* default_text_search_config "
    "timezone_abbreviations icu_validation_level",
    "other plans, of which those over the queue's indexes remain": "cpu_.* (seq|random)_page_cost jit_.* parallel_.* "
    "enable_.* geqo.* .*_collapse_limit constraint_exclusion effective_cache_size cursor_tuple_fraction "
    "recursive_worktable_factor (min|max)_parallel.* force_parallel_mode default_statistics_target",
    "how much of the machine is used": "work_mem hash_mem_multiplier maintenance_work_mem logical_decoding_work_mem "
    "temp_buffers max_stack_depth .*io_.* gin_.* temp_file_limit vacuum_.* backend_flush_after synchronize_seqscans "
    "file_copy_method",
    "how fast, and how soon what is dead is found dead": "commit_(delay|siblings) wal_.* deadlock_timeout tcp_.*",
    "where and how rows are kept": "default_(tablespace|table_access_method|toast_compression) temp_tablespaces "
    "allow_in_place_tablespaces",
    "what the server writes down, or shows": "log_.* debug_.* trace_.* track_.* backtrace_functions compute_query_id "
    "stats_fetch_consistency update_process_title application_name",
    "not used here": "check_function_bodies lo_compat_privileges password_encryption scram_iterations md5_.*",
    "for its administrator": "(local|session)_preload_libraries dynamic_library_path extension_.* "
    "output_plugin_libraries ignore_checksum_failure zero_damaged_pages",
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


class _Failing(httpx2.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await trio.lowlevel.checkpoint()
        raise httpx2.ConnectError("\u2192 is no route")


@pytest.mark.parametrize("encoding", ["LATIN1", "KOI8R", "SQL_ASCII"])
async def test_an_answer_is_kept_whatever_the_database_can_write(
    server: TestServer, receiver: Receiver, encoding: str, log: Log
) -> None:
    """Neither the fields of an answer nor what an error quotes of one has to be in the database's own encoding."""
    every_byte = bytes([*range(0x20, 0x7F), *range(0x80, 0x100)]).decode("latin-1")
    async with _database(server, encoding) as dsn:
        await migrate(dsn)
        answer = (("X-A", f"a{every_byte}b"), ("X-B", "\u00a3"))
        receiver.script(Reply(200, headers=answer, body=b"\xff\xa3"), target="/a")
        async with open_requeuest(dsn, poll_interval=0.2) as client:
            response = await client.spawn_returning("a", Request.get(receiver.url + "/a"))
            assert response.content == b"\xff\xa3"
            assert {(name, value) for name, value in response.headers.raw} >= {
                (name.encode(), value.encode("latin-1")) for name, value in answer
            }
        async with open_requeuest(dsn, http=_Failing()) as client:
            with pytest.raises(JobDead, match=r"\\u2192"):
                await client.spawn_returning("b", Request.get(receiver.url), retry=RetryPolicy(max_attempts=1))
    assert log.fields("outcome_refused") == []


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


ENCODINGS = {
    "UTF8": "\u2192\U0001f600", "SQL_ASCII": "\u2192\U0001f600", "EUC_JP": "注文", "EUC_CN": "订单", "EUC_KR": "주문",
    "EUC_TW": "訂單", "EUC_JIS_2004": "注文", "MULE_INTERNAL": None, "LATIN1": "é", "LATIN2": "č", "LATIN3": "ĝ",
    "LATIN4": "ķ", "LATIN5": "ğ", "LATIN6": "ð", "LATIN7": "ė", "LATIN8": "ŵ", "LATIN9": "€", "LATIN10": "ș",
    "WIN1256": "ش", "WIN1258": "ơ", "WIN866": "ж", "WIN874": "ก", "KOI8R": "ж", "KOI8U": "ж", "WIN1251": "ж",
    "WIN1252": "é", "WIN1250": "č", "WIN1253": "λ", "WIN1254": "ğ", "WIN1255": "ש", "WIN1257": "ė",
    "ISO_8859_5": "ж", "ISO_8859_6": "ش", "ISO_8859_7": "λ", "ISO_8859_8": "ש",
}  # fmt: skip
"""Of a server, each with a text that it can hold. None: PostgreSQL has no way from it to UTF-8."""
OF_CLIENTS_ONLY = {"SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004"}


async def test_the_encodings_are_postgres_s(server: TestServer) -> None:
    async with await connect(server.dsn()) as admin:
        names = "SELECT DISTINCT pg_encoding_to_char(number) FROM generate_series(0, 99) AS number"
        found = {name for (name,) in await (await admin.execute(names.encode())).fetchall()} - {""}
    # Versions differ: one was taken away.
    assert found - OF_CLIENTS_ONLY <= ENCODINGS.keys()
    assert ENCODINGS.keys() - found <= {"MULE_INTERNAL"}


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_what_is_sent_is_kept_in_every_encoding(server: TestServer, receiver: Receiver, encoding: str) -> None:
    """Answers, headers and bodies whole; what the database can't hold as a name is refused, at opening too."""
    own = ENCODINGS[encoding]
    async with _database(server, encoding) as dsn:
        if own is None:
            with pytest.raises(DatabaseUnavailable, match="conversion between UTF8 and MULE_INTERNAL is not supported"):
                await migrate(dsn)
            return
        await migrate(dsn)
        body = "\u2192é注".encode() + bytes(range(256))
        receiver.script(Reply(200, headers=(("X-A", "é\xff"),), body=body))
        every = {own, "c", "\u2192\U0001f600é"}
        held = every if encoding in {"UTF8", "SQL_ASCII"} else {own, "c"}
        if every != held:
            with pytest.raises(
                InvalidRequest, match=f"^channels: the database, whose encoding is {encoding}, can't hold"
            ):
                async with open_requeuest(dsn, [Channel(name, ordered=True) for name in every]):
                    pass
        async with open_requeuest(dsn, held, poll_interval=0.2) as client:
            request = Request.post(receiver.url, content=body, headers={"X-A": "é\xff"})
            job_id = await client.spawn(own, request, ordering_key=own)
            with trio.fail_after(10):
                response = await client.result(job_id)
            assert (response.content, response.headers["X-A"]) == (body, "é\xff")
            job = await client.job(job_id)
            assert job is not None
            assert (job.channel, job.ordering_key, job.request.body) == (own, own, body)
            assert job.request.headers == request.headers
            assert [found.id async for found in client.jobs(channel=own, ordering_key=own)] == [job_id]
            for name in every - held:
                with pytest.raises(InvalidRequest, match="PostgreSQL refuses to store it"):
                    await client.spawn(name, request)
            assert (await client.stats()).channels.keys() == {own}
        assert receiver.arrivals[0].body == body


async def test_text_of_another_encoding_is_given_up_and_delays_nobody(server: TestServer, receiver: Receiver) -> None:
    """Where a database takes any bytes, those of another program need not be text, and can't be read as such."""
    async with _database(server, "SQL_ASCII") as dsn, await connect(dsn) as connection:
        await migrate(dsn)
        await connection.execute("SET client_encoding TO SQL_ASCII")
        await connection.execute(
            rb"INSERT INTO requeuest.job (channel, method, url) VALUES ('c', 'GET', E'http://x.test/\xff')"
        )
        async with open_requeuest(dsn, poll_interval=0.2) as client:
            await client.spawn_many("c", [Request.get(receiver.url)] * 3)
            await receiver.wait_for(3)
            dead = "SELECT count(*) FROM requeuest.job WHERE state = 'dead' AND error LIKE '%can''t be read: invalid%'"

            async def is_dead() -> bool:
                return bool(await value(connection, dead) == 1)

            await until(is_dead, patience=20)


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
async def test_a_session_may_be_idle_for_longer_than_others(probe: QueueProbe, log: Log) -> None:
    change_defaults(probe.dsn, {"idle_session_timeout": "100ms"})
    async with open_requeuest(probe.dsn, lease=60.0, poll_interval=60.0) as client:
        before = await probe.sessions()
        await trio.sleep(0.5)
        assert (await probe.sessions()).keys() == before.keys()
        await client.stats()
    assert log.fields("listener_lost") == []


async def test_each_setting_is_thought_of(dsn: str) -> None:
    """Whatever a session may be given without a restart: a new version's new settings are for us to decide on."""
    with psycopg.connect(direct(dsn)) as connection:
        rows = connection.execute("select name from pg_settings where context in ('user', 'superuser')").fetchall()
    names = {name for (name,) in rows if "." not in name}
    overridden = names & set(OVERRIDDEN.split())
    patterns = [pattern for some in LEFT.values() for pattern in some.split()]
    left = {name for name in names if re.fullmatch("|".join(patterns), name)} - overridden
    assert names - overridden - left == set()
    statements = (Queries("requeuest")["configure"] + Queries("requeuest")["begin"]).decode()
    assert {name for name in overridden if f"'{name}'" not in statements} == set()
    assert {name for name in left if f"'{name}'" in statements} == set()


async def test_a_limit_on_transactions_is_not_ours(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    """PostgreSQL 17 brought it: it ends the session in the middle of a statement that waits for somebody's lock."""
    if probe.connection.info.server_version < 170000:
        pytest.skip("this server has no transaction_timeout")
    change_defaults(probe.dsn, {"transaction_timeout": "300ms"})
    receiver.script(Reply(delay=0.2))
    async with open_requeuest(probe.dsn, poll_interval=0.2) as client:
        job_id = await client.spawn("a", Request.get(receiver.url))
        await receiver.wait_for(1)
        async with open_probe(probe.dsn) as other:
            await other.rows("select set_config('transaction_timeout', '0', false)")
            async with other.connection.transaction():
                await other.rows("select from requeuest.job where id = %s for update", job_id)
                waits = "select now() - xact_start > '0.5 s' from pg_stat_activity where wait_event_type = 'Lock'"
                await probe.until_true(waits)
        assert (await client.result(job_id)).content == b"ok"
        assert not log.fields("record_failed")
        with pytest.raises(psycopg.Error, match="transaction timeout"):
            async with client.transaction() as connection:
                await connection.execute("select pg_sleep(2)")
    assert len(receiver.arrivals) == 1


@pytest.mark.needs_sessions("it looks at its session too")
async def test_a_transaction_of_the_caller_has_the_callers_settings(migrated_dsn: str) -> None:
    settings = {"statement_timeout": "54321ms", "lock_timeout": "4321ms", "idle_in_transaction_session_timeout": "99s"}
    settings |= {"TimeZone": "Asia/Kathmandu", "DateStyle": "German, DMY", "extra_float_digits": "0"}
    settings |= {"enable_seqscan": "on", "enable_indexscan": "off", "enable_nestloop": "off", "enable_sort": "off"}
    with psycopg.connect(migrated_dsn) as connection:
        if connection.info.server_version >= 170000:
            settings["transaction_timeout"] = "87654ms"
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
async def test_opening_has_limits_too(probe: QueueProbe, table: str) -> None:
    config = Config(statement_timeout=0.4)
    async with probe.connection.transaction():
        await probe.connection.execute(f"LOCK TABLE requeuest.{table}".encode())
        with trio.fail_after(3), pytest.raises(DatabaseUnavailable, match="held a lock for too long"):
            async with open_requeuest(probe.dsn, [Channel("c", ordered=True)], config=config):
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
async def test_only_the_runners_statements_are_bound_to_the_lease(probe: QueueProbe) -> None:
    config = Config(statement_timeout=7)
    async with (
        open_requeuest(probe.dsn, lease=1.0, config=config) as client,
        client._database.connection() as connection,
    ):
        row = await (await connection.execute("SELECT current_setting('statement_timeout')")).fetchone()
    assert row == ("7s",)
