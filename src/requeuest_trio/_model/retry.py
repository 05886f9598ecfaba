"""When a failed delivery is tried again: a policy, and the pure functions that read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Self

from requeuest_trio._model import checks
from requeuest_trio._model.backoff import growing_pause
from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._model.statuses import Statuses, StatusSpec, statuses

__all__ = ["DEFAULT_RETRY", "RetryPolicy", "retry_after_seconds", "wait_after"]

Random = Callable[[], float]
"""A number from 0 to 1, such as `random.random`."""


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """How often and when to try again. A frozen value.

    The wait after the n-th failed attempt is `initial * multiplier ** (n - 1)` seconds, at most `max_backoff`,
    spread by up to `jitter` of itself in both directions (never past `max_backoff`).

    Args:
        max_attempts: 1 to 1,000,000 attempts in all, the first included. The default, 100,001, is one and 100,000
            retries: at the default cap more than eleven years.
        initial: the first wait: seconds or a `timedelta`, more than 0.
        multiplier: 1 to 100.
        max_backoff: the longest wait; seconds or a `timedelta`, at least `initial`.
        jitter: 0 to 1.
        give_up_on: statuses that make the job dead at once: `int`, `range`, `StatusClass`, or several of them.
        respect_retry_after: whether a `Retry-After` header (RFC 9110 section 10.2.3) makes the wait longer. It never
            makes it shorter than the backoff, nor longer than `max_backoff`.

    Raises:
        InvalidRequest: naming the argument and the limit.

    Example::

        >>> RetryPolicy(max_attempts=5, give_up_on=[400, 404, 410]).max_attempts
        5
    """

    max_attempts: int
    initial: float
    multiplier: float
    max_backoff: float
    jitter: float
    give_up_on: Statuses
    respect_retry_after: bool

    def __init__(
        self,
        *,
        max_attempts: int = 100_001,
        initial: float | timedelta = 1.0,
        multiplier: float = 2.0,
        max_backoff: float | timedelta = 3600.0,
        jitter: float = 0.1,
        give_up_on: StatusSpec | Iterable[StatusSpec] = (),
        respect_retry_after: bool = True,
    ) -> None:
        if not isinstance(respect_retry_after, bool):
            raise InvalidRequest("respect_retry_after", f"must be a bool, not {type(respect_retry_after).__name__}")
        # A frozen dataclass with an __init__ of its own has to set its fields this way.
        put = object.__setattr__
        put(self, "max_attempts", checks.whole_number("max_attempts", max_attempts, 1, 1_000_000))
        put(self, "initial", checks.seconds("initial", initial, positive=True))
        put(self, "multiplier", float(checks.number("multiplier", multiplier, 1.0, 100.0)))
        put(self, "max_backoff", checks.seconds("max_backoff", max_backoff, positive=True))
        put(self, "jitter", float(checks.number("jitter", jitter, 0.0, 1.0)))
        put(self, "give_up_on", statuses("give_up_on", give_up_on))
        put(self, "respect_retry_after", respect_retry_after)
        if self.max_backoff < self.initial:
            raise InvalidRequest(
                "max_backoff", f"must be at least initial ({self.initial} s), not {self.max_backoff} s"
            )

    def to_json(self) -> dict[str, Any]:
        """As it is stored: only what differs from the default."""
        fields = ("max_attempts", "initial", "multiplier", "max_backoff", "jitter", "respect_retry_after")
        stored = {name: getattr(self, name) for name in fields if getattr(self, name) != getattr(DEFAULT_RETRY, name)}
        if self.give_up_on:
            stored["give_up_on"] = [[part.start, part.stop] for part in self.give_up_on]
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> Self:
        """What `to_json` wrote. Raises `InvalidRequest` or `TypeError` for anything else."""
        if stored is None:
            return cls()
        options = dict(stored)
        if "give_up_on" in options:
            options["give_up_on"] = [range(start, stop) for start, stop in options["give_up_on"]]
        return cls(**options)


DEFAULT_RETRY = RetryPolicy()


def wait_after(policy: RetryPolicy, attempt: int, retry_after: float | None, random: Random) -> float:
    """Seconds to wait after the failed attempt number `attempt` (1 is the first)."""
    base = growing_pause(attempt, initial=policy.initial, multiplier=policy.multiplier, cap=policy.max_backoff)
    wait = min(base * (1 + policy.jitter * (2 * random() - 1)), policy.max_backoff)
    if retry_after is None or not policy.respect_retry_after or retry_after <= wait:
        return wait
    # Spread only upwards: the receiver said "not before".
    return min(retry_after * (1 + policy.jitter * random()), policy.max_backoff)


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Read a `Retry-After` field: seconds or an HTTP-date (RFC 9110 section 10.2.3). None for rubbish."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value.lstrip("0")) <= 12 else checks.MAX_SECONDS
    try:
        instant = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if instant.utcoffset() is None:
        instant = instant.replace(tzinfo=UTC)
    return max(0.0, (instant - now).total_seconds())
