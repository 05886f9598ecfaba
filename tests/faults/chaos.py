"""
Everything at once, for as long as it is given: `python -m tests.faults.chaos --minutes 30 [--seed 7]`.

Producers and workers run on a PostgreSQL of their own, with fsync=on, and one after the other of all faults there are
is done to them. Which PostgreSQL, `REQUEUEST_TEST_POSTGRES` says (see `tests/servers.py`). Some of them reach it
straight, some behind a transaction pooler, some by either of two hosts; with `--pooler` all of them behind one.

Before the first fault, and after the last, there is a backlog that keeps every place of the workers taken, so that
their throughput can be compared. In the end the history is judged, and what came of it is told as a table in Markdown.
Exit status 1: an invariant does not hold.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import trio
from psycopg.conninfo import make_conninfo

from requeuest_trio import migrate
from tests.faults.arrivals import Answer
from tests.faults.checker import Violation, judge
from tests.faults.fault_harness import FaultHarness, open_fault_harness
from tests.faults.history import History, Usage
from tests.faults.processes import Program
from tests.faults.summary import summary
from tests.faults.wall import Wall
from tests.faults.ways import COMMITS, LOSSES, Way, Ways, open_ways
from tests.poolers import OWN, PGBOUNCER
from tests.servers import BINARIES_VARIABLE
from tests.throwaway import Throwaway, throwaway_server

STEADY = 8.0
"""Seconds without faults at the beginning, to know what is usual."""
QUIET = 12.0
"""And at the end, to see it come back."""
WORKERS = 4
CONCURRENCY = 8
PLACES = WORKERS * CONCURRENCY + 32
"""Of the workers, and of the producer that delivers too."""
DELAY = 0.1
"""Of the receiver: so that places are what is scarce, and not the machine."""
MOST_PER_SECOND = PLACES / DELAY
"""Deliveries, with every place taken all the time."""
LEASE, POLL, TIMEOUT = 3.0, 0.5, 2.0
FAILOVER = 30.0
"""Seconds, within which a process goes on by the other host."""
ANSWER = 2.0
"""Seconds, for which a producer waits for PostgreSQL: less than it is kept waiting now and then."""
KEPT = 20 * 3_600.0
"""Seconds. What has succeeded is removed after a day."""
RETRY = {"initial": 0.05, "max_backoff": 0.5}
ORDERS: tuple[dict[str, Any], ...] = (
    {"pause": 0.02},
    {"pause": 0.2, "largest_batch": 20},
    {"pause": 0.04, "keys": 50, "largest_batch": 3},
    {"pause": 0.04, "lease": LEASE},
)
WORKERS_GO: tuple[str, ...] = ("straight", "pooled", "either", "polling")
PRODUCERS_GO: tuple[str, ...] = ("pooled", "either", "pooled", "straight")
"""The names of their `Ways`, by their numbers."""


class Chaos:
    """What is running, and what is done to it."""

    def __init__(self, harness: FaultHarness, server: Throwaway, ways: Ways, wall: Wall, apart: float) -> None:
        self._harness = harness
        self._server = server
        self._ways = ways
        self._wall = wall
        self._false_times = _false_times(apart)
        self._chance = random.Random(harness.seed)
        self._workers: list[Program] = []
        self._producers: list[Program] = []
        self._started = 0
        self._faults: dict[Callable[[], Awaitable[None]], float] = {
            self.kill_worker: 4,
            self.freeze_worker: 2,
            self.starve_worker: 2,
            self.suspend_worker: 2,
            self.set_clock: 2,
            self.end_worker: 2,
            self.end_worker_at_once: 2,
            self.kill_producer: 1,
            self.break_connections: 3,
            self.break_all_connections: 1,
            self.restart_server: 1,
            self.silence_host: 2,
            self.lose_behind_pooler: 4,
        }

    async def run(self, seconds: float) -> History:
        """Let it run for so long, then judge."""
        await self._harness.start_receiver(Answer(delay=DELAY, failing=0.02))
        await self._pile_up(STEADY)
        for number in range(WORKERS):
            self._workers.append(await self._start_worker(number))
        for number in range(len(ORDERS)):
            self._producers.append(await self._start_producer(number))
        began = time.monotonic()
        await self._harness.run_for(STEADY)
        await self._do_faults(began + seconds - QUIET)
        await self._pile_up(QUIET)
        await self.kill_worker()
        await self.restart_server()
        await self._harness.run_for(QUIET)
        self._harness.load = (began + 1.0, time.monotonic())
        await self._finish()
        return await self._harness.history(lease=LEASE, poll_interval=POLL, attempt_timeout=TIMEOUT)

    async def _pile_up(self, seconds: float) -> None:
        """See that there is enough to do for so many seconds, whatever the workers manage."""
        await self._harness.produce(
            jobs=round(seconds * MOST_PER_SECOND), largest_batch=500, retry=RETRY, asks_again=True
        )

    async def _do_faults(self, until: float) -> None:
        """Each at least once, however long that takes; then by chance."""
        faults = list(self._faults)
        self._chance.shuffle(faults)
        while faults or time.monotonic() < until:
            [fault] = [faults.pop()] if faults else self._chance.choices(*zip(*self._faults.items(), strict=True))
            await fault()
            await self._harness.run_for(self._chance.uniform(0.2, 2.0))

    async def _finish(self) -> None:
        for producer in self._producers:
            producer.terminate()
            await producer.ended()
        await self._harness.until_finished(patience=120.0)
        for worker in self._workers:
            await self._harness.leave(worker)
        [[clients]] = await self._harness.ask(
            "select count(*) from pg_stat_activity where application_name ~ '^(worker|producer)' and pid <> all(%s)",
            self._ways.sessions,
        )
        self._harness.usages.append(Usage(what="connections", before=0, after=clients, allowed=0))
        for program in self._harness.programs:
            program.must_be_well()

    async def _start_worker(self, number: int) -> Program:
        self._started += 1
        name, way = f"worker-{self._started}", getattr(self._ways, WORKERS_GO[number])
        return await self._harness.start_worker(
            name,
            dsn=way.dsn,
            config=_listening(way, name),
            lease=LEASE,
            poll_interval=POLL,
            attempt_timeout=TIMEOUT,
            concurrency=CONCURRENCY,
            grace=2.0,
        )

    async def _start_producer(self, number: int) -> Program:
        """Lone jobs; batches; jobs in order; and lone jobs by a process that delivers too."""
        self._started += 1
        name, way = f"producer-{self._started}", getattr(self._ways, PRODUCERS_GO[number])
        config = _listening(way, name) | {"statement_timeout": ANSWER}
        orders = ORDERS[number]
        return await self._harness.start_producer(
            name, dsn=way.dsn, config=config, asks_again=True, retry=RETRY, **orders
        )

    def _choose(self) -> int:
        return self._chance.randrange(WORKERS)

    # --- faults -------------------------------------------------------------------------------------------------------

    async def kill_worker(self) -> None:
        victim = self._choose()
        await self._harness.kill(self._workers[victim])
        self._workers[victim] = await self._start_worker(victim)

    async def freeze_worker(self) -> None:
        """For less than its lease, or for more."""
        worker, at = self._workers[self._choose()], time.monotonic()
        await worker.freeze()
        held = await self._harness.held_in_the_end(worker)
        await self._harness.run_for(self._chance.uniform(0.1, 2 * LEASE))
        worker.thaw()
        self._harness.note_fault("freeze", at, jobs=held)

    async def starve_worker(self) -> None:
        """It gets no more descriptors than it has, or a few; as when something else in the process has them all."""
        worker = self._workers[self._choose()]
        with self._harness.fault("no descriptors", jobs=()), worker.starved(self._chance.randrange(4)):
            await self._harness.run_for(self._chance.uniform(0.1, LEASE))

    async def suspend_worker(self) -> None:
        """For less than its lease, or for more, its machine is in suspend, of which its Trio knows nothing."""
        worker, at = self._workers[self._choose()], time.monotonic()
        async with worker.suspended():
            held = await self._harness.held_in_the_end(worker)
            await self._harness.run_for(self._chance.uniform(0.1, 2 * LEASE))
        self._harness.note_fault("suspend", at, jobs=held)

    async def set_clock(self) -> None:
        """That of the database, far forward or back; and put it right again. Nobody's attempts are lost by that."""
        if (ahead := next(self._false_times, None)) is not None:
            # While it is behind, what was stored before is not due.
            with self._harness.fault("clock set", jobs=(), delays=True):
                await self._wall.set(ahead)
                await self._harness.run_for(self._chance.uniform(0.1, 2 * LEASE))
                await self._wall.set(0.0)

    async def end_worker(self) -> None:
        victim, at = self._choose(), time.monotonic()
        await self._harness.leave(self._workers[victim])
        self._harness.note_fault("SIGTERM", at, jobs=())
        self._workers[victim] = await self._start_worker(victim)

    async def end_worker_at_once(self) -> None:
        victim, at = self._choose(), time.monotonic()
        worker = self._workers[victim]
        worker.terminate()
        await self._harness.until_logged(worker, "draining")
        held = await self._harness.held_by(worker)
        with suppress(ProcessLookupError):  # it may have come to its end already
            if not worker.has_ended:
                worker.interrupt()
        await self._harness.leave_after_signal(worker)
        self._harness.note_fault("SIGTERM, SIGINT", at, jobs=held, uncounted=True)
        self._workers[victim] = await self._start_worker(victim)

    async def kill_producer(self) -> None:
        victim = self._chance.randrange(len(self._producers))
        await self._harness.kill(self._producers[victim], "kill -9 (producer)")
        self._producers[victim] = await self._start_producer(victim)

    async def break_connections(self) -> None:
        """Of one program: those that are there at that moment."""
        program = self._chance.choice([*self._workers, *self._producers])
        with self._harness.fault("connections ended", jobs=()):
            await self._terminate("application_name = %s", program.name)

    async def break_all_connections(self) -> None:
        with self._harness.fault("all connections ended", jobs=()):
            await self._terminate("pid <> pg_backend_pid() and %s <> ''", "all")

    async def _terminate(self, which: str, name: str) -> None:
        await self._harness.ask(f"select pg_terminate_backend(pid) from pg_stat_activity where {which}", name)

    async def restart_server(self) -> None:
        """As after a power cut. Leases may run out meanwhile, so any attempt may be cut short by it."""
        with self._harness.fault("server restarted"):
            await trio.to_thread.run_sync(self._server.restart)

    async def silence_host(self) -> None:
        """
        One of two hosts swallows everything; what went by it goes on by the other. Then what it has kept is passed on.

        Its leases run out if that takes it too long; nobody else's jobs have to wait.
        """
        worker, at = self._workers[WORKERS_GO.index("either")], time.monotonic()
        host = self._ways.host_of(worker.name)
        host.freeze()
        held = await self._harness.held_in_the_end(worker)
        claims = await self._harness.claims_of(worker)
        await self._harness.until_claimed(worker, claims, patience=2 * FAILOVER)
        self._harness.usages.append(
            Usage(what="seconds to the other host", before=0, after=time.monotonic() - at, allowed=FAILOVER)
        )
        await self._harness.run_for(self._chance.uniform(0.1, LEASE))
        host.thaw()
        held |= await self._harness.held_in_the_end(worker)
        self._harness.note_fault("host silent", at, jobs=held)

    async def lose_behind_pooler(self) -> None:
        """At commits of each kind, the pooler loses its session; nothing is lost by that, and nobody's attempts."""
        for lose, when in self._chance.sample(list(product(LOSSES, COMMITS)), len(LOSSES) * len(COMMITS)):
            with self._harness.fault("lost behind the pooler", jobs=()):
                await self._ways.lose(lose, when)


