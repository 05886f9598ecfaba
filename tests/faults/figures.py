"""How fast the system was, and how soon it recovered: figures of a history."""

import math
from bisect import bisect_left
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from tests.faults.history import Answer, Fault, History

WINDOW = 2.0
"""Seconds over which a throughput is measured."""
ENOUGH = 0.8
ANSWERS = "answers"
"""The name by which tests report their numbers of `stored_answers`."""


def throughput(times: list[float], since: float, until: float) -> float:
    """Events per second; the times are in order."""
    return (bisect_left(times, until) - bisect_left(times, since)) / (until - since)


def before_faults(history: History) -> float | None:
    """Arrivals per second before the first fault, if there was enough to deliver, for long enough."""
    if history.load is None or not history.faults:
        return None
    since, until = history.load[0], min(fault.at for fault in history.faults)
    if until - since < WINDOW:
        return None
    return throughput([arrival.at for arrival in history.arrivals], since, until)


def recovery_time(history: History) -> float | None:
    """
    From the end of the last fault until the throughput was back to 80 % of that before the first.

    None: there was no such fault, or not enough to deliver before or after them. Infinite: it never came back.
    """
    base = before_faults(history)
    if base is None or history.load is None:
        return None
    last = max(fault.until for fault in history.faults)
    times, end = [arrival.at for arrival in history.arrivals], history.load[1]
    if end - last < WINDOW:
        return None
    step, since = WINDOW / 10, last
    while since + WINDOW <= end:
        if throughput(times, since, since + WINDOW) >= ENOUGH * base:
            return since - last
        since += step
    return math.inf


def after_faults(history: History) -> float | None:
    """Arrivals per second from the last fault until there was no longer enough to deliver."""
    if history.load is None or not history.faults:
        return None
    since, until = max(fault.until for fault in history.faults), history.load[1]
    if until - since < WINDOW:
        return None
    return throughput([arrival.at for arrival in history.arrivals], since, until)


def longest_pause(history: History) -> float | None:
    """The longest time without an arrival while there was something to deliver."""
    if history.load is None:
        return None
    since, until = history.load
    times = [since, *(arrival.at for arrival in history.arrivals if since <= arrival.at <= until), until]
    return max(later - earlier for earlier, later in pairwise(times))


def takeover_time(history: History) -> float | None:
    """
    The longest that a job of a killed process had to wait until it was begun elsewhere. None: there was none.

    If the server was away meanwhile, or its clock was wrong, counted from when all was right again: before that, nobody
    can tell who is lost.
    """
    starts: dict[object, list[float]] = {}
    for attempt in history.attempts:
        starts.setdefault(attempt.job, []).append(attempt.started_at)
    waits = []
    for kill in history.faults:
        for job in kill.jobs or () if kill.kind.startswith("kill -9") else ():
            # It may have been recorded in the moment of the kill.
            if job not in history.by_job or history.by_job[job].finished_at > kill.at + 0.1:
                start = min((start for start in starts.get(job, ()) if start > kill.at), default=math.inf)
                outages = [fault.until for fault in history.faults if _is_outage(fault) and kill.at < fault.at < start]
                waits.append(start - max([kill.at, *outages]))
    return max(waits, default=None)


class Answers(NamedTuple):
    """What the database has of the answers that the receiver says it sent."""

    stored: int
    """With jobs, and with their attempts."""
    different: list[tuple[UUID, str]]
    """The jobs for which something else is stored, and what."""
    lost: list[tuple[UUID, str]]
    """The jobs that were delivered, and have no answer."""


def stored_answers(history: History) -> Answers:
    """Compare what is stored with what was sent."""
    sent: dict[UUID, list[Answer]] = defaultdict(list)
    for arrival in history.arrivals:
        if arrival.answer is not None:
            sent[arrival.job].append(arrival.answer)
    answered = [job for job in history.jobs if job.answer is not None]
    lost = [job for job in history.jobs if job.answer is None and job.state == "succeeded"]
    different = [
        (job.id, f"has the answer {job.answer}, and those that were sent are {sent[job.id]}")
        for job in answered
        if job.answer not in sent[job.id]
    ]
    attempts = [attempt for attempt in history.attempts if attempt.reached == "response"]
    for attempt in attempts:
        known = {(answer.status, answer.body) for answer in sent[attempt.job]}
        if (attempt.status, attempt.excerpt) not in known:
            text = f"attempt {attempt.number} has the answer {attempt.status} {attempt.excerpt}"
            different.append((attempt.job, f"{text}, and those that were sent are {known}"))
    nothing = [(job.id, "was delivered, and its answer is not stored") for job in lost]
    return Answers(len(answered) + len(attempts), different, nothing)


def _is_outage(fault: Fault) -> bool:
    return fault.jobs is None or fault.delays
