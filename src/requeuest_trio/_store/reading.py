"""Jobs and their attempts as people and waiting callers see them, and what is announced of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

from requeuest_trio._model.job import Attempt, Job, Reached, make_response
from requeuest_trio._model.request import Request
from requeuest_trio._model.states import JobState
from requeuest_trio._model.statuses import Statuses
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.columns import REQUEST
from requeuest_trio._store.parsing import LAST_URL, headers_in, statuses_in
from requeuest_trio._store.statements import Statements, operation
from requeuest_trio._store.waits import Waits

__all__ = ["Reading", "attempt_from_row", "job_from_row"]


class Reading(Statements):
    """The part of the store that reads jobs, and listens."""

    @operation
    async def job(self, connection: TrioConnection, job_id: UUID) -> Job | None:
        """One job, or None."""
        cursor = await self._execute(connection, "job", id=job_id)
        row = await cursor.fetchone()
        return None if row is None else job_from_row(row)

    @operation
    async def jobs(
        self,
        connection: TrioConnection,
        *,
        channel: str | None,
        state: JobState | None,
        ordering_key: str | None,
        after: UUID | None,
        limit: int,
    ) -> Iterator[Job]:
        """A page of the jobs that fit, those after one of them. Large jobs make it shorter.

        Each is made of its row when its turn comes: all at once would hold up others.
        """
        selection = {"channel": channel, "state": state, "ordering_key": ordering_key}
        cursor = await self._execute(connection, "jobs", **selection, after=after, limit=limit)
        return map(job_from_row, await cursor.fetchall())

    @operation
    async def attempts(self, connection: TrioConnection, job_id: UUID) -> list[Attempt]:
        """All attempts of a job that have ended, in order."""
        cursor = await self._execute(connection, "attempts", id=job_id)
        return [attempt_from_row(row) for row in await cursor.fetchall()]

    @operation
    async def counts(self, connection: TrioConnection) -> dict[str, dict[JobState, int]]:
        """How many jobs each channel has in each state."""
        async with connection.transaction():
            await self._execute(connection, "read_whole_tables")
            cursor = await self._execute(connection, "counts")
        counts: dict[str, dict[JobState, int]] = {}
        for channel, state, number in await cursor.fetchall():
            counts.setdefault(channel, {})[JobState(state)] = number
        return counts

    @operation
    async def await_job(self, connection: TrioConnection, job_id: UUID) -> Waits | None:
        """Ask to be told when a job is finished. None: it is finished already, or there is none.

        Returns its channel if it is due, and when: a claim may have passed it over meanwhile.
        """
        cursor = await self._execute(connection, "await_job", id=job_id, topic=self._notifications.due)
        row = await cursor.fetchone()
        if row is None:
            return None
        due, _ = row
        return {channel: [float(wait)] for channel, wait in json.loads(due or "{}").items()}

    @operation
    async def still_unfinished(self, connection: TrioConnection, job_ids: Iterable[UUID]) -> set[UUID]:
        """Those of the jobs that exist and are not finished."""
        cursor = await self._execute(connection, "still_unfinished", ids=list(job_ids))
        return {job_id for (job_id,) in await cursor.fetchall()}

    @operation
    async def listen(self, connection: TrioConnection, topics: Iterable[str]) -> None:
        """Hear what is announced from now on."""
        for topic in topics:
            await connection.execute(self._queries["listen"].replace(b"{topic}", f'"{topic}"'.encode()))

    @operation
    async def is_listening(self, connection: TrioConnection, topics: Iterable[str]) -> bool:
        """Whether the connection still hears all of these."""
        cursor = await self._execute(connection, "listening")
        return {topic for (topic,) in await cursor.fetchall()}.issuperset(topics)


def job_from_row(row: Sequence[Any]) -> Job:
    """Read a row of the queries `job` and `jobs`, also one that another program damaged."""
    (
        id_, channel, state, priority, ordering_key, attempts, due_at, created_at, finished_at, status, error,
        *parts, response_headers, response_body, response_truncated,
    ) = row  # fmt: skip
    stored = dict(zip(REQUEST, parts, strict=True))
    stored |= {"headers": _shown_headers(stored["headers"]), "accept": _shown_ranges(stored["accept"])}
    request = Request.restored(**stored)
    response = None
    if state == JobState.SUCCEEDED and status is not None:
        pairs = _shown_headers(response_headers or "[]")
        last_url = request.url
        if pairs and pairs[0][0] == LAST_URL:
            (_, last_url), *rest = pairs
            pairs = tuple(rest)
        response = make_response(
            status, pairs, response_body or b"", request, truncated=bool(response_truncated), url=last_url
        )
    return Job(
        id=id_,
        channel=channel,
        state=JobState(state),
        request=request,
        priority=priority,
        ordering_key=ordering_key or None,
        attempts=attempts,
        due_at=due_at,
        created_at=created_at,
        finished_at=finished_at,
        status=status,
        response=response,
        error=error,
    )


def attempt_from_row(row: Sequence[Any]) -> Attempt:
    """Read a row of the query `attempts`."""
    number, started_at, duration, reached, status, error, excerpt, retry_at = row
    return Attempt(
        number=number,
        started_at=started_at,
        duration=duration,
        reached=Reached(reached),
        status=status,
        error=error,
        excerpt=excerpt,
        retry_at=retry_at,
    )


def _shown_headers(text: str) -> tuple[tuple[str, str], ...]:
    try:
        return tuple((str(name), str(value)) for name, value in headers_in(text))
    except (ValueError, RecursionError):
        return ()


def _shown_ranges(multirange: str) -> Statuses:
    try:
        return statuses_in(multirange)
    except ValueError:
        return ()
