"""How long to wait before the next try: a pure value, no clock and no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Backoff",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """
    Exponential backoff with a cap and jitter.

    Attributes:
      initial: the pause after the first failure, in seconds, above 0.
      cap: the longest pause, in seconds, at least ``initial``.
      multiplier: the growth from one failure to the next, at least 1.
      jitter: the share of a pause that is left to chance, from 0 (none) to 1 (all of it). Chance only ever shortens a
        pause, so that ``cap`` is a promise.

    Example::

        Backoff(initial=0.1, cap=10.0).delay(3, random.random)   # 0.2 to 0.4 seconds
    """

    initial: float = 0.1
    cap: float = 10.0
    multiplier: float = 2.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.cap:
            raise ValueError(f"0 < initial <= cap does not hold: {self!r}")
        if not self.multiplier >= 1:
            raise ValueError(f"multiplier is less than 1: {self!r}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is not between 0 and 1: {self!r}")

    def delay(self, failures: int, random: Callable[[], float]) -> float:
        """
        Return the seconds to wait after so many failures in a row.

        Args:
          failures: how many attempts have failed since the last success; 0 gives no pause.
          random: a source of numbers in [0, 1), such as `random.random`.
        """
        if failures <= 0:
            return 0.0
        try:
            pause = min(self.cap, self.initial * self.multiplier ** (failures - 1))
        except OverflowError:  # a float power of thousands of failures
            pause = self.cap
        return pause * (1.0 - self.jitter * random())
