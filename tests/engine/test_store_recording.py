"""Outcomes, releases, rescues and pruning. Invariants: only the current claim records, once, whatever is repeated; a
release refunds the attempt and a rescue does not; a live process is never robbed; nothing is left of a pruned job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
import trio

from requeuest_trio import JobState, Reached
from requeuest_trio._model.outcome import Outcome
from requeuest_trio._store.outcomes import Report
from tests.engine.store_harness import StoreHarness, delivered, gave_up, new_job, to_be_retried
from tests.postgres.harness import Conn, value


async def test_an_outcome_is_written_whole(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, *(new_job() for _ in range(3)))
    ok, dead, again = await harness.claim(conn, await harness.worker(conn))
    reports = [delivered(ok, body=b"\0\xff" * 1_000), gave_up(dead), to_be_retried(again, 60.0)]
    assert await harness.record(conn, reports) == {ok.id, dead.id, again.id}
    assert await harness.states(conn) == ["succeeded", "dead", "available"]

    job = await harness.on(conn).job(ok.id)
    assert job is not None
    assert job.response is not None
    assert (job.response.status_code, job.response.content) == (200, b"\0\xff" * 1_000)
    assert job.response.headers.raw == [(b"X-Answer", b"1")]
    [attempt] = await harness.on(conn).attempts(ok.id)
    assert (attempt.number, attempt.reached, attempt.status, attempt.error) == (1, Reached.RESPONSE, 200, None)
    assert attempt.excerpt == (b"\0\xff" * 1_000)[:1_024]
    assert attempt.retry_at is None

    [attempt] = await harness.on(conn).attempts(again.id)
    retried = await harness.on(conn).job(again.id)
    assert retried is not None
    assert attempt.retry_at == retried.due_at
    assert await value(
        conn, "SELECT due_at - now() BETWEEN '50 s' AND '60 s' FROM requeuest.job WHERE id = %s", again.id
    )
    assert retried.response is None


async def test_only_what_is_not_being_sent_is_condemned(harness: StoreHarness, conn: Conn) -> None:
    """Another process may have read it after all."""
    ids = await harness.spawn(conn, new_job(priority=1), new_job())
    [sent] = await harness.claim(conn, await harness.worker(conn), 1)
    assert sent.id == ids[0]
    for _ in range(2):
        assert (await harness.on(conn).condemn(ids, "unreadable")).unblocked == {}
    assert await harness.states(conn) == ["running", "dead"]
    assert await harness.rows(conn, "SELECT job_id, number FROM requeuest.attempt") == [(ids[1], 1)]
    assert await harness.record(conn, [delivered(sent)]) == {sent.id}


async def test_a_stale_claim_records_nothing(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, new_job())
    worker = await harness.worker(conn)
    [first] = await harness.claim(conn, worker)
    assert await harness.on(conn).release(worker) == 1
    assert await harness.record(conn, [delivered(first)]) == set()
    [second] = await harness.claim(conn, worker)
    assert second.claim != first.claim
    assert await harness.record(conn, [gave_up(first)]) == set()
    assert await harness.record(conn, [delivered(replace(second, claim=uuid4()))]) == set()
    assert await harness.states(conn) == ["running"]
    assert await harness.record(conn, [delivered(second)]) == {second.id}
    assert await value(conn, "SELECT count(*) FROM requeuest.attempt") == 1


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_replay_changes_nothing(harness: StoreHarness, conn: Conn, key: str | None) -> None:
    await harness.spawn(conn, new_job(key=key))
    [job] = await harness.claim(conn, await harness.worker(conn))
    assert await harness.record(conn, [delivered(job)]) == {job.id}
    before = await harness.rows(conn, "SELECT * FROM requeuest.job")
    assert await harness.record(conn, [delivered(job)]) == set()
    assert await harness.record(conn, [gave_up(job)]) == set()
    assert await harness.rows(conn, "SELECT * FROM requeuest.job") == before


async def test_an_outcome_twice_in_a_batch_counts_once(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, new_job())
    [job] = await harness.claim(conn, await harness.worker(conn))
    assert await harness.record(conn, [delivered(job), delivered(job)]) == {job.id}
    assert await value(conn, "SELECT count(*) FROM requeuest.attempt") == 1


@pytest.mark.parametrize("comes_first", ["the old", "the current"])
async def test_of_two_outcomes_of_a_job_in_a_batch_that_of_its_claim_counts(
    harness: StoreHarness, conn: Conn, comes_first: str
) -> None:
    await harness.spawn(conn, new_job())
    worker = await harness.worker(conn)
    [old] = await harness.claim(conn, worker)
    await harness.on(conn).release(worker)
    [current] = await harness.claim(conn, worker)
    reports = [gave_up(old), delivered(current)]
    assert await harness.record(conn, reports if comes_first == "the old" else reports[::-1]) == {current.id}
    assert await harness.states(conn) == ["succeeded"]
    assert [attempt.status for attempt in await harness.on(conn).attempts(current.id)] == [200]


async def test_a_partly_stale_batch_records_the_rest(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, *(new_job(key=key) for key in (None, "k", "l", None)))
    claimed = await harness.claim(conn, await harness.worker(conn))
    stale = [delivered(replace(job, claim=uuid4())) for job in claimed[:2]]
    assert await harness.record(conn, stale + [delivered(job) for job in claimed[2:]]) == {j.id for j in claimed[2:]}


@pytest.mark.parametrize("ending", ["recorded", "rescued"])
async def test_an_attempt_row_that_is_there_already_stops_nobody(
    harness: StoreHarness, conn: Conn, ending: str
) -> None:
    await harness.spawn(conn, new_job())
    worker = await harness.worker(conn)
    [job] = await harness.claim(conn, worker)
    await harness.record(conn, [to_be_retried(job)])
    await conn.execute("UPDATE requeuest.job SET attempts = 0")  # somebody wants it to begin anew
    [again] = await harness.claim(conn, worker)
    if ending == "rescued":
        await harness.on(conn).deregister(worker)
        assert await harness.rescue(conn) == 1
    else:
        assert await harness.record(conn, [delivered(again)]) == {job.id}
    assert await harness.states(conn) == ["available" if ending == "rescued" else "succeeded"]


async def test_an_error_with_what_postgresql_refuses_is_stored(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, new_job())
    [job] = await harness.claim(conn, await harness.worker(conn))
    nasty = Outcome(JobState.DEAD, Reached.SENT, error="\0 \ud800 \\ ' \x1b" + "x" * 10_000)
    assert await harness.record(conn, [Report(job, nasty, 0.0, 0.0)]) == {job.id}
    [attempt] = await harness.on(conn).attempts(job.id)
    assert attempt.error is not None
    assert attempt.error.startswith("\\0 \\ud800 \\ ' ")


# --- release and rescue -----------------------------------------------------------------------------------------------


async def test_release_gives_back_uncounted_and_only_what_is_named(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, *(new_job() for _ in range(4)))
    worker, stranger = await harness.worker(conn), await harness.worker(conn)
    [first], [second], [third] = [await harness.claim(conn, worker, 1) for _ in range(3)]
    [foreign] = await harness.claim(conn, stranger, 1)
    assert await harness.on(conn).release(worker, [first.claim, foreign.claim, uuid4()]) == 1
    assert await harness.on(conn).held_claims(worker) == {second.claim, third.claim}
    assert await harness.on(conn).release(worker) == 2
    assert await harness.on(conn).release(worker) == 0
    rows = await harness.rows(conn, "SELECT state::text, attempts FROM requeuest.job ORDER BY id")
    assert rows == [("available", 0)] * 3 + [("running", 1)]
    assert await value(conn, "SELECT count(*) FROM requeuest.attempt") == 0


async def test_single_jobs_are_given_back_each_under_its_own_claim(harness: StoreHarness, conn: Conn) -> None:
    """The claims in a list may be those of other jobs in it: of one an old claim, and of another the one it has now."""
    await harness.spawn(conn, *(new_job() for _ in range(3)))
    worker = await harness.worker(conn)
    old = await harness.claim(conn, worker, 2)
    await harness.on(conn).release(worker)
    [first], [second, third] = await harness.claim(conn, worker, 1), await harness.claim(conn, worker, 2)
    assert old == [replace(first, claim=old[0].claim), replace(second, claim=old[1].claim)]
    assert await harness.on(conn).release_jobs(worker, old) == 0
    assert await harness.on(conn).release_jobs(worker, [old[0], replace(second, claim=first.claim), third]) == 1
    assert await harness.states(conn) == ["running", "running", "available"]


async def test_a_process_orphans_only_its_own_jobs_of_the_claims_that_it_names(
    harness: StoreHarness, conn: Conn
) -> None:
    await harness.spawn(conn, *(new_job() for _ in range(3)))
    worker, stranger = await harness.worker(conn), await harness.worker(conn)
    [lost], [kept] = await harness.claim(conn, worker, 1), await harness.claim(conn, worker, 1)
    [foreign] = await harness.claim(conn, stranger, 1)
    assert await harness.on(conn).orphan(worker, [lost.claim, foreign.claim]) == 1
    assert await harness.rescue(conn) == 1
    rows = await harness.rows(conn, "SELECT id, state::text, attempts FROM requeuest.job ORDER BY id")
    assert rows == [(lost.id, "available", 1), (kept.id, "running", 1), (foreign.id, "running", 1)]
    assert [attempt.number for attempt in await harness.on(conn).attempts(lost.id)] == [1]


async def test_rescue_takes_from_the_lost_only_and_counts_the_attempt(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, *(new_job() for _ in range(3)))
    alive, silent, gone = [await harness.worker(conn) for _ in range(3)]
    [kept], [one], [two] = [await harness.claim(conn, worker, 1) for worker in (alive, silent, gone)]
    assert await harness.rescue(conn) == 0
    await harness.rows(conn, "UPDATE requeuest.worker SET seen_at = now() - interval '31 s' WHERE id = %s", silent)
    await harness.rows(conn, "DELETE FROM requeuest.worker WHERE id = %s", gone)
    assert await harness.rescue(conn) == 2
    rows = await harness.rows(conn, "SELECT id, state::text, attempts, error IS NULL FROM requeuest.job ORDER BY id")
    assert sorted(rows) == sorted([(kept.id, "running", 1, True), *((j.id, "available", 1, False) for j in (one, two))])
    [attempt] = await harness.on(conn).attempts(one.id)
    assert (attempt.number, attempt.reached) == (1, Reached.UNKNOWN)
    assert attempt.error is not None
    assert await harness.record(conn, [delivered(one)]) == set()
    assert await harness.rescue(conn) == 0


async def test_who_has_given_a_new_sign_is_neither_rescued_from_nor_forgotten(
    harness: StoreHarness, conn: Conn
) -> None:
    """It was lost when the rescuer looked, and is back when it acts."""
    await harness.spawn(conn, new_job())
    holding, idle = [await harness.worker(conn) for _ in range(2)]
    await harness.claim(conn, holding)
    signs = await harness.on(conn).signs_of_life()
    for worker in (holding, idle):
        await harness.on(conn).heartbeat(worker)
    assert await harness.on(conn).rescue(lost=signs) == 0
    await harness.on(conn).forget(signs)
    now = await harness.on(conn).signs_of_life()
    assert {sign.worker for sign in now} == {holding, idle}
    assert await harness.on(conn).rescue(lost=now) == 1
    await harness.on(conn).forget(now)
    assert await harness.on(conn).signs_of_life() == []


async def test_a_sign_with_any_time_in_it_can_be_compared(harness: StoreHarness, conn: Conn) -> None:
    """Another program may write what it likes there."""
    for seen_at in ("infinity", "-infinity", "294276-12-31", "4713-01-02 BC", "now"):
        worker = await harness.worker(conn)
        await harness.rows(conn, "UPDATE requeuest.worker SET seen_at = %s::timestamptz WHERE id = %s", seen_at, worker)
    await harness.rows(conn, "UPDATE requeuest.worker SET lease = '-1 year' WHERE id = %s", worker)
    signs = await harness.on(conn).signs_of_life()
    assert sorted(sign.lease for sign in signs) == [0.0, 30.0, 30.0, 30.0, 30.0]
    await harness.on(conn).forget(signs)
    assert await harness.on(conn).signs_of_life() == []


async def test_nothing_is_pruned_by_a_clock_that_is_later_than_it_can_be(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, new_job())
    [job] = await harness.claim(conn, await harness.worker(conn))
    await harness.record(conn, [delivered(job)])
    now = (await harness.on(conn).clock()).timestamp()
    assert await harness.on(conn).prune(JobState.SUCCEEDED, timedelta(0), now - 1) == 0
    assert await harness.on(conn).prune(JobState.SUCCEEDED, timedelta(0), now + 60) == 1


async def test_what_is_lost_for_the_third_time_goes_behind_the_others(harness: StoreHarness, conn: Conn) -> None:
    """It may be what its processes die of; until then it keeps its place."""
    [lost] = await harness.spawn(conn, new_job())
    others = await harness.spawn(conn, *(new_job() for _ in range(2)))
    first = []
    for _ in range(4):
        worker = await harness.worker(conn)
        [claimed] = await harness.claim(conn, worker, 1)
        first.append(claimed.id)
        await harness.rows(conn, "DELETE FROM requeuest.worker WHERE id = %s", worker)
        assert await harness.rescue(conn) == 1
    assert first[:3] == [lost] * 3
    assert first[3] in others


async def test_a_rescued_job_keeps_its_place(harness: StoreHarness, conn: Conn) -> None:
    lost, later = new_job(), new_job()
    gone = await harness.worker(conn)
    await harness.spawn(conn, lost)
    await harness.claim(conn, gone)
    await harness.spawn(conn, later)
    await harness.on(conn).deregister(gone)
    assert await harness.rescue(conn) == 1
    worker = await harness.worker(conn)
    claimed = [job.id for _ in range(2) for job in await harness.claim(conn, worker, 1)]
    assert claimed == [lost.id, later.id]


async def test_rescue_sees_past_pages_of_jobs_of_the_living(harness: StoreHarness, conn: Conn) -> None:
    alive, gone = await harness.worker(conn), uuid4()
    fill = """INSERT INTO requeuest.job (channel, method, url, state, worker, claim, claimed_at, attempts)
              SELECT 'c', 'GET', 'http://x.test/', 'running', %s, gen_random_uuid(), now(), 1
              FROM generate_series(1, %s)"""
    await harness.rows(conn, fill, alive, 5_000)
    await harness.rows(conn, fill, gone, 2_500)
    rounds = []
    while rescued := await harness.rescue(conn):
        rounds.append(rescued)
    assert rounds == [1_000, 1_000, 500]
    assert await value(conn, "SELECT count(*) FROM requeuest.job WHERE worker = %s", alive) == 5_000


async def test_two_rescuers_share(harness: StoreHarness, conn: Conn, other: Conn) -> None:
    await harness.spawn(conn, *(new_job() for _ in range(4)))
    gone = await harness.worker(conn)
    await harness.claim(conn, gone)
    await harness.on(conn).deregister(gone)
    async with conn.transaction():
        assert await harness.rescue(conn) == 4
        assert await harness.rescue(other) == 0
    assert await value(conn, "SELECT count(*) FROM requeuest.attempt") == 4


async def test_processes_long_gone_are_forgotten_once_they_hold_nothing(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, new_job())
    alive, gone, holding = [await harness.worker(conn) for _ in range(3)]
    await harness.claim(conn, holding)
    await harness.rows(conn, "UPDATE requeuest.worker SET seen_at = now() - interval '61 s' WHERE id <> %s", alive)
    assert await harness.rescue(conn) == 1
    assert await harness.rescue(conn) == 0
    assert await harness.rows(conn, "SELECT id FROM requeuest.worker") == [(alive,)]
    assert not await harness.on(conn).heartbeat(gone)
    assert await harness.on(conn).heartbeat(alive)


async def test_pruning_removes_attempts_too_and_only_what_is_old(harness: StoreHarness, conn: Conn) -> None:
    await harness.spawn(conn, *(new_job() for _ in range(4)))
    old, young, dead, _ = await harness.claim(conn, await harness.worker(conn))
    await harness.record(conn, [delivered(old), delivered(young), gave_up(dead)])
    await harness.rows(
        conn, "UPDATE requeuest.job SET finished_at = now() - interval '2 h' WHERE id IN (%s, %s)", old.id, dead.id
    )
    assert await harness.on(conn).prune(JobState.SUCCEEDED, timedelta(hours=1)) == 1
    assert await harness.states(conn) == ["succeeded", "dead", "running"]
    assert await value(conn, "SELECT count(*) FROM requeuest.attempt WHERE job_id = %s", old.id) == 0
    assert await value(conn, "SELECT count(*) FROM requeuest.attempt") == 2
    assert await harness.on(conn).prune(JobState.DEAD, timedelta(hours=1)) == 1
    assert await harness.on(conn).prune(JobState.DEAD, timedelta(0)) == 0


async def test_pruning_passes_over_what_another_transaction_has_locked(
    harness: StoreHarness, conn: Conn, other: Conn
) -> None:
    await harness.spawn(conn, new_job(), new_job())
    locked, free = await harness.claim(conn, await harness.worker(conn))
    await harness.record(conn, [delivered(locked), delivered(free)])
    async with other.transaction():
        await harness.rows(other, "SELECT FROM requeuest.job WHERE id = %s FOR UPDATE", locked.id)
        with trio.fail_after(5):
            assert await harness.on(conn).prune(JobState.SUCCEEDED, timedelta(0)) == 1
    assert await harness.on(conn).prune(JobState.SUCCEEDED, timedelta(0)) == 1


async def test_an_answer_that_nobody_waits_for_is_kept_in_part(harness: StoreHarness, conn: Conn) -> None:
    worker = await harness.worker(conn)
    await harness.spawn(conn, new_job(), new_job(awaited=True), new_job(), new_job())
    unawaited, awaited, short, since = await harness.claim(conn, worker)
    await harness.on(conn).await_job(since.id)  # while it is running
    reports = [delivered(job, body=b"x" * 50_000) for job in (unawaited, awaited, since)]
    reports.append(delivered(short, body=b"x" * 20_000))
    stale, *_ = await harness.on(conn).record(reports, now=0.0, excerpt=1_024, keep=20_000)
    assert stale == set()
    kept = await harness.rows(conn, "SELECT length(response_body), response_truncated FROM requeuest.job ORDER BY id")
    assert kept == [(20_000, True), (50_000, False), (20_000, False), (50_000, False)]
    assert await harness.rows(conn, "SELECT DISTINCT length(excerpt) FROM requeuest.attempt") == [(1_024,)]


@pytest.mark.parametrize("keep", [0, 10])
async def test_an_excerpt_may_be_longer_than_what_is_kept_of_an_answer(
    harness: StoreHarness, conn: Conn, keep: int
) -> None:
    worker = await harness.worker(conn)
    await harness.spawn(conn, new_job())
    [job] = await harness.claim(conn, worker)
    await harness.on(conn).record([delivered(job, body=b"x" * 50)], now=0.0, excerpt=40, keep=keep)
    assert await harness.rows(
        conn, "SELECT length(response_body), response_truncated, length(excerpt) FROM requeuest.job, requeuest.attempt"
    ) == [(keep, True, 40)]
