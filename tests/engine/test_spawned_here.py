"""
Jobs that are stored as claimed, because the process that spawns them can send them at once. Invariants: no place is
given twice, nothing that was there before is passed over, and whatever becomes of the spawn, the job is sent once and
its attempt counted once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

from requeuest_trio import Channel, Client, Config, DatabaseUnavailable, InvalidRequest, Request, open_requeuest
from requeuest_trio._store.new_jobs import NewJobs
from requeuest_trio._store.store import Store
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import Log, QueueProbe, nothing_left, runner_of
from tests.waiting import until

NEVER = 3_600.0
# A listener that has just begun to hear makes the dispatcher look around once more, and jobs take their turn meanwhile.
QUIET = Config(notifications=False)
BORN_CLAIMED = "select claimed_at = created_at from requeuest.job where id = %s"


def request(receiver: Receiver, path: str = "/") -> Request:
    return Request.get(receiver.url + path)


async def until_idle(client: Client) -> None:
    """Wait until the dispatcher has looked at the database, and waits for something to do."""
    dispatcher = runner_of(client).dispatcher
    await until(lambda: dispatcher.statistics().is_idle)


class Interfering:
    """Stands between the store and the statement that stores a job as claimed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.after: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.calls = 0
        original: Callable[..., Any] = NewJobs._run_encoded

        async def run(store: NewJobs, connection: object, query: str, batches: object) -> Any:
            if query != "spawn_claimed":
                return await original(store, connection, query, batches)
            self.calls += 1
            await self.before()
            answer = await original(store, connection, query, batches)
            await self.after()
            return answer

        monkeypatch.setattr(NewJobs, "_run_encoded", run)


@pytest.fixture
def interfering(monkeypatch: pytest.MonkeyPatch) -> Interfering:
    return Interfering(monkeypatch)


async def test_a_job_that_can_be_sent_at_once_is_claimed_with_its_commit(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(Reply(delay=0.2))
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER, config=QUIET) as client:
        await until_idle(client)
        sent = Request.post(
            receiver.url, json={"a": "\u20ac"}, headers={"X-B": "\xe9"}, accept=[201, 200, range(300, 310)]
        )
        job_id = await client.spawn("a", sent, priority=3, timeout=20)
        await receiver.wait_for(1)
        assert await probe.value(BORN_CLAIMED, job_id)
        job = await client.wait(job_id)
    assert (job.request.headers, job.request.accept, job.request.timeout) == (sent.headers, sent.accept, 20)
    assert await probe.job(job_id) == ("succeeded", 1, None)
    [arrival] = receiver.arrivals
    assert arrival.body == sent.body
    assert arrival.header("idempotency-key") == str(job_id)
    assert arrival.header("x-b") == "\xe9"


async def test_nothing_is_claimed_while_it_is_asked_what_is_due(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be a backlog, of which this process has not heard yet."""
    asked, may_answer = trio.Event(), trio.Event()
    original: Callable[..., Any] = Store.due_channels

    async def late(*args: object, **options: object) -> Any:
        asked.set()
        await may_answer.wait()
        return await original(*args, **options)

    monkeypatch.setattr(Store, "due_channels", late)
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER, config=QUIET) as client:
        await asked.wait()
        job_id = await client.spawn("a", request(receiver))
        assert await probe.job(job_id) == ("available", 0, None)
        may_answer.set()
        await client.wait(job_id)
    assert await probe.job(job_id) == ("succeeded", 1, None)


async def test_its_answer_can_be_waited_for(probe: QueueProbe, receiver: Receiver) -> None:
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER, config=QUIET) as client:
        await until_idle(client)
        with trio.fail_after(5):
            response = await client.spawn_returning("a", request(receiver))
    assert response.status_code == 200


async def test_a_place_is_not_given_twice(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(*[Reply(delay=0.05)] * 8)
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, concurrency=1, config=replace(QUIET, max_running=1)) as client,
    ):
        await until_idle(client)
        for number in range(8):
            await client.spawn(f"c{number % 2}", request(receiver))
        await probe.until_states(succeeded=8)
    assert max(arrival.in_flight for arrival in receiver.arrivals) == 1


@pytest.mark.needs_sessions("what it loses is the answer to a lone statement, not to a COMMIT")
async def test_a_place_is_kept_from_claims_while_the_job_is_stored(
    probe: QueueProbe, receiver: Receiver, interfering: Interfering
) -> None:
    """Somebody else's job comes meanwhile. It has to wait, although the place is still empty."""
    has_stored = trio.Event()
    interfering.after = has_stored.wait
    receiver.script(Reply(delay=0.1), Reply())
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, concurrency=1, poll_interval=0.05, config=QUIET) as client,
    ):
        await until_idle(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.spawn, "a", request(receiver, "/mine"))
            await probe.until_states(running=1)
            async with open_requeuest(probe.dsn, ()) as other:
                await other.spawn("a", request(receiver, "/other"))
            await runner_of(client).maintenance.round()
            await trio.sleep(0.2)  # several polls, each of which could claim
            assert await probe.states() == {"running": 1, "available": 1}
            assert not receiver.arrivals
            has_stored.set()
        await probe.until_states(succeeded=2)
    assert [arrival.target for arrival in receiver.arrivals] == ["/mine", "/other"]
    assert max(arrival.in_flight for arrival in receiver.arrivals) == 1


