"""
Promises 2, 3 and 7: a process whose event loop stands still for two leases does no harm when it goes on.

What could go wrong, and is tried here: it goes on sending what others have taken over; its outcome overwrites theirs;
it claims more before it has renewed its lease; it never recovers; nobody can see what the matter was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from requeuest_trio import Request, open_requeuest
from requeuest_trio.testing import Receiver, Reply, Stall
from tests.engine.probe import QueueProbe
from tests.http.hostile import raw_server, read_head
from tests.http.recording import OK
from tests.waiting import until

LEASE = 1.0
JOBS = 3
LARGE = b"x" * 10_000_000
"""More than the kernel takes over."""
QUIET = 0.2


class Stalling:
    """The other process."""

    def __init__(self, process: trio.Process, may_go_on: Path) -> None:
        self._process = process
        self._may_go_on = may_go_on
        self.told: list[dict[str, Any]] = []

    async def read(self) -> None:
        rest = b""
        assert self._process.stdout is not None
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self.told += map(json.loads, lines)

    async def wait_for(self, event: str) -> dict[str, Any]:
        await until(lambda: self.all(event))
        return self.all(event)[0]

    def all(self, event: str) -> list[dict[str, Any]]:
        return [told for told in self.told if told["event"] == event]

    async def block(self) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(b"block\n")
        await self.wait_for("blocked")

    def go_on(self) -> None:
        self._may_go_on.touch()


@asynccontextmanager
async def stalling_worker(probe: QueueProbe, directory: Path) -> AsyncIterator[Stalling]:
    may_go_on = directory / "may-go-on"
    command = [sys.executable, "-m", "tests.faults.stalling", probe.dsn, str(LEASE), str(may_go_on), "/hook"]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    worker = Stalling(process, may_go_on)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.read)
            await worker.wait_for("opened")
            yield worker
            worker.go_on()
            assert process.stdin is not None
            await process.stdin.aclose()
            with trio.fail_after(10):
                assert await process.wait() == 0
        [closed] = worker.all("closed")
        assert closed["released"] == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def at_least_two_leases_after(began: float) -> None:
    await trio.sleep_until(began + 2 * LEASE)


async def test_a_process_that_stood_still_sends_nothing_more_and_recovers(
    probe: QueueProbe, receiver: Receiver, tmp_path: Path
) -> None:
    """A blocking call in the host program, with attempts under way."""
    receiver.script(*[Stall()] * JOBS)
    async with stalling_worker(probe, tmp_path) as stalled, open_requeuest(probe.dsn, (), poll_interval=0.1) as client:
        ids = await client.spawn_many("shared", [Request.get(receiver.url)] * JOBS)
        await receiver.wait_for(JOBS)
        await stalled.block()
        began = trio.current_time()
        async with open_requeuest(probe.dsn, ["shared"], lease=LEASE) as other:
            for job_id in ids:
                await other.wait(job_id)
                [lost, delivered] = await other.attempts(job_id)
                assert (lost.number, lost.reached, delivered.number, delivered.status) == (1, "unknown", 2, 200)
        await at_least_two_leases_after(began)
        stalled.go_on()
        went_on = trio.current_time()

        assert (await stalled.wait_for("lease_lost"))["cut_short"] == JOBS
        assert 2 * LEASE - 0.35 < (await stalled.wait_for("stats"))["loop_lag"] < went_on - began + 1
        assert (await stalled.wait_for("loop_stalled"))["lag"] > 2 * LEASE - 0.35

        # It is a worker like any other again.
        last = await client.spawn("own", Request.get(receiver.url + "/last"))
        await client.wait(last)
        assert await probe.job(last) == ("succeeded", 1, None)
        assert (await stalled.wait_for("outcomes_stale"))["jobs"] == JOBS
        for job_id in ids:
            assert await probe.job(job_id) == ("succeeded", 2, None)
    assert [arrival.target for arrival in receiver.arrivals] == ["/"] * 2 * JOBS + ["/last"]


class HalfRead:
    """Reads a part of the first request that comes, and the rest of what was sent of it when told; answers others."""

    def __init__(self) -> None:
        self.has_begun, self.may_drain, self.is_drained = trio.Event(), trio.Event(), trio.Event()
        self.sent_before = self.sent_after = 0

    async def handle(self, stream: trio.abc.Stream) -> None:
        if self.has_begun.is_set():
            await read_head(stream)
            with trio.move_on_after(QUIET) as quiet:
                while await stream.receive_some():
                    quiet.deadline = trio.current_time() + QUIET
            await stream.send_all(OK)
            return
        self.sent_before += len(await stream.receive_some(1_000))
        self.has_begun.set()
        await self.may_drain.wait()
        with trio.move_on_after(QUIET) as quiet:
            while data := await stream.receive_some():
                self.sent_before += len(data)
                quiet.deadline = trio.current_time() + QUIET
        self.is_drained.set()
        while data := await stream.receive_some():
            self.sent_after += len(data)


async def test_a_request_half_sent_is_not_sent_on(probe: QueueProbe, tmp_path: Path) -> None:
    """The other has delivered it meanwhile: this one's last bytes would make it arrive whole a second time."""
    half = HalfRead()
    async with (
        raw_server(half.handle) as server,
        stalling_worker(probe, tmp_path) as stalled,
        open_requeuest(probe.dsn, (), poll_interval=0.1) as client,
    ):
        job_id = await client.spawn("shared", Request.post(server.url, content=LARGE))
        await half.has_begun.wait()
        await stalled.block()
        began = trio.current_time()
        async with open_requeuest(probe.dsn, ["shared"], lease=LEASE) as other:
            await other.wait(job_id)
        await at_least_two_leases_after(began)
        half.may_drain.set()
        await half.is_drained.wait()
        assert half.sent_before < len(LARGE)
        stalled.go_on()
        await stalled.wait_for("lease_lost")
        await server.wait_empty()
        assert half.sent_after == 0
        assert await probe.job(job_id) == ("succeeded", 2, None)


async def test_the_outcome_of_a_hook_that_blocked_is_refused(
    probe: QueueProbe, receiver: Receiver, tmp_path: Path
) -> None:
    """It has an answer when it goes on, and another process is sending the same job."""
    receiver.script(Reply(200, body=b"late"), Reply(202, delay=2.5 * LEASE, body=b"counts"))
    async with stalling_worker(probe, tmp_path) as stalled, open_requeuest(probe.dsn, (), poll_interval=0.1) as client:
        job_id = await client.spawn("shared", Request.get(receiver.url + "/hook"))
        await stalled.wait_for("blocked")
        began = trio.current_time()
        async with open_requeuest(probe.dsn, ["shared"], lease=LEASE) as other:
            await receiver.wait_for(2)
            await at_least_two_leases_after(began)
            claim = await probe.value("select claim from requeuest.job")
            stalled.go_on()
            assert (await stalled.wait_for("outcomes_stale"))["jobs"] == 1
            assert await probe.value("select claim from requeuest.job") == claim
            response = await other.result(job_id)
            assert (response.status_code, response.content) == (202, b"counts")
            [lost, delivered] = await other.attempts(job_id)
            assert (lost.number, lost.reached, delivered.number, delivered.status) == (1, "unknown", 2, 202)
    assert len(receiver.arrivals) == 2


async def test_the_lag_is_shown_also_by_a_process_that_only_enqueues(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, ()) as client:
        await trio.lowlevel.checkpoint()
        before = (await client.stats()).loop_lag
        assert 0 <= before < 5
        time.sleep(before + 0.7)  # noqa: ASYNC251 - this is the stall
        assert before + 0.25 < (await client.stats()).loop_lag
