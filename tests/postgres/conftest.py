"""Connections for these tests: `conn` under test, `observer` to look at it through the server's probes."""

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg import sql

from tests.postgres.harness import Conn, connect
from tests.proxy import Proxy, open_proxy
from tests.servers import TestServer, wait_for

SHARED = "test_postgres"


@pytest.fixture(scope="session")
def shared_dsn(server: TestServer, admin: psycopg.Connection) -> Iterator[str]:
    """One database for all tests here: making one for each would take most of their time."""
    admin.execute(sql.SQL("create database {}").format(sql.Identifier(SHARED)))
    yield server.dsn(SHARED)
    admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(SHARED)))


@pytest.fixture
def dsn(shared_dsn: str) -> Iterator[str]:
    """The DSN of an empty database; what a test leaves in it, connections included, is gone afterwards."""
    yield shared_dsn
    others = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    with psycopg.connect(shared_dsn, autocommit=True) as cleaner:
        cleaner.execute(f"select pg_terminate_backend(pid) {others}")
        wait_for(lambda: cleaner.execute(f"select count(*) {others}").fetchone() == (0,))
        cleaner.execute("set client_min_messages = warning")
        cleaner.execute("drop schema public cascade; create schema public")


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[Conn]:
    """A connection in autocommit mode."""
    connection = await connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def observer(dsn: str) -> AsyncIterator[Conn]:
    """A second connection to the same database."""
    connection = await connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server."""
    async with open_proxy(dsn) as running:
        yield running
