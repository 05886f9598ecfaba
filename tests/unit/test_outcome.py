"""The judgement on an attempt: a pure decision, so every case of it stands in a table."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio import JobState, Reached, Request, RetryPolicy, StatusClass
from requeuest_trio._model.outcome import Answer, Delivery, Outcome, damaged, judge
from requeuest_trio._model.request import METHODS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
URL = "http://h/"
SUCCEEDED, DEAD, AVAILABLE = JobState.SUCCEEDED, JobState.DEAD, JobState.AVAILABLE


def verdict(delivery: Delivery, request: Request, policy: RetryPolicy, attempt: int = 1) -> Outcome:
    return judge(delivery, request, policy, attempt=attempt, now=NOW, random=lambda: 0.5)


@pytest.mark.parametrize(
    ("status", "accept", "give_up_on", "attempt", "state"),
    [
        (200, StatusClass.SUCCESS, (), 1, SUCCEEDED),
        (299, StatusClass.SUCCESS, (), 1, SUCCEEDED),
        (200, 404, (), 1, AVAILABLE),
        (404, [200, 404], (), 1, SUCCEEDED),
        (302, StatusClass.SUCCESS, (), 1, AVAILABLE),
        (302, StatusClass.REDIRECTION, (), 1, SUCCEEDED),
        (400, StatusClass.SUCCESS, (), 1, AVAILABLE),
        (400, StatusClass.SUCCESS, 400, 1, DEAD),
        (400, StatusClass.SUCCESS, StatusClass.CLIENT_ERROR, 1, DEAD),
        (500, StatusClass.SUCCESS, StatusClass.CLIENT_ERROR, 1, AVAILABLE),
        (400, 400, 400, 1, SUCCEEDED),
        (500, StatusClass.SUCCESS, (), 2, AVAILABLE),
        (500, StatusClass.SUCCESS, (), 3, DEAD),
        (500, StatusClass.SUCCESS, (), 4, DEAD),
        (200, StatusClass.SUCCESS, (), 3, SUCCEEDED),
        (200, StatusClass.SUCCESS, (), 4, SUCCEEDED),
        (101, StatusClass.INFORMATIONAL, (), 1, SUCCEEDED),
        (999, range(100, 600), range(100, 600), 1, AVAILABLE),
        (0, range(100, 600), range(100, 600), 3, DEAD),
    ],
)
def test_answer(status: int, accept: int, give_up_on: int, attempt: int, state: JobState) -> None:
    policy = RetryPolicy(max_attempts=3, give_up_on=give_up_on)
    answer = Answer(status, (), b"body")
    outcome = verdict(Delivery(Reached.RESPONSE, answer), Request.post(URL, accept=accept), policy, attempt)
    assert outcome.state is state
    assert outcome.answer is answer
    assert (outcome.error is None) == (state is SUCCEEDED)
    if outcome.error:
        assert f"status {status} is not accepted" in outcome.error


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_no_answer(attempt: int) -> None:
    delivery = Delivery(Reached.CONNECT, error="refused")
    outcome = verdict(delivery, Request.get(URL), RetryPolicy(max_attempts=3), attempt)
    assert outcome.reached is Reached.CONNECT
    assert outcome.state is (DEAD if attempt == 3 else AVAILABLE)
    assert outcome.error == ("refused; no attempts are left" if attempt == 3 else "refused")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_answer_that_broke_off(method: str) -> None:
    """Only a safe request is repeated: after a payment's 200, whatever came of the body, it was taken."""
    answer = Answer(200, (), b"", truncated=True, cut_off="connection lost")
    outcome = verdict(Delivery(Reached.RESPONSE, answer), Request(method, URL), RetryPolicy())
    if method in {"GET", "HEAD", "OPTIONS"}:
        assert outcome.state is AVAILABLE
        assert outcome.error == "the answer broke off: connection lost"
    else:
        assert outcome.state is SUCCEEDED
        assert outcome.answer is answer
        assert outcome.error == "the answer broke off: connection lost"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_answer_past_our_own_limit_is_whole_enough(method: str) -> None:
    outcome = verdict(
        Delivery(Reached.RESPONSE, Answer(200, (), b"x", truncated=True)), Request(method, URL), RetryPolicy()
    )
    assert outcome.state is SUCCEEDED


