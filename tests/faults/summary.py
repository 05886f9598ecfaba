"""What came of a run, as a table in Markdown that can stand in the docs."""

from collections import Counter
from collections.abc import Sequence

from tests.faults.checker import RULES, Violation
from tests.faults.figures import (
    after_faults,
    before_faults,
    longest_pause,
    recovery_time,
    stored_answers,
    takeover_time,
)
from tests.faults.history import History


def summary(
    history: History, violations: Sequence[Violation], *, command: str, seconds: float, version: str | None
) -> str:
    """The figures of a history, and the judgement on it; `command` is what has made it."""
    answers = stored_answers(history)
    results = Counter(spawn.result for spawn in history.spawns)
    stored = len(history.by_job.keys() & {spawn.job for spawn in history.spawns if spawn.result == "unknown"})
    accepted = Counter(arrival.job for arrival in history.arrivals if arrival.status == 200)
    states = Counter(job.state for job in history.jobs)
    rows = [
        ("printed by", f"`{command}`"),
        ("PostgreSQL", version),
        ("duration", f"{seconds / 60:.1f} min"),
        ("jobs acknowledged", f"{results['ok']:,}"),
        ("spawns of unknown outcome, and of these stored", f"{results['unknown']:,}, {stored:,}"),
        ("jobs by state in the end", ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))),
        ("requests that arrived", f"{len(history.arrivals):,}"),
        ("delivered more than once", f"{sum(number > 1 for number in accepted.values()):,}"),
        ("faults", f"{len(history.faults):,}"),
        *((f"... {kind}", f"{number:,}") for kind, number in sorted(Counter(f.kind for f in history.faults).items())),
        ("kill -9: its jobs begun elsewhere within (outages apart)", _seconds(takeover_time(history))),
        ("... promised (lease, a round, a poll, 2 s)", _seconds(history.promise.stuck_after)),
        ("deliveries per second with a backlog, before the faults", f"{before_faults(history) or 0:.0f}"),
        ("... after the last one", f"{after_faults(history) or 0:.0f}"),
        ("longest time without any delivery", _seconds(longest_pause(history))),
        ("throughput back to 80 % after the last fault within", _seconds(recovery_time(history))),
        ("answers stored, with jobs and with attempts", f"{answers.stored:,}"),
        ("... different from what was sent", f"{len(answers.different):,}"),
        ("... lost", f"{len(answers.lost):,}"),
        *((f"I{number} {_title(rule.__name__)}", _verdict(number, violations)) for number, rule in enumerate(RULES, 1)),
    ]
    return "\n".join(["| what | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _title(name: str) -> str:
    return name.replace("_", " ")


def _verdict(number: int, violations: Sequence[Violation]) -> str:
    found = sum(violation.invariant == f"I{number}" for violation in violations)
    return f"**{found:,} violations**" if found else "holds"
