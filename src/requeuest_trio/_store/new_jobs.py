"""New jobs, and how they are stored.

Most jobs have no ordering key, and are stored by one statement, or one for each piece of a long batch. Those with a key
follow under the locks of their keys. A channel that is ordered as a whole shows only when its jobs were to be stored:
then they get the channel's key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from requeuest_trio._model.errors import RequeuestError
from requeuest_trio._model.request import Request
from requeuest_trio._model.retry import DEFAULT_RETRY, RetryPolicy
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.columns import REQUEST, chunks, patience, spawn_columns, spawn_values, text_array
from requeuest_trio._store.ordering_keys import WHOLE_CHANNEL, Key, OrderingKeys, key_columns
from requeuest_trio._store.statements import operation, transaction
from requeuest_trio._store.waits import Waits, firsts, known_waits, merged, waits_of, without

if TYPE_CHECKING:
    from requeuest_trio._store.claimed import Reservation

__all__ = ["NewJob", "NewJobs", "Stored"]

_id = attrgetter("id.int")


@dataclass(slots=True, kw_only=True)
class NewJob:
    """A job to be stored. Only `ordering_key` changes, when its channel turns out to be ordered."""

    id: UUID
    channel: str
    request: Request
    priority: int = 0
    ordering_key: str | None = None
    at: datetime | None = None
    delay: float = 0.0
    retry: RetryPolicy = DEFAULT_RETRY
    timeout: float | None = None
    awaited: bool = False

    @property
    def waits_for_nothing(self) -> bool:
        """Whether it may be sent as soon as it is stored: no other job of its key comes first, nor a time."""
        return self.ordering_key is None and self.at is None and not self.delay

    @property
    def attempt_timeout(self) -> float | None:
        """Seconds for each attempt, if it is not the default."""
        return self.request.timeout if self.timeout is None else self.timeout

    @property
    def sendable(self) -> Request:
        """The request as a claim of the stored job gives it: with the job's own timeout."""
        if self.timeout is None:
            return self.request
        parts = {name: getattr(self.request, name) for name in REQUEST}
        return Request.restored(**parts | {"timeout": self.timeout})


class Stored(NamedTuple):
    """What became of jobs that were to be stored."""

    waits: Waits
    """Their channels, and when something of theirs can be claimed."""
    left: list[NewJob]
    """Those that were not stored, because another transaction is busy with their ordering keys."""
    is_claimed: bool = False
    """Whether it is a lone job, stored as claimed under its reservation."""


