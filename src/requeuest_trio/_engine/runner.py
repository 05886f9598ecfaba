"""The tasks of one process that delivers: which there are, and in which order they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from requeuest_trio._config import Config
from requeuest_trio._engine.attempt import Deliverer
from requeuest_trio._engine.clocks import DatabaseClock
from requeuest_trio._engine.dispatcher import Dispatcher
from requeuest_trio._engine.heartbeat import Heartbeat
from requeuest_trio._engine.large_bodies import LargeBodies
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.maintenance import Maintenance
from requeuest_trio._engine.recorder import Recorder
from requeuest_trio._http.sender import Sender
from requeuest_trio._model.channel import All
from requeuest_trio._model.errors import DatabaseUnavailable, first_line
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.claimed import Claimed
from requeuest_trio._store.database import DATABASE_ERRORS
from requeuest_trio._store.outcomes import Report
from requeuest_trio._store.store import Store
from requeuest_trio._store.waits import Waits, pairs
from requeuest_trio._waiters import Waiters

__all__ = ["Runner"]

FINISH_SECONDS = 5.0

T = TypeVar("T")


class Runner:
    """Delivers for one process: dispatcher, workers, recorder, heartbeat and maintenance.

    The dispatcher shares one connection with heartbeat and maintenance; the recorder has one for itself, so that a slow
    claim never holds up an outcome. Large bodies have another, which is made when the first of them is claimed.
    """

    def __init__(
        self,
        claims: Store,
        records: Store,
        bodies: Store,
        sender: Sender,
        waiters: Waiters,
        channels: frozenset[str] | All,
        config: Config,
        emitter: Emitter,
        *,
        concurrency: int,
        lease: Lease,
        poll_interval: float,
    ) -> None:
        self._records = records
        self._waiters = waiters
        self._lease = lease
        self._emitter = emitter
        self.recorder = Recorder(records, config, self._on_recorded, emitter)
        self.dispatcher = Dispatcher(
            claims,
            Deliverer(sender, self.recorder, LargeBodies(bodies, self._lease), self._lease, config, emitter),
            self._lease,
            channels,
            waiters.wake,
            emitter,
            concurrency=concurrency,
            max_running=config.max_running,
            poll_interval=poll_interval,
        )
        clock = DatabaseClock()
        self._heartbeat = Heartbeat(claims, self._lease, clock, self.dispatcher.give_up_waiting, emitter)
        self._maintenance = Maintenance(claims, config, self._lease, self.dispatcher, clock, emitter)

    async def start(self, nursery: trio.Nursery) -> None:
        """Register this process, and start its tasks. Raises `DatabaseUnavailable`."""
        await self._heartbeat.register()
        nursery.start_soon(self._heartbeat.run)
        nursery.start_soon(self._heartbeat.watch)
        nursery.start_soon(self.recorder.run)
        nursery.start_soon(self._maintenance.run)
        nursery.start_soon(self.dispatcher.run, nursery)
        self._emitter.emit(events.Opened(channels=self.dispatcher.channels, worker=self._lease.worker))

    async def drain(self, grace: float) -> None:
        """Claim nothing more, give back what was not begun, and let running attempts end for up to `grace` seconds."""
        self._emitter.emit(events.Draining(running=self.dispatcher.running, grace=grace))
        self.dispatcher.stop()
        with trio.move_on_after(grace):
            await self._give_back(self.dispatcher.take_back())
            await self.dispatcher.wait_until_idle()

    async def _give_back(self, jobs: list[Claimed]) -> None:
        """At once, so that others need not wait for this process's slowest attempt. `finish` gives back the rest."""
        if jobs:
            try:
                await _insistently(partial(self._records.release_jobs, self._lease.worker, jobs))
            except DATABASE_ERRORS as error:
                self._emitter.emit(events.CloseIncomplete(error=first_line(error)))

    async def finish(self) -> None:
        """After the tasks have ended: write what is unconfirmed, give back what is unfinished, and sign off.

        To be shielded, for `FINISH_SECONDS`, because it is what makes cancellation harmless. What can't be done in that
        time, the other processes do once the lease has expired.
        """
        problem: Exception | None = TimeoutError(f"PostgreSQL did not answer within {FINISH_SECONDS:g} s")
        try:
            problem = await self._sign_off()
        finally:
            if problem is not None:
                self._emitter.emit(events.CloseIncomplete(error=first_line(problem)))

    async def _sign_off(self) -> Exception | None:
        """Every step, whatever has become of the one before: returns the first problem."""
        worker = self._lease.worker
        problem: Exception | None = None
        released = 0
        await self.dispatcher.close()
        try:
            problem = await _insistently(self.recorder.finish)
        except DATABASE_ERRORS as error:
            problem = error
        try:
            released = await _insistently(partial(self._records.release, worker))
            await _insistently(partial(self._records.deregister, worker))
        except DATABASE_ERRORS as error:
            problem = problem or error
        else:
            self._emitter.emit(events.Closed(released=released))
        return problem

    def wake(self, waits: Waits) -> None:
        """Something can be claimed in these channels, after these times."""
        for channel, wait in pairs(waits):
            self.dispatcher.wake({channel: wait})

    def load(self) -> tuple[int, int]:
        """How many attempts are running, and how many outcomes are not yet written."""
        return self.dispatcher.running, self.recorder.backlog

    def _on_recorded(self, reports: Sequence[Report], unblocked: dict[str, float]) -> None:
        """Short cuts for this process: others hear of it by notification, or poll."""
        self._waiters.wake(report.job.id for report in reports if report.outcome.retry_in is None)
        self.dispatcher.wake(unblocked)
        for report in reports:
            if report.outcome.retry_in is not None:
                self.dispatcher.wake({report.job.channel: report.outcome.retry_in})


async def _insistently(step: Callable[[], Awaitable[T]]) -> T:
    """Take a step that may be taken twice; once more if the database fails, since nobody else can take it then."""
    try:
        return await step()
    except DatabaseUnavailable:
        return await step()
