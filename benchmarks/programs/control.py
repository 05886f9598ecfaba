"""
A program's end of the line to the conductor.

It says that it is ready, waits for "go", and from then on a thread answers each further line with what the process has
used so far. When the line is cut the process ends at once, so nothing outlives the benchmark, whatever ended that.
"""

import json
import os
import re
import resource
import sys
import threading
from pathlib import Path
from typing import Any

# Not sys.stdin: a thread that waits for a line holds the lock of its buffer, and Python dies of that when it ends.
_line = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - for as long as the process lives


def arguments() -> dict[str, Any]:
    """What the program was started with."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def say(**values: Any) -> None:
    """Tell the conductor."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def wait_for_go(**ready: Any) -> None:
    """Say that everything is imported and prepared, and block until the conductor wants it to begin."""
    say(**ready)
    if not _line.readline():
        os._exit(0)
    threading.Thread(target=_answer, daemon=True).start()


def wait_for_end(**ready: Any) -> None:
    """Say that everything is prepared, and block until the line is cut; for what just has to be there."""
    say(**ready)
    _line.read()


def cpu_seconds() -> float:
    """What this process has used, in all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _answer() -> None:
    while _line.readline():
        say(cpu=cpu_seconds(), peak_mb=_peak_mb())
    os._exit(0)


def _peak_mb() -> float:
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status")
    high_water = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if high_water is None else int(high_water[1])
    return peak * 1024 / 1e6
