"""Connections for these tests: `conn` under test, `observer` to look at it through the server's eyes."""

from collections.abc import AsyncIterator

import pytest

from tests.postgres.harness import Conn, Proxy, connect, running_proxy


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
    async with running_proxy(dsn) as running:
        yield running
