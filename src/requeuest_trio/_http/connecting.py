"""From an origin to a stream: look the name up, connect to the first address that answers, shake hands."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import zip_longest
from typing import Final

import trio
import truststore

from requeuest_trio._http.message import Origin
from requeuest_trio._http.resolving import Address, Resolver
from requeuest_trio._http.streams import PlainStream, Stream, open_tls
from requeuest_trio._model.ecosystem import ConnectError
from requeuest_trio._model.groups import raise_bare
from requeuest_trio._model.job import Reached

__all__ = ["Connector", "OnStep", "default_context"]

OnStep = Callable[[Reached], Awaitable[None]]
"""Told before each step that it begins."""

_ATTEMPT_DELAY: Final = 0.25  # RFC 8305 section 5: how long one address may take before the next is tried beside it


def default_context() -> ssl.SSLContext:
    """TLS 1.2 or newer, with the certificates that the operating system trusts. Reading them takes its time."""
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if sys.platform in {"darwin", "win32"}:
        return context
    # Elsewhere truststore finds the right file, but reads it again for each connection: a tenth of a second in which
    # nothing else would run. It hands what it has read to the context within.
    return context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost").context


class Connector:
    """Opens connections; without a context for https, with `default_context`."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._making_context = trio.CapacityLimiter(1)
        self._resolver = Resolver()

    async def connect(self, origin: Origin, on_step: OnStep) -> Stream:
        """Open a connection, with TLS if the origin is https.

        Raises `ConnectError`. Cancelled: nothing is left open.
        """
        await on_step(Reached.RESOLVE)
        try:
            addresses = await self._resolver.addresses(origin.host, origin.port)
            context = None if origin.scheme == "http" else await self._tls_context()
            await on_step(Reached.CONNECT)
            sock = await _connected(addresses)
            if context is None:
                return PlainStream(sock)
            try:
                await on_step(Reached.TLS)
            except BaseException:
                sock.close()
                raise
            return await open_tls(sock, context, origin.host)
        except UnicodeError as error:
            raise ConnectError("the host is no name that can be looked up") from error
        except ssl.SSLError as error:
            raise ConnectError(f"no TLS: {error}") from error
        except OSError as error:
            raise ConnectError(str(error) or type(error).__name__) from error

    async def _tls_context(self) -> ssl.SSLContext:
        while self._context is None:
            # It is kept also if nobody waits for it any more: the next attempt may be as impatient.
            await trio.to_thread.run_sync(self._make_context, limiter=self._making_context, abandon_on_cancel=True)
        return self._context

    def _make_context(self) -> None:
        if self._context is None:
            self._context = default_context()


async def _connected(addresses: list[Address]) -> socket.socket:
    if len(addresses) == 1:
        return await _connect_to(addresses[0])
    return await _first_connected(_interleaved(addresses))


def _interleaved(addresses: list[Address]) -> list[Address]:
    """The families in turn, beginning with that of the first address (RFC 8305 section 4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    second = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for pair in zip_longest(first, second) for address in pair if address is not None]


async def _first_connected(addresses: list[Address]) -> socket.socket:
    """Connect to the first address that answers: "happy eyeballs", RFC 8305 section 5.

    The next address is tried as soon as the last one has failed, or is late.
    """
    winner: socket.socket | None = None
    errors: list[OSError] = []

    async def attempt(address: Address, failed: trio.Event) -> None:
        nonlocal winner
        try:
            sock = await _connect_to(address)
        except OSError as error:
            errors.append(error)
            failed.set()
            return
        if winner is None:
            winner = sock
        else:
            sock.close()
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(_ATTEMPT_DELAY):
                    await failed.wait()
    except BaseException as error:
        if winner is not None:
            winner.close()
        if isinstance(error, BaseExceptionGroup):
            raise_bare(error)
        raise
    if winner is None:
        raise OSError("; ".join(dict.fromkeys(map(str, errors)))) from errors[0]
    return winner


async def _connect_to(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Requests are sent whole, so nothing is gained by waiting for more of them.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped = trio.socket.from_stdlib_socket(sock)  # also makes it non-blocking
        await wrapped.connect(where)
    except BaseException:
        with suppress(OSError):
            sock.close()
        raise
    return sock
