"""What the machine has to do beside a test, as the kernel counts it for this thread.

A test allows for the time that a thing takes of itself. A machine that serves others too adds to it, as much as it
likes: that is taken into account here. What this thread computes, and what it waits for, is never taken off.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

_PATIENCE = 60.0


class OwnTime:
    """The time since this was made, on one thread."""

    def __init__(self) -> None:
        self._began, self._computed_before, self._kept_before = time.monotonic(), time.thread_time(), _kept_waiting()

    @property
    def seconds(self) -> float:
        """How long it is, but for the time in which this thread had something to compute and got no processor."""
        return time.monotonic() - self._began - self._kept()

    @property
    def stretch(self) -> float:
        """How many times as long everything takes as on a machine that has nothing else to do: 1 or more."""
        computed = time.thread_time() - self._computed_before
        return 1.0 + self._kept() / computed if computed else 1.0

    @property
    def alone(self) -> float:
        """About how many seconds it would be on such a machine, what other processes had to do for it included."""
        return (time.monotonic() - self._began) / self.stretch

    def _kept(self) -> float:
        return _kept_waiting() - self._kept_before


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails if the block takes longer of its own time; on any machine it ends some day."""
    own = OwnTime()
    with trio.fail_after(_PATIENCE):
        yield
    assert own.seconds < seconds


def _kept_waiting() -> float:
    """Seconds in which this thread could have run, and another did. 0 where no kernel counts them."""
    try:
        counted = Path("/proc/thread-self/schedstat").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return int(counted.split()[1]) / 1e9
