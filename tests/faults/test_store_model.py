"""Whatever is done to the queue, in whatever order, by the living and by the dead: PostgreSQL holds what the reference
model says, and every call returns what it says."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import trio
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from requeuest_trio import Channel, JobState
from requeuest_trio._store.claimed import Claimed, Reservation
from requeuest_trio._store.maintaining import FIRST_KEY
from requeuest_trio._store.outcomes import Report
from tests.engine.store_harness import (
    StoreHarness,
    delivered,
    gave_up,
    new_id,
    new_job,
    open_store_harness,
    to_be_retried,
)
from tests.faults.scale import scale, scaled
from tests.faults.store_model import LEASE, ModelQueue, Spawned
from tests.postgres.harness import Conn

ORDERED = "ledger"
CHANNELS = ("a", "b", ORDERED)
KEYS = (None, None, "k", "l")
EXAMPLES = 40
# Making a failure shorter takes minutes on a real database: REQUEUEST_FAULTS_SCALE=2 does it.
PHASES = tuple(Phase) if scale() > 1 else tuple(p for p in Phase if p not in {Phase.shrink, Phase.explain})

ROWS = """
SELECT id, state::text, attempts, worker, claim, ordering_key,
       ARRAY(SELECT number || reached FROM requeuest.attempt WHERE job_id = job.id ORDER BY number) FROM requeuest.job
UNION ALL SELECT id, 'registered', NULL, NULL, NULL, NULL, NULL FROM requeuest.worker
UNION ALL SELECT job_id, 'attempt of nobody', NULL, NULL, NULL, NULL, NULL FROM requeuest.attempt
          WHERE NOT EXISTS (SELECT FROM requeuest.job WHERE id = job_id)
