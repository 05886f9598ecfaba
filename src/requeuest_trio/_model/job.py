"""What is known of a job and of each attempt to deliver it: the values that the public calls return."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from requeuest_trio._model.charsets import encoding_of
from requeuest_trio._model.ecosystem import InvalidURL, Response, ResponseHeaders, SentRequest
from requeuest_trio._model.headers import Headers, find
from requeuest_trio._model.request import Request
from requeuest_trio._model.states import FINISHED, JobState

__all__ = ["Attempt", "Job", "Reached", "Stats", "make_response"]


class Reached(StrEnum):
    """How far an attempt came before it ended. From `SENT` on, the receiver may have acted on the request."""

    RESOLVE = "resolve"
    """Looking up the receiver's name, or before that. Never sent."""
    CONNECT = "connect"
    """Connecting. Never sent."""
    TLS = "tls"
    """Negotiating TLS. Never sent."""
    SENT = "sent"
    """The request, or the beginning of it, was on its way. Maybe received."""
    RESPONSE = "response"
    """A status came back. Received."""
    UNKNOWN = "unknown"
    """The process that made the attempt was lost. Maybe received."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to deliver a job. A frozen value."""

    number: int
    """The job's attempts are numbered from 1."""
    started_at: datetime
    """When the attempt began."""
    duration: float
    """How long it took, in seconds."""
    reached: Reached
    """How far it came."""
    status: int | None
    """The answer's status; None if no answer came."""
    error: str | None
    """Why the attempt was no success, or how the body of a success broke off."""
    excerpt: bytes = field(repr=False)
    """The beginning of the answer's body, up to `Config.excerpt` bytes."""
    retry_at: datetime | None
    """When the job is due again; None if this was its last attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job as it stood when it was read. A frozen value."""

    id: UUID
    """What `spawn` returned, and the `Idempotency-Key` of every attempt."""
    channel: str
    """The channel it was spawned in."""
    state: JobState
    """Where it stood."""
    request: Request
    """What is sent."""
    priority: int
    """-100 to 100; within a channel, the highest that is due goes first."""
    ordering_key: str | None
    """Jobs with the same channel and key are sent one after the other; None for a job without one."""
    attempts: int
    """How many attempts were made, one under way included."""
    due_at: datetime
    """The job is not sent before; after a failed attempt, this is when the next one is due."""
    created_at: datetime
    """When it was stored, by the database's clock."""
    finished_at: datetime | None
    """When its state became final; None before."""
    status: int | None
    """The status of the last answer; None if none has come."""
    response: Response | None
    """The answer, kept with a success. Its `extensions["truncated"]` says whether the body is whole."""
    error: str | None
    """What went wrong in the last failed attempt; with a success, why the response's body broke off, if it did."""

    @property
    def is_finished(self) -> bool:
        """Whether its state is final: succeeded, dead or cancelled."""
        return self.state in FINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A look at the queue, and at this process's part in it. A frozen value."""

    channels: Mapping[str, Mapping[JobState, int]]
    """How many jobs each channel has in each state, over all processes; states without jobs are left out."""
    running: int
    """How many attempts this process has in flight."""
    unrecorded: int
    """How many outcomes of this process PostgreSQL has not confirmed yet."""
    loop_lag: float
    """The longest time, in seconds, for which nothing could run in this process in the last minute. Some hundredths are
    usual; close to `lease`, the process loses its jobs to others."""

    def count(self, state: JobState) -> int:
        """How many jobs are in a state, over all channels."""
        return sum(states.get(state, 0) for states in self.channels.values())


def make_response(
    status: int, headers: Headers, body: bytes, request: Request, *, truncated: bool, url: str | None = None
) -> Response:
    """Build the response that a caller gets back. The body was decoded when it was received.

    Its text is in the encoding that `Content-Type` names, if that is one of text, or else in UTF-8; what can't be
    decoded is replaced. `url` is where it came from, if redirects have led away from the request's.
    """
    # The headers come last: given to the constructor, they would have it decode the body once more.
    response = Response(status, content=body, extensions={"truncated": truncated})
    response.headers = _raw(headers)
    # httpx2 would take any codec that Python has for one of text.
    response.encoding = encoding_of(find(headers, "content-type") or "", body)
    # So that raise_for_status() works. A damaged row has no request that could be shown this way.
    with suppress(InvalidURL, TypeError, ValueError):
        response.request = SentRequest(
            request.method, url or request.url, headers=_raw(request.headers), content=request.body
        )
    return response


def _raw(headers: Headers) -> ResponseHeaders:
    return ResponseHeaders([(_latin_1(name), _latin_1(value)) for name, value in headers])


def _latin_1(text: str) -> bytes:
    # Another program may have changed the row, and the rest of the job must still be seen.
    return text.encode("latin-1", "replace")
