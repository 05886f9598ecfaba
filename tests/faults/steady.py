"""A channel in which requests are due at a steady rate, and how late each of them arrives."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import trio

from requeuest_trio import Client, Request
from requeuest_trio.testing import Receiver
from tests.machine import OwnTime


class Steady:
    """Requests to a receiver, through a channel of their own."""

    def __init__(self, client: Client, receiver: Receiver, *, url: str | None = None, rate: float = 100.0) -> None:
        self._client = client
        self._receiver = receiver
        self._request = Request.get(receiver.url if url is None else url)
        self._interval = 1 / rate
        self._due: dict[UUID, float] = {}
        self.stretch = 1.0
        """How many times as long as alone all took on this machine, in the last flow."""

    async def flow(self, goes_on: Callable[[], bool]) -> list[float]:
        """Send them for as long as that is so. Returns, smallest first, how late each of them arrived.

        Counted from when each was due, so that one that is held up does not hide what would have come after it.
        """
        due, began, own = trio.current_time(), len(self._due), OwnTime()
        async with trio.open_nursery() as nursery:
            while goes_on():
                await trio.sleep_until(due)
                nursery.start_soon(self._spawn, due)
                due += self._interval
        for job_id in list(self._due)[began:]:
            await self._client.wait(job_id)
        self.stretch = own.stretch
        arrived = {arrival.header("idempotency-key"): arrival.at for arrival in self._receiver.arrivals}
        return sorted(arrived[str(job_id)] - at for job_id, at in list(self._due.items())[began:])

    async def flow_for(self, seconds: float) -> list[float]:
        """The same for some seconds."""
        end = trio.current_time() + seconds
        return await self.flow(lambda: trio.current_time() < end)

    async def _spawn(self, due: float) -> None:
        job_id = uuid4()
        self._due[job_id] = due
        await self._client.spawn("healthy", self._request, job_id=job_id)


def percentile(ordered: list[float], part: float) -> float:
    """The value that so large a part of them does not exceed."""
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]
