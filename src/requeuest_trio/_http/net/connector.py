"""From an origin to a stream: look the name up, connect to one of its addresses, shake hands."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Awaitable, Callable

import trio

from requeuest_trio._http.net.race import ExtraSockets, first_connected
from requeuest_trio._http.net.resolver import Resolver
from requeuest_trio._http.net.shortages import OutOfResources, is_shortage, lacks_descriptors
from requeuest_trio._http.net.streams import PlainStream, Stream
from requeuest_trio._http.net.tls import default_context, open_tls
from requeuest_trio._model.ecosystem import ConnectError
from requeuest_trio._model.job import Reached
from requeuest_trio._model.origin import Origin

__all__ = ["Connector", "OnStep", "tell"]

OnStep = Callable[[Reached], Awaitable[None] | None]
"""Told before each step that it begins. What it returns is waited for."""


async def tell(on_step: OnStep, reached: Reached) -> None:
    """Tell of a step, and wait if whoever is told wants to."""
    if (pause := on_step(reached)) is not None:
        await pause


class Connector:
    """Opens connections; without a context for https, with `default_context`."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._making_context = trio.CapacityLimiter(1)
        self._resolver = Resolver()

    async def connect(self, origin: Origin, on_step: OnStep, extra: ExtraSockets, share: str | None = None) -> Stream:
        """Open a connection, with TLS if the origin is https.

        Args:
            origin: to whom.
            on_step: told before each step.
            extra: asked for each socket beside the first.
            share: on whose account a name is looked up; see `Resolver.addresses`.

        Raises `ConnectError`, `OutOfResources` among them. Cancelled: nothing is left open.
        """
        await tell(on_step, Reached.RESOLVE)
        try:
            addresses = await self._resolver.addresses(origin.host, origin.port, share)
            context = None if origin.scheme == "http" else await self._tls_context()
            await tell(on_step, Reached.CONNECT)
            sock = await first_connected(addresses, extra)
            if context is None:
                return PlainStream(sock)
            try:
                await tell(on_step, Reached.TLS)
            except BaseException:
                sock.close()
                raise
            return await open_tls(sock, context, origin.host)
        except UnicodeError as error:
            raise ConnectError("the host is no name that can be looked up") from error
        except OutOfResources:
            self._resolver.note_shortage()
            raise
        except ssl.SSLError as error:
            if isinstance(error, ssl.SSLCertVerificationError) and lacks_descriptors():
                # Trusted certificates may be files of a directory, to be opened when they are looked for.
                raise OutOfResources(f"no TLS: {os.strerror(errno.EMFILE)}") from error
            raise ConnectError(f"no TLS: {error}") from error
        except OSError as error:
            if is_shortage(error):
                self._resolver.note_shortage()
                raise OutOfResources(str(error)) from error
            raise ConnectError(str(error) or type(error).__name__) from error

    async def _tls_context(self) -> ssl.SSLContext:
        while self._context is None:
            # It is kept also if no attempt waits for it any more: the next one may be as impatient.
            try:
                await trio.to_thread.run_sync(self._make_context, limiter=self._making_context, abandon_on_cancel=True)
            except RuntimeError as error:
                raise OutOfResources(f"no thread to read the trusted certificates: {error}") from error
        return self._context

    def _make_context(self) -> None:
        if self._context is None:
            context = default_context()
            if not context.cert_store_stats()["x509_ca"] and lacks_descriptors():
                # A file that can't be opened is passed over without a word, and this context would trust no server.
                raise OutOfResources(f"no trusted certificates: {os.strerror(errno.EMFILE)}")
            self._context = context
