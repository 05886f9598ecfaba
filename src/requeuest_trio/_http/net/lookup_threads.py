"""Who may look a name up now. A lookup has a thread of its own, which can't be interrupted, so there are only so many:
they are shared out so that names which hang hold up no others.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from time import monotonic
from typing import Final

import trio

from requeuest_trio._http.net.shortages import OutOfResources

__all__ = ["LookupThreads"]

# Lookups at once. A resolver may take longer to give up than an attempt, and its thread can't be interrupted.
_MOST: Final = 192
_MOST_COMMON: Final = 96
"""The rest is reserved for shares that have none: each of them may have one of it, whatever its domain."""
_MOST_PER_SHARE: Final = 32
_MOST_PER_DOMAIN: Final = 16


class LookupThreads:
    """Who may have one. Shares take turns; within one, its domains do; within those, first come, first served."""

    def __init__(self) -> None:
        self._running = 0
        self._of_shares: Counter[str] = Counter()
        self._of_domains: Counter[str] = Counter()
        self._waiting: dict[str, dict[str, deque[trio.Event]]] = {}
        self.short_at = -math.inf
        """When this machine lacked something last, by `time.monotonic`."""

    def __repr__(self) -> str:
        waiting = sum(len(line) for domains in self._waiting.values() for line in domains.values())
        return f"<LookupThreads: {self._running} running, {waiting} waiting>"

    def short_of(self, code: int) -> OutOfResources:
        """Note it. Called in threads."""
        self.short_at = monotonic()
        return OutOfResources(f"no name lookup: {os.strerror(code)}")

    async def acquire(self, share: str, domain: str) -> None:
        """Wait for a thread. Cancelled: none was taken."""
        if domain not in self._waiting.get(share, ()) and self._has_room(share, domain):
            self._take(share, domain)
            return
        turn = trio.Event()
        line = self._waiting.setdefault(share, {}).setdefault(domain, deque())
        line.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.release(share, domain)
            else:
                line.remove(turn)
                self._forget_if_empty(share, domain)
            raise

    def release(self, share: str, domain: str) -> None:
        """A thread has ended: let others have one."""
        self._running -= 1
        for counter, name in ((self._of_shares, share), (self._of_domains, domain)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        while (following := self._next()) is not None:
            self._take(*following)
            self._call(*following)

    def _has_room(self, share: str, domain: str) -> bool:
        if not self._of_shares[share]:
            return self._running < _MOST
        return (
            self._running < _MOST_COMMON
            and self._of_shares[share] < _MOST_PER_SHARE
            and self._of_domains[domain] < _MOST_PER_DOMAIN
        )

    def _take(self, share: str, domain: str) -> None:
        self._running += 1
        self._of_shares[share] += 1
        self._of_domains[domain] += 1

    def _next(self) -> tuple[str, str] | None:
        """Whose turn it is."""
        for share, domains in self._waiting.items():
            for domain in domains:
                if self._has_room(share, domain):
                    return share, domain
        return None

    def _call(self, share: str, domain: str) -> None:
        """Tell the first of a line, and put that at the end of all lines."""
        domains = self._waiting.pop(share)
        line = domains.pop(domain)
        line.popleft().set()
        if line:
            domains[domain] = line
        if domains:
            self._waiting[share] = domains

    def _forget_if_empty(self, share: str, domain: str) -> None:
        domains = self._waiting[share]
        if not domains[domain]:
            del domains[domain]
        if not domains:
            del self._waiting[share]
