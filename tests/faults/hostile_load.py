"""
How much hostile receivers cost everybody else: `python -m tests.faults.hostile_load [--sockets 32] [--seconds 3]`.

For each kind, so many attempts at once are under way to hostile sockets in a process of their own, while healthy jobs
flow at a steady rate through the same worker. Prints how late those arrive, beside the same without any hostile socket,
how long the event loop stood still, and the longest time for which one task kept the processor.
"""

# ruff: noqa: T201 - prints a table

import argparse
import gc
import math
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from requeuest_trio import Config, Request, RetryPolicy, migrate, open_requeuest
from requeuest_trio.testing import Receiver, open_receiver
from tests.faults.processes import start_program
from tests.faults.steady import Steady, percentile
from tests.throwaway import throwaway_server

RATE = 50.0
TIMEOUT = 2.0
AGAIN = RetryPolicy(initial=0.1, max_backoff=0.5)
LARGEST_LAG = 0.1


class Steps(trio.abc.Instrument):
    """The longest step of a task, in seconds of the processor's time: what else runs on the machine has no part."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.by = ""
        self._began = math.inf  # of the step in which this was installed, only the end is seen

    def before_task_step(self, _: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = time.thread_time() - self._began
        if took > self.longest:
            self.longest, self.by = took, task.name


class Cost(NamedTuple):
    """What healthy jobs met."""

    kind: str
    p50: float
    p99: float
    lag: float
    step: float


@asynccontextmanager
async def hostile_sockets(directory: Path) -> AsyncIterator[dict[str, str]]:
    """Their URLs, by kind."""
    async with trio.open_nursery() as nursery:
        program = start_program(nursery, "hostile_sockets", "hostile", directory, {})
        try:
            yield (await program.said("serving"))["urls"]
        finally:
            await program.end()  # noqa: ASYNC102 - has a shield of its own


async def measure(dsn: str, directory: Path, words: list[str], *, sockets: int, seconds: float) -> list[Cost]:
    """Each kind in a worker of its own, which ends with it."""
    costs = []
    async with hostile_sockets(directory) as urls:
        chosen = [kind for kind in urls if not words or any(word in kind for word in words)]
        for kind in ["none", *chosen]:
            # A new receiver for each: all requests that it remembers make collections of garbage longer.
            async with open_receiver() as receiver:
                costs.append(await cost_of(dsn, receiver, kind, urls.get(kind), sockets=sockets, seconds=seconds))
            print(f"{kind}: {costs[-1]}", file=sys.stderr)
    return costs


async def cost_of(dsn: str, receiver: Receiver, kind: str, url: str | None, *, sockets: int, seconds: float) -> Cost:
    """What healthy jobs meet beside one kind of receiver."""
    config = Config(attempt_timeout=TIMEOUT)
    async with open_requeuest(dsn, [kind, "healthy"], config=config, concurrency=max(32, sockets), grace=0) as client:
        steady, steps = Steady(client, receiver, rate=RATE), Steps()
        await steady.flow_for(0.5)  # so that everything is imported, connected and prepared
        if url is not None:
            # No status is good enough, so that they are at it all the time.
            request = Request.post(url, content=b"x", accept=[299])
            await client.spawn_many(kind, [request] * sockets, retry=AGAIN)
        lag = Lag()
        gc.collect()
        gc.freeze()  # what the program has imported and kept so far
        trio.lowlevel.add_instrument(steps)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lag.watch)
                delays = await steady.flow_for(seconds)
                nursery.cancel_scope.cancel()
        finally:
            trio.lowlevel.remove_instrument(steps)
            gc.unfreeze()
        await client.clear([kind])
        return Cost(kind, percentile(delays, 0.5), percentile(delays, 0.99), lag.worst, steps.longest)


class Lag:
    """How late a task is that asks to be woken a hundred times a second."""

    worst = 0.0

    async def watch(self) -> None:
        while True:
            due = trio.current_time() + 0.01
            await trio.sleep_until(due)
            self.worst = max(self.worst, trio.current_time() - due)


def table(costs: list[Cost]) -> str:
    """In Markdown, in milliseconds."""
    lines = ["| hostile sockets | healthy p50 | p99 | loop lag | longest step (CPU) |", "|---|---:|---:|---:|---:|"]
    for cost in costs:
        figures = " | ".join(f"{1000 * figure:.1f}" for figure in cost[1:])
        lines.append(f"| {cost.kind} | {figures} |")
    return "\n".join(lines)


async def play(words: list[str], sockets: int, seconds: float, directory: Path) -> list[Cost]:
    with throwaway_server() as server:
        await migrate(server.dsn())
        return await measure(server.dsn(), directory, words, sockets=sockets, seconds=seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.hostile_load", description=__doc__)
    parser.add_argument("--sockets", type=int, default=32, help="hostile sockets of each kind at once")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each kind is measured")
    parser.add_argument("kinds", nargs="*", help="only those whose names contain one of these")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="requeuest-hostile-") as directory:
        costs = trio.run(play, chosen.kinds, chosen.sockets, chosen.seconds, Path(directory))
    print(table(costs))
    return 1 if max(cost.lag for cost in costs) > LARGEST_LAG else 0


if __name__ == "__main__":
    sys.exit(main())