async def test_what_waits_already_goes_first(probe: QueueProbe, receiver: Receiver, interfering: Interfering) -> None:
    receiver.script(Reply(delay=0.1), Reply())
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, concurrency=1, poll_interval=NEVER, config=QUIET) as client,
    ):
        await until_idle(client)
        await client.spawn("a", request(receiver, "/1"))
        await client.spawn("a", request(receiver, "/2"))
        await receiver.wait_for(1)
        last = await client.spawn("a", request(receiver, "/3"))
        assert not await probe.value("select state = 'running' from requeuest.job where id = %s", last)
        await probe.until_states(succeeded=3)
    assert interfering.calls == 1
    assert [arrival.target for arrival in receiver.arrivals] == ["/1", "/2", "/3"]


async def test_jobs_of_keys_of_ordered_channels_and_for_later_take_their_turn(
    probe: QueueProbe, receiver: Receiver, interfering: Interfering
) -> None:
    ordered = Channel("ordered", ordered=True)
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, ["a", ordered], poll_interval=NEVER, config=QUIET) as client,
    ):
        await until_idle(client)
        await client.spawn("a", request(receiver), ordering_key="k")
        await client.spawn("a", request(receiver), delay=0.05)
        assert interfering.calls == 0
        for _ in range(3):
            await client.spawn("ordered", request(receiver))
        await client.spawn("elsewhere", request(receiver))
        await probe.until_states(succeeded=5, available=1)
        assert (
            await probe.value("select count(*) from requeuest.job where channel = 'ordered' and position is null") == 0
        )


@pytest.mark.parametrize("option", [{"delay": 60}, {"ordering_key": "k"}], ids=str)
async def test_a_job_that_has_to_wait_keeps_no_place(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any]
) -> None:
    reserved: list[object] = []
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER, config=QUIET) as client:
        await until_idle(client)
        monkeypatch.setattr(client._spawner, "_reserve", reserved.append)
        await client.spawn("a", request(receiver), **option)
    assert not reserved


async def test_an_id_that_exists_is_not_stored_again(probe: QueueProbe, receiver: Receiver) -> None:
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER, config=QUIET) as client:
        await until_idle(client)
        job_id = await client.spawn("a", request(receiver))
        await client.wait(job_id)
        assert await client.spawn("a", request(receiver), job_id=job_id) == job_id
        await probe.until_states(succeeded=1)
        await client.result(await client.spawn("a", request(receiver)))
    assert len(receiver.arrivals) == 2


async def test_a_process_that_was_struck_off_stores_for_everybody(
    probe: QueueProbe, receiver: Receiver, interfering: Interfering
) -> None:
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=30, poll_interval=NEVER, config=QUIET) as client:
        await until_idle(client)
        await probe.rows("delete from requeuest.worker returning id")
        job_id = await client.spawn("a", request(receiver))
        assert interfering.calls == 1
        assert await probe.job(job_id) == ("available", 0, None)
        async with open_requeuest(probe.dsn) as other:
            await other.wait(job_id)
        await probe.rows(
            "insert into requeuest.worker (id, lease, host, pid) values (%s, '30 s', 'h', 1) returning id",
            runner_of(client).lease.worker,
        )
    assert len(receiver.arrivals) == 1


@pytest.mark.needs_sessions("what it loses is the answer to a lone statement, not to a COMMIT")
async def test_a_job_whose_storing_was_not_answered_is_sent_once(
    probe: QueueProbe, receiver: Receiver, log: Log, interfering: Interfering
) -> None:
    async def lose_the_answer() -> None:
        raise DatabaseUnavailable("the answer was lost")

    interfering.after = lose_the_answer
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=NEVER, config=QUIET) as client:
        await until_idle(client)
        job_id = await client.spawn("a", request(receiver))
        await probe.until_states(succeeded=1)
        assert await probe.job(job_id) == ("succeeded", 1, None)
    assert log.fields("claim_lost") == [{"jobs": 1}]
    assert len(receiver.arrivals) == 1


