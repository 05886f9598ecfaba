"""One channel's slots: each attempt has a scope of its own, and what ends one attempt ends no other."""

from __future__ import annotations

from typing import cast
from uuid import uuid4

import trio
import trio.testing

from requeuest_trio import Request
from requeuest_trio._engine.attempt import Deliverer
from requeuest_trio._engine.channel_worker import ChannelWorker
from requeuest_trio._engine.slots import Wish
from requeuest_trio._store.claimed import Claimed

SLOTS = 2


def new_job() -> Claimed:
    return Claimed(uuid4(), uuid4(), "a", None, 1, Request.get("http://h/"), None)


class Holding:
    """In place of a deliverer: each attempt lasts until it is told to end, or cut short."""

    def __init__(self) -> None:
        self.jobs: list[Claimed] = []
        """In the order in which their attempts began."""
        self.scopes: dict[int, trio.CancelScope] = {}
        self.may_end: dict[int, trio.Event] = {}
        self.shortage: str | None = None

    async def attempt(self, job: Claimed, scope: trio.CancelScope) -> str | None:
        number = len(self.jobs)
        self.jobs.append(job)
        self.scopes[number], self.may_end[number] = scope, trio.Event()
        await self.may_end[number].wait()
        return self.shortage


class StoreHarness:
    """A worker, and what it has told."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.holding = Holding()
        self.wishes: list[Wish] = []
        self.short: list[Claimed] = []
        self.worker = ChannelWorker(
            "a",
            SLOTS,
            cast("Deliverer", self.holding),
            nursery,
            lambda worker: self.wishes.append(worker.wish),
            lambda _, job, __: self.short.append(job),
        )

    async def end(self, number: int) -> None:
        self.holding.may_end[number].set()
        await trio.testing.wait_all_tasks_blocked()


async def test_an_attempt_that_is_cut_short_leaves_its_slot_to_the_next(nursery: trio.Nursery) -> None:
    harness = StoreHarness(nursery)
    harness.worker.hand_over([new_job() for _ in range(4)])
    await trio.testing.wait_all_tasks_blocked()
    assert len(harness.holding.scopes) == SLOTS
    for number in (0, 2):
        harness.holding.scopes[number].cancel()
        await trio.testing.wait_all_tasks_blocked()
    assert len(harness.holding.scopes) == 4, "the others began in the slot of those that were cut short"
    assert not harness.holding.scopes[1].cancel_called
    assert not harness.holding.scopes[3].cancel_called
    assert harness.worker.in_hand == SLOTS
    for number in (1, 3):
        await harness.end(number)
    assert harness.worker.wish == Wish("a", 0, SLOTS, 0)


async def test_a_scope_whose_time_was_over_when_its_attempt_ended_serves_for_no_other(nursery: trio.Nursery) -> None:
    harness = StoreHarness(nursery)
    harness.worker.hand_over([new_job(), new_job(), new_job()])
    await trio.testing.wait_all_tasks_blocked()
    harness.holding.may_end[0].set()
    harness.holding.scopes[0].cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert len(harness.holding.scopes) == 3
    assert harness.holding.scopes[2] is not harness.holding.scopes[0]
    assert not harness.holding.scopes[2].cancel_called
    nursery.cancel_scope.cancel()


async def test_it_tells_of_a_free_slot_and_of_claims_while_they_are_in_hand(nursery: trio.Nursery) -> None:
    harness = StoreHarness(nursery)
    jobs = [new_job() for _ in range(3)]
    harness.worker.hand_over(jobs)
    assert harness.worker.claims == {job.claim for job in jobs}
    assert harness.worker.wish.free == 0
    assert harness.worker.take_back() == [jobs[2]]
    await trio.testing.wait_all_tasks_blocked()
    await harness.end(0)
    assert harness.wishes == [Wish("a", 1, 1, 0)]
    assert harness.worker.claims == {harness.holding.jobs[1].claim}
    await harness.end(1)


async def test_what_could_not_be_sent_is_the_callers_again(nursery: trio.Nursery) -> None:
    harness = StoreHarness(nursery)
    job = new_job()
    harness.worker.hand_over([job])
    await trio.testing.wait_all_tasks_blocked()
    harness.holding.shortage = "no descriptors"
    await harness.end(0)
    assert harness.short == [job]
    assert harness.worker.in_hand == 0
