"""A process that delivers, and whose clock on the wall is wrong: `python -m tests.faults.skewed DSN CHANNEL FILE`.

The file says by how many seconds, and may change. With `--patched` the process lies to itself; otherwise whoever starts
it has seen to that, as libfaketime does. Prints the time that it believes in, and ends with its standard input.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Self

import trio

from requeuest_trio import open_requeuest
from requeuest_trio._engine import attempt

LEASE = 1.0


def patch(offsets: Path) -> None:
    """Change what this process takes for the time; the monotonic clock stays."""
    real = time.time

    def wrong() -> float:
        return real() + float(offsets.read_text())

    class WrongDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(wrong(), tz)

    time.time, time.time_ns = wrong, lambda: int(wrong() * 1e9)
    attempt_module: Any = attempt
    attempt_module.datetime = WrongDatetime


async def main(dsn: str, channel: str) -> None:
    async with open_requeuest(dsn, [channel], lease=LEASE, poll_interval=0.2):
        sys.stdout.write(f"{datetime.fromtimestamp(time.time(), UTC).timestamp()}\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    if "--patched" in sys.argv:
        patch(Path(sys.argv[3]))
    trio.run(main, sys.argv[1], sys.argv[2])
