"""What is said at the end of `send` and `demo`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from rich.console import Console

from requeuest_trio.cli.display import one_line, say, seconds
from requeuest_trio.cli.table import Column, print_table
from requeuest_trio.cli.tally import Outcome, Tally
from requeuest_trio.masking import masked_url

__all__ = ["as_document", "percentile", "print_failures", "print_summary"]

_COLUMNS = (
    Column("channel", least=7),
    Column("requests", at_right=True),
    Column("delivered", at_right=True),
    Column("given up", at_right=True),
    Column("attempts", at_right=True, leaves=3),
    Column("p50", at_right=True, leaves=1),
    Column("p95", at_right=True, leaves=2),
    Column("max", at_right=True, leaves=4),
)
_MOST_FAILURES = 20


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them do not exceed (nearest rank). There must be one."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def print_summary(console: Console, tally: Tally) -> None:
    """Print a table: for each channel and overall what was delivered, in how many attempts, and how long it took."""
    names = list(tally.channels)
    rows = [_row(name, *_of(name, tally)) for name in names]
    if len(names) > 1:
        rows.append(_row("all", *_of(None, tally)))
    print_table(console, _COLUMNS, rows)
    say(console, "p50, p95, max: the time from being stored to being delivered, with all waiting and retries.")


def _of(channel: str | None, tally: Tally) -> tuple[int, list[Outcome], int]:
    """Of one channel or all: how many requests there are, what became of the finished ones, and all attempts."""
    total = (tally.overall if channel is None else tally.channels[channel]).total
    finished, left = (
        [one for one in outcomes if channel in {None, one.stored.entry.channel}]
        for outcomes in (tally.finished, tally.left)
    )
    return total, finished, sum(one.attempts for one in [*finished, *left])


def _row(name: str, total: int, finished: Sequence[Outcome], attempts: int) -> list[object]:
    times = [one.seconds for one in finished if one.is_delivered]
    latency = [seconds(percentile(times, share)) for share in (0.5, 0.95, 1.0)] if times else ["", "", ""]
    return [name, total, len(times), len(finished) - len(times), attempts, *latency]


def print_failures(console: Console, tally: Tally, sensitive: Collection[str] = ()) -> None:
    """Name the requests that were not delivered, by their lines. The values of `sensitive` names are hidden."""
    failures = sorted((one for one in tally.finished if not one.is_delivered), key=lambda one: one.stored.entry.line)
    for one in failures[:_MOST_FAILURES]:
        request = one.stored.entry.request
        what = f"{request.method} {masked_url(request.url, sensitive)}"
        say(
            console,
            f"line {one.stored.entry.line}: {what} is {one.state or 'gone'} after {one.attempts} attempt(s): "
            f"{one_line(masked_url(one.error or 'no reason is known', sensitive))} (job {one.stored.job_id})",
        )
    if len(failures) > _MOST_FAILURES:
        say(console, f"and {len(failures) - _MOST_FAILURES} more; see requeuest jobs --state dead")


def as_document(tally: Tally, sensitive: Collection[str] = ()) -> dict[str, Any]:
    """The same for programs."""
    names = list(tally.channels)
    return {
        **_figures(*_of(None, tally)),
        "unfinished": len(tally.unfinished),
        "channels": {name: _figures(*_of(name, tally)) for name in names},
        "given_up_jobs": [
            {
                "line": one.stored.entry.line,
                "id": str(one.stored.job_id),
                "state": one.state,
                "status": one.status,
                "error": one.error and masked_url(one.error, sensitive),
            }
            for one in tally.finished
            if not one.is_delivered
        ],
    }


def _figures(total: int, finished: Sequence[Outcome], attempts: int) -> dict[str, Any]:
    times = [one.seconds for one in finished if one.is_delivered]
    names = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {
        "requests": total,
        "delivered": len(times),
        "given_up": len(finished) - len(times),
        "attempts": attempts,
        "latency": {name: percentile(times, share) for name, share in names.items()} if times else None,
    }
