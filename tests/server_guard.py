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
    for pid_file in list(home.glob("*/data/postmaster.pid")):
        pid, data = int(pid_file.read_text().split(maxsplit=1)[0]), pid_file.parent
        if is_server(pid, data):
            os.kill(pid, signal.SIGQUIT)
            deadline = time.monotonic() + 20
            while is_server(pid, data) and time.monotonic() < deadline:
                time.sleep(0.01)  # not on Trio: this only tidies up after a test that is gone
    for path in [path for path in home.glob("*/*") if path.is_mount()]:
        subprocess.run(["umount", "--lazy", path], check=True)


def is_server(pid: int, data: Path) -> bool:
    """Whether this process is a server of this directory, and alive: its number may be another program's by now."""
    try:
        return str(data) in Path(f"/proc/{pid}/cmdline").read_text(errors="surrogateescape").split("\0")
    except OSError:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
