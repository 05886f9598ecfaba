"""Ids that can be made before anything is stored, so that storing can be repeated."""

from __future__ import annotations

import os
import time
from uuid import UUID

__all__ = ["uuid7"]

_VERSION_AND_VARIANT = (0x7 << 76) | (0b10 << 62)


def uuid7() -> UUID:
    """A version 7 UUID (RFC 9562 section 5.7): 48 bits of milliseconds, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    return UUID(
        int=(milliseconds & (1 << 48) - 1) << 80 | (random >> 68) << 64 | random & (1 << 62) - 1 | _VERSION_AND_VARIANT
    )
