"""Places for connections are shared out within both limits, in the order of asking, and to the origins in turn."""

import pytest
import trio
import trio.testing

from requeuest_trio._http.net.connection import Connection
from requeuest_trio._http.net.pool import Connections, ConnectionStatistics
from tests.http.net.pooling import assert_consistent, origin, pool_of, released, served, taken


class Queue:
    """Tasks that each take a place, in the order of their coming, and keep it."""

    def __init__(self, pool: Connections, nursery: trio.Nursery) -> None:
        self._pool = pool
        self._nursery = nursery
        self.got: list[str] = []
        self.connections: dict[str, Connection] = {}

    async def join(self, label: str, name: str) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                self.connections[label] = await taken(self._pool, name)
                self.got.append(label)

        self._nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        return scope

    async def next(self) -> str:
        """Who got the place that has just been put back."""
        before = len(self.got)
        await trio.testing.wait_all_tasks_blocked()
        assert_consistent(self._pool)
        assert len(self.got) == before + 1
        return self.got[-1]


@pytest.mark.parametrize(("most", "per_origin"), [(10, 2), (2, 10), (2, 2)])
async def test_limits(most: int, per_origin: int, nursery: trio.Nursery) -> None:
    pool = pool_of(most, per_origin)
    queue = Queue(pool, nursery)
    for number in range(3):
        await queue.join(f"a{number}", "a")
    assert queue.got == ["a0", "a1"]
    assert pool.statistics() == ConnectionStatistics(open=2, idle=0, waiting=1)
    released(pool, queue.connections["a0"])
    assert await queue.next() == "a2"
    assert queue.connections["a2"] is queue.connections["a0"]


async def test_limit_of_one_origin_is_none_of_another(nursery: trio.Nursery) -> None:
    pool = pool_of(10, 1)
    queue = Queue(pool, nursery)
    for label in ("a0", "a1", "b0", "b1", "c0"):
        await queue.join(label, label[0])
    assert queue.got == ["a0", "b0", "c0"]


async def test_scheme_and_port_are_part_of_an_origin() -> None:
    pool = pool_of()
    released(pool, await taken(pool, "a"))
    assert await pool.acquire(origin("a")._replace(port=81)) is None
    assert await pool.acquire(origin("a")._replace(scheme="https")) is None
    assert await pool.acquire(origin("a")) is not None


async def test_first_come_first_served(nursery: trio.Nursery) -> None:
    pool = pool_of(10, 1)
    queue = Queue(pool, nursery)
    for number in range(6):
        await queue.join(f"a{number}", "a")
    for number in range(1, 6):
        released(pool, queue.connections[f"a{number - 1}"])
        assert await queue.next() == f"a{number}"


async def test_who_comes_while_others_wait_waits_behind_them(nursery: trio.Nursery) -> None:
    """Even if a place has just become free."""
    pool = pool_of(10, 1)
    queue = Queue(pool, nursery)
    await queue.join("a0", "a")
    await queue.join("a1", "a")
    pool.release(served(queue.connections["a0"]))
    await queue.join("a2", "a")
    assert queue.got == ["a0", "a1"]


async def test_origins_take_turns(nursery: trio.Nursery) -> None:
    """One with a long queue does not keep out those that come later."""
    pool = pool_of(1, 10)
    queue = Queue(pool, nursery)
    for label in ("a0", "a1", "a2", "a3", "b0", "b1", "c0"):
        await queue.join(label, label[0])
    order = ["a0"]
    for _ in range(6):
        released(pool, queue.connections[order[-1]])
        order.append(await queue.next())
    assert order == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]


async def test_turns_do_not_cost_the_connections(nursery: trio.Nursery) -> None:
    """Each origin comes to its share; from then on, connections stay with their origin, and are used again."""
    pool = pool_of(4, 10)
    queue = Queue(pool, nursery)
    running = ["a0", "a1", "a2", "a3"]
    for label in (*running, *[f"a{number}" for number in range(4, 44)], *[f"b{number}" for number in range(40)]):
        await queue.join(label, label[0])
    for _ in range(60):
        released(pool, queue.connections[running.pop(0)])
        running.append(await queue.next())
    assert [label[0] for label in sorted(running)] == ["a", "a", "b", "b"]
    assert len(set(queue.connections.values())) == 4 + 2


async def test_a_single_origin_keeps_its_connections_below_its_own_limit(nursery: trio.Nursery) -> None:
    pool = pool_of(2, 10)
    queue = Queue(pool, nursery)
    for number in range(10):
        await queue.join(f"a{number}", "a")
    for number in range(8):
        released(pool, queue.connections[f"a{number}"])
        assert await queue.next() == f"a{number + 2}"
    assert len(set(queue.connections.values())) == 2


async def test_place_of_a_broken_connection_goes_on(nursery: trio.Nursery) -> None:
    pool = pool_of(1, 1)
    queue = Queue(pool, nursery)
    for label in ("a0", "b0", "a1"):
        await queue.join(label, label[0])
    queue.connections["a0"].close()
    pool.release(queue.connections["a0"])
    assert await queue.next() == "b0"
    assert await pool_is_left(pool, queue.connections["b0"])
    assert await queue.next() == "a1"


async def pool_is_left(pool: Connections, connection: Connection) -> bool:
    connection.close()
    pool.release(connection)
    return connection not in pool._in_use


async def test_place_for_which_no_connection_could_be_opened_goes_on(nursery: trio.Nursery) -> None:
    pool = pool_of(1, 1)
    queue = Queue(pool, nursery)
    assert await pool.acquire(origin("a")) is None
    await queue.join("b0", "b")
    pool.release_unopened(origin("a"))
    assert await queue.next() == "b0"


async def test_place_that_comes_in_the_moment_of_a_cancellation_goes_on(nursery: trio.Nursery) -> None:
    pool = pool_of(1, 1)
    queue = Queue(pool, nursery)
    first = await taken(pool, "a")
    scope = await queue.join("a0", "a")
    await queue.join("a1", "a")
    scope.cancel()
    released(pool, first)
    assert await queue.next() == "a1"
    assert queue.connections["a1"] is first


async def test_fresh_connection_in_place_of_one_that_comes_free(nursery: trio.Nursery) -> None:
    pool = pool_of(1, 1)
    first = await taken(pool, "a")
    async with trio.open_nursery() as inner:

        async def take_fresh() -> None:
            assert await pool.acquire(origin("a"), fresh=True) is None

        inner.start_soon(take_fresh)
        await trio.testing.wait_all_tasks_blocked()
        released(pool, first)
    assert first.is_closed
    assert pool.statistics() == ConnectionStatistics(open=1, idle=0, waiting=0)
