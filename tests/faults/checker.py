"""
Judges a history by the invariants that hold whatever happens. Pure: the same history gets the same judgement.

I1 no loss · I2 no invention · I3 no delivery after a recorded success · I4 order within a key · I5 nothing is stuck ·
I6 attempts are counted · I7 bounded · I8 alive again soon after the last fault · I9 answers are kept as sent ·
I10 callers are told what they were promised
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar
from uuid import UUID

from tests.faults.figures import recovery_time, stored_answers
from tests.faults.history import FINISHED, Arrival, History, StoredAttempt, StoredJob

T = TypeVar("T")
K = TypeVar("K")

CLOCKS = 0.02
"""Seconds by which two events in different logs may seem to be in the wrong order."""


class Violation(NamedTuple):
    """What must not be."""

    invariant: str
    subject: object
    text: str


def judge(history: History) -> list[Violation]:
    """All that is wrong with a history; nothing, if every invariant holds."""
    return [
        Violation(f"I{number}", subject, text)
        for number, rule in enumerate(RULES, start=1)
        for subject, text in rule(history)
    ]


Found = Iterator[tuple[object, str]]


# --- I1 ---------------------------------------------------------------------------------------------------------------


def no_loss(history: History) -> Found:
    """What was acknowledged is finished, and delivered if it says so; what is unknown is so whole or not at all."""
    accepted = {arrival.job for arrival in history.arrivals if _is_accepted(arrival)}
    for spawn in history.spawns:
        job = history.by_job.get(spawn.job)
        if job is None:
            if spawn.result == "ok":
                yield spawn.job, "was acknowledged, and is not there"
        elif job.state not in FINISHED:
            yield spawn.job, f"is still {job.state}"
        elif job.state == "succeeded" and spawn.job not in accepted:
            yield spawn.job, "is recorded as delivered, and no receiver has accepted it"
    for batch, spawns in _grouped(history.spawns, lambda spawn: spawn.batch).items():
        stored = sum(spawn.job in history.by_job for spawn in spawns)
        if 0 < stored < len(spawns):
            yield batch, f"of {len(spawns)} jobs spawned together, {stored} are stored"


# --- I2 ---------------------------------------------------------------------------------------------------------------


def no_invention(history: History) -> Found:
    """What is delivered was asked for, and is what was asked for."""
    spawns = {spawn.job: spawn for spawn in history.spawns}
    for arrival in history.arrivals:
        spawn = spawns.get(arrival.job)
        if spawn is None or spawn.result == "fail":
            yield arrival.job, "was delivered, and nobody had spawned it"
        elif arrival.job not in history.by_job:
            yield arrival.job, "was delivered, and is not stored"
        elif arrival.at < spawn.invoked_at:
            yield arrival.job, "was delivered before it was asked for"
        elif (arrival.body, arrival.key, arrival.seq) != (spawn.body, spawn.key, spawn.seq):
            yield arrival.job, f"was delivered as {arrival}, not as {spawn}"


# --- I3 ---------------------------------------------------------------------------------------------------------------


def no_delivery_after_success(history: History) -> Found:
    """Between two deliveries lies a fault that may have lost the first one's outcome; and what is late is soon over."""
    for job_id, arrivals in _grouped(history.arrivals, lambda arrival: arrival.job).items():
        accepted = [arrival for arrival in arrivals if _is_accepted(arrival)]
        for first, second in pairwise(accepted):
            if not _has_excuse(history, job_id, first.at, second.at):
                yield job_id, f"was delivered at {first.at:.3f} and again at {second.at:.3f}, without a fault"
        job = history.by_job.get(job_id)
        if job is None or job.state != "succeeded":
            continue
        longest = history.promise.zombie_for
        for arrival in arrivals:
            late = arrival.at - job.finished_at
            # Its attempt began before, and a fault has taken the job from it.
            since = job.finished_at - longest - history.promise.stuck_after
            if late > CLOCKS and (late > longest or not _has_excuse(history, job_id, since, arrival.at)):
                yield job_id, f"was sent again {late:.3f} s after its success was recorded"


def _has_excuse(history: History, job: UUID, since: float, until: float) -> bool:
    """Whether between two times something was done to the system that concerns a job."""
    return any(
        since - CLOCKS <= fault.until and fault.at <= until
        for fault in history.faults
        if fault.jobs is None or job in fault.jobs
    )


# --- I4 ---------------------------------------------------------------------------------------------------------------


