"""
Promises 2 and 3: a process delivers only what it may, and what it may no longer others deliver.

What could go wrong, and is tried here: a lease that is not renewed under a long attempt, or renewed although others
have struck the process off; an attempt that goes on after its lease; a rescue that comes too early, after an outage or
a standstill, or not at all; a zombie whose outcome overwrites that of its successor; a claim whose answer is lost, or
that is carried out when nobody waits for it any more; a job given up because of this process's own trouble.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import trio
import trio.testing
from psycopg.conninfo import make_conninfo

from requeuest_trio import Config, DatabaseUnavailable, Request, RetryPolicy, open_requeuest
from requeuest_trio._engine.clocks import DatabaseClock
from requeuest_trio._engine.heartbeat import Heartbeat
from requeuest_trio._engine.lease import Lease
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.store import Store
from requeuest_trio.testing import Receiver, Reply, Stall
from tests.engine.probe import Log, QueueProbe, nothing_left
from tests.engine.store_harness import store_on
from tests.proxy import open_proxy

IMPATIENT = Config(connect_timeout=0.5, statement_timeout=0.3)


async def _is_held(probe: QueueProbe) -> bool:
    return bool(await probe.value("select count(*) from requeuest.job where state = 'running'"))


async def test_a_long_attempt_outlives_many_leases(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    receiver.script(Reply(delay=2.5))
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1) as client, open_requeuest(probe.dsn, lease=1):
        job_id = await client.spawn("a", Request.get(receiver.url))
        await client.wait(job_id)
    assert await probe.job(job_id) == ("succeeded", 1, None)
    assert len(receiver.arrivals) == 1
    assert not log.fields("lease_lost")


async def test_struck_off_it_stops_registers_anew_and_goes_on(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    receiver.script(Stall())
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1) as client:
        before = await probe.value("select id from requeuest.worker")
        job_id = await client.spawn("a", Request.get(receiver.url))
        await receiver.wait_for(1)
        await probe.connection.execute("delete from requeuest.worker")
        await client.wait(job_id)
        assert await probe.value("select id from requeuest.worker") != before
        assert (await probe.job(job_id))[:2] == ("succeeded", 2)
        [first, _] = await client.attempts(job_id)
        assert first.error is not None
        assert "could not renew its lease" in first.error or "was lost" in first.error
    assert log.fields("lease_lost") == [{"cut_short": 1}]
    assert receiver.arrivals[1].in_flight == 1, "the first attempt was still going on"


async def test_an_attempt_cut_short_is_never_the_last(probe: QueueProbe, receiver: Receiver) -> None:
    """It counts, but the process's own trouble does not make a job dead."""
    receiver.script(Stall())
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1) as client:
        job_id = await client.spawn("a", Request.get(receiver.url), retry=RetryPolicy(max_attempts=1))
        await receiver.wait_for(1)
        await probe.connection.execute("delete from requeuest.worker")
        assert (await client.wait(job_id)).state == "succeeded"


async def test_cut_off_it_stops_in_time_and_its_late_outcome_is_refused(
    probe: QueueProbe, receiver: Receiver, log: Log
) -> None:
    receiver.script(Stall(), Reply(delay=1.5))
    async with nothing_left(probe), open_proxy(probe.dsn) as proxy:  # noqa: SIM117 - the proxy's address is needed
        async with open_requeuest(make_conninfo(proxy.dsn, sslmode="disable"), lease=1, config=IMPATIENT) as client:
            job_id = await client.spawn("a", Request.get(receiver.url))
            await receiver.wait_for(1)
            async with open_requeuest(probe.dsn, lease=1) as other:
                proxy.freeze()
                frozen_at = trio.current_time()
                arrivals = await receiver.wait_for(2)
                assert arrivals[1].in_flight == 1, "the zombie was still sending when its job was rescued"
                assert arrivals[1].at - frozen_at > 0.8
                held_by = await probe.value("select claim from requeuest.job")
                proxy.thaw()
                await log.wait_for("outcomes_stale")
                assert await probe.value("select claim from requeuest.job") == held_by
                await other.wait(job_id)
                [lost, delivered] = await other.attempts(job_id)
                assert (lost.number, lost.reached) == (1, "unknown")
                assert (delivered.number, delivered.status) == (2, 200)
    assert log.fields("lease_lost")[0] == {"cut_short": 1}
    assert len(receiver.arrivals) == 2


