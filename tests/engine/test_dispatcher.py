"""
Promise 5, and promptness: who is served when, and what wakes whom.

What could go wrong, and is tried here: a backlog that keeps others waiting, because of its places, its claims, or a
loop that never comes to anything else; limits that are exceeded; hints that get lost between a poll's question and its
answer; workers that stay, or that retire with work in hand; polling, and waking, for nothing.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
import trio

from requeuest_trio import ALL, Config, DatabaseUnavailable, Request, RetryPolicy, open_requeuest
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.store import Store
from requeuest_trio.testing import Arrival, Receiver, Reply, Stall
from tests.engine.probe import QueueProbe, nothing_left, runner_of
from tests.engine.store_harness import store_on
from tests.waiting import until

NEVER = 600.0
"""A poll interval: whatever happens in these tests is not due to a poll."""


async def test_the_limit_of_the_process_holds(probe: QueueProbe, receiver: Receiver) -> None:
    """Of what is sent, and of what is claimed to be sent at once."""
    most = most_occupied = 0
    async with nothing_left(probe), open_requeuest(probe.dsn, concurrency=3, config=Config(max_running=7)) as client:
        dispatcher = runner_of(client).dispatcher

        def decide(arrival: Arrival) -> Reply:
            nonlocal most, most_occupied
            most = max(most, arrival.in_flight)
            most_occupied = max(most_occupied, dispatcher.statistics().occupied)
            return Reply(delay=0.02)

        receiver.decide = decide
        for channel in "abcd":
            await client.spawn_many(channel, [Request.get(f"{receiver.url}/{channel}")] * 20)
        await probe.until_states(succeeded=80)
    # One of the seven is reserved for a channel that has none, and there need not be one.
    assert 6 <= most <= most_occupied <= 7


async def test_the_limit_of_a_channel_holds(probe: QueueProbe, receiver: Receiver) -> None:
    most = 0

    def decide(arrival: Arrival) -> Reply:
        nonlocal most
        most = max(most, arrival.in_flight)
        return Reply(delay=0.01)

    receiver.decide = decide
    async with nothing_left(probe), open_requeuest(probe.dsn, concurrency=5) as client:
        await client.spawn_many("a", [Request.get(receiver.url)] * 60)
        await probe.until_states(succeeded=60)
    assert most == 5


async def test_a_backlog_of_slow_jobs_does_not_starve_a_single_one(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.decide = lambda arrival: Stall() if arrival.target == "/slow" else None
    async with nothing_left(probe), open_requeuest(probe.dsn, concurrency=4, poll_interval=NEVER, grace=0) as client:
        await client.spawn_many("busy", [Request.get(receiver.url + "/slow")] * 50)
        await receiver.wait_for(4)
        with trio.fail_after(3):
            await client.spawn_returning("single", Request.get(receiver.url + "/quick"))


async def test_places_are_shared_when_they_are_few(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.decide = lambda _: Stall()
    async with open_requeuest(probe.dsn, ()) as client:
        for channel in "abcd":
            await client.spawn_many(channel, [Request.get(f"{receiver.url}/{channel}")] * 50)
    # Two of the ten are reserved for channels that have none.
    async with nothing_left(probe), open_requeuest(probe.dsn, concurrency=8, config=Config(max_running=10), grace=0):
        arrivals = await receiver.wait_for(8)
        assert Counter(arrival.target for arrival in arrivals) == {"/a": 2, "/b": 2, "/c": 2, "/d": 2}


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
@pytest.mark.parametrize(("hanging", "concurrency", "max_running"), [(16, 32, 512), (4, 4, 16), (1, 4, 4)])
async def test_channels_whose_attempts_all_hang_leave_a_slot_to_another(
    probe: QueueProbe, receiver: Receiver, hanging: int, concurrency: int, max_running: int
) -> None:
    """However many they are: a channel with nothing under way gets one at once, and another after it."""
    receiver.decide = lambda arrival: Stall() if arrival.target == "/hang" else None
    channels = [f"hanging-{number}" for number in range(hanging)]
    async with open_requeuest(probe.dsn, ()) as client:
        for channel in channels:
            await client.spawn_many(channel, [Request.get(receiver.url + "/hang")] * (2 * concurrency))
    config = Config(max_running=max_running)
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, (), poll_interval=NEVER) as elsewhere,
        open_requeuest(probe.dsn, concurrency=concurrency, config=config, poll_interval=NEVER, grace=0) as here,
    ):
        common = max_running - -(-max_running // 8)
        await receiver.wait_for(common)
        async with _promptly():
            for number in range(3):
                await here.spawn_returning(f"healthy-{number}", Request.get(receiver.url))
                await elsewhere.spawn_returning("healthy", Request.get(receiver.url))
        assert common <= sum(arrival.target == "/hang" for arrival in receiver.arrivals) < max_running


async def test_one_place_goes_round(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.decide = lambda _: Reply(delay=0.01)
    async with open_requeuest(probe.dsn, ()) as client:
        await client.spawn_many("a", [Request.get(receiver.url + "/a")] * 30)
        await client.spawn_many("b", [Request.get(receiver.url + "/b")] * 2)
    async with nothing_left(probe), open_requeuest(probe.dsn, concurrency=1, config=Config(max_running=1)):
        await probe.until_states(succeeded=32)
    targets = [arrival.target for arrival in receiver.arrivals]
    assert max(index for index, target in enumerate(targets) if target == "/b") <= 4


async def test_a_backlog_does_not_keep_the_loop_from_what_is_due(probe: QueueProbe, receiver: Receiver) -> None:
    """There is always a free place and always more for it, and still delayed jobs start, and polls are made."""
    stop = False
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, ["a", "b", "c"], poll_interval=1, concurrency=64) as client,
        trio.open_nursery() as nursery,
    ):

        async def feed() -> None:
            while not stop:
                await client.spawn_many("a", [Request.get(receiver.url + "/backlog")] * 300)
                await probe.until_true("select count(*) <= 200 from requeuest.job where state = 'available'")

        nursery.start_soon(feed)
        await receiver.wait_for(100)
        delayed = await client.spawn("b", Request.get(receiver.url + "/delayed"), delay=0.5)
        await probe.connection.execute(
            "insert into requeuest.job (channel, method, url) values ('c', 'GET', %s)", [receiver.url + "/unannounced"]
        )
        with trio.fail_after(8):
            await client.wait(delayed)
            await until(lambda: any(arrival.target == "/unannounced" for arrival in receiver.arrivals))
        stop = True
        nursery.cancel_scope.cancel()
        await client.clear(ALL)


async def test_thousands_of_channels_appear_are_served_and_retire(probe: QueueProbe, receiver: Receiver) -> None:
    await probe.connection.execute(
        "insert into requeuest.job (channel, method, url) "
        "select 'channel-' || n, 'GET', %s from generate_series(1, 2000) as n",
        [receiver.url],
    )
    config = Config(max_running=64)
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER, config=config) as client:
        await probe.until_states(succeeded=2_000, patience=60)
        dispatcher = runner_of(client).dispatcher
        await until(lambda: not dispatcher.statistics().workers and not dispatcher.statistics().readiness.ready)
        assert dispatcher.statistics().running == 0


async def test_delayed_jobs_start_when_they_are_due(probe: QueueProbe, receiver: Receiver) -> None:
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER) as client:
        ids = [await client.spawn("a", Request.get(receiver.url), delay=delay) for delay in (0.6, 0.2, 0.4)]
        for job_id in ids:
            await client.wait(job_id)
            late = await probe.value(
                "select extract(epoch from started_at - due_at) from requeuest.attempt "
                "join requeuest.job on job.id = job_id where job_id = %s",
                job_id,
            )
            assert 0 <= late < 0.3


async def test_priorities_go_first(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_requeuest(probe.dsn, ()) as client:
        for priority in (0, -100, 100, 7):
            await client.spawn("a", Request.get(f"{receiver.url}/{priority}"), priority=priority)
    async with nothing_left(probe), open_requeuest(probe.dsn, concurrency=1):
        await probe.until_states(succeeded=4)
    assert [arrival.target for arrival in receiver.arrivals] == ["/100", "/7", "/0", "/-100"]


@asynccontextmanager
async def _promptly(seconds: float = 3.0) -> AsyncIterator[None]:
    with trio.fail_after(seconds):
        yield


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_everything_wakes_promptly_without_a_poll(probe: QueueProbe, receiver: Receiver) -> None:
    soon = RetryPolicy(initial=0.1, jitter=0)
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, ["a"], poll_interval=NEVER) as here,
        open_requeuest(probe.dsn, (), poll_interval=NEVER) as elsewhere,
    ):
        async with _promptly():  # a spawn, here and elsewhere
            await here.spawn_returning("a", Request.get(receiver.url))
            await elsewhere.spawn_returning("a", Request.get(receiver.url))
        async with _promptly():  # with a delay
            await elsewhere.wait(await elsewhere.spawn("a", Request.get(receiver.url), delay=0.1))
        async with _promptly():  # a retry
            receiver.script(Reply(503), Reply(503))
            await elsewhere.spawn_returning("a", Request.get(receiver.url), retry=soon)
        async with _promptly():  # the next of an ordering key, also after a failure
            receiver.script(Reply(503))
            ids = [
                await elsewhere.spawn("a", Request.get(receiver.url), ordering_key="k", retry=soon) for _ in range(4)
            ]
            await elsewhere.wait(ids[-1])
        async with _promptly(), elsewhere.transaction() as connection:  # a transaction of the application's
            job_id = await elsewhere.spawn("a", Request.get(receiver.url), connection=connection)
        async with _promptly():
            await elsewhere.wait(job_id)


async def test_waiting_for_a_job_does_not_hide_it_from_the_claim(probe: QueueProbe, receiver: Receiver) -> None:
    """To wait, its row is marked; a claim in that moment skips it, and somebody has to come back to it."""
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER) as client:
        with trio.fail_after(20):
            for _ in range(150):
                job_id = await client.spawn("a", Request.get(receiver.url))
                await client.wait(job_id)


async def test_who_waits_for_a_due_job_has_its_own_process_look(probe: QueueProbe, receiver: Receiver) -> None:
    """A claim may just have passed it over, and without notifications nobody else would say so."""
    config = Config(notifications=False)
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER, config=config) as client:
        await client.wait(await client.spawn("a", Request.get(receiver.url)))
        job_id = await probe.value(
            "insert into requeuest.job (channel, method, url) values ('a', 'GET', %s) returning id", receiver.url
        )
        with trio.fail_after(20):
            await client.wait(job_id)


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
@pytest.mark.parametrize("ending", ["released", "rescued"])
async def test_what_another_process_gives_up_wakes_promptly(probe: QueueProbe, receiver: Receiver, ending: str) -> None:
    receiver.script(Stall())
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, (), poll_interval=NEVER) as client,
        open_requeuest(probe.dsn, ["a"], poll_interval=NEVER, grace=0),
    ):
        job_id = await client.spawn("a", Request.get(receiver.url))
        await receiver.wait_for(1)
        async with open_requeuest(probe.dsn, ["a"], poll_interval=NEVER, lease=1):
            if ending == "rescued":
                await probe.connection.execute(
                    "delete from requeuest.worker using requeuest.job where job.worker = worker.id"
                )
            else:
                await _release_all(probe)
            async with _promptly():
                await receiver.wait_for(2)
                await client.wait(job_id)


async def _release_all(probe: QueueProbe) -> None:
    [[worker]] = await probe.rows("select worker from requeuest.job where state = 'running'")
    assert await store_on(probe.connection).release(worker) == 1


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_a_hint_that_comes_while_a_poll_is_answered_is_kept(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Store.due_channels
    held, answered, go_on = trio.Event(), trio.Event(), trio.Event()

    async def slowly(self: Store, *args: Any) -> dict[str, float]:
        answer = await ask(self, *args)
        if held.is_set() and not go_on.is_set():
            answered.set()
            await go_on.wait()
        return answer

    monkeypatch.setattr(Store, "due_channels", slowly)
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER) as client:
        await client.spawn_returning("a", Request.get(receiver.url))
        await trio.testing.wait_all_tasks_blocked(0.05)
        held.set()
        await probe.connection.execute("select pg_notify('requeuest:due', '')")  # makes it look at everything
        await answered.wait()
        job_id = await client.spawn("a", Request.get(receiver.url), delay=0.5)
        await trio.testing.wait_all_tasks_blocked(0.1)
        go_on.set()
        async with _promptly():
            await client.wait(job_id)


async def test_an_idle_runner_asks_for_nothing_but_beats_rounds_and_polls(
    probe: QueueProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    execute = Store._execute

    async def counted(self: Store, connection: TrioConnection, query: str, **parameters: Any) -> Any:
        asked[query] += 1
        return await execute(self, connection, query, **parameters)

    async with nothing_left(probe), open_requeuest(probe.dsn, lease=6, poll_interval=1):
        await trio.sleep(1.5)
        monkeypatch.setattr(Store, "_execute", counted)
        await trio.sleep(2.5)
        monkeypatch.undo()
    assert asked
    # At the most: a beat, a round and a poll each second, and one question whether the listener is still heard.
    assert max(asked.values()) <= 4, asked
    assert sum(asked.values()) <= 24, asked
    assert not asked["claim"], "there was nothing to claim"


async def test_what_a_claim_that_failed_was_for_is_claimed_soon(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not carried out, and nobody tells again of what it was for."""
    claim, tries = Store.claim, 0

    async def unlucky(store: Store, *args: Any) -> object:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise DatabaseUnavailable("not now") from psycopg.OperationalError("gone")
        return await claim(store, *args)

    monkeypatch.setattr(Store, "claim", unlucky)
    config = Config(notifications=False)
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER, config=config) as client:
        await client.spawn_many("a", [Request.get(receiver.url)] * 3)
        async with _promptly():
            await receiver.wait_for(3)
    assert tries == 2


