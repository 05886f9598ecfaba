"""httpx2's network under Trio with one mend: a TLS handshake that is cut short closes its socket.

Otherwise each one that runs into a deadline would leave an open connection behind, until Python happens to collect it.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2
import trio

__all__ = ["open_transport"]


def open_transport(keepalive_seconds: float) -> httpx2.AsyncHTTPTransport:
    """The library's own transport: no limit on connections, nothing from the environment. A context manager."""
    context = httpx2.create_ssl_context(trust_env=False)
    transport = httpx2.AsyncHTTPTransport(verify=context, trust_env=False)
    # httpx2 has no argument for the network. A test notices if this is no longer the place.
    transport._pool = httpcore2.AsyncConnectionPool(  # noqa: SLF001
        ssl_context=context,
        max_connections=None,
        max_keepalive_connections=None,
        keepalive_expiry=keepalive_seconds,
        network_backend=_Network(),
    )
    return transport


class _Network(httpcore2.TrioBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _Connection(await super().connect_tcp(host, port, timeout, local_address, socket_options))


class _Connection(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self.read = stream.read  # type: ignore[method-assign]
        self.write = stream.write  # type: ignore[method-assign]
        self.aclose = stream.aclose  # type: ignore[method-assign]

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except trio.Cancelled:
            with trio.CancelScope(shield=True) as forcefully:
                forcefully.cancel()
                await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