async def test_after_a_standstill_nothing_more_is_sent(nursery: trio.Nursery, log: Log) -> None:
    """The first step that an attempt makes may be its last: no other task is asked before."""
    lease, sent = Lease(0.5), list[int]()
    heartbeat = Heartbeat(cast("Store", None), lease, DatabaseClock(), lambda: None, Emitter())
    lease.renewed(lease.clock())

    async def attempt(number: int) -> None:
        with trio.CancelScope() as scope:
            lease.begin(scope, trio.current_time() + 10)
            await trio.sleep(0.2)
            await trio.lowlevel.checkpoint_if_cancelled()  # as a socket does before it sends
            sent.append(number)
        assert lease.ended(scope)

    for number in range(20):
        nursery.start_soon(attempt, number)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(heartbeat.watch)
    await trio.testing.wait_all_tasks_blocked()
    time.sleep(0.5)  # noqa: ASYNC251 - this is the standstill
    assert await log.wait_for("lease_lost") == [{"cut_short": 20}]
    await trio.sleep(0.2)
    assert not sent
    assert len(log.fields("lease_lost")) == 1, "one loss is told once"
    nursery.cancel_scope.cancel()


class Answering:
    """In place of the store: answers after so many seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.knows_us = True

    async def register(self, worker: UUID, lease: float) -> float:
        await trio.sleep(self.seconds)
        await trio.lowlevel.checkpoint()
        return trio.current_time()

    async def heartbeat(self, worker: UUID) -> float | None:
        await trio.sleep(self.seconds)
        await trio.lowlevel.checkpoint()
        return trio.current_time() if self.knows_us else None


def heartbeat_of(lease: Lease, answering: Answering, on_lost: Callable[[], None] = lambda: None) -> Heartbeat:
    return Heartbeat(cast("Store", answering), lease, DatabaseClock(), on_lost, Emitter())


async def test_trust_ends_before_the_lease_that_may_have_begun_when_it_was_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lease = Lease(10.0, trio.current_time)
    heartbeat = heartbeat_of(lease, Answering(3.0))
    for renew in (heartbeat.register, heartbeat._beat):
        await renew()
        assert 0 < lease.left < 10.0 - 3.0


async def test_what_waits_is_given_up_before_the_lease_is_had_anew(autojump_clock: trio.testing.MockClock) -> None:
    lease, answering, was_valid = Lease(10.0, trio.current_time), Answering(), list[bool]()
    heartbeat = heartbeat_of(lease, answering, lambda: was_valid.append(lease.is_valid))
    await heartbeat.register()
    for answering.knows_us, seconds in ((False, 1), (True, 20)):  # struck off; and after a standstill
        was_valid.clear()
        await trio.sleep(seconds)
        await heartbeat._beat()
        assert set(was_valid) == {False}
        assert lease.is_valid


async def test_what_is_renewed_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease(1.0, trio.current_time)
    lease.renewed(trio.current_time())
    with trio.CancelScope() as scope:
        lease.begin(scope, trio.current_time() + 10)
        for _ in range(5):
            await trio.sleep(0.7)
            lease.renewed(trio.current_time())
        await trio.sleep(0.79)
        assert not scope.cancel_called
        await trio.sleep(1)
    assert lease.ended(scope)
    assert lease.lapse() == 1
    assert lease.lapse() is None


async def test_an_attempt_ends_with_its_own_time_too(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease(10.0, trio.current_time)
    lease.renewed(trio.current_time())
    with trio.CancelScope() as scope:
        lease.begin(scope, trio.current_time() + 1)
        lease.renewed(trio.current_time())
        await trio.sleep(2)
    assert scope.cancelled_caught
    assert not lease.ended(scope)
    assert lease.lapse() == 0


@pytest.mark.parametrize("is_had_anew", [False, True])
async def test_without_a_lease_nothing_is_sent(
    probe: QueueProbe, receiver: Receiver, log: Log, monkeypatch: pytest.MonkeyPatch, is_had_anew: bool
) -> None:
    """The claim's answer comes when the lease has lapsed: its jobs go back, uncounted."""
    claim = Store.claim
    late = 0

    async def answered_late(store: Store, *args: Any) -> object:
        nonlocal late
        claims = await claim(store, *args)
        if claims.jobs and not late:
            late = len(claims.jobs)
            leases[0].lapse()
            if is_had_anew:
                leases[0].renewed(leases[0].clock())
        return claims

    leases: list[Lease] = []
    start = Lease.__init__

    def remembered(lease: Lease, length: float) -> None:
        start(lease, length)
        leases.append(lease)

    monkeypatch.setattr(Lease, "__init__", remembered)
    monkeypatch.setattr(Store, "claim", answered_late)
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1) as client:
        ids = await client.spawn_many("a", [Request.get(receiver.url)] * 3)
        # Not to wait before that: a claim passes over a row that `wait` has locked.
        await log.wait_for("claim_lost")
        for job_id in ids:
            await client.wait(job_id)
            assert await probe.job(job_id) == ("succeeded", 1, None)
    assert late
    assert log.fields("claim_lost") == [{"jobs": 3}]
    assert len(receiver.arrivals) == 3


