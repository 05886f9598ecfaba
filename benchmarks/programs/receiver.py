"""
A receiver of our own: answers 200 to everything, and remembers when each request had arrived.

It parses with httptools on asyncio, with uvloop if that is there, so that it takes little of what is being measured.
`GET /count` tells how many came; `GET /stamps` tells, once, when: CLOCK_MONOTONIC, which all processes share, in
nanoseconds by the number that was the path.
"""

import asyncio
import json
import time
from typing import cast

import httptools

from benchmarks.programs import control

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Arrivals:
    """What has arrived."""

    def __init__(self) -> None:
        self.count = 0
        self._stamps: dict[str, int] = {}

    def note(self, path: str) -> None:
        """A request is complete."""
        self.count += 1
        self._stamps[path[1:]] = time.monotonic_ns()

    def take_stamps(self) -> dict[str, int]:
        """The times so far, which are forgotten here."""
        taken, self._stamps = self._stamps, {}
        return taken


class Connection(asyncio.Protocol):
    """One connection of a client; the second half is what httptools calls."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one too, though not by inheritance

    def data_received(self, data: bytes) -> None:
        """asyncio: something has come."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        self._url = b""

    def on_url(self, url: bytes) -> None:
        """httptools: a piece of the target."""
        self._url += url

    def on_message_complete(self) -> None:
        """httptools: the request is all there."""
        path = self._url.decode()
        if path == "/count":
            self._transport.write(_answer(self._arrivals.count))
        elif path == "/stamps":
            self._transport.write(_answer(self._arrivals.take_stamps()))
        else:
            self._arrivals.note(path)
            self._transport.write(OK)


def _answer(value: object) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def serve() -> None:
    """Serve until the line to the conductor is cut."""
    arrivals = Arrivals()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(arrivals), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    await asyncio.to_thread(control.wait_for_end, port=port, version="the benchmark's own, httptools on asyncio")


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve())
    else:
        uvloop.run(serve())
