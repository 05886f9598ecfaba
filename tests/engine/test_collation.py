"""An update of the operating system under the data. Invariant: each opening says so once, with what mends it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from requeuest_trio import Request, migrate, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.probe import Log
from tests.postgres.harness import connect
from tests.servers import TestServer

NAME = 'texts "of" others'
QUOTED = '"texts ""of"" others"'


@pytest.fixture
async def versioned(server: TestServer) -> AsyncIterator[str]:
    """A database that compares texts by rules with a version, as those of most systems do."""
    async with await connect(server.dsn()) as admin:
        has_rules_of_its_own = admin.info.server_version >= 170000
        locale = "builtin BUILTIN_LOCALE 'C.UTF-8'" if has_rules_of_its_own else "icu ICU_LOCALE 'en'"
        await admin.execute(f"CREATE DATABASE {QUOTED} TEMPLATE template0 LOCALE_PROVIDER {locale}".encode())
        try:
            yield server.dsn(NAME)
        finally:
            with trio.CancelScope(shield=True):
                await admin.execute(f"DROP DATABASE {QUOTED} WITH (FORCE)".encode())


async def test_each_opening_tells_of_it_once_and_the_advice_mends_it(
    versioned: str, receiver: Receiver, log: Log
) -> None:
    await migrate(versioned)
    async with await connect(versioned) as connection:
        [(version,)] = await (
            await connection.execute(
                "SELECT pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()"
            )
        ).fetchall()
        assert version is not None
        await connection.execute("UPDATE pg_database SET datcollversion = '0.0' WHERE datname = current_database()")
        for opening in (1, 2):
            async with open_requeuest(versioned) as client:
                await client.spawn_many("c", [Request.get(receiver.url)] * 3, ordering_key="k")
                await receiver.wait_for(3 * opening)
                await client.stats()
            assert len(log.fields("collation_changed")) == opening
        told = log.fields("collation_changed")[0]
        assert (told["database"], told["recorded"], told["actual"]) == (NAME, "0.0", version)
        for statement in told["advice"].split(", then "):
            await connection.execute(statement.encode())
    log.records.clear()
    async with open_requeuest(versioned):
        pass
    assert log.fields("collation_changed") == []


@pytest.mark.parametrize("recorded", ["NULL", "'0.0'"])
async def test_where_there_is_no_version_nothing_is_said(migrated_dsn: str, log: Log, recorded: str) -> None:
    """Rules that never change have none, and take none: there, the advice would be refused."""
    async with await connect(migrated_dsn) as connection:
        await connection.execute(
            f"UPDATE pg_database SET datcollversion = {recorded} WHERE datname = current_database()".encode()
        )
    async with open_requeuest(migrated_dsn, ()):
        pass
    assert log.fields("collation_changed") == []
