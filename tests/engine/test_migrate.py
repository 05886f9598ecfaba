"""Migrations. Invariants: a step is whole or not there; every two migrators take turns; what is not ours is not
touched; a schema that does not fit is named, with the command to run and without the password."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from requeuest_trio import DatabaseUnavailable, Request, RequeuestError, SchemaMismatch, migrate, open_requeuest
from requeuest_trio._store import migrate as module
from requeuest_trio._store.migrate import Migration, migrations
from requeuest_trio._store.queries import Queries
from requeuest_trio.testing import Receiver
from tests.engine.probe import Log
from tests.engine.roles import another_role
from tests.postgres.harness import connect, value
from tests.waiting import until

UP = [f"{step.name}.up" for step in migrations()]
DOWN = [f"{step.name}.down" for step in reversed(migrations())]
OBJECTS = """
SELECT n.nspname, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL SELECT n.nspname, p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
UNION ALL SELECT n.nspname, t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
UNION ALL SELECT nspname, '' FROM pg_namespace
"""


def query(dsn: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []


def objects(dsn: str) -> set[tuple[str, str]]:
    found = query(dsn, OBJECTS)
    return {(schema, name) for schema, name in found if not schema.startswith(("pg_", "information_schema"))}


async def test_up_and_down_again_leaves_nothing(dsn: str) -> None:
    query(dsn, "CREATE TABLE job (mine text); CREATE TABLE migration (mine text); CREATE TYPE job_state AS ENUM ('x')")
    before = objects(dsn)
    for _ in range(2):
        assert await migrate(dsn) == UP
        assert await migrate(dsn) == []
        assert await migrate(dsn, target=0) == DOWN
        assert await migrate(dsn, target=0) == []
        assert objects(dsn) == before


async def test_a_schema_that_has_something_of_the_users_in_it_stays(dsn: str) -> None:
    await migrate(dsn, schema="public")
    query(dsn, "CREATE SCHEMA app; CREATE TABLE app.mine (a int)")
    await migrate(dsn, schema="app")
    assert await migrate(dsn, schema="app", target=0) == DOWN
    assert await migrate(dsn, schema="public", target=0) == DOWN
    assert {("app", ""), ("app", "mine"), ("public", "")} <= objects(dsn)
    assert ("app", "migration") not in objects(dsn)


@pytest.fixture
def five_steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five migrations in the place of the library's."""
    steps = [
        Migration(n, f"{n:04}_t", f"CREATE TABLE t{n} (); SELECT pg_sleep(0.05)", f"DROP TABLE t{n}")
        for n in range(1, 6)
    ]
    monkeypatch.setattr(module, "migrations", lambda: steps)
    return [step.name for step in steps]


async def test_to_a_target_and_back(dsn: str, five_steps: list[str]) -> None:
    assert await migrate(dsn, target=2) == ["0001_t.up", "0002_t.up"]
    assert await migrate(dsn, target=4) == ["0003_t.up", "0004_t.up"]
    assert await migrate(dsn, target=1) == ["0004_t.down", "0003_t.down", "0002_t.down"]
    assert await migrate(dsn) == [f"{name}.up" for name in five_steps[1:]]
    assert query(dsn, "SELECT version FROM requeuest.migration ORDER BY version") == [(n,) for n in range(1, 6)]


async def test_several_at_once_take_turns(dsn: str, five_steps: list[str]) -> None:
    applied: list[str] = []

    async def one() -> None:
        applied.extend(await migrate(dsn))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(one)
    assert sorted(applied) == [f"{name}.up" for name in five_steps]


async def test_several_processes_at_once(dsn: str) -> None:
    code = "import sys, trio, requeuest_trio; print(trio.run(requeuest_trio.migrate, sys.argv[1]))"
    outputs: list[bytes] = []

    async def one() -> None:
        process = await trio.run_process([sys.executable, "-c", code, dsn], capture_stdout=True)
        outputs.append(process.stdout.strip())

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
    assert sorted(chain.from_iterable(ast.literal_eval(output.decode()) for output in outputs)) == UP


