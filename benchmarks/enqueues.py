"""How fast jobs are stored: from the first call to the moment when the last one has returned, all of them committed."""

from dataclasses import asdict, dataclass

from benchmarks.process import program
from benchmarks.setting import Figures, Setting
from benchmarks.workload import Workload

WARM_UP = 100
"""Jobs before the clock starts, so that connections and prepared statements are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueue:
    """Storing jobs in one way; see `programs.producer`."""

    contestant: str
    jobs: int
    way: str
    width: int = 1

    def __call__(self, setting: Setting) -> Figures:
        """Measure it once. Nobody delivers meanwhile."""
        with setting.queue(self.contestant) as database:
            database.settle()
            before = database.counters()
            with program(
                "producer",
                contestant=self.contestant,
                dsn=database.dsn,
                workload=asdict(Workload(url=setting.receiver.url, jobs=self.jobs)),
                way=self.way,
                width=self.width,
                warm_up=WARM_UP,
                delivers=False,
            ) as (producer, _):
                producer.go()
                result = producer.answer()
                use = producer.usage()
            return {
                "rate": self.jobs / result["seconds"],
                "cpu_us": result["cpu"] / self.jobs * 1e6,
                "peak_mb": use.peak_mb,
            } | database.counters().per_job(before, self.jobs + WARM_UP)
