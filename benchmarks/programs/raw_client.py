"""The least that an HTTP client can do on Trio: write bytes, feed the answer to httptools, look at the status."""

from typing import Self
from urllib.parse import urlsplit

import httptools
import trio

from benchmarks.workload import HEADERS

CHUNK = 65_536


class RawConnection:
    """One connection, one request at a time."""

    def __init__(self, stream: trio.SocketStream, host: str) -> None:
        self._stream = stream
        self._head = f"Host: {host}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
        self._is_complete = False

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to the server of a URL."""
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        return cls(await trio.open_tcp_stream(address.hostname, address.port), address.netloc)

    async def post(self, path: str, body: bytes) -> int:
        """Send a request, and return the status of the answer."""
        head = f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        await self._stream.send_all(head.encode() + body)
        self._is_complete = False
        parser = httptools.HttpResponseParser(self)
        while not self._is_complete:
            data = await self._stream.receive_some(CHUNK)
            if not data:
                raise ConnectionError("the server has closed the connection")
            parser.feed_data(data)
        return parser.get_status_code()

    def on_message_complete(self) -> None:
        """httptools: the answer is all there."""
        self._is_complete = True

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()
