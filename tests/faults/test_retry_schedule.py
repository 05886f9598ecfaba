"""A job that is never accepted, over days of virtual time: sent exactly when its policy says, and as often, however the
receiver answers. The judgement is the library's; the sleeping is on Trio's autojump clock."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from requeuest_trio import JobState, Reached, Request, RetryPolicy
from requeuest_trio._model.outcome import Answer, Delivery, Outcome, judge

NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
YEAR = 365 * 86_400
EXACT = RetryPolicy(jitter=0, max_attempts=30)


class Timetable:
    """Sends a job until it is finished, sleeping what each judgement says, and writes down when it was sent."""

    def __init__(
        self, policy: RetryPolicy, retry_after: str | None = None, chance: random.Random | None = None
    ) -> None:
        self.policy = policy
        self.retry_after = retry_after
        self.chance = chance or random.Random(0)
        self.sent: list[float] = []
        self.outcome: Outcome

    async def run(self) -> None:
        began = trio.current_time()
        while True:
            now = trio.current_time() - began
            self.sent.append(now)
            headers = () if self.retry_after is None else (("Retry-After", self._asked(now)),)
            delivery = Delivery(Reached.RESPONSE, Answer(503, headers, b""))
            self.outcome = judge(
                delivery,
                Request.get("http://x.test/"),
                self.policy,
                attempt=len(self.sent),
                now=NOW + timedelta(seconds=now),
                random=self.chance.random,
            )
            if self.outcome.retry_in is None:
                return
            await trio.sleep(self.outcome.retry_in)

    def _asked(self, now: float) -> str:
        """`date+60`: an HTTP-date so many seconds from now."""
        assert self.retry_after is not None
        if self.retry_after.startswith("date"):
            at = NOW + timedelta(seconds=now + float(self.retry_after[4:]))
            return format_datetime(at.replace(microsecond=0), usegmt=True)
        return self.retry_after


def timetable(policy: RetryPolicy, retry_after: str | None = None, chance: random.Random | None = None) -> Timetable:
    table = Timetable(policy, retry_after, chance)
    trio.run(table.run, clock=MockClock(autojump_threshold=0))
    return table


def waits(sent: Sequence[float]) -> list[float]:
    return [round(after - before, 6) for before, after in pairwise(sent)]


BACKOFF = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, *[3600] * 17]


@pytest.mark.parametrize(
    ("retry_after", "wanted"),
    [
        (None, BACKOFF),
        ("0", BACKOFF),
        ("100", [max(100, wait) for wait in BACKOFF]),
        ("3600", [3600] * 29),
        ("7200", [3600] * 29),
        (str(YEAR), [3600] * 29),
        ("-1", BACKOFF),
        ("soon", BACKOFF),
        ("1e9", BACKOFF),
        ("", BACKOFF),
        ("date+100", [max(100, wait) for wait in BACKOFF]),
        ("date-100", BACKOFF),
        (f"date+{YEAR}", [3600] * 29),
    ],
)
def test_the_whole_schedule_to_exhaustion(retry_after: str | None, wanted: list[float]) -> None:
    table = timetable(EXACT, retry_after)
    assert waits(table.sent) == wanted
    assert table.outcome.state is JobState.DEAD
    assert table.outcome.error == "status 503 is not accepted; no attempts are left"


def test_a_schedule_of_days() -> None:
    """A thousand attempts: the first dozen quickly, then one an hour for six weeks."""
    table = timetable(RetryPolicy(jitter=0, max_attempts=1_000))
    assert len(table.sent) == 1_000
    assert table.sent[-1] == sum(BACKOFF[:12]) + 987 * 3600


@given(
    seed=st.integers(0, 2**32),
    jitter=st.floats(0, 1),
    initial=st.floats(0.001, 100),
    multiplier=st.floats(1, 10),
    max_attempts=st.integers(1, 40),
    retry_after=st.none() | st.integers(0, 2 * YEAR).map(str),
)
def test_every_wait_lies_in_its_range(
    seed: int, jitter: float, initial: float, multiplier: float, max_attempts: int, retry_after: str | None
) -> None:
    policy = RetryPolicy(
        jitter=jitter, initial=initial, multiplier=multiplier, max_attempts=max_attempts, max_backoff=7_200
    )
    chance = random.Random(seed)
    for attempt in range(1, max_attempts + 1):
        headers = () if retry_after is None else (("Retry-After", retry_after),)
        outcome = judge(
            Delivery(Reached.RESPONSE, Answer(503, headers, b"")),
            Request.get("http://x.test/"),
            policy,
            attempt=attempt,
            now=NOW,
            random=chance.random,
        )
        if attempt == max_attempts:
            assert (outcome.state, outcome.retry_in) == (JobState.DEAD, None)
            continue
        base = min(initial * multiplier ** (attempt - 1), 7_200)
        least = max(base * (1 - jitter), min(float(retry_after or 0), 7_200))
        most = max(base, float(retry_after or 0)) * (1 + jitter)
        assert outcome.retry_in is not None
        assert least * 0.999_999 <= outcome.retry_in <= min(most, 7_200) * 1.000_001


def test_jitter_spreads_what_failed_together() -> None:
    """A thousand jobs that a receiver refused in the same moment do not come back in the same moment."""
    policy = RetryPolicy(max_attempts=2)
    second = sorted(timetable(policy, chance=random.Random(seed)).sent[1] for seed in range(300))
    assert 0.9 <= second[0] < 0.93
    assert 1.07 < second[-1] <= 1.1
    assert max(waits(second)) < 0.02


def test_the_clock_of_a_receiver_that_is_wrong_harms_nobody() -> None:
    """HTTP-dates a century away in both directions: at most the longest wait, at least the backoff."""
    for asked in ("date+3153600000", "date-900000000"):
        table = timetable(EXACT, asked)
        assert cast("Any", table.outcome).state is JobState.DEAD
        assert all(1 <= wait <= 3600 for wait in waits(table.sent))
