"""The queue in PostgreSQL: what each query of queries.sql does, as a method.

Every method takes the connection to use, so that the caller decides about connections and transactions.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncCursor, errors
from psycopg.rows import tuple_row

from requeuest_trio._model.channel import Channel
from requeuest_trio._model.job import Attempt, Job
from requeuest_trio._model.states import FINISHED, JobState
from requeuest_trio._observe import events
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.rows import Claimed, Report, attempt_from_row, job_from_row, outcome_rows
from requeuest_trio._store.statements import Key, Keys, key_columns
from requeuest_trio._store.storing import Storing
from requeuest_trio._store.waits import Waits

__all__ = ["FIRST_KEY", "TOO_LARGE", "Claims", "Keys", "Sign", "Store"]

FIRST_KEY: Key = ("", "")
"""Where a walk over all ordering keys begins: before the first of them."""

TOO_LARGE = "it is larger than a job may be"
_LOST = "the process that made this attempt was lost before it could record the outcome"


# A claim's answer has to be had within a third of a lease, over a slow network too.
_MAX_CLAIM_BYTES = 4 * 1_048_576


class Claims(NamedTuple):
    """What a claim has found."""

    jobs: list[Claimed]
    is_cut: bool
    """Whether there may be more that it could have taken."""
    oversized: list[UUID]
    """Jobs that are larger than a job may be. They were left as they are."""


class Recorded(NamedTuple):
    """What became of outcomes that were to be written."""

    stale: set[UUID]
    """Jobs that were not held under the claim any more, whose outcomes were left out."""
    unblocked: dict[str, float]
    """Channels of jobs that became available, with their waits."""
    busy: Keys
    """Ordering keys whose next jobs are still to be unblocked, because an application's transaction has them."""


class Sign(NamedTuple):
    """That a process lives, or has lived."""

    worker: UUID
    seen_at: str
    """By the database's clock, which may be set at any time: good for nothing but to be compared with itself."""
    lease: float
    """Of the process, in seconds."""


