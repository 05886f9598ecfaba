"""All channel workers of this process: what they have in hand, what they could have, and what they give up unbegun."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from uuid import UUID

import trio

from requeuest_trio._engine.attempt import Deliverer
from requeuest_trio._engine.channel_worker import ChannelWorker
from requeuest_trio._engine.readiness import Readiness
from requeuest_trio._engine.shortages import Shortages
from requeuest_trio._engine.slots import Wish
from requeuest_trio._engine.wake_ups import WakeUps
from requeuest_trio._store.claimed import Claimed, Reservation

__all__ = ["ChannelWorkers"]

_STALLED_SECONDS = 1.0


class ChannelWorkers:
    """Makes a worker for a channel with its first job, and forgets it when it has nothing to do and will get nothing.

    Until then the worker knows how fast its attempts are.
    """

    def __init__(
        self,
        deliverer: Deliverer,
        readiness: Readiness,
        wake_ups: WakeUps,
        shortages: Shortages,
        *,
        concurrency: int,
    ) -> None:
        """`concurrency` is the number of slots of each channel."""
        self._deliverer = deliverer
        self._readiness = readiness
        self._wake_ups = wake_ups
        self._shortages = shortages
        self._nursery: trio.Nursery
        self._concurrency = concurrency
        self._workers: dict[str, ChannelWorker] = {}
        self._reservation: Reservation | None = None
        self._expected: Mapping[str, int] = {}
        """How many jobs of which channels the claim that is under way may bring."""
        self._unwanted: list[Claimed] = []
        self._look_for_stalled_at = math.inf
        self._one_is_idle = trio.Event()

    def __repr__(self) -> str:
        return f"<ChannelWorkers: {self.running} running in {len(self._workers)} channels>"

    def start_in(self, nursery: trio.Nursery) -> None:
        """Where the tasks of all workers are to live. Called once, before anything is handed over."""
        self._nursery = nursery

    # --- what they have -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def running(self) -> int:
        """Jobs in hand, those among them that wait for a slot."""
        return sum(worker.in_hand for worker in self._workers.values())

    @property
    def occupied(self) -> int:
        """Slots that are taken, over all channels, and the one that is reserved."""
        return sum(worker.occupied for worker in self._workers.values()) + (self._reservation is not None)

    @property
    def expected(self) -> int:
        """Jobs that the claim under way may bring."""
        return sum(self._expected.values())

    @property
    def claims(self) -> set[UUID]:
        """The claims of all jobs in hand, of unwanted ones, and of the one that is being stored."""
        claims = {job.claim for job in self._unwanted}.union(*(worker.claims for worker in self._workers.values()))
        if self._reservation is not None:
            claims.add(self._reservation.claim)
        return claims

    async def wait_until_idle(self) -> None:
        """Wait until nothing is in hand any more."""
        while self.running:
            await self._one_is_idle.wait()

    # --- what they could have -----------------------------------------------------------------------------------------

    def wishes(self, channels: Collection[str], *, only_ahead: bool) -> Iterator[Wish]:
        """Of these channels, those that jobs may be claimed for: for free slots, and ahead of them.

        `only_ahead` leaves out those without a worker: no slot is left, and jobs ahead are only for who has slots.
        """
        for channel in [name for name in self._workers if name in channels] if only_ahead else channels:
            wish = self.wish(channel)
            if wish.free or wish.ahead:
                yield wish

    def wish(self, channel: str) -> Wish:
        """What a channel could have now."""
        worker = self._workers.get(channel)
        wish = Wish(channel, 0, self._concurrency, 0) if worker is None else worker.wish
        if self._reservation is not None and self._reservation.channel == channel:
            wish = wish.with_one_reserved()
        if channel in self._shortages:
            wish = wish.limited(self._shortages.limit(channel))
        return wish

    def is_unlimited(self, channel: str) -> bool:
        """Whether nothing bounds a channel but its slots, and no claim that is under way may bring jobs of it."""
        return channel not in self._shortages and channel not in self._expected

    @property
    def has_reserved(self) -> bool:
        """Whether a slot is reserved for a job that is being stored."""
        return self._reservation is not None

    @contextmanager
    def expecting(self, wanted: Mapping[str, int]) -> Iterator[None]:
        """So many jobs of channels are being claimed; until that is over, their workers stay."""
        self._expected = wanted
        try:
            yield
        finally:
            self._expected = {}
            self._retire(wanted)

    @contextmanager
    def reserving(self, reservation: Reservation) -> Iterator[None]:
        """A job is being stored, for which a slot is reserved."""
        self._reservation = reservation
        try:
            yield
        finally:
            self._reservation = None

    # --- what comes in ------------------------------------------------------------------------------------------------

    def hand_over(self, channel: str, jobs: Iterable[Claimed]) -> None:
        """Give jobs to the worker of their channel."""
        worker = self._workers.get(channel)
        if worker is None:
            worker = self._workers[channel] = ChannelWorker(
                channel, self._concurrency, self._deliverer, self._nursery, self._slot_freed, self._fell_short
            )
        self._look_for_stalled_at = min(self._look_for_stalled_at, trio.current_time() + _STALLED_SECONDS)
        worker.hand_over(jobs)

    def _slot_freed(self, worker: ChannelWorker) -> None:
        self._wake_ups.slot_freed()
        if not worker.in_hand:
            self._retire([worker.channel])
            self._one_is_idle.set()
            self._one_is_idle = trio.Event()

    def _retire(self, channels: Iterable[str]) -> None:
        for channel in channels:
            worker = self._workers.get(channel)
            is_needed = channel in self._readiness.ready or channel in self._expected
            if worker is not None and not worker.in_hand and not is_needed:
                del self._workers[channel]

    # --- what goes back -----------------------------------------------------------------------------------------------

    @property
    def unwanted(self) -> list[Claimed]:
        """What this process will not send, until `released` says that others may."""
        return self._unwanted.copy()

    def released(self, jobs: Collection[Claimed]) -> None:
        """The first of the unwanted are this process's no more."""
        del self._unwanted[: len(jobs)]

    @property
    def next_change(self) -> float:
        """When `advance` has something to do."""
        return min(self._look_for_stalled_at, self._shortages.next_change)

    def advance(self, now: float) -> None:
        """Let channels that lacked something have more, and take back what waits behind attempts that became slow."""
        self._shortages.ease(now)
        if now >= self._look_for_stalled_at:
            # Others may be able to send it sooner.
            self._unwanted += [job for worker in self._workers.values() for job in worker.take_stalled()]
            self._look_for_stalled_at = now + _STALLED_SECONDS if self._workers else math.inf
        self._shortages.tell(now)

    def _fell_short(self, worker: ChannelWorker, job: Claimed, problem: str) -> None:
        """This machine could not send a job, and may not be able to send others either."""
        self._unwanted += [job, *worker.take_back()]
        self._shortages.met(worker.channel, worker.in_hand, problem, trio.current_time())
        self._wake_ups.wake()

    def take_back(self) -> list[Claimed]:
        """Take from the workers what they have not begun, and return it."""
        return [job for worker in self._workers.values() for job in worker.take_back()]

    def give_up_waiting(self) -> None:
        """Send nothing of what was claimed and not begun: another process may have claimed it by now."""
        for job in self.take_back():
            self._deliverer.give_up(job)
