"""
How long it takes from the call that adds a job to its arrival at the receiver, when there is nothing else to do.

The receiver is ours, which notes the moment at which a request is complete by the clock that all processes of the
machine share; the producer notes by the same clock when it begins the call.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.contestants import WorkerOptions
from benchmarks.database import Database
from benchmarks.process import program
from benchmarks.receiver import Receiver, stamping_receiver
from benchmarks.setting import Figures, Setting
from benchmarks.workload import Workload

WARM_UP = 50
CONCURRENCY = 32
PATIENCE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One contestant's."""

    contestant: str
    jobs: int
    workers: str
    """Who delivers: another process (`other`), the one that adds (`same`), or nobody (`none`): adding is sending."""

    def __call__(self, setting: Setting) -> Figures:
        """Measure it once."""
        with (
            setting.queue(self.contestant) as database,
            stamping_receiver() as receiver,
            self._worker(database),
            program(
                "producer",
                contestant=self.contestant,
                dsn=database.dsn,
                workload=asdict(Workload(url=receiver.url, jobs=self.jobs)),
                way="paced",
                width=1,
                warm_up=WARM_UP,
                delivers=self.workers == "same",
            ) as (producer, _),
        ):
            # The warm-up has to be delivered too: it makes connections, and shows that the worker is there.
            _wait_for(receiver, WARM_UP)
            producer.go()
            result = producer.answer()
            _wait_for(receiver, WARM_UP + self.jobs)
            return _figures(result["begun"], result["took"], receiver.take_stamps())

    @contextlib.contextmanager
    def _worker(self, database: Database) -> Iterator[None]:
        if self.workers != "other":
            yield
            return
        options = WorkerOptions(dsn=database.dsn, concurrency=CONCURRENCY)
        with program("worker", contestant=self.contestant, options=asdict(options)) as (worker, _):
            worker.go()
            yield


def _wait_for(receiver: Receiver, arrivals: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while receiver.count() < arrivals:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{receiver.count()} of {arrivals} arrived within {PATIENCE:g} s")
        time.sleep(0.02)


def _figures(begun: Sequence[int], took: Sequence[int], stamps: Mapping[int, int]) -> Figures:
    waits = [(stamps[number] - start) / 1e6 for number, start in enumerate(begun)]
    parts = statistics.quantiles(waits, n=100, method="inclusive")
    return {
        "p50_ms": parts[49],
        "p95_ms": parts[94],
        "p99_ms": parts[98],
        "call_ms": statistics.median(took) / 1e6,
    }
