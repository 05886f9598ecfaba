"""Outcomes of attempts on their way to the database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import errors

from requeuest_trio._model.headers import Headers
from requeuest_trio._model.outcome import Answer, Outcome
from requeuest_trio._model.states import FINISHED, JobState
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.claimed import Claimed
from requeuest_trio._store.ordering_keys import Keys, OrderingKeys
from requeuest_trio._store.parsing import LAST_URL
from requeuest_trio._store.statements import operation

__all__ = ["Outcomes", "Recorded", "Report", "outcome_rows"]

_LONGEST_ERROR = 2_000


class Report(NamedTuple):
    """The outcome of one attempt on its way to the database. Times are those of Trio's clock."""

    job: Claimed
    outcome: Outcome
    started: float
    duration: float


class Recorded(NamedTuple):
    """What became of outcomes that were to be written."""

    stale: set[UUID]
    """Jobs that were not held under the claim any more, whose outcomes were left out."""
    unblocked: dict[str, float]
    """Channels of jobs that became available, with their waits."""
    busy: Keys
    """Ordering keys whose next jobs are still to be unblocked, because an application's transaction has them."""


class Outcomes(OrderingKeys):
    """The part of the store that records outcomes."""

    @operation
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
            return Recorded(stale, *await self._unblock_what_is_free(connection, keys))

    async def _record(
        self, connection: TrioConnection, reports: Sequence[Report], now: float, excerpt: int, keep: int | None
    ) -> set[UUID]:
        is_unicode = connection.info.parameter_status("server_encoding") == "UTF8"
        rows, bodies = outcome_rows(reports, now, excerpt, keep, is_unicode=is_unicode)
        parameters = {"rows": rows, "bodies": bodies, "excerpt": excerpt, "topic": self._notifications.done}
        [(stale, wanted, _)] = await (await self._execute(connection, "record", **parameters)).fetchall()
        if not wanted:
            return set(stale)
        # Somebody has begun to wait since they were claimed: these are written whole.
        whole = [report for report in reports if report.job.id in wanted]
        return {*stale, *await self._record(connection, whole, now, excerpt, None)}

    @operation
    async def locked_jobs(self, connection: TrioConnection, job_ids: Iterable[UUID]) -> set[UUID]:
        """Those of the jobs whose rows another transaction has locked."""
        cursor = await self._execute(connection, "locked_jobs", ids=list(job_ids))
        return {job_id for (job_id,) in await cursor.fetchall()}


def outcome_rows(
    reports: Sequence[Report], now: float, excerpt: int, keep: int | None = None, *, is_unicode: bool = True
) -> tuple[str, list[bytes]]:
    """The parameters `rows` (JSON) and `bodies` of the query `record`.

    PostgreSQL refuses what its own encoding has no character for. So headers stay JSON inside of the JSON, which is
    ASCII; and errors are too, unless the database `is_unicode`.
    A body is kept whole only with a success that is waited for. Of another that succeeds, the first `keep` bytes are
    kept, if that is a number; of any other answer, only an excerpt.
    """
    rows: list[dict[str, Any]] = []
    bodies: list[bytes] = []
    for report in reports:
        outcome, answer = report.outcome, report.outcome.answer
        delivered = outcome.state is JobState.SUCCEEDED
        body = answer.body if answer else b""
        kept = len(body) if keep is None or report.job.awaited else keep
        is_cut = delivered and len(body) > kept
        rows.append(
            {
                "id": str(report.job.id),
                "claim": _text_of(report.job.claim),
                "state": outcome.state,
                "retry_in": outcome.retry_in,
                "reached": outcome.reached,
                "status": answer and answer.status,
                "error": outcome.error and _storable(outcome.error, is_unicode),
                "headers": _response_headers(answer) if answer and delivered else None,
                "truncated": answer.truncated or is_cut if answer else None,
                "ago": max(0.0, now - report.started),
                "duration": report.duration,
            }
        )
        if is_cut:
            rows[-1]["kept"] = kept
        bodies.append(body[: max(kept, excerpt)] if delivered else body[:excerpt])
    return json.dumps(rows), bodies


def _response_headers(answer: Answer) -> str:
    """With the URL that redirects have led to in front, in a form that no field can have (RFC 9110 section 5.1)."""
    if answer.url is None:
        return _text_of_headers(answer.headers)
    return json.dumps(((LAST_URL, answer.url), *answer.headers))


@lru_cache(maxsize=64)
def _text_of_headers(headers: Headers) -> str:
    """Within a second, servers say the same again and again."""
    return json.dumps(headers)


@lru_cache(maxsize=256)
def _text_of(claim: UUID) -> str:
    """All jobs of a batch have the same claim."""
    return str(claim)


def _storable(text: str, is_unicode: bool) -> str:
    """The text without what PostgreSQL refuses: errors quote what a hostile receiver sent."""
    text = text[:_LONGEST_ERROR].replace("\0", "\\0")
    return text.encode("utf-8" if is_unicode else "ascii", "backslashreplace").decode()[:_LONGEST_ERROR]
