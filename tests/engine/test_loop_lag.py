"""How late the event loop is, and that nothing is claimed while the lease should have been renewed."""

import logging
import time

import pytest
import trio
import trio.testing

from requeuest_trio import Request, open_requeuest
from requeuest_trio._engine.heartbeat import Heartbeat
from requeuest_trio._engine.lease import Lease
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._observe.loop_lag import LoopLag
from requeuest_trio.testing import Receiver
from tests.engine.probe import Log, QueueProbe, nothing_left
from tests.waiting import until


async def test_a_stall_is_seen_at_once_and_told(nursery: trio.Nursery, log: Log) -> None:
    lag = LoopLag(0.2, Emitter())
    nursery.start_soon(lag.run)
    await trio.testing.wait_all_tasks_blocked()
    time.sleep(0.7)  # noqa: ASYNC251 - this is the stall
    assert 0.3 <= lag.worst < 5, "before its task has run"
    await log.wait_for("loop_stalled")
    assert 0.3 <= lag.worst < 5
    [record] = [record for record in log.records if getattr(record, "event", "") == "loop_stalled"]
    assert (record.levelno, record.name) == (logging.WARNING, "requeuest_trio.loop")
    nursery.cancel_scope.cancel()


async def test_a_loop_that_keeps_up_has_no_lag(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    lag = LoopLag(0.2, Emitter())
    nursery.start_soon(lag.run)
    await trio.sleep(120)
    assert lag.worst == 0
    nursery.cancel_scope.cancel()


async def test_the_worst_of_the_last_minute_counts(mock_clock: trio.testing.MockClock) -> None:
    lag = LoopLag(100.0, Emitter())
    for seconds in (3.0, 1.0, 2.0):
        lag._note(trio.current_time(), seconds)
        mock_clock.jump(20)
    assert lag.worst == 3
    mock_clock.jump(1)
    assert lag.worst == 2, "that is more than a minute ago"
    mock_clock.jump(39)
    assert lag.worst == 2
    mock_clock.jump(1)
    assert lag.worst == 0


async def test_nothing_is_claimed_while_the_renewal_is_overdue(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the lease still holds for what is under way."""
    may_beat, leases = trio.Event(), list[Lease]()
    beat, begin = Heartbeat._beat, Lease.__init__

    async def late(heartbeat: Heartbeat) -> None:
        await may_beat.wait()
        await beat(heartbeat)

    def remembered(lease: Lease, length: float) -> None:
        begin(lease, length)
        leases.append(lease)

    monkeypatch.setattr(Heartbeat, "_beat", late)
    monkeypatch.setattr(Lease, "__init__", remembered)
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=3) as client:
        [lease] = leases
        await client.wait(await client.spawn("a", Request.get(receiver.url)))
        await until(lambda: not lease.is_fresh)
        job_id = await client.spawn("a", Request.get(receiver.url))
        await until(lambda: lease.left < 0.5)
        assert lease.is_valid
        assert await probe.job(job_id) == ("available", 0, None)
        may_beat.set()
        await client.wait(job_id)
        assert await probe.job(job_id) == ("succeeded", 1, None)
