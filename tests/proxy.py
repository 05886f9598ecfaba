"""
A proxy between clients and a PostgreSQL server, on which the network can fail.

All connections, or some of them, can be frozen and thawed, delayed, half closed, and cut with a reset, in each
direction. And an answer can be lost: because its statement never reached the server, or because the server has carried
it out, and nobody hears of it::

    async with open_proxy(dsn) as proxy:
        loss = proxy.drop_next_reply(committing("record"))
        async with open_requeuest(proxy.dsn) as client:
            await loss.happened.wait()
"""

import math
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum

import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from requeuest_trio._model.groups import raise_bare
from tests.postgres_messages import (
    CANCEL_REQUEST,
    GSS_REQUEST,
    READY,
    SSL_REQUEST,
    Conversation,
    Loss,
    Messages,
    Round,
    When,
)

AT_ONCE = 65_536


class Toward(Enum):
    """The two directions."""

    SERVER = "server"
    CLIENT = "client"


class Lane:
    """One direction of a connection."""

    def __init__(self) -> None:
        self.delay = 0.0
        self._flowing = trio.Event()
        self._flowing.set()

    @property
    def is_frozen(self) -> bool:
        return not self._flowing.is_set()

    def freeze(self) -> None:
        if not self.is_frozen:
            self._flowing = trio.Event()

    def thaw(self) -> None:
        self._flowing.set()

    async def until_thawed(self) -> None:
        """Wait while it is frozen."""
        while self.is_frozen:
            await self._flowing.wait()

    async def wait(self) -> None:
        """Wait until what comes may go on."""
        await trio.sleep(self.delay)
        await self.until_thawed()


class Link:
    """One connection of a client's, and the one to the server that goes with it."""

    def __init__(self, client: trio.SocketStream) -> None:
        self.conversation = Conversation()
        self.lanes = {toward: Lane() for toward in Toward}
        self.streams = {Toward.CLIENT: client}
        self.scope = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Link: {len(self.conversation.executed)} statements, last {self.conversation.executed[-3:]}>"

    def has_executed(self, *statements: str) -> bool:
        """Whether it was used for one of these."""
        return not set(statements).isdisjoint(self.conversation.executed)

    def freeze(self, *towards: Toward) -> None:
        """Let nothing more through; what comes is kept back."""
        for toward in towards or Toward:
            self.lanes[toward].freeze()

    def thaw(self) -> None:
        for lane in self.lanes.values():
            lane.thaw()

    def delay(self, seconds: float, *towards: Toward) -> None:
        """Let everything take so much longer."""
        for toward in towards or Toward:
            self.lanes[toward].delay = seconds

    def cut(self) -> None:
        """Reset it, at once."""
        # Closing with a linger time of zero sends RST instead of FIN.
        self.streams[Toward.CLIENT].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.scope.cancel()

    def half_close(self, toward: Toward) -> None:
        """Say to one side that nothing more will come; what it says itself is passed on."""
        self.streams[toward].socket.shutdown(socket.SHUT_WR)


