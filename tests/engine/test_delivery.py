"""Delivery of single jobs, with every option. Invariants: what was spawned is what arrives; each attempt leaves a row;
the answer's status decides, and a retry is due when policy and receiver say."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import trio

from requeuest_trio import (
    Attempt,
    Channel,
    InvalidRequest,
    Job,
    JobDead,
    JobState,
    Reached,
    Request,
    RetryPolicy,
    StatusClass,
    open_requeuest,
)
from requeuest_trio._store.reading import job_from_row
from requeuest_trio.testing import Receiver, Reply, Reset, Stall
from tests.engine.probe import QueueProbe

QUICK = RetryPolicy(initial=0.01, jitter=0.0, max_attempts=5)


async def test_every_option_in_all_three_ways_to_spawn(probe: QueueProbe, receiver: Receiver) -> None:
    options: dict[str, Any] = {
        "delay": timedelta(milliseconds=50),
        "priority": 3,
        "ordering_key": "k",
        "timeout": 9,
        "retry": QUICK,
    }
    ids = [uuid4() for _ in range(4)]
    at = datetime.now(UTC) - timedelta(days=1)
    async with open_requeuest(probe.dsn) as client:
        assert await client.spawn("c", Request.get(receiver.url + "/0"), job_id=ids[0], **options) == ids[0]
        many = [Request.get(f"{receiver.url}/{n}") for n in (1, 2)]
        assert await client.spawn_many("c", many, job_id=ids[1:3], **options) == ids[1:3]
        response = await client.spawn_returning("c", Request.get(receiver.url + "/3"), job_id=ids[3], **options)
        assert response.status_code == 200
        assert [arrival.target for arrival in receiver.arrivals] == ["/0", "/1", "/2", "/3"]
        past = await client.spawn("c", Request.get(receiver.url), at=at)
        await client.result(past)
        job = await client.job(past)
        assert job is not None
        assert job.due_at == at
        for job_id in ids:
            job = await client.job(job_id)
            assert job is not None
            assert (job.priority, job.ordering_key, job.attempts, job.request.timeout) == (3, "k", 1, 9.0)
            assert timedelta(milliseconds=40) < job.due_at - job.created_at < timedelta(milliseconds=60)
        assert await client.spawn_many("c", []) == []
    retries = await probe.rows("SELECT DISTINCT retry ->> 'max_attempts' FROM requeuest.job WHERE priority = 3")
    assert retries == [("5",)]


async def test_a_delay_is_kept(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_requeuest(probe.dsn, poll_interval=600) as client:
        began = trio.current_time()
        await client.spawn_returning("c", Request.get(receiver.url), delay=0.3)
        soon = datetime.now(UTC) + timedelta(seconds=0.2)
        await client.spawn_returning("c", Request.get(receiver.url), at=soon)
        assert receiver.arrivals[0].at - began >= 0.3
        assert datetime.now(UTC) >= soon


ACCEPTED: list[tuple[Any, int]] = [
    (StatusClass.SUCCESS, 204),
    (StatusClass.REDIRECTION, 302),
    (StatusClass.CLIENT_ERROR, 418),
    (StatusClass.SERVER_ERROR, 599),
    (404, 404),
    (range(400, 405), 404),
    ([StatusClass.SUCCESS, 409, range(500, 502)], 501),
]


async def test_accepted_statuses(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_requeuest(probe.dsn) as client:
        for accept, status in ACCEPTED:
            receiver.script(Reply(599 if status != 599 else 200), Reply(status))
            response = await client.spawn_returning("c", Request.post(receiver.url, accept=accept), retry=QUICK)
            assert response.status_code == status
    assert len(receiver.arrivals) == 2 * len(ACCEPTED)


async def test_attempts_tell_everything(probe: QueueProbe, receiver: Receiver) -> None:
    # A used connection that is reset would be taken for one that was closed for being idle, and the request sent anew.
    busy = Reply(503, (("Connection", "close"),), body=b"no " * 1_000)
    receiver.script(busy, Reset(), Stall(), Reply(200, body=b"yes", delay=0.05))
    async with open_requeuest(probe.dsn) as client:
        job_id = await client.spawn("c", Request.post(receiver.url, json={"a": 1}), retry=QUICK, timeout=0.2)
        await client.result(job_id)
        attempts = await client.attempts(job_id)
    assert [attempt.number for attempt in attempts] == [1, 2, 3, 4]
    assert [attempt.reached for attempt in attempts] == [Reached.RESPONSE, Reached.SENT, Reached.SENT, Reached.RESPONSE]
    assert [attempt.status for attempt in attempts] == [503, None, None, 200]
    assert attempts[0].error == "status 503 is not accepted"
    assert attempts[2].error is not None
    assert attempts[2].error.startswith("timed out after 0.2 s")
    assert attempts[3].error is None
    assert [attempt.excerpt for attempt in attempts] == [(b"no " * 1_000)[:1_024], b"", b"", b"yes"]
    assert 0.2 <= attempts[2].duration < 2
    assert attempts[3].duration >= 0.05
    for before, after in itertools.pairwise(attempts):
        assert before.retry_at is not None
        assert before.started_at < before.retry_at <= after.started_at
    assert attempts[3].retry_at is None


async def test_an_idempotency_key_is_the_same_in_all_attempts(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(Reply(500), Reply(500), target="/own")
    receiver.script(Reply(500), Reply(500), target="/ours")
    async with open_requeuest(probe.dsn) as client:
        own = Request.post(receiver.url + "/own", headers={"idempotency-key": "mine"})
        ours = await client.spawn("c", Request.post(receiver.url + "/ours"), retry=QUICK)
        await client.spawn_returning("c", own, retry=QUICK)
        await client.result(ours)
    keys = {
        target: [
            value
            for arrival in receiver.arrivals
            if arrival.target == target
            for name, value in arrival.headers
            if name.lower() == "idempotency-key"
        ]
        for target in ("/own", "/ours")
    }
    assert keys == {"/own": ["mine"] * 3, "/ours": [str(ours)] * 3}


def due_in(attempt: Attempt) -> float:
    assert attempt.retry_at is not None
    return (attempt.retry_at - attempt.started_at).total_seconds()


FIFTY = RetryPolicy(initial=50, jitter=0)
DUE: list[tuple[str | None, RetryPolicy, float, float]] = [
    (None, FIFTY, 50, 52),
    ("120", RetryPolicy(), 120, 134),
    ("120", RetryPolicy(respect_retry_after=False, initial=5), 4.5, 8),
    ("1", FIFTY, 50, 52),
    ("999999", RetryPolicy(max_backoff=300), 300, 302),
    ("date", RetryPolicy(jitter=0), 97, 102),
    ("rubbish", FIFTY, 50, 52),
    ("-5", FIFTY, 50, 52),
]


async def test_when_the_next_attempt_is_due(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_requeuest(probe.dsn) as client:
        for number, (retry_after, policy, least, most) in enumerate(DUE):
            date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
            value = date if retry_after == "date" else retry_after
            receiver.script(Reply(429, headers=() if value is None else (("Retry-After", value),)))
            job_id = await client.spawn("c", Request.get(receiver.url), retry=policy)
            await probe.until_true("SELECT count(*) > %s FROM requeuest.attempt", number)
            job = await client.job(job_id)
            [attempt] = await client.attempts(job_id)
            assert job is not None
            assert (job.state, job.due_at, job.finished_at) == (JobState.AVAILABLE, attempt.retry_at, None)
            assert least <= due_in(attempt) <= most, (retry_after, policy)


async def test_waits_double(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(*[Reply(500)] * 4)
    async with open_requeuest(probe.dsn) as client:
        policy = RetryPolicy(initial=0.05, jitter=0, max_backoff=0.2)
        job_id = await client.spawn("c", Request.get(receiver.url), retry=policy)
        await client.result(job_id)
        attempts = await client.attempts(job_id)
    for attempt, wait in zip(attempts, (0.05, 0.1, 0.2, 0.2), strict=False):
        assert wait <= due_in(attempt) < wait + 0.5


@pytest.mark.parametrize(
    ("policy", "attempts", "error"),
    [
        (RetryPolicy(give_up_on=[StatusClass.CLIENT_ERROR]), 1, "status 404 is not accepted, and means giving up"),
        (RetryPolicy(max_attempts=1), 1, "status 404 is not accepted; no attempts are left"),
        (RetryPolicy(max_attempts=3, initial=0.01), 3, "status 404 is not accepted; no attempts are left"),
    ],
)
async def test_giving_up(probe: QueueProbe, receiver: Receiver, policy: RetryPolicy, attempts: int, error: str) -> None:
    receiver.decide = lambda _: Reply(404, body=b"gone")
    async with open_requeuest(probe.dsn) as client:
        job_id = await client.spawn("c", Request.get(receiver.url), retry=policy)
        with pytest.raises(JobDead):
            await client.result(job_id)
        job = await client.job(job_id)
        assert job is not None
        assert (job.attempts, job.error, job.status, job.response) == (attempts, error, 404, None)
        assert len(await client.attempts(job_id)) == attempts
    assert len(receiver.arrivals) == attempts


async def test_the_default_policy_keeps_trying_for_years() -> None:
    assert RetryPolicy().max_attempts == 100_001


async def test_a_damaged_row_is_dead_and_stops_nobody(probe: QueueProbe, receiver: Receiver) -> None:
    nested = (
        "[" * 4_000 + "]" * 4_000
    )  # PostgreSQL takes no more; Python's parser gives up at 1,000, from 3.13 at 10,000
    try:
        json.loads(nested)
        too_deep = "headers: must be a list of pairs"
    except RecursionError:
        too_deep = "nested"
    damages = {
        "method = 'BREW'": "method",
        "url = 'ftp://x/'": "url",
        "headers = '{\"a\": 1}'": "headers",
        "headers = '[[\"a\", 1]]'": "headers",
        f"headers = '{nested}'": too_deep,
        "accept = '{}'": "accept",
        "accept = '{(,)}'": "",
        "timeout = -1": "timeout",
        "timeout = 'NaN'": "timeout",
        "retry = '[1]'": "",
        'retry = \'{"initial": "x"}\'': "initial",
    }
    async with open_requeuest(probe.dsn, (), poll_interval=0.1) as client:
        for damage in damages:
            job_id = await client.spawn("c", Request.get(receiver.url), ordering_key="k")
            await probe.connection.execute(f"UPDATE requeuest.job SET {damage} WHERE id = %s".encode(), [job_id])
        last = await client.spawn("c", Request.get(receiver.url), ordering_key="k")
        async with open_requeuest(probe.dsn):
            with trio.fail_after(10):
                await client.result(last)
        jobs = [job async for job in client.jobs(state=JobState.DEAD)]
    assert len(jobs) == len(damages)
    for job, word in zip(sorted(jobs, key=lambda job: job.created_at), damages.values(), strict=True):
        assert job.error is not None
        assert job.error.startswith("the stored job is damaged: ")
        assert word in job.error
    assert len(receiver.arrivals) == 1


# --- reading the queue ------------------------------------------------------------------------------------------------


async def test_jobs_of_an_empty_queue(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, ()) as client:
        assert [job async for job in client.jobs()] == []
        assert (await client.stats()).channels == {}
        assert await client.job(uuid4()) is None


async def test_jobs_are_filtered_and_come_in_pages(probe: QueueProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("requeuest_trio._client._PAGE", 7)
    request = Request.get("http://x.test/")
    async with open_requeuest(probe.dsn, ()) as client:
        ids = await client.spawn_many("a", [request] * 21)
        keyed = await client.spawn_many("b", [request] * 3, ordering_key="k")
        late = await client.spawn("b", request, delay=60)
        everything = [job.id async for job in client.jobs()]
        assert everything == sorted([*ids, *keyed, late])
        assert {job.id async for job in client.jobs(channel="b")} == {*keyed, late}
        assert {job.id async for job in client.jobs(state=JobState.BLOCKED)} == set(keyed[1:])
        assert {job.id async for job in client.jobs(ordering_key="k", state=JobState.AVAILABLE)} == {keyed[0]}
        assert [job async for job in client.jobs(channel="nobody")] == []
        stats = await client.stats()
        assert stats.channels == {
            "a": {JobState.AVAILABLE: 21},
            "b": {JobState.AVAILABLE: 2, JobState.BLOCKED: 2},
        }
        assert (stats.count(JobState.AVAILABLE), stats.count(JobState.DEAD), stats.running) == (23, 0, 0)


async def test_a_job_is_made_of_its_row_when_its_turn_comes(probe: QueueProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of large ones, made in one step, would hold up whatever else runs here."""
    made = 0

    def counted(row: Sequence[Any]) -> Job:
        nonlocal made
        made += 1
        return job_from_row(row)

    monkeypatch.setattr("requeuest_trio._store.reading.job_from_row", counted)
    async with open_requeuest(probe.dsn, ()) as client:
        await client.spawn_many("a", [Request.get("http://x.test/")] * 9)
        turns = [made async for _ in client.jobs()]
    assert turns == list(range(1, 10))


