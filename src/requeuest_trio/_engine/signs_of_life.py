"""Which processes are lost: those that have given no new sign of life for a whole lease of theirs, as was seen here.

The database's clock has no part in this. It may be set, forward or back, or be another server's after a failover, and
then the times by which processes were last seen say nothing. So they are only compared with themselves, and how long
one stays the same is measured by whoever looks. That is never too early: a process stops by itself before its lease is
over, and no sign is seen before it was given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from requeuest_trio._store.maintaining import Sign

__all__ = ["SignsOfLife"]


class SignsOfLife:
    """The last sign of each process, and since when it has been the last. Times are those of Trio's clock."""

    def __init__(self) -> None:
        self._since: dict[Sign, float] = {}

    def look(self, signs: Iterable[Sign], now: float) -> None:
        """These were the last signs until `now`, or later."""
        self._since = {sign: self._since.get(sign, now) for sign in signs}

    def start_over(self) -> None:
        """There was a time in which no process could give a sign."""
        self._since.clear()

    def lost(self, now: float) -> list[Sign]:
        """The last signs of those that are lost."""
        return [sign for sign, since in self._since.items() if now - since >= sign.lease]

    def next_loss(self, now: float) -> float:
        """When the next is lost, unless it gives a sign."""
        losses = (since + sign.lease for sign, since in self._since.items())
        return min((loss for loss in losses if loss > now), default=math.inf)
