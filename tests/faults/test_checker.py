"""
The checker can fail: for each invariant, histories made by hand in which it is broken, and their harmless likeness.

Every history starts from the same good one, and has one thing changed.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal
from uuid import UUID

import pytest

from tests.faults.checker import judge
from tests.faults.figures import recovery_time, takeover_time
from tests.faults.history import (
    Answer,
    Arrival,
    Fault,
    History,
    Promise,
    Raised,
    Spawn,
    StoredAttempt,
    StoredJob,
    Usage,
)

A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)
PROMISE = Promise(lease=6.0, poll_interval=1.0, attempt_timeout=5.0, recovery=10.0)  # stuck after 10 s, zombies for 6 s

SPAWN = Spawn(
    job=A, batch=("p", 1), place=0, channel="a", key=None, seq=1, body="b", invoked_at=0.0, ended_at=0.1, result="ok"
)
ANSWER = Answer(200, "1", "said")
ARRIVAL = Arrival(job=A, at=1.0, key=None, seq=1, body="b", ended_at=1.1, status=200, answer=ANSWER)
JOB = StoredJob(
    id=A,
    channel="a",
    key=None,
    position=None,
    state="succeeded",
    attempts=1,
    max_attempts=9,
    finished_at=1.2,
    answer=ANSWER,
)
ATTEMPT = StoredAttempt(
    job=A,
    number=1,
    started_at=0.9,
    ended_at=1.1,
    reached="response",
    status=200,
    retry_at=math.inf,
    excerpt="said",
)
GOOD = History(promise=PROMISE, spawns=[SPAWN], arrivals=[ARRIVAL], jobs=[JOB], attempts=[ATTEMPT])


def broken(history: History) -> set[str]:
    return {violation.invariant for violation in judge(history)}


def kill(at: float, *jobs: UUID, kind: str = "kill -9", until: float | None = None, uncounted: bool = False) -> Fault:
    concerned = frozenset(jobs) or None
    return Fault(kind=kind, at=at, until=at if until is None else until, jobs=concerned, uncounted=uncounted)


def test_a_good_history_is_good() -> None:
    assert judge(GOOD) == []


# --- I1 ---------------------------------------------------------------------------------------------------------------


def test_an_acknowledged_job_must_be_there() -> None:
    assert "I1" in broken(replace(GOOD, jobs=[], arrivals=[], attempts=[]))


@pytest.mark.parametrize("result", ["unknown", "fail"])
def test_one_that_was_not_acknowledged_need_not_be_there(result: Literal["unknown", "fail"]) -> None:
    spawn = replace(SPAWN, result=result)
    assert not broken(replace(GOOD, spawns=[spawn], jobs=[], arrivals=[], attempts=[]))


@pytest.mark.parametrize("result", ["ok", "unknown"])
def test_what_is_there_must_be_finished(result: Literal["ok", "unknown"]) -> None:
    job = replace(JOB, state="running", finished_at=math.inf)
    assert broken(replace(GOOD, spawns=[replace(SPAWN, result=result)], jobs=[job])) == {"I1"}


def test_what_is_recorded_as_delivered_must_have_been_accepted() -> None:
    assert broken(replace(GOOD, arrivals=[replace(ARRIVAL, status=503)])) == {"I1"}
    assert "I1" in broken(replace(GOOD, arrivals=[]))


def test_a_batch_is_stored_whole_or_not_at_all() -> None:
    other = replace(SPAWN, job=B, place=1, result="unknown")
    assert broken(replace(GOOD, spawns=[replace(SPAWN, result="unknown"), other])) == {"I1"}
    assert not broken(replace(GOOD, spawns=[SPAWN, replace(other, batch=("p", 2))]))


# --- I2 ---------------------------------------------------------------------------------------------------------------


def test_what_nobody_asked_for_must_not_arrive() -> None:
    assert broken(replace(GOOD, spawns=[])) == {"I2"}
    assert broken(replace(GOOD, spawns=[replace(SPAWN, result="fail")])) == {"I2"}


def test_what_is_not_stored_must_not_arrive() -> None:
    unknown = replace(SPAWN, result="unknown")
    assert broken(replace(GOOD, spawns=[unknown], jobs=[], attempts=[])) == {"I2"}


def test_nothing_arrives_before_it_is_asked_for() -> None:
    assert broken(replace(GOOD, spawns=[replace(SPAWN, invoked_at=1.05, ended_at=1.06)])) == {"I2"}


@pytest.mark.parametrize("change", [{"body": "x"}, {"key": "k"}, {"seq": 2}])
def test_what_arrives_must_be_what_was_asked_for(change: dict[str, str]) -> None:
    arrival = replace(ARRIVAL, **change)  # type: ignore[arg-type] # fields by name
    assert broken(replace(GOOD, arrivals=[arrival])) == {"I2"}


# --- I3 ---------------------------------------------------------------------------------------------------------------


def twice(second: float, *faults: Fault) -> History:
    """Delivered twice, and recorded at 1.2 as the second attempt."""
    return replace(
        GOOD,
        arrivals=[replace(ARRIVAL, at=0.5, ended_at=0.6), replace(ARRIVAL, at=second, ended_at=second + 0.1)],
        jobs=[replace(JOB, attempts=2)],
        attempts=[replace(ATTEMPT, reached="unknown", ended_at=0.9), replace(ATTEMPT, number=2)],
        faults=faults,
    )


def test_a_second_delivery_needs_a_fault_that_concerns_it() -> None:
    assert broken(twice(1.0)) == {"I3"}
    assert broken(twice(1.0, kill(0.7, B))) == {"I3"}
    assert broken(twice(1.0, kill(0.3, A))) == {"I3"}
    assert broken(twice(1.0, kill(2.0, A))) == {"I3"}
    assert not broken(twice(1.0, kill(0.3, A, until=0.7)))
    assert not broken(twice(1.0, kill(0.7, A)))
    assert not broken(twice(1.0, kill(0.7)))


def test_nothing_is_sent_after_its_success_was_recorded() -> None:
    late = replace(ARRIVAL, at=1.5, ended_at=1.6, status=None)
    jobs = [replace(JOB, attempts=2)]
    attempts = [ATTEMPT, replace(ATTEMPT, number=2)]
    history = replace(GOOD, arrivals=[ARRIVAL, late], jobs=jobs, attempts=attempts)
    assert broken(history) == {"I3"}
    assert not broken(replace(history, faults=[kill(1.0, A)]))


def test_not_even_a_zombie_sends_for_longer_than_an_attempt_may_take() -> None:
    assert not broken(twice(1.2 + 5.9, kill(0.7, A)))
    assert broken(twice(1.2 + 6.1, kill(0.7, A))) == {"I3"}


# --- I4 ---------------------------------------------------------------------------------------------------------------


def chain(*times: tuple[float, float, float]) -> History:
    """Jobs of one key in order: for each, when it arrived, was answered, and was recorded."""
    ids = [UUID(int=number) for number in range(1, len(times) + 1)]
    return replace(
        GOOD,
        spawns=[
            replace(SPAWN, job=job, key="k", seq=place, place=place, batch=("p", place), ended_at=0.0)
            for place, job in enumerate(ids)
        ],
        arrivals=[
            replace(ARRIVAL, job=job, key="k", seq=place, at=at, ended_at=ended_at)
            for place, (job, (at, ended_at, _)) in enumerate(zip(ids, times, strict=True))
        ],
        jobs=[
            replace(JOB, id=job, key="k", position=place, finished_at=finished_at)
            for place, (job, (_, _, finished_at)) in enumerate(zip(ids, times, strict=True))
        ],
        attempts=[replace(ATTEMPT, job=job) for job in ids],
    )


def test_one_job_of_a_key_comes_after_the_other() -> None:
    assert not broken(chain((1.0, 1.1, 1.2), (1.3, 1.4, 1.5)))


def test_a_successor_must_wait_until_the_one_before_is_finished() -> None:
    assert broken(chain((1.0, 1.1, 1.3), (1.2, 1.4, 1.5))) == {"I4"}


def test_the_order_is_that_of_the_positions() -> None:
    assert "I4" in broken(chain((1.3, 1.4, 1.5), (1.0, 1.1, 1.2)))


def test_two_jobs_of_a_key_are_never_in_flight_at_once() -> None:
    overlapping = chain((1.0, 1.5, 1.1), (1.2, 1.4, 1.5))
    assert broken(overlapping) == {"I4"}
    assert not broken(replace(overlapping, faults=[kill(1.05, A)]))
    assert broken(replace(overlapping, faults=[kill(1.05, B)])) == {"I4"}


def test_what_was_committed_first_stands_first() -> None:
    history = chain((1.0, 1.1, 1.2), (1.3, 1.4, 1.5))
    first, second = history.spawns
    late = replace(first, invoked_at=0.6, ended_at=0.7)
    assert broken(replace(history, spawns=[late, replace(second, ended_at=0.5)])) == {"I4"}
    assert not broken(replace(history, spawns=[late, replace(second, ended_at=0.65)]))


def test_a_batch_keeps_its_order() -> None:
    history = chain((1.0, 1.1, 1.2), (1.3, 1.4, 1.5))
    first, second = history.spawns
    assert broken(replace(history, spawns=[replace(first, place=2), replace(second, batch=first.batch)])) == {"I4"}


# --- I5 ---------------------------------------------------------------------------------------------------------------


def rescued(ended_at: float, *faults: Fault) -> History:
    """Its first attempt was lost, and found to be so then."""
    return replace(
        GOOD,
        jobs=[replace(JOB, attempts=2, finished_at=ended_at + 0.2)],
        arrivals=[replace(ARRIVAL, at=ended_at + 0.1, ended_at=ended_at + 0.2)],
        attempts=[replace(ATTEMPT, reached="unknown", ended_at=ended_at), replace(ATTEMPT, number=2)],
        faults=faults,
    )


def test_a_dead_claim_must_not_live_for_too_long() -> None:
    assert not broken(rescued(10.9, kill(1.0, A)))
    assert broken(rescued(11.1, kill(1.0, A))) == {"I5"}
    assert not broken(rescued(11.1, kill(1.0, A), kill(2.0, A, until=8.0)))
    assert broken(rescued(11.1, kill(1.0, A), kill(2.0, B, until=8.0))) == {"I5"}


def turns(begun_at: float, *, other_asked_at: float = 5.0, other_told_at: float = 5.1) -> History:
    """A was due by 0.1. B was due between being asked for and being told of, and was begun at 10; A is begun then."""
    other = replace(SPAWN, job=B, seq=2, batch=("p", 2), invoked_at=other_asked_at, ended_at=other_told_at)
    return replace(
        GOOD,
        spawns=[SPAWN, other],
        arrivals=[replace(ARRIVAL, job=B, seq=2, at=10.1), replace(ARRIVAL, at=begun_at)],
        jobs=[replace(JOB, finished_at=begun_at + 1), replace(JOB, id=B, finished_at=11.0)],
        attempts=[replace(ATTEMPT, started_at=begun_at), replace(ATTEMPT, job=B, started_at=10.0)],
    )


def test_no_job_is_starved_by_those_that_come_after_it() -> None:
    assert broken(turns(20.1)) == {"I5"}
    assert not broken(turns(19.9))


def test_how_much_later_the_other_was_due_matters_no_more_once_that_is_sure() -> None:
    """On a crowded machine, of two that were claimed one after the other the second is begun first now and then."""
    assert not broken(turns(10.1, other_asked_at=9.8, other_told_at=9.9))
    assert broken(turns(20.1, other_asked_at=3.2)) == {"I5"}


def test_who_was_not_surely_due_later_proves_nothing() -> None:
    """A process may spawn and send it before it knows of the other; or it was stored long before that was told."""
    assert not broken(turns(20.1, other_asked_at=3.0))
    assert not broken(turns(20.1, other_asked_at=3.0, other_told_at=9.9))
    [first, second] = turns(20.1).spawns
    assert not broken(replace(turns(20.1), spawns=[replace(first, ended_at=9.9), second]))


def test_how_long_a_backlog_takes_is_not_judged() -> None:
    history = turns(100.0)
    assert not broken(replace(history, attempts=[replace(attempt, started_at=100.0) for attempt in history.attempts]))


def test_a_turn_begins_anew_with_what_was_in_the_way() -> None:
    """A fault that concerns the job, or that makes everything wait."""
    assert not broken(replace(turns(20.1), faults=[kill(11.0, A)]))
    assert broken(replace(turns(21.1), faults=[kill(11.0, A)])) == {"I5"}
    assert broken(replace(turns(20.1), faults=[kill(11.0, B)])) == {"I5"}
    assert not broken(replace(turns(20.1), faults=[replace(kill(11.0, B), delays=True)]))


def test_what_is_rescued_keeps_its_place() -> None:
    """B was due early, and A is due again since its rescue."""
    history = turns(20.1, other_asked_at=1.0, other_told_at=1.1)
    first, second = history.attempts
    lost = replace(second, reached="unknown", started_at=5.0, ended_at=9.0, retry_at=9.0)
    jobs = [history.jobs[0], replace(history.jobs[1], attempts=2)]
    again = [first, lost, replace(second, number=2)]
    assert not broken(replace(history, jobs=jobs, attempts=again, faults=[kill(8.0, B)]))

    jobs = [replace(history.jobs[0], attempts=2), history.jobs[1]]
    lost = replace(first, reached="unknown", started_at=1.0, ended_at=9.0, retry_at=9.0)
    again = [lost, replace(first, number=2, started_at=20.1), second]
    assert not broken(replace(turns(20.1), jobs=jobs, attempts=again, faults=[kill(8.0, A)]))


@pytest.mark.parametrize("late", [False, True])
def test_a_retry_has_its_turn_when_it_is_due_again(late: bool) -> None:
    history = turns(20.1 if late else 19.9)
    failed = replace(ATTEMPT, started_at=0.2, ended_at=0.3, retry_at=1.0)
    jobs = [replace(history.jobs[0], attempts=2), history.jobs[1]]
    first, second = history.attempts
    attempts = [failed, replace(first, number=2), second]
    arrivals = [replace(ARRIVAL, at=0.25), *history.arrivals]
    found = broken(replace(history, jobs=jobs, attempts=attempts, arrivals=arrivals))
    assert ("I5" in found) == late


def test_what_a_false_clock_has_dated_may_be_due_by_the_right_one_too() -> None:
    first, second = turns(20.1).jobs
    assert broken(replace(turns(20.1), jobs=[first, replace(second, false_created_at=5_000.0)])) == {"I5"}
    assert not broken(replace(turns(20.1), jobs=[first, replace(second, false_created_at=-5_000.0)]))
    assert broken(replace(turns(20.1), jobs=[replace(first, false_created_at=-5_000.0), second])) == {"I5"}
    assert not broken(replace(turns(20.1), jobs=[replace(first, false_created_at=5_000.0), second]))


# --- I6 ---------------------------------------------------------------------------------------------------------------


def test_every_attempt_is_written_down_once() -> None:
    assert broken(replace(GOOD, attempts=[])) == {"I6"}
    assert broken(replace(GOOD, attempts=[ATTEMPT, replace(ATTEMPT, number=2)])) == {"I6"}
    assert broken(replace(GOOD, attempts=[ATTEMPT, ATTEMPT])) == {"I6"}


def test_no_attempt_that_arrived_is_left_out() -> None:
    before = replace(ARRIVAL, at=0.5, ended_at=0.6, status=None)
    history = replace(GOOD, arrivals=[before, ARRIVAL])
    assert broken(history) == {"I6"}
    assert broken(replace(history, faults=[kill(0.55, A)])) == {"I6"}
    assert not broken(replace(history, faults=[kill(0.55, A, kind="cancel", uncounted=True)]))


def test_without_a_fault_no_attempt_is_counted_that_did_not_arrive() -> None:
    history = replace(GOOD, jobs=[replace(JOB, attempts=2)], attempts=[ATTEMPT, replace(ATTEMPT, number=2)])
    assert broken(history) == {"I6"}
    assert not broken(replace(history, faults=[kill(0.5)]))


def test_there_are_no_more_attempts_than_were_allowed_and_one_for_each_fault() -> None:
    jobs, attempts = [replace(JOB, attempts=3, max_attempts=1)], [replace(ATTEMPT, number=n) for n in (1, 2, 3)]
    history = replace(GOOD, jobs=jobs, attempts=attempts)
    assert broken(replace(history, faults=[kill(0.5, A)])) == {"I6"}
    assert not broken(replace(history, faults=[kill(0.5, A), kill(0.6, A)]))


# --- I7, I8 -----------------------------------------------------------------------------------------------------------


def test_what_must_not_grow_does_not_grow() -> None:
    assert not broken(replace(GOOD, usages=[Usage(what="files", before=10, after=12, allowed=2)]))
    assert broken(replace(GOOD, usages=[Usage(what="files", before=10, after=13, allowed=2)])) == {"I7"}


def under_load(back_at: float, *faults: Fault) -> History:
    """Ten arrivals per second, but not from the fault at 20 until they are back; the load ends at 60."""
    times: Sequence[float] = [step / 10 for step in range(600) if not 20 <= step / 10 < back_at]
    arrivals = [replace(ARRIVAL, at=at, ended_at=at, status=None) for at in times]
    return replace(GOOD, arrivals=[*arrivals, replace(ARRIVAL, at=60, ended_at=60.1)], load=(0.0, 60.0), faults=faults)


def test_after_the_last_fault_the_throughput_is_soon_back() -> None:
    assert "I8" not in broken(under_load(29.0, kill(20.0)))
    assert "I8" in broken(under_load(34.0, kill(20.0)))
    assert "I8" in broken(under_load(60.0, kill(20.0)))
    assert "I8" not in broken(under_load(34.0, kill(20.0), kill(25.0)))


def test_the_recovery_is_measured_from_the_end_of_the_last_fault() -> None:
    time = recovery_time(under_load(29.0, kill(20.0, until=22.0)))
    assert time is not None
    assert 6.0 <= time <= 7.0
    assert recovery_time(under_load(29.0)) is None
    assert recovery_time(GOOD) is None


def test_a_takeover_lasts_from_the_kill_to_the_next_attempt() -> None:
    history = rescued(7.0, kill(1.0, A))
    first, second = history.attempts
    assert takeover_time(replace(history, attempts=[first, replace(second, started_at=7.5)])) == 6.5
    assert takeover_time(GOOD) is None


def test_while_the_server_is_away_nobody_takes_over() -> None:
    history = rescued(7.0, kill(1.0, A))
    first, second = history.attempts
    outage = Fault(kind="server restarted", at=2.0, until=4.0, jobs=None)
    late = replace(history, faults=[*history.faults, outage], attempts=[first, replace(second, started_at=7.5)])
    assert takeover_time(late) == 3.5


# --- I9, I10 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored",
    [
        None,
        Answer(200, None, "", is_whole=False),  # as an outcome that was refused is written down
        ANSWER._replace(is_whole=False),
        ANSWER._replace(body="other"),
        ANSWER._replace(number="2"),
        ANSWER._replace(status=204),
    ],
)
def test_an_answer_must_be_kept_as_it_was_sent(stored: Answer | None) -> None:
    assert broken(replace(GOOD, jobs=[replace(JOB, answer=stored)])) == {"I9"}


def test_an_answer_must_have_been_sent_to_this_job() -> None:
    other = replace(ARRIVAL, job=B, answer=ANSWER._replace(number="2"))
    spawns = [SPAWN, replace(SPAWN, job=B, batch=("p", 2))]
    jobs = [JOB, replace(JOB, id=B)]
    history = replace(
        GOOD, spawns=spawns, arrivals=[ARRIVAL, other], jobs=jobs, attempts=[ATTEMPT, replace(ATTEMPT, job=B)]
    )
    assert broken(history) == {"I9"}


@pytest.mark.parametrize("change", [{"status": 204}, {"excerpt": "other"}, {"excerpt": None}])
def test_an_attempt_must_keep_what_was_sent(change: dict[str, Any]) -> None:
    assert broken(replace(GOOD, attempts=[replace(ATTEMPT, **change)])) == {"I9"}


def test_of_several_answers_any_may_be_the_one_that_is_kept() -> None:
    again = replace(ARRIVAL, at=1.15, ended_at=1.16, answer=ANSWER._replace(number="2", body="again"))
    history = replace(GOOD, arrivals=[ARRIVAL, again], faults=[kill(1.1, A, uncounted=True)])
    assert not broken(history)


@pytest.mark.parametrize(
    "raised",
    [
        Raised("InvalidRequest", ()),
        Raised("RequeuestError", ()),
        Raised("SchemaMismatch", ()),
        Raised("DatabaseUnavailable", ()),
        Raised("DatabaseUnavailable", (B,)),
        Raised("DatabaseUnavailable", (A, B)),
    ],
)
def test_an_error_must_be_one_that_was_promised(raised: Raised) -> None:
    assert broken(replace(GOOD, spawns=[replace(SPAWN, raised=(raised,))])) == {"I10"}


def test_after_an_outage_the_ids_are_told() -> None:
    assert not broken(replace(GOOD, spawns=[replace(SPAWN, raised=(Raised("DatabaseUnavailable", (A,)),) * 2)]))
