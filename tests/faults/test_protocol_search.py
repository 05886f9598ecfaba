"""Whatever the order of events, crashes and stalls: at most one of a key is in flight, in order; nothing is sent once
its end is recorded; every attempt is counted; and the jobs can always be finished. Shown by looking at every state of a
model, and by doing what the model does on the real store."""

from __future__ import annotations

import random

import pytest

from tests.engine.store_harness import open_store_harness
from tests.faults.protocol import GUARDS, Bounds, Label, State, judge, search, start, steps
from tests.faults.replay import Replay
from tests.faults.scale import scale, scaled

BOUNDS = [Bounds(claims=2, max_attempts=2, crashes=1), Bounds(claims=3, max_attempts=2, crashes=0)]
if scale() >= 5:  # half a minute and a few minutes
    BOUNDS += [Bounds(claims=3, max_attempts=2, crashes=1), Bounds(claims=4, max_attempts=3, crashes=1)]
WALKS, STEPS = 40, 60
RARE = {"lapse", "expire", "forget", "crash", "leave", "give back late"}


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_no_order_of_events_breaks_an_invariant(bounds: Bounds) -> None:
    found = search(bounds=bounds)
    assert found.violation is None, found
    assert found.states > 10_000, "too little was looked at"


@pytest.mark.parametrize(
    ("guard", "invariant"),
    {
        "a record needs the claim": "I3",
        "a release needs the claim": "I6",
        "a rescue counts the attempt": "I6",
        "behind an unfinished job of the key is blocked": "I4",
        "only under a trusted lease is anything sent": "I6",
        "rescue only after the lease": "I4",
        "the next of a key waits for the end of the one before": "I4",
        "trust ends before the lease": "I4",
    }.items(),
)
def test_without_any_one_guard_an_invariant_is_broken(guard: str, invariant: str) -> None:
    """The search finds what it is there to find, and every guard is needed."""
    assert guard in GUARDS
    found = search(GUARDS - {guard}, Bounds(claims=2))
    assert found.violation is not None
    assert found.violation.startswith(invariant), found


async def test_the_store_does_what_the_model_says(migrated_dsn: str) -> None:
    """Random paths of the model, step by step on PostgreSQL."""
    chance, path = random.Random(random.randrange(2**32)), list[object]()
    done = set[object]()
    async with open_store_harness(migrated_dsn) as harness:
        connection = await harness.connect()
        for _ in range(scaled(WALKS)):
            state, replay = start(), Replay(harness, connection)
            await replay.begin(state)
            path.clear()
            for _ in range(STEPS):
                label, after = _chosen(state, chance)
                path.append(label)
                assert judge(state, label, after) is None, path
                await replay.step(state, label, after)
                assert await replay.differences(after) == [], path
                state = after
                done.add(label[0])
    assert done >= {"spawn", "claim", "begin", "end", "record", "late", "rescue", "expire", "forget", "beat", "leave"}


def _chosen(state: State, chance: random.Random) -> tuple[Label, State]:
    """Rarely what only interrupts: otherwise little else would happen."""
    possible = list(steps(state, bounds=Bounds(claims=6, max_attempts=3, crashes=3)))
    return chance.choices(possible, [0.1 if label[0] in RARE else 1.0 for label, _ in possible])[0]
