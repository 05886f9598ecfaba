"""The names this library shows of httpx2: one door, so that nothing else depends on where it stands."""

from __future__ import annotations

from httpx2 import URL, AsyncBaseTransport, AsyncClient, InvalidURL, Response
from httpx2 import Headers as ResponseHeaders

__all__ = ["URL", "AsyncBaseTransport", "AsyncClient", "InvalidURL", "Response", "ResponseHeaders"]