class Store(Storing):
    """All statements on one schema."""

    async def set_channel(self, connection: TrioConnection, channel: Channel) -> None:
        """Keep a channel's settings."""
        await self._execute(connection, "set_channel", name=channel.name, ordered=channel.ordered)

    # --- delivering ---------------------------------------------------------------------------------------------------

    async def register(self, connection: TrioConnection, worker: UUID, lease: float) -> float:
        """Announce a process. Returns the database's clock, in seconds since 1970."""
        cursor = await self._execute(
            connection, "register", worker=worker, lease=lease, host=ascii(socket.gethostname())[1:-1], pid=os.getpid()
        )
        [(clock,)] = await cursor.fetchall()
        return float(clock)

    async def heartbeat(self, connection: TrioConnection, worker: UUID) -> float | None:
        """Renew a process's lease. Returns the database's clock, or None if the lease is lost."""
        row = await (await self._execute(connection, "heartbeat", worker=worker)).fetchone()
        return None if row is None else float(row[0])

    async def deregister(self, connection: TrioConnection, worker: UUID) -> None:
        """Take a process off the list."""
        await self._execute(connection, "deregister", worker=worker)

    async def due_channels(
        self, connection: TrioConnection, channels: Iterable[str] | None, horizon: float
    ) -> dict[str, float]:
        """Channels with something to claim within `horizon` seconds, and in how many seconds (0 or less: now)."""
        if channels is None:
            cursor = await self._execute(connection, "due_channels", horizon=horizon)
        else:
            cursor = await self._execute(connection, "due_of_channels", channels=list(channels), horizon=horizon)
        return dict(await cursor.fetchall())

    async def claim(self, connection: TrioConnection, worker: UUID, claim: UUID, places: dict[str, int]) -> Claims:
        """Take due jobs for the free places of channels, under one new claim.

        What all together would have been too large is left for the next claim, and a body that is too large by itself
        for `body`.
        """
        columns = {"channels": list(places), "places": list(places.values()), "budget": _MAX_CLAIM_BYTES}
        cursor = await self._execute(connection, "claim", worker=worker, claim=claim, **columns)
        rows = await cursor.fetchall()
        jobs = [Claimed(claim, *row[:-2]) for row in rows if not row[-1]]
        oversized = [row[0] for row in rows if row[-1]] if len(jobs) < len(rows) else []
        # In the place of one that is left, there may be another.
        return Claims(jobs, bool(oversized) or any(row[-2] for row in rows[:1]), oversized)

    async def body(self, connection: TrioConnection, job: Claimed) -> bytes | None:
        """The body of a job that was claimed without; None if it is not held under its claim any more."""
        cursor = AsyncCursor(connection, row_factory=tuple_row)
        # Half as many bytes as in text.
        await cursor.execute(self._queries["body"], {"id": job.id, "claim": job.claim}, binary=True)
        row = await cursor.fetchone()
        return None if row is None else row[0]

    async def first_due(self, connection: TrioConnection, channel: str) -> tuple[UUID, int] | None:
        """The job that a claim for one place of a channel would take, and its bytes as far as that needs no reading."""
        row = await (await self._execute(connection, "first_due", channel=channel)).fetchone()
        return None if row is None else (row[0], int(row[1]))

    async def condemn(
        self,
        connection: TrioConnection,
        job_ids: Iterable[UUID],
        problem: str,
        states: Iterable[JobState] = (JobState.AVAILABLE,),
    ) -> dict[str, float]:
        """Give up jobs that can't be read, as far as they are in one of the states. Returns as `unblock` does.

        The next of their ordering keys become available, as after every job; see `record`.
        """
        error = f"the stored job is damaged: {problem}"
        columns = {"ids": list(job_ids), "states": list(states), "error": error}
        keys = set(await (await self._execute(connection, "keys_of", ids=columns["ids"])).fetchall())
        condemn = partial(self._execute, connection, "condemn", topic=self._done, **columns)
        try:
            async with connection.transaction():
                await self._execute(connection, "wait_for_keys_briefly")
                await self._lock_keys(connection, keys)
                condemned = await (await condemn()).fetchall()
                unblocked = await self._unblock(connection, keys, self._due)
        except errors.LockNotAvailable:
            condemned = await (await condemn()).fetchall()
            unblocked, _ = await self.unblock_what_is_free(connection, keys)
        for job_id, channel, number in condemned:
            self._emitter.emit(events.JobDead(job=job_id, channel=channel, attempts=number, status=None, error=error))
        return unblocked

    async def record(
        self,
        connection: TrioConnection,
        reports: Sequence[Report],
        *,
        now: float,
        excerpt: int,
        keep: int | None = None,
    ) -> Recorded:
        """Write outcomes. Of an answer that nobody waits for, `keep` bytes are kept, if that is a number.

        If an application's transaction holds an ordering key for long, its outcome does not wait for that, nor do the
        others in the batch: then only the key's next job waits, for `unblock_what_is_free` or `free_stranded`.
        """
        keys = {
            (report.job.channel, report.job.ordering_key)
            for report in reports
            if report.job.ordering_key is not None and report.outcome.state in FINISHED
        }
        if not keys:
            return Recorded(await self._record(connection, reports, now, excerpt, keep), {}, set())
        try:
            async with connection.transaction():
                await self._execute(connection, "wait_for_keys_briefly")
                await self._lock_keys(connection, keys)
                stale = await self._record(connection, reports, now, excerpt, keep)
                return Recorded(stale, await self._unblock(connection, keys), set())
        except errors.LockNotAvailable:
            stale = await self._record(connection, reports, now, excerpt, keep)
            return Recorded(stale, *await self.unblock_what_is_free(connection, keys))

    async def _record(
        self, connection: TrioConnection, reports: Sequence[Report], now: float, excerpt: int, keep: int | None
    ) -> set[UUID]:
        is_unicode = connection.info.parameter_status("server_encoding") == "UTF8"
        rows, bodies = outcome_rows(reports, now, excerpt, keep, is_unicode=is_unicode)
        parameters = {"rows": rows, "bodies": bodies, "excerpt": excerpt, "topic": self._done}
        [(stale, wanted, _)] = await (await self._execute(connection, "record", **parameters)).fetchall()
        if not wanted:
            return set(stale)
        # Somebody has begun to wait since they were claimed: these are written whole.
        whole = [report for report in reports if report.job.id in wanted]
        return {*stale, *await self._record(connection, whole, now, excerpt, None)}

    async def _unblock(self, connection: TrioConnection, keys: Keys, topic: str | None = None) -> dict[str, float]:
        cursor = await self._execute(connection, "unblock", **key_columns(keys), topic=topic)
        return dict(await cursor.fetchall())

    async def unblock_what_is_free(self, connection: TrioConnection, keys: Keys) -> tuple[dict[str, float], Keys]:
        """Make the next jobs of ordering keys available, and tell, but for keys that another transaction has.

        Returns channels of jobs that became available, with their waits, and the keys that were left.
        """
        async with connection.transaction():
            free = await self._try_keys(connection, keys)
            return await self._unblock(connection, free, self._due), keys - free

    async def locked_jobs(self, connection: TrioConnection, job_ids: Iterable[UUID]) -> set[UUID]:
        """Those of the jobs whose rows another transaction has locked."""
        cursor = await self._execute(connection, "locked_jobs", ids=list(job_ids))
        return {job_id for (job_id,) in await cursor.fetchall()}

    async def held_claims(self, connection: TrioConnection, worker: UUID) -> set[UUID]:
        """The claims under which a process holds jobs."""
        cursor = await self._execute(connection, "held_claims", worker=worker)
        return {claim for (claim,) in await cursor.fetchall()}

    async def release(self, connection: TrioConnection, worker: UUID, claims: Iterable[UUID] | None = None) -> int:
        """Give back what a process holds, or only some claims of it, their attempts not counted."""
        return await self._release(connection, worker, None if claims is None else list(claims), None)

    async def give_back(self, connection: TrioConnection, worker: UUID, jobs: Collection[Claimed]) -> int:
        """The same for single jobs, each only under the claim it was taken with.

        A statement may be carried out long after it was given up, when a network delivers what it had kept back. By
        then the process may have lost these jobs, claimed them anew, and be sending them.
        """
        return await self._release(connection, worker, [job.claim for job in jobs], [job.id for job in jobs])

    async def _release(
        self, connection: TrioConnection, worker: UUID, claims: list[UUID] | None, ids: list[UUID] | None
    ) -> int:
        cursor = await self._execute(connection, "release", worker=worker, claims=claims, ids=ids, topic=self._due)
        [(released, _)] = await cursor.fetchall()
        return int(released)

    async def disown(self, connection: TrioConnection, worker: UUID, claims: Iterable[UUID]) -> int:
        """Leave what a process holds under some claims to `rescue`. Returns how many jobs that are."""
        return (await self._execute(connection, "disown", worker=worker, claims=list(claims))).rowcount

    # --- maintenance --------------------------------------------------------------------------------------------------

    async def signs_of_life(self, connection: TrioConnection) -> list[Sign]:
        """The last of each process."""
        return [Sign(*row) for row in await (await self._execute(connection, "signs_of_life")).fetchall()]

    async def rescue(self, connection: TrioConnection, rescuer: UUID | None = None, lost: Collection[Sign] = ()) -> int:
        """Make jobs of lost processes available again. Returns how many; call it until that is 0.

        Lost is who is not registered, and who has given no sign since the one in `lost`.
        """
        cursor = await self._execute(
            connection, "rescue", rescuer=rescuer, error=_LOST, topic=self._due, **_columns_of(lost)
        )
        [(rescued, _)] = await cursor.fetchall()
        return int(rescued)

    async def forget(self, connection: TrioConnection, lost: Collection[Sign]) -> None:
        """Take lost processes off the list that hold nothing."""
        await self._execute(connection, "forget_workers", **_columns_of(lost))

    async def bring_back(self, connection: TrioConnection) -> tuple[int, dict[str, float]]:
        """Make due what waits only because the database's clock was put back since it was written.

        Returns how many jobs, which is 0 in the end, and their channels, with waits.
        """
        cursor = await self._execute(connection, "bring_back", topic=self._due)
        [(jobs, waits, _)] = await cursor.fetchall()
        return int(jobs), json.loads(waits or "{}")

    async def free_stranded(self, connection: TrioConnection, after: Key = FIRST_KEY) -> tuple[dict[str, float], Key]:
        """Make the first of jobs that wait behind nobody available, and tell: of some of the keys after the given one.

        Returns their channels, with waits, and the key after which to go on.
        """
        channel, key = after
        rows = await (await self._execute(connection, "stranded_keys", channel=channel, key=key)).fetchall()
        last = next(((channel, key) for channel, key, _, is_last in rows if is_last), FIRST_KEY)
        stranded = {(channel, key) for channel, key, is_stranded, _ in rows if is_stranded}
        if not stranded:
            return {}, last
        unblocked, _ = await self.unblock_what_is_free(connection, stranded)
        return unblocked, last

    async def prune(
        self, connection: TrioConnection, state: JobState, keep: timedelta, latest: float = math.inf
    ) -> int:
        """Remove finished jobs that are old enough. Returns how many; call it until that is 0.

        None, if the database's clock is past `latest`, in seconds since 1970.
        """
        columns = {"state": state, "keep": keep.total_seconds(), "latest": latest}
        return await _count(await self._execute(connection, "prune", **columns))

    async def clock(self, connection: TrioConnection) -> datetime:
        """The database's time."""
        now: datetime
        [(now,)] = await (await self._execute(connection, "clock")).fetchall()
        return now

    async def clear_free(self, connection: TrioConnection, channels: list[str] | None, before: datetime) -> int:
        """Remove some jobs without an ordering key that are not running. Returns how many; call it until that is 0."""
        return await _count(
            await self._execute(connection, "clear", channels=channels, before=before, topic=self._done)
        )

    async def clear_ordered(self, connection: TrioConnection, channels: list[str] | None, before: datetime) -> int:
        """Remove some jobs with an ordering key that are not running. Returns how many; call it until that is 0."""
        cursor = await self._execute(connection, "keys_to_clear", channels=channels, before=before)
        keys = set(await cursor.fetchall())
        if not keys:
            return 0
        async with connection.transaction():
            await self._lock_keys(connection, keys)
            columns = key_columns(keys)
            removed = await _count(
                await self._execute(connection, "clear_keys", **columns, before=before, topic=self._done)
            )
            # What was added meanwhile behind a job that is gone now is the next.
            await self._unblock(connection, keys, self._due)
            return removed

    # --- reading ------------------------------------------------------------------------------------------------------

    async def await_job(self, connection: TrioConnection, job_id: UUID) -> Waits | None:
        """Ask to be told when a job is finished. None: it is finished already, or there is none.

        Returns its channel if it is due, and when: a claim may have passed it over meanwhile.
        """
        cursor = await self._execute(connection, "await_job", id=job_id, topic=self._due)
        row = await cursor.fetchone()
        if row is None:
            return None
        due, _ = row
        return {channel: [float(wait)] for channel, wait in json.loads(due or "{}").items()}

    async def still_unfinished(self, connection: TrioConnection, job_ids: Iterable[UUID]) -> set[UUID]:
        """Those of the jobs that exist and are not finished."""
        cursor = await self._execute(connection, "still_unfinished", ids=list(job_ids))
        return {job_id for (job_id,) in await cursor.fetchall()}

    async def job(self, connection: TrioConnection, job_id: UUID) -> Job | None:
        """One job, or None."""
        cursor = await self._execute(connection, "job", id=job_id)
        row = await cursor.fetchone()
        return None if row is None else job_from_row(row)

    async def jobs(self, connection: TrioConnection, **selection: Any) -> Iterator[Job]:
        """A page of jobs: `after`, `channel`, `state`, `ordering_key` and `limit`. Large jobs make it shorter.

        Each is made of its row when its turn comes: all at once would hold up others.
        """
        cursor = await self._execute(connection, "jobs", **selection)
        return map(job_from_row, await cursor.fetchall())

    async def attempts(self, connection: TrioConnection, job_id: UUID) -> list[Attempt]:
        """All attempts of a job that have ended, in order."""
        cursor = await self._execute(connection, "attempts", id=job_id)
        return [attempt_from_row(row) for row in await cursor.fetchall()]

    # --- listening ----------------------------------------------------------------------------------------------------

    async def listen(self, connection: TrioConnection, topics: Iterable[str]) -> None:
        """Hear what is announced from now on."""
        for topic in topics:
            await connection.execute(self._queries["listen"].replace(b"{topic}", f'"{topic}"'.encode()))

    async def is_listening(self, connection: TrioConnection, topics: Iterable[str]) -> bool:
        """Whether the connection still hears all of these."""
        cursor = await self._execute(connection, "listening")
        return {topic for (topic,) in await cursor.fetchall()}.issuperset(topics)

    async def counts(self, connection: TrioConnection) -> dict[str, dict[JobState, int]]:
        """How many jobs each channel has in each state."""
        async with connection.transaction():
            await self._execute(connection, "read_whole_tables")
            cursor = await self._execute(connection, "counts")
        counts: dict[str, dict[JobState, int]] = {}
        for channel, state, number in await cursor.fetchall():
            counts.setdefault(channel, {})[JobState(state)] = number
        return counts


def _columns_of(lost: Collection[Sign]) -> dict[str, list[Any]]:
    return {"lost": [sign.worker for sign in lost], "seen": [sign.seen_at for sign in lost]}


async def _count(cursor: Any) -> int:
    row = await cursor.fetchone()
    return int(row[0])
