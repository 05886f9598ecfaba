"""When a receiver begins to fail, and when it is well again. Pure.

An origin *begins to fail* when at least three attempts have failed without a success in between, and either that has
lasted for a second, or one of them was the last of its job. So the many attempts that fail together when a receiver is
restarted are no failing of it, whatever `concurrency` is, and nobody hears first of a job that was given up. It is well
again with the first success.

Each is told once, and then nothing for a minute: an origin that fails and recovers again and again is not told of
meanwhile, and its recovery only if its failing was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Failing", "OriginHealth", "Recovered"]

FAILURES = 3
LASTING_SECONDS = 1.0
PAUSE_SECONDS = 60.0
MAX_ORIGINS = 10_000


class Failing(NamedTuple):
    """An origin has begun to fail."""

    failures: int
    """Attempts that have failed since the last success."""


class Recovered(NamedTuple):
    """An origin that was told to fail has accepted a request."""

    failures: int
    failed_for: float
    """Seconds since the first of them."""


@dataclass(slots=True)
class _Record:
    told_at: float = -math.inf
    failures: int = 0
    since: float = 0.0
    """When the first of them was known."""
    is_told: bool = False


class OriginHealth:
    """What is known of the origins that fail, or have failed within the last minute; of others nothing is kept.

    At most `limit` are kept. Beyond, the one that has not failed for longest is forgotten, unless it was told of within
    the last minute: then the new one is not taken note of.
    """

    def __init__(self, limit: int = MAX_ORIGINS) -> None:
        self._limit = limit
        self._records: dict[str, _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def failed(self, origin: str, *, now: float, gives_up: bool = False) -> Failing | None:
        """An attempt has failed, and with it, if it `gives_up`, its job. Returns what is to be told, if anything is."""
        record = self._records.pop(origin, None)
        if record is None:
            if not self._has_room(now):
                return None
            record = _Record()
        self._records[origin] = record  # behind all others
        if record.failures == 0:
            record.since = now
        record.failures += 1
        if record.is_told or record.failures < FAILURES or now < record.told_at + PAUSE_SECONDS:
            return None
        if not gives_up and now < record.since + LASTING_SECONDS:
            return None
        record.is_told = True
        record.told_at = now
        return Failing(record.failures)

    def succeeded(self, origin: str, *, now: float) -> Recovered | None:
        """An attempt has succeeded. Returns what is to be told, if anything is."""
        record = self._records.get(origin)
        if record is None:
            return None
        if record.is_told:
            self._records[origin] = _Record(told_at=now)
            return Recovered(record.failures, now - record.since)
        if now >= record.told_at + PAUSE_SECONDS:
            del self._records[origin]
        else:
            self._records[origin] = _Record(record.told_at)
        return None

    def _has_room(self, now: float) -> bool:
        if len(self._records) < self._limit:
            return True
        stalest = next(iter(self._records))
        if now < self._records[stalest].told_at + PAUSE_SECONDS:
            return False
        del self._records[stalest]
        return True
