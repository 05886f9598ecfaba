"""
Rows that PostgreSQL can't read, or not in time. Invariants: each is given up like any damaged one, with an attempt that
says why; who waits for it hears of it, the next of its ordering key is sent; and no other job waits for it.

What could go wrong: the claim that it is in fails again and again, and with it all deliveries of the process; or a job
is given up because PostgreSQL stood still while it was read.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from uuid import UUID

import psycopg
import pytest
import trio

from requeuest_trio import Client, Config, JobState, Request, open_requeuest
from requeuest_trio._engine.large_bodies import PATIENCE as LARGE_BODIES_PATIENCE
from requeuest_trio._postgres import connection
from requeuest_trio._store import database
from requeuest_trio.testing import Receiver
from tests.engine.conftest import log
from tests.engine.probe import Log, QueueProbe, open_probe
from tests.engine.store_harness import new_id
from tests.faults.outages import in_thread, queue_server
from tests.proxy import Proxy, open_proxy
from tests.throwaway import Throwaway
from tests.waiting import PATIENCE, until

__all__ = ["log"]

MIB = 1_048_576
NEVER = 3_600.0
SECONDS = 0.5
"""How long a statement may take, how much longer its answer, and the connection before it."""
CONFIG = Config(statement_timeout=SECONDS, connect_timeout=SECONDS)
PATIENT = Config(max_request_body=64 * MIB)
WITHIN = f" within {SECONDS:g} s, the time for a statement"
WITHIN_LONGER = f" within {LARGE_BODIES_PATIENCE * SECONDS:g} s, the time for a large body"


@pytest.fixture
async def proxy(probe: QueueProbe, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """Over which a mebibyte takes a second."""
    monkeypatch.setattr(database, "_GRACE_SECONDS", SECONDS)
    monkeypatch.setattr(connection, "SETTLE_TIMEOUT", SECONDS)
    async with open_proxy(probe.dsn) as opened:
        opened.bytes_per_second = MIB
        yield opened


async def _spawn_behind(client: Client, url: str, body: bytes) -> tuple[UUID, UUID]:
    """A job with a body, and the next one of its ordering key."""
    culprit, successor = [
        await client.spawn("a", Request.post(url + path, content=content), ordering_key="k", job_id=new_id())
        for path, content in (("/culprit", body), ("/next", b""))
    ]
    return culprit, successor


async def _check_given_up(client: Client, culprit: UUID, problem: str, log: Log) -> None:
    job = await client.job(culprit)
    assert job is not None
    assert (job.state, job.attempts, job.error) == (JobState.DEAD, 1, f"the stored job is damaged: {problem}")
    [attempt] = await client.attempts(culprit)
    assert (attempt.number, attempt.error, attempt.status) == (1, job.error, None)
    assert [fields["job"] for fields in log.fields("job_dead")] == [str(culprit)]


@pytest.mark.needs_sessions("who waits is to hear of it here, not to find it by polling")
@pytest.mark.parametrize("mebibytes", [8, 3.9])
async def test_a_row_that_comes_too_slowly_is_given_up_and_delays_nobody(
    probe: QueueProbe, proxy: Proxy, receiver: Receiver, log: Log, mebibytes: float
) -> None:
    """One that is too large to be read with a claim, and one that is not: that one keeps others waiting for a while."""
    async with (
        open_requeuest(probe.dsn, (), poll_interval=NEVER, config=PATIENT) as client,
        trio.open_nursery() as nursery,
    ):
        culprit, successor = await _spawn_behind(client, receiver.url, bytes(int(mebibytes * MIB)))
        nursery.start_soon(client.wait, culprit)
        async with open_requeuest(proxy.dsn, lease=30, poll_interval=NEVER, config=CONFIG):
            while (await probe.job(culprit))[0] != "dead":
                with trio.fail_after(4 * SECONDS if mebibytes > 4 else PATIENCE):
                    await client.spawn_returning("b", Request.get(receiver.url))
            with trio.fail_after(PATIENCE):
                await client.wait(successor)
        problem = f"its body can't be read{WITHIN_LONGER}" if mebibytes > 4 else f"it can't be read{WITHIN}"
        await _check_given_up(client, culprit, problem, log)
    assert "/culprit" not in {request.target for request in receiver.arrivals}


@pytest.mark.needs_sessions("who waits is to hear of it here, not to find it by polling")
async def test_a_large_body_may_take_longer_than_a_statement(
    probe: QueueProbe, proxy: Proxy, receiver: Receiver, log: Log
) -> None:
    """As from a machine that is slow for a while: here it takes more than twice as long as that."""
    proxy.bytes_per_second = 3 * MIB
    config = replace(CONFIG, statement_timeout=1.0)
    async with open_requeuest(probe.dsn, (), config=PATIENT) as client:
        job_id = await client.spawn("a", Request.post(receiver.url, content=bytes(8 * MIB)))
        async with open_requeuest(proxy.dsn, lease=30, config=config):
            with trio.fail_after(PATIENCE):
                assert (await client.wait(job_id)).attempts == 1
    assert [len(request.body) for request in receiver.arrivals] == [8 * MIB]


async def test_a_large_body_is_sent(probe: QueueProbe, receiver: Receiver) -> None:
    body = bytes(range(256)) * (5 * MIB // 256)
    async with open_requeuest(probe.dsn, ["a"], config=PATIENT) as client:
        await client.spawn_returning("a", Request.post(receiver.url, content=body))
    assert [request.body for request in receiver.arrivals] == [body]


def _has_read(proxy: Proxy, bodies: int) -> bool:
    return proxy.executed.count("body") >= bodies


async def test_while_nothing_is_answered_no_job_is_given_up(
    probe: QueueProbe, proxy: Proxy, receiver: Receiver, log: Log
) -> None:
    """Not even the large one that is just being read."""
    proxy.bytes_per_second = 16 * MIB
    async with open_requeuest(probe.dsn, (), config=PATIENT) as client:
        for mebibytes in (8, 0, 0) * 4:
            await client.spawn("a", Request.post(receiver.url, content=bytes(mebibytes * MIB)))
    async with open_requeuest(proxy.dsn, ["a"], concurrency=3, lease=3, poll_interval=0.3, config=CONFIG):
        for number in (1, 2):
            await until(partial(_has_read, proxy, number), patience=PATIENCE)
            proxy.freeze()
            await log.wait_for("claim_failed", len(log.fields("claim_failed")) + 3)
            proxy.thaw()
        await probe.until_states(succeeded=12, patience=3 * PATIENCE)


def _destroy(server: Throwaway, job: UUID) -> None:
    """Make the pages on which the body lies unreadable, as a bad disk does."""
    with psycopg.connect(server.dsn(), autocommit=True) as client:
        [path] = client.execute(
            "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'requeuest.job'::regclass"
        ).fetchone() or [None]
        assert client.execute("SELECT octet_length(body) FROM requeuest.job WHERE id = %s", [job]).fetchone()
        client.execute("CHECKPOINT")
    server.stop(immediate=False)
    file = server.data / str(path)
    file.write_bytes(b"\xff" * file.stat().st_size)
    server.start()


async def test_a_row_that_is_destroyed_is_given_up_and_all_others_are_delivered(receiver: Receiver, log: Log) -> None:
    async with queue_server({}) as server:
        async with open_requeuest(server.dsn(), ()) as client:
            culprit, successor = await _spawn_behind(client, receiver.url, os.urandom(200_000))
        await in_thread(_destroy, server, culprit)
        async with open_requeuest(server.dsn(), poll_interval=0.5) as client, open_probe(server.dsn()) as probe:
            for channel in ("a", "b"):
                await client.spawn_many(channel, [Request.get(receiver.url)] * 20)
            await probe.until_states(dead=1, succeeded=41)
            problem = (await probe.job(culprit))[2]
            assert problem is not None
            assert problem.startswith("the stored job is damaged: it can't be read: ")
            assert (await probe.job(successor))[0] == "succeeded"
            [attempt] = await client.attempts(culprit)
            assert attempt.error == problem