def order_within_keys(history: History) -> Found:
    """Within a key one job comes after the other, in the order of commits, and one at a time."""
    yield from _positions_follow_commits(history)
    arrivals = _grouped(history.arrivals, lambda arrival: arrival.job)
    keyed = [job for job in history.jobs if job.key is not None]
    for key, jobs in _grouped(keyed, lambda job: (job.channel, job.key)).items():
        jobs.sort(key=lambda job: job.position or 0)
        for earlier, later in pairwise(jobs):
            if first := arrivals.get(later.id):
                ahead = earlier.finished_at - first[0].at
                if ahead > CLOCKS:
                    yield key, f"{later.id} was sent {ahead:.3f} s before {earlier.id} was finished"
        come = sorted((arrival for job in jobs for arrival in arrivals.get(job.id, ())), key=lambda each: each.at)
        for earlier_arrival, later_arrival in pairwise(come):
            overlap = earlier_arrival.ended_at - later_arrival.at
            if overlap > CLOCKS and not _may_be_zombie(history, earlier_arrival, later_arrival):
                text = f"{later_arrival.job} came while {earlier_arrival.job} was still being answered"
                yield key, f"{text}, for {overlap:.3f} s"


def _positions_follow_commits(history: History) -> Found:
    """The order in the database is that of the commits, as far as the producers could see it."""
    spawns = [spawn for spawn in history.spawns if spawn.key is not None and spawn.job in history.by_job]
    for key, of_key in _grouped(spawns, lambda spawn: (spawn.channel, spawn.key)).items():
        placed = sorted(of_key, key=lambda spawn: history.by_job[spawn.job].position or 0)
        latest = -math.inf
        for before, spawn in pairwise([None, *placed]):
            assert spawn is not None
            if before is not None and before.batch == spawn.batch and before.place > spawn.place:
                yield key, f"{before.job} stands before {spawn.job}, and was given after it"
            # Who was acknowledged before another was asked for, was committed before it.
            if spawn.ended_at < latest:
                yield key, f"{spawn.job} was committed before a job that stands before it was asked for"
            latest = max(latest, spawn.invoked_at)


def _may_be_zombie(history: History, arrival: Arrival, successor: Arrival) -> bool:
    """Whether an attempt may still be under way, because a fault has taken its job from it."""
    longest = history.promise.zombie_for + history.promise.stuck_after
    return successor.at - arrival.at <= longest and _has_excuse(history, arrival.job, arrival.at, successor.at)


# --- I5 ---------------------------------------------------------------------------------------------------------------


def nothing_is_stuck(history: History) -> Found:
    """
    No dead claim lives for too long, and no job is starved by those that come after it.

    Of the jobs of a channel that have no key, the one that was due first is claimed first. So once a job has been begun
    that was surely due later than this one, this one's turn had come: it was in somebody's hands by then. He either
    begins it, or gives it back, or is found dead; and it is begun by the next, all within the time that a dead claim
    may live. What nothing but a due time tells, which is how long a backlog takes, is not judged.

    "Surely" leaves out what is no proof. A job may be sent by the process that spawns it, past a backlog that this
    process does not know yet: so the other was due later by the time after which it must. When a job was due is known
    from its producer only to lie between asking and being told; and while the database's clock is wrong, both what it
    says and the truth may decide. The earliest time of the one is compared with the latest of the other.
    """
    allowed = history.promise.stuck_after
    for attempt in history.attempts:
        if attempt.reached == "unknown":
            since = _undisturbed_since(history, attempt.job, attempt.started_at, attempt.ended_at)
            if attempt.ended_at - since > allowed:
                yield attempt.job, f"a dead claim lived for {attempt.ended_at - since:.1f} s, not {allowed:.1f}"
    for channel, waits in _waits(history).items():
        latest_first = sorted(waits, key=lambda wait: wait.due_after, reverse=True)
        turn_came_at, index = math.inf, 0
        # From the last to the first: when was one begun that was surely due later than this one?
        for wait in sorted(waits, key=lambda wait: wait.due_before, reverse=True):
            while index < len(waits) and latest_first[index].due_after > wait.due_before + history.promise.known_after:
                turn_came_at = min(turn_came_at, latest_first[index].started_at)
                index += 1
            waited = wait.started_at - max(turn_came_at, wait.since)
            if waited > allowed:
                yield wait.job, f"in {channel!r} was begun {waited:.1f} s after its turn had come, not {allowed:.1f}"


class _Wait(NamedTuple):
    """Of a job without a key, until it was begun."""

    due_after: float
    due_before: float
    """Between these, whatever the database's clock said."""
    since: float
    """From when on nothing else was in the way of it."""
    started_at: float
    job: UUID


