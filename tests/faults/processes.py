"""The side of the test: programs of `tests.faults` as processes of their own, to be watched, stopped and killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


class Program:
    """A running program. It ends with this process, however that ends, because its standard input does."""

    def __init__(self, name: str, process: trio.Process, errors: Path, log: Path) -> None:
        self.name = name
        self.log = log
        """Its journal."""
        self.heard: list[dict[str, Any]] = []
        """All that it has said, in order."""
        self._process = process
        self._errors = errors
        self._changed = trio.Event()
        self._has_ended = False
        self._is_killed = False

    def __repr__(self) -> str:
        return f"<Program {self.name}: {self.pid}, {'running' if self.returncode is None else self.returncode}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    @property
    def errors(self) -> str:
        """What it has written to standard error: nothing, as long as it is well."""
        return self._errors.read_text()

    # --- what it says -------------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Hear what it says, until it ends."""
        assert self._process.stdout is not None
        said = b""
        async with self._process.stdout as stdout:
            async for piece in stdout:
                *lines, said = (said + piece).split(b"\n")
                self.heard.extend(json.loads(line) for line in lines)
                self._tell()
        self._has_ended = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def said(self, word: str, number: int = 1, *, patience: float = PATIENCE) -> dict[str, Any]:
        """Wait until it has said a word for the n-th time."""
        with trio.move_on_after(patience):
            while True:
                found = [line for line in self.heard if line["said"] == word]
                if len(found) >= number:
                    return found[number - 1]
                if self._has_ended:
                    raise AssertionError(f"{self} has ended before it said {word}: {self.heard} {self.errors}")
                await self._changed.wait()
        raise AssertionError(f"{self} did not say {word} within {patience} s: {self.heard} {self.errors}")

    async def tell(self, **settings: Any) -> None:
        """Say something to it."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(settings).encode() + b"\n")

    # --- what happens to it -------------------------------------------------------------------------------------------

    async def kill(self) -> None:
        """SIGKILL: it has ended when this returns."""
        self._is_killed = True
        self._process.kill()
        await self._process.wait()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    async def freeze(self) -> None:
        """SIGSTOP: it stands still when this returns."""
        self._process.send_signal(signal.SIGSTOP)
        await until(lambda: _state(self.pid) == "T")

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def ended(self, *, patience: float = PATIENCE) -> int:
        """Wait until it has ended by itself, and return its exit status."""
        with trio.move_on_after(patience):
            status = await self._process.wait()
            while not self._has_ended:
                await self._changed.wait()
            return status
        raise AssertionError(f"{self} has not ended within {patience} s: {self.heard} {self.errors}")

    def must_be_well(self) -> None:
        """It has not ended by itself with an error, nor complained."""
        assert self._is_killed or not self.returncode, f"{self} has failed: {self.errors}"
        assert not self.errors, f"{self} has complained: {self.errors}"

    async def end(self) -> None:
        """Whatever it does: afterwards nothing of it is left."""
        with trio.CancelScope(shield=True):
            if self.returncode is None:
                await self.kill()
            if self._process.stdin is not None:
                await self._process.stdin.aclose()
            while not self._has_ended:
                await self._changed.wait()


def _state(pid: int) -> str:
    """Of a process, as one letter: the first field after the name, which stands in brackets."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


async def start_program(
    nursery: trio.Nursery, module: str, name: str, directory: Path, settings: dict[str, Any]
) -> Program:
    """Start `tests.faults.<module>`, and listen to it in a nursery. It gets the path of its journal as `log`."""
    log, errors = directory / f"{name}.log", directory / f"{name}.err"
    with errors.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", f"tests.faults.{module}", json.dumps({"log": str(log), **settings}, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C is this process's to deal with
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    program = Program(name, process, errors, log)
    nursery.start_soon(program.listen)
    return program


async def until(
    condition: Callable[[], object], *, patience: float = PATIENCE, what: Callable[[], object] = str
) -> None:
    """Wait for a state of the outside world, which tells nobody when it changes."""
    with trio.move_on_after(patience):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not within {patience} s: {what()}")
