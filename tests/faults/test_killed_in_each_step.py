"""
A worker that is killed in each step of an attempt, and what then becomes of the job.

The steps are held open from outside: by a receiver that does not accept, does not answer, or answers in part; and by
locks, for what goes on between worker and database.
"""

import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import trio

from tests.faults.arrivals import Answer
from tests.faults.fault_harness import CLAIM, RECORD, FaultHarness
from tests.faults.history import History
from tests.faults.processes import Program
from tests.waiting import until


class Fate(NamedTuple):
    """What has become of a job in the end."""

    state: str
    attempts: int
    arrivals: int
    first: str
    """How far its first attempt came, as it is written down."""


LEASE = 5.0
"""A lease that no worker loses before it is killed, and with which a statement waits for locks long enough to be caught
at it."""

LOST_UNSENT = Fate("succeeded", attempts=2, arrivals=1, first="unknown")
LOST_SENT = Fate("succeeded", attempts=2, arrivals=2, first="unknown")
LOST_AND_UNREACHABLE = Fate("dead", attempts=2, arrivals=0, first="unknown")


class Scene:
    """One worker with one job or more, on a channel of their own."""

    def __init__(self, harness: FaultHarness, name: str) -> None:
        self.harness = harness
        self.name = name
        self.arrived = 0
        """Before it, at the receiver."""
        self.jobs: frozenset[UUID] | None = None
        """Of those on the channel, the ones that this is about. None: all."""

    async def spawn(self, **orders: Any) -> None:
        retry = {"initial": 0.3, "jitter": 0.0, "max_attempts": 9}
        await self.harness.produce(channels=[self.name], **{"jobs": 1, "retry": retry, **orders})

    async def work(self, **terms: Any) -> Program:
        return await self.harness.start_worker(f"worker {self.name}", channels=[self.name], lease=LEASE, **terms)

    async def arrival(self) -> None:
        await self.harness.until_arrived(self.arrived + 1)

    async def until_job(self, condition: str) -> None:
        await self.harness.until_true(f"select {condition} from requeuest.job where channel = %s", self.name)

    def fates(self, history: History) -> set[Fate]:
        """What has become of its jobs."""
        arrivals = Counter(arrival.job for arrival in history.arrivals)
        first = {attempt.job: attempt.reached for attempt in history.attempts if attempt.number == 1}
        return {
            Fate(job.state, job.attempts, arrivals[job.id], first[job.id])
            for job in history.jobs
            if job.channel == self.name and (self.jobs is None or job.id in self.jobs)
        }


async def claimed(scene: Scene) -> None:
    await scene.spawn()
    async with scene.harness.locked("job"):
        worker = await scene.work()
        await scene.harness.until_held_up(worker, CLAIM)
        await worker.freeze()
    await scene.until_job("state = 'running'")
    await scene.harness.kill(worker)


async def waiting_for_a_place(scene: Scene) -> None:
    """Claimed ahead, because the places of the channel were so quick."""
    await scene.harness.answer(Answer(delay=0.005))
    await scene.spawn(jobs=500, largest_batch=100)
    worker = await scene.work(concurrency=1)
    await scene.until_job("count(*) filter (where state = 'running') > 3")
    await worker.freeze()
    held = await scene.harness.held_in_the_end(worker)
    await scene.harness.answer_from_now(Answer())
    scene.jobs = held - {arrival.job for arrival in scene.harness.arrivals()}
    await scene.harness.kill(worker)


async def resolving(scene: Scene) -> None:
    await scene.spawn(url=scene.harness.url.replace("127.0.0.1", "localhost"))
    worker = await scene.work(unknown_name="localhost")
    await worker.said("resolving")
    await scene.harness.kill(worker)


async def connecting(scene: Scene) -> None:
    with listening() as listener, filled(listener):
        port = listener.getsockname()[1]
        await scene.spawn(url=f"http://127.0.0.1:{port}/", retry={"max_attempts": 1})
        worker = await scene.work()
        await until(lambda: is_connecting(port))
        await scene.harness.kill(worker)


async def negotiating_tls(scene: Scene) -> None:
    with listening() as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        await scene.spawn(url=url, retry={"max_attempts": 1})
        worker = await scene.work()
        connection, _ = await trio.socket.from_stdlib_socket(listener).accept()
        with connection:
            assert await connection.recv(1), "the handshake has begun"
            await scene.harness.kill(worker)


async def waiting_for_the_answer(scene: Scene) -> None:
    await scene.harness.answer(Answer(manner="never"), Answer())
    await scene.spawn()
    worker = await scene.work()
    await scene.arrival()
    await scene.harness.kill(worker)