def _listening(way: Way, name: str) -> dict[str, Any]:
    """The part of a `Config` that is about listening."""
    return {} if way.listen_dsn is None else {"listen_dsn": make_conninfo(way.listen_dsn, application_name=name)}


def _false_times(apart: float) -> Iterator[float]:
    """Seconds ahead or behind; never so many that what is finished would be old enough to be removed."""
    for number in range(1, int(KEPT / apart)):
        yield from (number * apart, -number * apart)


async def play(seed: int, seconds: float, directory: Path, pooler: str | None, command: str) -> list[Violation]:
    """One performance. Tells what came of it, and returns what is wrong."""
    with throwaway_server({"max_connections": "200"}) as server:
        wall, apart = Wall(server.dsn()), 2 * seconds + 600.0
        await migrate(server.dsn())
        await wall.hang_up(apart)
        harness = None
        try:
            async with open_ways(server, pooler) as ways, open_fault_harness(server.dsn(), directory, seed) as harness:
                began = time.monotonic()
                history = await Chaos(harness, server, ways, wall, apart).run(seconds)
        except Exception:
            if harness is not None:
                print(harness.epitaph)
            raise
        seconds = time.monotonic() - began
        with psycopg.connect(server.dsn()) as connection:
            version = connection.info.parameter_status("server_version")
    violations = judge(history)
    print(summary(history, violations, command=command, seconds=seconds, version=version))
    for violation in violations[:50]:
        print(violation)
    if violations:
        print(harness.epitaph)
    return violations


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long jobs flow; at least half a minute")
    parser.add_argument("--seed", type=int, default=None, help="what a failed run has named")
    parser.add_argument("--pooler", choices=(OWN, PGBOUNCER), default=None, help="let everything go behind one")
    chosen = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if chosen.seed is None else chosen.seed
    with tempfile.TemporaryDirectory(prefix="requeuest-chaos-") as directory:
        seconds = max(chosen.minutes * 60, STEADY + QUIET + 10)
        behind = f" --pooler {chosen.pooler}" if chosen.pooler else ""
        server = f"{BINARIES_VARIABLE}={named} " if (named := os.environ.get(BINARIES_VARIABLE)) else ""
        command = f"{server}python -m tests.faults.chaos --minutes {chosen.minutes:g} --seed {seed}{behind}"
        print(command, flush=True)
        violations = trio.run(play, seed, seconds, Path(directory), chosen.pooler, command)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
