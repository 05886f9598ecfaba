"""
The fixtures every test may use: a real PostgreSQL, and a database of its own for each test.

`dsn` is an empty database, `migrated_dsn` one with the schema in place. Both are dropped afterwards, whatever is still
connected. The server belongs to this session alone (see `servers.py`).
"""

import itertools
from collections.abc import Iterator

import psycopg
import pytest
import trio
from psycopg import sql

from tests.servers import TestServer, running_server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[TestServer]:
    """The session's PostgreSQL server."""
    with running_server() as running:
        yield running


@pytest.fixture(scope="session")
def admin(server: TestServer) -> Iterator[psycopg.Connection]:
    """A blocking connection to the server's `postgres` database, for creating and dropping databases."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def dsn(server: TestServer, admin: psycopg.Connection) -> Iterator[str]:
    """The DSN of a new, empty database."""
    name = _create_database(admin, "template1")
    yield server.dsn(name)
    _drop_database(admin, name)


@pytest.fixture(scope="session")
def migrated_template(server: TestServer, admin: psycopg.Connection) -> str:
    """The name of a database that was migrated once and is only copied from."""
    from requeuest_trio import migrate

    name = _create_database(admin, "template1")
    trio.run(migrate, server.dsn(name))
    return name


@pytest.fixture
def migrated_dsn(server: TestServer, admin: psycopg.Connection, migrated_template: str) -> Iterator[str]:
    """The DSN of a new database in which the schema `requeuest` is up to date."""
    name = _create_database(admin, migrated_template)
    yield server.dsn(name)
    _drop_database(admin, name)


def _create_database(admin: psycopg.Connection, template: str) -> str:
    name = f"test_{next(_numbers)}"
    admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    return name


def _drop_database(admin: psycopg.Connection, name: str) -> None:
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
