"""Which content codings are asked for: those alone that are taken off an answer here, within limits."""

from __future__ import annotations

from functools import lru_cache

__all__ = ["DECODED", "advertised"]

DECODED = frozenset({"gzip", "x-gzip", "deflate", "identity"})


@lru_cache(maxsize=256)
def advertised(accept_encoding: str) -> str:
    """The value of `Accept-Encoding` without what only others can decode (RFC 9110 section 12.5.3).

    >>> advertised("gzip, deflate;q=0.5, br, zstd, *")
    'gzip, deflate;q=0.5'
    """
    kept = [part.strip() for part in accept_encoding.split(",") if part.partition(";")[0].strip().lower() in DECODED]
    return ", ".join(kept) or "identity"
