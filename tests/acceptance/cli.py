"""Running the command `requeuest`: as a real process, or here where only its words matter."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from unittest.mock import patch

import trio
from click.testing import CliRunner

from requeuest_trio.cli.commands import requeuest as command

PATIENCE = 110.0
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


async def requeuest(
    *arguments: str, dsn: str | None = None, stdin: str = "", variables: Mapping[str, str] | None = None
) -> Ended:
    """Run the command to its end, in a thread of this process, which is faster than another process."""
    with patch.object(trio, "open_signal_receiver", _no_signals):
        return await trio.to_thread.run_sync(partial(invoke, *arguments, dsn=dsn, stdin=stdin, variables=variables))


@contextmanager
def _no_signals(*_numbers: int) -> Iterator[AsyncIterator[int]]:
    """In place of what works in the main thread alone."""
    yield _nothing()


async def _nothing() -> AsyncIterator[int]:
    await trio.sleep_forever()
    yield 0


async def process(*arguments: str, dsn: str | None = None, stdin: str = "") -> Ended:
    """The same in a process of its own. The DSN goes through the environment."""
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


def invoke(
    *arguments: str, dsn: str | None = None, stdin: str = "", variables: Mapping[str, str] | None = None
) -> Ended:
    """Run the command in this thread, with these variables too. Not inside Trio."""
    kept = environment(dsn) | dict(variables or {})
    environ = {name: kept.get(name) for name in {*os.environ, *kept}}
    result = CliRunner(env=environ).invoke(
        command, arguments, input=stdin, prog_name="requeuest", catch_exceptions=False
    )
    return Ended(result.exit_code, result.stdout, result.stderr)


@dataclass(slots=True)
class Running:
    """A process that runs, and what it has said."""

    process: trio.Process
    said: str = ""
    """On standard error."""
    out: str = ""
    """On standard output; complete after `wait_to_end`."""
    _ended: trio.Event = field(default_factory=trio.Event)
    _changed: trio.Event = field(default_factory=trio.Event)

    async def read(self) -> None:
        """Collect what it says until it ends."""
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            self.said += bytes(chunk).decode()
            self._changed.set()
            self._changed = trio.Event()
        assert self.process.stdout is not None
        async for chunk in self.process.stdout:
            self.out += bytes(chunk).decode()
        self._ended.set()

    async def wait_to_say(self, text: str, times: int = 1) -> None:
        """Wait until it has said this."""
        with trio.fail_after(PATIENCE):
            while self.said.count(text) < times:
                await self._changed.wait()

    async def wait_to_end(self) -> None:
        """Wait until all it said was read."""
        with trio.fail_after(PATIENCE):
            await self._ended.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def status(self) -> int:
        """Wait for its end."""
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@dataclass(slots=True)
class Gate:
    """A receiver that answers when the test says so."""

    url: str = ""
    arrived: trio.Event = field(default_factory=trio.Event)
    opened: trio.Event = field(default_factory=trio.Event)

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            self.arrived.set()
            await self.opened.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@asynccontextmanager
async def open_gate() -> AsyncIterator[Gate]:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, gate.serve, 0, host="127.0.0.1"))
        gate.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        yield gate
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def running(*arguments: str, dsn: str, **variables: str) -> AsyncIterator[Running]:
    """Start the command; it is killed if the block ends before it does."""
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            [*COMMAND, *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            check=False,
            env=environment(dsn) | variables,
        )
        process = Running(await nursery.start(start))
        nursery.start_soon(process.read)
        yield process
        nursery.cancel_scope.cancel()
