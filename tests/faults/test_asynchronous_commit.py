"""
A server that forgets what it has confirmed: `synchronous_commit=off`, and then a crash.

Spawns stay synchronous here. Forgotten outcomes are sent again, and no more than those; a forgotten claim leaves a
process sending what nobody knows it has, and whatever it reports must not count for the claim that comes after it,
though that has the same number.
"""

from uuid import UUID

import trio

from requeuest_trio import Request, open_requeuest
from requeuest_trio.testing import Arrival, Receiver, Reply, open_receiver
from tests.faults.outages import in_thread, logged, looking_at, queue_server
from tests.faults.throwaway import Throwaway

# Nothing that is not asked for is written within this test.
FORGETFUL = {"wal_writer_delay": "10s", "wal_writer_flush_after": "100MB", "checkpoint_timeout": "1h"}

RECORDS = "old.state = 'running' and new.state <> 'running'"
CLAIMS = "old.state <> 'running' and new.state = 'running'"


async def _commit_asynchronously(server: Throwaway, condition: str) -> None:
    """Let those transactions that change a job in this way be confirmed before they are on disk."""
    async with looking_at(server) as eye:
        await eye.connection.execute(
            f"""
            create function requeuest.forget() returns trigger language plpgsql as $$
            begin perform set_config('synchronous_commit', 'off', true); return new; end $$;
            create trigger forget before update on requeuest.job
            for each row when ({condition}) execute function requeuest.forget();
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
                async with looking_at(server) as eye:
                    await eye.until_true("select every(state = 'succeeded') from requeuest.job")
                    counted = dict(await eye.rows("select id, attempts from requeuest.job"))
                assert len(receiver.arrivals) <= len(counted) + len(ids)
                stored.update(ids)
    assert counted == {job_id: len(_arrivals(receiver, job_id)) for job_id in stored}


async def test_a_forgotten_claim_records_nothing_though_the_next_one_has_the_same_number() -> None:
    """One process sends for both; the first answer comes while the second attempt is under way."""

    def decide(arrival: Arrival) -> Reply:
        is_first = len(_arrivals(receiver, arrival.header("idempotency-key"))) == 1
        return Reply(delay=2.0, body=b"first") if is_first else Reply(delay=2.5, body=b"second")

    async with queue_server(FORGETFUL) as server, open_receiver() as receiver:
        receiver.decide = decide
        await _commit_asynchronously(server, CLAIMS)
        async with open_requeuest(server.dsn(), poll_interval=0.2) as client:
            sent_before = -1
            # If the log's writer has come by just now, the claim was not forgotten, and it is tried again.
            while len(receiver.arrivals) < sent_before + 2:
                sent_before = len(receiver.arrivals)
                # Later than now: what can be sent at once is stored as claimed, and that synchronously.
                job_id = await client.spawn("a", Request.get(receiver.url), delay=0.05)
                await receiver.wait_for(sent_before + 1)
                await in_thread(server.restart)
                with trio.move_on_after(1.5):
                    await receiver.wait_for(sent_before + 2)
            with logged() as log:
                assert await log.wait_for("outcomes_stale") == [{"jobs": 1}]
            async with looking_at(server) as eye:
                assert await eye.job(job_id) == ("running", 1, None)
            assert (await client.result(job_id)).content == b"second"
            [attempt] = await client.attempts(job_id)
            assert attempt.number == 1


def _arrivals(receiver: Receiver, job_id: object) -> list[Arrival]:
    return [arrival for arrival in receiver.arrivals if arrival.header("idempotency-key") == str(job_id)]
