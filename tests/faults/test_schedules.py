"""Tasks in any order, statements that fail anywhere, and an end at any step: every outcome is written or still told to
be unwritten, what is unfinished is handed back, no task survives, and no exception is swallowed.

A real runner (dispatcher, workers, recorder, heartbeat, maintenance) on a fake store and on virtual time. Trio runs the
tasks of a round in an order that comes from the seed.
"""

from __future__ import annotations

import importlib
import random
from collections import Counter
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from requeuest_trio import Config, Reached, Request, RetryPolicy
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.readiness import Readiness
from requeuest_trio._engine.runner import FINISH_SECONDS, Runner
from requeuest_trio._engine.wake_ups import WakeUps
from requeuest_trio._model.outcome import Answer, Delivery
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.claimed import Claimed, StoredRequest
from requeuest_trio._store.store import Store
from requeuest_trio._waiters import Waiters
from requeuest_trio._wiring import Options, wire_runner
from tests.engine.store_harness import new_id
from tests.faults.fake_store import FakeDatabase, FakeQueue, FakeStore
from tests.faults.scale import scaled
from tests.faults.store_model import LEASE, Spawned

SEEDS, AT_A_TIME = 200, 100  # REQUEUEST_FAULTS_SCALE=5: a thousand
JOBS = 12
POLICY = RetryPolicy(initial=0.05, jitter=0, max_attempts=4)
CONFIG = Config(max_running=8)


