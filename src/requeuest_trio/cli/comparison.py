"""Whether the receiver saw exactly what the file says. Pure.

It works from the file and from what arrived at the socket, so that nothing that the queue believes about itself
counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from requeuest_trio import Request
from requeuest_trio.cli.faulty_receiver import Seen
from requeuest_trio.cli.tally import Outcome, Stored
from requeuest_trio.testing import Arrival

__all__ = ["differences", "find_mismatches", "target_of"]

_ADDED = frozenset({
    "accept", "accept-encoding", "connection", "content-length", "host", "idempotency-key", "user-agent",
})  # fmt: skip
"""Header fields that a sender adds if the request has none of that name."""


def find_mismatches(stored: Sequence[Stored], finished: Iterable[Outcome], seen: Sequence[Seen]) -> list[str]:
    """Compare the requests of the file with the arrivals. An empty list means that all is as it should be.

    Each job must have succeeded; each arrival must be that of a job, and equal to its request byte for byte; each
    request must have been accepted once; and those with an ordering key must have come in order.
    """
    by_key = {_key(one): one for one in stored}
    delivered = {one.stored.job_id for one in finished if one.is_delivered}
    accepted: dict[str, int] = defaultdict(int)
    problems = [f"line {one.entry.line}: the job did not succeed" for one in stored if one.job_id not in delivered]
    for one in seen:
        key = one.arrival.header("idempotency-key") or ""
        if key not in by_key:
            problems.append(f"{one.arrival.method} {one.arrival.target} came, but is not in the file")
            continue
        accepted[key] += one.fault is None
        entry = by_key[key].entry
        problems += [f"line {entry.line}: {what}" for what in differences(entry.request, one.arrival)]
    for key, job in by_key.items():
        if accepted[key] != 1:
            problems.append(f"line {job.entry.line}: the receiver accepted it {accepted[key]} times")
    return problems + _disorder(by_key, seen)


def differences(request: Request, arrival: Arrival) -> list[str]:
    """What is not the same in a request of the file and in what arrived."""
    problems = []
    if arrival.method != request.method:
        problems.append(f"the method was {arrival.method}, not {request.method}")
    if arrival.target != target_of(request.url):
        problems.append(f"path and query were {arrival.target}, not {target_of(request.url)}")
    own = {name.lower() for name, _ in request.headers}
    kept = tuple((name, value) for name, value in arrival.headers if name.lower() not in _ADDED - own)
    if kept != request.headers:
        # Only the names: values may be secret.
        names = [name for name, _ in kept], [name for name, _ in request.headers]
        problems.append(f"the headers were {names[0]}, not {names[1]}" if names[0] != names[1] else "a header differed")
    if arrival.body != request.body:
        problems.append(f"the body ({len(arrival.body)} bytes) was not that of the file ({len(request.body)} bytes)")
    return problems


def target_of(url: str) -> str:
    """Path and query, as they stand in a request line."""
    parts = urlsplit(url)
    return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"


def _disorder(by_key: dict[str, Stored], seen: Sequence[Seen]) -> list[str]:
    """Requests of an ordering key that came before an earlier one was through."""
    problems = []
    latest: dict[tuple[str, str], int] = {}
    for one in seen:
        job = by_key.get(one.arrival.header("idempotency-key") or "")
        if job is None or job.entry.ordering_key is None:
            continue
        sequence = job.entry.channel, job.entry.ordering_key
        if job.entry.line < latest.get(sequence, 0):
            problems.append(f"line {job.entry.line} came after line {latest[sequence]}, against the order of its key")
        latest[sequence] = max(job.entry.line, latest.get(sequence, 0))
    return problems


def _key(stored: Stored) -> str:
    own = (value for name, value in stored.entry.request.headers if name.lower() == "idempotency-key")
    return next(own, str(stored.job_id))