"""
LATER = (
    "UPDATE requeuest.job SET due_at = due_at - %s, finished_at = finished_at - %s",
    "UPDATE requeuest.worker SET seen_at = seen_at - %s",
)


class Command(NamedTuple):
    """What to do; the numbers choose between what is possible then, whatever that is."""

    name: str
    one: int
    two: int


class Play:
    """The same on the model and on the store, compared after every command."""

    def __init__(self, harness: StoreHarness, connection: Conn) -> None:
        self.harness, self.connection, self.store = harness, connection, harness.on(connection)
        self.model = ModelQueue({ORDERED})
        self.workers: list[UUID] = []
        self.spawned: list[Spawned] = []
        self.claimed: list[tuple[UUID, Claimed]] = []
        """Also what is over long since: that is what zombies know."""

    async def prepare(self) -> None:
        for table in ("job", "attempt", "worker"):
            await self.harness.rows(self.connection, f"DELETE FROM requeuest.{table}")
        await self.store.set_channel(Channel(ORDERED, ordered=True))
        await self.register(0, 0)

    async def check(self) -> None:
        stored = {row[0]: row[1:] for row in await self.harness.rows(self.connection, ROWS)}
        wanted: dict[UUID, tuple[object, ...]] = {
            job_id: (job.state, job.attempts, job.worker, job.claim, job.key, _in_order(job.outcomes))
            for job_id, job in self.model.jobs.items()
        }
        assert stored == wanted | dict.fromkeys(self.model.seen, ("registered", *[None] * 5))

    # --- commands -----------------------------------------------------------------------------------------------------

    async def spawn(self, one: int, two: int) -> None:
        """One or several: also some that are there already."""
        new = [
            Spawned(new_id(), CHANNELS[(one + n) % 3], KEYS[(one // 3 + n) % 4], (one + n) % 2, 100.0 * (two % 7 == 6))
            for n in range(1 + two % 3)
        ]
        if two % 5 == 4 and self.spawned:
            new.append(self.spawned[one % len(self.spawned)])
        self.spawned += new
        self.model.spawn(new)
        jobs = [new_job(j.channel, j.key, id=j.id, priority=j.priority, delay=j.delay) for j in new]
        await self.harness.spawn(self.connection, *jobs)

    async def spawn_claimed(self, one: int, two: int) -> None:
        """Also in ordered channels, of processes that are not registered any more, and what is there already."""
        new = Spawned(new_id(), CHANNELS[two % 3], None, 0, 0.0)
        if two % 5 == 4 and self.spawned:
            new = replace(new, id=self.spawned[one % len(self.spawned)].id)
        self.spawned.append(new)
        place = Reservation(new.channel, self.worker(one), uuid4())
        job = new_job(new.channel, id=new.id)
        stored = await self.store.store([job], reservation=place)
        place.settle(job if stored.is_claimed else None)
        assert (place.job is not None) == self.model.spawn_claimed(new, place.worker, place.claim)
        if place.job is not None:
            self.claimed.append((place.worker, place.job))

    async def register(self, one: int, two: int) -> None:
        worker = await self.harness.worker(self.connection, lease=LEASE)
        self.workers.append(worker)
        self.model.seen[worker] = self.model.clock

    async def claim(self, one: int, two: int) -> None:
        worker, claim = self.worker(one), uuid4()
        places = {channel: (two + n) % 4 for n, channel in enumerate(CHANNELS) if (two + n) % 4}
        jobs, is_cut, _ = await self.store.claim(worker, claim, places)
        assert {(job.id, job.attempt) for job in jobs} == self.model.claim(worker, claim, places)
        assert not is_cut
        self.claimed += [(worker, job) for job in jobs]

    async def record(self, one: int, two: int) -> None:
        """Outcomes of one to three attempts; some are over since long, and some are written again."""
        chosen = [self.claimed[-1 - (one + n) % len(self.claimed)] for n in range(1 + two % 3) if self.claimed]
        reports: dict[UUID, Report] = {}
        for n, (_, job) in enumerate(chosen):
            how = (two + n) // 3 % 4
            reports[job.id] = (delivered, gave_up, to_be_retried, lambda j: to_be_retried(j, 100.0))[how](job)
        counted = await self.harness.record(self.connection, reports.values())
        rows = [(r.job.id, r.job.claim, str(r.outcome.state), r.outcome.retry_in or 0.0) for r in reports.values()]
        assert counted == self.model.record(rows)

    async def release(self, one: int, two: int) -> None:
        worker = self.worker(one)
        assert await self.store.release(worker) == self.model.release(worker)

    async def release_claim(self, one: int, two: int) -> None:
        """Under one claim: that of any attempt, also of another process."""
        if self.claimed:
            worker, claim = self.worker(two), self.claimed[one % len(self.claimed)][1].claim
            pairs = {(job.id, job.claim) for _, job in self.claimed if job.claim == claim}
            assert await self.store.release(worker, [claim]) == self.model.release(worker, pairs)

    async def give_back(self, one: int, two: int) -> None:
        """Single jobs, each under its claim."""
        if self.claimed:
            jobs = [self.claimed[(one + n) % len(self.claimed)][1] for n in range(1 + two % 2)]
            worker, pairs = self.claimed[one % len(self.claimed)][0], {(job.id, job.claim) for job in jobs}
            assert await self.store.release_jobs(worker, jobs) == self.model.release(worker, pairs)

    async def beat(self, one: int, two: int) -> None:
        worker = self.worker(one)
        assert (await self.store.heartbeat(worker) is not None) == (worker in self.model.seen)
        if worker in self.model.seen:
            self.model.seen[worker] = self.model.clock

    async def deregister(self, one: int, two: int) -> None:
        self.model.seen.pop(self.worker(one), None)
        await self.store.deregister(self.worker(one))

    async def rescue(self, one: int, two: int) -> None:
        rescuer = None if two % 2 else self.worker(one)
        assert await self.harness.rescue(self.connection, rescuer) == self.model.rescue(rescuer)

    async def pass_time(self, one: int, two: int) -> None:
        seconds = (20.0, 50.0, 110.0)[one % 3]
        self.model.clock += seconds
        for query in LATER:
            await self.harness.rows(self.connection, query, *[timedelta(seconds=seconds)] * query.count("%s"))

    async def prune(self, one: int, two: int) -> None:
        state, keep = (JobState.SUCCEEDED, JobState.DEAD)[one % 2], (0.0, 50.0)[two % 2]
        removed = await self.store.prune(state, timedelta(seconds=keep))
        assert removed == self.model.prune(state, keep)

    async def clear(self, one: int, two: int) -> None:
        channels, now = [CHANNELS[one % 3]], await self.store.clock()
        removed = await self.store.clear_free(channels, now)
        removed += await self.store.clear_ordered(channels, now)
        assert removed == self.model.clear(channels)

    async def look_for_stranded(self, one: int, two: int) -> None:
        """There is never anything: each step leaves every key with a head."""
        assert await self.store.free_stranded() == ({}, FIRST_KEY)

    def worker(self, number: int) -> UUID:
        return self.workers[number % len(self.workers)]


def _in_order(outcomes: dict[int, str]) -> list[str]:
    return [f"{number}{reached}" for number, reached in sorted(outcomes.items())]


OFTEN = ("spawn", "claim", "record")
NAMES = (
    *OFTEN, *OFTEN, "spawn_claimed", "register", "release", "release_claim", "give_back", "beat", "deregister",
    "rescue", "pass_time", "prune", "clear", "look_for_stranded",
)  # fmt: skip
COMMAND = st.builds(Command, st.sampled_from(NAMES), st.integers(0, 40), st.integers(0, 40))
COMMANDS = st.lists(COMMAND, min_size=50, max_size=50)


async def play(dsn: str, commands: list[Command]) -> None:
    async with open_store_harness(dsn) as harness:
        game = Play(harness, await harness.connect())
        await game.prepare()
        for command in commands:
            method: Any = getattr(game, command.name)
            await method(command.one, command.two)
            await game.check()


ZOMBIE = [
    Command("spawn", 6, 0),  # with a key
    Command("spawn", 6, 0),
    Command("claim", 0, 1),
    Command("pass_time", 2, 0),
    Command("rescue", 0, 1),
    Command("register", 0, 0),
    Command("claim", 1, 1),
    Command("record", 1, 0),
    Command("give_back", 0, 0),
    Command("record", 0, 0),
    Command("claim", 1, 1),
]


@settings(max_examples=scaled(EXAMPLES), suppress_health_check=list(HealthCheck), phases=PHASES)
@example(ZOMBIE)
@given(commands=COMMANDS)
def test_the_store_is_as_the_model(migrated_dsn: str, commands: list[Command]) -> None:
    """The database is emptied before each example, so that one will do."""
    trio.run(play, migrated_dsn, commands)
