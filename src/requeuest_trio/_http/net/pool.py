"""Connections kept for the next request: so many for each origin and in all, shared out in turn.

Nothing here is searched: acquiring a connection and releasing it cost the same with one or ten thousand of them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

import trio

from requeuest_trio._http.net.connection import Connection
from requeuest_trio._model.ecosystem import ConnectError
from requeuest_trio._model.origin import Origin

__all__ = ["ConnectionStatistics", "Connections"]

_EXTRA_PART: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatistics:
    """A snapshot of a transport's connections."""

    open: int
    """Being used, being opened, or idle. While one is being opened, each socket counts."""
    idle: int
    waiting: int
    """Requests that wait because a limit is reached."""


class _Waiter:
    """A request that waits until the limits admit it."""

    __slots__ = ("connection", "is_admitted", "woken")

    def __init__(self) -> None:
        self.woken = trio.Event()
        self.is_admitted = False
        self.connection: Connection | None = None
        """One that can be used again, if there is one; None: a new one may be opened."""


@dataclass(slots=True)
class _OfOrigin:
    """The connections of one origin. Forgotten when there are none."""

    open: int = 0
    extra: int = 0
    """Of these: further sockets, while a connection is being opened that has one already."""
    idle: deque[Connection] = field(default_factory=deque)
    """The last used at the right, which is where they are taken from: so the others get to expire."""
    waiting: OrderedDict[_Waiter, None] = field(default_factory=OrderedDict)


