"""The clocks that leases go by, and what becomes of the one that they do not go by: the database's.

A process may trust its claims for a time in which no other process takes them. So that time is measured on a clock that
goes on while the machine is suspended. Trio's clock does not, and a wall clock can be set.
"""

from __future__ import annotations

import math
import time
from typing import Final

__all__ = ["DatabaseClock", "boottime"]

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""CLOCK_BOOTTIME is Linux's; on macOS, CLOCK_MONOTONIC goes on in suspend."""
_NOTICED: Final = 1.0
"""Seconds. A clock that is slewed runs wrong by less between two beats."""


def boottime() -> float:
    """Seconds since some moment, those in suspend among them."""
    return time.clock_gettime(_CLOCK)


class DatabaseClock:
    """What is known of the database's clock: how far it is ahead of `boottime`, and so what it shows now."""

    def __init__(self) -> None:
        self._ahead: tuple[float, float] | None = None
        """At least, and at most: it was read at some moment between question and answer."""
        self.times_set = 0
        """How often it was set, as far as was seen from here."""
        self.set_at = -math.inf
        """When that was seen last, as a time of `boottime`."""

    def told(self, clock: float, *, asked_at: float, answered_at: float) -> float:
        """It was read. Returns by how many seconds it was set at least since it was last, or 0."""
        least, most = clock - answered_at, clock - asked_at
        before_least, before_most = self._ahead or (least, most)
        self._ahead = least, most
        if before_least - _NOTICED <= most and least <= before_most + _NOTICED:
            return 0.0
        self.times_set += 1
        self.set_at = answered_at
        return least - before_most if least > before_most else most - before_least

    def latest(self, now: float) -> float:
        """What it shows at most, in seconds since 1970, at a time of `boottime`, unless it was set meanwhile."""
        return now + self._ahead[1] + _NOTICED if self._ahead else -math.inf
