"""
A machine that is suspended, for one process on it.

A test cannot suspend the machine that it runs on. To the process it is the same if it stands still (SIGSTOP) while all
others go on, and Trio's clock stands still with it: CLOCK_MONOTONIC does in suspend, and CLOCK_BOOTTIME does not. So
its Trio has a clock of which the time in suspend is taken off. Everything else, the clock of leases included, is as it
always is.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Self

import trio

_SECONDS = struct.Struct("d")


class Suspension:
    """
    How long a process was in suspend so far: in a file that the test writes while the process stands still.

    It stays open, since its clock may be read when the process has no descriptors left.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._file)

    def add(self, seconds: float) -> None:
        os.pwrite(self._file, _SECONDS.pack(self.seconds + seconds), 0)

    @property
    def seconds(self) -> float:
        written = os.pread(self._file, _SECONDS.size, 0)
        return float(_SECONDS.unpack(written)[0]) if written else 0.0


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
