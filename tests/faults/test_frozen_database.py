"""
A database that neither answers nor breaks its connections, as behind a cut cable or a firewall that has lost its state.

What could go wrong, and is tried here: a call, or the end of a block, that hangs; an attempt that goes on when its
lease is over, and is sent a second time; a process that does not go on afterwards; connections that stay behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import trio

from requeuest_trio import Client, Config, DatabaseUnavailable, Request, _open, open_requeuest
from requeuest_trio._engine import listener
from requeuest_trio._engine.runner import FINISH_SECONDS
from requeuest_trio._postgres import SETTLE_TIMEOUT
from requeuest_trio._store import database
from requeuest_trio.testing import Receiver, Stall
from tests.engine.conftest import log
from tests.engine.support import Eye, Log, nothing_left
from tests.faults.outages import spawn_surely
from tests.faults.proxy import Proxy, open_proxy
from tests.faults.scale import scaled

__all__ = ["log"]

LEASE, GRACE = 1.5, 0.3
LONGEST_SHIELD = 5.0
SLACK = 1.5
"""For a machine that is busy with something else."""
MOST_CONNECTIONS = 8
"""Four for callers, and one for each of the others."""
CONFIG = Config(connect_timeout=0.5, statement_timeout=0.4)
EVENTS = ("claim_failed", "record_failed", "heartbeat_failed", "listener_lost", "maintenance_failed", "lease_lost")


@pytest.fixture
async def proxy(eye: Eye) -> AsyncIterator[Proxy]:
    async with open_proxy(eye.dsn) as opened:
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server is given to answer, beyond its own time limit, and to the listener, is shorter than usual."""
    monkeypatch.setattr(database, "_GRACE_SECONDS", 0.6)
    for seconds in ("_CHECK_SECONDS", "_ANSWER_SECONDS"):
        monkeypatch.setattr(listener, seconds, 1.0)


@pytest.mark.usefixtures("impatient")
async def test_it_stops_in_time_tells_of_it_and_goes_on_afterwards(
    eye: Eye, receiver: Receiver, proxy: Proxy, log: Log
) -> None:
    receiver.script(*[Stall()] * 3)
    async with nothing_left(eye), open_requeuest(proxy.dsn, lease=LEASE, poll_interval=0.3, config=CONFIG) as client:
        others = [await client.spawn("a", Request.get(receiver.url), ordering_key="k") for _ in range(2)]
        running = [others[0], *await client.spawn_many("b", [Request.get(receiver.url)] * 2)]
        await receiver.wait_for(3)
        for _ in range(scaled(1)):
            await _freeze_until_all_have_noticed(client, proxy, log, receiver)
        for job_id in (*running, *others):
            with trio.fail_after(10):
                await client.wait(job_id)
        await spawn_surely(client, "a", Request.get(receiver.url), "k")
        await eye.until_states(succeeded=await eye.value("select count(*) from requeuest.job"))
        assert len(await eye.sessions()) == len(proxy.links) <= MOST_CONNECTIONS
    for job_id in running:
        assert (await eye.job(job_id))[1] == 2, "it was cut short once, and that counts"
    assert await eye.value("select max(attempts) from requeuest.job") == 2


async def _freeze_until_all_have_noticed(client: Client, proxy: Proxy, log: Log, receiver: Receiver) -> None:
    seen = {event: len(log.fields(event)) for event in EVENTS}
    proxy.freeze()
    frozen_at, arrived = trio.current_time(), len(receiver.arrivals)
    await log.wait_for("lease_lost", seen["lease_lost"] + 1)
    assert trio.current_time() - frozen_at < LEASE, "it was sending when others might have begun to"
    limit = 2 * (CONFIG.connect_timeout + CONFIG.statement_timeout + 0.6) + SETTLE_TIMEOUT
    for call in (client.spawn("a", Request.get(receiver.url), job_id=uuid4()), client.stats()):
        with trio.fail_after(limit + SLACK), pytest.raises(DatabaseUnavailable):
            await call
    for event, before in seen.items():
        await log.wait_for(event, before + 1)
    assert len(receiver.arrivals) == arrived, "it has sent something without a lease"
    proxy.thaw()


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["left", "cancelled"])
async def test_the_block_ends_in_time(
    eye: Eye, receiver: Receiver, proxy: Proxy, log: Log, is_cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the limits are for connecting and for statements: those of the end are shorter."""
    assert max(FINISH_SECONDS, SETTLE_TIMEOUT) <= LONGEST_SHIELD
    monkeypatch.setattr(_open, "FINISH_SECONDS", 1.0)
    receiver.script(Stall())
    with trio.CancelScope() as scope:
        async with open_requeuest(proxy.dsn, lease=LEASE, grace=GRACE, poll_interval=0.3) as client:
            job_id = await client.spawn("a", Request.get(receiver.url))
            await receiver.wait_for(1)
            proxy.freeze()
            await log.wait_for("lease_lost")  # so that there is an outcome to be written down
            left_at = trio.current_time()
            if is_cancelled:
                scope.cancel()
    grace = 0.0 if is_cancelled else GRACE
    assert trio.current_time() - left_at < grace + SETTLE_TIMEOUT + 1.0 + SLACK
    [problem] = log.fields("close_incomplete")[-1:]
    assert "did not answer" in problem["error"] or "no connection" in problem["error"]
    proxy.thaw()
    async with nothing_left(eye), open_requeuest(eye.dsn, lease=LEASE, poll_interval=0.3) as other:
        await other.wait(job_id)
    assert len(receiver.arrivals) == 2
    assert not await eye.sessions()