class Connections:
    """Who may open a connection, and the idle ones."""

    def __init__(self, *, most: int, most_per_origin: int, keepalive: float) -> None:
        self._most = most
        self._most_per_origin = most_per_origin
        self.keepalive = keepalive
        self._origins: dict[Origin, _OfOrigin] = {}
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        """All that are idle, the longest at the left."""
        self._starved: OrderedDict[Origin, None] = OrderedDict()
        """Origins with requests that wait only because there are `most` connections in all: they take turns."""
        self._open = 0
        self._extra = 0
        self._in_use: set[Connection] = set()
        self._look_at = 0.0
        self._is_closed = False

    def statistics(self) -> ConnectionStatistics:
        """A snapshot."""
        waiting = sum(len(of_origin.waiting) for of_origin in self._origins.values())
        return ConnectionStatistics(open=self._open, idle=len(self._idle), waiting=waiting)

    def acquire_idle(self, origin: Origin) -> Connection | None:
        """An idle connection that no other request waits for, as `acquire` gives it; or None."""
        now = trio.current_time()
        self._close_expired_now_and_then(now)
        of_origin = self._origins.get(origin)
        if of_origin is None or of_origin.waiting or self._is_closed:
            return None
        return self._find_idle(of_origin, now)

    async def acquire(self, origin: Origin, *, fresh: bool = False) -> Connection | None:
        """Wait until the limits admit a request. Return an idle connection, or None: then the caller opens one.

        The caller ends with `release`; after None, with `opened` and then `release`, or with `release_unopened`. With
        `fresh` it is always None. Raises `ConnectError` once this is closed. Cancelled: nothing was acquired.
        """
        self._require_open()
        now = trio.current_time()
        self._close_expired_now_and_then(now)
        of_origin = self._origins.get(origin)
        if of_origin is None:
            of_origin = self._origins[origin] = _OfOrigin()
        if not of_origin.waiting:
            if (connection := self._find_idle(of_origin, now)) is not None:
                if not fresh:
                    return connection
                self._empty(connection)
                return None
            if of_origin.open < self._most_per_origin and self._make_room():
                self._occupy(origin, of_origin)
                return None
        return await self._wait_for_admission(origin, of_origin, fresh)

    def opened(self, connection: Connection) -> None:
        """The caller has opened the connection that `acquire` admitted."""
        self._in_use.add(connection)
        if self._is_closed:
            connection.close()

    def release(self, connection: Connection) -> None:
        """Keep a connection for the next request, or close it if it can't be used again."""
        self._in_use.discard(connection)
        if self._is_closed or not connection.is_reusable:
            self._drop(connection)
            return
        of_origin = self._origins[connection.origin]
        connection.has_served = True
        connection.expires_at = trio.current_time() + min(self.keepalive, connection.answer.head.promised)
        if of_origin.waiting and not self._is_turn_of_others(of_origin):
            self._hand_over(connection.origin, of_origin, connection)
        elif self._starved:
            # Other origins wait for room, and this connection is of no use to them.
            self._drop(connection)
        else:
            of_origin.idle.append(connection)
            self._idle[connection] = None

    def acquire_extra(self, origin: Origin) -> bool:
        """Whether a caller who is opening a connection may have one more socket, which it ends with `release_extra`.

        These are for speed only. So they are what others leave over, a part of all at most; and a part of these is for
        one origin, so that it leaves some to others.
        """
        of_origin = self._origins[origin]
        most = max(1, self._most // _EXTRA_PART)
        if (
            self._is_closed
            or of_origin.waiting
            or self._starved
            or self._open >= self._most
            or of_origin.open >= self._most_per_origin
            or self._extra >= most
            or of_origin.extra >= max(1, most // _EXTRA_PART)
        ):
            return False
        self._occupy(origin, of_origin)
        of_origin.extra += 1
        self._extra += 1
        return True

    def release_extra(self, origin: Origin) -> None:
        """The extra socket is closed."""
        self._origins[origin].extra -= 1
        self._extra -= 1
        self.release_unopened(origin)

    def release_unopened(self, origin: Origin) -> None:
        """The connection that `acquire` admitted could not be opened."""
        self._vacate(origin)
        self._serve(origin)

    def close_idle(self) -> None:
        """Close all connections that are not in use: this machine needs what they hold."""
        while self._idle:
            self._close_longest_idle()

    def close(self) -> None:
        """Close all connections, also those in use, whose tasks are told, and turn away the requests that wait."""
        self._is_closed = True
        for connection in self._in_use:
            connection.close()
        self.close_idle()
        self._starved.clear()
        for origin, of_origin in list(self._origins.items()):
            for waiter in of_origin.waiting:
                waiter.woken.set()
            of_origin.waiting.clear()
            self._forget_if_empty(origin, of_origin)

    def close_expired(self) -> None:
        """Close what was idle for too long.

        One that the other side wants to see closed earlier may stay a little longer, behind others; it is not used.
        """
        now = trio.current_time()
        while self._idle and next(iter(self._idle)).expires_at <= now:
            self._close_longest_idle()

    # --- parts --------------------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._is_closed:
            raise ConnectError("the transport is closed")

    def _close_expired_now_and_then(self, now: float) -> None:
        if now >= self._look_at:
            self._look_at = now + self.keepalive
            self.close_expired()

    def _find_idle(self, of_origin: _OfOrigin, now: float) -> Connection | None:
        """The idle connection that was used last, if its time is not over. Whether it works is seen as it is used."""
        while of_origin.idle:
            connection = of_origin.idle.pop()
            del self._idle[connection]
            if connection.expires_at > now:
                self._in_use.add(connection)
                return connection
            connection.close()
            of_origin.open -= 1
            self._open -= 1
        return None

    def _make_room(self) -> bool:
        """Whether there is room within the limit for all; made, if need be, by closing what was idle longest."""
        if self._open < self._most:
            return True
        if not self._idle:
            return False
        self._close_longest_idle()
        return True

    def _close_longest_idle(self) -> None:
        connection, _ = self._idle.popitem(last=False)
        self._origins[connection.origin].idle.popleft()
        connection.close()
        self._vacate(connection.origin)

    async def _wait_for_admission(self, origin: Origin, of_origin: _OfOrigin, fresh: bool) -> Connection | None:
        waiter = _Waiter()
        of_origin.waiting[waiter] = None
        self._mark_if_starved(origin, of_origin)
        try:
            await waiter.woken.wait()
        except BaseException:
            if waiter.is_admitted:
                # It was admitted in the same moment.
                self._put_back(origin, waiter.connection)
            else:
                self._stop_waiting(origin, of_origin, waiter)
            raise
        if self._is_closed:
            if waiter.is_admitted:
                self._put_back(origin, waiter.connection)
            self._require_open()
        if fresh and waiter.connection is not None:
            self._empty(waiter.connection)
            return None
        return waiter.connection

    def _empty(self, connection: Connection) -> None:
        """Close a connection, so that a new one may be opened instead."""
        self._in_use.discard(connection)
        connection.close()

    def _put_back(self, origin: Origin, connection: Connection | None) -> None:
        if connection is None:
            self.release_unopened(origin)
        else:
            self.release(connection)

    def _stop_waiting(self, origin: Origin, of_origin: _OfOrigin, waiter: _Waiter) -> None:
        of_origin.waiting.pop(waiter, None)
        if not of_origin.waiting:
            self._starved.pop(origin, None)
            self._forget_if_empty(origin, of_origin)

    def _is_turn_of_others(self, of_origin: _OfOrigin) -> bool:
        """Whether the first of the starved origins has a better claim to room than this one, which waits too.

        That costs a connection that could be used again: so only until all have about as many as the others.
        """
        if not self._starved:
            return False
        first = next(iter(self._starved))
        theirs = self._origins[first].open
        is_theirs = theirs == 0 or theirs + 1 < of_origin.open
        if not is_theirs:
            self._starved.move_to_end(first)
        return is_theirs

    def _hand_over(self, origin: Origin, of_origin: _OfOrigin, connection: Connection | None) -> None:
        waiter, _ = of_origin.waiting.popitem(last=False)
        if not of_origin.waiting:
            self._starved.pop(origin, None)
        waiter.is_admitted = True
        waiter.connection = connection
        if connection is not None:
            self._in_use.add(connection)
        waiter.woken.set()

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self.release_unopened(connection.origin)

    def _occupy(self, origin: Origin, of_origin: _OfOrigin) -> None:
        # Making room may just have closed its last connection, and forgotten it.
        self._origins[origin] = of_origin
        of_origin.open += 1
        self._open += 1

    def _vacate(self, origin: Origin) -> None:
        of_origin = self._origins[origin]
        of_origin.open -= 1
        self._open -= 1
        self._forget_if_empty(origin, of_origin)

    def _forget_if_empty(self, origin: Origin, of_origin: _OfOrigin) -> None:
        if not of_origin.open and not of_origin.waiting:
            self._origins.pop(origin, None)

    def _serve(self, origin: Origin) -> None:
        """Admit a request to the room that a connection of this origin has left."""
        of_origin = self._origins.get(origin)
        if of_origin is not None:
            self._mark_if_starved(origin, of_origin)
        if self._starved and self._open < self._most:
            origin, _ = self._starved.popitem(last=False)
            of_origin = self._origins[origin]
            self._occupy(origin, of_origin)
            self._hand_over(origin, of_origin, None)
            self._mark_if_starved(origin, of_origin)

    def _mark_if_starved(self, origin: Origin, of_origin: _OfOrigin) -> None:
        """Put an origin at the end of the line if only the limit for all holds it up."""
        if of_origin.waiting and of_origin.open < self._most_per_origin:
            self._starved[origin] = None
