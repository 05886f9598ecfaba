"""What is possible without a queue, and without HTTP."""

from dataclasses import asdict, dataclass

from benchmarks.process import program
from benchmarks.setting import Figures, Setting
from benchmarks.workload import SMALL_BODY, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFloor:
    """The same requests in a bare loop; see `programs.http_floor`."""

    client: str
    requests: int
    at_once: int
    body_bytes: int = SMALL_BODY

    def __call__(self, setting: Setting) -> Figures:
        """Measure it once."""
        arguments = asdict(self) | {"url": setting.receiver.url}
        with program("http_floor", **arguments) as (running, _):
            running.go()
            result = running.answer()
        return {
            "rate": self.requests / result["seconds"],
            "cpu_us": result["cpu"] / self.requests * 1e6,
            "cores": result["cpu"] / result["seconds"],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlFloor:
    """The same rows with no queue around them; see `programs.sql_floor`."""

    kind: str
    rows: int

    def __call__(self, setting: Setting) -> Figures:
        """Measure it once."""
        workload = Workload(url=setting.receiver.url, jobs=self.rows)
        with (
            setting.empty_database() as database,
            program("sql_floor", kind=self.kind, dsn=database.dsn, workload=asdict(workload)) as (running, _),
        ):
            running.go()
            result = running.answer()
        return {"rate": self.rows / result["seconds"], "cpu_us": result["cpu"] / self.rows * 1e6}