class FakeSender:
    """Sends nothing, and knows what it would have sent."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.ended: Counter[str] = Counter()
        self.in_flight: Counter[str] = Counter()

    async def send(
        self, request: Request, progress: object, added: tuple[tuple[str, str], ...], channel: str
    ) -> Delivery:
        [(_, job)] = added
        self.in_flight[job] += 1
        assert self.in_flight[job] == 1, "two attempts of a job at once"
        try:
            await trio.sleep(self.chance.choice([0, 0.001, 0.01, 0.2]))
        finally:
            self.in_flight[job] -= 1
        self.ended[job] += 1
        return Delivery(Reached.RESPONSE, Answer(self.chance.choice([200, 200, 503]), (), b""))


def claimed(job: Spawned, claim: UUID, attempt: int) -> Claimed:
    return Claimed(
        claim=claim, id=job.id, channel=job.channel, ordering_key=None, attempt=attempt,
        request=StoredRequest("POST", "http://x.test/", "[]", b"", "{[200,300)}", None, False),
        retry='{"initial": 0.05, "jitter": 0, "max_attempts": 4}',
    )  # fmt: skip


class AtStep(trio.abc.Instrument):
    """Does something before the k-th step of any task."""

    def __init__(self, k: int, event: trio.Event) -> None:
        self.left, self.event = k, event

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.event.set()


class Scenario:
    """All that comes from one seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.jobs = [Spawned(new_id(), f"c{n % 3}", None, 0, 0.0) for n in range(JOBS)]
        self.queue, self.sender = FakeQueue(self.jobs, claimed), FakeSender(self.chance)
        self.claims, self.records = [FakeDatabase(self.chance) for _ in range(2)]
        self.failing = self.chance.choice([0, 0, 0.05, 0.3])
        self.how = self.chance.choice(["cancelled", "drained", "a bug", "cancelled and the database gone"])
        self.steps = self.chance.randrange(1, 900)
        self.runner: Runner

    async def run(self) -> None:
        """Start a runner, and end it at some step, as `open_requeuest` does."""
        readiness = Readiness(frozenset({"c0", "c1", "c2"}), 0.5)
        wake_ups = WakeUps(readiness)
        waiters = Waiters(cast("Any", None), wake_ups.stored, Emitter(), poll_interval=5.0)
        options = Options(frozenset({"c0", "c1", "c2"}), (), 3, LEASE, 0.5, CONFIG)
        claims, records = [cast("Store", FakeStore(one, self.queue)) for one in (self.claims, self.records)]
        sender, bodies = cast("Any", self.sender), cast("Any", None)
        lease = Lease(LEASE, trio.current_time)
        self.runner = wire_runner(
            claims, records, bodies, sender, waiters, readiness, wake_ups, lease, options, Emitter()
        )
        now = trio.Event()
        instrument = AtStep(self.steps, now)
        try:
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                await self._start(nursery)
                trio.lowlevel.add_instrument(instrument)
                await now.wait()
                await self._end(nursery)
        finally:
            trio.lowlevel.remove_instrument(instrument)
            self.queue.bug = None
            with trio.move_on_after(FINISH_SECONDS, shield=True) as finishing:
                await self.runner.finish()
            assert not finishing.cancelled_caught or self.failing

    async def _start(self, nursery: trio.Nursery) -> None:
        await self.runner.start(nursery)
        self._fail(self.failing)

    def _fail(self, how_often: float) -> None:
        self.failing = self.claims.failing = self.records.failing = how_often

    async def _end(self, nursery: trio.Nursery) -> None:
        match self.how:
            case "drained":
                await self.runner.drain(10.0)
            case "a bug":
                self.queue.bug = ZeroDivisionError("a bug")
                # Not before there is something to be recorded, which there need not be at all.
                await trio.sleep(30)
            case "cancelled and the database gone":
                self._fail(1.0)
        nursery.cancel_scope.cancel()

    def judge(self) -> None:
        """Nothing is lost, nothing is done twice, and what could not be written is told."""
        jobs = self.queue.queue.jobs
        unwritten = self.runner.recorder.backlog
        assert set(self.queue.recorded.values()) <= {1}, "an outcome counted twice"
        if not self.failing:
            assert not [job for job in jobs.values() if job.state == "running"], "something was not handed back"
            if self.how != "a bug":
                assert unwritten == 0, "an outcome was neither written nor told of"
        recorded = Counter(str(job_id) for job_id, _ in self.queue.recorded.elements())
        missing = sum((self.sender.ended - recorded).values())
        assert missing <= unwritten, "an attempt has ended, and nobody knows of it"
        assert sum(recorded.values()) <= sum(job.attempts for job in jobs.values())


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trio's source of chance, and its permission to be told what to do, as Hypothesis's plugin for Trio has them."""
    run: Any = importlib.import_module("trio._core._run")
    monkeypatch.setattr(run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    return lambda seed: monkeypatch.setattr(run, "_r", random.Random(seed))


def play(seed: int) -> Scenario:
    """One run, to its end, which is that of all its tasks."""
    scenarios: list[Scenario] = []

    async def main() -> None:
        scenario = Scenario(seed)
        scenarios.append(scenario)
        before = trio.lowlevel.current_statistics().tasks_living
        came_out = False
        try:
            await scenario.run()
        except* ZeroDivisionError:
            came_out = True
        assert came_out == scenario.queue.bug_was_met, "an exception was swallowed"
        assert trio.lowlevel.current_statistics().tasks_living == before

    trio.run(main, clock=MockClock(autojump_threshold=0))
    scenarios[0].judge()
    return scenarios[0]


@pytest.mark.parametrize("first", range(0, scaled(SEEDS), AT_A_TIME))
def test_whatever_the_schedule_and_wherever_it_ends_no_outcome_is_lost(deterministic: Any, first: int) -> None:
    ends = Counter[str]()
    for seed in range(first, first + AT_A_TIME):
        deterministic(seed)
        try:
            scenario = play(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        ends[scenario.how] += bool(scenario.sender.ended)
        ends["bug met"] += scenario.queue.bug_was_met
        ends["unfinished"] += any(job.state == "available" for job in scenario.queue.queue.jobs.values())
    assert min(ends.values()) > 0, "too little happened to prove anything"
    assert len(ends) == 6


def test_a_seed_gives_the_same_schedule_again(deterministic: Any) -> None:
    """Otherwise a failure could not be looked into."""
    for seed in (1, 2, 3):
        counts = []
        for _ in range(2):
            deterministic(seed)
            scenario = play(seed)
            counts.append((sorted(scenario.sender.ended.values()), scenario.runner.recorder.backlog))
        assert counts[0] == counts[1]
