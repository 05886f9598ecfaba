"""
A short life of a runner, broken off at each of its steps in turn, and by signals.

Wherever it is broken off: every job that was accepted is delivered or available, none is running, and nothing is left
of the runner. Afterwards an undisturbed runner delivers the rest.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import pytest
import trio

from requeuest_trio import Request, open_requeuest
from requeuest_trio._engine.dispatcher import Dispatcher
from requeuest_trio._engine.runner import Runner
from requeuest_trio.testing import Receiver, Stall
from tests.engine.probe import QueueProbe, nothing_left
from tests.postgres.harness import AtCheckpoint
from tests.waiting import until


class AtStep(trio.abc.Instrument):
    """Does something after the k-th step of any task, counted from 1."""

    def __init__(self, k: int, action: Callable[[], object]) -> None:
        self._k = k
        self._action = action
        self.reached = 0

    def after_task_step(self, _: trio.lowlevel.Task) -> None:
        self.reached += 1
        if self.reached == self._k:
            self._action()

    def __enter__(self) -> "AtStep":
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)


class Life:
    """Opens a queue, spawns three jobs, waits for one, and leaves."""

    def __init__(self, probe: QueueProbe, receiver: Receiver) -> None:
        self._eye = probe
        self._receiver = receiver
        self.accepted: list[UUID] = []

    async def live(self, instrument: type[AtCheckpoint] | type[AtStep], k: int) -> int:
        """Returns how many steps were reached before the end, or the cancellation."""
        with trio.CancelScope() as scope, instrument(k, scope.cancel) as steps:
            async with open_requeuest(self._eye.dsn) as client:
                for number in range(3):
                    request = Request.get(f"{self._receiver.url}/{number}")
                    self.accepted.append(await client.spawn(f"channel-{number}", request))
                await client.wait(self.accepted[-1])
        return steps.reached

    async def check(self) -> None:
        states = dict(await self._eye.rows("select id, state::text from requeuest.job"))
        assert {states[job_id] for job_id in self.accepted} <= {"succeeded", "available"}
        assert "running" not in states.values()

    async def finish(self) -> None:
        """Everything that was accepted, or stored unnoticed, is delivered in the end; what was recorded, once."""
        async with open_requeuest(self._eye.dsn):

            async def done() -> bool:
                return (await self._eye.states()).keys() <= {"succeeded"}

            await until(done, patience=20)
        keys = {arrival.header("idempotency-key") for arrival in self._receiver.arrivals}
        assert {str(job_id) for job_id in self.accepted} <= keys
        assert len(keys) == await self._eye.value("select count(*) from requeuest.job")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("instrument", [AtCheckpoint, AtStep], ids=["own", "any"])
async def test_cancelled_at_the_kth_step(
    probe: QueueProbe, receiver: Receiver, instrument: type[AtCheckpoint] | type[AtStep]
) -> None:
    life = Life(probe, receiver)
    async with nothing_left(probe):
        steps = await life.live(instrument, -1)
        # Of the block's own steps each; of those of all tasks together, which are ten times as many, some.
        for k in range(1, steps + 1, 1 if instrument is AtCheckpoint else max(1, steps // 40)):
            async with nothing_left(probe):
                await life.live(instrument, k)
                await life.check()
        await life.finish()


async def test_opened_in_a_cancelled_scope(probe: QueueProbe) -> None:
    async with nothing_left(probe):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with open_requeuest(probe.dsn):
                raise AssertionError("not reached")
        assert scope.cancelled_caught


@pytest.mark.parametrize("moment", ["drain", "finish"])
async def test_cancelled_while_it_ends(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    receiver.decide = lambda _: Stall()
    scope = trio.CancelScope()
    wait, sign_off = Dispatcher.wait_until_idle, Runner._sign_off

    async def cancelled_drain(self: Dispatcher) -> None:
        scope.cancel()
        await wait(self)

    async def cancelled_finish(self: Runner) -> Exception | None:
        scope.cancel()
        return await sign_off(self)

    if moment == "drain":
        monkeypatch.setattr(Dispatcher, "wait_until_idle", cancelled_drain)
    else:
        monkeypatch.setattr(Runner, "_sign_off", cancelled_finish)
    async with nothing_left(probe):
        with scope:
            async with open_requeuest(probe.dsn, grace=600 if moment == "drain" else 0) as client:
                await client.spawn("a", Request.get(receiver.url))
                await receiver.wait_for(1)
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert await probe.rows("select state::text, attempts from requeuest.job") == [("available", 0)]


PROGRAM = """
import sys, trio
from requeuest_trio import Request, open_requeuest

async def main():
    async with open_requeuest(sys.argv[1], grace=600) as client:
        await client.spawn_many("a", [Request.get(sys.argv[2])] * 3)
        await trio.to_thread.run_sync(sys.stdin.readline)  # until all are being sent: what is not, leaving gives back
        print("leaving" if sys.argv[3] == "drain" else "staying", flush=True)
        if sys.argv[3] == "body":
            await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("where", ["body", "drain"])
async def test_a_real_interrupt(probe: QueueProbe, receiver: Receiver, where: str) -> None:
    receiver.decide = lambda _: Stall()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", PROGRAM, probe.dsn, receiver.url, where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with trio.fail_after(30):
            await receiver.wait_for(3)
            await process.stdin.send_all(b"\n")
            await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        with trio.fail_after(10):
            output = b"".join([chunk async for chunk in process.stderr]).decode()
            await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            await stream.aclose()
    assert output.rstrip().endswith("KeyboardInterrupt")
    assert "Exception Group" not in output
    assert process.returncode == -signal.SIGINT
    assert await probe.rows("select distinct state::text, attempts from requeuest.job") == [("available", 0)]
    assert await probe.value("select count(*) from requeuest.worker") == 0
