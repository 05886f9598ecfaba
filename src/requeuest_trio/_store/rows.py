"""Between values and rows: how jobs are written to the database and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from requeuest_trio._model import checks
from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._model.escaping import cut, escaped
from requeuest_trio._model.headers import Headers, checked_headers
from requeuest_trio._model.job import Attempt, Job, Reached, make_response
from requeuest_trio._model.masking import masked_url_for_logs
from requeuest_trio._model.outcome import Answer, Outcome
from requeuest_trio._model.request import METHODS, Request
from requeuest_trio._model.retry import DEFAULT_RETRY, RetryPolicy
from requeuest_trio._model.states import JobState
from requeuest_trio._model.statuses import Statuses, statuses
from requeuest_trio._model.urls import MAX_URL_LENGTH, normal_form

__all__ = [
    "WHOLE_CHANNEL",
    "Claimed",
    "NewJob",
    "Report",
    "Reservation",
    "attempt_from_row",
    "job_from_row",
    "outcome_rows",
]

A = TypeVar("A")
T = TypeVar("T")

WHOLE_CHANNEL = ""
"""The ordering key of all jobs of an ordered channel."""

_URL = ":url"
_LONG_HEADERS = 2_000
_LONGEST_SHOWN = 2_000
_LONGEST_ERROR = 2_000


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


# No tuple: what shows the locals of a traceback takes tuples apart, whatever their `repr` hides.
@dataclass(slots=True, repr=False)
class Claimed:
    """A job in the hands of this process. Reading the request is put off, because the row may be damaged."""

    claim: UUID
    id: UUID
    channel: str
    ordering_key: str | None
    attempt: int
    method: str
    url: str
    headers: str
    body: bytes | None
    """None where it was too large to be read with the claim: then it is to be read before `read`."""
    accept: str
    timeout: float | None
    follow_redirects: bool
    retry: str | None
    awaited: bool = False
    """Whether somebody waited for the outcome when it was claimed; somebody may do so since."""

    def __repr__(self) -> str:
        """Without secrets: no headers, no body, of parameters only harmless ones."""
        where = cut(escaped(f"{self.method} {masked_url_for_logs(self.url)}"), _LONGEST_SHOWN)
        size = "unread" if self.body is None else f"{len(self.body)} bytes"
        return f"<Claimed {self.id}, attempt {self.attempt}: {where}, body={size}>"

    def read(self) -> tuple[Request, RetryPolicy]:
        """The request and its policy. Raises `InvalidRequest`, naming the column, if the row holds none."""
        return self._request(), self.policy()

    def policy(self) -> RetryPolicy:
        """The policy alone. Raises the same."""
        return _read("retry", _policy, self.retry)

    def _request(self) -> Request:
        if self.body is None:
            raise InvalidRequest("body", "was not read")
        if self.method not in METHODS or len(self.url) > MAX_URL_LENGTH or normal_form(self.url) is None:
            # Somebody else may have stored it.
            return Request(
                self.method,
                self.url,
                headers=_read("headers", _headers, self.headers),
                body=self.body,
                accept=_read("accept", _ranges, self.accept),
                timeout=self.timeout,
                follow_redirects=self.follow_redirects,
            )
        # The same, past what need not be checked again.
        timeout = None if self.timeout is None else checks.seconds("timeout", self.timeout, positive=True)
        headers = _read("headers", _checked_headers, self.headers)
        accept = _read("accept", _accepted, self.accept)
        return Request.restored(self.method, self.url, headers, self.body, accept, timeout, self.follow_redirects)


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


def _claimed_at_once(job: NewJob, claim: UUID) -> Claimed:
    """What a claim would read of a job that was stored under it."""
    request, policy = job.request, job.retry.to_json()
    return Claimed(
        claim=claim,
        id=job.id,
        channel=job.channel,
        ordering_key=None,
        attempt=1,
        method=request.method,
        url=request.url,
        headers=json.dumps(request.headers),
        body=request.body,
        accept=_multirange(request.accept),
        timeout=job.attempt_timeout,
        follow_redirects=request.follow_redirects,
        retry=json.dumps(policy) if policy else None,
        awaited=job.awaited,
    )


class Report(NamedTuple):
    """The outcome of one attempt on its way to the database. Times are those of Trio's clock."""

    job: Claimed
    outcome: Outcome
    started: float
    duration: float


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
    return json.dumps(((_URL, answer.url), *answer.headers))


@lru_cache(maxsize=64)
def _text_of_headers(headers: Headers) -> str:
    """Within a second, servers say the same again and again."""
    return json.dumps(headers)


@lru_cache(maxsize=256)
def _text_of(claim: UUID) -> str:
    """All jobs of a batch have the same claim."""
    return str(claim)


def job_from_row(row: Sequence[Any]) -> Job:
    """Read a row of the queries `job` and `jobs`, also one that another program damaged."""
    (
        id_, channel, state, priority, ordering_key, attempts, due_at, created_at, finished_at, status, error,
        method, url, headers, body, accept, timeout, follow_redirects,
        response_headers, response_body, response_truncated,
    ) = row  # fmt: skip
    request = Request.restored(
        method, url, _shown_headers(headers), body, _shown_ranges(accept), timeout, follow_redirects
    )
    response = None
    if state == JobState.SUCCEEDED and status is not None:
        pairs = _shown_headers(response_headers or "[]")
        last_url = url
        if pairs and pairs[0][0] == _URL:
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


def _storable(text: str, is_unicode: bool) -> str:
    """The text without what PostgreSQL refuses: errors quote what a hostile receiver sent."""
    text = text[:_LONGEST_ERROR].replace("\0", "\\0")
    return text.encode("utf-8" if is_unicode else "ascii", "backslashreplace").decode()[:_LONGEST_ERROR]


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    pairs = json.loads(text)
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InvalidRequest("headers", "must be a list of pairs")
    return tuple((name, value) for name, value in pairs)


def _checked_headers(text: str) -> Headers:
    return _remembered_headers(text) if len(text) < _LONG_HEADERS else checked_headers(_headers(text))


@lru_cache(maxsize=1_024)
def _remembered_headers(text: str) -> Headers:
    """Jobs of one application have the same headers again and again."""
    return checked_headers(_headers(text))


def _shown_headers(text: str) -> tuple[tuple[str, str], ...]:
    try:
        return tuple((str(name), str(value)) for name, value in _headers(text))
    except (ValueError, RecursionError):
        return ()


def _shown_ranges(multirange: str) -> Statuses:
    try:
        return _ranges(multirange)
    except ValueError:
        return ()


def _ranges(multirange: str) -> Statuses:
    """Read a multirange as PostgreSQL writes it: always in the form `{[a,b),[c,d)}`."""
    inner = multirange.strip("{}")
    if not inner:
        raise InvalidRequest("accept", "must have at least one status")
    bounds = [part.strip("[)").split(",") for part in inner.split("),")]
    return tuple(range(int(start), int(stop)) for start, stop in bounds)


@lru_cache(maxsize=64)
def _multirange(accept: Statuses) -> str:
    return "{" + ",".join(f"[{part.start},{part.stop})" for part in accept) + "}"


@lru_cache(maxsize=1_024)
def _accepted(multirange: str) -> Statuses:
    return statuses("accept", _ranges(multirange))


@lru_cache(maxsize=1_024)
def _policy(stored: str | None) -> RetryPolicy:
    return DEFAULT_RETRY if stored is None else RetryPolicy.from_json(json.loads(stored))