def _waits(history: History) -> dict[str, list[_Wait]]:
    """All of them, by channel."""
    waits: dict[str, list[_Wait]] = defaultdict(list)
    attempts = _grouped(history.attempts, lambda attempt: attempt.job)
    spawns = {spawn.job: spawn for spawn in history.spawns if spawn.result == "ok"}
    for job in history.jobs:
        if job.key is None and (spawn := spawns.get(job.id)):
            stored = _known(job.false_created_at, spawn.invoked_at, spawn.ended_at)
            due_after, due_before, since = min(stored), max(stored), spawn.ended_at
            for attempt in attempts.get(job.id, ()):
                undisturbed = _undisturbed_since(history, job.id, since, attempt.started_at)
                waits[job.channel].append(_Wait(due_after, due_before, undisturbed, attempt.started_at, job.id))
                again = _known(attempt.false_retry_at, attempt.retry_at)
                if attempt.reached == "unknown":
                    # What is rescued keeps its place; or is sent to the end, if that happens to it again and again.
                    again += (due_after, due_before)
                due_after, due_before, since = min(again), max(again), attempt.retry_at
    return waits


def _known(*times: float | None) -> tuple[float, ...]:
    return tuple(time for time in times if time is not None)


def _undisturbed_since(history: History, job: UUID, since: float, until: float) -> float:
    """From when on nothing that concerns a job was in the way of it, until a time."""
    faults = (fault for fault in history.faults if fault.at <= until)
    ends = (fault.until for fault in faults if fault.jobs is None or job in fault.jobs or fault.delays)
    return max([since, *ends])


# --- I6 ---------------------------------------------------------------------------------------------------------------


def attempts_are_counted(history: History) -> Found:
    """Every attempt is written down once, and none that arrived is left out; never more than were allowed."""
    attempts = _grouped(history.attempts, lambda attempt: attempt.job)
    arrivals = _grouped(history.arrivals, lambda arrival: arrival.job)
    for job in history.jobs:
        yield from _attempts_of(job, attempts.get(job.id, []), arrivals.get(job.id, []), history)


def _attempts_of(
    job: StoredJob, attempts: list[StoredAttempt], arrivals: list[Arrival], history: History
) -> Iterator[tuple[object, str]]:
    faults = [fault for fault in history.faults if fault.jobs is None or job.id in fault.jobs]
    uncounted = sum(fault.uncounted for fault in faults)
    numbers = [attempt.number for attempt in attempts]
    if job.state in FINISHED and sorted(numbers) != list(range(1, job.attempts + 1)):
        yield job.id, f"has made {job.attempts} attempts, and those written down are {numbers}"
    if job.attempts < len(arrivals) - uncounted:
        yield job.id, f"has made {job.attempts} attempts, and arrived {len(arrivals)} times"
    if not history.faults and job.attempts > len(arrivals):
        yield job.id, f"has made {job.attempts} attempts without a fault, and arrived {len(arrivals)} times"
    if job.attempts > job.max_attempts + len(faults):
        yield job.id, f"has made {job.attempts} attempts, of {job.max_attempts}, with {len(faults)} faults"


# --- I7, I8 -----------------------------------------------------------------------------------------------------------


def bounded(history: History) -> Found:
    """Nothing has grown that must not."""
    for usage in history.usages:
        if usage.after > usage.before + usage.allowed:
            yield usage.what, f"went from {usage.before:,.0f} to {usage.after:,.0f}; {usage.allowed:,.0f} are allowed"


def alive_again(history: History) -> Found:
    """After the last fault, the throughput is soon what it was before the first."""
    time = recovery_time(history)
    if time is not None and time > history.promise.recovery:
        yield "throughput", f"was not back to 80 % within {history.promise.recovery:g} s: {time:.1f} s"


# --- I9, I10 ----------------------------------------------------------------------------------------------------------


def answers_are_kept(history: History) -> Found:
    """What is stored of an answer is what the receiver says that it sent: all of it, and to this job."""
    answers = stored_answers(history)
    yield from answers.different
    yield from answers.lost


def callers_are_told(history: History) -> Found:
    """Who spawns something that is right, sees no error but that of an outage, with the ids to repeat it by."""
    for batch, spawns in _grouped(history.spawns, lambda spawn: spawn.batch).items():
        ids = {spawn.job for spawn in spawns}
        for raised in {raised for spawn in spawns for raised in spawn.raised}:
            if raised.kind != "DatabaseUnavailable":
                yield batch, f"was answered with {raised.kind}"
            elif set(raised.job_ids) != ids:
                yield batch, f"was answered with the ids {raised.job_ids}, not {ids}"


RULES: Sequence[Callable[[History], Found]] = (
    no_loss,
    no_invention,
    no_delivery_after_success,
    order_within_keys,
    nothing_is_stuck,
    attempts_are_counted,
    bounded,
    alive_again,
    answers_are_kept,
    callers_are_told,
)


def _is_accepted(arrival: Arrival) -> bool:
    return arrival.status is not None and 200 <= arrival.status < 300


def _grouped(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return groups
