"""
A receiver that fails is in the log long before the first job is given up, and so is its recovery.

What could go wrong: silence until `job_dead`; a line for each attempt; a secret of the URL in the line; attempts that
say nothing about the receiver (damaged rows, lost leases) counted against it.
"""

from requeuest_trio import JobState, Request, RetryPolicy, open_requeuest
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import Log, QueueProbe

QUICK = RetryPolicy(initial=0.01, max_backoff=0.02)


async def test_failing_and_recovery_are_told_once(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    receiver.decide = lambda _: Reply(200 if log.fields("origin_failing") else 503)
    async with open_requeuest(probe.dsn) as client:
        await client.spawn_returning("a", Request.get(receiver.url + "/s3cret?token=s3cret"), retry=QUICK)
    [failing] = log.fields("origin_failing")
    assert failing["origin"] == receiver.url
    assert failing["failures"] >= 3
    assert failing["error"] == "status 503 is not accepted"
    [recovered] = log.fields("origin_recovered")
    assert recovered["origin"] == receiver.url
    assert recovered["failures"] >= failing["failures"]
    assert recovered["failed_for"] >= 1.0
    assert not [record for record in log.records if "s3cret" in record.getMessage()]


async def test_it_is_told_before_a_job_is_given_up(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    receiver.decide = lambda _: Reply(500)
    async with open_requeuest(probe.dsn) as client:
        job_id = await client.spawn(
            "a", Request.get(receiver.url), retry=RetryPolicy(max_attempts=5, initial=0.01, max_backoff=0.01)
        )
        assert (await client.wait(job_id)).state is JobState.DEAD
    # Whoever waits may read the job before the recorder has its answer.
    told = [record.__dict__.get("event") for record in log.records]
    assert told.index("origin_failing") < told.index("job_dead")


async def test_a_damaged_row_says_nothing_about_a_receiver(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    async with open_requeuest(probe.dsn, concurrency=1, poll_interval=0.05):
        for _ in range(5):
            await probe.connection.execute(
                "insert into requeuest.job (channel, method, url, headers) values ('a', 'GET', %s, '[[1, 2]]')",
                [receiver.url],
            )
        await probe.until_states(dead=5)
    assert log.fields("origin_failing") == []
