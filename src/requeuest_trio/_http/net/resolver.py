"""Looking names up, in threads: what one host is asked for, and who takes the answer."""

from __future__ import annotations

import errno
import socket
from copy import copy
from time import monotonic
from typing import Final, cast
from weakref import WeakValueDictionary

import trio

from requeuest_trio._http.net.lookup_threads import LookupThreads
from requeuest_trio._http.net.shortages import OutOfResources, lacks_descriptors

__all__ = ["Address", "Resolver"]

Address = tuple[socket.AddressFamily, tuple[str | int | bytes, ...]]
"""What kind of socket to make, and what to connect it to."""

_MOST_PER_HOST: Final = 2
"""Of one share."""


class Resolver:
    """The name lookups of one transport.

    A lookup can't be interrupted. One whose task is cancelled goes on in its thread until it ends; so
    what no task waits for any more still counts.
    """

    def __init__(self) -> None:
        self._threads = LookupThreads()
        self._of_hosts: WeakValueDictionary[tuple[str, str], _Lookups] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<Resolver: {self._threads}>"

    async def addresses(self, host: str, port: int, share: str | None = None) -> list[Address]:
        """The addresses of a host, in the order in which the system prefers them.

        Args:
            host: a name, or an address as text.
            port: what to put into the addresses.
            share: on whose account. None: on that of the name's domain.

        Raises `OSError` if there are none, `OutOfResources` if this machine could not ask, and `UnicodeError` for what
        can't be a name. Cancelled: the lookup goes on in its thread.
        """
        try:
            # What is an address already needs no thread: this asks no resolver.
            found = _addresses(host, socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await self._of_host(host, _domain(host) if share is None else f"share {share}").answer()
        return [(family, (address[0], port, *address[2:])) for family, address in found]

    def note_shortage(self) -> None:
        """Others have found that this machine lacks something."""
        self._threads.short_at = monotonic()

    def _of_host(self, host: str, share: str) -> _Lookups:
        lookups = self._of_hosts.get((share, host))
        if lookups is None:
            lookups = self._of_hosts[share, host] = _Lookups(host, share, self._threads)
        return lookups


def _domain(host: str) -> str:
    """The last two labels of a name: most often, one owner's, and one set of name servers."""
    return ".".join(host.lower().removesuffix(".").rsplit(".", 2)[-2:])


class _Lookups:
    """Those of one host: a few at once, and whoever comes meanwhile takes the first answer to any of them.

    Otherwise a hundred attempts that begin together would wait for fifty lookups, one after the other.
    """

    def __init__(self, host: str, share: str, threads: LookupThreads) -> None:
        self.host = host
        self.share = share
        self.domain = _domain(host)
        self.threads = threads
        self.running = 0
        self._last: _Lookup
        """That has ended."""
        self._has_ended = trio.Event()

    async def answer(self) -> list[Address]:
        """The addresses, without a port. Raises what `Resolver.addresses` does."""
        while self.running == _MOST_PER_HOST:
            await self._has_ended.wait()
            if self._last.error is not None:
                raise copy(self._last.error)
            if self._last.addresses is not None:
                return self._last.addresses
            # It was given up before it had begun, so another may begin.
        lookup = _Lookup(self)
        # Trio asks no more of a limiter than to be like one.
        limiter = cast("trio.CapacityLimiter", lookup)
        try:
            return await trio.to_thread.run_sync(lookup.ask, limiter=limiter, abandon_on_cancel=True)
        except RuntimeError as error:
            if lookup.has_begun:
                raise
            raise OutOfResources(f"no thread for a name lookup: {error}") from error

    def ended(self, lookup: _Lookup) -> None:
        """Let those who wait have its answer, or begin a lookup of their own."""
        self.running -= 1
        self._last = lookup
        self._has_ended.set()
        self._has_ended = trio.Event()


class _Lookup:
    """One lookup. To Trio it is a limiter, because that is told when a thread ends, also if no task waits for it."""

    def __init__(self, lookups: _Lookups) -> None:
        self._lookups = lookups
        self.has_begun = False
        self.addresses: list[Address] | None = None
        self.error: Exception | None = None

    def ask(self) -> list[Address]:
        """Look the name up, in a thread."""
        self.has_begun = True
        try:
            self.addresses = self._ask()
        except Exception as error:
            self.error = error
            raise
        return self.addresses

    def _ask(self) -> list[Address]:
        # Without a descriptor for its files and sockets, the system's function says that there is no such name
        # (EAI_NONAME), or to try again. So it is looked before and after, whether there are some; and what was asked
        # while others found none is not trusted either.
        lookups, began = self._lookups, monotonic()
        if lacks_descriptors():
            raise lookups.threads.short_of(errno.EMFILE)
        try:
            return _addresses(lookups.host)
        except socket.gaierror as error:
            if error.errno == socket.EAI_MEMORY:
                raise lookups.threads.short_of(errno.ENOMEM) from error
            if lookups.threads.short_at >= began or lacks_descriptors():
                raise lookups.threads.short_of(errno.EMFILE) from error
            raise

    async def acquire_on_behalf_of(self, _: object) -> None:
        lookups = self._lookups
        lookups.running += 1
        try:
            await lookups.threads.acquire(lookups.share, lookups.domain)
        except BaseException:
            lookups.ended(self)
            raise

    def release_on_behalf_of(self, _: object) -> None:
        lookups = self._lookups
        lookups.threads.release(lookups.share, lookups.domain)
        lookups.ended(self)


def _addresses(host: str, flags: int = 0) -> list[Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))
