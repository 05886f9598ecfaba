"""
The worker: a process of its own that delivers, writes down what the library logs, and ends on signals.

SIGTERM or SIGINT let it leave the block normally, a second one cancels it. It may hold several blocks of
`open_requeuest` at once, which come and go while it runs.
"""

import os
import random
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from requeuest_trio import ALL, Client, Config, DatabaseUnavailable, open_requeuest
from requeuest_trio.cli.signals import Stop, stopping_on_signals
from tests.faults.journal import Journal, log_events
from tests.faults.program import hear, say
from tests.machine import OwnTime

Block = Callable[[], AbstractAsyncContextManager[Client]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a worker delivers."""

    channels: tuple[str, ...] | None = None
    """None: all."""
    concurrency: int = 8
    lease: float = 5.0
    """So long that a process to which nothing is done never loses it, on a busy machine either."""
    grace: float = 5.0
    poll_interval: float = 0.3
    attempt_timeout: float = 5.0
    config: dict[str, Any] | None = None
    """More of `Config`."""
    unknown_name: str | None = None
    """This process asks for its address, says so, and gets no answer."""
    descriptors: int | None = None
    """It may have so many."""
    blocks: int = 1
    """So many blocks at once."""
    stay: tuple[float, float] | None = None
    """Each block is left after so many seconds, chosen at random between these, and opened again; every other one of
    them by cancellation. More on a busy machine, which would do nothing else than open them. None: they stay."""


def usage() -> dict[str, int]:
    """What this process has: memory in bytes, files, tasks."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "rss": pages * resource.getpagesize(),
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - without one of its own
        "tasks": trio.lowlevel.current_statistics().tasks_living,
    }


def leave_unanswered(name: str) -> None:
    """As by a name server that is not there, and a resolver that does not give up."""
    answering = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        if host == name and not options.get("flags"):
            say("resolving", host=host)
            threading.Event().wait()
        return answering(host, *args, **options)

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment] # its many types are all Any here


async def work(block: Block, choose: random.Random, stop: Stop) -> None:
    """One block, for as long as there is no signal; opened again while there is no database."""
    while stop.received is None:
        try:
            async with block():
                say("ready", **usage())
                with stop.gracefully(""):
                    await trio.sleep_forever()
        except DatabaseUnavailable as error:
            say("unavailable", error=error)
            await trio.sleep(choose.uniform(0.05, 0.2))


async def come_and_go(block: Block, choose: random.Random, stay: tuple[float, float]) -> None:
    """Blocks one after the other, each for a while, left in turn normally and by cancellation."""
    own, is_cancelled = OwnTime(), choose.random() < 0.5
    while True:
        is_cancelled = not is_cancelled
        with trio.CancelScope() as scope:
            async with block():
                say("joined")
                await trio.sleep(choose.uniform(*stay) * own.stretch)
                leaves_at = time.monotonic()
                if is_cancelled:
                    scope.cancel()
        say("left", cancelled=is_cancelled, since=leaves_at)


async def main(settings: dict[str, Any]) -> None:
    terms = Terms(**settings["terms"])
    block = partial(
        open_requeuest,
        settings["dsn"],
        ALL if terms.channels is None else terms.channels,
        concurrency=terms.concurrency,
        lease=terms.lease,
        grace=terms.grace,
        poll_interval=terms.poll_interval,
        config=Config(attempt_timeout=terms.attempt_timeout, **(terms.config or {})),
    )
    log_events(Journal(settings["log"]), settings["level"])
    for each in (signal.SIGINT, signal.SIGTERM):
        # A second one that comes when the block of the first has just ended has nothing left to end. Not `SIG_IGN`:
        # what was ignored before is ignored within the block too.
        signal.signal(each, lambda *_: None)
    if terms.descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (terms.descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if terms.unknown_name is not None:
        leave_unanswered(terms.unknown_name)
    async with trio.open_nursery() as nursery:
        await nursery.start(hear)
        before = usage()
        async with stopping_on_signals(lambda text: say("signal", text=text)) as stop:
            if terms.stay is None:
                await work(block, random.Random(settings["seed"]), stop)
            else:
                say("ready", **usage())
                async with trio.open_nursery() as blocks:
                    for number in range(terms.blocks):
                        choose = random.Random(f"{settings['seed']} {number}")
                        blocks.start_soon(come_and_go, block, choose, terms.stay)
        say("ended", before=before, after=usage(), signals=stop.signals)
        nursery.cancel_scope.cancel()
