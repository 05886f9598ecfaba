"""
Workers that are killed, with SIGKILL: what they had in hand is done elsewhere, and nothing but that is done twice.

What could go wrong, and is tried here: a job lost with its worker, or recorded as delivered and not delivered; a
duplicate of a job that was recorded; a key whose head died with a worker, so that its successor goes first, or never; a
batch of a killed producer that is stored in part.
"""

import random
from collections import Counter
from typing import Any
from uuid import UUID

from tests.faults.arrivals import Answer
from tests.faults.fault_harness import RECORD, FaultHarness
from tests.faults.figures import takeover_time
from tests.faults.history import History
from tests.faults.scale import scaled
from tests.machine import OwnTime

LEASE = 3.0
"""Seconds. On a crowded machine a process that is well stands still for one now and then, and what it had in flight is
sent again."""


async def kill_at_random(harness: FaultHarness, kills: int, **terms: Any) -> None:
    """Kill one of four workers after the other, at random times, each with another to take its place."""
    chance = random.Random(harness.seed)
    workers = [await harness.start_worker(**terms) for _ in range(4)]
    hit = 0
    for _ in range(kills):
        victim = chance.randrange(len(workers))
        await harness.run_for(chance.uniform(0.05, 0.4))
        hit += bool(await harness.kill(workers[victim]))
        workers[victim] = await harness.start_worker(**terms)
    assert hit, "no worker had anything in hand when it was killed"


async def test_workers_killed_at_random_lose_nothing(harness: FaultHarness) -> None:
    """And producers too, also one that delivers itself: what they had asked for is stored whole, or not at all."""
    own = OwnTime()
    await harness.start_receiver(Answer(delay=0.01, failing=0.1))
    retry = {"initial": 0.05, "max_backoff": 0.2}
    both = await harness.start_producer(writers=5, pause=0.005, lease=LEASE, retry=retry)
    doomed = await harness.start_producer(largest_batch=20, pause=0.005, retry=retry)
    lasting = await harness.start_producer(writers=3, pause=0.01, retry=retry)
    await kill_at_random(harness, scaled(8, most=200), lease=LEASE, concurrency=16)
    await doomed.kill()
    await harness.kill_holding(both)
    lasting.terminate()
    await lasting.ended()
    await harness.until_finished()
    harness.note_lost_leases(*harness.programs)
    history = await harness.must_hold()
    assert (takeover_time(history) or 0) < history.promise.stuck_after * own.stretch


async def test_keys_stay_in_order_however_often_their_heads_fail_and_their_workers_die(harness: FaultHarness) -> None:
    await harness.start_receiver(Answer(failing=0.3))
    retry = {"initial": 0.05, "max_backoff": 0.2}
    producers = [
        await harness.start_producer(keys=50, largest_batch=largest, pause=0.02, retry=retry) for largest in (1, 1, 5)
    ]
    await kill_at_random(harness, scaled(6, most=100), lease=LEASE, concurrency=16)
    for producer in producers:
        producer.terminate()
    await harness.until_finished()
    harness.note_lost_leases(*harness.programs)
    history = await harness.must_hold()
    assert len({job.key for job in history.jobs}) > 25


def slowest(history: History, jobs: set[UUID]) -> float:
    """The wait that only one of a hundred jobs exceeds, from its spawn to its arrival."""
    spawned = {spawn.job: spawn.ended_at for spawn in history.spawns}
    waits = sorted(arrival.at - spawned[arrival.job] for arrival in history.arrivals if arrival.job in jobs)
    return waits[len(waits) * 99 // 100]


async def test_a_key_that_waits_for_its_next_try_delays_no_other(harness: FaultHarness) -> None:
    """Ten keys have long backlogs behind heads that fail, and are tried again after seconds."""
    await harness.start_receiver(Answer())
    worker = await harness.start_worker(concurrency=4)
    await harness.produce(jobs=150, keys=50, pause=0.002)
    await harness.until_finished()
    before = {spawn.job for spawn in harness.spawns()}
    parked: dict[str, Any] = {
        "url": "http://127.0.0.1:1/",
        "prefix": "parked ",
        "retry": {"initial": 8.0, "max_attempts": 2},
    }
    await harness.produce(jobs=100, keys=10, largest_batch=5, **parked)
    await harness.until_true("select count(*) >= 5 from requeuest.job where state = 'available' and attempts = 1")
    await harness.produce(jobs=150, keys=50, pause=0.002)
    after = {spawn.job for spawn in harness.spawns() if not (spawn.key or "").startswith("parked")} - before
    await harness.until_arrived(300)
    assert await harness.ask("select 1 from requeuest.job where attempts = 1 and due_at > now()"), (
        "none was parked any more"
    )
    history = await harness.history()
    assert slowest(history, after) < 2 * slowest(history, before) + 0.2
    await harness.leave(worker)


async def test_a_kill_between_an_answer_and_its_record_means_exactly_one_duplicate(harness: FaultHarness) -> None:
    await harness.start_receiver(Answer())
    worker = await harness.start_worker(lease=LEASE)
    async with harness.locked("attempt"):
        await harness.produce(jobs=40, largest_batch=40)
        await harness.until_arrived(40)
        await harness.until_held_up(worker, RECORD)
        in_hand = await harness.kill(worker)
        await harness.end_backends(worker)
    assert len(in_hand) == 40
    await harness.start_worker(lease=LEASE)
    await harness.until_finished()
    history = await harness.must_hold()
    assert set(Counter(arrival.job for arrival in history.arrivals).values()) == {2}
    assert {arrival.job for arrival in history.arrivals} == in_hand, "the key is the same each time"
    assert [attempt.reached for attempt in history.attempts] == ["unknown", "response"] * 40
