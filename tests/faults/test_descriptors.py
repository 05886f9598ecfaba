"""
Descriptor starvation: a process that may open no more files says nothing about receivers.

What could go wrong, and is tried here: jobs that die, or whose attempts are counted, because this machine could not
open a socket, look a name up or read its certificates; a process that spins meanwhile, ends, takes its database for
gone for good, or does not come back by itself.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tests.faults.arrivals import Answer
from tests.faults.fault_harness import FaultHarness
from tests.faults.journal import read_journal
from tests.faults.processes import Program

JOBS = 300
FEWER = 60
DESCRIPTORS = 40
THRICE = {"max_attempts": 3, "initial": 0.05, "max_backoff": 0.2}


async def outcomes(harness: FaultHarness) -> list[tuple[str, int, int]]:
    """States and numbers of attempts of the jobs, and how many have them."""
    return await harness.ask(
        "select state::text, attempts, count(*)::int from requeuest.job group by 1, 2 order by 1, 2"
    )


async def rows_of_attempts(harness: FaultHarness) -> int:
    [[number]] = await harness.ask("select count(*) from requeuest.attempt")
    return int(number)


def logged(worker: Program, event: str) -> int:
    return sum(line["event"] == event for line in read_journal(worker.log))


def cpu_seconds(worker: Program) -> float:
    fields = Path(f"/proc/{worker.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_too_few_for_all_attempts(harness: FaultHarness, host: str) -> None:
    """As many attempts as there are slots need more than there are; those that get none are not counted."""
    url = await harness.start_receiver(Answer(delay=0.2))
    await harness.produce(jobs=JOBS, largest_batch=100, retry=THRICE, url=url.replace("127.0.0.1", host))
    worker = await harness.start_worker(descriptors=DESCRIPTORS, concurrency=64, lease=5.0, config={"pool_size": 2})
    await harness.until_logged(worker, "shortage")
    await harness.until_finished()
    assert await outcomes(harness) == [("succeeded", 1, JOBS)]
    assert await rows_of_attempts(harness) == JOBS
    assert logged(worker, "shortage") == 1
    await harness.leave(worker)
    await harness.must_hold()


async def test_none_at_all_for_a_while(harness: FaultHarness) -> None:
    """Nothing is sent, nothing is counted, nothing spins; it is told once; and then everything goes on."""
    await harness.start_receiver()
    worker = await harness.start_worker(concurrency=16, lease=3.0)
    await harness.produce(jobs=1)
    await harness.until_finished()
    with worker.starved(0), harness.fault("no descriptors", jobs=()):
        url = harness.url.replace("127.0.0.1", "localhost").replace("http", "https")
        await harness.produce(jobs=FEWER, largest_batch=20, retry=THRICE, url=url)
        await harness.until_logged(worker, "shortage")
        began, counted = cpu_seconds(worker), await rows_of_attempts(harness)
        await harness.run_for(3.0)
        assert cpu_seconds(worker) - began < 1.0
        assert await rows_of_attempts(harness) == counted
        assert all(attempts <= 1 for _, attempts, _ in await outcomes(harness))
        assert logged(worker, "shortage") == 1
    # This receiver speaks no TLS: now the attempts count.
    await harness.until_finished()
    assert await outcomes(harness) == [("dead", 3, FEWER), ("succeeded", 1, 1)]
    await harness.until_logged(worker, "shortage_over")
    await harness.leave(worker)


async def test_without_descriptors_the_database_is_away_and_comes_back(harness: FaultHarness) -> None:
    """All connections are lost, and none can be opened: that is an outage, and not the end."""
    await harness.start_receiver()
    worker = await harness.start_worker(lease=3.0)
    with harness.fault("no descriptors", jobs=()):
        with worker.starved(0):
            # What a connection leaves free it could take again.
            hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, hard))
            await harness.end_backends(worker)
            for event in ("claim_failed", "heartbeat_failed", "listener_lost"):
                await harness.until_logged(worker, event)
        await harness.until_logged(worker, "listener_back")
    await harness.produce(jobs=10)
    await harness.until_finished()
    await harness.leave(worker)
    await harness.must_hold()
