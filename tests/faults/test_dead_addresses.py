"""
Promise 5: a name whose addresses are all dead takes a few sockets, and no delivery of another channel.

What could go wrong, and is tried here: each attempt opens a socket to each address that the name has, until there are
no descriptors left for anybody.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import trio

from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import QueueProbe
from tests.faults.processes import start_program
from tests.http.hostile import silent

ADDRESSES = 16
ATTEMPTS = 64
HEALTHY = 66
DESCRIPTORS = 1_024
TIMEOUT = 8.0
"""Seconds of an attempt: one that tried an address every quarter of a second would have a socket to each of them."""
RATE = 12.0
"""Healthy jobs a second, so that they come for almost as long."""
AT_ONCE = 3
"""Sockets of one attempt."""
SOON = 2.0


async def test_a_name_with_dead_addresses_leaves_sockets_for_others(
    probe: QueueProbe, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.decide = lambda _: Reply(headers=(("Connection", "close"),))  # each delivery needs a socket of its own
    with ExitStack() as stack:
        first, port = stack.enter_context(silent())
        hosts = [first, *(f"127.0.1.{number}" for number in range(1, ADDRESSES))]
        for host in hosts[1:]:
            stack.enter_context(silent(host, port))
        settings = {
            "dsn": probe.dsn,
            "url": receiver.url,
            "hosts": hosts,
            "port": port,
            "attempts": ATTEMPTS,
            "healthy": HEALTHY,
            "rate": RATE,
            "timeout": TIMEOUT,
            "descriptors": DESCRIPTORS,
        }
        async with trio.open_nursery() as nursery:
            program = start_program(nursery, "dead_addresses", "worker", tmp_path, settings)
            try:
                told = await program.said("delivered", patience=60.0)
            finally:
                await program.end()  # noqa: ASYNC102 - has a shield of its own
    assert told["number"] == HEALTHY
    assert told["slowest"] < SOON
    # Not one for each address; but there were attempts, each with at least one.
    assert ATTEMPTS <= told["most"] - told["before"] <= AT_ONCE * ATTEMPTS + HEALTHY
    attempts = await probe.rows(
        "select attempt.status, attempt.number from requeuest.attempt join requeuest.job on job.id = job_id "
        "where channel = 'healthy'"
    )
    assert attempts == [(200, 1)] * (HEALTHY + 1)
