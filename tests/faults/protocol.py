"""
The protocol of claims, fences, ordering keys and rescue as a small pure model, and an exhaustive search of it.

Two processes, two jobs of one ordering key. Every step of a process and every statement of the store is one
transition, and they come in any order: so a process may stall anywhere, for as long as it likes. It may also crash
anywhere, lose the answer to a statement, and have a statement carried out long after it was given up (`wire`).

Time is not counted, but what it decides is kept: a lease expires only after its process has ceased to trust it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

__all__ = ["GUARDS", "Bounds", "Found", "Label", "State", "judge", "search", "start", "steps"]

GUARDS = frozenset(
    {
        "a record needs the claim",
        "a release needs the claim",
        "behind an unfinished job of the key is blocked",
        "the next of a key waits for the end of the one before",
        "rescue only after the lease",
        "trust ends before the lease",
        "only under a trusted lease is anything sent",
        "a rescue counts the attempt",
    }
)
"""What keeps the invariants; without any one of these the search has to find a violation."""

UNFINISHED = ("available", "running")
FINISHED = ("succeeded", "dead")
Identity = tuple[int, int]
"""A process and how often it has begun anew: what the column `worker` has."""
Label = tuple[Any, ...]
"""What happens, and to which process, job and claim."""


class Job(NamedTuple):
    """A row, and below what the world has seen of it."""

    state: str = "absent"
    attempts: int = 0
    claim: int = 0
    owner: Identity | None = None
    claims: int = 0
    unused: int = 0
    """Attempts that are counted and were never begun, or were given back uncounted when their process ended."""


class Held(NamedTuple):
    """A claimed job in the hands of a process."""

    job: int
    claim: int
    attempt: int
    is_sending: bool = False


class Write(NamedTuple):
    """A statement about a claim on its way to the database: an outcome, or `release`."""

    what: str
    job: int
    claim: int
    owner: Identity


class Process(NamedTuple):
    """What a process knows."""

    identity: Identity
    trusts: bool = True
    hands: frozenset[Held] = frozenset()
    backlog: frozenset[Write] = frozenset()


class State(NamedTuple):
    """Everything."""

    jobs: tuple[Job, Job]
    processes: tuple[Process, Process]
    leases: frozenset[tuple[Identity, bool]]
    """The rows of processes: whose, and whether the lease is live."""
    wire: frozenset[Write] = frozenset()
    crashes: int = 0


class Bounds(NamedTuple):
    """How far to look."""

    claims: int = 3
    max_attempts: int = 2
    crashes: int = 1


WIDE = Bounds()


def start() -> State:
    """Both processes are registered, and nothing is stored."""
    first, second = Process((0, 0)), Process((1, 0))
    return State((Job(), Job()), (first, second), frozenset({((0, 0), True), ((1, 0), True)}))


Steps = Iterator[tuple[Label, State]]


def steps(state: State, guards: frozenset[str] = GUARDS, bounds: Bounds = WIDE) -> Steps:
    """Whatever can happen next."""
    yield from _spawn(state, guards)
    yield from _rescue(state, guards)
    yield from _expire(state, guards)
    for write in state.wire:
        yield ("late", *write), _written(state, write, guards)._replace(wire=state.wire - {write})
    for number, process in enumerate(state.processes):
        yield from _claim(state, number, process, bounds)
        yield from _deliver(state, number, process, guards, bounds)
        yield from _write(state, number, process, guards)
        yield from _live_on(state, number, process, bounds)


# --- in the database --------------------------------------------------------------------------------------------------


def _spawn(state: State, guards: frozenset[str]) -> Steps:
    for number, job in enumerate(state.jobs):
        if job.state == "absent" and (number == 0 or state.jobs[0].state != "absent"):
            is_behind = number > 0 and state.jobs[0].state not in FINISHED
            blocks = is_behind and "behind an unfinished job of the key is blocked" in guards
            yield ("spawn", number), _with_job(state, number, Job("blocked" if blocks else "available"))


def _rescue(state: State, guards: frozenset[str]) -> Steps:
    live = {identity for identity, is_live in state.leases if is_live}
    for number, job in enumerate(state.jobs):
        if job.state == "running" and (job.owner not in live or "rescue only after the lease" not in guards):
            counts = "a rescue counts the attempt" in guards
            yield ("rescue", number), _with_job(state, number, _given_back(job, is_counted=counts))


def _expire(state: State, guards: frozenset[str]) -> Steps:
    trusting = {process.identity for process in state.processes if process.trusts}
    for identity, is_live in state.leases:
        if is_live and (identity not in trusting or "trust ends before the lease" not in guards):
            yield ("expire", *identity), state._replace(leases=state.leases - {(identity, True)} | {(identity, False)})
        elif not is_live and not any(job.owner == identity for job in state.jobs):
            yield ("forget", *identity), state._replace(leases=state.leases - {(identity, False)})


def _written(state: State, write: Write, guards: frozenset[str]) -> State:
    """An outcome or a release is carried out, if it is still about the current claim."""
    job = state.jobs[write.job]
    fence = "a release needs the claim" if write.what == "release" else "a record needs the claim"
    is_current = job.claim == write.claim if fence in guards else write.what != "release" or job.owner == write.owner
    if job.state != "running" or not is_current:
        return state
    if write.what == "release":
        return _with_job(state, write.job, _given_back(job, is_counted=False))
    new = "available" if write.what == "retry" else write.what
    is_over = new in FINISHED or "the next of a key waits for the end of the one before" not in guards
    return _unblocked(_with_job(state, write.job, job._replace(state=new, owner=None, claim=0)), is_over)


def _given_back(job: Job, *, is_counted: bool) -> Job:
    uncounted = 0 if is_counted else 1
    return job._replace(
        state="available", owner=None, claim=0, attempts=job.attempts - uncounted, unused=job.unused - uncounted
    )


def _unblocked(state: State, is_over: bool) -> State:
    behind = state.jobs[1]
    return _with_job(state, 1, behind._replace(state="available")) if is_over and behind.state == "blocked" else state


# --- in a process -----------------------------------------------------------------------------------------------------


def _claim(state: State, number: int, process: Process, bounds: Bounds) -> Steps:
    """A claim is carried out, also one that was asked for long ago, if only the process is still registered."""
    if not any(identity == process.identity for identity, _ in state.leases):
        return
    for at, job in enumerate(state.jobs):
        if job.state == "available" and job.claims < bounds.claims:
            held = Held(at, job.claims + 1, job.attempts + 1)
            taken = job._replace(
                state="running",
                owner=process.identity,
                claim=held.claim,
                claims=held.claim,
                attempts=held.attempt,
                unused=job.unused + 1,
            )
            after = _with_job(state, at, taken)
            yield ("claim", number, at), after  # the answer is lost, or comes when it can't be trusted any more
            if process.trusts:
                received = process._replace(hands=process.hands | {held})
                yield ("claim", number, at), _with_process(after, number, received)


def _deliver(state: State, number: int, process: Process, guards: frozenset[str], bounds: Bounds) -> Steps:
    for held in process.hands:
        rest = process.hands - {held}
        if held.is_sending:
            for what in ("succeeded", "dead" if held.attempt >= bounds.max_attempts else "retry"):
                write = Write(what, held.job, held.claim, process.identity)
                ended = process._replace(hands=rest, backlog=process.backlog | {write})
                yield ("end", number, held.job, what), _with_process(state, number, ended)
        elif process.trusts or "only under a trusted lease is anything sent" not in guards:
            begun = process._replace(hands=rest | {held._replace(is_sending=True)})
            job = state.jobs[held.job]
            after = _with_job(state, held.job, job._replace(unused=job.unused - 1))
            yield ("begin", number, held.job), _with_process(after, number, begun)
        if not held.is_sending:
            write = Write("release", held.job, held.claim, process.identity)
            given_up = process._replace(hands=rest)
            yield ("give back", *write), _with_process(_written(state, write, guards), number, given_up)
            # The statement is given up, and carried out later, or never.
            yield ("give back late", *write), _with_process(state, number, given_up)._replace(wire=state.wire | {write})


def _write(state: State, number: int, process: Process, guards: frozenset[str]) -> Steps:
    for write in process.backlog:
        after = _written(state, write, guards)
        yield ("record", *write), after
        confirmed = process._replace(backlog=process.backlog - {write})
        yield ("record", *write), _with_process(after, number, confirmed)
    known = {(held.job, held.claim) for held in process.hands} | {(w.job, w.claim) for w in process.backlog}
    for at, job in enumerate(state.jobs):
        if job.owner == process.identity and (at, job.claim) not in known:
            write = Write("release", at, job.claim, process.identity)
            yield ("give back unknown", *write), _written(state, write, guards)


def _live_on(state: State, number: int, process: Process, bounds: Bounds) -> Steps:
    if process.trusts:
        yield ("lapse", number), _with_process(state, number, _lapsed(process))
    else:
        yield ("give up", number), _with_process(state, number, _given_up(process))
        yield ("beat", number), _renewed(state, number, _given_up(process))
    if state.crashes < bounds.crashes:
        # What was on its way to the database may still arrive there.
        state = state._replace(crashes=state.crashes + 1, wire=state.wire | process.backlog)
        yield ("crash", number), _begun_anew(state, number, Process(process.identity))
        yield ("leave", number), _begun_anew(_left(state, process.identity), number, Process(process.identity))


def _lapsed(process: Process) -> Process:
    """The lease is not trusted any more: what is being sent is cut short by its deadline, before any task runs."""
    cut_short = {held for held in process.hands if held.is_sending}
    return _without(process._replace(trusts=False), cut_short)


def _given_up(process: Process) -> Process:
    """What waits for its turn is not sent."""
    return _without(process, process.hands)


def _without(process: Process, hands: Iterable[Held]) -> Process:
    """An attempt that is broken off is never the last."""
    writes = {Write("retry", held.job, held.claim, process.identity) for held in hands}
    return process._replace(hands=process.hands.difference(hands), backlog=process.backlog | writes)


def _renewed(state: State, number: int, process: Process) -> State:
    mine = {(process.identity, True), (process.identity, False)}
    if mine & state.leases:
        leases = state.leases - mine | {(process.identity, True)}
        return _with_process(state, number, process._replace(trusts=True))._replace(leases=leases)
    return _begun_anew(state, number, process)


def _begun_anew(state: State, number: int, process: Process) -> State:
    """Register under a name that nothing refers to, as good as a new random one."""
    used = {identity for identity, _ in state.leases} | {job.owner for job in state.jobs}
    used |= {write.owner for write in state.wire.union(*(process.backlog for process in state.processes))}
    identity = next((number, n) for n in range(len(used) + 1) if (number, n) not in used)
    renamed = process._replace(identity=identity, trusts=True)
    return _with_process(state, number, renamed)._replace(leases=state.leases | {(identity, True)})


def _left(state: State, identity: Identity) -> State:
    """A process signs off: all that it holds goes back uncounted, also what it has begun."""
    for number, job in enumerate(state.jobs):
        if job.owner == identity:
            after = _given_back(job, is_counted=False)
            state = _with_job(state, number, after._replace(unused=max(0, after.unused)))
    return state._replace(leases=state.leases - {(identity, True), (identity, False)})


def _with_job(state: State, number: int, job: Job) -> State:
    first, second = state.jobs
    return state._replace(jobs=(job, second) if number == 0 else (first, job))


def _with_process(state: State, number: int, process: Process) -> State:
    first, second = state.processes
    return state._replace(processes=(process, second) if number == 0 else (first, process))


# --- the invariants ---------------------------------------------------------------------------------------------------


def judge(before: State, label: Label, after: State) -> str | None:
    """What a step has broken."""
    if label[0] == "begin":
        job = before.jobs[int(label[2])]
        if job.state in FINISHED:
            return "I3: an attempt starts after the end was recorded"
        if label[2] == 1 and before.jobs[0].state not in FINISHED:
            return "I4: the second of a key starts before the first is finished"
        if sum(held.is_sending for p in after.processes if p.trusts for held in p.hands) > 1:
            return "I4: two of a key are in flight"
    for old, new in zip(before.jobs, after.jobs, strict=True):
        if new.unused < 0:
            return "I6: more attempts were begun than are counted"
        if old.state in FINISHED and new.state != old.state:
            return "I3: what was finished is not any more"
    return None


class Found(NamedTuple):
    """What a search has come to, and the way to it."""

    states: int
    violation: str | None = None
    path: tuple[Label, ...] = ()


def search(guards: frozenset[str] = GUARDS, bounds: Bounds = WIDE) -> Found:
    """Look at every state that can be reached, nearest first, until an invariant is broken."""
    first = _essence(start(), guards)
    came_from: dict[State, tuple[State, Label] | None] = {first: None}
    before: dict[State, list[State]] = defaultdict(list)
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        for label, after in steps(state, guards, bounds):
            if violation := judge(state, label, after):
                return Found(len(came_from), violation, (*_path(came_from, state), label))
            essence = _essence(after, guards)
            if essence not in came_from:
                came_from[essence] = state, label
                waiting.append(essence)
            before[essence].append(state)
    if dead_end := _dead_end(came_from, before, bounds):
        return Found(len(came_from), "I5: the jobs can't be finished any more", _path(came_from, dead_end))
    return Found(len(came_from))


def _dead_end(states: Iterable[State], before: dict[State, list[State]], bounds: Bounds) -> State | None:
    """A state from which nothing leads to the end of both jobs, nor to where the search does not look further."""
    waiting = [
        state
        for state in states
        if all(job.state in FINISHED for job in state.jobs) or any(job.claims == bounds.claims for job in state.jobs)
    ]
    good = set(waiting)
    while waiting:
        for state in before[waiting.pop()]:
            if state not in good:
                good.add(state)
                waiting.append(state)
    return next((state for state in states if state not in good), None)


def _essence(state: State, guards: frozenset[str]) -> State:
    """The state without what can have no effect any more; of two that differ in the processes' places only, one."""

    def matters(write: Write) -> bool:
        job = state.jobs[write.job]
        fence = "a release needs the claim" if write.what == "release" else "a record needs the claim"
        return job.state not in FINISHED and (job.claim == write.claim or fence not in guards)

    first, second = (p._replace(backlog=frozenset(filter(matters, p.backlog))) for p in state.processes)
    jobs = [Job(job.state) if job.state in FINISHED else job for job in state.jobs]
    names = {first.identity, second.identity, *(job.owner for job in jobs)}
    leases = frozenset(lease for lease in state.leases if lease[0] in names)
    wire = frozenset(filter(matters, state.wire))
    if _rank(first) > _rank(second):
        first, second = _elsewhere(second), _elsewhere(first)
        jobs = [job._replace(owner=job.owner and _other(job.owner)) for job in jobs]
        leases = frozenset((_other(identity), is_live) for identity, is_live in leases)
        wire = frozenset(write._replace(owner=_other(write.owner)) for write in wire)
    return State((jobs[0], jobs[1]), (first, second), leases, wire, state.crashes)


def _rank(process: Process) -> tuple[object, ...]:
    return process.trusts, process.identity[1], sorted(process.hands), sorted(process.backlog)


def _elsewhere(process: Process) -> Process:
    backlog = frozenset(write._replace(owner=_other(write.owner)) for write in process.backlog)
    return process._replace(identity=_other(process.identity), backlog=backlog)


def _other(identity: Identity) -> Identity:
    number, times = identity
    return 1 - number, times


def _path(came_from: dict[State, tuple[State, Label] | None], state: State) -> tuple[Label, ...]:
    labels: list[Label] = []
    while (step := came_from[state]) is not None:
        state, label = step
        labels.append(label)
    return tuple(reversed(labels))
