"""A body is unreadable if reading it has failed twice of itself, while the lease was renewed; else it is an outage."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from psycopg import errors

from requeuest_trio import DatabaseUnavailable
from requeuest_trio._engine.large_bodies import LargeBodies, UnreadableError
from requeuest_trio._engine.lease import Lease
from requeuest_trio._store.store import Store


def unavailable(cause: BaseException | None) -> DatabaseUnavailable:
    error = DatabaseUnavailable(f"PostgreSQL is not available: {cause}")
    error.__cause__ = cause
    return error


SLOW = unavailable(errors.QueryCanceled("canceling statement due to statement timeout"))
SILENT = unavailable(None)
DESTROYED = unavailable(errors.DataCorrupted("invalid page in block 7"))
GONE = unavailable(errors.AdminShutdown("terminating connection"))


class FailingStore:
    """Fails as it is told, one time after another."""

    statement_timeout = 10.0

    def __init__(self, *outcomes: Exception | bytes | None) -> None:
        self.outcomes = list(outcomes)

    async def body(self, _: object) -> bytes | None:
        await trio.lowlevel.checkpoint()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def bodies(*outcomes: Exception | bytes | None, renewed: bool = True) -> LargeBodies:
    lease = Lease(30.0)
    lease.renewed(lease.clock() if renewed else lease.clock() - 20.0)
    return LargeBodies(cast("Store", FailingStore(*outcomes)), lease)


async def test_a_second_try_may_succeed() -> None:
    assert await bodies(b"x").read(cast("Any", None)) == b"x"
    assert await bodies(SLOW, b"x").read(cast("Any", None)) == b"x"
    assert await bodies(SLOW, None).read(cast("Any", None)) is None


@pytest.mark.parametrize(
    ("last", "problem"),
    [
        (SLOW, "its body can't be read within 10 s, the time for a large body"),
        (SILENT, "its body can't be read within 10 s, the time for a large body"),
        (DESTROYED, "its body can't be read: invalid page in block 7"),
    ],
)
async def test_what_fails_twice_of_itself_is_unreadable(last: Exception, problem: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        await bodies(SLOW, last).read(cast("Any", None))
    assert str(caught.value) == problem


async def test_an_outage_is_none_of_its_fault() -> None:
    for outcomes in ([GONE], [SLOW, GONE]):
        with pytest.raises(DatabaseUnavailable) as caught:
            await bodies(*outcomes).read(cast("Any", None))
        assert caught.value is GONE
    with pytest.raises(DatabaseUnavailable) as caught:
        await bodies(SLOW, SLOW, renewed=False).read(cast("Any", None))
    assert caught.value is SLOW, "the lease was not renewed either, so PostgreSQL stands still"