async def _plant_lost_process(probe: QueueProbe, url: str, *, lease: float = 1.0) -> UUID:
    """A job in the hands of a process that was last seen an hour ago, by its own account."""
    worker, job_id = uuid4(), uuid4()
    await probe.connection.execute(
        "insert into requeuest.worker (id, seen_at, lease, host, pid) "
        "values (%s, now() - '1 hour'::interval, %s * '1 s'::interval, '', 1)",
        [worker, lease],
    )
    await probe.connection.execute(
        "insert into requeuest.job (id, channel, method, url, state, attempts, worker, claim, claimed_at) "
        "values (%s, 'a', 'GET', %s, 'running', 1, %s, gen_random_uuid(), now() - '1 hour'::interval)",
        [job_id, url, worker],
    )
    return job_id


async def test_jobs_of_a_lost_process_are_rescued_after_a_whole_lease(
    probe: QueueProbe, receiver: Receiver, log: Log
) -> None:
    job_id = await _plant_lost_process(probe, receiver.url)
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1) as client:
        opened_at = trio.current_time()
        assert (await client.result(job_id)).status_code == 200
        assert receiver.arrivals[0].at - opened_at > 0.9
        [lost, delivered] = await client.attempts(job_id)
        assert (lost.number, lost.reached, lost.error) == (
            1,
            "unknown",
            "the process that made this attempt was lost before it could record the outcome",
        )
        assert (delivered.number, delivered.status) == (2, 200)
        await probe.until_true("select count(*) = 1 from requeuest.worker")
    assert log.fields("rescued") == [{"jobs": 1}]


@pytest.mark.parametrize("lease", [1.5, 3.0])
async def test_after_an_outage_nobody_rescues_before_a_whole_lease(
    probe: QueueProbe, receiver: Receiver, lease: float
) -> None:
    """Of the process that is lost, if that is longer than the rescuer's own."""
    async with nothing_left(probe), open_proxy(probe.dsn) as proxy:  # noqa: SIM117 - the proxy's address is needed
        async with open_requeuest(make_conninfo(proxy.dsn, sslmode="disable"), lease=1.5, config=IMPATIENT):
            await _plant_lost_process(probe, receiver.url, lease=lease)
            await trio.sleep(1.3)  # it has seen that for almost a lease
            proxy.freeze()
            await trio.sleep(1.0)
            proxy.thaw()
            thawed_at = trio.current_time()
            [arrival] = await receiver.wait_for(1)
            assert arrival.at - thawed_at > lease - 0.1


async def test_who_cannot_renew_its_own_lease_takes_nobody_for_dead(
    probe: QueueProbe, receiver: Receiver, log: Log
) -> None:
    """The table of processes is read, and cannot be written: all that are registered look lost after a lease."""
    receiver.script(Stall())
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1) as client:
        job_id = await client.spawn("a", Request.get(receiver.url))
        await receiver.wait_for(1)
        await _plant_lost_process(probe, receiver.url)
        async with probe.connection.transaction():
            await probe.connection.execute("lock table requeuest.worker in share mode")
            await log.wait_for("lease_lost")
            await trio.sleep(1.5)
            assert not log.fields("rescued")
        await client.wait(job_id)
        await log.wait_for("rescued")
        await probe.until_states(succeeded=2)


async def test_one_step_of_maintenance_that_always_fails_disables_no_other(
    probe: QueueProbe, receiver: Receiver, log: Log
) -> None:
    """A table of the application's refers to finished jobs, so they can't be pruned."""
    done = await probe.value(
        "insert into requeuest.job (channel, method, url, state, finished_at) "
        "values ('a', 'GET', '', 'dead', now() - '1 hour'::interval) returning id"
    )
    await probe.connection.execute("create table app (job uuid references requeuest.job (id))")
    await probe.connection.execute("insert into app values (%s)", [done])
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1, config=Config(keep_dead=1.0)) as client:
        await log.wait_for("maintenance_failed")
        job_id = await _plant_lost_process(probe, receiver.url)
        with trio.fail_after(5):
            await client.wait(job_id)
        assert await probe.job(job_id) == ("succeeded", 2, None)
    assert await log.wait_for("rescued") == [{"jobs": 1}]


