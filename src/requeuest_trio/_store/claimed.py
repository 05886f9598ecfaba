"""Jobs that this process has claimed: what a claim reads of them, and how they are claimed and released."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from psycopg import AsyncCursor, errors
from psycopg.rows import tuple_row

from requeuest_trio._model import checks
from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._model.escaping import cut, escaped
from requeuest_trio._model.headers import Headers, checked_headers
from requeuest_trio._model.masking import masked_url_for_logs
from requeuest_trio._model.request import METHODS, Request
from requeuest_trio._model.retry import DEFAULT_RETRY, RetryPolicy
from requeuest_trio._model.states import JobState
from requeuest_trio._model.statuses import Statuses, statuses
from requeuest_trio._model.urls import MAX_URL_LENGTH, normal_form
from requeuest_trio._observe import events
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.new_jobs import NewJob
from requeuest_trio._store.ordering_keys import OrderingKeys
from requeuest_trio._store.parsing import headers_in, statuses_in
from requeuest_trio._store.statements import operation

__all__ = ["TOO_LARGE", "Claimed", "ClaimedBatch", "ClaimedJobs", "Condemned", "Reservation", "StoredRequest"]

A = TypeVar("A")
T = TypeVar("T")

TOO_LARGE = "it is larger than a job may be"

# A claim's answer has to be had within a third of a lease, over a slow network too.
_MAX_CLAIM_BYTES = 4 * 1_048_576
_LONG_HEADERS = 2_000
_LONGEST_SHOWN = 2_000


# No tuples: what shows the locals of a traceback takes tuples apart, whatever their `repr` hides.
@dataclass(slots=True, repr=False)
class StoredRequest:
    """A request as it stands in its row. Reading it is put off, because the row may be damaged."""

    method: str
    url: str
    headers: str
    body: bytes | None
    """None where it was too large to be read with the claim: then it is to be read before `read`."""
    accept: str
    timeout: float | None
    follow_redirects: bool

    def __repr__(self) -> str:
        """Without secrets: no headers, no body, of parameters only harmless ones."""
        return f"<StoredRequest {_shown(self)}>"

    def read(self) -> Request:
        """The request. Raises `InvalidRequest`, naming the column, if the row holds none."""
        if self.body is None:
            raise InvalidRequest("body", "was not read")
        if self.method not in METHODS or len(self.url) > MAX_URL_LENGTH or normal_form(self.url) is None:
            # Another program may have stored it.
            return Request(
                self.method,
                self.url,
                headers=_read("headers", headers_in, self.headers),
                body=self.body,
                accept=_read("accept", statuses_in, self.accept),
                timeout=self.timeout,
                follow_redirects=self.follow_redirects,
            )
        # The same, past what need not be checked again.
        timeout = None if self.timeout is None else checks.seconds("timeout", self.timeout, positive=True)
        headers = _read("headers", _checked_headers, self.headers)
        accept = _read("accept", _accepted, self.accept)
        return Request.restored(self.method, self.url, headers, self.body, accept, timeout, self.follow_redirects)


@dataclass(slots=True, repr=False)
class Claimed:
    """A job in the hands of this process."""

    claim: UUID
    id: UUID
    channel: str
    ordering_key: str | None
    attempt: int
    request: Request | StoredRequest
    """By value, where this process has spawned it; as stored, where it was claimed."""
    retry: RetryPolicy | str | None
    """The same: as stored it is JSON, or None for the default."""
    awaited: bool = False
    """Whether a caller waited for the outcome when it was claimed; one may do so since."""

    def __repr__(self) -> str:
        """As a request's: without secrets."""
        return f"<Claimed {self.id}, attempt {self.attempt}: {_shown(self.request)}>"

    def read(self) -> tuple[Request, RetryPolicy]:
        """The request and its policy. Raises `InvalidRequest`, naming the column, if the row holds none."""
        request = self.request.read() if isinstance(self.request, StoredRequest) else self.request
        return request, self.policy()

    def policy(self) -> RetryPolicy:
        """The policy alone. Raises the same."""
        return self.retry if isinstance(self.retry, RetryPolicy) else _read("retry", _policy, self.retry)

    @property
    def lacks_body(self) -> bool:
        """Whether the claim has left the body unread, because it is large."""
        return self.request.body is None

    def add_body(self, body: bytes | None) -> None:
        """Add the body that the claim has left unread."""
        if isinstance(self.request, StoredRequest):
            self.request.body = body


