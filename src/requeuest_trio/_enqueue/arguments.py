"""From the arguments of `spawn` to jobs that may be stored: everything is checked here, before anything is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict
from uuid import UUID

from requeuest_trio._config import Config
from requeuest_trio._model import checks
from requeuest_trio._model.channel import Channel
from requeuest_trio._model.errors import InvalidRequest, kind_of, shown
from requeuest_trio._model.ids import Ids
from requeuest_trio._model.request import Request
from requeuest_trio._model.retry import DEFAULT_RETRY, RetryPolicy
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.new_jobs import NewJob

__all__ = ["JobFactory", "SpawnOptions"]

_OF_HTTPX = frozenset({"httpx.Request", "httpx2.Request"})


class SpawnOptions(TypedDict, total=False):
    """What may be given to `Client.spawn` by name; see there. For a program that passes options on: `**options`.

    `spawn_many` takes the same, but in `job_id` one id for each request, and `spawn_returning` no `connection`.
    """

    delay: float | timedelta | None
    at: datetime | None
    priority: int
    ordering_key: str | None
    retry: RetryPolicy | None
    timeout: float | timedelta | None
    job_id: UUID | None
    connection: TrioConnection[Any] | None


class JobFactory:
    """Makes jobs of arguments that it has checked. Raises `InvalidRequest`, naming the argument and its limit."""

    def __init__(self, config: Config, settings: Iterable[Channel]) -> None:
        self._body_limit = config.max_request_body
        self._ordered = frozenset(channel.name for channel in settings if channel.ordered)
        self._ids = Ids()

    def jobs(
        self, channel: str, requests: Sequence[Request], ids: Sequence[UUID] | None, options: SpawnOptions
    ) -> list[NewJob]:
        """One job for each request. `ids` has the ids of their own, in place of `job_id`."""
        channel = checks.new_name("channel", channel, checks.MAX_CHANNEL_LENGTH)
        for request in requests:
            self._check_request(request)
        delay, at = _due(options.get("delay"), options.get("at"))
        priority = checks.priority(options.get("priority", 0))
        key = self._ordering_key(channel, options.get("ordering_key"))
        retry = _retry(options.get("retry"))
        timeout = options.get("timeout")
        timeout = None if timeout is None else checks.seconds("timeout", timeout, positive=True)
        return [
            NewJob(
                id=job_id,
                channel=channel,
                request=request,
                priority=priority,
                ordering_key=key,
                at=at,
                delay=delay,
                retry=retry,
                timeout=timeout,
            )
            for job_id, request in zip(self._job_ids(ids, len(requests)), requests, strict=True)
        ]

    def _check_request(self, request: Request) -> None:
        if not isinstance(request, Request):
            remedy = "; write Request.from_httpx(...)" if kind_of(request) in _OF_HTTPX else ""
            raise InvalidRequest("request", f"must be a requeuest_trio.Request, not {kind_of(request)}{remedy}")
        if len(request.body) > self._body_limit:
            raise InvalidRequest(
                "body", f"must have at most {self._body_limit} bytes (Config.max_request_body), not {len(request.body)}"
            )

    def _ordering_key(self, channel: str, key: str | None) -> str | None:
        if key is None:
            return None
        if channel in self._ordered:
            raise InvalidRequest("ordering_key", f"channel {shown(channel)} is ordered as a whole: leave it out")
        return checks.new_name("ordering_key", key, checks.MAX_KEY_LENGTH)

    def _job_ids(self, given: Sequence[UUID] | None, number: int) -> list[UUID]:
        if given is None:
            return self._ids.take(number)
        if isinstance(given, UUID | str) or not isinstance(given, Sequence):
            raise InvalidRequest("job_id", "must be a sequence with one id for each request")
        ids = [checks.job_id(job_id) for job_id in given]
        if len(ids) != number:
            raise InvalidRequest("job_id", f"must have one id for each of {number} requests, not {len(ids)}")
        if len(set(ids)) != number:
            raise InvalidRequest("job_id", "must have another id for each request, and has one of them twice")
        return ids


def _due(delay: float | timedelta | None, at: datetime | None) -> tuple[float, datetime | None]:
    if at is None:
        return 0.0 if delay is None else checks.seconds("delay", delay), None
    if delay is not None:
        raise InvalidRequest("at", "is given together with delay: give one of them")
    return 0.0, checks.instant("at", at)


def _retry(policy: RetryPolicy | None) -> RetryPolicy:
    if policy is None:
        return DEFAULT_RETRY
    if not isinstance(policy, RetryPolicy):
        example = "RetryPolicy(max_attempts=5)"
        raise InvalidRequest("retry", f"must be a RetryPolicy, such as {example}, not {kind_of(policy)}")
    return policy