async def test_a_job_whose_outcome_postgresql_has_forgotten_is_sent_again_and_counted(
    probe: QueueProbe, receiver: Receiver, log: Log
) -> None:
    receiver.script(Reply(delay=0.2))
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1, poll_interval=NEVER, config=QUIET) as client:
        await until_idle(client)
        job_id = await client.spawn("a", request(receiver))
        await receiver.wait_for(1)
        assert await probe.value(BORN_CLAIMED, job_id)
        [(worker, claim)] = await probe.rows("select worker, claim from requeuest.job")
        await client.wait(job_id)
        await probe.forget_outcome(worker, claim)
        await receiver.wait_for(2)
        await client.wait(job_id)
    assert await probe.job(job_id) == ("succeeded", 2, None)
    assert log.fields("outcomes_lost") == [{"jobs": 1}]


@pytest.mark.needs_sessions("what it loses is the answer to a lone statement, not to a COMMIT")
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_spawn_cancelled_while_it_is_stored_leaves_nothing_claimed(
    probe: QueueProbe, receiver: Receiver, interfering: Interfering, moment: str
) -> None:
    setattr(interfering, moment, trio.sleep_forever)
    stored = int(moment == "after")
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, concurrency=1, poll_interval=NEVER, config=QUIET) as client,
    ):
        await until_idle(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.spawn, "a", request(receiver))
            await probe.until_states(**({"running": 1} if stored else {}))
            await until(lambda: interfering.calls)
            nursery.cancel_scope.cancel()
        # What is stored is sent, and the place is free again.
        setattr(interfering, moment, trio.lowlevel.checkpoint)
        await client.wait(await client.spawn("a", request(receiver)))
        await probe.until_states(succeeded=1 + stored)
        assert await probe.value("select max(attempts) from requeuest.job") == 1
    assert len(receiver.arrivals) == 1 + stored


@pytest.mark.needs_sessions("what it loses is the answer to a lone statement, not to a COMMIT")
async def test_a_lease_that_is_lost_meanwhile_gives_the_job_to_others(
    probe: QueueProbe, receiver: Receiver, log: Log, interfering: Interfering
) -> None:
    has_lost = trio.Event()
    interfering.after = has_lost.wait
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=2, poll_interval=0.2, config=QUIET) as client:
        await until_idle(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.spawn, "a", request(receiver))
            await probe.until_states(running=1)
            runner_of(client).lease.lapse()
            has_lost.set()
        await probe.until_states(succeeded=1)
    assert len(log.fields("claim_lost")) == 1
    assert len(receiver.arrivals) == 1


async def test_a_refused_job_frees_its_place(probe: QueueProbe, receiver: Receiver) -> None:
    await probe.connection.execute("alter table requeuest.job add constraint picky check (url not like '%bad')")
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, concurrency=1, poll_interval=NEVER, config=QUIET) as client,
    ):
        await until_idle(client)
        for _ in range(3):
            with pytest.raises(InvalidRequest, match="picky"):
                await client.spawn("a", request(receiver, "/bad"))
        await client.wait(await client.spawn("a", request(receiver)))
    assert await probe.states() == {"succeeded": 1}


@pytest.mark.needs_sessions("what it loses is the answer to a lone statement, not to a COMMIT")
async def test_a_job_stored_while_the_block_ends_is_given_back(
    probe: QueueProbe, receiver: Receiver, interfering: Interfering
) -> None:
    may_answer = trio.Event()
    interfering.after = may_answer.wait
    queue = open_requeuest(probe.dsn, poll_interval=NEVER, config=QUIET)
    async with nothing_left(probe), trio.open_nursery() as nursery, queue as client:
        await until_idle(client)
        nursery.start_soon(client.spawn, "a", request(receiver))
        await probe.until_states(running=1)
        nursery.start_soon(_after_closing, client, may_answer)
    assert await probe.states() == {"available": 1}
    assert await probe.value("select attempts from requeuest.job") == 0
    assert not receiver.arrivals


async def _after_closing(client: Client, event: trio.Event) -> None:
    await until(lambda: repr(runner_of(client).short_cut) == "<ShortCut: closed>")
    event.set()
