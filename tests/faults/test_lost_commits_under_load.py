"""
Commits are lost one after the other, of producers and of workers, while both have much to do.

What could go wrong: two losses that are harmless alone do harm together. As long as no lease runs out, they are not
even an excuse for a second delivery: the checker is told of no fault.
"""

from __future__ import annotations

import random
from typing import Any

import trio

from tests.faults.arrivals import Answer
from tests.faults.fault_harness import FaultHarness
from tests.faults.scale import scaled
from tests.postgres_messages import committing
from tests.proxy import Proxy, open_proxy

ORDERS: list[dict[str, Any]] = [{}, {"largest_batch": 5, "keys": 20}, {"largest_batch": 5}]
OF_PRODUCERS = (["spawn_one"], ["spawn"], ["spawn_ordered"], ["announce"])
OF_WORKERS = (["claim"], ["record"], ["record", "unblock"], ["heartbeat"])
LOSSES = 40
LEASE = 15.0
MOST_CONNECTIONS = 8


async def test_whatever_is_lost_everything_is_delivered_once_and_in_order(harness: FaultHarness) -> None:
    chance = random.Random(harness.seed)
    await harness.start_receiver(Answer(delay=0.005))
    async with open_proxy(harness.dsn) as proxy:
        workers = [await harness.start_worker(dsn=proxy.dsn, lease=LEASE, concurrency=16) for _ in range(2)]
        producers = [
            await harness.start_producer(dsn=proxy.dsn, asks_again=True, writers=3, pause=0.02, **orders)
            for orders in ORDERS
        ]
        happened = 0
        for _ in range(scaled(LOSSES, most=2_000)):
            happened += await _lose(proxy, chance)
        assert happened > scaled(LOSSES, most=2_000) / 2
        for producer in producers:
            producer.terminate()
            await producer.ended()
        await harness.until_finished()
        for worker in workers:
            await harness.until_true(
                f"select count(*) <= {MOST_CONNECTIONS} from pg_stat_activity where application_name = %s", worker.name
            )
            await harness.leave(worker)
    history = await harness.must_hold()
    assert any(spawn.key is not None for spawn in history.spawns)


async def _lose(proxy: Proxy, chance: random.Random) -> bool:
    """Lose one commit of some kind, if one comes soon."""
    drop = chance.choice([proxy.drop_next_request, proxy.drop_next_reply])
    loss = drop(committing(*chance.choice(OF_PRODUCERS + OF_WORKERS)))
    with trio.move_on_after(0.5):
        await loss.happened.wait()
    await trio.sleep(chance.uniform(0.0, 0.1))
    return loss.happened.is_set()
