"""A row that can't be read as a request becomes dead with a clear error, and delays nothing else; what is odd in it and
can be read all the same is sent."""

from __future__ import annotations

import pytest
import trio

from requeuest_trio import JobState, Request, open_requeuest
from requeuest_trio.testing import open_receiver
from tests.engine.probe import open_probe
from tests.engine.store_harness import new_id, new_job, open_store_harness

DAMAGES = {
    "method unknown": "method = 'BREW'",
    "method empty": "method = ''",
    "url without a scheme": "url = 'receiver.test/hook'",
    "url of another scheme": "url = 'file:///etc/passwd'",
    "url empty": "url = ''",
    "url far too long": "url = 'http://x.test/' || repeat('x', 500000)",
    "url with a line break": "url = 'http://x.test/' || chr(10) || 'X: 1'",
    "headers no list": """headers = '{"X": "1"}'""",
    "headers null": "headers = 'null'",
    "headers a number": "headers = '7'",
    "headers nested too deeply": "headers = (repeat('[', 3000) || repeat(']', 3000))::json",
    "headers not in pairs": """headers = '[["X"]]'""",
    "headers of numbers": """headers = '[["X", 1]]'""",
    "headers with a line break": r"""headers = '[["X", "a\r\nY: b"]]'""",
    "headers with NUL": r"""headers = '[["X", "\u0000"]]'""",
    "headers with half a surrogate": r"""headers = '[["X", "\ud800"]]'""",
    "headers with what is set by the library": """headers = '[["Content-Length", "5"]]'""",
    "accepts nothing": "accept = '{}'",
    "accepts all there is": "accept = '{(,)}'",
    "accepts what is no status": "accept = '{[1000000,2000000)}'",
    "a policy of what there is not": """retry = jsonb_build_object(repeat('x', 100000), 1)""",
    "a policy with line ends": r"""retry = '{"a\n\u001b[2J": 1}'""",
    "a policy whose field is another": """retry = '{"initial": "soon"}'""",
    "a policy that is a list": """retry = '[[1, 2, 3]]'""",
    "a policy that is a text": """retry = '"often"'""",
    "a policy that is a number": "retry = '7'",
    "a policy nested too deeply": "retry = (repeat('[', 3000) || repeat(']', 3000))::jsonb",
    "a policy with a huge number": "retry = ('{\"max_attempts\": 1' || repeat('0', 5000) || '}')::jsonb",
    "a policy whose statuses are none": """retry = '{"give_up_on": [[1, 2], "x"]}'""",
    "timeout not a number": "timeout = 'NaN'",
    "timeout without end": "timeout = 'Infinity'",
    "timeout negative": "timeout = -1",
    "retry no object": "retry = '[1]'",
    "retry of text": """retry = '"often"'""",
    "retry with an unknown option": """retry = '{"how_often": 3}'""",
    "retry out of bounds": """retry = '{"max_attempts": -1}'""",
    "retry past any number": """retry = '{"initial": 1e400}'""",
}
ODD = {
    "url of a host in capitals": "url = replace(url, 'localhost', 'LOCALHOST')",
    "accepts in several parts": "accept = '{[100,200),[200,300),[404,405)}'",
    "retry null": "retry = 'null'",
    "attempts used up": "attempts = 2147483647",
    "due since ever": "due_at = '-infinity'",
    "due before Christ": "due_at = '4000-01-01 BC'",
}


async def test_damaged_rows_are_dead_and_delay_nobody(migrated_dsn: str) -> None:
    """All of them at once, each in front of healthy ones of the same channel, and with successors of the same key."""
    async with (
        open_store_harness(migrated_dsn) as harness,
        open_probe(migrated_dsn) as probe,
        open_receiver() as receiver,
    ):
        conn, request = await harness.connect(), Request.get(receiver.url)
        damaged = {}
        for what, damage in DAMAGES.items():
            jobs = [new_job("c", key=what, request=request, priority=1), new_job("c", key=what, request=request)]
            await harness.spawn(conn, *jobs)
            await harness.rows(conn, f"UPDATE requeuest.job SET {damage} WHERE id = %s", jobs[0].id)
            damaged[jobs[0].id] = what
        healthy = [new_job("c", request=request) for _ in range(20)]
        await harness.spawn(conn, *healthy)
        async with open_requeuest(migrated_dsn, ["c"], concurrency=4) as client:
            await probe.until_states(dead=len(DAMAGES), succeeded=len(healthy) + len(DAMAGES))
            for job_id, what in damaged.items():
                job = await client.job(job_id)
                assert job is not None, what
                assert (job.state, job.attempts) == (JobState.DEAD, 1), what
                assert job.error is not None, what
                column = DAMAGES[what].partition(" = ")[0]
                assert job.error.startswith(f"the stored job is damaged: {column}: "), (what, job.error)
                assert len(job.error) < 1_200, what
                assert job.error.isprintable(), what
                [attempt] = await client.attempts(job_id)
                assert (attempt.error, attempt.status) == (job.error, None), what
            assert len([job async for job in client.jobs()]) == len(healthy) + 2 * len(DAMAGES)
        assert len(receiver.arrivals) == len(healthy) + len(DAMAGES), "nothing was sent of a damaged one"


async def test_odd_rows_are_delivered(migrated_dsn: str) -> None:
    async with (
        open_store_harness(migrated_dsn) as harness,
        open_probe(migrated_dsn) as probe,
        open_receiver() as receiver,
    ):
        conn = await harness.connect()
        for what, oddity in ODD.items():
            job = new_job("c", key=what, request=Request.get(receiver.url.replace("127.0.0.1", "localhost")))
            await harness.spawn(conn, job)
            await harness.rows(conn, f"UPDATE requeuest.job SET {oddity} WHERE id = %s", job.id)
        async with open_requeuest(migrated_dsn, ["c"]):
            await probe.until_states(succeeded=len(ODD))


@pytest.mark.parametrize("due_at", ["infinity", "294000-01-01"])
async def test_a_successor_that_is_due_never_does_not_keep_its_head_from_being_finished(
    migrated_dsn: str, due_at: str
) -> None:
    """How long until then is no number that PostgreSQL 15 can tell."""
    async with (
        open_store_harness(migrated_dsn) as harness,
        open_probe(migrated_dsn) as probe,
        open_receiver() as receiver,
    ):
        conn, head, never = await harness.connect(), new_id(), new_id()
        request = Request.get(receiver.url)
        await harness.spawn(
            conn, new_job("c", "k", id=head, request=request), new_job("c", "k", id=never, request=request)
        )
        await harness.rows(conn, "UPDATE requeuest.job SET due_at = %s WHERE id = %s", due_at, never)
        async with open_requeuest(migrated_dsn, ["c"]) as client:
            with trio.fail_after(10):
                await client.result(head)
            for _ in range(3):
                await client.spawn_returning("c", request)
        assert await probe.states() == {"succeeded": 4, "available": 1}
