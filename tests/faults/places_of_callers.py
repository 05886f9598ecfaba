"""The lines of the table of lost commits at which a caller of the library waits for the commit."""

from __future__ import annotations

from uuid import uuid4

import pytest
import trio

from requeuest_trio import Channel, Client, Request, migrate
from requeuest_trio._store import columns
from requeuest_trio._store.migrate import migrations
from tests.faults.lost_commits import CHANNEL, Became, Scene, place

ONCE = Became()
"""The library asks again by itself."""
TOLD = Became(fails=True)
PIECE = 10


# --- spawning ---------------------------------------------------------------------------------------------------------


@place("spawn_claimed", unsent=ONCE, unheard=ONCE)
async def a_job_that_is_sent_from_here(scene: Scene) -> None:
    async with scene.open(channels=[CHANNEL, "before"]) as client:
        while "spawn_claimed" not in scene.proxy.executed:
            await client.spawn_returning("before", scene.request)
        scene.lose()
        await client.spawn(CHANNEL, scene.request)
        await scene.until_delivered()


@place("spawn_one", unsent=ONCE, unheard=ONCE)
async def a_job_that_is_sent_elsewhere(scene: Scene) -> None:
    async with scene.elsewhere(), scene.open(channels=()) as client:
        scene.lose()
        await client.spawn(CHANNEL, scene.request)
        await scene.until_delivered()


@place("spawn", unsent=Became(jobs=20), unheard=Became(jobs=20))
async def jobs_of_several_callers(scene: Scene) -> None:
    async with scene.elsewhere(), scene.open(channels=()) as client:
        scene.lose()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.spawn, CHANNEL, scene.request)
        await scene.until_delivered(20)


@place("spawn_ordered", unsent=Became(jobs=3), unheard=Became(jobs=3))
async def a_job_with_an_ordering_key(scene: Scene) -> None:
    async with scene.elsewhere(), scene.open(channels=()) as client:
        scene.lose()
        for number in range(3):
            await client.spawn(CHANNEL, Request.get(f"{scene.receiver.url}/{number}"), ordering_key="k")
        await scene.until_delivered(3)
    assert [arrival.target for arrival in scene.receiver.arrivals] == ["/0", "/1", "/2"]


@place("spawn", unsent=Became(jobs=5), unheard=Became(jobs=5))
async def jobs_spawned_together(scene: Scene) -> None:
    async with scene.elsewhere(), scene.open(channels=()) as client:
        scene.lose()
        await client.spawn_many(CHANNEL, [scene.request] * 5)
        await scene.until_delivered(5)


@place("spawn", "spawn", unsent=Became(jobs=3 * PIECE), unheard=Became(jobs=3 * PIECE))
async def jobs_spawned_together_in_pieces(scene: Scene) -> None:
    async with scene.elsewhere(), scene.open(channels=()) as client:
        scene.lose()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(columns, "_MAX_ROWS", PIECE)
            await client.spawn_many(CHANNEL, [scene.request] * 3 * PIECE)
        await scene.until_delivered(3 * PIECE)
    assert scene.proxy.executed.count("spawn") >= 3


@place("spawn_ordered", unsent=Became(jobs=5), unheard=Became(jobs=5))
async def jobs_with_an_ordering_key_spawned_together(scene: Scene) -> None:
    requests = [Request.get(f"{scene.receiver.url}/{number}") for number in range(5)]
    async with scene.elsewhere(), scene.open(channels=()) as client:
        scene.lose()
        await client.spawn_many(CHANNEL, requests, ordering_key="k")
        await scene.until_delivered(5)
    assert [arrival.target for arrival in scene.receiver.arrivals] == [f"/{number}" for number in range(5)]


@place("spawn_one", unsent=TOLD, unheard=TOLD)
async def a_transaction_of_the_callers(scene: Scene) -> None:
    """Only the caller can do it again. Until then the job is there, or not, as its other rows are."""
    await scene.probe.connection.execute("create table orders (number integer)")
    job_id = uuid4()
    async with scene.elsewhere(), scene.open(channels=()) as client:
        scene.lose()
        with scene.may_fail():
            async with client.transaction() as connection:
                await connection.execute("insert into orders values (7)")
                await client.spawn(CHANNEL, scene.request, job_id=job_id, connection=connection)
        is_done = scene.lost == "reply"
        assert await scene.probe.value("select count(*) from orders") == is_done
        assert await scene.probe.value("select count(*) from requeuest.job") == is_done
        if is_done:
            await scene.until_delivered()  # without being asked again
        await client.spawn(CHANNEL, scene.request, job_id=job_id)
        await scene.until_delivered()


@place("announce", unsent=ONCE, unheard=ONCE)
async def the_announcement_of_a_job(scene: Scene) -> None:
    """It is made again: nobody polls here."""
    async with scene.elsewhere(), scene.open(channels=()) as client:
        scene.lose()
        await client.spawn(CHANNEL, scene.request, ordering_key="k")
        await scene.until_delivered()


