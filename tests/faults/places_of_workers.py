"""The lines of the table of lost commits that nobody waits for but the runner."""

from __future__ import annotations

from uuid import uuid4

import trio

from requeuest_trio import Client
from requeuest_trio.testing import Action, Arrival, Reply, Stall
from tests.faults.lost_commits import CHANNEL, Became, Scene, place
from tests.postgres_messages import committing

ONCE = Became()
RESCUED = Became(attempts=2)
"""The first of these attempts was made by a process that is gone."""
LEASE = 1.0
MANY, AT_ONCE = 300, 4


# --- claims -----------------------------------------------------------------------------------------------------------


@place("claim", unsent=Became(jobs=3), unheard=Became(jobs=3))
async def a_claim(scene: Scene) -> None:
    """What it took is given back uncounted, and claimed again."""
    async with scene.open(), scene.elsewhere(channels=()) as client:
        scene.lose()
        await client.spawn_many(CHANNEL, [scene.request] * 3)
        await scene.until_delivered(3)


@place("condemn", "unblock", unsent=ONCE, unheard=ONCE)
async def a_job_that_a_claim_finds_too_large(scene: Scene) -> None:
    execute = scene.probe.connection.execute
    await execute("alter table requeuest.job drop constraint job_limits")
    await execute(
        "insert into requeuest.job (channel, ordering_key, method, url, headers) "
        f"select '{CHANNEL}', 'k', 'GET', 'http://x.test/', json_agg(gen_random_uuid()) from generate_series(1, 50000)"
    )
    async with scene.elsewhere(channels=()) as client:
        await client.spawn(CHANNEL, scene.request, ordering_key="k")
    scene.lose()
    async with scene.open():
        await scene.probe.until_true("select count(*) = 1 from requeuest.job where state = 'succeeded'")
    assert await scene.probe.rows("select number from requeuest.attempt where error is not null") == [(1,)]
    await execute("delete from requeuest.attempt where error is not null")
    await execute("delete from requeuest.job where state = 'dead'")


@place("release", unsent=ONCE, unheard=ONCE)
async def a_claim_that_is_given_back(scene: Scene) -> None:
    async with scene.open(), scene.elsewhere(channels=()) as client:
        scene.proxy.drop_next_reply(committing("claim"))
        scene.lose()
        await client.spawn(CHANNEL, scene.request)
        await scene.until_delivered()


@place("release", unsent=Became(jobs=MANY), unheard=Became(jobs=MANY))
async def jobs_that_wait_behind_slow_ones_and_are_given_back(scene: Scene) -> None:
    async with scene.open(concurrency=AT_ONCE) as client:
        scene.receiver.decide = _SlowForOnce(client)
        scene.lose()
        await client.spawn_many(CHANNEL, [scene.request] * MANY)
        await scene.until_delivered(MANY)


