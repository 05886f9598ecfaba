"""
Promises 2, 5 and 7: whatever receivers do, attempts end in time and are told rightly, and other channels do not notice.

All of them at once, each in a channel of its own, with real sockets and a real database, next to a healthy one.
"""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack
from uuid import UUID

import trio
import trustme

from requeuest_trio import Client, Config, Job, JobState, Reached, Request, RetryPolicy, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe, nothing_left
from tests.faults.memory import Peak
from tests.faults.steady import Steady, percentile
from tests.http.hostile import SHORT, never_accepting, raw_server, until_left
from tests.http.hostile_cases import ANSWERED, CASES, PATIENT, Case
from tests.machine import OwnTime

BODY_LIMIT = 100_000
JOBS = 2
ATTEMPTS = 2
DEADLINE = 2.0
"""Of attempts that only a deadline ends: long beside what a busy machine needs to begin all of them at once."""
RATE = 25.0
"""Healthy requests per second: few enough not to be a load themselves."""
MEMORY = 64_000_000


def untrusted() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


async def start_all(stack: AsyncExitStack) -> dict[str, tuple[str, Case]]:
    """Every receiver, with its URL and what comes of it."""
    started = {
        "never accepts": (stack.enter_context(never_accepting()), Case(until_left, {Reached.CONNECT}, None, SHORT))
    }
    for name, case in CASES.items():
        server = await stack.enter_async_context(raw_server(case.handle))
        started[name] = (server.url.replace("http", case.scheme), case)
    server = await stack.enter_async_context(raw_server(until_left, tls=untrusted()))
    started["a bad certificate"] = (server.url, Case(until_left, {Reached.TLS}, None))
    return started


async def test_hostile_receivers_end_in_time_and_delay_nobody(probe: QueueProbe, receiver: Receiver) -> None:
    config = Config(max_response_body=BODY_LIMIT)
    policy = RetryPolicy(max_attempts=ATTEMPTS, initial=0.01)
    async with AsyncExitStack() as stack:
        cases = await start_all(stack)
        async with nothing_left(probe), open_requeuest(probe.dsn, config=config, poll_interval=0.2) as client:
            peak, healthy, jobs = Peak(), Steady(client, receiver, rate=RATE), dict[UUID, str]()
            async with trio.open_nursery() as nursery:
                all_ended = trio.Event()
                nursery.start_soon(assert_no_delay, healthy, all_ended)
                for name, (url, case) in cases.items():
                    request = Request.post(url, content=b"x", timeout=timeout_of(case))
                    jobs |= dict.fromkeys(await client.spawn_many(name, [request] * JOBS, retry=policy), name)
                own = OwnTime()
                with trio.fail_after(2 * PATIENT + 30):
                    for job_id, name in jobs.items():
                        await assert_told(client, await client.wait(job_id), cases[name][1], own)
                all_ended.set()
            assert peak.growth() < MEMORY + len(jobs) * BODY_LIMIT
            assert (await client.stats()).channels["healthy"].keys() == {JobState.SUCCEEDED}


def timeout_of(case: Case) -> float:
    return DEADLINE if case.timeout == SHORT else case.timeout


async def assert_no_delay(healthy: Steady, all_ended: trio.Event) -> None:
    """Nine of ten arrive in less than half the time that the hostile ones keep whoever waits for them.

    If the machine has nothing else to do, that is.
    """
    delays = await healthy.flow(lambda: not all_ended.is_set())
    assert percentile(delays, 0.9) / healthy.stretch < DEADLINE / 2


async def assert_told(client: Client, job: Job, case: Case, own: OwnTime) -> None:
    name, timeout = job.channel, timeout_of(case)
    attempts = await client.attempts(job.id)
    for attempt in attempts:
        assert attempt.reached in case.reached, (name, attempt)
        assert attempt.duration <= timeout + 0.5 * own.stretch, (name, attempt)
        if attempt.reached is not Reached.RESPONSE and case.timeout == SHORT:
            assert "timed out" in str(attempt.error), (name, attempt)
    if attempts[-1].reached is Reached.RESPONSE:
        # The status decides, whatever became of the body.
        assert (job.state, job.response is not None) == (JobState.SUCCEEDED, True), (name, job)
        assert job.response is not None
        assert len(job.response.content) <= BODY_LIMIT, (name, job)
        assert case.body is None or case.body(job.response.content)
        assert job.response.extensions["truncated"] in {case.truncated, case.truncated is None}, (name, job)
    else:
        assert not case.reached <= ANSWERED
        assert (job.state, len(attempts)) == (JobState.DEAD, ATTEMPTS), (name, job)
