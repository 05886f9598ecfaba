"""Where it was measured: the machine, how fast its disk flushes, and the versions of everything."""

import contextlib
import importlib.metadata
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

FLUSHES = 500
PAGE = bytes(8_192)


def machine() -> dict[str, str | int | float]:
    """The machine, in words and numbers; no names or paths of it."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_at_start": round(os.getloadavg()[0], 2),
        "loop_ms": round(_loop_milliseconds()),
        "flushes_per_second": round(_flushes_per_second()),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those packages that are installed."""
    found = {}
    for package in sorted(set(packages)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if named:
            return named[1]
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _loop_milliseconds() -> float:
    """What a million additions in Python take now; several times what it should be, if others use the cores."""
    began, total = time.monotonic(), 0
    for number in range(1_000_000):
        total += number
    return (time.monotonic() - began) * 1e3


def _flushes_per_second() -> float:
    """How often a page can be written and flushed, one after the other: no commit on its own is faster."""
    flush = getattr(os, "fdatasync", os.fsync)
    with tempfile.TemporaryFile() as file:
        began = time.monotonic()
        for _ in range(FLUSHES):
            os.pwrite(file.fileno(), PAGE, 0)
            flush(file.fileno())
        return FLUSHES / (time.monotonic() - began)
