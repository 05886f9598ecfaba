"""
A transaction pooler, as small as one can be, for where none is installed; a program of its own, see `poolers.py`.

Every client has its own connection to the pooler, and a session of the server only from the first message of a
transaction to its end. Which one it gets goes round, so that nobody finds again what they left in a session.
"""

from __future__ import annotations

import secrets
import struct
import sys
from collections import deque
from contextlib import suppress

import trio

_UNENCRYPTED = {80877103, 80877104}
_CANCEL = 80877102
_PROTOCOL = 196608
_ENDS_A_PIECE = b"QSF"
"""Query, Sync and FunctionCall: the server answers each with one ReadyForQuery."""


_CRASHED = b"SFATAL\0VFATAL\0C08P01\0Mserver conn crashed?\0\0"
_CRASHED = b"E" + struct.pack("!i", len(_CRASHED) + 4) + _CRASHED
"""What PgBouncer says when it has lost the session that a client has."""


class RefusedError(Exception):
    """The server has refused a session; it is its message that is to be passed on."""


_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)


class Wire:
    """Messages of PostgreSQL's protocol, whole, over a stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = bytearray()

    async def read(self, number: int) -> bytes:
        while len(self._received) < number:
            if not (data := await self.stream.receive_some(65_536)):
                raise trio.BrokenResourceError("the other side has closed the connection")
            self._received += data
        taken = bytes(self._received[:number])
        del self._received[:number]
        return taken

    async def message(self) -> tuple[bytes, bytes]:
        """The type of the next message, and all of it."""
        head = await self.read(5)
        return head[:1], head + await self.read(struct.unpack("!i", head[1:])[0] - 4)

    async def startup(self) -> tuple[int, bytes]:
        """The first message of a client: its code, and what follows that."""
        [size] = struct.unpack("!i", await self.read(4))
        [code] = struct.unpack("!i", await self.read(4))
        return code, await self.read(size - 8)


class Session:
    """A connection to the server, and the client that has it just now."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.key = b""
        self.greeting = b""
        self.client: Client | None = None

    async def log_in(self, parameters: bytes) -> None:
        await self.wire.stream.send_all(struct.pack("!ii", len(parameters) + 8, _PROTOCOL) + parameters)
        while True:
            kind, message = await self.wire.message()
            if kind == b"E":
                raise RefusedError(message)
            if kind == b"K":
                self.key = message[5:]
            elif kind == b"Z":
                return
            else:
                self.greeting += message


class Client:
    """A connection from a client, and how many answers it still waits for."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.key = secrets.token_bytes(8)
        self.session: Session | None = None
        self.unanswered = 0
        self.scope = trio.CancelScope()


class Database:
    """The sessions of one user in one database."""

    def __init__(self, most: int) -> None:
        self.sessions = 0
        self.idle: deque[Session] = deque()
        self.places = trio.Semaphore(most)


class Pooler:
    """All of it. `serve` takes one client."""

    def __init__(self, server: str, most: int, nursery: trio.Nursery) -> None:
        self._server = server
        self._most = most
        self._nursery = nursery
        self._databases: dict[bytes, Database] = {}
        self._clients: dict[bytes, Client] = {}

    async def serve(self, stream: trio.SocketStream) -> None:
        wire = Wire(stream)
        client = Client(wire)
        with suppress(*_BROKEN, OSError), client.scope:
            code, rest = await wire.startup()
            while code in _UNENCRYPTED:
                await stream.send_all(b"N")
                code, rest = await wire.startup()
            try:
                await (self._cancel(rest) if code == _CANCEL else self._attend(client, _who(rest)))
            except RefusedError as refused:
                await stream.send_all(refused.args[0])
        await trio.aclose_forcefully(stream)

    async def _attend(self, client: Client, who: bytes) -> None:
        database = self._databases.setdefault(who, Database(self._most))
        session = await self._take(database, who)
        greeting = session.greeting
        self._give_back(database, session)
        key = b"K" + struct.pack("!i", 12) + client.key
        await client.wire.stream.send_all(greeting + key + b"Z\0\0\0\5I")
        self._clients[client.key] = client
        try:
            await self._forward(client, database, who)
        finally:
            del self._clients[client.key]
            if client.session is not None:
                # In the middle of something, which only the end of the session undoes.
                await trio.aclose_forcefully(client.session.wire.stream)

    async def _forward(self, client: Client, database: Database, who: bytes) -> None:
        while True:
            kind, message = await client.wire.message()
            if kind == b"X":
                return
            if client.session is None:
                client.session = await self._take(database, who)
                client.session.client = client
            client.unanswered += kind in _ENDS_A_PIECE
            await client.session.wire.stream.send_all(message)

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def _take(self, database: Database, who: bytes) -> Session:
        """The session that was idle for longest, or a new one as long as there are few."""
        await database.places.acquire()
        if database.sessions == self._most:
            return database.idle.popleft()
        database.sessions += 1
        try:
            session = Session(Wire(await self._connect()))
            await session.log_in(who)
        except BaseException:
            database.sessions -= 1
            database.places.release()
            raise
        self._nursery.start_soon(self._answer, database, session)
        return session

    def _give_back(self, database: Database, session: Session) -> None:
        session.client = None
        database.idle.append(session)
        database.places.release()

    async def _answer(self, database: Database, session: Session) -> None:
        """Pass on what the server says, to whom has the session: what it says unasked, nobody hears."""
        with suppress(*_BROKEN):
            while True:
                kind, message = await session.wire.message()
                client = session.client
                if client is None:
                    continue
                if kind == b"Z":
                    client.unanswered -= 1
                    if message[5:] == b"I" and not client.unanswered:
                        client.session = None
                        self._give_back(database, session)
                await client.wire.stream.send_all(message)
        # The server has ended it, or its client was not to be reached.
        await trio.aclose_forcefully(session.wire.stream)
        database.sessions -= 1
        if session in database.idle:
            database.idle.remove(session)
        elif session.client is not None:
            database.places.release()
            with suppress(*_BROKEN):
                await session.client.wire.stream.send_all(_CRASHED)
            session.client.scope.cancel()

    async def _connect(self) -> trio.SocketStream:
        if self._server.startswith("/"):
            return await trio.open_unix_socket(self._server)
        host, _, port = self._server.rpartition(":")
        return await trio.open_tcp_stream(host, int(port))

    async def _cancel(self, key: bytes) -> None:
        client = self._clients.get(key)
        if client is not None and client.session is not None:
            async with await self._connect() as stream:
                # By now it may be done, and its session somebody else's, whom this is not meant for.
                if client.session is not None:
                    await stream.send_all(struct.pack("!ii", 16, _CANCEL) + client.session.key)
                    await stream.receive_some(1)  # which tells that the server has done it


def _who(parameters: bytes) -> bytes:
    """User and database, which the server is told; not what else a client wants for its session."""
    parts = parameters.split(b"\0")
    given = dict(zip(parts[::2], parts[1::2], strict=False))
    named = {name: given[name] for name in (b"user", b"database") if name in given}
    return b"".join(name + b"\0" + value + b"\0" for name, value in named.items()) + b"\0"


async def _run(server: str, socket: str, most: int) -> None:
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(socket)
    listening.listen(1_000)
    async with trio.open_nursery() as nursery:
        pooler = Pooler(server, most, nursery)
        await trio.serve_listeners(pooler.serve, [trio.SocketListener(listening)])


if __name__ == "__main__":
    trio.run(_run, sys.argv[1], sys.argv[2], int(sys.argv[3]))
