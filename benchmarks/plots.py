"""Draws a plot for each table of the results, as SVG: `python -m benchmarks.report --write` puts them into the page.

Needs matplotlib, which `make bench` installs. The same results give the same files, byte for byte.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.report import plot_of

_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "requeuest-trio", "font.family": "sans-serif", "font.size": 9}
_MEASURES = {"rate": "per second (longer is better)", "p50_ms": "p50, milliseconds (shorter is better)"}
"""What is drawn: the first of them that a table has."""
_OURS, _OTHERS = "#2a6f97", "#b8b8b8"
_INCHES_A_BAR = 0.32


def draw(results: dict[str, Any], source: str, directory: Path) -> None:
    """Write the plots of results that stand in the file `source`, and remove those of tables that are no more."""
    directory.mkdir(exist_ok=True)
    wanted = set()
    for heading, cases in _families(results):
        wanted.add(plot_of(heading))
        with rc_context(_STYLE):
            _plot(cases).savefig(
                directory / plot_of(heading), bbox_inches="tight", metadata={"Date": None, "Source": source}
            )
    for path in directory.glob("*.svg"):
        if path.name not in wanted:
            path.unlink()


def _families(results: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for heading in dict.fromkeys(case["table"] for case in results["cases"]):
        yield heading, [case for case in results["cases"] if case["table"] == heading]


def _plot(cases: list[dict[str, Any]]) -> Figure:
    """A bar for each case: the median, with a line from the least to the most of the repetitions."""
    measure = next(name for name in _MEASURES if all(name in case["figures"] for case in cases))
    spreads = [case["figures"][measure] for case in cases]
    medians = [spread["median"] for spread in spreads]
    errors = [
        [spread["median"] - spread["low"] for spread in spreads],
        [spread["high"] - spread["median"] for spread in spreads],
    ]
    figure = Figure(figsize=(7.5, _INCHES_A_BAR * (len(cases) + 2)))
    axes = figure.subplots()
    colours = [_OURS if case["title"].startswith("requeuest-trio") else _OTHERS for case in cases]
    bars = axes.barh([case["title"] for case in cases], medians, xerr=errors, color=colours, error_kw={"lw": 0.8})
    axes.bar_label(
        bars, labels=[f"{median:,.3g}" if median < 1_000 else f"{median:,.0f}" for median in medians], padding=4
    )
    axes.invert_yaxis()
    axes.set_xlabel(_MEASURES[measure])
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    return figure