def _shown(request: Request | StoredRequest) -> str:
    where = cut(escaped(f"{request.method} {masked_url_for_logs(request.url)}"), _LONGEST_SHOWN)
    size = "unread" if request.body is None else f"{len(request.body)} bytes"
    return f"{where}, body={size}"


@dataclass(slots=True)
class Reservation:
    """A place of this process that is kept for a job while that is stored as claimed."""

    channel: str
    worker: UUID
    claim: UUID
    job: Claimed | None = None
    """What was stored."""
    is_unknown: bool = True
    """Whether it was."""

    def settle(self, stored: NewJob | None) -> None:
        """Note what the database has answered."""
        self.is_unknown = False
        if stored is not None:
            self.job = _claimed_at_once(stored, self.claim)


def _claimed(claim: UUID, row: Sequence[Any]) -> Claimed:
    """Read a row of the query `claim`, as far as it is read at once."""
    # The order of the columns is that of `CLAIMED`.
    job_id, channel, ordering_key, attempt, *request, retry, awaited, _, _ = row
    return Claimed(claim, job_id, channel, ordering_key, attempt, StoredRequest(*request), retry, awaited)


def _claimed_at_once(job: NewJob, claim: UUID) -> Claimed:
    """A job that was stored under a claim, without reading anything back."""
    return Claimed(claim, job.id, job.channel, None, 1, job.sendable, job.retry, job.awaited)


class ClaimedBatch(NamedTuple):
    """The jobs that one claim has brought."""

    jobs: list[Claimed]
    is_cut: bool
    """Whether there may be more that it could have taken."""
    oversized: list[UUID]
    """Jobs that are larger than a job may be. They were left as they are."""


class Condemned(NamedTuple):
    """What became of jobs that can't be read."""

    dead: list[events.JobDead]
    """Those that were given up, for the caller to tell of."""
    unblocked: dict[str, float]
    """Channels of jobs that became available, with their waits."""