async def test_a_key_on_an_ordered_channel_is_refused_where_that_is_known(
    probe: QueueProbe, receiver: Receiver
) -> None:
    request = Request.get(receiver.url)
    async with open_requeuest(probe.dsn, (), poll_interval=0.1) as stranger:
        async with open_requeuest(probe.dsn, [Channel("ledger", ordered=True)]) as client:
            with pytest.raises(InvalidRequest, match="ordering_key: channel 'ledger' is ordered as a whole"):
                await client.spawn("ledger", request, ordering_key="k")
            await client.spawn("another", request, ordering_key="k")
        ids = [await stranger.spawn("ledger", request) for _ in range(3)]
        ids += await stranger.spawn_many("ledger", [request] * 2)
        assert await probe.states() == {"available": 2, "blocked": 4}
        async with open_requeuest(probe.dsn, ["ledger"]):
            await stranger.result(ids[-1])
    assert max(arrival.in_flight for arrival in receiver.arrivals) == 1


async def test_the_response_has_the_last_url(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(Reply(302, headers=(("Location", "/there?x=1"),)), Reply(200))
    async with open_requeuest(probe.dsn) as client:
        response = await client.spawn_returning("c", Request.get(receiver.url + "/here", follow_redirects=True))
    assert str(response.url) == receiver.url + "/there?x=1"
    assert ":url" not in response.headers


@pytest.mark.parametrize("field", [(b"a\0b", b"x"), (b"a", b"x\0y"), (b"a\r\nb", b"\xff"), (b"", b"")])
async def test_fields_that_no_answer_can_have_lose_nothing(probe: QueueProbe, field: tuple[bytes, bytes]) -> None:
    """A transport of the caller's may give them: they are kept as they are, and the answer with them."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=[field], content=b"kept"))
    async with open_requeuest(probe.dsn, http=transport) as client:
        response = await client.spawn_returning("c", Request.post("http://h/"), retry=QUICK)
    assert (response.status_code, response.content) == (200, b"kept")
    assert field in response.headers.raw
    assert await probe.value("select count(*) from requeuest.attempt") == 1