async def _migrate_in_vain(dsn: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        await migrate(dsn)


async def test_the_lock_is_respected_and_a_step_cut_short_is_undone(dsn: str, five_steps: list[str]) -> None:
    await migrate(dsn, target=2)
    holder, observer = await connect(dsn), await connect(dsn)
    async with holder, observer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_migrate_in_vain, dsn)

            async def in_step_four() -> bool:
                text = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE TABLE t4%' AND state = 'active'"
                return bool(await value(observer, text))

            await until(in_step_four)
            pids = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE TABLE t4%'"
            await observer.execute(f"SELECT pg_terminate_backend(pid) FROM ({pids}) AS p".encode())
        tables = query(dsn, "SELECT relname::text FROM pg_class WHERE relname LIKE 't_' ORDER BY 1")
        assert tables == [("t1",), ("t2",), ("t3",)]
        assert query(dsn, "SELECT max(version) FROM requeuest.migration") == [(3,)]

        async with trio.open_nursery() as nursery, holder.transaction():
            await holder.execute(Queries("requeuest")["lock_journal"])
            nursery.start_soon(migrate, dsn)

            async def waiting() -> bool:
                return bool(await value(observer, "SELECT count(*) FROM pg_locks WHERE NOT granted"))

            await until(waiting)
            assert query(dsn, "SELECT max(version) FROM requeuest.migration") == [(3,)]
        assert query(dsn, "SELECT max(version) FROM requeuest.migration") == [(5,)]


