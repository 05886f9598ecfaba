"""Ids that can be made before anything is stored, so that storing can be repeated."""

from __future__ import annotations

import time
from secrets import randbits, token_bytes
from struct import unpack
from uuid import UUID

__all__ = ["Ids"]

_VERSION_AND_VARIANT = (0x7 << 76) | (0b10 << 62)
_RANDOM_BITS = 74
_STEPS = 256


class Ids:
    """Version 7 UUIDs (RFC 9562 section 5.7), each greater than the one before, also within a millisecond.

    48 bits of milliseconds, then 74 random bits; in the same millisecond, or when the clock is set back, the random
    part of the last one is increased at random (section 6.2, method 2).
    """

    def __init__(self) -> None:
        self._milliseconds = 0
        self._random = 0
        self._steps: list[int] = []

    def next(self) -> UUID:
        """A new id."""
        return UUID(int=self._next())

    def take(self, number: int) -> list[UUID]:
        """New ids, in their order."""
        return [UUID(int=self._next()) for _ in range(number)]

    def _next(self) -> int:
        if not self._steps:
            # Many at once: asking the system for randomness is what takes time.
            self._steps = list(unpack(f"{_STEPS}I", token_bytes(4 * _STEPS)))
        now = time.time_ns() // 1_000_000
        self._random += 1 + self._steps.pop()
        if now > self._milliseconds or self._random >> _RANDOM_BITS:
            self._milliseconds = max(now, self._milliseconds + 1)
            # The highest bit is left free, so that there is room for increases.
            self._random = randbits(_RANDOM_BITS - 1)
        high, low = self._random >> 62, self._random & (1 << 62) - 1
        return (self._milliseconds & (1 << 48) - 1) << 80 | high << 64 | low | _VERSION_AND_VARIANT
