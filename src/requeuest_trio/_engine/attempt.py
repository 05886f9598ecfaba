"""One attempt to deliver one job, as a list of steps: open, send, judge, report."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import trio

from requeuest_trio._config import Config
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.recorder import Recorder
from requeuest_trio._http.sender import Sender
from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._model.events import Event, emit
from requeuest_trio._model.headers import Headers, find
from requeuest_trio._model.job import Reached
from requeuest_trio._model.outcome import Outcome, damaged, judge
from requeuest_trio._model.request import Request
from requeuest_trio._model.retry import RetryPolicy
from requeuest_trio._model.states import JobState
from requeuest_trio._store.rows import Claimed, Report

__all__ = ["Deliverer"]

_logger = logging.getLogger("requeuest_trio.attempt")

# What reading a row raises that another program has changed. RecursionError: JSON that is nested too deep.
_DAMAGE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)


@dataclass(frozen=True, slots=True)
class Deliverer:
    """What every attempt needs."""

    sender: Sender
    recorder: Recorder
    lease: Lease
    config: Config

    async def attempt(self, job: Claimed) -> None:
        """Deliver a claimed job once, and hand the outcome to the recorder.

        Cancelled: nothing is reported, and the job is given back when the runner ends.
        """
        started = trio.current_time()
        try:
            request, policy = job.read()
        except _DAMAGE as error:
            # What is wrong, word for word, stands in the row. The log must not quote it: a URL may have a token in it.
            what = error.argument if isinstance(error, InvalidRequest) else type(error).__name__
            outcome = damaged(str(error) or type(error).__name__)
            self._report(job, outcome, started, logged=f"the stored job is damaged: {what}")
        else:
            self._report(job, await self._deliver(job, request, policy), started)
        await self.recorder.wait_for_room()

    async def _deliver(self, job: Claimed, request: Request, policy: RetryPolicy) -> Outcome:
        if not self.lease.is_valid:
            return _interrupted(Reached.RESOLVE, "not sent: this process had lost its lease")
        timeout = self.config.attempt_timeout if request.timeout is None else request.timeout
        scope = self.lease.attempt(timeout)
        try:
            delivery = await self.sender.send(request, _added_headers(job, request), timeout=timeout, scope=scope)
        finally:
            was_cut_short = self.lease.ended(scope)
        if was_cut_short:
            return _interrupted(Reached.SENT, "cut short: this process could not renew its lease")
        now = datetime.now(UTC)
        return judge(delivery, request, policy, attempt=job.attempt, now=now, random=random.random)

    def give_up(self, job: Claimed) -> None:
        """Report that a claimed job was not sent, because its lease was lost while it waited for its turn."""
        outcome = _interrupted(Reached.RESOLVE, "not sent: this process had lost its lease")
        self._report(job, outcome, trio.current_time())

    def _report(self, job: Claimed, outcome: Outcome, started: float, *, logged: str | None = None) -> None:
        duration = trio.current_time() - started
        error = logged or outcome.error
        self.recorder.submit(Report(job, outcome, started, duration), error)
        if _logger.isEnabledFor(Event.ATTEMPT.value.level):
            emit(
                _logger,
                Event.ATTEMPT,
                job=job.id,
                number=job.attempt,
                state=outcome.state,
                status=outcome.answer and outcome.answer.status,
                reached=outcome.reached,
                duration=round(duration, 4),
                error=error,
            )


def _interrupted(reached: Reached, error: str) -> Outcome:
    """The outcome for an attempt that this process broke off: as after a rescue, it counts, but is never the last."""
    return Outcome(JobState.AVAILABLE, reached, retry_in=0.0, error=error)


def _added_headers(job: Claimed, request: Request) -> Headers:
    """Unless the request has one of its own, a key that is the same in every attempt of the job."""
    return () if _has_key(request.headers) else (("Idempotency-Key", str(job.id)),)


@lru_cache(maxsize=256)
def _has_key(headers: Headers) -> bool:
    return find(headers, "idempotency-key") is not None
