"""What the Rust crate requeuest does works here: a test for each point of its interface, named after it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import httpx2
import pytest
import trio

from requeuest_trio import ALL, Channel, JobState, Request, RetryPolicy, StatusClass, migrate, open_requeuest
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import QueueProbe, nothing_left


async def test_migrate(dsn: str) -> None:
    assert (await migrate(dsn))[0] == "0001_queue.up"
    async with open_requeuest(dsn, ()) as client:
        await client.spawn("mail", Request.get("http://x.test/"))


@pytest.mark.parametrize("channels", [ALL, ["mail", "sms"]], ids=["all", "a list"])
async def test_client_on_all_channels_or_a_list(probe: QueueProbe, receiver: Receiver, channels: Any) -> None:
    async with open_requeuest(probe.dsn, channels, poll_interval=0.1) as client:
        await client.spawn_returning("mail", Request.get(receiver.url))
        await client.spawn_returning("sms", Request.get(receiver.url))
        other = await client.spawn("other", Request.get(receiver.url))
        if channels is ALL:
            await client.result(other)
        else:
            await client.spawn_returning("mail", Request.get(receiver.url), delay=0.3)
            assert await probe.job(other) == ("available", 0, None)


async def test_spawn(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_requeuest(probe.dsn) as client:
        job_id = await client.spawn("mail", Request.post(receiver.url + "/hook", content=b"hello"))
        [arrival] = await receiver.wait_for(1)
        await probe.until_states(succeeded=1)
    assert (arrival.method, arrival.target, arrival.body) == ("POST", "/hook", b"hello")
    assert arrival.header("Idempotency-Key") == str(job_id)


OPTIONS: dict[str, dict[str, Any]] = {
    "retries": {"retry": RetryPolicy(max_attempts=3, initial=0.01)},
    "backoff": {"retry": RetryPolicy(initial=timedelta(milliseconds=10), multiplier=3, max_backoff=1)},
    "ordered": {"ordering_key": "k", "retry": RetryPolicy(initial=0.01)},
    "delay": {"delay": timedelta(seconds=0.1), "retry": RetryPolicy(initial=0.01)},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("returning", [False, True], ids=["spawn", "spawn_returning"])
async def test_spawn_and_spawn_returning_with_options(
    probe: QueueProbe, receiver: Receiver, option: str, returning: bool
) -> None:
    receiver.script(Reply(500), Reply(200, body=b"answer"))
    request = Request.put(
        receiver.url, content=b"x", headers=[("Authorization", "Bearer t"), ("X-A", "1"), ("X-A", "2")]
    )
    async with open_requeuest(probe.dsn) as client:
        if returning:
            response = await client.spawn_returning("mail", request, **OPTIONS[option])
        else:
            response = await client.result(await client.spawn("mail", request, **OPTIONS[option]))
    assert response.content == b"answer"
    assert len(receiver.arrivals) == 2
    for arrival in receiver.arrivals:
        sent = [(name.lower(), value) for name, value in arrival.headers]
        assert [pair for pair in sent if pair[0] in {"authorization", "x-a"}] == [
            ("authorization", "Bearer t"), ("x-a", "1"), ("x-a", "2"),
        ]  # fmt: skip


async def test_spawn_returning(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(Reply(201, headers=(("X-Answer", "1"),), body=b'{"a": 1}'))
    async with open_requeuest(probe.dsn) as client:
        response = await client.spawn_returning("mail", Request.get(receiver.url))
    assert isinstance(response, httpx2.Response)
    assert (response.status_code, response.headers["x-answer"], response.json()) == (201, "1", {"a": 1})


@pytest.mark.parametrize("channels", [ALL, ["mail"]], ids=["all", "a list"])
async def test_clear_channels_or_all_and_the_queue_works_afterwards(
    probe: QueueProbe, receiver: Receiver, channels: Any
) -> None:
    async with open_requeuest(probe.dsn, [Channel("mail", ordered=True), "sms"]) as client:
        for channel in ("mail", "sms"):
            await client.spawn_many(channel, [Request.get(receiver.url + "/cleared")] * 3, delay=60)
        assert await client.clear(channels) == (6 if channels is ALL else 3)
        with trio.fail_after(5):
            await client.spawn_returning("mail", Request.get(receiver.url))
            await client.spawn_returning("sms", Request.get(receiver.url))
    assert [arrival.target for arrival in receiver.arrivals] == ["/", "/"]


@pytest.mark.parametrize(
    ("accept", "status"),
    [(list(StatusClass), 500), (StatusClass.REDIRECTION, 302), (410, 410), ([404, range(500, 504)], 503)],
    ids=["classes", "a class", "a code", "a range"],
)
async def test_accepted_statuses(probe: QueueProbe, receiver: Receiver, accept: Any, status: int) -> None:
    receiver.script(Reply(status, headers=(("Location", "/elsewhere"),)))
    async with open_requeuest(probe.dsn) as client:
        response = await client.spawn_returning("mail", Request.post(receiver.url, accept=accept))
    assert response.status_code == status
    assert len(receiver.arrivals) == 1, "a redirect that is accepted is not followed"


async def test_builders(probe: QueueProbe, receiver: Receiver) -> None:
    plain = (Request.get, Request.head, Request.delete, Request.options)
    with_body = (Request.post, Request.put, Request.patch)
    async with open_requeuest(probe.dsn) as client:
        for make in plain:
            await client.spawn_returning("mail", make(receiver.url + "/a", params={"q": "1 2"}))
        for make in with_body:
            await client.spawn_returning("mail", make(receiver.url + "/a", json={"n": 1}))
    assert [arrival.method for arrival in receiver.arrivals] == [
        "GET",
        "HEAD",
        "DELETE",
        "OPTIONS",
        "POST",
        "PUT",
        "PATCH",
    ]
    assert {arrival.target.replace("+", "%20") for arrival in receiver.arrivals[:4]} == {"/a?q=1%202"}
    assert {arrival.body for arrival in receiver.arrivals[4:]} == {b'{"n":1}'}


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_conversion_from_the_ecosystems_request(probe: QueueProbe, receiver: Receiver, library: Any) -> None:
    theirs = library.Request("POST", receiver.url + "/a?b=1", headers={"Authorization": "t"}, json={"n": 1})
    async with open_requeuest(probe.dsn) as client:
        await client.spawn_returning("mail", Request.from_httpx(theirs))
    [arrival] = receiver.arrivals
    assert (arrival.method, arrival.target, arrival.body) == ("POST", "/a?b=1", theirs.content)
    assert arrival.header("authorization") == "t"
    assert arrival.header("content-type") == "application/json"


async def test_the_runner_ends_with_its_scope(probe: QueueProbe, receiver: Receiver) -> None:
    async with nothing_left(probe):
        async with open_requeuest(probe.dsn) as client:
            await client.spawn_returning("mail", Request.get(receiver.url))
        async with open_requeuest(probe.dsn, ()) as client:
            after = await client.spawn("mail", Request.get(receiver.url))
    assert (await probe.job(after))[0] == JobState.AVAILABLE
    assert len(receiver.arrivals) == 1