class Proxy:
    """A running proxy; what `open_proxy` gives."""

    def __init__(self, dsn: str, host: str, port: int) -> None:
        self._server = conninfo_to_dict(dsn)
        self.port = port
        self.dsn = make_conninfo(dsn, host=host, port=port)
        self.links: list[Link] = []
        """The connections that are open now, the oldest first."""
        self.accepted = 0
        self.bytes_per_second = math.inf
        """How much of the server's answers comes through, over each connection."""
        self.executed: list[str] = []
        """All statements, over all connections, those that are closed too."""
        self.has_frozen = trio.Event()
        """Set by the first `freeze`."""
        self._frozen: set[Toward] = set()
        self._lost_replies: list[Loss] = []
        self._lost_requests: list[Loss] = []

    # --- what can be done to it ---------------------------------------------------------------------------------------

    def used_for(self, *statements: str) -> list[Link]:
        """Those connections that were used for one of these statements."""
        return [link for link in self.links if link.has_executed(*statements)]

    def freeze(self, *towards: Toward) -> None:
        """Let nothing more through, on connections to come too: these are accepted, and that is all."""
        self.has_frozen.set()
        self._frozen.update(towards or Toward)
        for link in self.links:
            link.freeze(*towards)

    def thaw(self) -> None:
        """Let everything through again, what has been kept back first."""
        self._frozen.clear()
        for link in self.links:
            link.thaw()

    def cut(self) -> None:
        """Reset all connections."""
        for link in self.links:
            link.cut()

    def drop_next_reply(self, when: When) -> Loss:
        """Throw away what the server answers to a statement, until it is ready again, and cut the connection."""
        self._lost_replies.append(Loss(when))
        return self._lost_replies[-1]

    def cut_next_reply_short(self, when: When) -> Loss:
        """Pass on what the server answers to a statement, and close the connection before it is ready again."""
        self._lost_replies.append(Loss(when, is_half=True))
        return self._lost_replies[-1]

    def drop_next_request(self, when: When) -> Loss:
        """Cut the connection before a statement reaches the server."""
        self._lost_requests.append(Loss(when))
        return self._lost_requests[-1]

    # --- how it works -------------------------------------------------------------------------------------------------

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection, to its end."""
        self.accepted += 1
        link = Link(client)
        for toward in self._frozen:
            link.lanes[toward].freeze()
        self.links.append(link)
        try:
            with link.scope:
                await link.lanes[Toward.SERVER].wait()
                async with await self._connect() as server, trio.open_nursery() as nursery:
                    link.streams[Toward.SERVER] = server
                    nursery.start_soon(self._pass_requests, link)
                    nursery.start_soon(self._pass_answers, link)
        except OSError:
            pass  # there is no server
        finally:
            self.links.remove(link)
            await trio.aclose_forcefully(client)

    async def _connect(self) -> trio.SocketStream:
        host, port = str(self._server["host"]), int(self._server.get("port") or 5432)
        if host.startswith("/"):
            return await trio.open_unix_socket(f"{host}/.s.PGSQL.{port}")
        return await trio.open_tcp_stream(host, port)

    async def _pass_requests(self, link: Link) -> None:
        client, server = link.streams[Toward.CLIENT], link.streams[Toward.SERVER]
        messages, lane = Messages(have_letters=False), link.lanes[Toward.SERVER]
        with _ending(link):
            async for data in client:
                await lane.until_thawed()  # not read on meanwhile: what has no room is not sent
                passed = b""
                for message in messages.feed(data):
                    if messages.have_letters:
                        if self._is_lost(link, *link.conversation.sent(message)):
                            return
                    elif message.code in {SSL_REQUEST, GSS_REQUEST}:
                        await client.send_all(b"N")
                        continue
                    else:
                        link.conversation.begun(message)
                        messages.have_letters = message.code != CANCEL_REQUEST
                    passed += message.data
                await lane.wait()
                await server.send_all(passed)
            await lane.wait()
            await server.send_eof()

    def _is_lost(self, link: Link, current: Round, statement: str | None) -> bool:
        """Whether the connection has been cut before a statement. If its answer is to be lost, that is noted."""
        if statement is None:
            return False
        self.executed.append(statement)
        if loss := _taken(self._lost_requests, link):
            link.cut()
            loss.happened.set()
            return True
        current.loss = _taken(self._lost_replies, link) or current.loss
        return False

    async def _pass_answers(self, link: Link) -> None:
        client, server = link.streams[Toward.CLIENT], link.streams[Toward.SERVER]
        messages, lane = Messages(have_letters=True), link.lanes[Toward.CLIENT]
        with _ending(link):
            async for data in server:
                await lane.until_thawed()
                passed = b""
                for message in messages.feed(data):
                    loss = link.conversation.answered(message).loss
                    if loss is None or (loss.is_half and message.kind != READY):
                        passed += message.data
                    elif message.kind == READY:
                        if loss.is_half:
                            await client.send_all(passed)
                            link.scope.cancel()
                        else:
                            link.cut()
                        loss.happened.set()
                        return
                await lane.wait()
                await trio.sleep(len(passed) / self.bytes_per_second)
                await client.send_all(passed)
            await lane.wait()
            await client.send_eof()


def _taken(losses: list[Loss], link: Link) -> Loss | None:
    """The first of these that is about what a connection executes now; it is over then."""
    loss = next((loss for loss in losses if loss.when(link.conversation)), None)
    if loss is not None:
        losses.remove(loss)
    return loss


@contextmanager
def _ending(link: Link) -> Iterator[None]:
    """When one side has broken off, so does the other."""
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        link.scope.cancel()


@asynccontextmanager
async def open_proxy(dsn: str, *listeners: trio.SocketListener) -> AsyncIterator[Proxy]:
    """
    Run a proxy to the server of a DSN for as long as the block lasts; on 127.0.0.1, unless it is given a listener.

    When the block ends, everything is cut.
    """
    [listener] = listeners or await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listener.socket.getsockname()
    proxy = Proxy(dsn, host, port)
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            await nursery.start(trio.serve_listeners, proxy.serve, [listener])
            try:
                yield proxy
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_bare(group)
