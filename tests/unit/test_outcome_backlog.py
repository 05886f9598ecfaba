"""What is unconfirmed: nothing is forgotten before it is confirmed, and what can't be written holds up nothing else."""

from __future__ import annotations

import math
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from requeuest_trio import Request
from requeuest_trio._engine.outcome_backlog import (
    MAX_BACKLOG_BYTES,
    MAX_BATCH_BYTES,
    MAX_BATCH_ROWS,
    OutcomeBacklog,
    Unconfirmed,
)
from requeuest_trio._model.job import Reached
from requeuest_trio._model.outcome import Answer, Outcome
from requeuest_trio._model.states import JobState
from requeuest_trio._store.claimed import Claimed
from requeuest_trio._store.outcomes import Report


def report(job: int, claim: int = 0, body: bytes = b"") -> Report:
    claimed = Claimed(UUID(int=claim), UUID(int=job), "a", None, 1, Request.get("http://h/"), None)
    return Report(claimed, Outcome(JobState.SUCCEEDED, Reached.RESPONSE, answer=Answer(200, (), body)), 0.0, 0.0)


def jobs(batch: list[Unconfirmed]) -> list[int]:
    return [entry.report.job.id.int for entry in batch]


class Comparison(RuleBasedStateMachine):
    """Beside a model: a list, in which each outcome has the time of its next try."""

    @initialize()
    def start(self) -> None:
        self.backlog = OutcomeBacklog(10)
        self.now, self.claim = 0.0, 0
        self.model: dict[int, tuple[int, float | None]] = {}
        """Of each claim the job, and when it is tried again if it was set aside."""

    @rule(job=st.integers(1, 5))
    def an_attempt_ends(self, job: int) -> None:
        self.claim += 1
        self.model[self.claim] = job, None
        self.backlog.add(report(job, self.claim))

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def batch(self) -> list[Unconfirmed]:
        """The next batch, which has to be what the model would write."""
        batch = self.backlog.next_batch(self.now)
        claims = [entry.report.job.claim.int for entry in batch]
        overdue = [claim for claim, (_, at) in self.model.items() if at is not None and at <= self.now]
        fresh = [claim for claim, (_, at) in self.model.items() if at is None]
        if overdue:
            assert len(claims) == 1
            assert claims[0] in overdue, "alone, and before the others"
        else:
            assert claims == fresh[: len(claims)], "the oldest, in their order"
            of_jobs = [self.model[claim][0] for claim in claims]
            assert len(set(of_jobs)) == len(claims), "each of another job"
            rest = fresh[len(claims) :]
            assert not rest or self.model[rest[0]][0] in of_jobs, "as many as can go together"
        return batch

    @precondition(lambda self: self.model)
    @rule(number=st.integers(1, 5))
    def some_are_confirmed(self, number: int) -> None:
        confirmed = self.batch()[:number]
        self.backlog.confirm(confirmed)
        for entry in confirmed:
            del self.model[entry.report.job.claim.int]

    @precondition(lambda self: self.model)
    @rule(pause=st.sampled_from([0.2, 1.0, 9.0]), is_slow=st.booleans())
    def one_is_set_aside(self, pause: float, is_slow: bool) -> None:
        for entry in self.batch()[:1]:
            entry.is_slow = is_slow
            self.backlog.set_aside(entry, self.now + pause)
            self.model[entry.report.job.claim.int] = entry.report.job.id.int, self.now + pause

    @rule()
    def the_end_comes(self) -> None:
        self.backlog.end_pauses()
        for entry in self.backlog:
            if entry.failures and not entry.is_slow:
                self.model[entry.report.job.claim.int] = entry.report.job.id.int, -math.inf

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert len(self.backlog) == len(self.model) == len(list(self.backlog))
        assert self.backlog.claims == {UUID(int=claim) for claim in self.model}
        retries = [at for _, at in self.model.values() if at is not None]
        assert self.backlog.has_failures == bool(retries)
        assert self.backlog.next_retry == min(retries, default=math.inf)


TestComparison = Comparison.TestCase
TestComparison.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_batch_has_its_bounds() -> None:
    backlog = OutcomeBacklog(10)
    for job in range(MAX_BATCH_ROWS + 7):
        backlog.add(report(job))
    assert jobs(backlog.next_batch(0.0)) == list(range(MAX_BATCH_ROWS))
    large = OutcomeBacklog(10)
    for job in range(5):
        large.add(report(job, body=bytes(MAX_BATCH_BYTES // 2)))
    # It ends with the one that fills it.
    assert jobs(large.next_batch(0.0)) == [0, 1, 2]


def test_there_is_room_for_so_many_and_for_so_many_bytes() -> None:
    backlog = OutcomeBacklog(10)
    for job in range(10 + 2 * MAX_BATCH_ROWS):
        backlog.add(report(job))
    assert backlog.has_room
    backlog.add(report(-1 % 2**128))
    assert not backlog.has_room
    backlog.confirm(backlog.next_batch(0.0))
    assert backlog.has_room
    backlog.add(report(2**100, body=bytes(MAX_BACKLOG_BYTES + 1)))
    assert not backlog.has_room
    while batch := backlog.next_batch(0.0):
        backlog.confirm(batch)
    assert backlog.has_room
    assert len(backlog) == 0


def test_what_took_too_long_is_not_tried_again_in_the_end() -> None:
    backlog = OutcomeBacklog(10)
    for job in (1, 2):
        backlog.add(report(job))
    quick, slow = backlog.next_batch(0.0)
    slow.is_slow = True
    for entry in (quick, slow):
        backlog.set_aside(entry, 60.0)
    assert backlog.next_batch(0.0) == []
    backlog.end_pauses()
    assert backlog.next_batch(0.0) == [quick]
    backlog.confirm([quick])
    assert backlog.next_batch(0.0) == []