class ClaimedJobs(OrderingKeys):
    """The part of the store that claims jobs, and releases them."""

    @operation
    async def due_channels(
        self, connection: TrioConnection, channels: Iterable[str] | None, horizon: float
    ) -> dict[str, float]:
        """Channels with something to claim within `horizon` seconds, and in how many seconds (0 or less: now)."""
        if channels is None:
            cursor = await self._execute(connection, "due_channels", horizon=horizon)
        else:
            cursor = await self._execute(connection, "due_of_channels", channels=list(channels), horizon=horizon)
        return dict(await cursor.fetchall())

    @operation
    async def claim(
        self, connection: TrioConnection, worker: UUID, claim: UUID, places: dict[str, int]
    ) -> ClaimedBatch:
        """Take due jobs for the free places of channels, under one new claim.

        What all together would have been too large is left for the next claim, and a body that is too large by itself
        for `body`.
        """
        columns = {"channels": list(places), "places": list(places.values()), "budget": _MAX_CLAIM_BYTES}
        cursor = await self._execute(connection, "claim", worker=worker, claim=claim, **columns)
        rows = await cursor.fetchall()
        jobs = [_claimed(claim, row) for row in rows if not row[-1]]
        oversized = [row[0] for row in rows if row[-1]] if len(jobs) < len(rows) else []
        # In the place of one that is left, there may be another.
        return ClaimedBatch(jobs, bool(oversized) or any(row[-2] for row in rows[:1]), oversized)

    @operation
    async def body(self, connection: TrioConnection, job: Claimed) -> bytes | None:
        """The body of a job that was claimed without; None if it is not held under its claim any more."""
        cursor = AsyncCursor(connection, row_factory=tuple_row)
        # Half as many bytes as in text.
        await cursor.execute(self._queries["body"], {"id": job.id, "claim": job.claim}, binary=True)
        row = await cursor.fetchone()
        return None if row is None else row[0]

    @operation
    async def first_due(self, connection: TrioConnection, channel: str) -> tuple[UUID, int] | None:
        """The job that a claim for one place of a channel would take, and its bytes as far as that needs no reading."""
        row = await (await self._execute(connection, "first_due", channel=channel)).fetchone()
        return None if row is None else (row[0], int(row[1]))

    @operation
    async def condemn(
        self,
        connection: TrioConnection,
        job_ids: Iterable[UUID],
        problem: str,
        states: Iterable[JobState] = (JobState.AVAILABLE,),
    ) -> Condemned:
        """Give up jobs that can't be read, as far as they are in one of the states.

        The next of their ordering keys become available, as after every job; see `record`.
        """
        error = f"the stored job is damaged: {problem}"
        columns = {"ids": list(job_ids), "states": list(states), "error": error}
        keys = set(await (await self._execute(connection, "keys_of", ids=columns["ids"])).fetchall())
        condemn = partial(self._execute, connection, "condemn", topic=self._notifications.done, **columns)
        try:
            async with connection.transaction():
                await self._execute(connection, "wait_for_keys_briefly")
                await self._lock_keys(connection, keys)
                condemned = await (await condemn()).fetchall()
                unblocked = await self._unblock(connection, keys, self._notifications.due)
        except errors.LockNotAvailable:
            condemned = await (await condemn()).fetchall()
            unblocked, _ = await self._unblock_what_is_free(connection, keys)
        return Condemned(
            [
                events.JobDead(job=job_id, channel=channel, attempts=number, status=None, error=error)
                for job_id, channel, number in condemned
            ],
            unblocked,
        )

    @operation
    async def held_claims(self, connection: TrioConnection, worker: UUID) -> set[UUID]:
        """The claims under which a process holds jobs."""
        cursor = await self._execute(connection, "held_claims", worker=worker)
        return {claim for (claim,) in await cursor.fetchall()}

    @operation
    async def release(self, connection: TrioConnection, worker: UUID, claims: Iterable[UUID] | None = None) -> int:
        """Release what a process holds, or only some claims of it, their attempts not counted."""
        return await self._release(connection, worker, None if claims is None else list(claims), None)

    @operation
    async def release_jobs(self, connection: TrioConnection, worker: UUID, jobs: Collection[Claimed]) -> int:
        """The same for single jobs, each only under the claim it was taken with.

        A statement may be carried out long after it was given up, when a network delivers what it had kept back. By
        then the process may have lost these jobs, claimed them anew, and be sending them.
        """
        return await self._release(connection, worker, [job.claim for job in jobs], [job.id for job in jobs])

    async def _release(
        self, connection: TrioConnection, worker: UUID, claims: list[UUID] | None, ids: list[UUID] | None
    ) -> int:
        cursor = await self._execute(
            connection, "release", worker=worker, claims=claims, ids=ids, topic=self._notifications.due
        )
        [(released, _)] = await cursor.fetchall()
        return int(released)

    @operation
    async def orphan(self, connection: TrioConnection, worker: UUID, claims: Iterable[UUID]) -> int:
        """Leave what a process holds under some claims to `rescue`. Returns how many jobs those are."""
        return (await self._execute(connection, "orphan", worker=worker, claims=list(claims))).rowcount


def _read(column: str, parse: Callable[[A], T], stored: A) -> T:
    """What stands in a column. Raises `InvalidRequest`, naming it: another program may have written anything."""
    try:
        return parse(stored)
    except RecursionError as error:
        raise InvalidRequest(column, "is nested too deeply") from error
    except InvalidRequest as error:
        if error.argument == column:
            raise
        raise InvalidRequest(column, str(error)) from error
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise InvalidRequest(column, f"can't be read: {error}") from error


def _checked_headers(text: str) -> Headers:
    return _remembered_headers(text) if len(text) < _LONG_HEADERS else checked_headers(headers_in(text))


@lru_cache(maxsize=1_024)
def _remembered_headers(text: str) -> Headers:
    """Jobs of one application have the same headers again and again."""
    return checked_headers(headers_in(text))


@lru_cache(maxsize=1_024)
def _accepted(multirange: str) -> Statuses:
    return statuses("accept", statuses_in(multirange))


@lru_cache(maxsize=1_024)
def _policy(stored: str | None) -> RetryPolicy:
    return DEFAULT_RETRY if stored is None else RetryPolicy.from_json(json.loads(stored))
