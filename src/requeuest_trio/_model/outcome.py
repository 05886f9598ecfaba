"""What became of an attempt, and the pure judgement on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from requeuest_trio._model.headers import Headers, find
from requeuest_trio._model.job import Reached
from requeuest_trio._model.request import Request
from requeuest_trio._model.retry import Random, RetryPolicy, retry_after_seconds, wait_after
from requeuest_trio._model.states import JobState
from requeuest_trio._model.statuses import contains

__all__ = ["Answer", "Delivery", "Outcome", "damaged", "failed_within", "judge"]

# Methods whose repetition changes nothing at the receiver (RFC 9110 section 9.2.1).
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_ERROR_SECONDS = 60.0


# No tuple: what shows the locals of a traceback takes tuples apart, whatever their `repr` hides.
@dataclass(slots=True, repr=False)
class Answer:
    """A response as far as it was read."""

    status: int
    headers: Headers
    body: bytes
    truncated: bool = False
    """Only the first part of the body is here."""
    cut_off: str | None = None
    """Why the body broke off, if that was not the library's own limit."""
    url: str | None = None
    """Where it came from, if redirects have led away from the request's."""

    def __repr__(self) -> str:
        """Without what may be secret: headers and body."""
        return f"<Answer {self.status}, {len(self.headers)} headers, body={len(self.body)} bytes>"


class Delivery(NamedTuple):
    """What sending came to: an answer, or an error."""

    reached: Reached
    answer: Answer | None = None
    error: str | None = None
    """With an answer: why it is the last one, though it is a redirect that was to be followed."""
    is_shortage: bool = False
    """This machine lacked something, before a byte of the request had left: it says nothing about the receiver."""


class Outcome(NamedTuple):
    """What to record: the job's next state, and why."""

    state: JobState
    """`SUCCEEDED`, `DEAD`, or `AVAILABLE` for another try."""
    reached: Reached
    retry_in: float | None = None
    """Seconds; with `AVAILABLE` only."""
    answer: Answer | None = None
    error: str | None = None


def judge(
    delivery: Delivery, request: Request, policy: RetryPolicy, *, attempt: int, now: datetime, random: Random
) -> Outcome:
    """Decide what follows from an attempt: the status decides, not the body.

    With one exception: a safe request whose answer broke off is sent again, since that can do no harm and the
    caller wants the body. Any other request is never repeated after an accepted status; its error then says that the
    answer broke off.
    """
    answer = delivery.answer
    error = delivery.error
    if answer is not None:
        accepted = contains(request.accept, answer.status)
        if accepted and not (answer.cut_off and request.method in _SAFE_METHODS):
            return Outcome(JobState.SUCCEEDED, delivery.reached, answer=answer, error=_broken_off(answer))
        error = _broken_off(answer) if accepted else f"status {answer.status} is not accepted"
        if not accepted and delivery.error:
            error = f"{error}: {delivery.error}"
        if not accepted and contains(policy.give_up_on, answer.status):
            return Outcome(JobState.DEAD, delivery.reached, answer=answer, error=f"{error}, and means giving up")
    if attempt >= policy.max_attempts:
        return Outcome(JobState.DEAD, delivery.reached, answer=answer, error=f"{error}; no attempts are left")
    asked = None if answer is None else retry_after_seconds(find(answer.headers, "retry-after"), now)
    wait = wait_after(policy, attempt, asked, random)
    return Outcome(JobState.AVAILABLE, delivery.reached, retry_in=wait, answer=answer, error=error)


def failed_within(error: str, *, may_retry: bool) -> Outcome:
    """The outcome for an attempt that ended by an error of this library's own: for all that is known, it was sent."""
    if may_retry:
        return Outcome(JobState.AVAILABLE, Reached.SENT, retry_in=_OWN_ERROR_SECONDS, error=error)
    return Outcome(JobState.DEAD, Reached.SENT, error=f"{error}; no attempts are left")


def _broken_off(answer: Answer) -> str | None:
    return f"the answer broke off: {answer.cut_off}" if answer.cut_off else None


def damaged(problem: str) -> Outcome:
    """The outcome for a row that can't be read as a request: nothing was sent, and no retry would help."""
    return Outcome(JobState.DEAD, Reached.RESOLVE, error=f"the stored job is damaged: {problem}")
