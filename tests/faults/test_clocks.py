"""Clocks on walls that are wrong, or jump: nothing is sent early, nothing is taken from a process that lives, and
nothing is stuck. What is due or has expired is decided by the database's clock, and trust by the monotonic one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
import trio

from requeuest_trio import Client, Request, RetryPolicy, open_requeuest
from requeuest_trio.testing import Arrival, Receiver, Reply, open_receiver
from tests.engine.probe import QueueProbe, open_probe
from tests.faults.skewed import LEASE
from tests.waiting import until

HOUR = 3_600.0
SKEWS = {"ahead": 600.0, "behind": -600.0, "jumping": 0.0}
LONG = LEASE * 1.7
"""Longer than a lease and a round of rescue: who is taken for dead would lose its job."""
DELAY = 1.0
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def write(offsets: Path, seconds: float) -> None:
    """At one stroke, since it may be read at any moment."""
    new = offsets.with_suffix(".new")
    new.write_text(f"{seconds:+.0f}")
    new.replace(offsets)


@asynccontextmanager
async def skewed(dsn: str, channel: str, offsets: Path, how: str) -> AsyncIterator[float]:
    """A process with a wrong clock; gives by how many seconds it is wrong, by its own account."""
    environment = dict(os.environ)
    if how == "libfaketime":
        environment |= {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(offsets),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    command = [sys.executable, "-m", "tests.faults.skewed", dsn, channel, str(offsets), f"--{how}"]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(trio.run_process, command, stdin=PIPE, stdout=PIPE, env=environment)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with trio.fail_after(30):
            told = await process.stdout.receive_some(100)
        yield float(told) - time.time()
        await process.stdin.aclose()


class Deliveries:
    """What each of the processes has to do: one long attempt, one that is due later, and one that fails once."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.spawned: dict[str, float] = {}
        receiver.decide = self._decide

    def _decide(self, arrival: Arrival) -> Reply:
        if arrival.target.startswith("/long"):
            return Reply(200, delay=LONG)
        is_first = sum(other.target == arrival.target for other in self.receiver.arrivals) == 1
        return Reply(503 if arrival.target.startswith("/fails") and is_first else 200)

    async def spawn(self, client: Client, channel: str) -> None:
        policy = RetryPolicy(initial=0.3, jitter=0)
        for kind, delay in (("long", 0.0), ("later", DELAY), ("fails", 0.0)):
            self.spawned[f"/{kind}/{channel}"] = trio.current_time()
            request = Request.get(f"{self.receiver.url}/{kind}/{channel}")
            await client.spawn(channel, request, delay=delay, retry=policy)

    async def judge(self, probe: QueueProbe) -> None:
        await probe.until_states(succeeded=3 * len(SKEWS))
        rows = await probe.rows("SELECT url, attempts FROM requeuest.job")
        wrong = [(url, number) for url, number in rows if number != (2 if "/fails/" in url else 1)]
        assert wrong == [], "taken from the living, or sent twice"
        assert await probe.value("SELECT count(*) FROM requeuest.attempt WHERE reached = 'unknown'") == 0


@pytest.mark.parametrize("how", ["libfaketime", "patched"])
async def test_processes_with_wrong_clocks(migrated_dsn: str, tmp_path: Path, how: str) -> None:
    """One ten minutes ahead, one as much behind, one whose clock goes back by an hour during an attempt; each of them,
    and one that is right, looks for lost jobs of the others."""
    if how == "libfaketime" and not LIBRARIES:
        pytest.skip("libfaketime is not installed (apt-get install faketime); the other variant needs nothing")
    offsets = {channel: tmp_path / channel for channel in SKEWS}
    for channel, seconds in SKEWS.items():
        write(offsets[channel], seconds)
    async with open_receiver() as receiver, open_probe(migrated_dsn) as probe:
        deliveries, later = Deliveries(receiver), dict[str, float]()
        async with (
            skewed(migrated_dsn, "ahead", offsets["ahead"], how) as ahead,
            skewed(migrated_dsn, "behind", offsets["behind"], how) as behind,
            skewed(migrated_dsn, "jumping", offsets["jumping"], how) as right,
            open_requeuest(migrated_dsn, ["nothing"], lease=LEASE) as client,
        ):
            assert [round(skew / 100) for skew in (ahead, behind, right)] == [6, -6, 0], "the clocks are not wrong"
            for channel in SKEWS:
                await deliveries.spawn(client, channel)
            await until(lambda: {a.target for a in receiver.arrivals} >= {"/long/jumping"})
            write(offsets["jumping"], -HOUR)
            for channel in SKEWS:
                target = f"/later/{channel}"
                await until(lambda: target in {a.target for a in receiver.arrivals})  # noqa: B023 - over before the next target
                later[target] = trio.current_time() - deliveries.spawned[target]
            await deliveries.judge(probe)
        assert min(later.values()) >= DELAY, "sent early"
        assert max(later.values()) < DELAY + 5


async def test_the_databases_clock_jumps_forward(migrated_dsn: str) -> None:
    """By an hour, as all that is stored shows: every lease has expired at once. A process that was not seen of late
    itself takes nothing from anybody, and so the attempt under way counts."""
    async with open_receiver() as receiver, open_probe(migrated_dsn) as probe:
        receiver.decide = lambda _: Reply(200, delay=LONG)
        async with open_requeuest(migrated_dsn, ["c"], lease=LEASE) as client:
            await trio.sleep(LEASE)  # only then is anything rescued
            job_id = await client.spawn("c", Request.get(receiver.url))
            await receiver.wait_for(1)
            await probe.rows("UPDATE requeuest.worker SET seen_at = seen_at - interval '1 h' RETURNING id")
            assert (await client.wait(job_id)).attempts == 1
        assert len(receiver.arrivals) == 1
