"""
Starts programs by forking: everything is imported once, and not again for most of a second of CPU by each of them.

`ForkServer` is the side of the test, `main` that of the process that forks. A program gets descriptors for its standard
input, output and errors; the test gets one that becomes readable when the program has ended. The server
ends with the test.
"""

import atexit
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults.program import run

ROOT = Path(__file__).parents[2]
LARGEST = 65_536
MODULES = ("arrivals", "producing", "working")


class ForkServer:
    """One for each process that runs tests; see `fork_server`."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.fork_server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is the test's to deal with
            )

    def fork(self, module: str, settings: dict[str, Any], stdin: int, stdout: int, stderr: int) -> tuple[int, int]:
        """Start `tests.faults.<module>`. Returns its process id, and a descriptor that watches it."""
        order = json.dumps({"module": module, "settings": settings}, default=str).encode()
        socket.send_fds(self._line, [order], [stdin, stdout, stderr])
        answer, [watch], _, _ = socket.recv_fds(self._line, LARGEST, 1)
        return json.loads(answer)["pid"], watch

    def end(self) -> None:
        self._line.close()
        self._process.wait()


@cache
def fork_server() -> ForkServer:
    """That of this process, started when it is first needed."""
    started = ForkServer()
    atexit.register(started.end)
    return started


def main() -> None:
    for module in MODULES:
        importlib.import_module(f"tests.faults.{module}")
    line = socket.socket(fileno=int(sys.argv[1]))
    # Nobody waits for the programs here: they are watched by descriptor.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        order, streams, _, _ = socket.recv_fds(line, LARGEST, 3)
        if not order:
            return
        pid = os.fork()
        if pid == 0:
            line.close()
            _become(json.loads(order), streams)
        for stream in streams:
            os.close(stream)
        watch = os.pidfd_open(pid)
        socket.send_fds(line, [json.dumps({"pid": pid}).encode()], [watch])
        os.close(watch)


def _become(order: dict[str, Any], streams: list[int]) -> None:
    """What the fork does: it is the program, and nothing else."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    module = importlib.import_module(f"tests.faults.{order['module']}")
    run(module.main, order["settings"])


if __name__ == "__main__":
    main()
