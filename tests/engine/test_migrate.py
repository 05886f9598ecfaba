"""Migrations. Invariants: a step is whole or not there; every two migrators take turns; what is not ours is not
touched; a schema that does not fit is named, with the command to run and without the password."""

from __future__ import annotations

import ast
import os
import sys
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from requeuest_trio import DatabaseUnavailable, Request, SchemaMismatch, migrate, open_requeuest
from requeuest_trio._store import migrate as module
from requeuest_trio._store.migrate import Migration, migrations
from requeuest_trio._store.queries import Queries
from requeuest_trio.testing import Receiver
from tests.postgres.harness import connect, until, value

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
            await holder.execute(Queries("requeuest")["lock_migrations"], {"schema": "requeuest"})
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