async def test_who_was_not_seen_of_late_rescues_nothing(probe: QueueProbe) -> None:
    """The database itself stood still, with a rescue under way: on its clock every lease has run out."""
    await _plant_lost_process(probe, "http://localhost/")
    store, rescuer = store_on(probe.connection), uuid4()
    await store.register(rescuer, 30.0)
    await probe.connection.execute(
        "update requeuest.worker set seen_at = now() - '20 s'::interval where id = %s", [rescuer]
    )
    [lost] = [sign for sign in await store.signs_of_life() if sign.worker != rescuer]
    assert await store.rescue(rescuer, [lost]) == 0
    await store.heartbeat(rescuer)
    assert await store.rescue(rescuer, [lost]) == 1


async def _lose_first_answer(
    monkeypatch: pytest.MonkeyPatch, method: str, counts: Callable[[object], bool] = bool
) -> list[object]:
    """The statement is carried out, and its answer does not arrive."""
    original = getattr(Store, method)
    lost: list[object] = []

    async def unlucky(store: Store, *args: Any, **options: Any) -> object:
        answer = await original(store, *args, **options)
        if counts(answer) and not lost:
            lost.append(answer)
            raise DatabaseUnavailable("the answer was lost")
        return answer

    monkeypatch.setattr(Store, method, unlucky)
    return lost


@pytest.mark.needs_sessions("what it loses is the answer to a lone statement, not to a COMMIT")
@pytest.mark.parametrize("notifications", [True, False])
async def test_jobs_whose_claim_was_not_answered_are_given_back(
    probe: QueueProbe, receiver: Receiver, log: Log, monkeypatch: pytest.MonkeyPatch, notifications: bool
) -> None:
    lost = await _lose_first_answer(monkeypatch, "claim")
    config = Config(notifications=notifications)
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=0.5, config=config) as client:
        ids = await client.spawn_many("a", [Request.get(receiver.url)] * 5)
        await probe.until_states(succeeded=5)
        for job_id in ids:
            assert await probe.job(job_id) == ("succeeded", 1, None)
    assert len(lost) == 1
    assert log.fields("claim_lost") == [{"jobs": 5}]
    assert len(receiver.arrivals) == 5


async def test_a_claim_that_is_carried_out_late_is_given_back(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    """The network kept it back, and brings it when its sender has long given up and tidied up."""
    store = store_on(probe.connection)
    receiver.script(Reply(delay=1.0))
    async with nothing_left(probe), open_requeuest(probe.dsn, ["mine"], lease=1, poll_interval=600) as client:
        busy = await client.spawn("mine", Request.get(receiver.url + "/busy"))
        await receiver.wait_for(1)
        async with open_requeuest(probe.dsn, ()) as other:
            job_id = await other.spawn("other", Request.get(receiver.url))
        worker = await probe.value("select id from requeuest.worker")
        jobs, *_ = await store.claim(worker, uuid4(), {"other": 1})
        assert len(jobs) == 1
        assert await log.wait_for("claim_lost") == [{"jobs": 1}]
        assert await probe.job(job_id) == ("available", 0, None)
        await client.wait(busy)
    assert await probe.job(busy) == ("succeeded", 1, None)
    assert len(receiver.arrivals) == 1


async def test_a_job_is_rescued_or_recorded_but_not_both(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    """Its row is locked by another while both want it, after its process was struck off."""
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1) as client:
        await trio.sleep(1.1)  # so that a rescue may come at once
        receiver.script(Reply(delay=0.2))
        job_id = await client.spawn("a", Request.get(receiver.url))
        await receiver.wait_for(1)
        async with probe.connection.transaction():
            await probe.connection.execute("select from requeuest.job where id = %s for update", [job_id])
            await log.wait_for("record_failed")
            await probe.connection.execute("delete from requeuest.worker")
        await client.wait(job_id)
        state, attempts, _ = await probe.job(job_id)
        stored: Sequence[object] = await client.attempts(job_id)
        assert state == "succeeded"
        assert attempts == len(stored) == len(receiver.arrivals)
        assert len(await log.wait_for("outcomes_stale", attempts - 1)) == attempts - 1
