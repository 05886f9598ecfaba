"""Claiming. Invariants: never more than asked, for each channel; highest priority first, then the longest due; no job
to two claimers; nothing to a process that is not registered; nothing that is not due."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from requeuest_trio import InvalidRequest, Request, RetryPolicy, open_requeuest
from requeuest_trio._config import Config
from requeuest_trio._model.retry import DEFAULT_RETRY
from requeuest_trio._store.claimed import Reservation
from requeuest_trio._store.new_jobs import NewJob
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe
from tests.engine.store_harness import REQUEST, StoreHarness, new_job
from tests.postgres.harness import Conn, value


async def test_places_of_each_channel_are_respected(harness: StoreHarness, conn: Conn) -> None:
    for channel in ("a", "b", "c"):
        await harness.spawn(conn, *(new_job(channel) for _ in range(5)))
    claimed = await harness.claim(conn, await harness.worker(conn), {"a": 1, "b": 3, "nobody": 9})
    assert sorted(job.channel for job in claimed) == ["a", "b", "b", "b"]
    assert len({job.claim for job in claimed}) == 1
    assert await value(conn, "SELECT count(*) FROM requeuest.job WHERE state = 'running'") == 4


async def test_priority_first_and_then_what_was_due_first(harness: StoreHarness, conn: Conn) -> None:
    jobs = [new_job(priority=priority) for priority in (0, 5, -100, 100, 5, 0)]
    await harness.spawn(conn, *jobs)
    for age, job in enumerate(jobs):
        await harness.rows(
            conn, "UPDATE requeuest.job SET due_at = now() + %s * interval '-1 s' WHERE id = %s", age, job.id
        )
    worker, taken = await harness.worker(conn), list[UUID]()
    while claimed := await harness.claim(conn, worker, 1):
        taken += [job.id for job in claimed]
    assert [jobs.index(job) for job in sorted(jobs, key=lambda job: taken.index(job.id))] == [3, 4, 1, 5, 0, 2]


async def test_a_high_priority_that_is_not_due_does_not_hide_lower_ones(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, new_job(priority=9, delay=60), *(new_job(priority=p) for p in (1, 1, 0)))
    assert len(await harness.claim(conn, await harness.worker(conn))) == 3


@pytest.mark.parametrize("state", ["blocked", "delayed", "running"])
async def test_only_what_is_due_and_free(harness: StoreHarness, conn: Conn, state: str) -> None:
    worker = await harness.worker(conn)
    if state == "blocked":
        await harness.spawn(conn, new_job("x", key="k"), new_job("x", key="k"))
        assert len(await harness.claim(conn, worker, {"x": 5})) == 1
    elif state == "delayed":
        await harness.spawn(conn, new_job("x", delay=3_600))
    else:
        await harness.spawn(conn, new_job("x"))
        assert len(await harness.claim(conn, worker, {"x": 5})) == 1
    assert await harness.claim(conn, worker, {"x": 5}) == []


async def test_a_process_that_is_not_registered_gets_nothing(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, new_job())
    assert await harness.claim(conn, uuid4()) == []
    assert await harness.states(conn) == ["available"]


async def test_locked_jobs_are_passed_over(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    await harness.spawn(conn, *(new_job() for _ in range(4)))
    worker = await harness.worker(conn)
    async with other.transaction():
        first = await harness.claim(other, worker, 3)
        second = await harness.claim(conn, worker, 3)
    assert (len(first), len(second)) == (3, 1)
    assert {job.id for job in first}.isdisjoint(job.id for job in second)


async def test_who_asks_to_be_told_of_a_due_job_announces_it(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    """A claim in this moment has passed it over, because its row was locked."""
    [job_id] = await harness.spawn(conn, new_job())
    await harness.on(other).listen([harness.notifications.due_topic])
    async with conn.transaction():
        assert await harness.on(conn).await_job(job_id) is not None
        assert await harness.claim(other, await harness.worker(other)) == []
    [payload] = [n.payload async for n in other.notifies(timeout=5, stop_after=1)]
    assert json.loads(payload) == {"c": 0}
    assert await harness.on(conn).await_job(job_id) is not None, "the second, too, is told"


@pytest.mark.parametrize("plan", [(), ("enable_hashjoin", "enable_mergejoin"), ("enable_nestloop", "enable_indexscan")])
async def test_four_claimers_at_once_share_without_overlap(
    harness: StoreHarness, conn: Conn, plan: tuple[str, ...]
) -> None:
    jobs = 600
    await harness.spawn(conn, *(new_job(f"c{number % 3}", priority=number % 2) for number in range(jobs)))
    taken: list[UUID] = []

    async def claim_all(claimer: Conn) -> None:
        worker = await harness.worker(claimer)
        for setting in plan:
            await claimer.execute(f"SET {setting} = off".encode())
        while claimed := await harness.claim(claimer, worker, {"c0": 7, "c1": 1, "c2": 13}):
            for channel, places in (("c0", 7), ("c1", 1), ("c2", 13)):
                assert sum(job.channel == channel for job in claimed) <= places
            taken.extend(job.id for job in claimed)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(claim_all, await harness.connect())
    assert len(taken) == len(set(taken)) == jobs


async def test_due_channels_tells_which_and_when(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(
        conn,
        new_job("now"),
        new_job("later", delay=60, priority=9),
        new_job("soon", delay=60),
        new_job("soon", delay=3, priority=-9),
        new_job("late", delay=3_600),
        new_job("ordered", key="k"),
        new_job("ordered", key="k"),
    )
    waits = await harness.on(conn).due_channels(None, 100.0)
    assert sorted(waits) == ["later", "now", "ordered", "soon"]
    assert waits["now"] <= 0
    assert 2 < waits["soon"] <= 3
    assert 59 < waits["later"] <= 60
    of_soon = await harness.on(conn).due_channels(["soon", "unknown"], 100.0)
    assert list(of_soon) == ["soon"]
    assert 2 < of_soon["soon"] <= 3
    assert list(await harness.on(conn).due_channels(None, 0.0)) == ["now", "ordered"]
    assert await harness.on(conn).due_channels([], 100.0) == {}


def large(channel: str = "c", mebibytes: int = 1, **options: Any) -> NewJob:
    return new_job(channel, request=Request.post("http://x.test/", content=b"x" * mebibytes * 1_048_576), **options)


async def test_a_claim_is_cut_before_its_bodies_are_too_large(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, *(large() for _ in range(6)), new_job("small"), *(large("other") for _ in range(3)))
    worker, taken = await harness.worker(conn), list[list[str]]()
    while True:
        jobs, is_cut, _ = await harness.on(conn).claim(worker, uuid4(), {"c": 10, "small": 10, "other": 10})
        taken.append(sorted(job.channel for job in jobs))
        if not is_cut:
            break
    assert taken == [["c", "c", "other", "small"], ["c", "c", "other", "other"], ["c", "c"]]
    assert await harness.claim(conn, worker) == []


async def test_a_body_larger_than_a_claim_is_read_apart(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    await harness.spawn(conn, *[large(mebibytes=5)] * 2, new_job(), large(mebibytes=5), large(mebibytes=3))
    worker = await harness.worker(conn)
    jobs, is_cut, _ = await harness.on(conn).claim(worker, uuid4(), {"c": 10})
    assert not is_cut
    assert [job.request.body and len(job.request.body) for job in jobs] == [
        None,
        len(REQUEST.body),
        None,
        3 * 1_048_576,
    ]
    assert await harness.on(other).body(jobs[0]) == b"x" * 5 * 1_048_576
    with pytest.raises(InvalidRequest, match="body: was not read"):
        jobs[0].read()
    await harness.on(conn).release_jobs(worker, jobs)
    assert await harness.on(other).body(jobs[0]) is None, "it is not held under this claim any more"


async def test_what_a_cut_claim_has_left_is_delivered_at_once(probe: QueueProbe, receiver: Receiver) -> None:
    """Without a poll or a notification: the channels stay hot."""
    config = Config(notifications=False)
    async with open_requeuest(probe.dsn, (), config=config) as client:
        for channel in ("a", "b"):
            request = Request.post(receiver.url, content=b"x" * 3_000_000)
            await client.spawn_many(channel, [request] * 8)
    async with open_requeuest(probe.dsn, ["a", "b"], poll_interval=600, lease=3.0, config=config):
        await probe.until_states(succeeded=16)


@pytest.mark.parametrize("column", ["headers", "url", "body"])
async def test_a_claim_is_cut_and_counts_the_whole_row(harness: StoreHarness, conn: Conn, column: str) -> None:
    worker = await harness.worker(conn)
    value = {
        "headers": "to_json(repeat('h', 400000))",
        "url": "repeat('u', 400000)",
        "body": "repeat('b', 400000)::bytea",
    }
    text = (
        f"INSERT INTO requeuest.job (channel, method, url, {column})"
        if column != "url"
        else ("INSERT INTO requeuest.job (channel, method, url)")
    )
    urls = "" if column == "url" else "'http://x.test/', "
    await conn.execute(f"{text} SELECT 'c', 'GET', {urls}{value[column]} FROM generate_series(1, 30)".encode())
    jobs, is_cut, _ = await harness.on(conn).claim(worker, uuid4(), {"c": 30})
    assert is_cut
    assert 5 < len(jobs) < 11


async def test_a_job_that_is_too_large_is_named_and_left(harness: StoreHarness, conn: Conn) -> None:
    worker = await harness.worker(conn)
    await conn.execute(b"ALTER TABLE requeuest.job DROP CONSTRAINT job_limits")
    await conn.execute(
        b"INSERT INTO requeuest.job (channel, method, url, priority) "
        b"SELECT 'c', 'GET', string_agg(gen_random_uuid()::text, ''), 9 FROM generate_series(1, 20000)"
    )
    small = await harness.spawn(conn, new_job(), new_job())
    for ids in ([small[0]], []):
        claims = await harness.on(conn).claim(worker, uuid4(), {"c": len(ids) + 1})
        assert ([job.id for job in claims.jobs], claims.is_cut) == (ids, True), "in its place there may be another"
        assert len(claims.oversized) == 1
    await harness.on(conn).condemn(claims.oversized, "too large")
    last = await harness.on(conn).claim(worker, uuid4(), {"c": 1})
    assert ([job.id for job in last.jobs], last.is_cut, last.oversized) == ([small[1]], False, [])


@pytest.mark.parametrize("seconds", [None, 7.0])
@pytest.mark.parametrize("policy", [DEFAULT_RETRY, RetryPolicy(max_attempts=3, give_up_on=[404])])
async def test_what_is_claimed_as_it_is_stored_is_what_a_later_claim_reads(
    harness: StoreHarness, conn: Conn, seconds: float | None, policy: RetryPolicy
) -> None:
    request = Request.post(
        "http://receiver.test/hook?a=%C3%A4",
        headers=[("X-A", "1"), ("x-a", "2")],
        content=b"\0\xff",
        accept=[204, range(500, 503)],
    )
    worker = await harness.worker(conn)
    reservation, job = Reservation("c", worker, uuid4()), new_job(request=request, timeout=seconds, retry=policy)
    assert (await harness.on(conn).store([job], reservation=reservation)).is_claimed
    reservation.settle(job)
    await harness.on(conn).release(worker)
    [later] = await harness.claim(conn, worker)
    assert reservation.job is not None
    assert reservation.job.read() == later.read()
