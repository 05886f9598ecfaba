"""
A floor: the same requests, sent in a loop that keeps nothing.

As many tasks as there are connections. Every task first sends a few requests to have its connection warm, then all of
them share out the ones that are measured. The client is `raw`, `httpx2` or `httpx`, all of them on Trio.
"""

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urlsplit

import trio

from benchmarks.clients import open_client
from benchmarks.programs import control
from benchmarks.programs.raw_client import RawConnection
from benchmarks.workload import HEADERS, body

Post = Callable[[str, bytes], Awaitable[int]]
WARM_UP = 3
"""Requests of each task."""


@asynccontextmanager
async def _raw(url: str) -> AsyncIterator[Post]:
    connection = await RawConnection.open(url)

    async def post(target: str, content: bytes) -> int:
        return await connection.post(urlsplit(target).path, content)

    try:
        yield post
    finally:
        await connection.aclose()


async def _measure(
    connect: Callable[[], AbstractAsyncContextManager[Post]], url: str, requests: int, at_once: int, body_bytes: int
) -> None:
    numbers: Iterator[int] = iter(range(requests))
    content = body(body_bytes)
    are_warm = trio.Event()
    warm = itertools.count(1)
    start: list[tuple[float, float]] = []

    async def send() -> None:
        async with connect() as post:
            for _ in range(WARM_UP):
                await post(f"{url}/warm", content)
            if next(warm) == at_once:
                start.append((time.monotonic(), control.cpu_seconds()))
                are_warm.set()
            await are_warm.wait()
            for number in numbers:
                status = await post(f"{url}/{number}", content)
                assert status == 200, status

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(send)
    [(began, cpu)] = start
    control.say(seconds=time.monotonic() - began, cpu=control.cpu_seconds() - cpu)


async def main(client: str, url: str, requests: int, at_once: int, body_bytes: int) -> None:
    """Measure one client."""
    if client == "raw":
        await _measure(lambda: _raw(url), url, requests, at_once, body_bytes)
        return
    async with open_client(client, at_once) as http:

        async def post(target: str, content: bytes) -> int:
            response = await http.post(target, headers=HEADERS, content=content)
            return int(response.status_code)

        @asynccontextmanager
        async def share() -> AsyncIterator[Post]:
            yield post

        await _measure(share, url, requests, at_once, body_bytes)


if __name__ == "__main__":
    given = control.arguments()
    control.wait_for_go()
    trio.run(main, given["client"], given["url"], given["requests"], given["at_once"], given["body_bytes"])
