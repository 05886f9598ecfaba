"""The demo's receiver: it fails in four ways for a while, and keeps what it saw.

Which faults a request meets, and in which order, follows from what it says and a seed. So every run shows the same
faults, however the requests overtake each other, and each request is accepted in the end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

from requeuest_trio.testing import Action, Arrival, Receiver, Reply, Reset, Stall, open_receiver

__all__ = ["Fault", "FaultyReceiver", "Seen", "open_faulty_receiver", "planned_faults"]

RETRY_AFTER_SECONDS = 1
_ACCEPTED = {"POST": 201, "DELETE": 204, "OPTIONS": 204}
_SHARE_WITH_FAULTS = 0.5
_MOST_FAULTS = 3


class Fault(Enum):
    """A way to fail."""

    UNAVAILABLE = "503"
    TOO_MANY = "429 with Retry-After"
    RESET = "connection reset"
    STALL = "no answer"


_WEIGHTS = {Fault.UNAVAILABLE: 8, Fault.TOO_MANY: 5, Fault.RESET: 6, Fault.STALL: 1}


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came, and what was done with it."""

    arrival: Arrival
    fault: Fault | None
    """None: it was accepted."""


@dataclass(slots=True)
class FaultyReceiver:
    """A running receiver, and all that it has seen."""

    receiver: Receiver
    seed: int
    seen: list[Seen] = field(default_factory=list)
    _arrived: Counter[str] = field(default_factory=Counter)

    def decide(self, arrival: Arrival) -> Action:
        """The answer to a request: one fault after the other, as planned for its key, and then success."""
        key = arrival.header("idempotency-key") or ""
        faults = planned_faults(self.seed, arrival)
        number = self._arrived[key]
        self._arrived[key] += 1
        fault = faults[number] if number < len(faults) else None
        self.seen.append(Seen(arrival, fault))
        return _acceptance(arrival) if fault is None else _failure(fault)

    @property
    def faults(self) -> Counter[Fault]:
        """How often it has failed in each way."""
        return Counter(seen.fault for seen in self.seen if seen.fault is not None)


@asynccontextmanager
async def open_faulty_receiver(seed: int) -> AsyncIterator[FaultyReceiver]:
    """Run one on a free port of this machine for as long as the block lasts."""
    async with open_receiver() as receiver:
        faulty = FaultyReceiver(receiver, seed)
        receiver.decide = faulty.decide
        yield faulty


def planned_faults(seed: int, arrival: Arrival) -> list[Fault]:
    """The faults that a request meets before it is accepted."""
    # The same in every process: a text seeds by its content, not by Python's hash of it.
    chance = random.Random(f"{seed} {arrival.method} {arrival.target} {arrival.body!r}")  # noqa: S311 - no secret
    if chance.random() >= _SHARE_WITH_FAULTS:
        return []
    return chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=chance.randint(1, _MOST_FAULTS))


def _acceptance(arrival: Arrival) -> Reply:
    status = _ACCEPTED.get(arrival.method, 200)
    if arrival.method == "HEAD" or status == 204:
        return Reply(status, body=b"")
    return Reply(status, headers=(("Content-Type", "application/json"),), body=b'{"received":true}')


def _failure(fault: Fault) -> Action:
    match fault:
        case Fault.UNAVAILABLE:
            return Reply(503, body=b"")
        case Fault.TOO_MANY:
            return Reply(429, headers=(("Retry-After", str(RETRY_AFTER_SECONDS)),), body=b"")
        case Fault.RESET:
            return Reset()
        case Fault.STALL:
            return Stall()
