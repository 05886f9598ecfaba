"""The side of a program: what it is told at the start, what it says, and how it ends with the test."""

import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import trio

from tests.faults.suspension import SuspendableClock, Suspension, suspend_boottime

ORPHANED = 3
"""The exit status of a program whose test is gone."""


def say(word: str, **fields: Any) -> None:
    """Tell the test something."""
    print(json.dumps({"said": word, "at": time.monotonic(), **fields}, default=str), flush=True)  # noqa: T201 - that is its way to the test


async def hear(
    act: Callable[[dict[str, Any]], None] = lambda _: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Do what the test says, line by line. When nobody is there any more, end at once."""
    said = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        task_status.started()
        while piece := await stream.receive_some(65_536):
            *lines, said = (said + piece).split(b"\n")
            for line in lines:
                act(json.loads(line))
    os._exit(ORPHANED)


def run(main: Callable[[dict[str, Any]], Awaitable[None]], settings: dict[str, Any]) -> NoReturn:
    """Run a program in this process, and say at the end that it came to its end."""
    status = 1
    try:
        suspension = Suspension(Path(settings["suspended"]))
        suspend_boottime(suspension)
        trio.run(main, settings, clock=SuspendableClock(suspension))
        say("exit")
        status = 0
    finally:
        if status:
            traceback.print_exc()
            sys.stderr.flush()
        # Without anything that this process was before it became the program.
        os._exit(status)
