"""The names this library shows of httpx2: one door, so that nothing else depends on where it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from httpx2 import (
    URL,
    AsyncBaseTransport,
    AsyncByteStream,
    AsyncClient,
    ConnectError,
    ConnectTimeout,
    InvalidURL,
    LocalProtocolError,
    PoolTimeout,
    ReadError,
    ReadTimeout,
    RemoteProtocolError,
    Response,
    TransportError,
    UnsupportedProtocol,
    WriteError,
    WriteTimeout,
)
from httpx2 import Headers as ResponseHeaders
from httpx2 import Request as SentRequest

__all__ = [
    "URL",
    "AsyncBaseTransport",
    "AsyncByteStream",
    "AsyncClient",
    "ConnectError",
    "ConnectTimeout",
    "ForeignClient",
    "InvalidURL",
    "LocalProtocolError",
    "PoolTimeout",
    "ReadError",
    "ReadTimeout",
    "RemoteProtocolError",
    "Response",
    "ResponseHeaders",
    "SentRequest",
    "TransportError",
    "UnsupportedProtocol",
    "WriteError",
    "WriteTimeout",
]


class ForeignClient(Protocol):
    """What `httpx.AsyncClient` has in common with httpx2's."""

    @property
    def build_request(self) -> Callable[..., Any]:
        """Make a request with the client's own defaults. (As a method it would have to take whatever has a name.)"""
        ...

    async def aclose(self) -> None:
        """Close it; never called here."""
        ...
