"""Claims jobs for the free places of all channels, and hands them to the channels' workers.

It keeps two lists: *hot* channels, which may have something due, and *later* ones, with the time at which they become
hot. Wake-ups, which may be lost, and the poll, which finds everything, put channels there; a claim that finds less than
there were places for takes its channel off. So the cost of a claim is that of busy channels, however many others exist.
"""

from __future__ import annotations

import heapq
import logging
import random
from collections.abc import Mapping
from functools import partial
from uuid import UUID, uuid4

import psycopg
import trio

from requeuest_trio._engine.attempt import Deliverer
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.worker import Worker
from requeuest_trio._model.channel import ALL, All
from requeuest_trio._model.errors import DatabaseUnavailable, SchemaMismatch
from requeuest_trio._model.events import Event, emit
from requeuest_trio._postgres import Backoff
from requeuest_trio._store.database import Database
from requeuest_trio._store.rows import Claimed
from requeuest_trio._store.store import Store

__all__ = ["Dispatcher"]

_logger = logging.getLogger("requeuest_trio.dispatcher")
_CHANNELS_PER_CLAIM = 100
_LOST_LEASE_PAUSE = 0.2


class Dispatcher:
    """Decides what this process delivers next. `run` has to be running; it starts workers in the nursery given."""

    def __init__(
        self,
        database: Database,
        store: Store,
        deliverer: Deliverer,
        lease: Lease,
        channels: frozenset[str] | All,
        *,
        concurrency: int,
        max_running: int,
        poll_interval: float,
    ) -> None:
        self._database = database
        self._store = store
        self._deliverer = deliverer
        self._lease = lease
        self._channels = None if isinstance(channels, All) else channels
        self._concurrency = concurrency
        self._max_running = max_running
        self._poll_interval = poll_interval
        self._workers: dict[str, Worker] = {}
        self._hot: dict[str, None] = {}
        self._later: list[tuple[float, str]] = []
        self._look_around = True
        self._woken = trio.Event()
        self._lost_claims: list[UUID] = []
        self._backoff = Backoff(initial=0.1, cap=5.0)
        self._claiming = trio.CancelScope()
        self._has_stopped = trio.Event()
        self._worker_ended = trio.Event()

    def __repr__(self) -> str:
        return f"<Dispatcher: {self.running} running in {len(self._workers)} channels, {len(self._hot)} hot>"

    @property
    def channels(self) -> list[str] | All:
        """What this process delivers."""
        return ALL if self._channels is None else sorted(self._channels)

    @property
    def running(self) -> int:
        """Jobs in hand, over all channels."""
        return sum(worker.in_hand for worker in self._workers.values())

    # --- hints --------------------------------------------------------------------------------------------------------

    def wake(self, waits: Mapping[str, float]) -> None:
        """Channels have something due in so many seconds."""
        now = trio.current_time()
        for channel, wait in waits.items():
            if self._channels is None or channel in self._channels:
                if wait <= 0:
                    self._hot[channel] = None
                    self._woken.set()
                elif wait < self._poll_interval:
                    # What is due after the next poll, the poll will find.
                    heapq.heappush(self._later, (now + wait, channel))
                    self._woken.set()

    def wake_all(self) -> None:
        """Anything may be due: look at the database."""
        self._look_around = True
        self._woken.set()

    def _place_freed(self) -> None:
        if self._hot:
            self._woken.set()

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self, nursery: trio.Nursery) -> None:
        """Claim until `stop` is called. Errors of the database are logged, and tried again after a pause."""
        with self._claiming:
            await self._run(nursery)
        self._has_stopped.set()

    def stop(self) -> None:
        """Claim no more; what is in hand goes on."""
        self._claiming.cancel()

    async def wait_until_idle(self) -> None:
        """Wait, after `stop`, until nothing is in hand any more."""
        await self._has_stopped.wait()
        while self._workers:
            await self._worker_ended.wait()

    async def _run(self, nursery: trio.Nursery) -> None:
        failures = 0
        next_poll = trio.current_time()
        while True:
            try:
                if self._look_around or trio.current_time() >= next_poll:
                    next_poll = trio.current_time() + self._poll_interval
                    await self._find_due_channels()
                await self._claim_what_fits(nursery)
                failures = 0
            except (DatabaseUnavailable, SchemaMismatch, psycopg.Error) as error:
                failures += 1
                pause = self._backoff.delay(failures, random.random)
                emit(_logger, Event.CLAIM_FAILED, error=error, retry_in=round(pause, 2))
                self._look_around = True
                await trio.sleep(pause)
            else:
                await self._sleep_until_needed(next_poll)

    async def _sleep_until_needed(self, next_poll: float) -> None:
        wake_at = min(next_poll, self._later[0][0]) if self._later else next_poll
        with trio.move_on_at(wake_at):
            await self._woken.wait()
        self._woken = trio.Event()
        now = trio.current_time()
        while self._later and self._later[0][0] <= now:
            self._hot[heapq.heappop(self._later)[1]] = None

    async def _find_due_channels(self) -> None:
        self._look_around = False
        waits = await self._database.run(
            partial(self._store.due_channels, channels=self._channels, horizon=self._poll_interval)
        )
        # The poll knows everything until the next one: what was noted before is in it.
        self._later.clear()
        self.wake(waits)

    async def _claim_what_fits(self, nursery: trio.Nursery) -> None:
        await self._release_lost_claims()
        while places := self._places():
            if not self._lease.is_valid:
                await trio.sleep(_LOST_LEASE_PAUSE)
                self._woken.set()
                return
            for channel, jobs in (await self._claim(places)).items():
                self._hand_over(channel, jobs, nursery)

    def _places(self) -> dict[str, int]:
        """How many jobs to claim for which channels: the longest unserved first, within both limits."""
        left = self._max_running - self.running
        places: dict[str, int] = {}
        for channel in self._hot:
            if left <= 0 or len(places) == _CHANNELS_PER_CLAIM:
                break
            worker = self._workers.get(channel)
            free = min(left, self._concurrency if worker is None else worker.places)
            if free > 0:
                places[channel] = free
                left -= free
        return places

    async def _claim(self, places: dict[str, int]) -> dict[str, list[Claimed]]:
        for channel in places:
            # Off the list before asking: a hint that comes meanwhile puts it back.
            del self._hot[channel]
        claim = uuid4()
        try:
            jobs = await self._database.run(
                partial(self._store.claim, worker=self._lease.worker, claim=claim, places=places)
            )
        except BaseException:
            # Perhaps only the answer was lost: then the jobs are claimed, and nobody knows it.
            self._lost_claims.append(claim)
            raise
        by_channel: dict[str, list[Claimed]] = {}
        for job in jobs:
            by_channel.setdefault(job.channel, []).append(job)
        for channel, claimed in by_channel.items():
            if len(claimed) == places[channel]:
                # Probably there is more; at the end of the list, so that the others come first.
                self._hot[channel] = None
        if jobs:
            emit(_logger, Event.CLAIMED, jobs=len(jobs), channels=len(by_channel))
        return by_channel

    async def _release_lost_claims(self) -> None:
        if self._lost_claims:
            claims = list(self._lost_claims)
            await self._database.run(partial(self._store.release, worker=self._lease.worker, claims=claims))
            del self._lost_claims[: len(claims)]

    # --- workers ------------------------------------------------------------------------------------------------------

    def _hand_over(self, channel: str, jobs: list[Claimed], nursery: trio.Nursery) -> None:
        worker = self._workers.get(channel)
        if worker is not None:
            worker.hand_over(jobs)
            return
        worker = Worker(channel, self._concurrency, self._deliverer, self._place_freed)
        worker.hand_over(jobs)
        self._workers[channel] = worker
        nursery.start_soon(self._run_worker, worker)

    async def _run_worker(self, worker: Worker) -> None:
        # Work may be handed over while the worker's nursery closes. No checkpoint may come between the last look and
        # the removal.
        while worker.in_hand:
            await worker.run()
        del self._workers[worker.channel]
        self._worker_ended.set()
        self._worker_ended = trio.Event()
