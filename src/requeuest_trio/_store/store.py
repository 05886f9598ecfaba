"""The queue in PostgreSQL: what each query of queries.sql does, as a method.

Every method takes the connection to use, so that the caller decides about connections and transactions.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.pq import TransactionStatus

from requeuest_trio._model.channel import Channel
from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._model.job import Attempt, Job
from requeuest_trio._model.states import FINISHED, JobState
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.queries import Queries
from requeuest_trio._store.rows import (
    WHOLE_CHANNEL,
    Claimed,
    NewJob,
    Report,
    attempt_from_row,
    job_from_row,
    outcome_rows,
    spawn_rows,
)

__all__ = ["Store"]

Keys = set[tuple[str, str]]
"""Ordering keys, each with its channel."""

_LOST = "the process that made this attempt was lost before it could record the outcome"


class Store:
    """The statements on one schema. Has no connection and no state but the names that it uses."""

    def __init__(self, queries: Queries, schema: str, *, notifications: bool = True) -> None:
        self._queries = queries
        self.due_topic = f"{schema}:due"
        self.done_topic = f"{schema}:done"
        self._due = self.due_topic if notifications else None
        self._done = self.done_topic if notifications else None

    # --- spawning -----------------------------------------------------------------------------------------------------

    async def set_channel(self, connection: TrioConnection, channel: Channel) -> None:
        """Keep a channel's settings."""
        await connection.execute(self._queries["set_channel"], {"name": channel.name, "ordered": channel.ordered})

    async def spawn(self, connection: TrioConnection, jobs: Sequence[NewJob]) -> None:
        """Store jobs, each once. Stored when this returns, or with the transaction that is open on the connection."""
        free = [job for job in jobs if job.ordering_key is None]
        ordered = [job for job in jobs if job.ordering_key is not None]
        if free:
            ordered += await self._spawn_free(connection, free)
        if not ordered:
            return
        if connection.info.transaction_status == TransactionStatus.IDLE and connection.autocommit:
            async with connection.transaction():
                await self._spawn_ordered(connection, ordered)
        else:
            await self._spawn_ordered(connection, ordered)

    async def _spawn_free(self, connection: TrioConnection, jobs: Sequence[NewJob]) -> list[NewJob]:
        """Returns those that were not stored, because it turned out that their channels are ordered."""
        rows, bodies = spawn_rows(jobs)
        cursor = await connection.execute(self._queries["spawn"], {"rows": rows, "bodies": bodies, "topic": self._due})
        [(ordered_channels, _)] = await cursor.fetchall()
        left = [job for job in jobs if job.channel in ordered_channels]
        for job in left:
            job.ordering_key = WHOLE_CHANNEL
        return left

    async def _spawn_ordered(self, connection: TrioConnection, jobs: Sequence[NewJob]) -> None:
        # A job that is in the batch twice must not block itself.
        unique = list({job.id: job for job in jobs}.values())
        await self._lock_keys(connection, {(job.channel, job.ordering_key or WHOLE_CHANNEL) for job in unique})
        rows, bodies = spawn_rows(unique)
        await connection.execute(self._queries["spawn_ordered"], {"rows": rows, "bodies": bodies, "topic": self._due})

    async def _lock_keys(self, connection: TrioConnection, keys: Keys) -> None:
        cursor = await connection.execute(self._queries["lock_keys"], _key_columns(keys))
        [(isolation, _)] = await cursor.fetchall()
        if isolation not in {"read committed", "read uncommitted"}:
            # A snapshot from before the locks may show a head that has finished since: the job would wait for ever.
            raise InvalidRequest("connection", f"an ordering key needs READ COMMITTED, not {isolation.upper()}")

    # --- delivering ---------------------------------------------------------------------------------------------------

    async def register(self, connection: TrioConnection, worker: UUID, lease: float) -> None:
        """Announce a process."""
        await connection.execute(
            self._queries["register"],
            {"worker": worker, "lease": lease, "host": socket.gethostname(), "pid": os.getpid()},
        )

    async def heartbeat(self, connection: TrioConnection, worker: UUID) -> bool:
        """Renew a process's lease. False if it is lost."""
        cursor = await connection.execute(self._queries["heartbeat"], {"worker": worker})
        return cursor.rowcount == 1

    async def deregister(self, connection: TrioConnection, worker: UUID) -> None:
        """Take a process off the list."""
        await connection.execute(self._queries["deregister"], {"worker": worker})

    async def due_channels(
        self, connection: TrioConnection, channels: Iterable[str] | None, horizon: float
    ) -> dict[str, float]:
        """Channels with something to claim within `horizon` seconds, and in how many seconds (0 or less: now)."""
        names = None if channels is None else list(channels)
        cursor = await connection.execute(self._queries["due_channels"], {"channels": names, "horizon": horizon})
        return dict(await cursor.fetchall())

    async def claim(
        self, connection: TrioConnection, worker: UUID, claim: UUID, places: dict[str, int]
    ) -> list[Claimed]:
        """Take due jobs for the free places of channels, under one new claim."""
        cursor = await connection.execute(
            self._queries["claim"],
            {"worker": worker, "claim": claim, "channels": list(places), "places": list(places.values())},
        )
        return [Claimed(claim, *row) for row in await cursor.fetchall()]

    async def record(
        self, connection: TrioConnection, reports: Sequence[Report], *, now: float, excerpt: int
    ) -> tuple[set[UUID], dict[str, float]]:
        """Write outcomes. Returns the ids that were still this claim's, and channels of jobs that became available."""
        keys = {
            (report.job.channel, report.job.ordering_key)
            for report in reports
            if report.job.ordering_key is not None and report.outcome.state in FINISHED
        }
        if not keys:
            return await self._record(connection, reports, now, excerpt), {}
        async with connection.transaction():
            await self._lock_keys(connection, keys)
            recorded = await self._record(connection, reports, now, excerpt)
            return recorded, await self._unblock(connection, keys)

    async def _record(
        self, connection: TrioConnection, reports: Sequence[Report], now: float, excerpt: int
    ) -> set[UUID]:
        rows, bodies = outcome_rows(reports, now, excerpt)
        cursor = await connection.execute(
            self._queries["record"], {"rows": rows, "bodies": bodies, "excerpt": excerpt, "topic": self._done}
        )
        [(recorded, _)] = await cursor.fetchall()
        return set(recorded)

    async def _unblock(self, connection: TrioConnection, keys: Keys) -> dict[str, float]:
        cursor = await connection.execute(self._queries["unblock"], _key_columns(keys))
        return _soonest(await cursor.fetchall())

    async def release(self, connection: TrioConnection, worker: UUID, claims: Iterable[UUID] | None = None) -> int:
        """Give back what a process holds, or only what it holds under some claims, their attempts not counted."""
        named = None if claims is None else list(claims)
        cursor = await connection.execute(
            self._queries["release"], {"worker": worker, "claims": named, "topic": self._due}
        )
        [(released, _)] = await cursor.fetchall()
        return int(released)

    # --- maintenance --------------------------------------------------------------------------------------------------

    async def rescue(self, connection: TrioConnection) -> int:
        """Make jobs of lost processes available again. Returns how many; call it until that is 0."""
        cursor = await connection.execute(self._queries["rescue"], {"error": _LOST, "topic": self._due})
        [(rescued, _)] = await cursor.fetchall()
        if not rescued:
            await connection.execute(self._queries["forget_workers"])
        return int(rescued)

    async def free_stranded(self, connection: TrioConnection) -> dict[str, float]:
        """Make the first of jobs that wait behind nobody available. Returns their channels, as `record` does."""
        cursor = await connection.execute(self._queries["stranded_keys"])
        keys = set(await cursor.fetchall())
        if not keys:
            return {}
        async with connection.transaction():
            await self._lock_keys(connection, keys)
            return await self._unblock(connection, keys)

    async def prune(self, connection: TrioConnection, state: JobState, keep: timedelta) -> int:
        """Remove finished jobs that are old enough. Returns how many; call it until that is 0."""
        cursor = await connection.execute(self._queries["prune"], {"state": state, "keep": keep.total_seconds()})
        return await _count(cursor)

    async def clear_free(self, connection: TrioConnection, channels: list[str] | None) -> int:
        """Remove some jobs without an ordering key that are not running. Returns how many; call it until that is 0."""
        cursor = await connection.execute(self._queries["clear"], {"channels": channels, "topic": self._done})
        return await _count(cursor)

    async def clear_ordered(self, connection: TrioConnection, channels: list[str] | None) -> int | None:
        """Remove some jobs with an ordering key that are not running. Returns how many, None if there are none left."""
        cursor = await connection.execute(self._queries["keys_to_clear"], {"channels": channels})
        keys = set(await cursor.fetchall())
        if not keys:
            return None
        async with connection.transaction():
            await self._lock_keys(connection, keys)
            cursor = await connection.execute(self._queries["clear_keys"], {**_key_columns(keys), "topic": self._done})
            return await _count(cursor)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def await_job(self, connection: TrioConnection, job_id: UUID) -> bool:
        """Ask to be told when a job is finished. False: it is finished already, or there is none."""
        cursor = await connection.execute(self._queries["await_job"], {"id": job_id})
        return cursor.rowcount == 1

    async def still_unfinished(self, connection: TrioConnection, job_ids: Iterable[UUID]) -> set[UUID]:
        """Those of the jobs that exist and are not finished."""
        cursor = await connection.execute(self._queries["still_unfinished"], {"ids": list(job_ids)})
        return {job_id for (job_id,) in await cursor.fetchall()}

    async def job(self, connection: TrioConnection, job_id: UUID) -> Job | None:
        """One job, or None."""
        cursor = await connection.execute(self._queries["job"], {"id": job_id})
        row = await cursor.fetchone()
        return None if row is None else job_from_row(row)

    async def jobs(self, connection: TrioConnection, **selection: Any) -> list[Job]:
        """A page of jobs: `after`, `channel`, `state`, `ordering_key` and `limit`."""
        cursor = await connection.execute(self._queries["jobs"], selection)
        return [job_from_row(row) for row in await cursor.fetchall()]

    async def attempts(self, connection: TrioConnection, job_id: UUID) -> list[Attempt]:
        """All attempts of a job that have ended, in order."""
        cursor = await connection.execute(self._queries["attempts"], {"id": job_id})
        return [attempt_from_row(row) for row in await cursor.fetchall()]

    # --- listening ----------------------------------------------------------------------------------------------------

    async def listen(self, connection: TrioConnection, topics: Iterable[str]) -> None:
        """Hear what is announced from now on."""
        for topic in topics:
            await connection.execute(self._queries["listen"].replace(b"{topic}", f'"{topic}"'.encode()))

    async def is_listening(self, connection: TrioConnection, topics: Iterable[str]) -> bool:
        """Whether the connection still hears all of these."""
        cursor = await connection.execute(self._queries["listening"])
        return {topic for (topic,) in await cursor.fetchall()}.issuperset(topics)

    async def counts(self, connection: TrioConnection) -> dict[str, dict[JobState, int]]:
        """How many jobs each channel has in each state."""
        cursor = await connection.execute(self._queries["counts"])
        counts: dict[str, dict[JobState, int]] = {}
        for channel, state, number in await cursor.fetchall():
            counts.setdefault(channel, {})[JobState(state)] = number
        return counts

    async def leave_to_caller(self, connection: TrioConnection) -> None:
        """Take this library's limits off the transaction that is open, which the application will use."""
        await connection.execute(self._queries["leave_session_to_caller"])


async def _count(cursor: Any) -> int:
    row = await cursor.fetchone()
    return int(row[0])


def _key_columns(keys: Keys) -> dict[str, list[str]]:
    return {"channels": [channel for channel, _ in keys], "keys": [key for _, key in keys]}


def _soonest(rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The shortest wait of each channel."""
    waits: dict[str, float] = {}
    for channel, wait in rows:
        waits[channel] = min(wait, waits.get(channel, wait))
    return waits
