"""
A server that forgets what it has confirmed: `synchronous_commit=off`, and then a crash.

Spawns stay synchronous here. Forgotten outcomes are sent again, and no more than those; a forgotten claim leaves a
process sending what nobody knows it has, and whatever it reports must not count for the claim that comes after it,
though that has the same number.
"""

from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import pairwise
from uuid import UUID

import pytest
import trio

from requeuest_trio import Request, open_requeuest
from requeuest_trio.testing import Arrival, Receiver, Reply, open_receiver
from tests.engine.probe import Log
from tests.faults import arrivals
from tests.faults.fault_harness import FaultHarness
from tests.faults.history import History
from tests.faults.journal import read_journal
from tests.faults.outages import in_thread, logged, looking_at, queue_server
from tests.faults.scale import scaled
from tests.throwaway import Throwaway

# Nothing that is not asked for is written within this test.
FORGETFUL = {"wal_writer_delay": "10s", "wal_writer_flush_after": "100MB", "checkpoint_timeout": "1h"}

RECORDS = "old.state = 'running' and new.state <> 'running'"
CLAIMS = "old.state <> 'running' and new.state = 'running'"

RECORDED_WITHIN = 2.0
"""An answer, also on a busy machine."""


async def _commit_asynchronously(server: Throwaway, condition: str) -> None:
    """
    Let those transactions that change a job in this way be confirmed before they are on disk.

    And beats, which would take along to the disk whatever came before them.
    """
    async with looking_at(server) as probe:
        await probe.connection.execute(
            f"""
            create function requeuest.forget() returns trigger language plpgsql as $$
            begin perform set_config('synchronous_commit', 'off', true); return new; end $$;
            create trigger forget before update on requeuest.job
            for each row when ({condition}) execute function requeuest.forget();
            create trigger forget before update on requeuest.worker
            for each row execute function requeuest.forget();
            """.encode()
        )


async def test_forgotten_outcomes_are_sent_again_and_counted() -> None:
    """By the process that has recorded them: it is still there, and does not know that it has them again."""
    stored: set[UUID] = set()
    async with queue_server(FORGETFUL) as server, open_receiver() as receiver:
        await _commit_asynchronously(server, RECORDS)
        async with open_requeuest(server.dsn(), lease=1.0, poll_interval=0.2) as client:
            # If the log's writer has come by just now, nothing was forgotten, and it is tried again.
            while len(receiver.arrivals) == len(stored):
                ids = await client.spawn_many("a", [Request.get(receiver.url)] * 20)
                for job_id in ids:
                    await client.wait(job_id)
                await in_thread(server.restart)
                async with looking_at(server) as probe:
                    await probe.until_true("select every(state = 'succeeded') from requeuest.job")
                    counted = dict(await probe.rows("select id, attempts from requeuest.job"))
                assert len(receiver.arrivals) <= len(counted) + len(ids)
                stored.update(ids)
    assert counted == {job_id: len(_arrivals(receiver, job_id)) for job_id in stored}


async def test_a_forgotten_claim_records_nothing_though_the_next_one_has_the_same_number() -> None:
    """One process sends for both; the first answer comes while the second attempt is under way."""

    def decide(arrival: Arrival) -> Reply:
        is_first = len(_arrivals(receiver, arrival.header("idempotency-key"))) == 1
        return Reply(delay=2.0, body=b"first") if is_first else Reply(delay=4.0, body=b"second")

    async with queue_server(FORGETFUL) as server, open_receiver() as receiver:
        receiver.decide = decide
        await _commit_asynchronously(server, CLAIMS)
        # From the beginning, because on a busy machine the first answer may come before the server is back.
        with logged() as log:
            await _forget_a_claim(server, receiver, log)


async def _forget_a_claim(server: Throwaway, receiver: Receiver, log: Log) -> None:
    async with open_requeuest(server.dsn(), poll_interval=0.2) as client:
        sent_before = -1
        # If the log's writer has come by just now, the claim was not forgotten, and it is tried again.
        while len(receiver.arrivals) < sent_before + 2:
            sent_before = len(receiver.arrivals)
            # Later than now: what can be sent at once is stored as claimed, and that synchronously.
            job_id = await client.spawn("a", Request.get(receiver.url), delay=0.05)
            await receiver.wait_for(sent_before + 1)
            await in_thread(server.restart)
            with trio.move_on_after(3.0):
                await receiver.wait_for(sent_before + 2)
        assert await log.wait_for("outcomes_stale") == [{"jobs": 1}]
        async with looking_at(server) as probe:
            assert await probe.job(job_id) == ("running", 1, None)
        assert (await client.result(job_id)).content == b"second"
        [attempt] = await client.attempts(job_id)
        assert attempt.number == 1


