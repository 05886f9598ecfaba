"""Servers that say byte for byte what a test wants, and senders to meet them."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ssl import SSLContext

import trio

from requeuest_trio import Config, Request
from requeuest_trio._http.progress import Progress
from requeuest_trio._http.sender import Sender
from requeuest_trio._model.groups import raise_bare
from requeuest_trio._model.outcome import Delivery

Handler = Callable[[trio.abc.Stream], Awaitable[None]]

PATIENT = 10.0
"""A timeout that no test waits for."""
SHORT = 0.3
"""For the tests of the deadline itself."""


@dataclass(slots=True)
class RawServer:
    """What a test can ask a raw server about."""

    port: int
    scheme: str = "http"
    connections: int = 0
    is_empty: trio.Event = field(default_factory=trio.Event)
    """Set whenever the last connection was left."""
    open: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    async def wait_empty(self) -> None:
        """Until every connection was left by the other side or the handler."""
        with trio.fail_after(5):
            while self.open:
                await self.is_empty.wait()


@asynccontextmanager
async def raw_server(
    handle: Handler, *, tls: SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[RawServer]:
    """Let `handle` talk to each connection; what it does wrong because the other side is gone does not matter."""
    listeners = await trio.open_tcp_listeners(0, host=host)
    server = RawServer(listeners[0].socket.getsockname()[1], "http" if tls is None else "https")

    async def serve(stream: trio.SocketStream) -> None:
        server.connections += 1
        server.open += 1
        try:
            outer: trio.abc.Stream = stream if tls is None else trio.SSLStream(stream, tls, server_side=True)
            async with stream:
                await handle(outer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            server.open -= 1
            if not server.open:
                server.is_empty.set()
                server.is_empty = trio.Event()

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, listeners)
            yield server
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_bare(group)


@contextmanager
def never_accepting() -> Iterator[str]:
    """The URL of a server that does not even accept."""
    with silent() as (host, port):
        yield f"http://{host}:{port}/"


@contextmanager
def silent(host: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[str, int]]:
    """An address that does not answer at all, as behind a firewall: its queue of connections is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind((host, port))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()


async def read_head(stream: trio.abc.Stream) -> bytes:
    """A request without a body, or the beginning of another."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        if not more:
            raise trio.BrokenResourceError
        data += more
    return bytes(data)


def says(answer: bytes, *, then: Handler | None = None) -> Handler:
    """A handler that reads the head of a request, answers, and closes the connection, or does something else."""

    async def handle(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        await stream.send_all(answer)
        if then is not None:
            await then(stream)

    return handle


async def until_left(stream: trio.abc.Stream) -> None:
    """Wait for the other side to close."""
    while await stream.receive_some():
        pass


async def send(
    sender: Sender,
    url: str,
    *,
    timeout: float = PATIENT,  # noqa: ASYNC109 - it is what is tested
    method: str = "GET",
    **options: object,
) -> Delivery:
    """Send a request as an attempt does. Fails if that takes longer than it may."""
    request = Request(method, url, **options)  # type: ignore[arg-type]
    return await send_request(sender, request, timeout=timeout)


async def send_request(
    sender: Sender,
    request: Request,
    *,
    timeout: float = PATIENT,  # noqa: ASYNC109 - it is what is tested
) -> Delivery:
    """The same for a request that is there already."""
    progress = Progress(request.headers)
    with trio.fail_after(timeout + 0.5):
        with trio.move_on_after(timeout):
            return await sender.send(request, progress)
        return progress.timed_out(timeout)


SMALL = Config(max_response_body=100_000, max_redirects=3)
