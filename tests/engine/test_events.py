"""
`client.events()`: what happens in one client, while it happens, for whoever cares to look.

What could go wrong, and is tried here: events of another client; something that the log has and a subscriber has not,
or the other way round; a subscriber that holds up delivery, or the end of the client; a stream that outlives its
client, or ends before the last event; one that is read in another Trio run; events that are made although nothing takes
them.
"""

import logging

import pytest
import trio

from requeuest_trio import (
    Client,
    Event,
    JobState,
    Reached,
    Request,
    RetryPolicy,
    events,
    open_requeuest,
)
from requeuest_trio._observe.stream import MOST_UNREAD
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import Log, QueueProbe, nothing_left
from tests.waiting import PATIENCE

ONCE = RetryPolicy(max_attempts=1)


async def read_all(client: Client, into: list[Event], *, task_status: trio.TaskStatus[None]) -> None:
    """Read until the client is closed."""
    async with client.events() as stream:
        task_status.started()
        into.extend([event async for event in stream])


async def test_what_happens_to_a_job_is_seen_by_its_kind_and_fields(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(Reply(404))
    seen = set[str]()
    async with open_requeuest(probe.dsn) as client, client.events() as stream:
        job_id = await client.spawn("mail", Request.get(receiver.url), retry=ONCE)
        with trio.fail_after(PATIENCE):
            async for event in stream:
                seen.add(event.name)
                match event:
                    case events.Attempt(job=job, number=number, state=state, status=status, reached=reached):
                        assert (job, number, state) == (job_id, 1, JobState.DEAD)
                        assert (status, reached) == (404, Reached.RESPONSE)
                        assert 0 < event.duration < PATIENCE
                    case events.JobDead(channel=channel, attempts=attempts):
                        assert (event.job, channel, attempts) == (job_id, "mail", 1)
                        break
    assert {"claimed", "attempt", "job_dead"} <= seen


async def test_a_subscriber_sees_what_the_log_has_in_its_order(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    receiver.script(*[Reply(503)] * 5)
    got = list[Event]()
    async with nothing_left(probe), trio.open_nursery() as nursery, open_requeuest(probe.dsn) as client:
        await nursery.start(read_all, client, got)
        before = len(log.records)
        await client.spawn_many("a", [Request.get(receiver.url)] * 20, retry=RetryPolicy(initial=0.05))
        await probe.until_states(succeeded=20)
    assert [str(event) for event in got] == [record.getMessage() for record in log.records[before:]]
    assert [event.level for event in got] == [record.levelno for record in log.records[before:]]
    assert [f"requeuest_trio.{event.room}" for event in got] == [record.name for record in log.records[before:]]
    assert sum(isinstance(event, events.Attempt) for event in got) == 25


async def test_the_stream_ends_with_the_client_after_its_last_event(probe: QueueProbe) -> None:
    got = list[Event]()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery, open_requeuest(probe.dsn) as client:
            await nursery.start(read_all, client, got)
    assert [event.name for event in got] == ["draining", "closed"]


async def test_what_was_not_entered_before_the_end_is_closed(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, ()) as client:
        late = client.events()
    with pytest.raises(trio.ClosedResourceError):
        async with late:
            pass


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_it_ends_however_the_client_ends(probe: QueueProbe, how: str) -> None:
    got = list[Event]()
    async with nothing_left(probe), trio.open_nursery() as nursery:
        with pytest.raises(KeyError) if how == "failed" else trio.CancelScope() as scope:
            async with open_requeuest(probe.dsn) as client:
                await nursery.start(read_all, client, got)
                if isinstance(scope, trio.CancelScope):
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                raise KeyError
    assert [event.name for event in got] == ["closed"]


async def test_two_clients_in_one_process_tell_each_of_its_own(probe: QueueProbe, receiver: Receiver) -> None:
    of_a, of_b = list[Event](), list[Event]()
    async with (
        trio.open_nursery() as nursery,
        open_requeuest(probe.dsn, ["a"]) as a,
        open_requeuest(probe.dsn, ["b"]) as b,
    ):
        await nursery.start(read_all, a, of_a)
        await nursery.start(read_all, b, of_b)
        in_a = set(await b.spawn_many("a", [Request.get(receiver.url)] * 5))
        in_b = set(await a.spawn_many("b", [Request.get(receiver.url)] * 3))
        await probe.until_states(succeeded=8)
    for got, jobs in ((of_a, in_a), (of_b, in_b)):
        assert {event.job for event in got if isinstance(event, events.Attempt)} == jobs
        assert [event.name for event in got if not isinstance(event, events.Attempt | events.Claimed)] == [
            "draining",
            "closed",
        ]


async def test_one_that_is_never_read_delays_nothing_and_is_told_what_it_missed(
    probe: QueueProbe, receiver: Receiver
) -> None:
    jobs = MOST_UNREAD + 200
    got = list[Event]()
    async with trio.open_nursery() as nursery, open_requeuest(probe.dsn) as client, client.events() as never_read:
        await nursery.start(read_all, client, got)
        await client.spawn_many("a", [Request.get(receiver.url)] * jobs)
        await probe.until_states(succeeded=jobs, patience=2 * PATIENCE)
        missed = await anext(never_read)
        rest = [await anext(never_read) for _ in range(MOST_UNREAD)]
        assert f"{never_read!r}" == "<EventStream open: 0 unread, 0 dropped before them>"
    # The other subscriber, beside it, has seen all.
    assert not any(isinstance(event, events.Dropped) for event in got)
    seen = got[: -len(["draining", "closed"])]
    assert sum(isinstance(event, events.Attempt) for event in seen) == jobs
    assert missed == events.Dropped(count=len(seen) - MOST_UNREAD)
    assert rest == seen[-MOST_UNREAD:]


async def test_what_happens_for_each_job_is_made_an_event_only_if_it_is_taken(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[type[Event]]()
    for kind in (events.Attempt, events.Claimed):
        monkeypatch.setattr(kind, "__post_init__", lambda event: made.append(type(event)))
    logging.getLogger("requeuest_trio").setLevel(logging.INFO)
    async with open_requeuest(probe.dsn) as client:
        for number in range(1, 4):
            await client.spawn_returning("a", Request.get(receiver.url))
            await client.spawn_many("a", [Request.get(receiver.url)] * 2)
            await probe.until_states(succeeded=3 * number)
        assert made == []
        async with client.events():
            await client.spawn_returning("a", Request.get(receiver.url))
        assert set(made) == {events.Attempt, events.Claimed}


async def test_waiting_can_be_cancelled_and_taken_up_again(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_requeuest(probe.dsn, ["a"]) as client, client.events() as stream:
        with trio.move_on_after(0.1) as waiting:
            await anext(stream)
        assert waiting.cancelled_caught
        job_id = await client.spawn("a", Request.get(receiver.url))
        await client.wait(job_id)
        kinds = [type(await anext(stream)) for _ in range(2)]
        assert kinds == [events.Claimed, events.Attempt]
