"""A connection is kept as long as it is of use, costs as much among ten thousand as alone, and goes with its pool."""

import gc
import math
import sys
from collections.abc import Awaitable, Callable

import httpx2
import pytest
import trio
import trio.testing

from requeuest_trio._http.net.connection import Connection
from requeuest_trio._http.net.pool import Connections, ConnectionStatistics
from tests.http.net.pooling import (
    assert_consistent,
    opened,
    origin,
    pool_of,
    released,
    served,
    stream_of,
    taken,
)


async def test_last_used_is_taken_first() -> None:
    pool = pool_of()
    one, two = await taken(pool, "a"), await taken(pool, "a")
    released(pool, one)
    released(pool, two)
    assert await pool.acquire(origin("a")) is two
    assert await pool.acquire(origin("a")) is one


async def test_longest_idle_makes_room(nursery: trio.Nursery) -> None:
    pool = pool_of(3, 10)
    held = [await taken(pool, name) for name in "abc"]
    for connection in (held[1], held[0], held[2]):
        released(pool, connection)
    assert await pool.acquire(origin("d")) is None
    assert [connection.is_closed for connection in held] == [False, True, False]
    assert pool.statistics() == ConnectionStatistics(open=3, idle=2, waiting=0)
    assert_consistent(pool)


async def test_own_idle_connection_makes_room_for_a_fresh_one() -> None:
    pool = pool_of(1, 10)
    first = await taken(pool, "a")
    released(pool, first)
    assert await pool.acquire(origin("a"), fresh=True) is None
    assert first.is_closed
    assert_consistent(pool)


def on_mock_clock(test: Callable[[trio.testing.MockClock], Awaitable[None]]) -> Callable[[], None]:
    """Nothing waits for the network here, so that time may pass at once."""

    def run() -> None:
        clock = trio.testing.MockClock()
        trio.run(test, clock, clock=clock)

    run.__name__ = getattr(test, "__name__", "run")
    return run


@on_mock_clock
async def test_idle_connection_expires(clock: trio.testing.MockClock) -> None:
    pool = pool_of(keepalive=4.0)
    connection = await taken(pool, "a")
    released(pool, connection)
    clock.jump(3.9)
    assert await pool.acquire(origin("a")) is connection
    released(pool, connection)
    clock.jump(4.0)
    assert await pool.acquire(origin("a")) is None
    assert connection.is_closed
    assert_consistent(pool)


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (b"Keep-Alive: timeout=3\r\n", 2.0),
        (b"keep-alive: max=100, TIMEOUT=3\r\n", 2.0),
        (b"Keep-Alive: timeout=1\r\n", 0.0),
        (b"Keep-Alive: timeout=0\r\n", 0.0),
        (b"Keep-Alive: timeout=60\r\n", 4.0),
        (b"Keep-Alive: 3\r\n", 4.0),
        (b"Keep-Alive: timeout=x\r\n", 4.0),
    ],
)
def test_server_that_tells_how_long_it_waits(field: bytes, seconds: float) -> None:
    async def main() -> None:
        pool = pool_of(keepalive=4.0)
        connection = await taken(pool, "a")
        released(pool, connection, field)
        clock.jump(max(seconds - 0.01, 0.0))
        again = await pool.acquire(origin("a"))
        assert (again is connection) == (seconds > 0)
        if again is connection:
            released(pool, connection, field)
            clock.jump(seconds)
            assert await pool.acquire(origin("a")) is None

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)


@on_mock_clock
async def test_expired_ones_are_closed_without_being_asked_for(clock: trio.testing.MockClock) -> None:
    pool = pool_of(keepalive=4.0)
    held = [await taken(pool, name) for name in "abc"]
    for connection in held:
        released(pool, connection)
        clock.jump(1.0)
    pool.close_expired()
    assert [connection.is_closed for connection in held] == [False, False, False]
    clock.jump(1.5)
    pool.close_expired()
    assert_consistent(pool)
    assert [connection.is_closed for connection in held] == [True, False, False]
    clock.jump(100.0)
    await pool.acquire(origin("d"))
    assert_consistent(pool)
    assert pool.statistics() == ConnectionStatistics(open=1, idle=0, waiting=0)


