"""Origins: what a receiver is told apart by (RFC 6454), whatever is sent to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from requeuest_trio._model.ecosystem import URL
from requeuest_trio._model.urls import normal_form

__all__ = ["DEFAULT_PORTS", "Origin", "origin_of"]

DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
"""Of each scheme that is sent to."""


class Origin(NamedTuple):
    """Whom to connect to."""

    scheme: str
    host: str
    port: int


@lru_cache(maxsize=1_024)
def origin_of(url: str) -> str:
    """Scheme, host and port of a checked URL, the port only where it is not the scheme's own. No user, path or query.

    >>> origin_of("https://api.example.com/charges?token=s3cret")
    'https://api.example.com'
    """
    if plain := normal_form(url):
        return f"{plain['scheme']}://{plain['authority']}"
    parsed = URL(url)
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
