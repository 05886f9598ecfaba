"""
An application is tested with a clock that jumps, or runs faster: what waits for PostgreSQL is not cut by it.

What could go wrong, and is tried here: nothing can be opened; a statement fails of a time limit that is none; a limit
of the application's own is over while PostgreSQL answers; the lease is lost; who asks a server that does not answer
never hears of it.
"""

import time
from collections.abc import Callable

import httpx2
import psycopg
import pytest
import trio
import trio.testing
from psycopg.conninfo import make_conninfo

from requeuest_trio import Config, DatabaseUnavailable, Request, RetryPolicy, open_requeuest
from requeuest_trio.testing import open_receiver
from tests.engine.probe import Log
from tests.proxy import open_proxy

CLOCKS: dict[str, Callable[[], trio.testing.MockClock]] = {
    "jumping": lambda: trio.testing.MockClock(autojump_threshold=0),
    "fast": lambda: trio.testing.MockClock(rate=100.0),
    "jumping a little later": lambda: trio.testing.MockClock(autojump_threshold=0.05),
}


def answer(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, content=request.url.path.encode())


async def use(dsn: str) -> None:
    """Everything that a caller can ask for, within a minute that does not pass while PostgreSQL answers."""
    async with open_requeuest(dsn, ["c"], http=httpx2.MockTransport(answer)) as client:
        for number in range(20):
            with trio.fail_after(60):
                response = await client.spawn_returning("c", Request.get(f"http://x.test/{number}"))
                assert response.content == f"/{number}".encode()
        with trio.fail_after(60):
            async with client.transaction() as connection:
                [job_id] = await client.spawn_many("c", [Request.get("http://x.test/last")], connection=connection)
            assert (await client.wait(job_id)).attempts == 1
        assert (await client.stats()).channels["c"]


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_everything_works(migrated_dsn: str, clock: Callable[[], trio.testing.MockClock], log: Log) -> None:
    trio.run(use, migrated_dsn, clock=clock())
    assert not log.fields("lease_lost")
    assert not log.fields("heartbeat_failed")


SLOW = """
CREATE FUNCTION public.sleep() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN PERFORM pg_catalog.pg_sleep(0.3); RETURN NEW; END $$;
CREATE TRIGGER sleep BEFORE INSERT ON requeuest.job FOR EACH ROW EXECUTE FUNCTION public.sleep();
"""


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_a_slow_answer_is_waited_for(migrated_dsn: str, clock: Callable[[], trio.testing.MockClock], log: Log) -> None:
    """For less than the limits by real time, and for far more by the clock that runs a hundred times faster."""
    with psycopg.connect(migrated_dsn, autocommit=True) as connection:
        connection.execute(SLOW.encode())

    async def main() -> None:
        async with open_requeuest(migrated_dsn, ["c"], http=httpx2.MockTransport(answer)) as client:
            for _ in range(3):
                job_id = await client.spawn("c", Request.get("http://x.test/slow"))
                assert (await client.wait(job_id)).attempts == 1

    trio.run(main, clock=clock())
    assert not log.fields("lease_lost")
    assert not log.fields("database_lost")


def test_a_limit_of_the_application_is_not_over_while_postgresql_answers(migrated_dsn: str) -> None:
    """It is what comes next by the clock, and all tasks are blocked while the server sleeps."""
    with psycopg.connect(migrated_dsn, autocommit=True) as connection:
        connection.execute(SLOW.encode())

    async def main() -> None:
        async with open_requeuest(migrated_dsn, (), http=httpx2.MockTransport(answer)) as client:
            with trio.fail_after(1.0):
                await client.spawn("c", Request.get("http://x.test/slow"))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_with_the_fixture_of_pytest_trio(migrated_dsn: str, autojump_clock: trio.testing.MockClock) -> None:
    """An hour of the application's passes in a moment, in which beats and polls go on; a delivery over real sockets."""
    async with open_receiver() as receiver, open_requeuest(migrated_dsn, ["c"]) as client:
        began = time.monotonic()
        await trio.sleep(600)
        assert time.monotonic() - began < 30
        job_id = await client.spawn(
            "c", Request.get(receiver.url), retry=RetryPolicy(max_attempts=50, initial=0.01, jitter=0)
        )
        assert (await client.wait(job_id)).state == "succeeded"


def test_a_server_that_does_not_answer_is_told_of_in_real_time(migrated_dsn: str) -> None:
    config = Config(connect_timeout=0.5, statement_timeout=0.5)

    async def main() -> None:
        async with open_proxy(migrated_dsn) as proxy:
            dsn = make_conninfo(proxy.dsn, sslmode="disable")
            async with open_requeuest(dsn, (), config=config) as client:
                proxy.freeze()
                began = time.monotonic()
                with pytest.raises(DatabaseUnavailable):
                    await client.stats()
                assert 0.4 < time.monotonic() - began < 20
                proxy.thaw()
                await client.stats()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