def _arrivals(receiver: Receiver, job_id: object) -> list[Arrival]:
    return [arrival for arrival in receiver.arrivals if arrival.header("idempotency-key") == str(job_id)]


# --- the same with processes of their own, under load -----------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[Throwaway]:
    async with queue_server(FORGETFUL) as running:
        yield running


@pytest.fixture
async def migrated_dsn(server: Throwaway) -> str:
    """What the harness is built on."""
    return server.dsn()


async def test_what_is_sent_again_was_recorded_in_the_last_moment_before_a_crash(
    server: Throwaway, harness: FaultHarness
) -> None:
    await _commit_asynchronously(server, RECORDS)
    await harness.start_receiver(arrivals.Answer(delay=0.01, failing=0.05))
    await _start_workers(harness)
    retry = {"initial": 0.05, "max_backoff": 0.2}
    producers = [
        await harness.start_producer(asks_again=True, pause=0.1, retry=retry, keys=keys, largest_batch=largest)
        for keys, largest in ((0, 1), (20, 3), (0, 20))
    ]
    crashes = 0
    while crashes < scaled(2, most=30) or not _logged(harness, "outcomes_lost"):
        await harness.run_for(1.0)
        await _crash(server, harness)
        crashes += 1
    for producer in producers:
        producer.terminate()
        await producer.ended()
    await harness.until_finished()
    history = await harness.must_hold()
    _check_repetitions(history)


async def test_forgotten_claims_record_nothing_and_are_all_that_is_not_counted(
    server: Throwaway, harness: FaultHarness
) -> None:
    """Nothing else is stored meanwhile, because that would take the claims before it along to the disk."""
    await _commit_asynchronously(server, f"({RECORDS}) or ({CLAIMS})")
    await _note_claims_that_record(server)
    await harness.start_receiver(arrivals.Answer(delay=0.3, failing=0.05))
    crashes = 0
    while crashes < scaled(2, most=30) or not _logged(harness, "outcomes_stale"):
        await harness.produce(jobs=300, largest_batch=100, retry={"initial": 0.05, "max_backoff": 0.2})
        if not crashes:
            await _start_workers(harness)
        await harness.run_for(1.0)
        await _crash(server, harness, uncounted=True)
        crashes += 1
    await harness.until_finished()
    history = await harness.must_hold()
    _check_repetitions(history)
    assert not await harness.ask(
        "select * from recorded join requeuest.attempt using (job_id, number) where started_at < claimed_at"
    ), "an attempt was recorded under a claim that is younger"


async def _start_workers(harness: FaultHarness) -> None:
    for _ in range(3):
        await harness.start_worker(concurrency=16, lease=2.0)


async def _crash(server: Throwaway, harness: FaultHarness, *, uncounted: bool = False) -> None:
    """Whatever has not reached the disk is gone. Each crash takes one claim of a job, and so one count, at most."""
    with harness.fault("server restarted", uncounted=uncounted):
        await in_thread(server.restart)
        [[back_at]] = await harness.ask("select now()")
        # What the workers have to find out, they find out from here on.
        await harness.until_true("select every(seen_at > %s) from requeuest.worker", back_at)


def _logged(harness: FaultHarness, event: str) -> bool:
    """Whether a worker has logged an event."""
    return any(line["event"] == event for log in harness.directory.glob("worker*.log") for line in read_journal(log))


async def _note_claims_that_record(server: Throwaway) -> None:
    """With every attempt that is recorded, when its job was claimed."""
    async with looking_at(server) as probe:
        await probe.connection.execute(
            f"""
            create table recorded (job_id uuid, number integer, claimed_at timestamptz);
            create function note() returns trigger language plpgsql as $$
            begin insert into public.recorded values (old.id, old.attempts, old.claimed_at); return null; end $$;
            create trigger note after update on requeuest.job
            for each row when ({RECORDS} and new.attempts = old.attempts) execute function note();
            """.encode()
        )


def _check_repetitions(history: History) -> None:
    """What was accepted and came again, was not yet recorded when the last spawn before a crash was stored."""
    accepted: dict[UUID, list[float]] = defaultdict(list)
    for arrival in history.arrivals:
        if arrival.status == 200:
            accepted[arrival.job].append(arrival.ended_at)
    for job_id, times in accepted.items():
        for first, second in pairwise(sorted(times)):
            crashes = [fault.at for fault in history.faults if fault.at < second]
            assert any(_last_stored_before(crash, history) < first + RECORDED_WITHIN for crash in crashes), (
                job_id, first, second, crashes
            )  # fmt: skip


def _last_stored_before(crash: float, history: History) -> float:
    """By then all that was confirmed before is on disk."""
    return max(spawn.invoked_at for spawn in history.spawns if spawn.result == "ok" and spawn.ended_at < crash)