def test_safe_request_whose_answer_breaks_off_has_an_end_too() -> None:
    answer = Answer(200, (), b"", cut_off="lost")
    outcome = verdict(Delivery(Reached.RESPONSE, answer), Request.get(URL), RetryPolicy(max_attempts=1))
    assert outcome.state is DEAD
    assert outcome.error == "the answer broke off: lost; no attempts are left"


def test_giving_up_looks_at_what_was_not_accepted_only() -> None:
    """A broken answer with an accepted status is no reason to give up, even if the policy names the status."""
    answer = Answer(200, (), b"", cut_off="lost")
    outcome = verdict(Delivery(Reached.RESPONSE, answer), Request.get(URL), RetryPolicy(give_up_on=200))
    assert outcome.state is AVAILABLE


@pytest.mark.parametrize(
    ("value", "wait"), [("120", 120), ("Thu, 01 Jan 2026 00:02:00 GMT", 120), ("999999", 3600), ("0", 1), ("soon", 1)]
)
@pytest.mark.parametrize("status", [429, 503, 301])
def test_retry_after_is_heard(status: int, value: str, wait: float) -> None:
    answer = Answer(status, (("retry-AFTER", value),), b"")
    outcome = verdict(Delivery(Reached.RESPONSE, answer), Request.get(URL), RetryPolicy(jitter=0))
    assert outcome.retry_in == wait


STATUSES = st.integers(0, 999)
ANSWERS = st.builds(
    Answer,
    STATUSES,
    st.lists(st.tuples(st.sampled_from(["Retry-After", "X"]), st.text(max_size=10)), max_size=2).map(tuple),
    st.binary(max_size=3),
    truncated=st.booleans(),
    cut_off=st.none() | st.text(max_size=5),
)
DELIVERIES = st.builds(Delivery, st.just(Reached.RESPONSE), ANSWERS) | st.builds(
    Delivery, st.sampled_from(Reached), error=st.text(max_size=5)
)
SETS = st.lists(st.integers(100, 599) | st.sampled_from(StatusClass), min_size=1, max_size=3)


@given(
    delivery=DELIVERIES,
    request=st.builds(Request, st.sampled_from(sorted(METHODS)), st.just(URL), accept=SETS),
    policy=st.builds(RetryPolicy, max_attempts=st.integers(1, 5), give_up_on=SETS),
    attempt=st.integers(1, 6),
)
def test_verdict_is_one_of_three(delivery: Delivery, request: Request, policy: RetryPolicy, attempt: int) -> None:
    outcome = verdict(delivery, request, policy, attempt)
    assert outcome.state in {SUCCEEDED, DEAD, AVAILABLE}
    assert (outcome.retry_in is not None) == (outcome.state is AVAILABLE)
    broke_off = outcome.answer is not None and bool(outcome.answer.cut_off)
    assert (outcome.error is None) == (outcome.state is SUCCEEDED and not broke_off)
    assert outcome.reached is delivery.reached
    assert outcome.answer is delivery.answer
    if outcome.state is SUCCEEDED:
        assert outcome.answer is not None
        assert any(outcome.answer.status in part for part in request.accept)
    if attempt >= policy.max_attempts:
        assert outcome.state is not AVAILABLE


def test_damaged_row_is_dead_at_once() -> None:
    assert damaged("url: no URL") == Outcome(DEAD, Reached.RESOLVE, error="the stored job is damaged: url: no URL")


def test_a_redirect_that_was_not_followed_is_judged_by_its_status_and_says_why() -> None:
    delivery = Delivery(Reached.RESPONSE, Answer(307, (), b""), "the redirect would carry the body")
    outcome = judge(delivery, Request.get(URL), RetryPolicy(), attempt=1, now=datetime.now(UTC), random=lambda: 0.5)
    assert outcome.error == "status 307 is not accepted: the redirect would carry the body"
    accepted = Request.get(URL, accept=[307])
    outcome = judge(delivery, accepted, RetryPolicy(), attempt=1, now=datetime.now(UTC), random=lambda: 0.5)
    assert (outcome.state, outcome.error) == (JobState.SUCCEEDED, None)
