"""One attempt to deliver one job, as a list of steps: open, send, judge, report."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

import trio

from requeuest_trio._config import Config
from requeuest_trio._engine.large_bodies import LargeBodies, UnreadableError
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.origin_health import OriginHealth
from requeuest_trio._engine.recorder import Recorder
from requeuest_trio._http.error_texts import described
from requeuest_trio._http.progress import Progress
from requeuest_trio._http.sender import Sender
from requeuest_trio._model.errors import InvalidRequest, first_line
from requeuest_trio._model.headers import Headers, find
from requeuest_trio._model.job import Reached
from requeuest_trio._model.origin import origin_of
from requeuest_trio._model.outcome import Delivery, Outcome, damaged, failed_within, judge
from requeuest_trio._model.request import Request
from requeuest_trio._model.retry import RetryPolicy
from requeuest_trio._model.states import JobState
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.claimed import Claimed
from requeuest_trio._store.database import DATABASE_ERRORS
from requeuest_trio._store.outcomes import Report

__all__ = ["Deliverer"]

_NOT_SENT = "not sent: this process had lost its lease"
_CUT_SHORT = "cut short: this process could not renew its lease"
_UNREAD = "not sent: its body could not be read"
_READ_AGAIN_SECONDS = 5.0


class _NotOpened(Exception):
    """A job can't be sent. Its attempt has this outcome."""

    def __init__(self, outcome: Outcome, logged: str | None = None) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome
        self.logged = logged
        """What is wrong, in words that may be logged, if the error's may not."""


class _Shortage(Exception):
    """This machine lacks something without which nothing can be sent. The text says what."""


