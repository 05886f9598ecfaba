"""How long this process may trust its claims.

Others rescue a process's jobs once they have seen no sign of it for a whole lease, each by its own clock. This process
measures from before a renewal was asked for, and stops earlier; and on a clock that goes on while it is suspended: so
it never sends after others may have begun to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from uuid import UUID, uuid4

import trio

from requeuest_trio._engine.clocks import boottime
from requeuest_trio._real_time import is_mocked

__all__ = ["Lease"]

_TRUSTED_PART = 0.8
_FRESH_PART = 0.4


class Lease:
    """The right of one process to deliver what it has claimed. Its times are those of its own clock, not of Trio's."""

    def __init__(self, length: float, clock: Callable[[], float] = boottime) -> None:
        self.length = length
        self.clock = clock
        self.worker: UUID = uuid4()
        self._trusted_until = -math.inf
        self._lapses_at = -math.inf
        """On Trio's clock, if the machine is not suspended until then. One time for all, which Trio sorts but once."""
        self._attempts: dict[trio.CancelScope, float] = {}
        self._cut_short = 0
        self._loss_is_known = True
        self.term = 0
        """Counts the losses: what was claimed in an earlier term may be another process's by now."""

    def __repr__(self) -> str:
        return f"<Lease of {self.worker}: {self.left:.1f} s left, {len(self._attempts)} attempts>"

    @property
    def left(self) -> float:
        """Seconds for which claims may still be trusted; 0 or less once the lease has lapsed."""
        return self._trusted_until - self.clock()

    @property
    def is_valid(self) -> bool:
        """Whether claims may be trusted now."""
        return self.left > 0

    @property
    def is_fresh(self) -> bool:
        """Whether more may be claimed: not while its renewal is overdue, by a stalled loop or a slow database."""
        return self.left > self.length * _FRESH_PART

    def confirm(self) -> bool:
        """To be asked before the first byte of an attempt leaves: without the lease, all attempts are cancelled here.

        Their deadlines are on Trio's clock. After the machine was suspended they come too late.
        """
        if self.is_valid:
            return True
        for scope in self._attempts:
            scope.cancel()
        return False

    def renewed(self, asked_at: float) -> None:
        """Trust for another term, counted from when the renewal was asked for."""
        self._trusted_until = max(self._trusted_until, asked_at + self.length * _TRUSTED_PART)
        # A mock clock has nothing to do with that: then only `confirm` and the watch of the heartbeat end attempts.
        is_on_own_clock = self.clock is boottime and is_mocked()
        self._lapses_at = math.inf if is_on_own_clock else trio.current_time() + self.left
        for scope, ends_at in self._attempts.items():
            scope.deadline = min(ends_at, self._lapses_at)
        if self.is_valid:
            self._loss_is_known = False

    def lapse(self) -> int | None:
        """Cut short what is being sent. Returns how many attempts that were, or None if this loss is known already."""
        self._trusted_until = self._lapses_at = -math.inf
        self.term += 1
        if self._loss_is_known:
            return None
        cut_short = self._cut_short + len(self._attempts)
        for scope in self._attempts:
            scope.cancel()
        self._attempts.clear()
        self._cut_short = 0
        self._loss_is_known = True
        return cut_short

    def start_anew(self) -> None:
        """Become another process in the eyes of the others, after they have struck this one off."""
        self.worker = uuid4()

    def begin(self, scope: trio.CancelScope, ends_at: float) -> None:
        """An attempt begins in a scope: it ends at a time of its own, or when the lease lapses.

        By the scope's deadline, because Trio looks at deadlines before it runs any task: also after the process stood
        still.
        """
        self._attempts[scope] = ends_at
        # Trio sorts deadlines, and looks for one in vain that it has already.
        if scope.deadline != (deadline := min(ends_at, self._lapses_at)):
            scope.deadline = deadline

    def ended(self, scope: trio.CancelScope) -> bool:
        """The attempt has ended. Returns whether the lease has cut it short, and not its own time."""
        ends_at = self._attempts.pop(scope, None)
        if ends_at is None:
            # `lapse` has counted it.
            return True
        if not scope.cancel_called or trio.current_time() >= ends_at:
            return False
        # `lapse` will count it, when it comes to that.
        self._cut_short += 1
        return True