# --- what else a caller asks for --------------------------------------------------------------------------------------


@place("await_job", unsent=TOLD, unheard=TOLD)
async def the_wish_to_be_told_of_an_outcome(scene: Scene) -> None:
    async with scene.elsewhere(), scene.open(channels=()) as client:
        job_id = await client.spawn(CHANNEL, scene.request, delay=0.5)
        scene.lose()
        with scene.may_fail():
            await client.wait(job_id)
        assert (await client.wait(job_id)).state == "succeeded"


async def _clear_twice(scene: Scene, client: Client) -> None:
    """Remove three jobs, and lose that; the second time removes what is left."""
    scene.lose()
    with scene.may_fail():
        await client.clear([CHANNEL])
    left = 3 if scene.lost == "request" else 0
    assert await scene.probe.value("select count(*) from requeuest.job") == left
    assert await client.clear([CHANNEL]) == left


@place("clear", unsent=Became(jobs=0, fails=True), unheard=Became(jobs=0, fails=True))
async def the_removal_of_jobs(scene: Scene) -> None:
    async with scene.open(channels=()) as client:
        await client.spawn_many(CHANNEL, [scene.request] * 3, delay=600)
        await _clear_twice(scene, client)


@place("clear_keys", "unblock", unsent=Became(fails=True), unheard=Became(fails=True))
async def the_removal_of_jobs_with_an_ordering_key(scene: Scene) -> None:
    """Nothing stays behind what was removed."""
    async with scene.elsewhere(), scene.open(channels=()) as client:
        await client.spawn_many(CHANNEL, [scene.request] * 3, delay=600, ordering_key="k")
        await _clear_twice(scene, client)
        await client.spawn(CHANNEL, scene.request, ordering_key="k")
        await scene.until_delivered()


@place("set_channel", unsent=Became(jobs=2, fails=True), unheard=Became(jobs=2, fails=True))
async def the_settings_of_a_channel(scene: Scene) -> None:
    channels = [Channel(CHANNEL, ordered=True)]
    scene.lose()
    with scene.may_fail():
        async with scene.open(channels):
            raise AssertionError("it has opened, and does not know whether the channel is ordered")
    async with scene.open(channels) as client:
        await client.spawn_many(CHANNEL, [scene.request] * 2)
        await scene.until_delivered(2)
    assert await scene.probe.value("select count(*) from requeuest.job where position is not null") == 2


@place("make_journal", "add_to_journal", unsent=Became(jobs=0, fails=True), unheard=Became(jobs=0, fails=True))
async def the_first_migration(scene: Scene) -> None:
    await migrate(scene.probe.dsn, target=0)
    scene.lose()
    with scene.may_fail():
        await migrate(scene.proxy.dsn, target=1)
    await scene.until_lost()
    left = ["0001_queue.up"] if scene.lost == "request" else []
    assert await migrate(scene.proxy.dsn, target=1) == left
    await migrate(scene.probe.dsn)


@place("add_to_journal", unsent=Became(jobs=0, fails=True), unheard=Became(jobs=0, fails=True))
async def a_migration(scene: Scene) -> None:
    for step in migrations():
        await migrate(scene.probe.dsn, target=step.version - 1)
        scene.lose()
        with scene.may_fail():
            await migrate(scene.proxy.dsn, target=step.version)
        await scene.until_lost()
        left = [f"{step.name}.up"] if scene.lost == "request" else []
        assert await migrate(scene.proxy.dsn, target=step.version) == left


@place("remove_from_journal", "close_journal", unsent=Became(jobs=0, fails=True), unheard=Became(jobs=0, fails=True))
async def the_last_migration_to_be_taken_back(scene: Scene) -> None:
    await migrate(scene.probe.dsn, target=1)
    scene.lose()
    with scene.may_fail():
        await migrate(scene.proxy.dsn, target=0)
    left = ["0001_queue.down"] if scene.lost == "request" else []
    assert await migrate(scene.proxy.dsn, target=0) == left
    await migrate(scene.probe.dsn)


@place("condemn", unsent=Became(jobs=0, fails=True), unheard=Became(jobs=0, fails=True))
async def what_a_migration_finds_too_large(scene: Scene) -> None:
    limits = await scene.probe.value("select pg_get_constraintdef(oid) from pg_constraint where conname = 'job_limits'")
    execute = scene.probe.connection.execute
    await execute("alter table requeuest.job drop constraint job_limits")
    await execute("insert into requeuest.job (channel, method, url) values ('a', 'GET', repeat('x', 600000))")
    await execute(f"alter table requeuest.job add constraint job_limits {limits} not valid".encode())
    scene.lose()
    with scene.may_fail():
        await migrate(scene.proxy.dsn)
    await scene.until_lost()
    await migrate(scene.proxy.dsn)
    assert await scene.probe.states() == {"dead": 1}
    assert await scene.probe.rows("select number from requeuest.attempt") == [(1,)]
    await execute("delete from requeuest.job; delete from requeuest.attempt")
