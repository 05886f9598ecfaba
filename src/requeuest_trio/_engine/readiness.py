"""Which channels are ready, when others become so, and which of them comes next. Pure: time goes in as a number.

A channel is *ready* while it may have a job that is due. Wake-ups, which may be lost, and looks at the database, which
find everything, make it ready; a claim that brings less than it asked for ends that. A channel that becomes ready at a
scheduled time is asked about again once it is emptied, because only the first of its times was known. So the cost of a
claim is that of busy channels, however many others exist.

What is heard from other processes may have been sent by any role. A channel that is known, because it was named to this
process or the database has told of it, is taken at its word; whatever else is heard leads to one look at the database,
and looks take up a small part of the time at most. So an invented channel is never kept, nor claimed for.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, KeysView, Mapping
from typing import NamedTuple

__all__ = ["Readiness", "ReadinessStatistics"]

_SOON_SECONDS = 0.05
_LOOK_SECONDS = 0.05
"""How soon one look at the database for what was heard may follow another."""
_LOOK_SHARE = 10
"""And how many times as long as the last one took."""
_KNOWN_CHANNELS = 10_000
_OUTDATED_TIMERS = 100


class ReadinessStatistics(NamedTuple):
    """What is known at a moment. For tests and for people who look into a process."""

    ready: tuple[str, ...]
    scheduled: tuple[str, ...]
    known: tuple[str, ...]
    """Channels that the database has told of, where every channel is delivered."""
    timers: int
    """How many times are kept, outdated ones among them."""


class Readiness:
    """What one process knows of its channels. All times are those of one clock, in seconds."""

    def __init__(self, channels: frozenset[str] | None, poll_interval: float) -> None:
        """
        Args:
            channels: those that this process delivers; None is all that there are.
            poll_interval: how long after a look at the database the next one is due, whatever is heard.
        """
        self._channels = channels
        self._poll_interval = poll_interval
        self._ready: dict[str, None] = {}
        self._scheduled: dict[str, float] = {}
        self._timers: list[tuple[float, str]] = []
        """The times of the scheduled ones as a heap, among times that are outdated."""
        self._timed: set[str] = set()
        """Channels of which a later time may exist than was known."""
        self._known: dict[str, None] = {}
        """Channels that the database has told of, the newest last."""
        self._is_blind = True
        """Until the answer to a look nothing is known of what is due, and should be sent before what is spawned now."""
        self._next_poll = -math.inf
        self._look_at = math.inf
        """When to look at the database for what was heard."""
        self._look_not_before = -math.inf
        self._look_began = -math.inf

    def __repr__(self) -> str:
        return f"<Readiness: {len(self._ready)} ready, {len(self._scheduled)} scheduled, {len(self._known)} known>"

    def statistics(self) -> ReadinessStatistics:
        """What is known now."""
        return ReadinessStatistics(tuple(self._ready), tuple(self._scheduled), tuple(self._known), len(self._timers))

    # --- what is ready ------------------------------------------------------------------------------------------------

    @property
    def channels(self) -> frozenset[str] | None:
        """Those that this process delivers; None is all."""
        return self._channels

    @property
    def ready(self) -> KeysView[str]:
        """The channels that are ready, the longest unserved first."""
        return self._ready.keys()

    def comes_first(self, channel: str) -> bool:
        """Whether a job that is spawned here now may be sent at once: nothing of its channel is known to go before."""
        is_delivered = self._channels is None or channel in self._channels
        is_looked_for = self._look_at < math.inf and channel not in self._known
        return is_delivered and not (is_looked_for or self._is_blind or channel in self._ready)

    # --- what makes channels ready ------------------------------------------------------------------------------------

    def due(self, channel: str, wait: float, now: float) -> bool:
        """A channel is known to have a job that is due in so many seconds. Returns whether that may change anything."""
        if self._channels is None:
            self._remember(channel)
        elif channel not in self._channels:
            return False
        if wait <= 0:
            self._ready[channel] = None
            return True
        if wait < self._poll_interval and now + wait < self._scheduled.get(channel, math.inf):
            # What is due after the next poll, the poll will find.
            self._scheduled[channel] = now + wait
            heapq.heappush(self._timers, (now + wait, channel))
            self._forget_outdated_timers()
            return True
        return False

    def heard(self, channel: str, wait: float, now: float) -> bool:
        """A channel is said to have a job that is due in so many seconds. Returns whether that may change anything."""
        if channel in (self._known if self._channels is None else self._channels):
            return self.due(channel, wait, now)
        return self._channels is None and wait < self._poll_interval and self.look_soon(now)

    def again(self, channels: Iterable[str]) -> None:
        """Channels may have more, and come after the others."""
        self._ready.update(dict.fromkeys(channels))

    def advance(self, now: float) -> None:
        """Make those ready whose time has come."""
        while self._timers and self._timers[0][0] <= now:
            due_at, channel = heapq.heappop(self._timers)
            if self._scheduled.get(channel) == due_at:
                # Otherwise an earlier time was noted after this one, and has come already.
                del self._scheduled[channel]
                self._ready[channel] = None
                self._timed.add(channel)

    @property
    def next_change(self) -> float:
        """When there is something to do, unless a wake-up comes before."""
        next_timer = self._timers[0][0] if self._timers else math.inf
        return min(self._next_poll, self._look_at, next_timer)

    # --- what claims make of it ---------------------------------------------------------------------------------------

    def begin_claim(self, channels: Iterable[str]) -> None:
        """Jobs of ready channels are about to be claimed: a wake-up that comes meanwhile makes them ready again."""
        for channel in channels:
            del self._ready[channel]

    def end_claim(self, asked: Mapping[str, int], claimed: Mapping[str, int], *, is_cut: bool) -> set[str]:
        """So many jobs of channels were asked for, and so many claimed; if it `is_cut`, there may be more of any.

        Returns channels that were emptied and may have scheduled jobs: whoever asks tells `emptied`.
        """
        if is_cut:
            # Those that got nothing come first.
            self.again(sorted(asked, key=claimed.__contains__))
        # Who got all that was asked for has more, probably.
        self.again(channel for channel, jobs in claimed.items() if jobs == asked[channel])
        if not self._timed:
            return set()
        emptied = self._timed.intersection(asked).difference(self._ready)
        self._timed -= emptied
        return emptied

    def emptied(self, waits: Mapping[str, float], now: float) -> None:
        """When channels that were just emptied have something due, as the database says.

        What is due already either has become so since the claim, or another transaction holds it: a moment later the
        first is to be had, and for the second nothing is lost by trying.
        """
        for channel, wait in waits.items():
            self.due(channel, max(wait, _SOON_SECONDS), now)

    # --- looks at the database ----------------------------------------------------------------------------------------

    def look_soon(self, now: float) -> bool:
        """Anything may be due: look at the database, soon. Returns whether that changes anything."""
        if self._look_at < math.inf:
            return False
        self._look_at = max(now, self._look_not_before)
        return True

    def lose_track(self) -> None:
        """Nothing is known any more of what is due."""
        self._is_blind = True

    def is_look_due(self, now: float) -> bool:
        """Whether to look at the database now."""
        return self._is_blind or now >= min(self._next_poll, self._look_at)

    def begin_look(self, now: float) -> None:
        """The database is asked what is due within a poll interval."""
        self._is_blind = True
        self._look_began = now
        self._next_poll, self._look_at = now + self._poll_interval, math.inf

    def end_look(self, waits: Mapping[str, float], now: float) -> None:
        """It has answered: these channels have something due, in so many seconds."""
        self._is_blind = False
        if self._channels is None:
            # A second time of theirs may have been heard of as well, when they were not known.
            self._timed.update(waits.keys() - self._known.keys())
        for channel, wait in waits.items():
            self.due(channel, wait, now)
        self._look_not_before = now + max(_LOOK_SECONDS, _LOOK_SHARE * (now - self._look_began))

    # --- what is kept, within bounds ----------------------------------------------------------------------------------

    def _remember(self, channel: str) -> None:
        if channel not in self._known:
            self._known[channel] = None
            if len(self._known) > _KNOWN_CHANNELS:
                del self._known[next(iter(self._known))]

    def _forget_outdated_timers(self) -> None:
        if len(self._timers) > 2 * len(self._scheduled) + _OUTDATED_TIMERS:
            self._timers = [(due_at, channel) for channel, due_at in self._scheduled.items()]
            heapq.heapify(self._timers)