@pytest.mark.parametrize("keepalive", [0.0, math.inf])
async def test_keepalive_at_its_limits(keepalive: float) -> None:
    pool = pool_of(keepalive=keepalive)
    connection = await taken(pool, "a")
    released(pool, connection)
    pool.close_expired()
    assert connection.is_closed == (keepalive == 0)


# --- closing ----------------------------------------------------------------------------------------------------------


async def test_closing_ends_everything() -> None:
    pool = pool_of(2, 2)
    idle, busy = await taken(pool, "a"), await taken(pool, "b")
    released(pool, idle)
    refused = []

    async def wait(name: str) -> None:
        try:
            await pool.acquire(origin(name))
        except httpx2.ConnectError as error:
            refused.append(str(error))

    assert await pool.acquire(origin("a")) is idle
    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(wait, name)
        await trio.testing.wait_all_tasks_blocked()
        pool.close()
        assert pool.statistics() == ConnectionStatistics(open=2, idle=0, waiting=0)
        # In the same moment, before those who wait have heard of it.
        pool.release(busy)
    assert refused == ["the transport is closed"] * 3
    assert stream_of(busy).is_closed
    pool.release(idle)
    assert stream_of(idle).is_closed
    assert pool.statistics() == ConnectionStatistics(open=0, idle=0, waiting=0)
    assert pool._origins == {}
    with pytest.raises(httpx2.ConnectError):
        await pool.acquire(origin("a"))


async def test_closing_in_the_moment_in_which_a_place_is_handed_over(nursery: trio.Nursery) -> None:
    pool = pool_of(1, 1)
    first = await taken(pool, "a")
    async with trio.open_nursery() as inner:

        async def wait() -> None:
            with pytest.raises(httpx2.ConnectError):
                await pool.acquire(origin("a"))

        inner.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        released(pool, first)
        pool.close()
    assert first.is_closed
    assert pool.statistics() == ConnectionStatistics(open=0, idle=0, waiting=0)


async def test_connection_that_was_being_opened_meanwhile_is_closed() -> None:
    pool = pool_of()
    assert await pool.acquire(origin("a")) is None
    pool.close()
    connection = opened(pool, "a")
    assert connection.is_closed
    pool.release(connection)
    assert pool.statistics() == ConnectionStatistics(open=0, idle=0, waiting=0)


# --- cost -------------------------------------------------------------------------------------------------------------


def calls(function: Callable[[], object]) -> int:
    """How many functions are called, those in C included."""
    number = 0

    def count(*_: object) -> None:
        nonlocal number
        number += 1

    gc.disable()  # which calls back whoever asked for it
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return number


@pytest.mark.parametrize("names", [1, 1_000])
def test_cost_does_not_grow_with_the_number_of_connections(names: int) -> None:
    """On a clock that stands still: now and then those that have expired are looked for, which costs something too."""
    trio.run(_compare_costs, names, clock=trio.testing.MockClock())


async def _compare_costs(names: int) -> None:
    async def cost(size: int) -> tuple[int, int]:
        pool = pool_of(20_000, 20_000)
        held = [await taken_unchecked(pool, f"h{number % names}") for number in range(size)]
        for connection in held:
            pool.release(served(connection))

        def acquire_and_release() -> None:
            for name in ("h0", "other"):
                try:
                    pool.acquire(origin(name)).send(None)
                except StopIteration as taken:
                    connection = taken.value or opened(pool, name)
                pool.release(served(connection))

        number = calls(acquire_and_release)
        return number, sum(stream_of(connection).looked_at for connection in held)

    few, _ = await cost(names)
    many, looked_at = await cost(10_000)
    assert many == few
    assert looked_at <= 2


async def taken_unchecked(pool: Connections, name: str) -> Connection:
    assert await pool.acquire(origin(name), fresh=True) is None
    return opened(pool, name)