async def reading_the_answer(scene: Scene) -> None:
    await scene.harness.answer(Answer(manner="half"), Answer())
    await scene.spawn()
    worker = await scene.work()
    await scene.arrival()
    await scene.harness.kill(worker)


async def waiting_for_the_recorder(scene: Scene) -> None:
    """It is at work for another job, which was answered sooner."""
    await scene.harness.answer(Answer(delay=0.2), Answer())
    with listening() as listener:
        async with scene.harness.locked("attempt"):
            await scene.spawn()
            scene.jobs = frozenset(spawn.job for spawn in scene.harness.spawns() if spawn.channel == scene.name)
            await scene.spawn(url=f"http://127.0.0.1:{listener.getsockname()[1]}/", retry={"max_attempts": 1})
            worker = await scene.work(level="DEBUG")
            await answer_one(listener)
            await scene.harness.until_held_up(worker, RECORD)
            await scene.harness.until_logged(worker, "attempt", 2)
            await scene.harness.kill(worker)
            await scene.harness.end_backends(worker)


@asynccontextmanager
async def recording(scene: Scene, *answers: Answer) -> AsyncIterator[Program]:
    """The outcome is on its way to the database for as long as this block lasts."""
    await scene.harness.answer(*answers)
    async with scene.harness.locked("attempt"):
        await scene.spawn()
        worker = await scene.work()
        await scene.arrival()
        await scene.harness.until_held_up(worker, RECORD)
        yield worker


async def recording_a_success(scene: Scene) -> None:
    async with recording(scene, Answer()) as worker:
        await scene.harness.kill(worker)
        await scene.harness.end_backends(worker)


async def recording_a_failure(scene: Scene) -> None:
    async with recording(scene, Answer(status=503), Answer()) as worker:
        await scene.harness.kill(worker)
        await scene.harness.end_backends(worker)


async def waiting_for_the_confirmation(scene: Scene) -> None:
    async with recording(scene, Answer()) as worker:
        await worker.freeze()
    await scene.until_job("finished_at is not null")
    await scene.harness.kill(worker)


async def waiting_for_the_next_try(scene: Scene) -> None:
    await scene.harness.answer(Answer(status=503), Answer())
    await scene.spawn()
    worker = await scene.work()
    await scene.until_job("state = 'available' and attempts = 1")
    await scene.harness.kill(worker)


STEPS: dict[Callable[[Scene], Awaitable[None]], Fate] = {
    claimed: LOST_UNSENT,
    waiting_for_the_confirmation: Fate("succeeded", attempts=1, arrivals=1, first="response"),
    waiting_for_the_recorder: LOST_SENT,
    waiting_for_a_place: LOST_UNSENT,
    resolving: LOST_UNSENT,
    connecting: LOST_AND_UNREACHABLE,
    negotiating_tls: LOST_AND_UNREACHABLE,
    waiting_for_the_answer: LOST_SENT,
    reading_the_answer: LOST_SENT,
    recording_a_success: LOST_SENT,
    recording_a_failure: LOST_SENT,
    waiting_for_the_next_try: Fate("succeeded", attempts=2, arrivals=2, first="response"),
}


async def test_a_worker_may_be_killed_in_each_step_of_an_attempt(harness: FaultHarness) -> None:
    """All of them in turn, each with jobs of its own; then one worker for what they left."""
    await harness.start_receiver(Answer())
    scenes = [Scene(harness, step.__name__) for step in STEPS]
    for step, scene in zip(STEPS, scenes, strict=True):
        scene.arrived = len(harness.arrivals())
        await step(scene)
    await harness.answer(Answer())
    with harness.fault("nobody is there to see who is lost"):
        await harness.start_worker(lease=LEASE)
    await harness.until_finished()
    history = await harness.must_hold()
    fates = {scene.name: scene.fates(history) for scene in scenes}
    assert fates == {step.__name__: {fate} for step, fate in STEPS.items()}


# --- receivers that do not get far ------------------------------------------------------------------------------------


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket that connections can be made to; who accepts them is another matter."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        listener.setblocking(False)
        yield listener


async def answer_one(listener: socket.socket) -> None:
    """The first request, with a success."""
    connection, _ = await trio.socket.from_stdlib_socket(listener).accept()
    with connection:
        assert await connection.recv(65_536)
        await connection.send(b"HTTP/1.1 204 \r\n\r\n")


@contextmanager
def filled(listener: socket.socket) -> Iterator[None]:
    """Nobody else can connect, because nobody is accepted."""
    with socket.socket() as first:
        first.connect(listener.getsockname())
        yield


def is_connecting(port: int) -> bool:
    """Whether somebody is trying to connect to a port of this machine: SYN_SENT in the kernel's table."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)
