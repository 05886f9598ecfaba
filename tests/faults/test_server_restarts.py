"""
The server is restarted again and again, as by power cuts, while jobs flow.

What could go wrong, and is tried here: a process that ends, or opens its queue anew; an outcome that is forgotten, or a
claim that is given up, because of a server that was away for a moment, so that its job is sent twice; a process that
goes on late, or with some of its connections only.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.faults.arrivals import Answer
from tests.faults.fault_harness import FaultHarness
from tests.faults.history import Usage
from tests.faults.outages import in_thread, queue_server
from tests.faults.processes import Program
from tests.faults.scale import scale, scaled
from tests.throwaway import Throwaway

STEADY = 2.5
"""Seconds without a restart, to know what is usual."""
LEASE = 30.0
"""Longer than the server is ever away: so nobody has a reason to send anything again."""
WORKER: dict[str, Any] = {"lease": LEASE, "poll_interval": 0.5, "attempt_timeout": 5.0}


@pytest.fixture
async def server() -> AsyncIterator[Throwaway]:
    async with queue_server() as running:
        yield running


@pytest.fixture
async def migrated_dsn(server: Throwaway) -> str:
    """What the harness is built on."""
    return server.dsn()


async def test_restarts_as_after_power_cuts_lose_nothing_and_send_nothing_twice(
    server: Throwaway, harness: FaultHarness
) -> None:
    """Every ten seconds for five minutes in the long tier; in the fast one, three times."""
    await harness.start_receiver(Answer(delay=0.02, failing=0.05))
    workers = [await harness.start_worker(concurrency=16, **WORKER) for _ in range(3)]
    producers = await start_producers(harness)
    await harness.until_arrived(1)
    began = harness.arrivals()[0].at
    await harness.run_for(STEADY)
    for _ in range(scaled(3, most=30)):
        with harness.fault("server restarted", jobs=()):
            await in_thread(server.restart)
        await harness.run_for(min(1.5 * scale(), 10.0))
    await harness.until_recovered(began)
    for producer in producers:
        producer.terminate()
        await producer.ended()
    await harness.until_finished()
    for worker in workers:
        assert [line["said"] for line in worker.heard] == ["ready"], "it has noticed nothing"
        await harness.leave(worker)
    await note_connections(harness)
    await harness.must_hold()


async def start_producers(harness: FaultHarness) -> list[Program]:
    """Lone jobs, batches, jobs in order, and lone jobs by a process that delivers too. They ask until they know."""
    orders: list[dict[str, Any]] = [
        {"pause": 0.02, "writers": 3},
        {"pause": 0.2, "largest_batch": 20},
        {"pause": 0.04, "largest_batch": 3, "keys": 50},
        {"pause": 0.04, "lease": LEASE},
    ]
    retry = {"initial": 0.05, "max_backoff": 0.2}
    return [await harness.start_producer(asks_again=True, retry=retry, **each) for each in orders]


async def note_connections(harness: FaultHarness) -> None:
    [[clients]] = await harness.ask(
        "select count(*) from pg_stat_activity where application_name ~ '^(worker|producer)'"
    )
    harness.usages.append(Usage(what="connections", before=0, after=clients, allowed=0))
