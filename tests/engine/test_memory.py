"""A long queue does not fill the process that delivers it."""

from __future__ import annotations

import sys

import trio

from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe

QUEUED, DRAINED, BODY = 100_000, 1_000, 10_000
MIB = 1_048_576

WORKER = """
import sys, trio
from requeuest_trio import open_requeuest

def peak():
    # Not ru_maxrss: that of a new process begins with the peak of the one that started it.
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

async def main(dsn):
    async with open_requeuest(dsn, ["c"], concurrency=32, grace=0) as client:
        print("open", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
    print(peak())

trio.run(main, sys.argv[1])
"""


async def test_a_hundred_thousand_jobs_of_ten_kilobytes(probe: QueueProbe, receiver: Receiver) -> None:
    await probe.connection.execute(
        """INSERT INTO requeuest.job (channel, method, url, body)
           SELECT 'c', 'POST', %s, convert_to(repeat('0123456789', %s), 'UTF8') FROM generate_series(1, %s)""",
        [receiver.url, BODY // 10, QUEUED],
    )
    with trio.fail_after(60):
        process = await trio.lowlevel.open_process([sys.executable, "-c", WORKER, probe.dsn], stdin=-1, stdout=-1)
        assert process.stdin is not None
        assert process.stdout is not None
        await receiver.wait_for(DRAINED)
        await process.stdin.send_all(b"\n")
        output = b""
        async for data in process.stdout:
            output += data
        await process.wait()
    peak = int(output.splitlines()[-1])
    assert all(len(arrival.body) == BODY for arrival in receiver.arrivals)
    assert peak < 150 * MIB, f"{peak / MIB:.0f} MiB"
    assert (await probe.states())["available"] > QUEUED // 2
