"""How many jobs to claim for which channels. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Slots", "Wish"]

_RESERVED_PART = 8


class Wish(NamedTuple):
    """What a channel could have."""

    channel: str
    occupied: int
    """Slots that it has."""
    free: int
    """Slots that it may have beside them."""
    ahead: int
    """Jobs that it may hold beyond its slots, once it has all of them."""

    def with_one_reserved(self) -> Wish:
        """The same, if one of the free slots is being taken otherwise."""
        return Wish(self.channel, self.occupied + 1, max(0, self.free - 1), self.ahead)

    def limited(self, attempts: int) -> Wish:
        """What is left of it, if the channel may make so many attempts at once: then none waits for its turn."""
        return Wish(self.channel, self.occupied, max(0, min(self.free, attempts - self.occupied)), 0)


class Slots:
    """The slots of a process, over all its channels.

    A part of them is reserved for channels that have none, each of which may have one of it: so channels whose attempts
    all hang can't keep another from its first attempt.
    """

    def __init__(self, most: int, channels: int | None) -> None:
        """
        Args:
            most: how many there are.
            channels: how many channels the process delivers; None if that is not known.
        """
        self._most = most
        eighth = -(-most // _RESERVED_PART)
        self._reserved = min(eighth, most - 1, most if channels is None else max(0, channels - 1))

    def room(self, taken: int, occupied: int) -> int:
        """How many more a channel may have that has `occupied` of the `taken` ones."""
        common = max(0, self._most - self._reserved - taken)
        return common or int(not occupied and taken < self._most)

    def grantable(self, taken: int, wish: Wish) -> int:
        """How many of them a channel may have that wishes so, by itself. The one condition, also of the short cut."""
        return min(wish.free, self.room(taken, wish.occupied))

    def share_out(self, taken: int, wishes: Sequence[Wish]) -> dict[str, int]:
        """How many jobs to claim for which channels: free slots in equal parts, and first to the first.

        Jobs ahead begin only where another attempt ends, so only a channel whose slots are all taken may have them, and
        as many as it likes.
        """
        wanting = sum(wish.free > 0 for wish in wishes)
        share = max(1, self.room(taken, 0) // max(1, wanting))
        granted: dict[str, int] = {}
        for wish in wishes:
            slots = min(share, self.grantable(taken, wish))
            taken += slots
            if number := slots + (wish.ahead if slots == wish.free else 0):
                granted[wish.channel] = number
        return granted
