"""Ids are taken before the commit, and need not be in its order. With an ordering key the order is that of commits, and
never are two of a key in flight; without one, nothing waits for anything."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest
import trio

from requeuest_trio import Client, Request, open_requeuest
from requeuest_trio.testing import Arrival, Receiver, Reply, open_receiver
from tests.engine.probe import QueueProbe, open_probe
from tests.engine.store_harness import new_id

PRODUCERS = 6


class Commits:
    """Transactions that store in the order of their ids, and commit in another."""

    def __init__(self, client: Client, request: Request, key: str | None) -> None:
        self._client, self._request, self._key = client, request, key

    async def store(self, job_id: UUID, go: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        """Store one job, and commit when told to; with a key, that waits for whoever has it."""
        async with self._client.transaction() as connection:
            task_status.started()
            await self._client.spawn("c", self._request, job_id=job_id, ordering_key=self._key, connection=connection)
            await go.wait()


def in_flight_at_most(receiver: Receiver) -> list[int]:
    """Answers slowly, and notes with each arrival how many are under way."""
    seen, ends = list[int](), list[float]()

    def decide(arrival: Arrival) -> Reply:
        now = trio.current_time()
        seen.append(1 + sum(end > now for end in ends))
        ends.append(now + 0.02)
        return Reply(200, delay=0.02)

    receiver.decide = decide
    return seen


def arrived(receiver: Receiver) -> list[str]:
    return [dict(arrival.headers)["Idempotency-Key"] for arrival in receiver.arrivals]


async def test_a_lower_id_that_commits_later_is_sent_later(migrated_dsn: str) -> None:
    """The first has its id, and has not stored yet; the second has done both, and holds the key: it goes first."""
    async with open_receiver() as receiver, open_probe(migrated_dsn) as probe:
        most = in_flight_at_most(receiver)
        async with open_requeuest(migrated_dsn, ["c"]) as client, trio.open_nursery() as nursery:
            lower, higher = new_id(), new_id()
            commits, go = Commits(client, Request.get(receiver.url), "k"), trio.Event()
            await nursery.start(commits.store, higher, go)
            await probe.until_true("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND granted")
            await nursery.start(commits.store, lower, go)
            await probe.until_true("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            go.set()
            await client.result(await client.spawn("c", Request.get(receiver.url), ordering_key="k"))
        assert arrived(receiver)[:2] == [str(higher), str(lower)]
        assert max(most) == 1


async def test_without_a_key_a_lower_id_is_waited_for_by_nobody(migrated_dsn: str) -> None:
    async with open_receiver() as receiver:
        async with open_requeuest(migrated_dsn, ["c"]) as client, trio.open_nursery() as nursery:
            lower, higher, go = new_id(), new_id(), trio.Event()
            commits = Commits(client, Request.get(receiver.url), None)
            await nursery.start(commits.store, lower, go)
            await client.spawn("c", Request.get(receiver.url), job_id=higher)
            await client.result(higher)
            assert arrived(receiver) == [str(higher)]
            go.set()
            await receiver.wait_for(2)
        assert arrived(receiver) == [str(higher), str(lower)]


@pytest.mark.parametrize("rolled_back", [False, True], ids=["committed", "some rolled back"])
async def test_whatever_the_order_of_ids_the_arrivals_follow_the_commits(migrated_dsn: str, rolled_back: bool) -> None:
    """Producers that take turns at a key with ids in no order, their transactions open for a while."""
    ids = [new_id() for _ in range(PRODUCERS)]
    jumbled = ids[::2][::-1] + ids[1::2]
    committed: list[UUID] = []
    async with open_receiver() as receiver, open_probe(migrated_dsn) as probe:
        most = in_flight_at_most(receiver)

        async def produce(client: Client, own: Sequence[UUID]) -> None:
            for number, job_id in enumerate(own):
                try:
                    async with client.transaction() as connection:
                        request = Request.get(receiver.url)
                        await client.spawn("c", request, job_id=job_id, ordering_key="k", connection=connection)
                        await trio.sleep(0.003)
                        if rolled_back and number % 2:
                            raise KeyError
                except KeyError:
                    continue
                committed.append(job_id)

        async with open_requeuest(migrated_dsn, ["c"]) as client:
            async with trio.open_nursery() as nursery:
                for own in (jumbled[:3], jumbled[3:]):
                    nursery.start_soon(produce, client, own)
            await probe.until_states(succeeded=len(committed))
        assert arrived(receiver) == [str(job_id) for job_id in await by_position(probe)]
        assert {str(job_id) for job_id in committed} == set(arrived(receiver))
        assert max(most) == 1


async def by_position(probe: QueueProbe) -> list[UUID]:
    """The place within the key is taken under its lock, which ends with the commit."""
    return [job_id for (job_id,) in await probe.rows("SELECT id FROM requeuest.job ORDER BY position")]