class NewJobs(OrderingKeys):
    """The part of the store that stores new jobs."""

    @operation
    async def spawn(self, connection: TrioConnection, jobs: Sequence[NewJob]) -> None:
        """Store jobs, each once, and announce them: now, or with the transaction that is open on the connection."""
        known = known_waits(jobs)
        stored = await self._store(connection, jobs, announced=known)
        await self._announce(connection, without(stored.waits, known))

    @operation
    async def announce(self, connection: TrioConnection, waits: Waits) -> None:
        """Tell listening processes of channels with something due in so many seconds."""
        await self._announce(connection, waits)

    async def _announce(self, connection: TrioConnection, waits: Waits) -> None:
        if waits:
            await self._execute(connection, "announce", topic=self._notifications.due, announced=json.dumps(waits))

    async def store(
        self,
        jobs: Sequence[NewJob],
        *,
        announced: Waits | None = None,
        wait_for_keys: bool = True,
        reservation: Reservation | None = None,
    ) -> Stored:
        """Store jobs, each once: when this returns, or with the transaction that is open on the connection.

        What is to be announced together with them is, unless all of them have ordering keys. Those that another
        transaction's ordering key is in the way of are left, unless `wait_for_keys`. A lone job that waits
        for nothing may have a `reservation` already: then it is stored as claimed, if that can be.
        """
        store = partial(
            self._store, jobs=jobs, announced=announced, wait_for_keys=wait_for_keys, reservation=reservation
        )
        return await self.connections.run(store, pieces=patience(jobs))

    async def _store(
        self,
        connection: TrioConnection,
        jobs: Sequence[NewJob],
        *,
        announced: Waits | None = None,
        wait_for_keys: bool = True,
        reservation: Reservation | None = None,
    ) -> Stored:
        if reservation is not None and await self._store_claimed(connection, jobs[0], reservation):
            return Stored({}, [], is_claimed=True)
        if len(jobs) == 1 and await self._store_one(connection, jobs[0], announced):
            return Stored({jobs[0].channel: [jobs[0].delay]}, [])
        waits: Waits = {}
        # By id, so that two batches with the same ids meet at the first of them, and not each at the other's.
        pieces = list(chunks(sorted((job for job in jobs if job.ordering_key is None), key=_id)))
        async with transaction(connection) if len(pieces) > 1 else nullcontext():
            if pieces:
                waits = await self._store_free(connection, pieces, announced)
            # A job that is in the batch twice must not block itself.
            ordered = list({job.id: job for job in jobs if job.ordering_key is not None}.values())
            if not ordered:
                return Stored(waits, [])
            async with transaction(connection):
                stored = await self._store_in_order(connection, ordered, wait_for_keys)
        return Stored(merged(waits, stored.waits), stored.left)

    async def _store_one(self, connection: TrioConnection, job: NewJob, announced: Waits | None) -> bool:
        """False: its id exists, or it is not as simple as that."""
        if job.ordering_key is not None or job.at is not None:
            return False
        encoding = connection.info.encoding
        values = spawn_values(job, encoding) | self._announcing(announced, encoding)
        [result] = await self._run_encoded(connection, "spawn_one", [values])
        return result.command_tuples == 1

    async def _store_claimed(self, connection: TrioConnection, job: NewJob, reservation: Reservation) -> bool:
        """False: its id exists, its channel is ordered, or the process is not registered (any more)."""
        claimed_by = {"worker": reservation.worker.bytes, "claim": reservation.claim.bytes}
        values = spawn_values(job, connection.info.encoding) | claimed_by
        [result] = await self._run_encoded(connection, "spawn_claimed", [values])
        return result.command_tuples == 1

    async def _store_free(
        self, connection: TrioConnection, pieces: Sequence[Sequence[NewJob]], announced: Waits | None
    ) -> Waits:
        """Those that are not stored, because it turns out that their channels are ordered, get a key."""
        encoding = connection.info.encoding

        def parameters() -> Iterator[dict[str, bytes | None]]:
            announcing = self._announcing(announced, encoding)
            for piece in pieces:
                channels = text_array(list({job.channel for job in piece}), encoding)
                yield {"channels": channels, **spawn_columns(piece, encoding), **announcing}
                announcing = self._announcing(None, encoding)

        waits: Waits = {}
        results = await self._run_encoded(connection, "spawn", parameters())
        for piece, result in zip(pieces, results, strict=True):
            if ordered := result.get_value(0, 0):
                ordered_channels = frozenset(json.loads(ordered.decode(encoding)))
                for job in piece:
                    if job.channel in ordered_channels:
                        job.ordering_key = WHOLE_CHANNEL
            waits = merged(waits, waits_of(piece, float(result.get_value(0, 1) or 0)))
            if result.get_value(0, 3) is not None:
                await self._require_stored(connection, [job for job in piece if job.ordering_key is None])
        return waits

    async def _require_stored(self, connection: TrioConnection, jobs: Sequence[NewJob]) -> None:
        """Fewer were stored than there are: the others exist already, unless a trigger or rule has dropped them."""
        cursor = await self._execute(connection, "not_stored", ids=[job.id for job in jobs])
        if missing := await cursor.fetchall():
            raise RequeuestError(
                f"PostgreSQL has not stored {len(missing)} of {len(jobs)} jobs: a trigger or rule drops some"
            )

    async def _store_in_order(self, connection: TrioConnection, jobs: Sequence[NewJob], wait_for_keys: bool) -> Stored:
        waits: Waits = {}
        left: list[NewJob] = []
        for piece in chunks(jobs):
            if left:
                # What comes after jobs that were left may belong behind them.
                left += piece
                continue
            stored = await self._store_ordered(connection, piece, wait_for_keys)
            left = stored.left
            waits = merged(waits, stored.waits)
        return Stored(waits, left)

    async def _store_ordered(self, connection: TrioConnection, jobs: Sequence[NewJob], wait_for_keys: bool) -> Stored:
        await self._find_ordered(connection, jobs)
        keys = {_key(job) for job in jobs}
        if wait_for_keys:
            await self._lock_keys(connection, keys)
            locked = keys
        else:
            locked = await self._try_keys(connection, keys)
        waits: Waits = {}
        if now := [job for job in jobs if _key(job) in locked]:
            encoding = connection.info.encoding
            [result] = await self._run_encoded(connection, "spawn_ordered", [spawn_columns(now, encoding)])
            if available := result.get_value(0, 0):
                waits = firsts((channel, wait) for channel, wait in json.loads(available.decode(encoding)))
            if result.get_value(0, 1) is not None:
                await self._require_stored(connection, now)
        return Stored(waits, [job for job in jobs if _key(job) not in locked])

    @operation
    async def key_holders(self, connection: TrioConnection, jobs: Sequence[NewJob]) -> list[str]:
        """Which transactions have the ordering keys of jobs, in words; only some, if they are many."""
        cursor = await self._execute(connection, "key_holders", **key_columns({_key(job) for job in jobs}))
        return [holder for (holder,) in await cursor.fetchall()]

    def _announcing(self, waits: Waits | None, encoding: str) -> dict[str, bytes | None]:
        if not waits or (topic := self._notifications.due) is None:
            return {"topic": None, "announced": None}
        return {"topic": topic.encode(encoding), "announced": json.dumps(waits).encode("ascii")}

    async def _find_ordered(self, connection: TrioConnection, jobs: Sequence[NewJob]) -> None:
        """Give jobs of ordered channels the channel's key: who spawns need not know that it is ordered."""
        keyed = [job for job in jobs if job.ordering_key != WHOLE_CHANNEL]
        if keyed:
            channels = list({job.channel for job in keyed})
            cursor = await self._execute(connection, "ordered_channels", channels=channels)
            ordered = {channel for (channel,) in await cursor.fetchall()}
            for job in keyed:
                if job.channel in ordered:
                    job.ordering_key = WHOLE_CHANNEL


def _key(job: NewJob) -> Key:
    return job.channel, job.ordering_key or WHOLE_CHANNEL
