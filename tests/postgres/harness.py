"""What these tests look at the world with: the server's own view, the k-th checkpoint, a proxy that can fail."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias, cast

import psycopg
import trio
from psycopg import pq

from requeuest_trio._postgres import TrioConnection
from tests.poolers import direct
from tests.servers import DEFAULTS_VARIABLE, PLAIN
from tests.waiting import until

Conn: TypeAlias = TrioConnection[tuple[Any, ...]]

IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS
INERROR = pq.TransactionStatus.INERROR
ACTIVE = pq.TransactionStatus.ACTIVE


async def connect(dsn: str, *, autocommit: bool = True) -> Conn:
    connection = await TrioConnection.connect(direct(dsn), autocommit=autocommit)
    if os.environ.get(DEFAULTS_VARIABLE):
        await connection.execute(PLAIN)
        await connection.commit()
    return connection


async def value(conn: Conn, query: str, *params: object) -> Any:
    """The first column of the first row."""
    row = await (await conn.execute(query.encode(), params or None)).fetchone()
    assert row is not None
    return row[0]


def stream(cursor: psycopg.AsyncCursor[Any], query: str, *, size: int = 1) -> AsyncGenerator[tuple[Any, ...]]:
    """What `stream()` really returns: psycopg's annotation does not say that it can be closed."""
    return cast("AsyncGenerator[tuple[Any, ...]]", cursor.stream(query.encode(), size=size))


async def is_running(observer: Conn, pid: int) -> bool:
    """Whether the server process works on a statement, according to the server."""
    state = await value(observer, "select count(*) from pg_stat_activity where pid = %s and state = 'active'", pid)
    return bool(state)


async def is_alive(observer: Conn, pid: int) -> bool:
    return bool(await value(observer, "select count(*) from pg_stat_activity where pid = %s", pid))


async def until_running(observer: Conn, pid: int, query: str = "") -> None:
    async def running() -> bool:
        sql = "select count(*) from pg_stat_activity where pid = %s and state = 'active' and position(%s in query) > 0"
        return bool(await value(observer, sql, pid, query))

    await until(running)


async def until_waiting_for_a_lock(observer: Conn, pid: int) -> None:
    async def waiting() -> bool:
        return bool(await value(observer, "select count(*) from pg_locks where pid = %s and not granted", pid))

    await until(waiting)


async def until_at_rest(observer: Conn, pid: int) -> None:
    """Wait until the server process does nothing any more."""

    async def resting() -> bool:
        return not await is_running(observer, pid)

    await until(resting)


async def until_gone(observer: Conn, pid: int) -> None:
    async def gone() -> bool:
        return not await is_alive(observer, pid)

    await until(gone)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208


class AtCheckpoint(trio.abc.Instrument):
    """Does something when the current task has given way for the k-th time, counted from 1."""

    def __init__(self, k: int, action: Callable[[], object], *, again: bool = False) -> None:
        self._task = trio.lowlevel.current_task()
        self._k = k
        self._action = action
        self._again = again
        self.reached = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.reached += 1
            if self.reached == self._k or (self._again and self.reached > self._k):
                self._action()

    def __enter__(self) -> AtCheckpoint:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *exc: object) -> None:
        trio.lowlevel.remove_instrument(self)


async def assert_usable(conn: Conn) -> None:
    """The connection is at rest and answers."""
    assert not conn.closed
    assert conn.info.transaction_status == IDLE
    assert not conn.lock.locked()
    assert await value(conn, "select 1") == 1
    if not conn.autocommit:
        await conn.rollback()


async def terminate(observer: Conn, pid: int) -> None:
    await observer.execute("select pg_terminate_backend(%s)", [pid])
    await until_gone(observer, pid)
