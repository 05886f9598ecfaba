"""Programs of the benchmark as processes of their own: how they are started, spoken to and ended."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE = 10.0


class ProgramFailedError(Exception):
    """A program has ended before its time; what it had to say is on standard error."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far."""

    cpu: float
    """Seconds, of all its threads."""
    peak_mb: float
    """The most memory it ever had, in 10^6 bytes."""


class Program:
    """A running program, driven line by line. `programs.control` is its other end."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self._name = name
        self._process = process

    def go(self) -> None:
        """Let it begin."""
        self._say("go")

    def usage(self) -> Usage:
        """Ask, while it runs, what it has used."""
        self._say("usage")
        return Usage(**self.answer())

    def answer(self) -> dict[str, Any]:
        """Wait for the next thing it says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ProgramFailedError(f"{self._name} has ended, with status {self._process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ProgramFailedError(f"{self._name} has ended, with status {self._process.wait()}") from None


@contextlib.contextmanager
def program(name: str, **arguments: Any) -> Iterator[tuple[Program, dict[str, Any]]]:
    """
    Start `benchmarks.programs.<name>`, and wait until it is ready: what it needs is imported and open.

    It ends when its standard input does: at the end of the block, and also if this process is killed. It gets a session
    of its own, because Ctrl-C is this process's to deal with.

    Yields:
        The program, and what it said when it was ready.
    """
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", f"benchmarks.programs.{name}", json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        running = Program(name, process)
        yield running, running.answer()
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
