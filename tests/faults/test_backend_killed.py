"""
One process of the server is killed: PostgreSQL then throws out everybody and repairs its data, within a moment.

What could go wrong: a spawn that was committed, but whose answer died with its process, is stored a second time when
it is repeated, by the library or by its caller.
"""

import math
import random
from contextlib import suppress
from functools import partial
from uuid import UUID, uuid4

import pytest
import trio

from requeuest_trio import Client, DatabaseUnavailable, Request, open_requeuest
from requeuest_trio.testing import Receiver, open_receiver
from tests.engine.probe import QueueProbe
from tests.faults.outages import IMPATIENT, in_thread, looking_at, queue_server, spawn_surely
from tests.throwaway import Throwaway
from tests.waiting import until


async def test_a_spawn_whose_answer_dies_with_its_process_is_stored_once() -> None:
    """The library repeats it by itself."""
    async with queue_server() as server, open_requeuest(server.dsn(), ()) as client:
        async with trio.open_nursery() as nursery, looking_at(server) as probe:
            job_id = uuid4()
            await _let_commits_wait(probe)
            nursery.start_soon(partial(client.spawn, "a", Request.get("http://localhost/"), job_id=job_id))
            process = await _committing(probe)
            await in_thread(server.kill_backend, process)
            await in_thread(server.wait_until_ready)
            async with looking_at(server) as again:
                # Or the repeat would wait for the replica too.
                await again.connection.execute("select pg_reload_conf()")
        async with looking_at(server) as probe:
            assert await probe.rows("select id from requeuest.job") == [(job_id,)]


async def test_a_spawn_of_unknown_outcome_is_stored_once_when_its_caller_repeats_it() -> None:
    """It was committed when the whole server went down, and the library's patience ended before it was back."""
    async with queue_server() as server, open_requeuest(server.dsn(), (), config=IMPATIENT) as client:
        job_id, request = uuid4(), Request.get("http://localhost/")
        async with trio.open_nursery() as nursery, looking_at(server) as probe:
            await _let_commits_wait(probe)
            nursery.start_soon(_fail_to_spawn, client, request, job_id)
            await _committing(probe)
            await in_thread(server.stop)
        await in_thread(server.start)
        async with looking_at(server) as probe:
            assert await probe.rows("select id from requeuest.job") == [(job_id,)]
            # It may be a moment until an impatient client has noticed that the server is there again.
            assert await spawn_surely(client, "a", request, job_id=job_id) == job_id
            assert await probe.rows("select id from requeuest.job") == [(job_id,)]


async def _let_commits_wait(probe: QueueProbe) -> None:
    """From now on a commit is on disk, and its answer waits for a replica that does not exist."""
    await probe.connection.execute("alter system set synchronous_standby_names = 'nobody'")
    await probe.connection.execute("select pg_reload_conf()")
    await probe.until_true("select current_setting('synchronous_standby_names') = 'nobody'")
    # What is read when the server starts or is told to.
    await probe.connection.execute("alter system reset synchronous_standby_names")


async def _committing(probe: QueueProbe) -> int:
    """The server's process that has committed a spawn, and has not yet said so."""
    waiting = "from pg_stat_activity where wait_event = 'SyncRep' and query like '%requeuest%'"
    await probe.until_true(f"select count(*) = 1 {waiting}")
    process: int = await probe.value(f"select pid {waiting}")
    return process


async def _fail_to_spawn(client: Client, request: Request, job_id: UUID) -> None:
    with pytest.raises(DatabaseUnavailable, match="it may have been stored all the same") as caught:
        await client.spawn("a", request, job_id=job_id)
    assert caught.value.job_ids == (job_id,)


async def test_processes_that_are_killed_while_producers_spawn() -> None:
    """The server's, at random. Each spawn is repeated with its id until it is answered."""
    seed = random.randrange(1_000_000)
    chance = random.Random(seed)
    stored: list[UUID] = []

    async def produce(client: Client, url: str) -> None:
        for _ in range(40):
            stored.append(await spawn_surely(client, "a", Request.get(url)))
            await trio.sleep(chance.uniform(0.0, 0.04))

    async with queue_server() as server, open_receiver() as receiver:
        opened = partial(open_requeuest, server.dsn(), lease=10.0, poll_interval=0.5)
        async with opened() as client, opened() as other:
            async with trio.open_nursery() as killing:
                killing.start_soon(_kill_at_random, server, stored, chance)
                async with trio.open_nursery() as producers:
                    for producer in (client, other) * 4:
                        producers.start_soon(produce, producer, receiver.url)
                killing.cancel_scope.cancel()
            await in_thread(server.wait_until_ready)
            async with looking_at(server) as probe:
                await probe.until_states(succeeded=len(stored))
                rows = await probe.rows("select id, attempts from requeuest.job")
    assert {job_id for job_id, _ in rows} == set(stored), f"seed {seed}"
    _check_arrivals(receiver, dict(rows))


async def _kill_at_random(server: Throwaway, stored: list[UUID], chance: random.Random) -> None:
    """Each time once some more are stored: by the clock, a slow server would never get that far."""
    while True:
        enough = len(stored) + chance.randint(10, 80)
        await until(partial(_is_as_long, stored, enough), patience=math.inf)
        await in_thread(server.wait_until_ready)
        with suppress(OSError):  # they may be gone already, all of them
            async with looking_at(server) as probe:
                sessions = list(await probe.sessions())
            if sessions:
                await in_thread(server.kill_backend, chance.choice(sessions))


def _is_as_long(stored: list[UUID], number: int) -> bool:
    return len(stored) >= number


def _check_arrivals(receiver: Receiver, attempts: dict[UUID, int]) -> None:
    """All were delivered, nothing else was, and what was delivered twice was counted twice."""
    keys = [UUID(arrival.header("idempotency-key") or "") for arrival in receiver.arrivals]
    assert set(keys) == set(attempts)
    for job_id, counted in attempts.items():
        assert keys.count(job_id) <= counted
