"""
How fast a worker empties a queue.

The jobs are there before, the tables analysed and on disk. A worker's process is started, and waits with everything
imported. Then it is told to go. Measured is from the moment when the first request has arrived to the moment when
the last success is recorded and committed: opening connections is left out, and so is leaving.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.contestants import WorkerOptions, load
from benchmarks.database import Database
from benchmarks.process import Program, program
from benchmarks.receiver import Receiver
from benchmarks.setting import Figures, Setting
from benchmarks.workload import SMALL_BODY, Workload

PATIENCE = 60.0
"""Seconds without any progress that mean it will never end."""
SHORTEST_PAUSE = 0.002
LONGEST_PAUSE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """What is drained, and how."""

    contestant: str
    jobs: int
    concurrency: int
    client: str = "httpx2"
    """What a peer sends with."""
    body_bytes: int = SMALL_BODY
    channels: int = 1
    ordering_keys: int = 0

    def __call__(self, setting: Setting) -> Figures:
        """Measure it once."""
        with setting.queue(self.contestant) as database:
            setting.fill(self.contestant, database, self.workload(setting.receiver.url))
            return self.run(setting.receiver, database)

    def workload(self, url: str) -> Workload:
        """The jobs."""
        return Workload(
            url=url,
            jobs=self.jobs,
            body_bytes=self.body_bytes,
            channels=self.channels,
            ordering_keys=self.ordering_keys,
        )

    def run(self, receiver: Receiver, database: Database) -> Figures:
        """Drain a queue that was filled; stop once so many jobs as this asks for are finished."""
        options = WorkerOptions(
            dsn=database.dsn, concurrency=self.concurrency, client=self.client, channels=self.channels
        )

        def finished() -> int:
            return database.value(load(self.contestant).finished, jobs=self.jobs)

        database.settle()
        before = database.counters()
        with program("worker", contestant=self.contestant, options=asdict(options)) as (worker, _):
            figures = _watch(worker, receiver, finished, self.jobs)
        return figures | database.counters().per_job(before, finished())


def _watch(worker: Program, receiver: Receiver, finished: Callable[[], int], jobs: int) -> Figures:
    earlier = receiver.count()

    def arrived() -> int:
        return receiver.count() - earlier

    worker.go()
    _wait_to_reach(1, arrived)
    began, used = time.monotonic(), worker.usage()
    _wait_to_reach(jobs, arrived)
    done = _wait_to_reach(jobs, finished)
    ended, use = time.monotonic(), worker.usage()
    return {
        "rate": done / (ended - began),
        "cpu_us": (use.cpu - used.cpu) / done * 1e6,
        "cores": (use.cpu - used.cpu) / (ended - began),
        "peak_mb": use.peak_mb,
        "sent_per_job": arrived() / done,
    }


def _wait_to_reach(goal: int, count: Callable[[], int]) -> int:
    """
    Wait until a count has reached a goal, and return what it is then.

    Looking takes time from what is being measured, so each pause is half of what it will take at the rate so far: a
    dozen looks or two, the last ones close together.
    """
    began = progressed = time.monotonic()
    last = 0
    while (now := count()) < goal:
        moment = time.monotonic()
        if now > last:
            last, progressed = now, moment
        elif moment - progressed > PATIENCE:
            raise TimeoutError(f"{now} of {goal}, and no progress for {PATIENCE:g} s")
        expected = (goal - now) * (moment - began) / now if now else 0.0
        time.sleep(min(max(expected / 2, SHORTEST_PAUSE), LONGEST_PAUSE))
    return now
