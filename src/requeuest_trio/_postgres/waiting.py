"""
Waiting for sockets: where psycopg's protocol generators meet Trio.

psycopg keeps its protocol in generators that never wait themselves. They yield what they would wait for (`Wait`) and
are sent what has become ready (`Ready`); sent nothing, they yield the same again. All the waiting of this library's
database connections is done here, and nowhere else.
"""

from __future__ import annotations

import select
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import trio
from psycopg.waiting import Ready, Wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from psycopg.abc import PQGen, PQGenConn
    from psycopg.pq.abc import PGconn

__all__ = ("SocketWaiter", "run_connecting")

T = TypeVar("T")

# Plain integers: psycopg's compiled generators yield them, and comparing them is cheaper than comparing enum members.
_WAIT_R, _WAIT_W = int(Wait.R), int(Wait.W)
_READY_NONE, _READY_R, _READY_W = int(Ready.NONE), int(Ready.R), int(Ready.W)

# How long a task may go on finding its socket ready, in seconds, before the other tasks get their turn.
_TURN = 0.001


class SocketWaiter:
    """
    Runs generators over one connected socket.

    Trio tells a waiting task of a close (`trio.lowlevel.notify_closing`) and of a cancellation, so nothing has to look
    at the socket at intervals, as psycopg's own wait functions must.
    """

    __slots__ = ("_pgconn", "_poll", "_turn_ends", "waited")

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn = pgconn
        self._poll = select.poll()
        self._turn_ends = 0.0
        self.waited = False
        """Whether the last `run` has let other tasks run."""

    def readable(self) -> bool:
        """Whether the server has sent something, or has closed the connection."""
        return bool(self._ready(self._pgconn.socket, _WAIT_R))

    def _ready(self, fd: int, want: int) -> int:
        """Return which of the wanted directions are ready now, without waiting."""
        mask = (select.POLLIN if want & _WAIT_R else 0) | (select.POLLOUT if want & _WAIT_W else 0)
        self._poll.register(fd, mask)
        state = _READY_NONE
        for _, events in self._poll.poll(0):
            # An error or a hang-up counts as ready: the generator will find out when it reads or writes.
            if events & ~select.POLLOUT and want & _WAIT_R:
                state |= _READY_R
            if events & ~select.POLLIN and want & _WAIT_W:
                state |= _READY_W
        return state

    async def run(
        self, gen: PQGen[T], *, interval: float | None = None, try_first: bool = False, has_begun: bool = False
    ) -> T:
        """
        Run a generator to its end and return its value.

        Args:
          gen: new, or left over from an interrupted run.
          interval: resume the generator with nothing after so many seconds of waiting.
          try_first: look whether the socket is readable before waiting for it. Where writing is wanted this is always
            done, since a socket is nearly always writable.
          has_begun: whether it is left over.

        Raises:
          psycopg.OperationalError: the connection is closed, or was closed by another task meanwhile.

        Cancellation: it may be cancelled wherever it waits, and every millisecond while it does not have to. The
        generator then stands where it stood; another run takes it up again.
        """
        self.waited = False
        fd = self._pgconn.socket  # libpq closes it on an error, and then its number may be somebody else's
        try:
            # What has begun waits for a number: psycopg's compiled generators raise TypeError for None.
            want: int = gen.send(_READY_NONE) if has_begun else next(gen)
            while True:
                if want == _WAIT_R and not try_first:
                    ready = await self._wait(fd, want, interval)
                else:
                    ready = self._ready(fd, want) or await self._wait(fd, want, interval)
                want = gen.send(ready)
                if monotonic() >= self._turn_ends:
                    await trio.lowlevel.checkpoint()
                    self._turn_over()
        except StopIteration as end:
            value: T = end.value
            return value

    async def end_turn(self, *, at_once: bool) -> None:
        """Let other tasks run if the last `run` did not: now, or only when this one's turn is over."""
        if not self.waited and (at_once or monotonic() >= self._turn_ends):
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._turn_over()

    def _turn_over(self) -> None:
        self.waited = True
        self._turn_ends = monotonic() + _TURN

    async def _wait(self, fd: int, want: int, interval: float | None) -> int:
        if interval is None:
            ready = await _wait_for(fd, want)
        else:
            ready = _READY_NONE
            with trio.move_on_after(interval):
                ready = await _wait_for(fd, want)
        self._turn_over()
        return ready


async def run_connecting(gen: PQGenConn[T]) -> T:
    """
    Run a generator that opens a connection, and so may change its socket while it runs.

    Cancellation: the generator is closed, and what it had opened is closed with it.
    """
    try:
        fd, want = next(gen)
        while True:
            fd, want = gen.send(await _wait_for(fd, want))
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        gen.close()


async def _wait_for(fd: int, want: int) -> int:
    try:
        if want == _WAIT_R:
            await trio.lowlevel.wait_readable(fd)
            return _READY_R
        if want == _WAIT_W:
            await trio.lowlevel.wait_writable(fd)
            return _READY_W
        return await _wait_for_either(fd)
    except (trio.ClosedResourceError, OSError) as error:
        raise psycopg.OperationalError("the connection was closed while an operation was waiting for it") from error


async def _wait_for_either(fd: int) -> int:
    """Wait until reading or writing is possible. Only a full send buffer leads here, so a nursery is not too dear."""
    ready = _READY_NONE
    failure: Exception | None = None

    async def watch(wait: Callable[[int], Awaitable[Any]], flag: int) -> None:
        nonlocal ready, failure
        try:
            await wait(fd)
        except (trio.ClosedResourceError, OSError) as error:  # kept out of an exception group
            failure = error
        ready |= flag
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, trio.lowlevel.wait_readable, _READY_R)
            nursery.start_soon(watch, trio.lowlevel.wait_writable, _READY_W)
    except BaseExceptionGroup as group:  # of cancellations and perhaps a Ctrl-C, which callers expect bare
        others = group.split(trio.Cancelled)[1]
        raise (others or group).exceptions[0] from None
    if failure is not None:
        raise failure
    return ready
