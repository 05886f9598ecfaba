"""A receiver for tests and demonstrations: a real HTTP server on this machine that does what it is told.

It needs no database and no queue: whatever sends HTTP can be tested against it.

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
import sys
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h11
import trio

from requeuest_trio._model import checks, errors
from requeuest_trio._model.groups import raise_bare

__all__ = ["Action", "Arrival", "Receiver", "Reply", "Reset", "Stall", "open_receiver"]

_RECEIVED_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it came in, whole. A frozen value."""

    method: str
    """The method, as it was sent."""
    target: str
    """Path and query, as they were sent."""
    headers: tuple[tuple[str, str], ...]
    """The header fields, in the order, case and number of their coming."""
    body: bytes
    """The body, whole, without the framing of its transfer."""
    at: float
    """When it was there whole, in seconds of Trio's clock."""
    in_flight: int
    """How many requests were being answered then, this one included."""

    def header(self, name: str) -> str | None:
        """The first value of a field, whatever the case of its name; None if there is no such field."""
        return next((value for field_name, value in self.headers if field_name.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer. A frozen value.

    `Content-Length` is added unless `headers` has it or `Transfer-Encoding`; other headers are sent as they are given,
    right or wrong. No body follows where HTTP allows none: after HEAD, and with 1xx, 204 and 304 (RFC 9110 section
    6.4.1). The connection stays open for the next request, unless one side said `Connection: close` or the body was
    not sent as promised.

    Raises:
        InvalidRequest: naming the argument and its limits.
    """

    status: int = 200
    """The status of the answer, 0 to 999: also one that HTTP does not have."""
    headers: tuple[tuple[str, str], ...] = ()
    """Pairs of name and value, in Latin-1 text."""
    body: bytes = b"ok"
    """The body as it is sent, in no coding."""
    delay: float = 0.0
    """Seconds to wait before the answer is sent."""
    body_sent: int | None = None
    """Close the connection after so many bytes of the body. None sends it whole."""

    def __post_init__(self) -> None:
        # So that it fails where it was written, not where it is sent.
        put = object.__setattr__  # it is frozen
        put(self, "status", checks.whole_number("status", self.status, 0, 999))
        if not isinstance(self.body, bytes):
            raise errors.InvalidRequest("body", f"must be bytes, not {errors.kind_of(self.body)}")
        put(self, "delay", checks.number("delay", self.delay, 0, checks.MAX_SECONDS))
        if self.body_sent is not None:
            put(self, "body_sent", checks.whole_number("body_sent", self.body_sent, 0, sys.maxsize))
        try:
            for name, value in self.headers:
                "".join((name, value)).encode("latin-1")
        except (TypeError, ValueError) as error:
            raise errors.InvalidRequest("headers", "must be pairs of name and value, in Latin-1 text") from error

    def _promises(self, name: str) -> bool:
        return any(header.lower() == name for header, _ in self.headers)

    def _message(self, method: str) -> tuple[bytes, bool]:
        """What to send, and whether another answer may follow it."""
        has_body = method != "HEAD" and self.status >= 200 and self.status not in {204, 304}
        headers = [*self.headers]
        is_framed = self._promises("content-length") or self._promises("transfer-encoding")
        if self.status >= 200 and self.status != 204 and not is_framed:
            headers.append(("Content-Length", str(len(self.body))))
        head = [f"HTTP/1.1 {self.status:03} \r\n", *(f"{name}: {value}\r\n" for name, value in headers), "\r\n"]
        sent = (self.body if self.body_sent is None else self.body[: self.body_sent]) if has_body else b""
        lengths = {value for name, value in headers if name.lower() == "content-length"}
        is_whole = self.body_sent is None and (not has_body or lengths == {str(len(sent))})
        says_close = any(name.lower() == "connection" and "close" in value.lower() for name, value in headers)
        return "".join(head).encode("latin-1") + sent, is_whole and not says_close


@dataclass(frozen=True, slots=True)
class Reset:
    """Read the request, then reset the connection: the sender can't know whether it was understood."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Read the request, and never answer. The connection is closed once the sender has closed it."""


Action = Reply | Reset | Stall
"""What to do with a request."""


@dataclass(slots=True, repr=False)
class Receiver:
    """A running receiver; what `open_receiver` gives. What it was not told about, it answers with `Reply()`."""

    url: str
    """Such as `http://127.0.0.1:41234`, without a slash at the end."""
    arrivals: list[Arrival] = field(default_factory=list, init=False)
    """All requests since the start, in the order in which they were there whole."""
    decide: Callable[[Arrival], Action | None] | None = field(default=None, init=False)
    """A plain function, asked about each request for which nothing is scripted; None, or a function that returns
    None, is `Reply()`. May be set at any time. What it raises ends the block of `open_receiver`, and comes out of
    it."""
    _scripts: defaultdict[str | None, deque[Action]] = field(default_factory=lambda: defaultdict(deque), init=False)
    _changed: trio.Event = field(default_factory=trio.Event, init=False)
    _in_flight: int = field(default=0, init=False)

    def __repr__(self) -> str:
        """Where it is, and how many requests have come: their headers and bodies are in `arrivals`."""
        return f"<Receiver {self.url} arrivals={len(self.arrivals)}>"

    def script(self, *actions: Action, target: str | None = None) -> None:
        """Do these next, one for each request that comes.

        Args:
            actions: `Reply`, `Reset` or `Stall` values, added to what is scripted already.
            target: path and query. With it, only requests for exactly this target count; what is scripted for a
                target goes before what is scripted for all.

        Raises:
            TypeError: one of them is no `Reply`, `Reset` or `Stall`; nothing was added.

        Example::

            async with open_receiver() as receiver:
                receiver.script(Reply(503), Reply(200), target="/hook")
        """
        for action in actions:
            _require_action("an action", action)
        self._scripts[target].extend(actions)

    async def wait_for(self, number: int) -> list[Arrival]:
        """Wait until so many requests have come since the start, and return all that have.

        It waits for as long as that takes; `trio.fail_after` sets a limit.

        Args:
            number: how many, from the start of the block on; 0 returns at once.

        Returns:
            A new list of all arrivals so far: at least `number` of them.

        Cancellation: nothing is lost; the arrivals stay in `arrivals`.

        Example::

            async with open_receiver() as receiver:
                await client.spawn("mail", Request.post(receiver.url))
                [arrival] = await receiver.wait_for(1)
        """
        await trio.lowlevel.checkpoint()
        while len(self.arrivals) < number:
            await self._changed.wait()
        return list(self.arrivals)

    def _next_action(self, arrival: Arrival) -> Action:
        for target in (arrival.target, None):
            if actions := self._scripts.get(target):
                return actions.popleft()
        decided = None if self.decide is None else self.decide(arrival)
        if decided is None:
            return Reply()
        _require_action("what decide returns", decided)
        return decided

    def _arrived(self, head: h11.Request, body: bytes) -> Arrival:
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers.raw_items())
        arrival = Arrival(
            head.method.decode("ascii"),
            head.target.decode("latin-1"),
            headers,
            body,
            trio.current_time(),
            self._in_flight,
        )
        self.arrivals.append(arrival)
        self._changed.set()
        self._changed = trio.Event()
        return arrival

    async def _listen(
        self,
        listener: trio.SocketListener,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            await trio.serve_listeners(self._serve, [listener], task_status=task_status)
        except BaseExceptionGroup as group:
            raise_bare(group)

    async def _serve(self, stream: trio.SocketStream) -> None:
        # What breaks here was broken by the other side, which is its right.
        with suppress(trio.BrokenResourceError, h11.RemoteProtocolError):
            async with stream:
                unread = b""
                while True:
                    # h11 only reads: it would refuse to write what is wrong on purpose.
                    connection = h11.Connection(h11.SERVER)
                    if unread:
                        connection.receive_data(unread)
                    request = await _next_request(connection, stream)
                    if request is None:
                        return
                    head, body = request
                    self._in_flight += 1
                    try:
                        may_go_on = await self._act(stream, self._arrived(head, body))
                    finally:
                        self._in_flight -= 1
                    if not may_go_on or connection.their_state is h11.MUST_CLOSE or head.http_version != b"1.1":
                        return
                    unread = connection.trailing_data[0]

    async def _act(self, stream: trio.SocketStream, arrival: Arrival) -> bool:
        """Do what is to be done. Returns whether the connection can be used again."""
        match self._next_action(arrival):
            case Reply() as reply:
                await trio.sleep(reply.delay)
                message, may_go_on = reply._message(arrival.method)  # noqa: SLF001 - its own module
                await stream.send_all(message)
                return may_go_on
            case Reset():
                # Closing with a linger time of zero sends RST instead of FIN.
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case Stall():
                # Until the other side gives up.
                while await stream.receive_some(_RECEIVED_AT_ONCE):
                    pass
                return False


def _require_action(what: str, value: object) -> None:
    if not isinstance(value, Action):
        raise TypeError(f"{what} must be a Reply, Reset or Stall, not {type(value).__name__}")


async def _next_request(connection: h11.Connection, stream: trio.SocketStream) -> tuple[h11.Request, bytes] | None:
    """The next request, whole, or None if the connection has ended."""
    head: h11.Request | None = None
    body = bytearray()
    while True:  # noqa: ASYNC913 - it waits whenever h11 has used up what came
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                # h11 writes this one, so that it knows that nobody waits any more.
                await stream.send_all(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            connection.receive_data(await stream.receive_some(_RECEIVED_AT_ONCE))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return head, bytes(body)
        else:
            return None


@asynccontextmanager
async def open_receiver(*, backlog: int = 1_024) -> AsyncIterator[Receiver]:
    """Serve on a free port of 127.0.0.1 for as long as the block lasts.

    An exception of the block comes out as it was raised.

    Args:
        backlog: how many connections may wait to be accepted; 1 to 65,535.

    Raises:
        InvalidRequest: naming the argument and its limits.

    Guarantee: the receiver accepts connections when the block begins. When it has ended, also by an exception, every
    connection is closed.

    Cancellation: every connection is closed at once.

    Example::

        async with open_receiver() as receiver:
            receiver.script(Reply(200, body=b"thanks"))
            response = await client.spawn_returning("mail", Request.post(receiver.url))
    """
    backlog = checks.whole_number("backlog", backlog, 1, 65_535)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=backlog)
    receiver = Receiver(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(receiver._listen, listener)  # noqa: SLF001 - its own module
            try:
                yield receiver
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_bare(group)
