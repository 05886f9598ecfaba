"""The memory of bodies that are being read, of all attempts together. Pure."""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["LARGE", "HeldBodies"]

LARGE: Final = 65_536
"""Bodies up to here are not counted: so many attempts, so many of them."""


class Stoppable(Protocol):
    """An answer whose body is being read."""

    def stop(self) -> None:
        """End the reading, soon."""
        ...


class HeldBodies:
    """Large bodies: so many bytes in all. A receiver that sends almost all of one, and then nothing, holds it until the
    deadline; if there are too many, the one that has been here longest is cut, and its attempt ends."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sizes: dict[Stoppable, int] = {}
        """The longest here come first."""
        self._total = 0

    def hold(self, answer: Stoppable, size: int) -> None:
        """A body has so many bytes now."""
        self._total += size - self._sizes.get(answer, 0)
        self._sizes[answer] = size
        while self._total > self._most:
            oldest = next(iter(self._sizes))
            self.leave(oldest)
            oldest.stop()

    def leave(self, answer: Stoppable) -> None:
        """It is not read any more."""
        self._total -= self._sizes.pop(answer, 0)
