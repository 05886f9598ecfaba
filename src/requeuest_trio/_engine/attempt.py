"""One attempt to deliver one job, as a list of steps: open, send, judge, report."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime

import trio

from requeuest_trio._config import Config
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.recorder import Recorder
from requeuest_trio._http.sender import Sender
from requeuest_trio._model.events import Event, emit
from requeuest_trio._model.headers import Headers, find
from requeuest_trio._model.job import Reached
from requeuest_trio._model.outcome import Delivery, Outcome, damaged, judge
from requeuest_trio._model.request import Request
from requeuest_trio._model.states import JobState
from requeuest_trio._store.rows import Claimed, Report

__all__ = ["Deliverer"]

_logger = logging.getLogger("requeuest_trio.attempt")


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
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            # Another program has changed the row.
            self._report(job, damaged(str(error)), started)
        else:
            delivery = await self._send(job, request)
            now = datetime.now(UTC)
            outcome = judge(delivery, request, policy, attempt=job.attempt, now=now, random=random.random)
            self._report(job, outcome, started)
        await self.recorder.wait_for_room()

    async def _send(self, job: Claimed, request: Request) -> Delivery:
        if not self.lease.is_valid:
            return Delivery(Reached.RESOLVE, error="not sent: this process had lost its lease")
        timeout = self.config.attempt_timeout if request.timeout is None else request.timeout
        with self.lease.attempt():
            return await self.sender.send(request, _outgoing_headers(job, request), timeout=timeout)
        # Reached only if the lease lapsed.
        return Delivery(Reached.SENT, error="cut short: this process could not renew its lease")

    def _report(self, job: Claimed, outcome: Outcome, started: float) -> None:
        duration = trio.current_time() - started
        self.recorder.submit(Report(job, outcome, started, duration))
        status = outcome.answer and outcome.answer.status
        emit(
            _logger,
            Event.ATTEMPT,
            job=job.id,
            number=job.attempt,
            state=outcome.state,
            status=status,
            reached=outcome.reached,
            duration=round(duration, 4),
            error=outcome.error,
        )
        if outcome.state is JobState.DEAD:
            emit(
                _logger,
                Event.JOB_DEAD,
                job=job.id,
                channel=job.channel,
                attempts=job.attempt,
                status=status,
                error=outcome.error,
            )


def _outgoing_headers(job: Claimed, request: Request) -> Headers:
    """The request's headers and, unless it has one of its own, a key that is the same in every attempt of the job."""
    if find(request.headers, "idempotency-key") is not None:
        return request.headers
    return (*request.headers, ("Idempotency-Key", str(job.id)))
