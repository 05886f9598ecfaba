"""Ordering with everything running. Invariants: of a key at most one request is in flight; the arrivals follow the
commits; a head that fails blocks its key and nobody else."""

from __future__ import annotations

from collections import defaultdict

import trio

from requeuest_trio import Channel, Client, Request, RetryPolicy, open_requeuest
from requeuest_trio.testing import Arrival, Receiver, Reply
from tests.engine.probe import QueueProbe

PRODUCERS, KEYS, EACH = 8, 50, 3


async def test_eight_producers_and_fifty_keys(probe: QueueProbe, receiver: Receiver) -> None:
    most = defaultdict[str, int](int)

    def decide(arrival: Arrival) -> Reply:
        key = arrival.target.split("/")[1]
        # The receiver answers later than the next would come, if it did not wait for this answer.
        most[key] = max(most[key], sum(1 for other in recent[key] if trio.current_time() - other < 0.004) + 1)
        recent[key].append(trio.current_time())
        return Reply(503 if len(receiver.arrivals) % 17 == 0 else 200, delay=0.005)

    recent = defaultdict[str, list[float]](list)
    receiver.decide = decide
    policy = RetryPolicy(initial=0.01, jitter=0)

    async def produce(client: Client, producer: int) -> None:
        for number in range(EACH):
            for key in range(KEYS):
                name = (key * 7 + producer) % KEYS
                request = Request.post(f"{receiver.url}/k{name}/{producer}/{number}")
                await client.spawn("c", request, ordering_key=f"k{name}", retry=policy)

    async with open_requeuest(probe.dsn, ["c"], concurrency=64) as client:
        async with trio.open_nursery() as nursery:
            for producer in range(PRODUCERS):
                nursery.start_soon(produce, client, producer)
        await probe.until_states(succeeded=PRODUCERS * KEYS * EACH, patience=60)

    committed = defaultdict[str, list[str]](list)
    for key, url in await probe.rows("SELECT ordering_key, url FROM requeuest.job ORDER BY position"):
        committed[key].append(url.removeprefix(receiver.url))
    arrived = defaultdict[str, list[str]](list)
    for arrival in receiver.arrivals:
        key = arrival.target.split("/")[1]
        if arrived[key][-1:] != [arrival.target]:  # a retry comes directly after what it repeats
            arrived[key].append(arrival.target)
    assert arrived == committed
    assert set(most.values()) == {1}


async def test_a_failing_head_blocks_its_key_and_nobody_else(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(*[Reply(500)] * 3, target="/head")
    policy = RetryPolicy(initial=0.05, jitter=0)
    async with open_requeuest(probe.dsn, ["c"], concurrency=4) as client:
        head = await client.spawn("c", Request.get(receiver.url + "/head"), ordering_key="k", retry=policy)
        behind = await client.spawn("c", Request.get(receiver.url + "/behind"), ordering_key="k")
        for _ in range(5):
            await client.spawn_returning("c", Request.get(receiver.url + "/free"), ordering_key="l")
        await client.result(behind)
        assert (await client.wait(head)).attempts == 4
    targets = [arrival.target for arrival in receiver.arrivals]
    assert targets.index("/behind") > max(place for place, target in enumerate(targets) if target == "/head")
    assert targets.index("/free") < targets.index("/behind")


async def test_a_dead_head_frees_the_next(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(Reply(404, delay=0.3), target="/head")
    async with open_requeuest(probe.dsn, ["c"], poll_interval=600) as client:
        give_up = RetryPolicy(give_up_on=404)
        await client.spawn("c", Request.get(receiver.url + "/head"), ordering_key="k", retry=give_up)
        await receiver.wait_for(1)
        with trio.fail_after(5):
            await client.spawn_returning("c", Request.get(receiver.url + "/next"), ordering_key="k")
    # The head was still in flight when the next was spawned, and not any more when that was sent.
    assert [(arrival.target, arrival.in_flight) for arrival in receiver.arrivals] == [("/head", 1), ("/next", 1)]


async def test_a_delayed_head_keeps_the_others_back(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_requeuest(probe.dsn, ["c"], poll_interval=600) as client:
        await client.spawn("c", Request.get(receiver.url + "/head"), ordering_key="k", delay=0.3)
        await client.spawn_returning("c", Request.get(receiver.url + "/next"), ordering_key="k", priority=100)
    assert [arrival.target for arrival in receiver.arrivals] == ["/head", "/next"]


async def test_an_ordered_channel_is_one_sequence_and_others_are_free(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.decide = lambda _: Reply(delay=0.01)
    async with open_requeuest(probe.dsn, [Channel("ledger", ordered=True), "free"]) as client:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(client.spawn_returning, "ledger", Request.get(f"{receiver.url}/ledger/{number}"))
        ledger = list(receiver.arrivals)
        await client.spawn_many("free", [Request.get(f"{receiver.url}/free")] * 20)
        await receiver.wait_for(40)
    assert {arrival.in_flight for arrival in ledger} == {1}
    assert max(arrival.in_flight for arrival in receiver.arrivals[20:]) > 1


async def test_a_stranded_key_is_healed_and_delivered(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_requeuest(probe.dsn, (), poll_interval=0.1) as client:
        await client.spawn_many("c", [Request.get(f"{receiver.url}/{n}") for n in range(3)], ordering_key="k")
        await probe.connection.execute("DELETE FROM requeuest.job WHERE state = 'available'")
        async with open_requeuest(probe.dsn, lease=1.0, poll_interval=600):
            with trio.fail_after(10):
                await receiver.wait_for(2)
    assert [arrival.target for arrival in receiver.arrivals] == ["/1", "/2"]


async def test_a_producer_need_not_know_that_a_channel_is_ordered(probe: QueueProbe, receiver: Receiver) -> None:
    """Not even if it gives keys of its own, or none."""
    receiver.decide = lambda _: Reply(delay=0.02)
    async with (
        open_requeuest(probe.dsn, (), poll_interval=0.1) as producer,
        open_requeuest(probe.dsn, [Channel("ledger", ordered=True)], poll_interval=0.1),
    ):
        for number in range(12):
            key = f"k{number}" if number % 3 else None
            await producer.spawn("ledger", Request.get(f"{receiver.url}/{number}"), ordering_key=key)
        await producer.spawn_many("ledger", [Request.get(f"{receiver.url}/{n}") for n in (12, 13)], ordering_key="x")
        async with producer.transaction() as connection:
            await producer.spawn("ledger", Request.get(f"{receiver.url}/14"), ordering_key="y", connection=connection)
        await probe.until_states(succeeded=15)
    assert [arrival.target for arrival in receiver.arrivals] == [f"/{number}" for number in range(15)]
    assert {arrival.in_flight for arrival in receiver.arrivals} == {1}


async def test_processes_that_name_channels_in_any_order_open_together(probe: QueueProbe) -> None:
    channels = [Channel(f"c{number}", ordered=True) for number in range(60)]

    async def open_and_leave(named: list[Channel]) -> None:
        async with open_requeuest(probe.dsn, named):
            pass

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_and_leave, channels)
            nursery.start_soon(open_and_leave, channels[::-1])


async def test_naming_a_channel_without_settings_leaves_its_order(probe: QueueProbe) -> None:
    for channel, is_ordered in (
        (Channel("c", ordered=True), True),
        (Channel("c"), True),
        ("c", True),
        (Channel("c", ordered=False), False),
        (Channel("c"), False),
    ):
        async with open_requeuest(probe.dsn, [channel]):
            assert await probe.value("SELECT ordered FROM requeuest.channel") is is_ordered
