"""Running the command `requeuest`: as a real process, or here where only its words matter."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio
from click.testing import CliRunner

from requeuest_trio.cli.commands import requeuest as command

PATIENCE = 60.0
COMMAND = (sys.executable, "-m", "requeuest_trio.cli")


@dataclass(frozen=True, slots=True)
class Ended:
    """What a process left behind."""

    status: int
    out: str
    err: str


def environment(dsn: str | None) -> dict[str, str]:
    """This process's environment, with nothing in it that names another database or a terminal."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "REQUEUEST_")) and name != "FORCE_COLOR"
    }
    return kept if dsn is None else kept | {"REQUEUEST_DSN": dsn}


async def requeuest(*arguments: str, dsn: str | None = None, stdin: str = "") -> Ended:
    """Run the command to its end. The DSN goes through the environment."""
    with trio.fail_after(PATIENCE):
        ended = await trio.run_process(
            [*COMMAND, *arguments],
            stdin=stdin.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(dsn),
        )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def invoke(*arguments: str) -> Ended:
    """Run the command in this process, which is faster. Not inside Trio."""
    result = CliRunner(env={"REQUEUEST_DSN": None}).invoke(command, arguments, prog_name="requeuest")
    return Ended(result.exit_code, result.stdout, result.stderr)


@dataclass(slots=True)
class Running:
    """A process that runs, and what it has said on standard error."""

    process: trio.Process
    said: str = ""
    _changed: trio.Event = field(default_factory=trio.Event)

    async def read(self) -> None:
        """Collect what it says until it ends."""
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            self.said += bytes(chunk).decode()
            self._changed.set()
            self._changed = trio.Event()

    async def wait_to_say(self, text: str) -> None:
        """Wait until it has said this."""
        with trio.fail_after(PATIENCE):
            while text not in self.said:
                await self._changed.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def status(self) -> int:
        """Wait for its end."""
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def running(*arguments: str, dsn: str, **variables: str) -> AsyncIterator[Running]:
    """Start the command; it is killed if the block ends before it does."""
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            [*COMMAND, *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            check=False,
            env=environment(dsn) | variables,
        )
        process = Running(await nursery.start(start))
        nursery.start_soon(process.read)
        yield process
        nursery.cancel_scope.cancel()
