"""Waiting for outcomes. Invariants: whoever waits is told, whichever hint is lost; a waiter owns nothing, so leaving it
changes nothing; the response is the same for everybody, at any time."""

from __future__ import annotations

import gzip
import json
import random
import sys
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import trio

from requeuest_trio import (
    Client,
    DatabaseUnavailable,
    JobDead,
    JobNotFound,
    JobState,
    Request,
    RetryPolicy,
    open_requeuest,
)
from requeuest_trio._config import Config
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import QueueProbe
from tests.http.hostile import raw_server, read_head
from tests.proxy import open_proxy
from tests.waiting import until

NEVER = 600.0


def waiting(client: Client) -> int:
    return sum(len(events) for events in client._waiters._waiting.values())


async def until_waiting(probe: QueueProbe, client: Client, number: int = 1) -> None:
    await probe.until_true("SELECT coalesce(bool_and(awaited), false) FROM requeuest.job")
    await until(lambda: waiting(client) == number and client._database._pool.statistics().in_use == 0)


REPLY = Reply(201, headers=(("X-A", "1"), ("x-a", "2"), ("Set-Cookie", "é")), body=bytes(range(256)))


def assert_reply(response: object) -> None:
    from requeuest_trio._model.ecosystem import Response

    assert isinstance(response, Response)
    assert (response.status_code, response.content) == (201, REPLY.body)
    assert [pair for pair in response.headers.raw if pair[0].lower() != b"content-length"] == [
        (b"X-A", b"1"), (b"x-a", b"2"), (b"Set-Cookie", b"\xe9"),
    ]  # fmt: skip
    assert response.extensions["truncated"] is False


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
@pytest.mark.parametrize("notifications", [True, False])
async def test_here_in_another_client_and_after_a_restart(
    probe: QueueProbe, receiver: Receiver, notifications: bool
) -> None:
    """Every client finds out in its own way: here by the recorder, elsewhere by notification, or else by polling."""
    receiver.decide = lambda _: REPLY
    config = Config(notifications=notifications)
    interval = NEVER if notifications else 0.1
    with trio.fail_after(20):
        async with open_requeuest(probe.dsn, (), poll_interval=interval, config=config) as elsewhere:
            job_id = await elsewhere.spawn("c", Request.get(receiver.url))
            async with trio.open_nursery() as nursery:

                async def wait_elsewhere() -> None:
                    assert_reply(await elsewhere.result(job_id))

                for _ in range(20):
                    nursery.start_soon(wait_elsewhere)
                await until_waiting(probe, elsewhere, 20)
                async with open_requeuest(probe.dsn, poll_interval=interval, config=config) as here:
                    assert_reply(await here.result(job_id))
                    assert_reply(await here.spawn_returning("d", Request.get(receiver.url)))
            assert waiting(elsewhere) == waiting(here) == 0
        async with open_requeuest(probe.dsn, (), poll_interval=NEVER) as later:
            assert_reply(await later.result(job_id))
            job = await later.wait(job_id)
            assert (job.state, job.is_finished, job.status) == (JobState.SUCCEEDED, True, 201)


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_in_another_process(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.decide = lambda _: REPLY
    code = """
import json, sys, uuid, trio
from requeuest_trio import open_requeuest
async def main(dsn, job_id):
    async with open_requeuest(dsn, (), poll_interval=600) as client:
        response = await client.result(uuid.UUID(job_id))
        print(json.dumps([response.status_code, response.content.hex(), len(response.headers.raw)]))
trio.run(main, *sys.argv[1:])
"""
    async with open_requeuest(probe.dsn, ()) as client, trio.open_nursery() as nursery:
        job_id = await client.spawn("c", Request.get(receiver.url))
        outputs: list[bytes] = []
        ended = trio.Event()

        async def wait_there() -> None:
            process = await trio.run_process([sys.executable, "-c", code, probe.dsn, str(job_id)], capture_stdout=True)
            outputs.append(process.stdout)
            ended.set()

        nursery.start_soon(wait_there)
        await probe.until_true("SELECT awaited FROM requeuest.job")
        with trio.fail_after(20):
            async with open_requeuest(probe.dsn, poll_interval=NEVER):
                await ended.wait()
    assert json.loads(outputs[0]) == [201, REPLY.body.hex(), 4]


async def test_leaving_a_wait_leaves_the_job(probe: QueueProbe) -> None:
    """Its attempt is under way meanwhile, and goes on."""
    job_id, asked, all_have_left = uuid4(), trio.Event(), trio.Event()

    async def answer_late(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        asked.set()
        await all_have_left.wait()
        await stream.send_all(b"HTTP/1.1 201 \r\nContent-Length: 0\r\n\r\n")

    async with raw_server(answer_late) as server, open_requeuest(probe.dsn, poll_interval=0.1) as client:
        for call in (
            partial(client.spawn_returning, "c", Request.get(server.url), job_id=job_id),
            partial(client.result, job_id),
            partial(client.wait, job_id),
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await asked.wait()
                await until(lambda: waiting(client) == 1)
                nursery.cancel_scope.cancel()
            assert nursery.cancel_scope.cancelled_caught
        assert waiting(client) == 0
        all_have_left.set()
        assert (await client.result(job_id)).status_code == 201
        assert (await client.wait(job_id)).attempts == 1


async def test_dead_jobs_raise_with_the_job(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.decide = lambda _: Reply(404)
    async with open_requeuest(probe.dsn, poll_interval=NEVER) as client:
        with pytest.raises(JobDead, match=r"is dead after 1 attempt\(s\): status 404 is not accepted") as caught:
            await client.spawn_returning("c", Request.get(receiver.url), retry=RetryPolicy(give_up_on=404))
        job = caught.value.job
        assert (job.state, job.status, job.attempts, job.response) == (JobState.DEAD, 404, 1, None)
        assert (await client.wait(job.id)).state is JobState.DEAD
        with pytest.raises(JobDead):
            await client.result(job.id)


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("notifications", [True, False])
async def test_a_job_that_is_cleared_meanwhile(probe: QueueProbe, key: str | None, notifications: bool) -> None:
    config = Config(notifications=notifications)
    async with open_requeuest(probe.dsn, (), poll_interval=NEVER if notifications else 0.1, config=config) as client:
        job_id = await client.spawn("c", Request.get("http://x.test/"), ordering_key=key)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:

                async def result() -> None:
                    with pytest.raises(JobNotFound, match=str(job_id)):
                        await client.result(job_id)

                nursery.start_soon(result)
                await until_waiting(probe, client)
                assert await client.clear(["c"]) == 1
        with pytest.raises(JobNotFound):
            await client.wait(job_id)
        with pytest.raises(JobNotFound):
            await client.result(uuid4())


async def test_a_client_that_is_closed_ends_its_waits(probe: QueueProbe) -> None:
    ended: list[type] = []

    async def wait(client: Client) -> None:
        try:
            await client.wait(job_id)
        except trio.ClosedResourceError:
            ended.append(trio.ClosedResourceError)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, open_requeuest(probe.dsn, ()) as client:
            job_id = await client.spawn("c", Request.get("http://x.test/"))
            nursery.start_soon(wait, client)
            nursery.start_soon(wait, client)
            await until_waiting(probe, client, 2)
    assert ended == [trio.ClosedResourceError] * 2
    with pytest.raises(trio.ClosedResourceError):
        await client.wait(job_id)


async def test_an_outage_during_a_wait_is_survived(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_proxy(probe.dsn) as proxy:
        config = Config(connect_timeout=0.5)
        async with open_requeuest(proxy.dsn, (), poll_interval=0.1, config=config) as client:
            job_id = await client.spawn("c", Request.get(receiver.url))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.result, job_id)
                await until_waiting(probe, client)
                proxy.cut()
                async with open_requeuest(probe.dsn, poll_interval=NEVER) as worker:
                    await worker.result(job_id)
            proxy.freeze()
            proxy.cut()
            with trio.fail_after(10), pytest.raises(DatabaseUnavailable):
                await client.wait(job_id)
            proxy.thaw()
            await client.wait(job_id)


async def test_bodies_of_all_kinds(probe: QueueProbe, receiver: Receiver) -> None:
    text = b"hello " * 1_000
    receiver.script(
        Reply(200, body=b""),
        Reply(200, body=b"x" * 5_000),
        Reply(200, headers=(("Content-Encoding", "gzip"),), body=gzip.compress(text[:3_000])),
        Reply(200, body=b"x" * 100, body_sent=40),
        Reply(204, body=b""),
    )
    async with open_requeuest(probe.dsn, concurrency=1, config=Config(max_response_body=4_000)) as client:
        results = [await client.spawn_returning("c", Request.post(receiver.url, content=b"")) for _ in range(5)]
        again = [await client.result(job.id) async for job in client.jobs()]
    seen = [(response.status_code, response.content, response.extensions["truncated"]) for response in results]
    assert seen == [
        (200, b"", False),
        (200, b"x" * 4_000, True),
        (200, text[:3_000], False),
        (200, b"x" * 40, True),
        (204, b"", False),
    ]
    assert "content-encoding" not in results[2].headers
    assert sorted(response.content for response in again) == sorted(response.content for response in results)


async def test_who_waits_gets_a_large_answer_whole_and_who_comes_later_what_was_kept(
    probe: QueueProbe, receiver: Receiver
) -> None:
    body = random.Random(1).randbytes(500_000)
    receiver.decide = lambda _: Reply(200, body=body)
    async with open_requeuest(probe.dsn) as client:
        waited = await client.spawn_returning("a", Request.get(receiver.url))
        assert (waited.content, waited.extensions["truncated"]) == (body, False)
        later = await client.spawn("a", Request.get(receiver.url))
        await probe.until_states(succeeded=2)
        kept = await client.result(later)
        assert (kept.content, kept.extensions["truncated"]) == (body[:20_000], True)


async def test_who_begins_to_wait_during_an_attempt_gets_a_large_answer_whole(probe: QueueProbe) -> None:
    asked, may_answer, body = trio.Event(), trio.Event(), b"x" * 500_000

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        asked.set()
        await may_answer.wait()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + body)

    async with open_requeuest(probe.dsn) as client, trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        host, port = listener.socket.getsockname()
        job_id = await client.spawn("a", Request.get(f"http://{host}:{port}/"))
        await asked.wait()
        async with trio.open_nursery() as waiters:

            @waiters.start_soon
            async def _() -> None:
                response = await client.result(job_id)
                assert (response.content, response.extensions["truncated"]) == (body, False)

            await until_waiting(probe, client)
            may_answer.set()
        nursery.cancel_scope.cancel()


async def test_a_new_job_is_waited_for_without_a_question(probe: QueueProbe, receiver: Receiver) -> None:
    """It was stored as awaited, and who stored it was registered before."""
    receiver.decide = lambda _: REPLY
    config = Config(notifications=False)
    async with open_proxy(probe.dsn) as proxy, open_requeuest(proxy.dsn, poll_interval=NEVER, config=config) as client:
        with trio.fail_after(20):
            assert_reply(await client.spawn_returning("c", Request.get(receiver.url)))
            assert not proxy.used_for("await_job", "job")
            job_id = await client.spawn("c", Request.get(receiver.url))
            assert_reply(await client.result(job_id))
        assert proxy.used_for("await_job")


async def test_an_id_of_ones_own_may_be_of_a_finished_job(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.decide = lambda _: REPLY
    request = Request.get(receiver.url)
    async with open_requeuest(probe.dsn, poll_interval=NEVER) as client:
        job_id = await client.spawn("c", request)
        await client.wait(job_id)
        with trio.fail_after(20):
            assert_reply(await client.spawn_returning("c", request, job_id=job_id))
    assert len(receiver.arrivals) == 1


@pytest.mark.parametrize(
    "reply",
    [
        REPLY,
        Reply(204),
        Reply(200, body=gzip.compress(b"x" * 100_000), headers=(("Content-Encoding", "gzip"),)),
        Reply(200, body=b"x" * 3_000_000),
        Reply(200, body="ä€".encode("utf-16"), headers=(("Content-Type", "text/plain; charset=utf-16"),)),
        Reply(200, headers=(("Empty", ""), ("Twice", "a"), ("Twice", "b"))),
        Reply(302, headers=(("Location", "/elsewhere"),)),
    ],
    ids=["bytes", "nothing", "compressed", "longer than is kept", "text", "headers", "redirect"],
)
async def test_what_is_handed_over_is_what_is_stored(probe: QueueProbe, receiver: Receiver, reply: Reply) -> None:
    """The answer that this process has delivered does not come from the database: it must be none the better."""
    receiver.decide = lambda arrival: Reply(200, body=b"here") if arrival.target == "/elsewhere" else reply
    request = Request.get(f"{receiver.url}/x", follow_redirects=reply.status == 302, accept=[range(200, 300)])
    config = Config(max_response_body=2_000_000)
    async with open_requeuest(probe.dsn, config=config) as client, open_requeuest(probe.dsn, ()) as other:
        handed_over = await client.spawn_returning("c", request)
        [stored] = [await other.result(job.id) async for job in other.jobs()]
    assert parts(handed_over) == parts(stored)


def parts(response: Any) -> list[object]:
    """All of it that a caller may look at."""
    request = response.request
    return [
        *(response.status_code, response.headers.raw, response.content, response.text, response.encoding),
        *(response.extensions, request.method, request.url, request.headers.raw, request.content),
    ]
