"""Connections without a network, to fill a pool with."""

from requeuest_trio._http.net.connection import Connection
from requeuest_trio._http.net.pool import Connections
from requeuest_trio._model.origin import Origin


class NoNetwork:
    """A stream of which only its end matters."""

    was_cut = False
    took = 0.0

    def __init__(self) -> None:
        self.is_closed = False
        self.has_ended = False
        self.looked_at = 0

    @property
    def unsent(self) -> memoryview:
        raise AssertionError

    def start_sending(self, data: bytes) -> bool:
        raise AssertionError(data)

    async def finish_sending(self) -> None:
        raise AssertionError

    async def receive(self, *, while_sending: bool = False) -> bytes:
        raise AssertionError

    def is_readable(self) -> bool:
        self.looked_at += 1
        return self.has_ended

    def close(self) -> None:
        self.is_closed = True


def origin(name: str) -> Origin:
    return Origin("http", name, 80)


def opened(pool: Connections, name: str) -> Connection:
    """What a caller whom the pool has admitted does."""
    connection = Connection(origin(name), NoNetwork())
    pool.opened(connection)
    return connection


def served(connection: Connection, fields: bytes = b"") -> Connection:
    """As it is after one whole answer."""
    connection.answer.expect(is_head=False)
    connection.answer.feed(b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 0\r\n\r\n")
    return connection


def stream_of(connection: Connection) -> NoNetwork:
    assert isinstance(connection._stream, NoNetwork)
    return connection._stream


def assert_consistent(pool: Connections) -> None:
    """What holds between any two steps: all is counted, no limit is passed, and nobody waits without need."""
    entries = pool._origins
    idle = [connection for entry in entries.values() for connection in entry.idle]
    assert set(idle) == set(pool._idle)
    assert len(idle) == len(pool._idle)
    assert pool._open == sum(entry.open for entry in entries.values())
    assert pool._open <= pool._most
    assert pool._in_use.isdisjoint(idle)
    assert len(pool._in_use) + len(idle) <= pool._open
    assert not any(connection.is_closed for connection in idle)
    for name, entry in entries.items():
        assert entry.open or entry.waiting
        assert len(entry.idle) <= entry.open <= pool._most_per_origin
        has_room = entry.open < pool._most_per_origin
        assert (name in pool._starved) == bool(entry.waiting and has_room)
        if entry.waiting:
            assert not entry.idle
            assert not has_room or (pool._open == pool._most and not idle)


def pool_of(most: int = 10, per_origin: int = 10, keepalive: float = 4.0) -> Connections:
    """A pool with small limits."""
    return Connections(most=most, most_per_origin=per_origin, keepalive=keepalive)


async def taken(pool: Connections, name: str) -> Connection:
    """A connection in use, opened if none was there."""
    connection = await pool.acquire(origin(name))
    assert_consistent(pool)
    return opened(pool, name) if connection is None else connection


def released(pool: Connections, connection: Connection, fields: bytes = b"") -> None:
    """After one whole answer."""
    pool.release(served(connection, fields))
    assert_consistent(pool)
