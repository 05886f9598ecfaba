"""Connecting to the first address of a host that answers: "happy eyeballs", RFC 8305, with a few sockets at once."""

from __future__ import annotations

import errno
import math
import socket
from collections import deque
from contextlib import suppress
from itertools import zip_longest
from typing import Final, Protocol

import trio

from requeuest_trio._http.net.resolver import Address
from requeuest_trio._http.net.shortages import OutOfResources, is_shortage, lacks_ports
from requeuest_trio._model.groups import raise_bare

__all__ = ["ExtraSockets", "first_connected"]

_ATTEMPT_DELAY: Final = 0.25  # RFC 8305 section 5: how long one address may take before the next is tried beside it
_AT_ONCE: Final = 3
_LONGEST: Final = 10.0
"""Seconds for one address while others wait, however much time there is."""


class ExtraSockets(Protocol):
    """Asked for each socket beside the first, which is always admitted."""

    def acquire(self) -> bool:
        """Whether one more may be opened now."""
        ...

    def release(self) -> None:
        """One of them is closed."""
        ...


async def first_connected(addresses: list[Address], extra: ExtraSockets) -> socket.socket:
    """A connected socket, to the first of the addresses that answers.

    Raises `OSError`; `OutOfResources` if this machine lacks something without which an address could not be tried.
    Cancelled: nothing is left open.
    """
    if len(addresses) == 1:
        [address] = addresses
        return await _connected(_socket_for(address), address)
    return await _Race(_interleaved(addresses), extra).run()


class _Race:
    """The addresses of one host, each with its share of the time.

    The next address is tried as soon as the last one has failed, or is late. If as many are being tried as there may
    be at once, the one that has been for longest is given up for it, once it has had its share of the time: of what is
    left until the deadline, half is for connecting.
    """

    def __init__(self, addresses: list[Address], extra: ExtraSockets) -> None:
        self._waiting = deque(addresses)
        self._extra = extra
        self._running: dict[trio.CancelScope, float] = {}
        """When to give each up if others wait, the oldest first."""
        self._borrowed = 0
        self._winner: socket.socket | None = None
        self._errors: list[OSError] = []
        self._has_ended = trio.Event()
        now, deadline = trio.current_time(), trio.current_effective_deadline()
        self._ends_at = math.inf if deadline == math.inf else now + (deadline - now) / 2

    async def run(self) -> socket.socket:
        try:
            async with trio.open_nursery() as nursery:
                while self._waiting:
                    if not self._running or self._may_open_another():
                        await self._start(nursery)
                    else:
                        await self._wait_for_room()
        except BaseException as error:
            if self._winner is not None:
                self._winner.close()
            if isinstance(error, BaseExceptionGroup):
                raise_bare(error)
            raise
        if self._winner is None:
            text = "; ".join(dict.fromkeys(map(str, self._errors)))
            if any(map(is_shortage, self._errors)):
                raise OutOfResources(text) from self._errors[0]
            raise OSError(text) from self._errors[0]
        return self._winner

    def _may_open_another(self) -> bool:
        if len(self._running) == _AT_ONCE or not self._extra.acquire():
            return False
        self._borrowed += 1
        return True

    async def _start(self, nursery: trio.Nursery) -> None:
        address = self._waiting.popleft()
        try:
            sock = _socket_for(address)
        except OSError as error:
            self._settle()
            if is_shortage(error) and self._running:
                # It may be tried when another has ended.
                self._waiting.appendleft(address)
                await self._wait_for_room()
            else:
                self._errors.append(error)
            return
        scope = trio.CancelScope()
        self._running[scope] = self._time_for_one()
        nursery.start_soon(self._try, scope, sock, address, nursery.cancel_scope)
        await self._wait_for_end(trio.current_time() + _ATTEMPT_DELAY)

    def _time_for_one(self) -> float:
        now, rounds = trio.current_time(), 1 + len(self._waiting) / _AT_ONCE
        return now + max(_ATTEMPT_DELAY, min(_LONGEST, (self._ends_at - now) / rounds))

    async def _wait_for_room(self) -> None:
        """Until one has ended; if need be, because its time is over."""
        oldest, ends_at = next(iter(self._running.items()))
        if not await self._wait_for_end(ends_at):
            oldest.cancel()
            await self._wait_for_end(math.inf)

    async def _wait_for_end(self, latest: float) -> bool:
        """Wait until one more has ended. Returns whether it has, in time."""
        has_ended = self._has_ended
        with trio.move_on_at(latest):
            await has_ended.wait()
        return has_ended.is_set()

    async def _try(
        self, scope: trio.CancelScope, sock: socket.socket, address: Address, whole: trio.CancelScope
    ) -> None:
        try:
            with scope:
                connected = await _connected(sock, address)
                if self._winner is None:
                    self._winner = connected
                else:
                    connected.close()
                whole.cancel()
        except OSError as error:
            self._errors.append(error)
        finally:
            if scope.cancelled_caught:
                self._errors.append(TimeoutError("an address did not answer in its share of the time"))
            del self._running[scope]
            self._settle()
            self._has_ended.set()
            self._has_ended = trio.Event()

    def _settle(self) -> None:
        """Release what is no longer needed: the first socket needs no asking."""
        needed = max(0, len(self._running) + (self._winner is not None) - 1)
        while self._borrowed > needed:
            self._borrowed -= 1
            self._extra.release()


def _interleaved(addresses: list[Address]) -> list[Address]:
    """The families in turn, beginning with that of the first address (RFC 8305 section 4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    second = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for pair in zip_longest(first, second) for address in pair if address is not None]


def _socket_for(address: Address) -> socket.socket:
    sock = socket.socket(address[0], socket.SOCK_STREAM)
    try:
        # Requests are sent whole, so nothing is gained by waiting for more of them.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, address: Address) -> None:
    try:
        await trio.socket.from_stdlib_socket(sock).connect(address[1])
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL and not lacks_ports(*address):
            raise OSError(errno.ENETUNREACH, f"no address here from which to connect: {error.strerror}") from None
        raise


async def _connected(sock: socket.socket, address: Address) -> socket.socket:
    """The socket, connected to an address. It is this function's until then."""
    try:
        await _connect(sock, address)
    except BaseException:
        with suppress(OSError):
            sock.close()
        raise
    return sock
