"""Looking up names in threads of their own, shared out so that one dead resolver can't hold up other receivers."""

from __future__ import annotations

import socket
from copy import copy
from typing import cast
from weakref import WeakValueDictionary

import trio

__all__ = ["Address", "Resolver"]

Address = tuple[socket.AddressFamily, tuple[str | int | bytes, ...]]
"""What kind of socket to make, and what to connect it to."""

# So many dead names as the one holds the other have to be asked for at once before healthy ones wait. A resolver may
# take longer to give up than an attempt, so it is more than there may be attempts; a thread that waits costs little.
_MAX_LOOKUPS = 1_000
_MAX_LOOKUPS_PER_HOST = 2


class Resolver:
    """The name lookups of one transport.

    A lookup can't be interrupted. One whose task is cancelled goes on in its thread, and keeps its place until it
    ends; so what nobody waits for any more still counts.
    """

    def __init__(self) -> None:
        self._all = trio.CapacityLimiter(_MAX_LOOKUPS)
        self._of_hosts: WeakValueDictionary[str, _Lookups] = WeakValueDictionary()

    async def addresses(self, host: str, port: int) -> list[Address]:
        """The addresses of a host, in the order in which the system prefers them.

        Raises `OSError` if there are none. Cancelled: nobody waits for the answer any more.
        """
        try:
            # What is an address already needs no thread: this asks nobody.
            found = _addresses(host, socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await self._of_host(host).answer()
        return [(family, (address[0], port, *address[2:])) for family, address in found]

    def _of_host(self, host: str) -> _Lookups:
        lookups = self._of_hosts.get(host)
        if lookups is None:
            lookups = self._of_hosts[host] = _Lookups(host, self._all)
        return lookups


class _Lookups:
    """Those of one host: a few at once, and whoever comes meanwhile takes the first answer to any of them.

    Otherwise a hundred attempts that begin together would wait for fifty lookups, one after the other.
    """

    def __init__(self, host: str, of_all: trio.CapacityLimiter) -> None:
        self.host = host
        self.of_all = of_all
        self.running = 0
        self._last: _Lookup
        """That has ended."""
        self._has_ended = trio.Event()

    async def answer(self) -> list[Address]:
        """The addresses, without a port. Raises `OSError`, or `UnicodeError` for what can't be a name."""
        while self.running == _MAX_LOOKUPS_PER_HOST:
            await self._has_ended.wait()
            if self._last.error is not None:
                raise copy(self._last.error)
            if self._last.addresses is not None:
                return self._last.addresses
            # It was given up before it had begun, so there is a place for another.
        lookup = _Lookup(self)
        # Trio asks no more of a limiter than to be like one.
        limiter = cast("trio.CapacityLimiter", lookup)
        return await trio.to_thread.run_sync(lookup.ask, limiter=limiter, abandon_on_cancel=True)

    def ended(self, lookup: _Lookup) -> None:
        """Let those who wait have its answer, or its place."""
        self.running -= 1
        self._last = lookup
        self._has_ended.set()
        self._has_ended = trio.Event()


class _Lookup:
    """One lookup. To Trio it is a limiter, because that is told when a thread ends, also if nobody waits for it."""

    def __init__(self, lookups: _Lookups) -> None:
        self._lookups = lookups
        self.addresses: list[Address] | None = None
        self.error: Exception | None = None

    def ask(self) -> list[Address]:
        """Look the name up, in a thread."""
        try:
            self.addresses = _addresses(self._lookups.host)
        except Exception as error:
            self.error = error
            raise
        return self.addresses

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        self._lookups.running += 1
        try:
            await self._lookups.of_all.acquire_on_behalf_of(borrower)
        except BaseException:
            self._lookups.ended(self)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self._lookups.of_all.release_on_behalf_of(borrower)
        self._lookups.ended(self)


def _addresses(host: str, flags: int = 0) -> list[Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))