async def test_a_role_without_the_right_to_make_schemas(dsn: str, receiver: Receiver) -> None:
    role = f"app_{os.getpid()}"
    database = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("REVOKE CREATE ON DATABASE {} FROM PUBLIC").format(database))
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        admin.execute(sql.SQL("CREATE SCHEMA ready AUTHORIZATION {}").format(sql.Identifier(role)))
    theirs = make_conninfo(dsn, user=role)
    try:
        assert await migrate(theirs, schema="ready") == UP
        async with open_requeuest(theirs, schema="ready") as client:
            assert (await client.spawn_returning("c", Request.get(receiver.url))).status_code == 200
        assert await migrate(theirs, schema="ready", target=0) == DOWN
        assert objects(dsn) == {("ready", ""), ("public", "")}, "the schema stays, since it could not be made again"
        assert await migrate(theirs, schema="ready") == UP
    finally:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(
                sql.SQL("DROP SCHEMA ready CASCADE; DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role))
            )


async def opened(dsn: str, **options: Any) -> None:
    async with open_requeuest(dsn, (), **options):
        pass


async def test_missing_tables_say_what_to_run(dsn: str) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        await opened(make_conninfo(dsn, password="s3cret"), schema="mine")
    text = str(caught.value)
    assert "schema 'mine' are missing" in text
    assert "s3cret" not in text
    assert text.endswith("--schema mine (or await migrate(dsn), or open with migrate=True)")
    assert "requeuest migrate --dsn " in text


async def test_older_tables_say_what_to_run(dsn: str, five_steps: list[str]) -> None:
    await migrate(dsn, target=3)
    with pytest.raises(SchemaMismatch, match=r"at version 3, this library needs 5; run: requeuest migrate --dsn"):
        await opened(dsn)


async def test_newer_tables_say_what_to_run(migrated_dsn: str) -> None:
    newer = len(migrations()) + 1
    query(migrated_dsn, f"INSERT INTO requeuest.migration (version, name, checksum) VALUES ({newer}, 'later', 'x')")
    for attempt in (opened, migrate, partial(migrate, target=0)):
        with pytest.raises(
            SchemaMismatch, match=r"newer than this library knows.*pip install --upgrade requeuest-trio"
        ):
            await attempt(migrated_dsn)


async def test_tables_made_by_other_migrations_are_refused(migrated_dsn: str) -> None:
    query(migrated_dsn, "UPDATE requeuest.migration SET checksum = 'other'")
    before = objects(migrated_dsn)
    for attempt in (opened, migrate, partial(migrate, target=0)):
        with pytest.raises(SchemaMismatch, match="made by other migrations than those of this library"):
            await attempt(migrated_dsn)
    assert objects(migrated_dsn) == before


async def test_migrate_on_opening(dsn: str, receiver: Receiver) -> None:
    async with open_requeuest(dsn, migrate=True) as client:
        assert (await client.spawn_returning("c", Request.get(receiver.url))).status_code == 200


def test_the_files_are_numbered_without_gaps_and_come_in_pairs() -> None:
    found = migrations()
    assert [step.version for step in found] == list(range(1, len(found) + 1))
    assert all(step.up.strip() and step.down.strip() for step in found)
    directory = module._directory()
    assert isinstance(directory, Path)
    assert len(list(directory.glob("*.sql"))) == 2 * len(found)


# --- with data, and beside others -------------------------------------------------------------------------------------

OVERSIZED = """
INSERT INTO requeuest.job (channel, method, url, headers)
VALUES ('c', 'GET', 'http://x.test/', to_json(repeat('h', 1000000)))
"""
INSERT = "INSERT INTO requeuest.job (channel, method, url) VALUES ('c', 'GET', 'http://x.test/')"
KEYED = """
INSERT INTO requeuest.job (channel, method, url, ordering_key, position, state)
SELECT 'c', 'GET', 'http://x.test/', 'k', i, CASE i WHEN 1 THEN 'available' ELSE 'blocked' END::requeuest.job_state
FROM generate_series(1, 3) AS i
"""
CONSTRAINTS = "SELECT conname::text FROM pg_constraint WHERE conrelid = 'requeuest.job'::regclass AND contype = 'c' "
COLLATIONS = """
SELECT DISTINCT collname::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
CROSS JOIN unnest(indcollation::oid[]) AS used JOIN pg_collation ON pg_collation.oid = used
WHERE relnamespace = 'requeuest'::regnamespace
"""


async def test_limits_come_to_a_queue_that_has_jobs_and_go_again(dsn: str, receiver: Receiver) -> None:
    await migrate(dsn, target=2)
    query(dsn, INSERT.replace("http://x.test/", receiver.url))
    query(dsn, KEYED)
    before = query(dsn, f"{CONSTRAINTS} ORDER BY 1")
    assert await migrate(dsn, target=3) == [UP[2]]
    assert query(dsn, f"{CONSTRAINTS} ORDER BY 1") == [("job_limits",), ("job_states",)]
    assert query(dsn, f"{CONSTRAINTS} AND NOT convalidated") == []
    assert query(dsn, COLLATIONS) == [("C",)]
    assert await migrate(dsn, target=2) == [DOWN[-3]]
    assert query(dsn, f"{CONSTRAINTS} ORDER BY 1") == before
    assert query(dsn, f"{CONSTRAINTS} AND NOT convalidated") == []
    assert await migrate(dsn) == UP[2:]
    assert query(dsn, "SELECT state::text, position FROM requeuest.job WHERE ordering_key = 'k' ORDER BY position") == [
        ("available", 1),
        ("blocked", 2),
        ("blocked", 3),
    ]
    async with open_requeuest(dsn, ()) as client:
        [job] = [job async for job in client.jobs() if job.ordering_key is None]
    async with open_requeuest(dsn, ["c"]) as client:
        assert (await client.result(job.id)).status_code == 200


async def test_an_unfinished_job_that_is_too_large_dies_and_is_kept(dsn: str, log: Log) -> None:
    """Who waits for it is told, and the next of its key is sent."""
    await migrate(dsn, target=2)
    query(dsn, OVERSIZED)
    query(dsn, "UPDATE requeuest.job SET ordering_key = 'k', position = 0, awaited = true")
    query(dsn, KEYED.replace("WHEN 1 THEN", "WHEN 0 THEN"))
    [(job_id,)] = query(dsn, "SELECT id FROM requeuest.job WHERE awaited")
    listener = await connect(dsn)
    async with listener:
        await listener.execute('LISTEN "requeuest:done"')
        await migrate(dsn)
        [told] = [notify.payload async for notify in listener.notifies(timeout=5, stop_after=1)]
        assert told == str(job_id)
    found = query(dsn, "SELECT state::text, error, length(headers::text) FROM requeuest.job WHERE awaited")
    problem = "the stored job is damaged: it is larger than a job may be"
    assert found == [("dead", problem, 1_000_002)]
    assert query(dsn, "SELECT job_id, number, reached, error FROM requeuest.attempt") == [
        (job_id, 1, "resolve", problem)
    ]
    states = query(dsn, "SELECT state::text FROM requeuest.job WHERE NOT awaited ORDER BY position")
    assert states == [("available",), ("blocked",), ("blocked",)]
    assert query(dsn, f"{CONSTRAINTS} AND NOT convalidated") == []
    assert log.fields("limits_exceeded") == []


async def test_a_finished_job_that_is_too_large_stays_and_is_told_of(dsn: str, log: Log) -> None:
    await migrate(dsn, target=2)
    query(dsn, OVERSIZED)
    query(dsn, "UPDATE requeuest.job SET state = 'cancelled', finished_at = now()")
    for _ in range(2):
        await migrate(dsn)
    assert query(dsn, "SELECT state::text FROM requeuest.job") == [("cancelled",)]
    assert query(dsn, f"{CONSTRAINTS} AND NOT convalidated") == [("job_limits",)]
    assert [fields["constraint"] for fields in log.fields("limits_exceeded")] == ["job_limits"] * 2
    with pytest.raises(psycopg.errors.CheckViolation):
        query(dsn, OVERSIZED)


async def test_nobody_waits_long_for_a_migration_that_waits(dsn: str, log: Log) -> None:
    await migrate(dsn, target=2)
    holder = await connect(dsn)
    async with holder, trio.open_nursery() as nursery:
        async with holder.transaction():
            await holder.execute(INSERT.encode())
            nursery.start_soon(migrate, dsn)
            await log.wait_for("migration_waits")
            longest = 0.0
            while len(log.fields("migration_waits")) < 3:
                began = trio.current_time()
                await trio.to_thread.run_sync(query, dsn, INSERT)
                longest = max(longest, trio.current_time() - began)
        assert longest < 2 * module._LOCK_SECONDS
    assert query(dsn, "SELECT max(version) FROM requeuest.migration") == [(len(UP),)]


async def test_a_migration_that_waits_can_be_cancelled(dsn: str, log: Log) -> None:
    await migrate(dsn, target=2)
    holder = await connect(dsn)
    async with holder, holder.transaction(), trio.open_nursery() as nursery:
        await holder.execute(INSERT.encode())
        nursery.start_soon(migrate, dsn)
        await log.wait_for("migration_waits")
        nursery.cancel_scope.cancel()
    assert query(dsn, "SELECT max(version) FROM requeuest.migration") == [(2,)]


async def test_rows_are_validated_while_others_are_stored(dsn: str) -> None:
    await migrate(dsn, target=2)
    holder = await connect(dsn)
    async with holder:
        await migrate(dsn, target=3)
        query(
            dsn,
            "ALTER TABLE requeuest.job DROP CONSTRAINT job_limits, ADD CONSTRAINT job_limits CHECK (true) NOT VALID",
        )
        async with holder.transaction():
            await holder.execute(INSERT.encode())
            assert await migrate(dsn, target=3) == []
            assert query(dsn, f"{CONSTRAINTS} AND NOT convalidated") == []


# --- what is refused --------------------------------------------------------------------------------------------------

GUARD = """
CREATE FUNCTION public.guard() RETURNS event_trigger LANGUAGE plpgsql AS
$$ BEGIN IF tg_tag LIKE '{tag}' THEN {code}; END IF; END $$;
CREATE EVENT TRIGGER guard ON ddl_command_end EXECUTE FUNCTION public.guard();
"""
CODES = {
    "its own error": ("RAISE 'not today'", "not today"),
    "a line that steers": (r"RAISE E'not\n\x1btoday'", "not;"),
    "a table that is not found": ("INSERT INTO audit VALUES (1)", 'relation "audit" does not exist'),
    **{
        name: (f"RAISE 'not today' USING ERRCODE = '{name}'", "not today")
        for name in (
            "duplicate_table", "duplicate_object", "duplicate_schema", "unique_violation", "undefined_table",
            "invalid_schema_name", "check_violation", "feature_not_supported", "event_trigger_protocol_violated",
            "object_not_in_prerequisite_state", "lock_not_available", "deadlock_detected", "serialization_failure",
            "query_canceled", "internal_error", "object_in_use", "admin_shutdown", "ZZ001",
        )
    },
    "a lock that is not waited for": ("LOCK TABLE public.held IN SHARE MODE NOWAIT", "could not obtain lock on"),
}  # fmt: skip


@pytest.mark.parametrize("code", CODES)
async def test_what_an_event_trigger_refuses_is_said_and_ends_the_migration(
    dsn: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its error looks like: one of a process that migrates too, or an outage. What was done before stays."""
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.01)
    statement, said = CODES[code]
    holder = await connect(dsn)
    async with holder:
        await holder.execute("CREATE TABLE public.held ()")
        await holder.execute("BEGIN; LOCK TABLE public.held")
        await _is_refused_at_every_step(dsn, statement, said)


async def _is_refused_at_every_step(dsn: str, statement: str, said: str) -> None:
    for tag, begin, target, reached in (
        ("CREATE TABLE", 0, None, 0),
        ("CREATE TRIGGER", 2, None, 2),
        ("ALTER TABLE", 3, 2, 3),
    ):
        await migrate(dsn, target=begin)
        query(dsn, GUARD.format(tag=tag, code=statement))
        with trio.fail_after(10), pytest.raises(RequeuestError) as caught:
            await migrate(dsn, target=target)
        assert type(caught.value) is RequeuestError
        assert str(caught.value).startswith(f"PostgreSQL refuses to migrate: {said}")
        assert str(caught.value).endswith("this step was undone")
        assert str(caught.value).isprintable()
        query(dsn, "DROP EVENT TRIGGER guard; DROP FUNCTION public.guard")
        if reached:
            assert query(dsn, "SELECT max(version) FROM requeuest.migration") == [(reached,)]
        else:
            assert query(dsn, "SELECT to_regclass('requeuest.migration')") == [(None,)]
    assert await migrate(dsn, target=0) == DOWN[-3:]


@pytest.mark.parametrize(("begin", "target"), [(2, None), (4, 0)])
async def test_what_depends_on_the_tables_is_named(dsn: str, begin: int, target: int | None) -> None:
    await migrate(dsn, target=begin)
    query(dsn, "CREATE VIEW public.mine AS SELECT id, channel FROM requeuest.job")
    with pytest.raises(RequeuestError, match=r"to migrate: cannot (drop|alter).*view public.mine depends on") as caught:
        await migrate(dsn, target=target)
    assert type(caught.value) is RequeuestError
    query(dsn, "DROP VIEW public.mine")
    await migrate(dsn, target=target)


async def test_a_lock_that_an_event_trigger_waits_for_is_waited_for(dsn: str, log: Log) -> None:
    query(dsn, "CREATE TABLE public.audit ()")
    query(dsn, GUARD.format(tag="CREATE TRIGGER", code="INSERT INTO public.audit DEFAULT VALUES"))
    holder = await connect(dsn)
    async with holder, trio.open_nursery() as nursery, holder.transaction():
        await holder.execute("LOCK TABLE public.audit")
        nursery.start_soon(migrate, dsn)
        await log.wait_for("migration_waits", module._MOST_RAISED + 1, patience=60)
    assert query(dsn, "SELECT max(version) FROM requeuest.migration") == [(len(UP),)]


async def test_a_lack_of_room_is_no_refusal(dsn: str) -> None:
    """What may be gone the next time is an outage, which names itself."""
    query(dsn, GUARD.format(tag="CREATE TABLE", code="RAISE 'no room' USING ERRCODE = 'disk_full'"))
    with pytest.raises(DatabaseUnavailable, match="no room"):
        await migrate(dsn)


# --- what is another's ------------------------------------------------------------------------------------------------

TRAP = """
CREATE FUNCTION {schema}.trap() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM nextval('public.sprung'); RETURN NEW; END $$
"""
CHECKSUMS = ", ".join(f"({step.version}, '{step.name}', '{step.checksum}')" for step in migrations())
JOURNAL = (
    "CREATE TABLE requeuest.migration (version integer PRIMARY KEY, name text, checksum text, applied_at timestamptz)"
)
CREATE = "GRANT CREATE, USAGE ON SCHEMA public TO {role}"

THEIR_SCHEMA = {
    "an empty schema": "",
    "a journal with a trigger": f"{JOURNAL}; {TRAP}; CREATE TRIGGER t BEFORE INSERT ON requeuest.migration "
    "FOR EACH ROW EXECUTE FUNCTION requeuest.trap()",
    "a journal that is a view": "CREATE FUNCTION requeuest.trap() RETURNS integer LANGUAGE sql AS "
    "$$ SELECT nextval('public.sprung')::integer $$; CREATE VIEW requeuest.migration AS "
    "SELECT requeuest.trap() AS version, ''::text AS name, ''::text AS checksum, now() AS applied_at",
    "a journal with a rule": f"{JOURNAL}; CREATE RULE r AS ON INSERT TO requeuest.migration DO ALSO "
    "SELECT nextval('public.sprung')",
    "a journal with a default": f"{JOURNAL}; ALTER TABLE requeuest.migration ALTER applied_at SET DEFAULT "
    "to_timestamp(nextval('public.sprung'))",
    "a journal with row level security": f"{JOURNAL}; ALTER TABLE requeuest.migration ENABLE ROW LEVEL SECURITY; "
    "CREATE POLICY p ON requeuest.migration USING (nextval('public.sprung') > 0)",
    "better functions than PostgreSQL's": "CREATE FUNCTION requeuest.num_nonnulls(uuid, uuid, timestamptz) "
    "RETURNS integer LANGUAGE sql AS $$ SELECT nextval('public.sprung')::integer $$",
}


@pytest.fixture
def sprung(dsn: str) -> Iterator[Callable[[], int]]:
    """How many times code of another role has run; it can count, whoever runs it."""
    query(dsn, "CREATE SEQUENCE public.sprung; GRANT ALL ON SEQUENCE public.sprung TO PUBLIC")

    def times() -> int:
        [(called, last)] = query(dsn, "SELECT is_called, last_value FROM public.sprung")
        return last if called else 0

    yield times
    assert times() == 0


@pytest.mark.parametrize("what", THEIR_SCHEMA)
async def test_a_superuser_does_not_migrate_into_another_role_s_schema(
    dsn: str, sprung: Callable[[], int], what: str
) -> None:
    with another_role(dsn, "CREATE SCHEMA requeuest AUTHORIZATION {role}") as theirs:
        if statements := THEIR_SCHEMA[what].replace("{schema}", "requeuest"):
            query(theirs, statements)
        before = objects(dsn)
        with pytest.raises(SchemaMismatch, match=r"not this role's alone.*belongs to other_"):
            await migrate(dsn)
        assert objects(dsn) == before
        assert sprung() == 0


async def test_nobody_migrates_where_others_may_create(dsn: str) -> None:
    query(dsn, "CREATE SCHEMA requeuest")
    with (
        another_role(dsn, "GRANT CREATE ON SCHEMA requeuest TO {role}"),
        pytest.raises(SchemaMismatch, match=r"other_.* may create in it"),
    ):
        await migrate(dsn)
    query(dsn, "GRANT CREATE ON SCHEMA requeuest TO PUBLIC")
    with pytest.raises(SchemaMismatch, match="everybody may create in it"):
        await migrate(dsn)
    query(dsn, "REVOKE CREATE ON SCHEMA requeuest FROM PUBLIC")
    assert await migrate(dsn) == UP


async def test_what_another_role_left_in_the_schema_is_refused(dsn: str) -> None:
    query(dsn, "CREATE SCHEMA requeuest")
    with another_role(dsn, "GRANT CREATE, USAGE ON SCHEMA requeuest TO {role}") as theirs:
        query(
            theirs,
            "CREATE FUNCTION requeuest.f(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'; "
            "CREATE OPERATOR requeuest.= (FUNCTION = requeuest.f, LEFTARG = text, RIGHTARG = text); "
            "CREATE DOMAIN requeuest.d AS text",
        )
        query(dsn, "REVOKE CREATE ON SCHEMA requeuest FROM PUBLIC")
        query(dsn, f"REVOKE CREATE ON SCHEMA requeuest FROM {conninfo_to_dict(theirs)['user']}")
        with pytest.raises(SchemaMismatch, match=r"the function f belongs to.*the operator = .*the type d "):
            await migrate(dsn)


@pytest.mark.parametrize("table", ["migration", "job"])
@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            """GRANT TRIGGER ON requeuest.{table} TO {role}; SET ROLE {role};
               CREATE TRIGGER t BEFORE INSERT ON requeuest.{table} FOR EACH ROW EXECUTE FUNCTION public.trap()""",
            "{table} has a trigger t",
        ),
        ("CREATE RULE r AS ON DELETE TO requeuest.{table} DO ALSO SELECT 1", "{table} has a rule r"),
        ("ALTER TABLE requeuest.{table} ENABLE ROW LEVEL SECURITY", "{table} has row level security"),
        ("CREATE TABLE public.heir () INHERITS (requeuest.{table})", "{table} is part of an inheritance"),
        ("ALTER TABLE requeuest.{table} OWNER TO {role}", "{table} belongs to other_"),
        (
            "ALTER TABLE requeuest.{table} ADD extra integer DEFAULT public.number()",
            "{table} uses the function public.number",
        ),
        ("ALTER TABLE requeuest.{table} ADD CHECK (public.number() > 0)", "{table} uses the function public.number"),
    ],
)
async def test_what_others_have_put_on_a_table_is_refused(
    dsn: str, sprung: Callable[[], int], table: str, statement: str, problem: str
) -> None:
    await migrate(dsn, target=2)
    with another_role(dsn, CREATE, "GRANT USAGE ON SCHEMA requeuest TO {role}") as theirs:
        query(theirs, TRAP.replace("{schema}", "public"))
        query(theirs, "CREATE FUNCTION public.number() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
        role = str(conninfo_to_dict(theirs)["user"])
        query(dsn, statement.replace("{table}", table).replace("{role}", role))
        for target in (None, 0):
            with pytest.raises(SchemaMismatch, match=problem.replace("{table}", table)):
                await migrate(dsn, target=target)
        assert sprung() == 0
        query(dsn, "DROP TABLE IF EXISTS public.heir")


async def test_members_of_the_owner_may_migrate(dsn: str) -> None:
    with (
        another_role(dsn, "CREATE SCHEMA requeuest AUTHORIZATION {role}") as owner,
        another_role(dsn, f"GRANT {conninfo_to_dict(owner)['user']} TO {{role}}") as member,
    ):
        assert await migrate(member, target=2) == UP[:2]
        assert await migrate(member) == UP[2:]
        assert await migrate(member, target=0) == DOWN


@pytest.mark.parametrize("schema", ["public", "requeuest"])
async def test_what_others_may_create_in_public_is_not_run(dsn: str, sprung: Callable[[], int], schema: str) -> None:
    """With the schema `public` itself it is refused; beside another, no name is looked up there."""
    with another_role(dsn, CREATE) as theirs:
        query(theirs, HOSTILE)
        if schema == "public":
            with pytest.raises(SchemaMismatch, match="may create in it"):
                await migrate(dsn, schema=schema)
        else:
            assert await migrate(dsn, schema=schema) == UP
            assert await migrate(dsn, schema=schema, target=0) == DOWN
    assert sprung() == 0


HOSTILE = "".join(
    f"CREATE FUNCTION public.{name} RETURNS {result} LANGUAGE sql AS "
    f"$$ SELECT nextval('public.sprung'); SELECT NULL::{result} $$;"
    for name, result in [
        ("num_nonnulls(uuid, uuid, timestamptz)", "integer"),
        ("set_config(text, text, boolean)", "text"),
        ("pg_advisory_xact_lock(bigint)", "void"),
        ("hashtextextended(text, integer)", "bigint"),
        ("format(text, name)", "text"),
        ("format(text, oid)", "text"),
        ("to_regclass(text)", "regclass"),
        ("unnest(text[])", "setof text"),
        ("char_length(varchar)", "integer"),
    ]
)
