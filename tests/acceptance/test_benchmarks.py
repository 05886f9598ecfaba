"""The benchmarks run, what they write down is all there, and the page that shows it is up to date."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases import all_cases, selected
from benchmarks.figures import ratio, spread
from benchmarks.report import PAGE, PLOTS, filled, report
from benchmarks.sizes import FULL

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "benchmarks")
# One of each kind, of those that need none of the peers.
NAMES = ("http-raw-32", "drain-requeuest-32", "latency-requeuest-same")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the shortest run there is has written."""
    directory = tmp_path_factory.mktemp("results")
    done = subprocess.run(
        [*COMMAND, "--quick", "--alone", "--results", str(directory), *NAMES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [file] = directory.iterdir()
    assert str(file) in done.stdout
    written: dict[str, Any] = json.loads(file.read_text("utf-8"))
    assert report(written) in done.stdout
    return written


def test_a_run_says_where_and_with_what(results: dict[str, Any]) -> None:
    assert results["quick"]
    assert results["repetitions"] == 1
    assert results["machine"]["cores"] >= 1
    assert results["postgresql"]["fsync"] == results["postgresql"]["synchronous_commit"] == "on"
    assert results["postgresql"]["shared_buffers"] == "128MB"
    assert results["machine"]["filesystem"] not in {"tmpfs", "ramfs"}
    assert results["receiver"]
    assert {"requeuest-trio", "psycopg", "trio"} <= results["versions"].keys()
    assert "requeuest" in results["settings"]
    assert str(ROOT) not in json.dumps(results)


def test_a_run_measures_what_was_named(results: dict[str, Any]) -> None:
    figures = {case["name"]: case["figures"] for case in results["cases"]}
    assert tuple(figures) == NAMES
    assert {"rate", "cpu_us"} <= figures["http-raw-32"].keys()
    drained = figures["drain-requeuest-32"]
    assert {"rate", "cpu_us", "peak_mb", "flushes_per_job", "transactions_per_job"} <= drained.keys()
    assert drained["sent_per_job"]["median"] == 1.0
    assert drained["flushes_per_job"]["median"] > 0
    assert 0 < drained["transactions_per_job"]["median"] < 20
    latency = {name: spread["median"] for name, spread in figures["latency-requeuest-same"].items()}
    assert 0 < latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"]


def test_names_select_cases_and_what_they_are_divided_by() -> None:
    cases = all_cases(FULL)

    def names(*words: str, alone: bool = False) -> set[str]:
        return {case.name for case in selected(cases, words, alone=alone)}

    assert names("backlog-due", alone=True) == {"backlog-due"}
    assert names("backlog-due") == {"backlog-due", "drain-requeuest-32", "http-httpx2-32", "http-raw-32", "sql-claim"}
    assert "drain-pgqueuer-httpx2" in names("drain")
    with pytest.raises(ValueError, match="'drains'"):
        names("drains")


def test_every_divisor_exists() -> None:
    cases = all_cases(FULL)
    names = {case.name for case in cases}
    assert len(names) == len(cases)
    assert {divisor for case in cases for divisor in (*case.against, *case.beside)} <= names


def test_ratios_compare_what_was_measured_together() -> None:
    compared = ratio([{"rate": 6.0}, {"rate": 1.0}], [{"rate": 2.0}, {"rate": 1.0}])
    assert compared == spread([3.0, 1.0])
    assert (compared.low, compared.median, compared.high) == (1.0, 2.0, 3.0)


def test_the_page_shows_its_results() -> None:
    page = PAGE.read_text("utf-8")
    assert filled(page) == page, "run: python -m benchmarks.report --write"


def test_the_plots_are_those_of_the_results_on_the_page() -> None:
    page = PAGE.read_text("utf-8")
    [source] = re.findall(r"<!-- results: (\S+)", page)
    shown = re.findall(r"^!\[.*\]\(plots/(.*)\)$", page, re.MULTILINE)
    assert len(shown) == len(re.findall(r"^### .*\n\n!", page, re.MULTILINE)) > 0
    assert sorted(shown) == sorted(path.name for path in PLOTS.iterdir())
    assert [name for name in shown if f"<dc:source>{source}<" not in (PLOTS / name).read_text("utf-8")] == []


def test_everything_ends_with_an_interrupted_run(tmp_path: Path) -> None:
    """As by Ctrl-C: no process is left that has the run's marker in its environment, and no file of results."""
    marker = f"REQUEUEST_BENCH_TEST={os.getpid()}-{time.monotonic_ns()}"
    name, _, value = marker.partition("=")
    with subprocess.Popen(
        [*COMMAND, "--quick", "--alone", "--repetitions", "1000", "--results", str(tmp_path), "http-raw-32"],
        cwd=ROOT,
        env=os.environ | {name: value},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stderr is not None
        assert "[1/1000]" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        run.stderr.read()
        assert run.wait(30) == 130
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    assert not [path for path in Path("/proc").glob("[0-9]*") if marker.encode() in _environment(path)]


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""
