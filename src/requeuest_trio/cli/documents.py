"""Jobs, requests and attempts as JSON: for programs, and as free of secrets as what people see."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from requeuest_trio import Attempt, Job, Request
from requeuest_trio.masking import masked_headers, masked_url

__all__ = ["attempt_document", "job_document", "show_document"]


def job_document(job: Job, sensitive: Collection[str] = ()) -> dict[str, Any]:
    """A job without its bodies, headers and attempts. The values of `sensitive` names, in lower case, are hidden."""
    return {
        "id": str(job.id),
        "channel": job.channel,
        "state": job.state,
        "method": job.request.method,
        "url": masked_url(job.request.url, sensitive),
        "priority": job.priority,
        "ordering_key": job.ordering_key,
        "attempts": job.attempts,
        "status": job.status,
        "error": job.error and masked_url(job.error, sensitive),
        "created_at": _moment(job.created_at),
        "due_at": _moment(job.due_at),
        "finished_at": _moment(job.finished_at),
    }


def show_document(job: Job, attempts: Sequence[Attempt], sensitive: Collection[str] = ()) -> dict[str, Any]:
    """A job with all that is known of it."""
    document = job_document(job, sensitive)
    for name in ("method", "url", "attempts"):
        del document[name]
    answer = job.response
    response = answer and {
        "status": answer.status_code,
        "headers": _headers(_text(answer.headers.raw), sensitive),
        "truncated": bool(answer.extensions.get("truncated")),
        **_body(answer.content),
    }
    return {
        **document,
        "attempts_made": job.attempts,
        "request": _request(job.request, sensitive),
        "attempts": [attempt_document(attempt, sensitive) for attempt in attempts],
        "response": response,
    }


def attempt_document(attempt: Attempt, sensitive: Collection[str] = ()) -> dict[str, Any]:
    """One attempt."""
    return {
        "number": attempt.number,
        "started_at": _moment(attempt.started_at),
        "duration": _number(attempt.duration),
        "reached": attempt.reached,
        "status": attempt.status,
        "error": attempt.error and masked_url(attempt.error, sensitive),
        "excerpt": _body(attempt.excerpt),
        "retry_at": _moment(attempt.retry_at),
    }


def _request(request: Request, sensitive: Collection[str]) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": masked_url(request.url, sensitive),
        "headers": _headers(request.headers, sensitive),
        "accept": [f"{part.start}-{part.stop - 1}" for part in request.accept],
        "timeout": None if request.timeout is None else _number(request.timeout),
        "follow_redirects": request.follow_redirects,
        **_body(request.body),
    }


def _text(raw: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw)


def _headers(headers: tuple[tuple[str, str], ...], sensitive: Collection[str]) -> list[list[str]]:
    return [[name, value] for name, value in masked_headers(headers, sensitive)]


def _body(body: bytes) -> dict[str, str]:
    """As in a file for `requeuest send`."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _number(value: float) -> float | None:
    """JSON has no number for what another program may have written."""
    return value if math.isfinite(value) else None


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()
