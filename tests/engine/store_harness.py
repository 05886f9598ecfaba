"""The store on real connections, one statement at a time: what the tests of `_store` work with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from requeuest_trio import Request
from requeuest_trio._model.job import Reached
from requeuest_trio._model.outcome import Answer, Outcome
from requeuest_trio._model.states import JobState
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.claimed import Claimed
from requeuest_trio._store.maintaining import Sign
from requeuest_trio._store.new_jobs import NewJob
from requeuest_trio._store.notifications import Notifications
from requeuest_trio._store.outcomes import Report
from requeuest_trio._store.queries import Queries
from requeuest_trio._store.statements import OneConnection
from requeuest_trio._store.store import Store
from tests.poolers import direct
from tests.postgres.harness import Conn

LIMITS = {
    "statement_timeout": "20s",
    "lock_timeout": "10s",
    "idle_timeout": "60s",
    "plan_cache_mode": "force_generic_plan",
}
SCHEMA = "requeuest"
REQUEST = Request.post("http://receiver.test/hook", json={"order": 7})


_numbers = count(1)


def new_id() -> UUID:
    """Ids in a sure order, which those of one millisecond do not have."""
    return UUID(int=0x0197_0000_0000_7000_8000 << 48 | next(_numbers))


def new_job(channel: str = "c", key: str | None = None, **options: Any) -> NewJob:
    """A job as a client makes it."""
    options.setdefault("id", new_id())
    options.setdefault("request", REQUEST)
    return NewJob(channel=channel, ordering_key=key, **options)


def outcome(state: JobState, *, retry_in: float = 0.0, status: int = 200, body: bytes = b"ok") -> Outcome:
    """What came of an attempt that got an answer."""
    answer = Answer(status, (("X-Answer", "1"),), body)
    error = None if state is JobState.SUCCEEDED else f"status {status} is not accepted"
    return Outcome(
        state, Reached.RESPONSE, retry_in=retry_in if state is JobState.AVAILABLE else None, answer=answer, error=error
    )


def delivered(job: Claimed, **options: Any) -> Report:
    return Report(job, outcome(JobState.SUCCEEDED, **options), started=0.0, duration=0.1)


def gave_up(job: Claimed) -> Report:
    return Report(job, outcome(JobState.DEAD, status=404), started=0.0, duration=0.1)


def to_be_retried(job: Claimed, retry_in: float = 0.0) -> Report:
    return Report(job, outcome(JobState.AVAILABLE, retry_in=retry_in, status=503), started=0.0, duration=0.1)


def store_on(connection: Conn) -> Store:
    """The store on one connection, within the transaction that is open there."""
    return Store(OneConnection(connection), Queries(SCHEMA), Notifications(SCHEMA, Emitter()))


class StoreHarness:
    """A migrated database, connections to it as the library has them, and the store."""

    def __init__(self, dsn: str, stack: AsyncExitStack) -> None:
        self.dsn = dsn
        self.queries = Queries(SCHEMA)
        self.notifications = Notifications(SCHEMA, Emitter())
        self._stack = stack

    def on(self, connection: Conn) -> Store:
        return Store(OneConnection(connection), self.queries, self.notifications)

    async def connect(self, *, autocommit: bool = True) -> Conn:
        """A connection as the library's pools make it."""
        connection = await self._stack.enter_async_context(
            await TrioConnection.connect(direct(self.dsn), autocommit=autocommit)
        )
        await connection.execute(self.queries["configure"], {**LIMITS, "is_local": False})
        await connection.commit()
        return connection

    async def worker(self, connection: Conn, *, lease: float = 30.0) -> UUID:
        """A registered process."""
        worker = uuid4()
        await self.on(connection).register(worker, lease)
        return worker

    async def lost(self, connection: Conn, *, leases: float = 1) -> list[Sign]:
        """The last signs of processes that have not been seen for so many leases, by a clock that nobody has set."""
        old = await self.rows(connection, "SELECT id FROM requeuest.worker WHERE seen_at + lease * %s < now()", leases)
        return [sign for sign in await self.on(connection).signs_of_life() if (sign.worker,) in old]

    async def rescue(self, connection: Conn, rescuer: UUID | None = None) -> int:
        """As a process does that has watched the others for long enough."""
        rescued = await self.on(connection).rescue(rescuer, await self.lost(connection))
        if not rescued:
            await self.on(connection).forget(await self.lost(connection, leases=2))
        return rescued

    async def spawn(self, connection: Conn, *jobs: NewJob) -> list[UUID]:
        """Store jobs, and return their ids."""
        await self.on(connection).spawn(jobs)
        return [job.id for job in jobs]

    async def claim(self, connection: Conn, worker: UUID, places: Mapping[str, int] | int = 10) -> list[Claimed]:
        """Claim under a token of its own; a number means places of the channel `c`."""
        wanted = {"c": places} if isinstance(places, int) else dict(places)
        jobs, *_ = await self.on(connection).claim(worker, uuid4(), wanted)
        return jobs

    async def record(self, connection: Conn, reports: Iterable[Report]) -> set[UUID]:
        """Write outcomes, and return the ids that counted."""
        reports = list(reports)
        stale, *_ = await self.on(connection).record(reports, now=0.0, excerpt=1_024)
        return {report.job.id for report in reports} - stale

    async def rows(self, connection: Conn, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement of the test's own."""
        cursor = await connection.execute(query.encode(), parameters or None)
        return await cursor.fetchall() if cursor.description else []

    async def states(self, connection: Conn) -> list[str]:
        """The states of all jobs, in the order in which they were made."""
        return [state for (state,) in await self.rows(connection, "SELECT state::text FROM requeuest.job ORDER BY id")]


@asynccontextmanager
async def open_store_harness(dsn: str) -> AsyncIterator[StoreHarness]:
    async with AsyncExitStack() as stack:
        yield StoreHarness(dsn, stack)
