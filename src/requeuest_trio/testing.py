"""A receiver for tests and demonstrations: a real HTTP server on this machine that does what it is told, good or bad.

Example::

    async with open_receiver() as receiver:
        receiver.script(Reply(503), Reset(), Reply(200, body=b"thanks"))
        request = Request.post(receiver.url + "/hook", json={"to": "ada"})
        job_id = await client.spawn("mail", request, retry=RetryPolicy(initial=0.01))
        arrivals = await receiver.wait_for(3)
        assert {arrival.header("idempotency-key") for arrival in arrivals} == {str(job_id)}
"""

from __future__ import annotations

import socket
import struct
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h11
import trio

from requeuest_trio._model.groups import raise_bare

__all__ = ["Action", "Arrival", "Receiver", "Reply", "Reset", "Stall", "open_receiver"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it came in, whole."""

    method: str
    target: str
    """Path and query."""
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: float
    """Trio's time."""
    in_flight: int
    """How many requests were being answered then, this one included."""

    def header(self, name: str) -> str | None:
        """The first value of a field, whatever the case of its name."""
        return next((value for field_name, value in self.headers if field_name.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer, after `delay` seconds. `body_sent` bytes short of the whole body, the connection is closed."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"ok"
    delay: float = 0.0
    body_sent: int | None = None
    """None sends all of the body."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Read the request, then reset the connection."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Read the request, and never answer."""


Action = Reply | Reset | Stall


@dataclass(slots=True)
class Receiver:
    """A running receiver. What it was not told about, it answers with 200."""

    url: str
    """Such as `http://127.0.0.1:41234`, without a slash at the end."""
    arrivals: list[Arrival] = field(default_factory=list)
    decide: Callable[[Arrival], Action | None] = lambda _: None
    """Asked about each request for which nothing is scripted; None is `Reply()`."""
    _scripts: dict[str | None, deque[Action]] = field(default_factory=lambda: defaultdict(deque))
    _changed: trio.Event = field(default_factory=trio.Event)
    _in_flight: int = 0

    def script(self, *actions: Action, target: str | None = None) -> None:
        """Do these, one for each request that comes, or that comes for `target`."""
        self._scripts[target].extend(actions)

    async def wait_for(self, number: int) -> list[Arrival]:
        """Wait until so many requests have come since the start, and return them all."""
        while len(self.arrivals) < number:
            await self._changed.wait()
        return list(self.arrivals)

    def _next_action(self, arrival: Arrival) -> Action:
        for target in (arrival.target, None):
            if self._scripts[target]:
                return self._scripts[target].popleft()
        return self.decide(arrival) or Reply()

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        with suppress(trio.BrokenResourceError, h11.RemoteProtocolError):
            async with stream:
                while (request := await _next_request(connection, stream)) is not None:
                    head, body = request
                    self._in_flight += 1
                    try:
                        if not await self._handle(connection, stream, head, body):
                            return
                    finally:
                        self._in_flight -= 1
                    if connection.our_state is not h11.DONE:
                        return
                    connection.start_next_cycle()

    async def _handle(
        self, connection: h11.Connection, stream: trio.SocketStream, head: h11.Request, body: bytes
    ) -> bool:
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers.raw_items())
        arrival = Arrival(
            head.method.decode(), head.target.decode(), headers, body, trio.current_time(), self._in_flight
        )
        self.arrivals.append(arrival)
        self._changed.set()
        self._changed = trio.Event()
        match self._next_action(arrival):
            case Reply() as reply:
                return await _answer(connection, stream, reply)
            case Reset():
                # Closing with a linger time of zero sends RST instead of FIN.
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case Stall():
                # Until the other side gives up.
                while await stream.receive_some(65_536):
                    pass
                return False


async def _next_request(connection: h11.Connection, stream: trio.SocketStream) -> tuple[h11.Request, bytes] | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65_536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return head, bytes(body)
        else:
            return None


async def _answer(connection: h11.Connection, stream: trio.SocketStream, reply: Reply) -> bool:
    if reply.delay:
        await trio.sleep(reply.delay)
    headers = [*reply.headers]
    if not any(name.lower() == "content-length" for name, _ in headers):
        headers.append(("Content-Length", str(len(reply.body))))
    data = connection.send(h11.Response(status_code=reply.status, headers=headers)) or b""
    if reply.body_sent is not None:
        await stream.send_all(data + reply.body[: reply.body_sent])
        return False
    if connection.their_state is h11.DONE and reply.status not in {204, 304}:
        with suppress(h11.LocalProtocolError):
            data += connection.send(h11.Data(data=reply.body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    await stream.send_all(data)
    return True


@asynccontextmanager
async def open_receiver(*, backlog: int = 1_024) -> AsyncIterator[Receiver]:
    """Serve on a free port of 127.0.0.1 for as long as the block lasts."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=backlog)
    receiver = Receiver(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, receiver._serve, [listener])  # noqa: SLF001 - its own module
            try:
                yield receiver
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_bare(group)
