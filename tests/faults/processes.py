"""The side of the test: programs of `tests.faults` as processes of their own, to be watched, stopped and killed."""

import json
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import trio

from tests.faults.fork_server import fork_server
from tests.faults.suspension import Suspension
from tests.waiting import PATIENCE, until


class Program:
    """A running program. It ends with this process, however that ends, because its standard input does."""

    def __init__(self, name: str, pid: int, watch: int, stdin: int, errors: Path, log: Path) -> None:
        self.name = name
        self.pid = pid
        self.log = log
        """Its journal."""
        self.heard: list[dict[str, Any]] = []
        """All that it has said, in order."""
        self._watch = watch
        self._stdin = trio.lowlevel.FdStream(stdin)
        self._errors = errors
        self._changed = trio.Event()
        self._has_ended = trio.Event()
        self._is_killed = False

    def __repr__(self) -> str:
        return f"<Program {self.name}: {self.pid}, {'ended' if self.has_ended else 'running'}>"

    @property
    def has_ended(self) -> bool:
        return self._has_ended.is_set()

    @property
    def journals(self) -> list[Path]:
        """Its journal, and what the library has logged in it, if that is another."""
        return [self.log, self.log.with_name(f"{self.log.name}.events")]

    @property
    def errors(self) -> str:
        """What it has written to standard error: nothing, as long as it is well."""
        return self._errors.read_text()

    # --- what it says -------------------------------------------------------------------------------------------------

    async def listen(self, stdout: int) -> None:
        """Hear what it says, until it has ended."""
        said = b""
        async with trio.lowlevel.FdStream(stdout) as stream:
            async for piece in stream:
                *lines, said = (said + piece).split(b"\n")
                self.heard.extend(json.loads(line) for line in lines)
                self._changed.set()
                self._changed = trio.Event()
        await trio.lowlevel.wait_readable(self._watch)
        os.close(self._watch)
        self._has_ended.set()
        self._changed.set()

    async def said(self, word: str, number: int = 1, *, patience: float = PATIENCE) -> dict[str, Any]:
        """Wait until it has said a word for the n-th time."""
        with trio.move_on_after(patience):
            while True:
                found = [line for line in self.heard if line["said"] == word]
                if len(found) >= number:
                    return found[number - 1]
                if self.has_ended:
                    raise AssertionError(f"{self} has ended before it said {word}: {self.heard} {self.errors}")
                await self._changed.wait()
        raise AssertionError(f"{self} did not say {word} within {patience} s: {self.heard} {self.errors}")

    async def tell(self, **settings: Any) -> None:
        """Say something to it."""
        await self._stdin.send_all(json.dumps(settings).encode() + b"\n")

    # --- what happens to it -------------------------------------------------------------------------------------------

    async def kill(self) -> None:
        """SIGKILL: it has ended when this returns."""
        self._is_killed = True
        self._signal(signal.SIGKILL)
        await self._has_ended.wait()

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    async def freeze(self) -> None:
        """SIGSTOP: it stands still when this returns."""
        self._signal(signal.SIGSTOP)
        await until(lambda: _state(self.pid) == "T")

    @contextmanager
    def starved(self, more: int) -> Iterator[None]:
        """It may open so many files more than it has, as long as this block lasts."""
        before = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        used = {int(name) for name in os.listdir(f"/proc/{self.pid}/fd")}  # noqa: PTH208
        # The limit is one of their numbers, and a new one gets the lowest that is free.
        free = (number for number in count() if number not in used)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (next(islice(free, more, None)), before[1]))
        try:
            yield
        finally:
            if not self.has_ended:
                resource.prlimit(self.pid, resource.RLIMIT_NOFILE, before)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    @asynccontextmanager
    async def suspended(self, seconds: float = 0.0) -> AsyncIterator[None]:
        """As long as this block lasts, its machine is in suspend; as far as it can tell, at least for these seconds."""
        await self.freeze()
        at = time.monotonic()
        try:
            yield
        finally:
            stood_still = time.monotonic() - at
            with Suspension(self.log.with_suffix(".suspended")) as suspension:
                suspension.add(stood_still, max(stood_still, seconds))
            self.thaw()

    def _signal(self, number: signal.Signals) -> None:
        assert not self.has_ended, f"{self}: {self.heard} {self.errors}"
        signal.pidfd_send_signal(self._watch, number)

    async def ended(self, *, patience: float = PATIENCE) -> None:
        """Wait until it has ended, of itself and in good order."""
        with trio.move_on_after(patience):
            await self._has_ended.wait()
            self.must_be_well()
            return
        raise AssertionError(f"{self} has not ended within {patience} s: {self.heard} {self.errors}")

    def must_be_well(self) -> None:
        """It runs, or was killed, or has come to its end; and it has not complained."""
        is_well = not self.has_ended or self._is_killed or self.heard[-1]["said"] == "exit"
        assert is_well, f"{self} has failed: {self.errors}"
        assert not self.errors, f"{self} has complained: {self.errors}"

    async def end(self) -> None:
        """Whatever it does: afterwards nothing of it is left."""
        with trio.CancelScope(shield=True):
            if not self.has_ended:
                await self.kill()
            await self._stdin.aclose()


def _state(pid: int) -> str:
    """Of a process, as one letter: the first field after the name, which stands in brackets."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


def start_program(nursery: trio.Nursery, module: str, name: str, directory: Path, settings: dict[str, Any]) -> Program:
    """Start `tests.faults.<module>`, and listen to it in a nursery. It gets the path of its journal as `log`."""
    log, errors = directory / f"{name}.log", directory / f"{name}.err"
    their_stdin, stdin = os.pipe()
    stdout, their_stdout = os.pipe()
    stderr = os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        settings = {"log": str(log), "suspended": str(log.with_suffix(".suspended")), **settings}
        pid, watch = fork_server().fork(module, settings, their_stdin, their_stdout, stderr)
    finally:
        for theirs in (their_stdin, their_stdout, stderr):
            os.close(theirs)
    program = Program(name, pid, watch, stdin, errors, log)
    nursery.start_soon(program.listen, stdout)
    return program
