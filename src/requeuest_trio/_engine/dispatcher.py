"""Claims jobs for the free places of all channels, and hands them to the channels' workers.

It keeps two lists: *hot* channels, which may have something due, and *later* ones, each with the first time at which it
becomes hot. Wake-ups, which may be lost, and the poll, which finds everything, put channels there; a claim that finds
less than there were places for takes its channel off. What becomes hot by its time is looked up again once it is
emptied, because only the first time was known. So the cost of a claim is that of busy channels, however many others
exist.

Wake-ups from other processes may be anybody's. A channel that is known, because it was named to this process or the
database has told of it, is taken at its word; whatever else is heard comes to one look at the database, and looks take
up a small part of the time at most. So what somebody invents is never kept, nor claimed for.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from uuid import UUID, uuid4

import trio

from requeuest_trio._engine.attempt import Deliverer
from requeuest_trio._engine.caution import Caution
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.shortages import Shortages
from requeuest_trio._engine.slots import Slots, Wish
from requeuest_trio._engine.worker import Worker
from requeuest_trio._model.backoff import Backoff
from requeuest_trio._model.channel import ALL, All
from requeuest_trio._model.errors import first_line
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.claimed import TOO_LARGE, Claimed, Reservation
from requeuest_trio._store.database import DATABASE_ERRORS, why_unreadable
from requeuest_trio._store.failures import is_of_time, is_of_what_was_read
from requeuest_trio._store.store import Store
from requeuest_trio._store.waits import Waits, pairs

__all__ = ["Dispatcher"]

_CHANNELS_PER_CLAIM = 100
_OVERDUE_LEASE_PAUSE = 0.2
_SOON_SECONDS = 0.05
_STALLED_SECONDS = 1.0
_LOOK_SECONDS = 0.05
"""How soon one look at the database for what was heard may follow another."""
_LOOK_SHARE = 10
"""And how many times as long as it took."""
_KNOWN_CHANNELS = 10_000
_REMEMBERED_CLAIMS = 10_000
"""Those of some seconds: what PostgreSQL may forget is younger."""


class Dispatcher:
    """Decides what this process delivers next. `run` has to be running; it starts workers in the nursery given."""

    def __init__(
        self,
        store: Store,
        deliverer: Deliverer,
        lease: Lease,
        channels: frozenset[str] | All,
        on_condemned: Callable[[Iterable[UUID]], None],
        emitter: Emitter,
        *,
        concurrency: int,
        max_running: int,
        poll_interval: float,
    ) -> None:
        """`on_condemned` is called with jobs that were given up because they can't be read."""
        self._store = store
        self._deliverer = deliverer
        self._lease = lease
        self._channels = None if isinstance(channels, All) else channels
        self._on_condemned = on_condemned
        self._emitter = emitter
        self._concurrency = concurrency
        self._slots = Slots(max_running, None if self._channels is None else len(self._channels))
        self._shortages = Shortages(concurrency, emitter)
        self._caution = Caution()
        self._claim_problem = ""
        """Why the last claim that has failed of what it has read has."""
        self._poll_interval = poll_interval
        self._workers: dict[str, Worker] = {}
        self._hot: dict[str, None] = {}
        self._later: dict[str, float] = {}
        self._timers: list[tuple[float, str]] = []
        self._timed: set[str] = set()
        self._known: dict[str, None] = {}
        """Channels that the database has told of, the newest last."""
        self._look_around = True
        self._is_looking = False
        """Until the answer nothing is known of what is due, and should be begun before what is spawned here."""
        self._look_at = math.inf
        """When to look at the database for what was heard."""
        self._look_not_before = -math.inf
        self._woken = trio.Event()
        self._asked_for: Mapping[str, int] = {}
        self._look_for_stalled_at = math.inf
        self._unwanted: list[Claimed] = []
        """What was taken back from workers, until it is released."""
        self._claim_was_lost = False
        self._handed_over: deque[UUID] = deque(maxlen=_REMEMBERED_CLAIMS)
        self._backoff = Backoff(initial=0.1, cap=1.5)
        self._claiming = trio.CancelScope()
        self._has_stopped = trio.Event()
        self._worker_is_idle = trio.Event()
        self._reserved: Reservation | None = None
        self._is_closed = False
        self._nursery: trio.Nursery

    def __repr__(self) -> str:
        return f"<Dispatcher: {self.running} running in {len(self._workers)} channels, {len(self._hot)} hot>"

    @property
    def channels(self) -> tuple[str, ...] | All:
        """What this process delivers."""
        return ALL if self._channels is None else tuple(sorted(self._channels))

    @property
    def running(self) -> int:
        """Jobs in hand, over all channels."""
        return sum(worker.in_hand for worker in self._workers.values())

    # --- hints --------------------------------------------------------------------------------------------------------

    def wake(self, waits: Mapping[str, float]) -> None:
        """Channels have something due in so many seconds; it is known to be so."""
        now = trio.current_time()
        for channel, wait in waits.items():
            if self._channels is None or channel in self._channels:
                self._note(channel)
                if wait <= 0:
                    self._hot[channel] = None
                    self._woken.set()
                elif wait < self._poll_interval and now + wait < self._later.get(channel, math.inf):
                    # What is due after the next poll, the poll will find.
                    self._later[channel] = now + wait
                    heapq.heappush(self._timers, (now + wait, channel))
                    self._forget_outdated_timers()
                    self._woken.set()

    def hear(self, waits: Waits) -> None:
        """Channels are said to have something due in so many seconds."""
        known = self._known if self._channels is None else self._channels
        for channel, wait in pairs(waits):
            if channel in known:
                self.wake({channel: wait})
            elif self._channels is None and wait < self._poll_interval:
                self.wake_all()

    def wake_all(self) -> None:
        """Anything may be due: look at the database, soon."""
        if self._look_at == math.inf:
            self._look_at = max(trio.current_time(), self._look_not_before)
            self._woken.set()

    def _note(self, channel: str) -> None:
        if self._channels is None and channel not in self._known:
            self._known[channel] = None
            if len(self._known) > _KNOWN_CHANNELS:
                del self._known[next(iter(self._known))]

    def _forget_outdated_timers(self) -> None:
        if len(self._timers) > 2 * len(self._later) + _CHANNELS_PER_CLAIM:
            self._timers = [(due_at, channel) for channel, due_at in self._later.items()]
            heapq.heapify(self._timers)

    def _fell_short(self, worker: Worker, job: Claimed, problem: str) -> None:
        """This machine could not send a job, and may not be able to send others either: release what is not begun."""
        self._unwanted += [job, *worker.take_back()]
        self._shortages.met(worker.channel, worker.in_hand, problem, trio.current_time())
        self._woken.set()

    def _place_freed(self, worker: Worker) -> None:
        if self._hot:
            self._woken.set()
        if not worker.in_hand:
            self._retire([worker.channel])
            self._worker_is_idle.set()
            self._worker_is_idle = trio.Event()

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self, nursery: trio.Nursery) -> None:
        """Claim until `stop` is called. Errors of the database are logged, and tried again after a pause."""
        self._nursery = nursery
        with self._claiming:
            await self._run()
        self._has_stopped.set()

    def stop(self) -> None:
        """Claim no more; what is in hand goes on."""
        self._claiming.cancel()

    async def wait_until_idle(self) -> None:
        """Wait, after `stop`, until nothing is in hand any more."""
        await self._has_stopped.wait()
        while any(worker.in_hand for worker in self._workers.values()):
            await self._worker_is_idle.wait()

    async def close(self) -> None:
        """Begin nothing more, after the tasks have ended; what is just being stored is for the others then."""
        self._is_closed = True
        while self._reserved is not None:
            self._woken = trio.Event()
            await self._woken.wait()

    async def _run(self) -> None:
        failures = 0
        next_poll = trio.current_time()
        while True:
            try:
                # One claim at a time, so that a backlog can't keep this loop from what has become due meanwhile.
                if self._claim_was_lost:
                    await self.give_back_lost_claims()
                if self._caution.accused is not None:
                    await self._examine(self._caution.accused)
                self._shortages.ease(trio.current_time())
                self._take_stalled()
                await self._release_unwanted()
                if self._look_around or trio.current_time() >= min(next_poll, self._look_at):
                    next_poll = trio.current_time() + self._poll_interval
                    await self._find_due_channels()
                self._warm_up()
                if not (places := self._caution.limited(self._places())):
                    if not self._hot:
                        self._caution.over()
                    await self._sleep_until_needed(next_poll)
                elif self._lease.is_fresh:
                    self._asked_for = places
                    try:
                        await self._claim(places)
                    finally:
                        self._asked_for = {}
                        self._retire(places)
                else:
                    await trio.sleep(_OVERDUE_LEASE_PAUSE)
                failures = 0
            except DATABASE_ERRORS as error:
                failures += 1
                pause = self._backoff.delay(failures, random.random)
                self._emitter.emit(events.ClaimFailed(error=first_line(error), retry_in=round(pause, 2)))
                self._look_around = True
                await trio.sleep(pause)

    async def _sleep_until_needed(self, next_poll: float) -> None:
        next_timer = self._timers[0][0] if self._timers else math.inf
        wake_at = min(next_poll, self._look_at, self._look_for_stalled_at, next_timer, self._shortages.next_change)
        with trio.move_on_at(wake_at):
            await self._woken.wait()
        self._woken = trio.Event()

    def _warm_up(self) -> None:
        """Move channels whose time has come to the hot ones."""
        now = trio.current_time()
        while self._timers and self._timers[0][0] <= now:
            due_at, channel = heapq.heappop(self._timers)
            if self._later.get(channel) == due_at:
                # Otherwise an earlier time was noted after this one, and has come already.
                del self._later[channel]
                self._hot[channel] = None
                self._timed.add(channel)

    async def _find_due_channels(self) -> None:
        self._look_around, self._look_at = False, math.inf
        began = trio.current_time()
        self._is_looking = True
        try:
            waits = await self._ask_when_due(self._channels)
        finally:
            self._is_looking = False
        if self._channels is None:
            # What was heard of them may have told of a second time as well.
            self._timed.update(waits.keys() - self._known.keys())
        self.wake(waits)
        now = trio.current_time()
        self._look_not_before = now + max(_LOOK_SECONDS, _LOOK_SHARE * (now - began))

    async def _ask_when_due(self, channels: Iterable[str] | None) -> dict[str, float]:
        return await self._store.due_channels(channels, self._poll_interval)

    def _places(self) -> dict[str, int]:
        """How many jobs to claim for which channels: the longest unserved first."""
        taken = self._occupied
        candidates = self._hot if self._slots.room(taken, 0) else [name for name in self._workers if name in self._hot]
        return self._slots.share_out(taken, list(islice(self._wishes(candidates), _CHANNELS_PER_CLAIM)))

    def _wishes(self, channels: Iterable[str]) -> Iterator[Wish]:
        """Of these channels, those that jobs may be claimed for: for free slots, and ahead of them."""
        for channel in channels:
            worker = self._workers.get(channel)
            occupied, free, ahead = (0, self._concurrency, 0) if worker is None else worker.slots
            if self._reserved is not None and self._reserved.channel == channel:
                occupied += 1
                free -= 1
            if channel in self._shortages:
                free, ahead = max(0, min(free, self._shortages.limit(channel) - occupied)), 0
            if free or ahead:
                yield Wish(channel, occupied, free, ahead)

    @property
    def _occupied(self) -> int:
        """Places that are taken, over all channels."""
        return sum(worker.occupied for worker in self._workers.values()) + (self._reserved is not None)

    async def _claim(self, places: dict[str, int]) -> None:
        for channel in places:
            # Off the list before asking: a hint that comes meanwhile puts it back.
            del self._hot[channel]
        worker, term = self._lease.worker, self._lease.term
        claim = uuid4()
        try:
            jobs, is_cut, oversized = await self._store.claim(worker, claim, places)
        except BaseException as error:
            # If only the answer is lost, they are claimed, and nobody knows it.
            self._claim_was_lost = True
            if isinstance(error, DATABASE_ERRORS) and is_of_what_was_read(error):
                self._caution.failed(places, was_time=is_of_time(error))
                self._claim_problem = why_unreadable(error, self._store.statement_timeout)
            raise
        if self._caution:
            self._caution.passed(places)
        if not self._lease.is_valid or self._lease.term != term:
            # Too late to be trusted. Nothing was sent, so they go back uncounted.
            self._claim_was_lost = self._look_around = True
            return
        by_channel: dict[str, list[Claimed]] = {}
        for job in jobs:
            by_channel.setdefault(job.channel, []).append(job)
        if is_cut:
            # Any of them may have more, and those that got nothing come first.
            self._hot.update(dict.fromkeys(sorted(places, key=by_channel.__contains__)))
        for channel, claimed in by_channel.items():
            if len(claimed) == places[channel]:
                # Probably there is more; at the end of the list, so that the others come first.
                self._hot[channel] = None
            self._hand_over(channel, claimed)
        if jobs:
            self._handed_over.append(claim)
            self._tell_of_claim(len(jobs), len(by_channel))
        if oversized:
            await self._condemn(oversized, TOO_LARGE)
        await self._look_up_emptied(self._timed.intersection(places).difference(self._hot))

    def _tell_of_claim(self, jobs: int, channels: int) -> None:
        if self._emitter.takes(events.Claimed):
            self._emitter.emit(events.Claimed(jobs=jobs, channels=channels))

    async def _examine(self, channel: str) -> None:
        """Find out which job of a channel could not be claimed alone, and give it up if that is not the first time."""
        found = await self._store.first_due(channel)
        if found is None:
            self._caution.acquit()
        elif self._caution.is_guilty(channel, *found):
            await self._condemn([found[0]], f"it can't be read{self._claim_problem}")

    async def _condemn(self, job_ids: Collection[UUID], problem: str) -> None:
        dead, unblocked = await self._store.condemn(job_ids, problem)
        for event in dead:
            self._emitter.emit(event)
        self._on_condemned(job_ids)
        self.wake(unblocked)

    async def _look_up_emptied(self, channels: set[str]) -> None:
        """Note when channels are due next that had been waited for, and have nothing more now."""
        if channels:
            self._timed -= channels
            waits = await self._ask_when_due(channels)
            # What is due already either has become so since the claim, or another transaction holds it: a moment later
            # the first is to be had, and for the second nothing is lost by trying.
            self.wake({channel: max(wait, _SOON_SECONDS) for channel, wait in waits.items()})

    def _take_stalled(self) -> None:
        """Take back what waits behind attempts that have become slow: others may be able to send it sooner."""
        now = trio.current_time()
        if now >= self._look_for_stalled_at:
            self._unwanted += [job for worker in self._workers.values() for job in worker.take_stalled()]
            self._look_for_stalled_at = now + _STALLED_SECONDS if self._workers else math.inf

    async def _release_unwanted(self) -> None:
        """Give back what this process will not send, its attempt not counted."""
        if jobs := self._unwanted.copy():
            self._shortages.tell(trio.current_time())
            # Again, if this fails: a job is given back under its claim only, so it may have been done already.
            await self._store.release_jobs(self._lease.worker, jobs)
            del self._unwanted[: len(jobs)]
            # Nobody may hear of it but those who poll.
            self._hot.update(dict.fromkeys(job.channel for job in jobs))

    async def give_back_lost_claims(self) -> None:
        """Give back what this process holds without knowing it, because the answer to a claim was lost.

        A claim may even be carried out long after it was given up, when a network delivers what it had kept back; so
        maintenance comes here again and again. What it did know, and has recorded since, PostgreSQL has forgotten, as
        it may after a crash or a failover: these attempts were made, and count. Raises `DatabaseUnavailable`.
        """
        self._claim_was_lost = False
        try:
            released, orphaned = await self._give_up_unknown()
        except BaseException:
            self._claim_was_lost = True
            raise
        if orphaned:
            self._emitter.emit(events.OutcomesLost(jobs=orphaned))
        if released:
            self._emitter.emit(events.ClaimLost(jobs=released))
            self.wake_all()

    async def _give_up_unknown(self) -> tuple[int, int]:
        worker = self._lease.worker
        held = await self._store.held_claims(worker)
        # Compared only now. Claims go over the same, only connection: none of those held is on its way here; and that
        # of a job that is being stored was noted before.
        known = self._deliverer.recorder.claims.union(*(channel.claims for channel in self._workers.values()))
        known.update(job.claim for job in self._unwanted)
        if self._reserved is not None:
            known.add(self._reserved.claim)
        if not (unknown := held - known):
            return 0, 0
        forgotten = unknown.intersection(self._handed_over)
        orphaned = await self._store.orphan(worker, forgotten)
        return await self._store.release(worker, unknown - forgotten), orphaned

    # --- jobs that are spawned here -----------------------------------------------------------------------------------

    @contextmanager
    def reserve(self, channel: str) -> Iterator[Reservation | None]:
        """Keep a place for a job that is about to be stored, if that could be sent at once.

        Then it may be stored as claimed already, which spares a commit, and everybody the news of it. What becomes of
        it is to be noted in the reservation; else it counts as a claim whose answer was lost.
        """
        if not self._can_begin_at_once(channel):
            yield None
            return
        term = self._lease.term
        reservation = self._reserved = Reservation(channel, self._lease.worker, uuid4())
        try:
            yield reservation
        finally:
            self._reserved = None
            job, may_send = reservation.job, self._lease.is_valid and self._lease.term == term and not self._is_closed
            if job is not None and may_send:
                self._hand_over(channel, [job])
                self._handed_over.append(job.claim)
                self._tell_of_claim(1, 1)
            else:
                self._claim_was_lost |= job is not None or reservation.is_unknown
                self._woken.set()

    def _can_begin_at_once(self, channel: str) -> bool:
        """Whether there is a place for a job of a channel, and nothing known that should have it first."""
        if not (self._channels is None or channel in self._channels):
            return False
        if self._reserved or self._claiming.cancel_called or self._is_closed or not self._lease.is_fresh:
            return False
        if self._look_around or self._is_looking or channel in self._hot or channel in self._asked_for:
            return False
        if self._look_at < math.inf and channel not in self._known:
            return False
        worker = self._workers.get(channel)
        occupied, free, _ = (0, 1, 0) if worker is None else worker.slots
        taken = self._occupied + sum(self._asked_for.values())
        return bool(free and self._slots.room(taken, occupied)) and channel not in self._shortages

    # --- workers ------------------------------------------------------------------------------------------------------

    def take_back(self) -> list[Claimed]:
        """Take from the workers what they have not begun, and return it."""
        return [job for worker in self._workers.values() for job in worker.take_back()]

    def give_up_waiting(self) -> None:
        """Send nothing of what was claimed and not begun: it may be somebody else's by now."""
        for job in self.take_back():
            self._deliverer.give_up(job)

    def _hand_over(self, channel: str, jobs: list[Claimed]) -> None:
        worker = self._workers.get(channel)
        if worker is None:
            worker = Worker(
                channel, self._concurrency, self._deliverer, self._nursery, self._place_freed, self._fell_short
            )
            self._workers[channel] = worker
        self._look_for_stalled_at = min(self._look_for_stalled_at, trio.current_time() + _STALLED_SECONDS)
        worker.hand_over(jobs)

    def _retire(self, channels: Iterable[str]) -> None:
        """Forget workers that have nothing to do, and will get nothing: until then they know how fast they are."""
        for channel in channels:
            worker = self._workers.get(channel)
            is_needed = channel in self._hot or channel in self._asked_for
            if worker is not None and not worker.in_hand and not is_needed:
                del self._workers[channel]
