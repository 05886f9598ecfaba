"""
Ends the PostgreSQL servers of a test, also when the test itself was killed.

It reads its standard input to the end, which comes when the test closes it or dies. Then it ends every server below the
directory given and takes away the file systems that were mounted there. It knows nothing but the standard library, so
that it is there at once.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(home: Path) -> None:
    sys.stdin.buffer.read()
    for pid in [pid for path in home.glob("*/data/postmaster.pid") if (pid := _running(path))]:
        os.kill(pid, signal.SIGQUIT)
        _wait_for_the_end(pid)
    for path in [path for path in home.glob("*/*") if path.is_mount()]:
        subprocess.run(["umount", "--lazy", path], check=True)


def _running(pid_file: Path) -> int | None:
    """The server that has this file, if it is one: after a crash the number may be another program's."""
    pid = int(pid_file.read_text().split(maxsplit=1)[0])
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="surrogateescape").split("\0")
    except OSError:
        return None
    return pid if str(pid_file.parent) in command else None


def _wait_for_the_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


main(Path(sys.argv[1]))
