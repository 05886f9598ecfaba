"""Closing the way to PostgreSQL. Invariant: whoever asks for something meanwhile holds nothing up."""

from __future__ import annotations

import pytest
import trio

from requeuest_trio._config import Config
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.database import Database
from requeuest_trio._store.queries import Queries
from tests.engine.probe import QueueProbe


async def test_what_is_asked_while_it_closes_is_refused_at_once(probe: QueueProbe) -> None:
    async def sleep(connection: TrioConnection) -> None:
        await connection.execute("select pg_sleep(60)")

    async def ask_twice() -> None:
        for _ in range(2):
            with pytest.raises(trio.ClosedResourceError):
                await database.run(sleep)

    async with (
        trio.open_nursery() as nursery,
        Database(probe.dsn, Queries("requeuest"), Config(), size=2) as database,
    ):
        nursery.start_soon(ask_twice)
        await probe.until_true("select count(*) from pg_stat_activity where wait_event = 'PgSleep'")
        nursery.cancel_scope.deadline = trio.current_time() + 1.5
    assert not nursery.cancel_scope.cancelled_caught
