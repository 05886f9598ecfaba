"""A server that keeps every byte it gets, and answers what it is told."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext

import h11
import trio

from tests.http.hostile import RawServer, raw_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def job_of(head: bytes) -> str:
    """The job to which a request belongs."""
    [line] = [line for line in head.split(b"\r\n") if line.startswith(b"Idempotency-Key: ")]
    return line.removeprefix(b"Idempotency-Key: ").decode()


@dataclass(slots=True)
class Recorder:
    """What came in, request by request."""

    server: RawServer
    wire: list[bytes] = field(default_factory=list)
    answer: Callable[[bytes], bytes] = field(default=lambda _: OK)
    """The answer to a request, given whole. None at all: the connection is closed."""

    @property
    def url(self) -> str:
        return f"{self.server.scheme}://127.0.0.1:{self.server.port}"


@asynccontextmanager
async def recorder(*, tls: SSLContext | None = None) -> AsyncIterator[Recorder]:
    """Serve for as long as the block lasts. h11 finds where a request ends, and nothing else."""

    async def handle(stream: trio.abc.Stream) -> None:
        while True:
            wire, parser = b"", h11.Connection(h11.SERVER)
            event = parser.next_event()
            while not isinstance(event, h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    data = bytes(await stream.receive_some())
                    wire += data
                    parser.receive_data(data)
                try:
                    event = parser.next_event()
                except h11.RemoteProtocolError:
                    return  # the request breaks off
                if isinstance(event, h11.ConnectionClosed):
                    return
            record.wire.append(wire)
            answer = record.answer(wire)
            if not answer:
                return
            await stream.send_all(answer)

    async with raw_server(handle, tls=tls) as server:
        record = Recorder(server)
        yield record
