"""
A worker in a process of its own whose event loop can be blocked: `python -m tests.faults.stalling DSN LEASE FILE PATH`.

A line on its standard input blocks the loop, as a careless host program does; a request to PATH blocks it in a hook of
the user's, once its answer is there. Either lasts until FILE exists. What it logs and measures comes out as JSON, one
object a line. It ends when its input does.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import httpx2
import trio

from requeuest_trio import TrioTransport, open_requeuest


class Reporter(logging.Handler):
    """Prints the library's events."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(event=getattr(record, "event", record.getMessage()), **getattr(record, "fields", {}))


def tell(**what: object) -> None:
    sys.stdout.write(json.dumps(what, default=str) + "\n")
    sys.stdout.flush()


def block_until(file: Path) -> None:
    while not file.exists():
        time.sleep(0.005)  # as code does that blocks the event loop, which is what this program is for


class Hooked(httpx2.AsyncBaseTransport):
    """A transport of the user's, which does something with each answer, and takes its time for some."""

    def __init__(self, file: Path, path: str) -> None:
        self._inner = TrioTransport()
        self._file = file
        self._path = path

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if request.url.path == self._path:
            tell(event="blocked")
            block_until(self._file)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


async def main(*arguments: str) -> None:
    dsn, lease, file, path = arguments
    logger = logging.getLogger("requeuest_trio")
    logger.addHandler(Reporter())
    logger.setLevel(logging.INFO)
    async with (
        Hooked(Path(file), path) as http,
        open_requeuest(dsn, ["shared", "own"], http=http, lease=float(lease), grace=0) as client,
    ):
        async for _ in trio.wrap_file(sys.stdin):
            tell(event="blocked")
            block_until(Path(file))
            tell(event="stats", loop_lag=(await client.stats()).loop_lag)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
