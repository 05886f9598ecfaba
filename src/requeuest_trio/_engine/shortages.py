"""How much less is claimed while this machine lacks what sending needs: descriptors, memory, threads, ports."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from requeuest_trio._model.backoff import Backoff
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter

__all__ = ["Shortages"]

_EASE_SECONDS = 1.0
_TELL_SECONDS = 60.0


@dataclass(slots=True)
class _Shortage:
    """Of one channel."""

    limit: int
    """Attempts at once."""
    change_at: float
    """When it may have more, by Trio's clock."""
    failures: int = 0
    """How often in a row not even one attempt could be made."""


class Shortages:
    """The channels that have met a shortage, each with as many attempts at once as could be made beside it.

    Each by itself, because a shortage need not concern all of them: the ports to one receiver can be used up. A channel
    with a limit gets an eighth more each second. One of which no attempt could be made pauses, then tries one, and then
    twice as many each second.
    """

    def __init__(self, concurrency: int, emitter: Emitter) -> None:
        self._concurrency = concurrency
        self._emitter = emitter
        self._backoff = Backoff(initial=0.5, cap=5.0)
        self._of_channels: dict[str, _Shortage] = {}
        self._problem = ""
        self._released = 0
        self._untold = 0
        self._is_told = False
        """Whether the last shortage is, of which the end is then told too."""
        self._tell_at = -math.inf

    def __contains__(self, channel: str) -> bool:
        """Whether a channel is limited."""
        return channel in self._of_channels

    def limit(self, channel: str) -> int:
        """How many attempts at once a channel may make that is limited."""
        return self._of_channels[channel].limit

    @property
    def next_change(self) -> float:
        """When `ease` has something to do, by Trio's clock."""
        return min((shortage.change_at for shortage in self._of_channels.values()), default=math.inf)

    def met(self, channel: str, running: int, problem: str, now: float) -> None:
        """An attempt of a channel could not be made, while so many others of it go on."""
        self._problem = problem
        self._released += 1
        self._untold += 1
        shortage = self._of_channels.setdefault(channel, _Shortage(self._concurrency, now))
        if running:
            shortage.limit, shortage.failures = running, 0
            shortage.change_at = now + _EASE_SECONDS
        elif shortage.limit:
            # Several that end in the same moment are one failure.
            shortage.limit = 0
            shortage.failures += 1
            shortage.change_at = now + self._backoff.delay(shortage.failures, random.random)

    def ease(self, now: float) -> None:
        """Let channels have more, and forget those that may have all again."""
        if not self._of_channels:
            return
        for channel, shortage in list(self._of_channels.items()):
            if shortage.change_at <= now:
                shortage.limit += max(1, shortage.limit if shortage.failures else shortage.limit // 8)
                shortage.change_at = now + _EASE_SECONDS
                if shortage.limit > self._concurrency:
                    del self._of_channels[channel]
        if not self._of_channels and self._is_told:
            self._emitter.emit(events.ShortageOver(jobs=self._released))
            self._is_told = False
            self._released = self._untold = 0

    def tell(self, now: float) -> None:
        """Log what is new, but not all the time."""
        if self._untold and now >= self._tell_at:
            self._is_told = True
            self._emitter.emit(events.Shortage(error=self._problem, jobs=self._untold))
            self._untold = 0
            self._tell_at = now + _TELL_SECONDS
