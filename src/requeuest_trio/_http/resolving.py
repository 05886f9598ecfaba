"""Looking up names in threads of their own, shared out so that one dead resolver can't hold up other receivers."""

from __future__ import annotations

import socket
from functools import partial
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
        self._of_hosts: WeakValueDictionary[str, trio.CapacityLimiter] = WeakValueDictionary()

    async def addresses(self, host: str, port: int) -> list[Address]:
        """The addresses of a host, in the order in which the system prefers them.

        Raises `OSError` if there are none. Cancelled: nobody waits for the answer any more.
        """
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        try:
            # What is an address already needs no thread: this asks nobody.
            found = look_up(flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            # Trio asks no more of a limiter than to be like one.
            limiter = cast("trio.CapacityLimiter", _Share(self._of_host(host), self._all))
            found = await trio.to_thread.run_sync(look_up, limiter=limiter, abandon_on_cancel=True)
        return list(dict.fromkeys((family, address) for family, _, _, _, address in found))

    def _of_host(self, host: str) -> trio.CapacityLimiter:
        limiter = self._of_hosts.get(host)
        if limiter is None:
            limiter = self._of_hosts[host] = trio.CapacityLimiter(_MAX_LOOKUPS_PER_HOST)
        return limiter


class _Share:
    """A place among the lookups of one host, and then one among all."""

    def __init__(self, of_host: trio.CapacityLimiter, of_all: trio.CapacityLimiter) -> None:
        self._of_host = of_host
        self._of_all = of_all

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._of_host.acquire_on_behalf_of(borrower)
        try:
            await self._of_all.acquire_on_behalf_of(borrower)
        except BaseException:
            self._of_host.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self._of_all.release_on_behalf_of(borrower)
        self._of_host.release_on_behalf_of(borrower)
