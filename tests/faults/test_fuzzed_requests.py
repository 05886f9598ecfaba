"""
Promise 7: any text for any argument is refused before anything is stored, or stored and sent byte for byte.

Through the queue, so through JSON, PostgreSQL's types, notifications and back. No exception may come out of the block.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from requeuest_trio import Client, InvalidRequest, JobState, Request, open_requeuest
from tests.engine.probe import QueueProbe, nothing_left
from tests.faults.scale import scaled
from tests.http.fuzzing import accepted, all_to, answer, assert_exact
from tests.http.recording import job_of, recorder

ODD = [
    "", "\0", "a\0b", "\ud800", "'; DROP TABLE job; --", '{"a": 1}', "{}", "NULL", "\\", "%s", "%(channel)s",
    "{schema}", "$1", "a" * 200, "a" * 201, "\U0001f986" * 200, "\r\n", " ", "\u202e", "*", ",", '"',
]  # fmt: skip
TEXTS = st.sampled_from(ODD) | st.text(max_size=20)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "ordering_key": TEXTS,
        "priority": st.sampled_from([-101, -100, 0, 100, 101, True, "1", None]) | st.integers(),
        "delay": st.sampled_from([-1.0, 0, 0.05, float("nan"), float("inf"), "1", True]),
        "timeout": st.sampled_from([0, 5, 60.0, -1, float("nan"), float("inf"), "5"]),
    },
)
Spawn = tuple[str, dict[str, Any]]
GOOD: Spawn = ("plain", {"priority": 100, "delay": 0, "timeout": 60.0})
AT_ONCE = 50


def arguments(number: int) -> list[Spawn]:
    """Channels and options, good and bad: from hypothesis, which knows what is odd; but every fifth is good."""
    found: list[Spawn] = []

    @settings(max_examples=number, database=None)
    @given(TEXTS, OPTIONS)
    def collect(channel: str, options: dict[str, Any]) -> None:
        found.append((channel, options))

    collect()
    found[::5] = [GOOD] * len(found[::5])
    return found


async def spawn_all(client: Client, requests: list[Request]) -> tuple[dict[str, Request], list[str]]:
    """Some at a time, so that they share flushes and notifications.

    Returns what is stored, and which arguments were refused: the request itself is none the worse for it.
    """
    stored: dict[str, Request] = {}
    refused: list[str] = []
    given = arguments(len(requests))
    limit = trio.CapacityLimiter(AT_ONCE)

    async def spawn(request: Request, channel: str, options: dict[str, Any]) -> None:
        async with limit:
            try:
                job_id = await client.spawn(channel, request, **options)
            except InvalidRequest as error:
                refused.append(error.argument)
                job_id = await client.spawn("plain", request)
            stored[str(job_id)] = request

    async with trio.open_nursery() as nursery:
        for number, request in enumerate(requests):
            nursery.start_soon(spawn, request, *given[number % len(given)])
    return stored, refused


async def test_any_text_is_refused_or_arrives_byte_for_byte(probe: QueueProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = accepted(scaled(500))
    assert len(requests) > 50
    async with recorder() as record:
        record.answer = answer
        all_to(record, monkeypatch)
        async with nothing_left(probe), open_requeuest(probe.dsn) as client:
            stored, refused = await spawn_all(client, requests)
            assert set(refused) == {"channel", "ordering_key", "priority", "delay", "timeout"}
            assert len(stored) == len(requests) > len(refused) + 20
            await probe.until_states(succeeded=len(stored))
            jobs = {str(job.id): job async for job in client.jobs()}
    assert jobs.keys() == stored.keys()
    arrived = {job_of(wire): wire for wire in record.wire}
    assert len(record.wire) == len(arrived) == len(stored)
    for job_id, request in stored.items():
        assert_exact(request, arrived[job_id], b"Idempotency-Key")
        assert parts(jobs[job_id].request) == parts(request)
        assert (jobs[job_id].state, jobs[job_id].attempts) == (JobState.SUCCEEDED, 1)


def parts(request: Request) -> tuple[object, ...]:
    """All but the timeout, for which `spawn` may have been given another."""
    return request.method, request.url, request.headers, request.body, request.accept, request.follow_redirects
