"""How long to wait before the next try: pauses that grow from one failure to the next. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff", "growing_pause"]


def growing_pause(failures: int, *, initial: float, multiplier: float, cap: float) -> float:
    """Seconds after so many failures in a row: `initial` after the first, `multiplier` times as long after each more.

    >>> [growing_pause(failures, initial=1.0, multiplier=2.0, cap=5.0) for failures in (1, 2, 3, 4)]
    [1.0, 2.0, 4.0, 5.0]
    """
    try:
        return min(initial * multiplier ** (failures - 1), cap)
    except OverflowError:
        # 2.0 ** 100_000 is no float.
        return cap


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The pauses of one of this library's own loops, which tries again until it succeeds.

    Args:
        initial: the pause after the first failure, in seconds, above 0.
        cap: the longest pause, in seconds, at least `initial`.
        multiplier: the growth from one failure to the next, at least 1.
        jitter: the share of a pause that is left to chance, from 0 (none) to 1 (all of it). Chance only ever shortens a
            pause, so that `cap` is a promise.

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
        """Seconds to wait after so many failures in a row; 0 after none.

        Args:
            failures: how many attempts have failed since the last success.
            random: a source of numbers in [0, 1), such as `random.random`.
        """
        if failures <= 0:
            return 0.0
        pause = growing_pause(failures, initial=self.initial, multiplier=self.multiplier, cap=self.cap)
        return pause * (1.0 - self.jitter * random())
