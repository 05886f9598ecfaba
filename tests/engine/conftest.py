"""What most of these tests start from: a database with the schema in place, probes on it, and a receiver."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.engine.probe import Log
from tests.engine.store_harness import StoreHarness, open_store_harness
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
async def harness(migrated_dsn: str) -> AsyncIterator[StoreHarness]:
    """The store, on a database of the test's own."""
    async with open_store_harness(migrated_dsn) as opened:
        yield opened


@pytest.fixture
async def conn(harness: StoreHarness) -> Conn:
    """A first connection of the harness."""
    return await harness.connect()


@pytest.fixture
async def other(harness: StoreHarness) -> Conn:
    """A second one."""
    return await harness.connect()