class _SlowForOnce:
    """What a receiver does: it is slow once in each place, when there are jobs ahead of their places."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._left = AT_ONCE

    def __call__(self, _: Arrival) -> Action | None:
        load = self._client._load
        assert load is not None
        if not self._left or load()[0] <= AT_ONCE:
            return None
        self._left -= 1
        return Reply(delay=3.0)


@place("orphan", unsent=Became(arrivals=2, attempts=2), unheard=Became(arrivals=2, attempts=2))
async def claims_whose_outcomes_the_database_has_forgotten(scene: Scene) -> None:
    """As after a failover: the attempt counts, and the job is sent again."""
    scene.receiver.script(Reply(delay=0.5))
    async with scene.open(lease=LEASE) as client:
        job_id = await client.spawn(CHANNEL, scene.request)
        await scene.receiver.wait_for(1)
        [(worker, claim)] = await scene.probe.rows("select worker, claim from requeuest.job")
        await client.wait(job_id)
        scene.lose()
        await scene.probe.forget_outcome(worker, claim)
        await scene.until_lost()
        await scene.until_delivered()


# --- outcomes ---------------------------------------------------------------------------------------------------------


@place("record", unsent=ONCE, unheard=ONCE)
async def a_success(scene: Scene) -> None:
    async with scene.open() as client:
        scene.lose()
        await client.spawn(CHANNEL, scene.request)
        await scene.until_delivered()


@place("record", unsent=Became(arrivals=2, attempts=2), unheard=Became(arrivals=2, attempts=2))
async def a_failure(scene: Scene) -> None:
    """The next attempt is made once, and not before its time."""
    scene.receiver.script(Reply(503))
    async with scene.open() as client:
        scene.lose()
        await client.spawn(CHANNEL, scene.request)
        await scene.until_delivered()
    [first, second] = scene.receiver.arrivals
    assert second.at - first.at > 0.8


@place("record", unsent=Became(jobs=10), unheard=Became(jobs=10))
async def several_outcomes(scene: Scene) -> None:
    scene.receiver.script(*[Reply(delay=0.3)] * 10)
    async with scene.open() as client:
        scene.lose()
        await client.spawn_many(CHANNEL, [scene.request] * 10)
        await scene.until_delivered(10)


@place("record", "unblock", unsent=Became(jobs=3), unheard=Became(jobs=3))
async def an_outcome_with_an_ordering_key(scene: Scene) -> None:
    """The next job goes at once: nobody polls here."""
    async with scene.open() as client:
        scene.lose()
        await client.spawn_many(CHANNEL, [scene.request] * 3, ordering_key="k")
        await scene.until_delivered(3)
    assert {arrival.in_flight for arrival in scene.receiver.arrivals} == {1}


@place("unblock", unsent=Became(jobs=2), unheard=Became(jobs=2))
async def the_next_job_of_a_key_that_was_busy(scene: Scene) -> None:
    """While a transaction of the application's has it, the outcome before is recorded alone."""
    scene.receiver.script(Reply(delay=0.5))
    async with scene.open() as client:
        first, _ = await client.spawn_many(CHANNEL, [scene.request] * 2, ordering_key="k")
        await scene.receiver.wait_for(1)
        async with scene.probe.connection.transaction():
            await scene.probe.rows("select pg_advisory_xact_lock(requeuest.key_lock(%s, 'k'))", CHANNEL)
            await scene.probe.until_true("select state = 'succeeded' from requeuest.job where id = %s", first)
            scene.lose()
        await scene.until_delivered(2)


@place("record", unsent=ONCE, unheard=ONCE)
async def an_outcome_at_the_end_of_a_block(scene: Scene) -> None:
    """The block is cancelled while the outcome is being recorded, and then its second record is lost too."""
    is_locked = trio.Event()

    async def hold_up_records() -> None:
        async with scene.probe.connection.transaction():
            await scene.probe.connection.execute("lock table requeuest.attempt in share mode")
            is_locked.set()
            await scene.until_sent("record", 2)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with scene.open() as client:
                await scene.until_sent("prune")  # which would wait for the lock as well, and all claims behind it
                nursery.start_soon(hold_up_records)
                await is_locked.wait()
                await client.spawn(CHANNEL, scene.request)
                await scene.until_sent("record")
                scene.lose()
                scope.cancel()
    async with scene.elsewhere():
        await scene.until_delivered()


# --- processes --------------------------------------------------------------------------------------------------------


@place("register", unsent=Became(jobs=0, fails=True), unheard=Became(jobs=0, fails=True))
async def a_process_that_begins(scene: Scene) -> None:
    scene.lose()
    with scene.may_fail():
        async with scene.open():
            raise AssertionError("it has opened, and does not know whether it may claim")


@place("register", unsent=ONCE, unheard=ONCE)
async def a_process_that_begins_anew(scene: Scene) -> None:
    """Others have struck it off their list."""
    async with scene.open(lease=LEASE) as client:
        scene.lose()
        await scene.probe.connection.execute("delete from requeuest.worker")
        await scene.until_lost()
        await client.spawn(CHANNEL, scene.request)
        await scene.until_delivered()


