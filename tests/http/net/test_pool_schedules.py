"""Whatever comes in whatever order, no place is lost and none is given out twice.

Requests that come, end well or badly, are cancelled while they wait or in the very moment of being served; connections
that die while idle; time that passes. After each step the pool's books have to balance.
"""

from dataclasses import dataclass, field
from typing import Final

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from requeuest_trio._http.net.connection import Connection
from requeuest_trio._http.net.pool import Connections, ConnectionStatistics
from tests.http.net.pooling import assert_consistent, opened, origin, served, stream_of

Step = tuple[str, int, bool]
STEPS: Final = st.tuples(
    st.sampled_from(["come", "come", "end well", "end well", "end badly", "cancel", "serve and cancel", "die", "pass"]),
    st.integers(min_value=0, max_value=30),
    st.booleans(),
)


@dataclass(eq=False)
class Task:
    """A request that waits for a connection, or has one."""

    name: str
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    may_end: trio.Event = field(default_factory=trio.Event)
    ends_well: bool = True
    connection: Connection | None = None
    number: int = 0
    """In the order in which they have asked."""


class World:
    """A pool and those who use it."""

    def __init__(self, nursery: trio.Nursery, clock: trio.testing.MockClock, most: int, per_origin: int) -> None:
        self.pool = Connections(most=most, most_per_origin=per_origin, keepalive=4.0)
        self.nursery = nursery
        self.clock = clock
        self.waiting: list[Task] = []
        self.serving: list[Task] = []
        self.asked = 0
        self.last_served: dict[str, int] = {}

    async def request(self, task: Task, fresh: bool) -> None:
        with task.scope:
            self.asked += 1
            task.number = self.asked
            self.waiting.append(task)
            try:
                connection = await self.pool.acquire(origin(task.name), fresh=fresh)
            finally:
                self.waiting.remove(task)
            self.last_served[task.name] = max(task.number, self.last_served.get(task.name, 0))
            assert not (fresh and connection is not None)
            if connection is None and not task.ends_well:
                self.pool.release_unopened(origin(task.name))
                return
            task.connection = connection or opened(self.pool, task.name)
            self.serving.append(task)
            try:
                await task.may_end.wait()
            finally:
                self.serving.remove(task)
                if task.may_end.is_set() and task.ends_well:
                    served(task.connection)
                else:
                    task.connection.close()
                self.pool.release(task.connection)

    def do(self, what: str, which: int, flag: bool) -> None:
        match what:
            case "come":
                task = Task("abc"[which % 3], ends_well=which < 25)
                self.nursery.start_soon(self.request, task, flag and which % 2 == 0)
            case "end well" | "end badly" if self.serving:
                task = self.serving[which % len(self.serving)]
                task.ends_well = what == "end well"
                task.may_end.set()
            case "cancel" if self.waiting or self.serving:
                everyone = [*self.waiting, *self.serving]
                everyone[which % len(everyone)].scope.cancel()
            case "serve and cancel" if self.waiting and self.serving:
                # Both in one step of the scheduler: whoever is handed the place is cancelled before it has run.
                self.serving[which % len(self.serving)].may_end.set()
                for task in self.waiting[: 1 + which % 3]:
                    task.scope.cancel() if flag else self.nursery.start_soon(self.cancel_soon, task)
            case "die":
                for connection in list(self.pool._idle)[: which % 3]:
                    stream_of(connection).has_ended = True
            case "pass":
                self.clock.jump(which / 5)

    async def cancel_soon(self, task: Task) -> None:
        await trio.lowlevel.checkpoint()
        task.scope.cancel()

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert_consistent(self.pool)
        seen = self.pool.statistics()
        assert seen.waiting == len(self.waiting)
        assert seen.open == len(self.serving) + seen.idle
        # First come, first served, within an origin.
        assert all(task.number > self.last_served.get(task.name, 0) for task in self.waiting)


@settings(max_examples=300)
@given(st.integers(1, 4), st.integers(1, 4), st.lists(STEPS, max_size=60), st.booleans())
def test_no_place_is_lost(most: int, per_origin: int, steps: list[Step], one_by_one: bool) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery, clock, most, per_origin)
            for number, step in enumerate(steps):
                world.do(*step)
                if one_by_one or number % 3 == 0:
                    await world.settle()
            await world.settle()
            while world.serving:
                world.do("end well", 0, False)
                await world.settle()
            assert world.waiting == []
            clock.jump(10.0)
            world.pool.close_expired()
            assert world.pool.statistics() == ConnectionStatistics(open=0, idle=0, waiting=0)
            assert world.pool._origins == {}

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)