async def test_every_delayed_job_of_a_channel_starts_on_time(probe: QueueProbe, receiver: Receiver) -> None:
    """Not only the first, which is all that an announcement or a poll tells of a channel."""
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER) as client:
        request = Request.get(receiver.url)
        for delay in (0.2, 0.4, 0.3):
            await client.spawn("a", request, delay=delay)
        async with _promptly():
            await receiver.wait_for(3)


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_what_one_flush_stores_for_now_and_for_later_starts_on_time(
    probe: QueueProbe, receiver: Receiver
) -> None:
    request = Request.get(receiver.url)
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, poll_interval=NEVER) as worker,
        open_requeuest(probe.dsn, (), poll_interval=NEVER) as client,
    ):
        async with client.transaction() as connection:
            # Two announcements, which PostgreSQL delivers together.
            now = await client.spawn("a", request, connection=connection)
            later = await client.spawn("a", request, delay=0.3, connection=connection)
        async with trio.open_nursery() as nursery:
            for delay in (0.0, 0.3, 0.4):
                nursery.start_soon(partial(client.spawn, "b", request, delay=delay))
        async with _promptly():
            await worker.wait(now)
            await worker.wait(later)
            await receiver.wait_for(5)


async def test_what_becomes_due_between_a_claim_and_the_look_for_the_next_is_found(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Store.due_channels

    async def look_late(store: Store, *args: Any) -> dict[str, float]:
        if "running" in await probe.states():
            await probe.until_true("select due_at < clock_timestamp() from requeuest.job where id = %s", second)
        return await look(store, *args)

    monkeypatch.setattr(Store, "due_channels", look_late)
    receiver.decide = lambda _: Reply(delay=1)
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER) as client:
        await client.spawn("a", Request.get(receiver.url), delay=0.2)
        second = await client.spawn("a", Request.get(receiver.url), delay=0.5)
        await probe.until_states(succeeded=2, patience=5)  # to wait for a job would announce it anew


async def test_every_retry_of_a_channel_starts_on_time(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(*[Reply(503)] * 12)
    # However the failures fall on the jobs, a few seconds will do, and a poll would come much later.
    retry = RetryPolicy(initial=0.2, multiplier=1.0, jitter=1.0)
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER) as client:
        ids = await client.spawn_many("a", [Request.get(receiver.url)] * 6, retry=retry)
        async with _promptly(8):  # its own retries may add up to 4.8 s
            for job_id in ids:
                await client.wait(job_id)
