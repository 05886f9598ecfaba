"""How fast the system was, and how soon it recovered: figures of a history."""

import math
from bisect import bisect_left
from itertools import pairwise

from tests.faults.history import History

WINDOW = 2.0
"""Seconds over which a throughput is measured."""
ENOUGH = 0.8


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

    If the server was away meanwhile, counted from when it was back: before that, nobody can tell who is lost.
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
                outages = [fault.until for fault in history.faults if fault.jobs is None and kill.at < fault.at < start]
                waits.append(start - max([kill.at, *outages]))
    return max(waits, default=None)
