"""
A machine that is suspended, for one process on it.

A test cannot suspend the machine that it runs on. To the process it is the same if it stands still (SIGSTOP) while all
others go on, and Trio's clock stands still with it: CLOCK_MONOTONIC does in suspend, and CLOCK_BOOTTIME does not. So
its Trio has a clock of which the time in suspend is taken off. Everything else, the clock of leases included, is as it
always is.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

import trio

_SECONDS = struct.Struct("d")


class Suspension:
    """How long a process was in suspend so far: in a file that it looks at and the test writes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, seconds: float) -> None:
        new = self._path.with_suffix(".new")
        new.write_bytes(_SECONDS.pack(self.seconds + seconds))
        new.replace(self._path)

    @property
    def seconds(self) -> float:
        return float(_SECONDS.unpack(self._path.read_bytes())[0]) if self._path.exists() else 0.0


class SuspendableClock(trio.abc.Clock):
    """Trio's clock as it is on a machine that is suspended now and then."""

    def __init__(self, suspension: Suspension) -> None:
        self._suspension = suspension

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return time.monotonic() - self._suspension.seconds

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()