@place("heartbeat", unsent=ONCE, unheard=ONCE)
async def the_sign_of_life_of_a_process(scene: Scene) -> None:
    """The next one comes soon enough: what is being sent goes on, for longer than a lease."""
    scene.receiver.script(Reply(delay=3.5))
    async with scene.open(lease=3.0) as client:
        scene.lose()
        await client.spawn(CHANNEL, scene.request)
        await scene.until_delivered()
    assert not scene.log.fields("lease_lost")


@place("release", unsent=Became(arrivals=2), unheard=Became(arrivals=2))
async def what_a_process_holds_in_the_end(scene: Scene) -> None:
    """It goes back at once, its attempt not counted, although it arrived."""
    scene.receiver.script(Stall())
    with trio.CancelScope() as scope:
        async with scene.open() as client:
            await client.spawn(CHANNEL, scene.request)
            await scene.receiver.wait_for(1)
            scene.lose()
            scope.cancel()
    assert await scene.probe.value("select state from requeuest.job") == "available"
    async with scene.elsewhere():
        await scene.until_delivered()


@place("deregister", unsent=ONCE, unheard=ONCE)
async def the_end_of_a_process(scene: Scene) -> None:
    """No lease is left: `must_have_become` sees to that."""
    async with scene.open() as client:
        await client.spawn(CHANNEL, scene.request)
        await scene.until_delivered()
        scene.lose()


# --- maintenance ------------------------------------------------------------------------------------------------------


@place("rescue", unsent=RESCUED, unheard=RESCUED)
async def a_job_of_a_process_that_is_gone(scene: Scene) -> None:
    async with scene.open(lease=LEASE):
        scene.lose()
        await scene.probe.connection.execute(
            "insert into requeuest.job (id, channel, method, url, state, attempts, worker, claim, claimed_at) "
            "values (%s, %s, 'GET', %s, 'running', 1, gen_random_uuid(), gen_random_uuid(), now())",
            [uuid4(), CHANNEL, scene.receiver.url],
        )
        await scene.until_lost()
        await scene.until_delivered()


@place("bring_back", unsent=ONCE, unheard=ONCE)
async def a_job_that_was_stored_before_the_clock_was_put_back(scene: Scene) -> None:
    await scene.probe.connection.execute(
        "insert into requeuest.job (channel, method, url, created_at, due_at) "
        "values (%s, 'GET', %s, now() + interval '1 hour', now() + interval '1 hour')",
        [CHANNEL, scene.receiver.url],
    )
    scene.lose()
    async with scene.open(lease=LEASE):
        await scene.until_lost()
        await scene.until_delivered()


@place("forget_workers", unsent=Became(jobs=0), unheard=Became(jobs=0))
async def a_process_that_is_long_gone(scene: Scene) -> None:
    await scene.probe.connection.execute(
        "insert into requeuest.worker (id, lease, host, pid, seen_at) "
        "values (gen_random_uuid(), interval '1 second', 'gone', 1, now() - interval '1 hour')"
    )
    scene.lose()
    async with scene.open(lease=LEASE):
        await scene.until_lost()
        await scene.probe.until_true("select count(*) = 1 from requeuest.worker")


@place("prune", unsent=Became(jobs=0), unheard=Became(jobs=0))
async def a_job_that_is_old_enough_to_go(scene: Scene) -> None:
    async with scene.open(lease=LEASE) as client:
        job_id = await client.spawn(CHANNEL, scene.request)
        await scene.until_delivered()
        scene.lose()
        await scene.probe.connection.execute("update requeuest.job set finished_at = now() - interval '2 days'")
        await scene.until_lost()
        await scene.probe.until_true("select count(*) = 0 from requeuest.job where id = %s", job_id)
