"""Claims jobs for the free slots of all channels, and hands them to the channels' workers.

A loop of few steps. What it knows of channels is in `readiness.py`, how many jobs are asked for in `slots.py`, what
makes a claim safe in `claims.py`.
"""

from __future__ import annotations

import random
from itertools import islice
from typing import NamedTuple

import trio

from requeuest_trio._engine.channel_workers import ChannelWorkers
from requeuest_trio._engine.claims import Claims
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.readiness import Readiness, ReadinessStatistics
from requeuest_trio._engine.slots import Slots
from requeuest_trio._engine.wake_ups import WakeUps
from requeuest_trio._model.backoff import Backoff
from requeuest_trio._model.channel import ALL, All
from requeuest_trio._model.errors import first_line
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.claimed import Claimed
from requeuest_trio._store.database import DATABASE_ERRORS
from requeuest_trio._store.store import Store

__all__ = ["Dispatcher", "DispatcherStatistics"]

_CHANNELS_PER_CLAIM = 100
_OVERDUE_LEASE_PAUSE = 0.2


class DispatcherStatistics(NamedTuple):
    """What a dispatcher does at a moment. For tests and for people who look into a process."""

    is_idle: bool
    """It waits for a wake-up."""
    running: int
    """Jobs in hand, those among them that wait for a slot."""
    occupied: int
    """Slots that are taken or reserved."""
    workers: int
    """Channels with a worker."""
    readiness: ReadinessStatistics


class Dispatcher:
    """Decides what this process delivers next. `run` has to be running."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        readiness: Readiness,
        wake_ups: WakeUps,
        slots: Slots,
        workers: ChannelWorkers,
        claims: Claims,
        emitter: Emitter,
        *,
        poll_interval: float,
    ) -> None:
        self._store = store
        self._lease = lease
        self._readiness = readiness
        self._wake_ups = wake_ups
        self._slots = slots
        self._workers = workers
        self._claims = claims
        self._emitter = emitter
        self._poll_interval = poll_interval
        self._backoff = Backoff(initial=0.1, cap=1.5)
        self._claiming = trio.CancelScope()
        self._has_stopped = trio.Event()

    def __repr__(self) -> str:
        return f"<Dispatcher: {self._workers!r}, {self._readiness!r}>"

    @property
    def channels(self) -> tuple[str, ...] | All:
        """What this process delivers."""
        named = self._readiness.channels
        return ALL if named is None else tuple(sorted(named))

    def statistics(self) -> DispatcherStatistics:
        """What it does now."""
        return DispatcherStatistics(
            self._wake_ups.is_awaited,
            self._workers.running,
            self._workers.occupied,
            len(self._workers),
            self._readiness.statistics(),
        )

    async def run(self) -> None:
        """Claim until `stop` is called. Errors of the database are told, and the step tried again after a pause."""
        with self._claiming:
            await self._run()
        self._has_stopped.set()

    def stop(self) -> None:
        """Claim no more; what is in hand goes on."""
        self._claiming.cancel()

    async def wait_until_idle(self) -> None:
        """Wait, after `stop`, until nothing is in hand any more."""
        await self._has_stopped.wait()
        await self._workers.wait_until_idle()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._step()
                failures = 0
            except DATABASE_ERRORS as error:
                failures += 1
                pause = self._backoff.delay(failures, random.random)
                self._emitter.emit(events.ClaimFailed(error=first_line(error), retry_in=round(pause, 2)))
                self._readiness.lose_track()
                await trio.sleep(pause)

    async def _step(self) -> None:
        """One claim at most, so that a backlog can't keep this loop from what has become due meanwhile."""
        await self._claims.clear_doubts()
        self._workers.advance(trio.current_time())
        await self._release_unwanted()
        if self._readiness.is_look_due(trio.current_time()):
            await self._look()
        self._readiness.advance(trio.current_time())
        if not (wanted := self._claims.limited(self._shares())):
            await self._rest()
        elif self._lease.is_fresh:
            await self._claim(wanted)
        else:
            await trio.sleep(_OVERDUE_LEASE_PAUSE)

    async def _release_unwanted(self) -> None:
        if jobs := self._workers.unwanted:
            await self._claims.release(jobs)
            self._workers.released(jobs)
            # Other processes may hear nothing of it until they poll.
            self._readiness.again(job.channel for job in jobs)

    async def _look(self) -> None:
        """Ask the database what is due within a poll interval."""
        self._readiness.begin_look(trio.current_time())
        waits = await self._store.due_channels(self._readiness.channels, self._poll_interval)
        self._readiness.end_look(waits, trio.current_time())

    def _shares(self) -> dict[str, int]:
        """How many jobs to claim for which channels: the longest unserved first."""
        ready = self._readiness.ready
        if not ready:
            return {}
        taken = self._workers.occupied
        wishes = self._workers.wishes(ready, only_ahead=not self._slots.room(taken, 0))
        return self._slots.share_out(taken, list(islice(wishes, _CHANNELS_PER_CLAIM)))

    async def _rest(self) -> None:
        """Nothing can be claimed: wait until that may have changed."""
        if not self._readiness.ready:
            self._claims.nothing_is_ready()
        await self._wake_ups.wait(min(self._readiness.next_change, self._workers.next_change))

    async def _claim(self, wanted: dict[str, int]) -> None:
        self._readiness.begin_claim(wanted)
        with self._workers.expecting(wanted):
            found = await self._claims.take(wanted)
            if found is None:
                self._readiness.lose_track()
                return
            by_channel: dict[str, list[Claimed]] = {}
            for job in found.jobs:
                by_channel.setdefault(job.channel, []).append(job)
            claimed = {channel: len(jobs) for channel, jobs in by_channel.items()}
            emptied = self._readiness.end_claim(wanted, claimed, is_cut=found.is_cut)
            for channel, jobs in by_channel.items():
                self._workers.hand_over(channel, jobs)
            if found.oversized:
                await self._claims.give_up_oversized(found.oversized)
            if emptied:
                waits = await self._store.due_channels(emptied, self._poll_interval)
                self._readiness.emptied(waits, trio.current_time())
