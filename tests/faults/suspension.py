"""
A machine that is suspended, for one process on it.

A test cannot suspend the machine that it runs on. To the process it is the same if it stands still (SIGSTOP) while all
others go on, and Trio's clock stands still with it: CLOCK_MONOTONIC does in suspend, and CLOCK_BOOTTIME does not. So
its Trio has a clock of which the time in suspend is taken off. And CLOCK_BOOTTIME, which leases go by, may be told to
have gone on for longer than the process stood still: then nobody has to wait for that long.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Self

import trio

_SUMS = struct.Struct("dd")


class Suspension:
    """
    What a process cannot know of its suspends so far: in a file that the test writes while the process stands still.

    It stays open, since the clocks may be read when the process has no descriptors left.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._file)

    def add(self, stood_still: float, lasted: float) -> None:
        """It stood still for so many seconds, and by CLOCK_BOOTTIME it was in suspend for so many."""
        before, untold = self.sums
        os.pwrite(self._file, _SUMS.pack(before + stood_still, untold + lasted - stood_still), 0)

    @property
    def sums(self) -> tuple[float, float]:
        """For how many seconds it stood still, and for how many more it was in suspend."""
        written = os.pread(self._file, _SUMS.size, 0)
        return _SUMS.unpack(written) if written else (0.0, 0.0)


class SuspendableClock(trio.abc.Clock):
    """Trio's clock as it is on a machine that is suspended now and then."""

    def __init__(self, suspension: Suspension) -> None:
        self._suspension = suspension

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        stood_still, _ = self._suspension.sums
        return time.monotonic() - stood_still

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


def suspend_boottime(suspension: Suspension) -> None:
    """From now on, this process's CLOCK_BOOTTIME has gone on in suspend."""
    real = time.clock_gettime

    def clock_gettime(clock: int) -> float:
        _, untold = suspension.sums
        return real(clock) + (untold if clock == time.CLOCK_BOOTTIME else 0.0)

    time.clock_gettime = clock_gettime
