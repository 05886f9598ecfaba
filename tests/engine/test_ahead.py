"""
Jobs that a channel is handed before it has a place for them. Invariants: they are few where attempts are slow, and
what has not been begun goes back uncounted, to whoever can send it sooner, and is not sent under a lost lease.
"""

from __future__ import annotations

from typing import cast
from uuid import UUID, uuid4

import pytest
import trio

from requeuest_trio import Client, DatabaseUnavailable, Request, open_requeuest
from requeuest_trio._engine.attempt import Deliverer
from requeuest_trio._engine.channel_worker import ChannelWorker
from requeuest_trio._store.claimed import Claimed
from requeuest_trio._store.store import Store
from requeuest_trio.testing import Action, Arrival, Receiver, Reply, Stall
from tests.engine.probe import Log, QueueProbe, nothing_left

PLACES = 4
JOBS = 2_000


def new_job() -> Claimed:
    return Claimed(uuid4(), uuid4(), "a", None, 1, Request.get("http://h/"), None)


class Slow:
    """A deliverer whose attempts take so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def attempt(self, job: Claimed, scope: trio.CancelScope) -> None:
        await trio.sleep(self.seconds)


def _never(*_: object) -> None:
    raise AssertionError


async def _most_in_hand(seconds: float, jobs: int) -> int:
    """How many jobs a worker holds at the most that is handed what it asks for."""
    most = 0

    def hand_over(worker: ChannelWorker) -> None:
        nonlocal jobs, most
        number = min(jobs, worker.free + worker.ahead)
        jobs -= number
        worker.hand_over([new_job() for _ in range(number)])
        most = max(most, worker.in_hand)

    async with trio.open_nursery() as nursery:
        hand_over(ChannelWorker("a", PLACES, cast("Deliverer", Slow(seconds)), nursery, hand_over, _never))
    assert not jobs
    return most


async def test_slow_attempts_keep_nothing_waiting(autojump_clock: trio.testing.MockClock) -> None:
    assert await _most_in_hand(1.0, 40) == PLACES


async def test_quick_attempts_never_wait_for_a_claim(autojump_clock: trio.testing.MockClock) -> None:
    assert PLACES < await _most_in_hand(0.004, 2_000) <= 9 * PLACES


class Slowing:
    """What a receiver does: it answers quickly until there are jobs ahead of their places, and from then on slowly."""

    def __init__(self, slow: Action) -> None:
        self._slow = slow
        self.client: Client | None = None
        self.has_slowed = trio.Event()

    def __call__(self, _: Arrival) -> Action:
        load = None if self.client is None else self.client._load
        if load is not None and load()[0] > 2 * PLACES:
            self.has_slowed.set()
        return self._slow if self.has_slowed.is_set() else Reply()


async def test_what_waits_behind_attempts_that_have_become_slow_goes_back(
    probe: QueueProbe, receiver: Receiver
) -> None:
    receiver.decide = slowing = Slowing(Stall())
    async with nothing_left(probe), open_requeuest(probe.dsn, concurrency=PLACES, poll_interval=600, grace=0) as client:
        slowing.client = client
        await client.spawn_many("a", [Request.get(receiver.url)] * JOBS)
        await slowing.has_slowed.wait()
        await probe.until_true("select count(*) = %s from requeuest.job where state = 'running'", PLACES)
        assert await probe.value("select max(attempts) from requeuest.job where state = 'available'") == 0


async def test_what_could_not_be_given_back_is_given_back_later_uncounted(
    probe: QueueProbe, receiver: Receiver, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, tries = Store.release_jobs, 0

    async def unlucky(store: Store, worker: UUID, jobs: list[Claimed]) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise DatabaseUnavailable("not now")
        return await original(store, worker, jobs)

    monkeypatch.setattr(Store, "release_jobs", unlucky)
    receiver.decide = slowing = Slowing(Stall())
    async with nothing_left(probe), open_requeuest(probe.dsn, concurrency=PLACES, poll_interval=600, grace=0) as client:
        slowing.client = client
        await client.spawn_many("a", [Request.get(receiver.url)] * JOBS)
        await slowing.has_slowed.wait()
        await log.wait_for("claim_failed")
        await probe.until_true("select count(*) = %s from requeuest.job where state = 'running'", PLACES)
        assert await probe.value("select max(attempts) from requeuest.job where state = 'available'") == 0
    assert tries >= 2
    assert not log.fields("outcomes_lost")


async def test_what_is_not_begun_goes_back_before_the_grace_is_over(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.decide = slowing = Slowing(Reply(delay=3))
    has_gone_back = trio.Event()

    async def see_it_go_back() -> None:
        with trio.fail_after(2):
            await probe.until_true("select count(*) <= %s from requeuest.job where state = 'running'", PLACES)
        has_gone_back.set()

    async with nothing_left(probe), trio.open_nursery() as nursery:
        async with open_requeuest(probe.dsn, concurrency=PLACES, poll_interval=600) as client:
            slowing.client = client
            await client.spawn_many("a", [Request.get(receiver.url)] * JOBS)
            await slowing.has_slowed.wait()
            nursery.start_soon(see_it_go_back)
        assert has_gone_back.is_set()
