"""What most of these tests start from: a database with the schema in place, eyes on it, and a receiver."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.engine.bench import Bench, open_bench
from tests.engine.support import Log
from tests.postgres.harness import Conn


@pytest.fixture
def log() -> Iterator[Log]:
    """What the library logs."""
    handler, logger = Log(), logging.getLogger("requeuest_trio")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
async def bench(migrated_dsn: str) -> AsyncIterator[Bench]:
    """The store, on a database of the test's own."""
    async with open_bench(migrated_dsn) as opened:
        yield opened


@pytest.fixture
async def conn(bench: Bench) -> Conn:
    """A first connection of the bench."""
    return await bench.connect()


@pytest.fixture
async def other(bench: Bench) -> Conn:
    """A second one."""
    return await bench.connect()
