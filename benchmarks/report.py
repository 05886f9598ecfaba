"""
Turns results into tables: for the screen, and for `docs/performance.md`.

`python -m benchmarks.report` prints the newest results; with a file, those; with `--write`, it puts them into the page,
with a plot for each table.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
PLOTS = PAGE.parent / "plots"
_PART = re.compile(r"(<!-- results: )(\S+)( [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)

ENOUGH = 3
"""Repetitions."""

Format = Callable[[float], str]


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _precise(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


COLUMNS: dict[str, tuple[str, Format]] = {
    "rate": ("per second", _whole),
    "p50_ms": ("p50, ms", _precise),
    "p95_ms": ("p95, ms", _precise),
    "p99_ms": ("p99, ms", _precise),
    "call_ms": ("of which the call, ms", _precise),
    "cpu_us": ("CPU of the process, us each", _precise),
    "cores": ("cores used", _precise),
    "flushes_per_job": ("WAL flushes each", _precise),
    "transactions_per_job": ("transactions each", _precise),
    "peak_mb": ("peak memory, MB", _whole),
    "sent_per_job": ("requests each", _precise),
}
"""The figures, in the order of the columns: a heading, and how to write one."""


def tables(results: dict[str, Any], *, with_plots: bool = False) -> str:
    """All tables, each below its plot if that is wanted."""
    names = {case["name"]: case["short"] for case in results["cases"]}
    parts = []
    for heading in dict.fromkeys(case["table"] for case in results["cases"]):
        cases = [case for case in results["cases"] if case["table"] == heading]
        plot = [f"![{heading}]({PLOTS.name}/{plot_of(heading)})", ""] if with_plots else []
        parts.append("\n".join([f"### {heading}", "", *plot, *_table(cases, names)]))
    return "\n\n".join(parts)


def plot_of(heading: str) -> str:
    """The file of the plot for a table, by the table's heading up to the colon."""
    return re.sub(r"[^a-z0-9]+", "-", heading.partition(":")[0].lower()).strip("-") + ".svg"


def _table(cases: Sequence[dict[str, Any]], short: dict[str, str]) -> Iterator[str]:
    names = [name for name in COLUMNS if any(name in case["figures"] for case in cases)]
    is_compared = any(case["ratios"] for case in cases)
    headings = ["", *(COLUMNS[name][0] for name in names), *(["compared"] if is_compared else [])]
    rows = [
        [
            case["title"],
            *(_spread(case["figures"].get(name), COLUMNS[name][1]) for name in names),
            *([_ratios(case["ratios"], short)] if is_compared else []),
        ]
        for case in cases
    ]
    widths = [max(3, *(len(row[column]) for row in [headings, *rows])) for column in range(len(headings))]
    yield _line(headings, widths)
    yield (
        "|"
        + "|".join("-" * (width + 1) + (":" if 0 < at <= len(names) else "-") for at, width in enumerate(widths))
        + "|"
    )
    yield from (_line(row, widths) for row in rows)


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _spread(spread: dict[str, Any] | None, write: Format) -> str:
    """The median, and the least and the most."""
    if spread is None:
        return ""
    low, median, high = (write(spread[name]) for name in ("low", "median", "high"))
    return median if low == high else f"{median} [{low} - {high}]"


def _ratios(ratios: dict[str, Any], short: dict[str, str]) -> str:
    return "; ".join(f"{_spread(spread, _precise)} x {short[name]}" for name, spread in ratios.items())


def about(results: dict[str, Any]) -> str:
    """Where, when and with what."""
    machine, postgresql = results["machine"], results["postgresql"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    shown = ", ".join(f"{name}={value}" for name, value in postgresql.items())
    minutes = f"{results['seconds'] / 60:.0f} minutes"
    quick = ", in the short form that only shows that everything works" if results["quick"] else ""
    few = " That is too few to compare anything by." if results["repetitions"] < ENOUGH else ""
    disk = f"{machine['filesystem']}, {machine['flushes_per_second']:,} flushes a second"
    memory = f"{machine['memory_gb']} GB"
    median = f"Median of {results['repetitions']} [least - most].{few}"
    lines = [
        f"Measured {results['started'][:10]} in {minutes}{quick}. {median}",
        "",
        f"- machine: {machine['cores']} cores of {machine['processor']}, {memory}, {machine['system']}",
        f"- disk: {disk}",
        f"- before it began: load {machine['load_at_start']}, a million additions in Python in {machine['loop_ms']} ms",
        f"- receiver: {results['receiver']}, on the same machine",
        f"- PostgreSQL, on the same machine, by a unix socket: {shown}",
        f"- {machine['python']}, {versions}",
        *(
            f"- {name}: " + "; ".join(f"{setting}: {value}" for setting, value in settings.items())
            for name, settings in results["settings"].items()
        ),
    ]
    return "\n".join(lines)


def report(results: dict[str, Any], *, with_plots: bool = False) -> str:
    """Everything that results have to say, as Markdown."""
    return f"{tables(results, with_plots=with_plots)}\n\n### Where, when and with what\n\n{about(results)}"


def filled(page: str, directory: Path = RESULTS) -> str:
    """A page whose part between the markers is the report of the file that the first marker names."""

    def fill(match: re.Match[str]) -> str:
        results = json.loads((directory / match[2]).read_text("utf-8"))
        return f"{match[1]}{match[2]}{match[3]}\n{report(results, with_plots=True)}\n\n{match[4]}"

    return _PART.sub(fill, page)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Print results as tables.")
    parser.add_argument("file", nargs="?", type=Path, help="results; the newest, unless given")
    parser.add_argument("--write", action="store_true", help="put them into docs/performance.md")
    arguments = parser.parse_args()
    path = arguments.file or max(RESULTS.glob("*.json"), default=None)
    if path is None:
        parser.error("there are no results; run: make bench")
    if not arguments.write:
        sys.stdout.write(report(json.loads(path.read_text("utf-8"))) + "\n")
        return
    from benchmarks.plots import draw  # noqa: PLC0415 - matplotlib is there where `make bench` has been

    draw(json.loads(path.read_text("utf-8")), path.name, PLOTS)
    page = PAGE.read_text("utf-8")
    PAGE.write_text(filled(_PART.sub(rf"\g<1>{path.name}\g<3>\g<4>", page)), "utf-8")


if __name__ == "__main__":
    main()