@dataclass(frozen=True, slots=True)
class Deliverer:
    """Makes the attempts of all channels, each in the task of its slot."""

    sender: Sender
    recorder: Recorder
    bodies: LargeBodies
    lease: Lease
    config: Config
    emitter: Emitter
    origins: OriginHealth = field(default_factory=OriginHealth)

    async def attempt(self, job: Claimed, scope: trio.CancelScope) -> str | None:
        """Deliver a claimed job once, and hand the outcome to the recorder.

        Args:
            job: what to deliver.
            scope: in which this runs. It gets a deadline here. If that is met, this ends with `Cancelled` once the
                outcome is handed over, and the scope serves for no other attempt.

        Returns:
            What this machine lacked, if that kept it from sending anything: then nothing was handed over, and the job
            is the caller's again. Raises no `Exception`: one would end all that this process does.

        Cancelled from outside: nothing is reported, and the job is released when the runner ends.
        """
        started = trio.current_time()
        try:
            try:
                if job.lacks_body:
                    if not await self._read_body(job, scope):
                        return None
                    started = trio.current_time()
                request, policy = self._open(job)
                delivery = await self._send(job, request, policy, scope, started)
                self._report(job, self._judge(delivery, job, request, policy), started)
            except _NotOpened as problem:
                self._report(job, problem.outcome, started, logged=problem.logged)
            except _Shortage as shortage:
                return str(shortage)
            if not self.recorder.has_room:
                scope.deadline = math.inf
                await self.recorder.wait_for_room()
        except Exception as error:
            # Whatever this is, it was not foreseen. It may have come when the request was on its way.
            outcome = failed_within(described(error), may_retry=job.attempt < _most_attempts(job))
            self.recorder.submit(Report(job, outcome, started, trio.current_time() - started), outcome.error)
        return None

    def give_up(self, job: Claimed) -> None:
        """Report that a claimed job was not sent, because its lease was lost while it waited for its turn."""
        self._report(job, _interrupted(Reached.RESOLVE, _NOT_SENT), trio.current_time())

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def _read_body(self, job: Claimed, scope: trio.CancelScope) -> bool:
        """Read what the claim has left unread. Returns whether the job is still held under its claim."""
        self.lease.begin(scope, math.inf)
        try:
            job.add_body(await self.bodies.read(job))
        except UnreadableError as error:
            self.lease.ended(scope)
            raise _NotOpened(damaged(str(error))) from error
        except (*DATABASE_ERRORS, MemoryError) as error:
            self.lease.ended(scope)
            problem = f"{_UNREAD}: {first_line(error)}"
            raise _NotOpened(_interrupted(Reached.RESOLVE, problem, _READ_AGAIN_SECONDS)) from error
        except BaseException:
            if self.lease.ended(scope):
                self.give_up(job)
            raise
        self.lease.ended(scope)
        return not job.lacks_body

    def _open(self, job: Claimed) -> tuple[Request, RetryPolicy]:
        """Read the row, which another program may have written, and see whether the job may still be sent."""
        try:
            opened = job.read()
        except MemoryError as error:
            raise _Shortage(described(error)) from error
        except Exception as error:
            # What is wrong, word for word, stands in the row. The log must not quote it: a URL may have a token in it.
            what = error.argument if isinstance(error, InvalidRequest) else type(error).__name__
            outcome = damaged(str(error) or type(error).__name__)
            raise _NotOpened(outcome, f"the stored job is damaged: {what}") from error
        if not self.lease.is_valid:
            raise _NotOpened(_interrupted(Reached.RESOLVE, _NOT_SENT))
        return opened

    async def _send(
        self, job: Claimed, request: Request, policy: RetryPolicy, scope: trio.CancelScope, started: float
    ) -> Delivery:
        """Send it. If it is cut short, by its own time or by the lease, that is reported here."""
        timeout = self.config.attempt_timeout if request.timeout is None else request.timeout
        progress = Progress(request.headers, self.lease.confirm)
        self.lease.begin(scope, started + timeout)
        try:
            delivery = await self.sender.send(request, progress, _added_headers(job, request), job.channel)
        except BaseException:
            if self.lease.ended(scope):
                self._report(job, _interrupted(Reached.SENT, _CUT_SHORT), started)
            elif scope.cancel_called:
                self._report(job, self._judge(progress.timed_out(timeout), job, request, policy), started)
            raise
        self.lease.ended(scope)
        if delivery.is_shortage:
            raise _Shortage(delivery.error)
        return delivery

    def _judge(self, delivery: Delivery, job: Claimed, request: Request, policy: RetryPolicy) -> Outcome:
        """What becomes of the job, and what that says about its origin."""
        now = datetime.now(UTC)
        outcome = judge(delivery, request, policy, attempt=job.attempt, now=now, random=random.random)
        if outcome.state is not JobState.SUCCEEDED:
            self._note_failure(origin_of(request.url), outcome)
        elif self.origins:
            self._note_success(origin_of(request.url))
        return outcome

    def _report(self, job: Claimed, outcome: Outcome, started: float, *, logged: str | None = None) -> None:
        """Hand the outcome to the recorder, and tell of the attempt."""
        duration = trio.current_time() - started
        error = logged or outcome.error
        self.recorder.submit(Report(job, outcome, started, duration), error)
        if self.emitter.takes(events.Attempt):
            self.emitter.emit(
                events.Attempt(
                    job=job.id,
                    number=job.attempt,
                    state=outcome.state,
                    status=outcome.answer.status if outcome.answer else None,
                    reached=outcome.reached,
                    duration=round(duration, 4),
                    error=error,
                )
            )

    # --- the health of origins ----------------------------------------------------------------------------------------

    def _note_failure(self, origin: str, outcome: Outcome) -> None:
        gives_up = outcome.state is JobState.DEAD
        failing = self.origins.failed(origin, now=trio.current_time(), gives_up=gives_up)
        if failing is not None:
            self.emitter.emit(events.OriginFailing(origin=origin, failures=failing.failures, error=outcome.error))

    def _note_success(self, origin: str) -> None:
        recovered = self.origins.succeeded(origin, now=trio.current_time())
        if recovered is not None:
            failed_for = round(recovered.failed_for, 1)
            self.emitter.emit(events.OriginRecovered(origin=origin, failures=recovered.failures, failed_for=failed_for))


def _most_attempts(job: Claimed) -> int:
    try:
        return job.policy().max_attempts
    except Exception:
        return 0


def _interrupted(reached: Reached, error: str, retry_in: float = 0.0) -> Outcome:
    """The outcome for an attempt that this process broke off: as after a rescue, it counts, but is never the last."""
    return Outcome(JobState.AVAILABLE, reached, retry_in=retry_in, error=error)


def _added_headers(job: Claimed, request: Request) -> Headers:
    """Unless the request has one of its own, a key that is the same in every attempt of the job."""
    return () if _has_key(request.headers) else (("Idempotency-Key", str(job.id)),)


@lru_cache(maxsize=256)
def _has_key(headers: Headers) -> bool:
    return find(headers, "idempotency-key") is not None
