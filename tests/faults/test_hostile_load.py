"""
Promise 5: no answer, however it is made, keeps the event loop from everybody else.

Measured in the processor's time, so that a busy machine makes no difference; `python -m tests.faults.hostile_load` has
the figures as others meet them.
"""

from pathlib import Path

import trio

from requeuest_trio import Config, Request, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe
from tests.faults.hostile_load import AGAIN, LARGEST_LAG, TIMEOUT, Steps, hostile_sockets
from tests.faults.steady import Steady
from tests.http.costly_cases import COSTLY

SOCKETS = 4
"""Of each kind, all kinds at once."""
PATIENCE = 30.0


async def test_no_costly_answer_keeps_the_processor_for_long(
    probe: QueueProbe, receiver: Receiver, tmp_path: Path
) -> None:
    config = Config(attempt_timeout=TIMEOUT)
    async with hostile_sockets(tmp_path) as urls, open_requeuest(probe.dsn, config=config, grace=0) as client:
        steady, steps = Steady(client, receiver, rate=25.0), Steps()
        await steady.flow_for(0.5)
        for kind in COSTLY:
            requests = [Request.post(urls[kind], content=b"x")] * SOCKETS
            await client.spawn_many(kind, requests, retry=AGAIN)
        trio.lowlevel.add_instrument(steps)
        try:
            with trio.fail_after(PATIENCE):
                while await tried(probe) < COSTLY.keys():
                    await steady.flow_for(1.0)
        finally:
            trio.lowlevel.remove_instrument(steps)
    assert steps.longest < LARGEST_LAG, (steps.longest, steps.by)


async def tried(probe: QueueProbe) -> set[str]:
    """The hostile channels in which an attempt has ended."""
    rows = await probe.rows("select distinct channel from requeuest.attempt join requeuest.job on job.id = job_id")
    return {channel for (channel,) in rows} & COSTLY.keys()
