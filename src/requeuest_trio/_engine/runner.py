"""The tasks of one process that delivers: which there are, and in which order they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio

from requeuest_trio._engine.channel_workers import ChannelWorkers
from requeuest_trio._engine.dispatcher import Dispatcher
from requeuest_trio._engine.heartbeat import Heartbeat
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.maintenance import Maintenance
from requeuest_trio._engine.recorder import Recorder
from requeuest_trio._engine.short_cut import ShortCut
from requeuest_trio._model.errors import DatabaseUnavailable, first_line
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.database import DATABASE_ERRORS
from requeuest_trio._store.store import Store

__all__ = ["FINISH_SECONDS", "Runner"]

FINISH_SECONDS = 5.0

T = TypeVar("T")


class Runner:
    """Starts what delivers, in the order in which a request meets it, and ends it so that nothing is left."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        short_cut: ShortCut,
        workers: ChannelWorkers,
        recorder: Recorder,
        heartbeat: Heartbeat,
        maintenance: Maintenance,
        lease: Lease,
        store: Store,
        emitter: Emitter,
    ) -> None:
        """`store` is where jobs are released in the end; the others are what runs."""
        self.dispatcher = dispatcher
        self.short_cut = short_cut
        self.workers = workers
        self.recorder = recorder
        self.maintenance = maintenance
        self.lease = lease
        self._heartbeat = heartbeat
        self._store = store
        self._emitter = emitter

    def load(self) -> tuple[int, int]:
        """How many attempts are running, and how many outcomes are not yet written."""
        return self.workers.running, self.recorder.backlog

    async def start(self, nursery: trio.Nursery) -> None:
        """Register this process, and start its tasks. Raises `DatabaseUnavailable`."""
        await self._heartbeat.register()
        self.workers.start_in(nursery)
        nursery.start_soon(self.dispatcher.run)
        nursery.start_soon(self.recorder.run)
        nursery.start_soon(self._heartbeat.run)
        nursery.start_soon(self._heartbeat.watch)
        nursery.start_soon(self.maintenance.run)
        self._emitter.emit(events.Opened(channels=self.dispatcher.channels, worker=self.lease.worker))

    async def drain(self, grace: float) -> None:
        """Claim nothing more, release what was not begun, and let running attempts end for up to `grace` seconds."""
        self._emitter.emit(events.Draining(running=self.workers.running, grace=grace))
        self.short_cut.close()
        self.dispatcher.stop()
        with trio.move_on_after(grace):
            await self._release_unbegun()
            await self.dispatcher.wait_until_idle()

    async def _release_unbegun(self) -> None:
        """At once, so that others need not wait for this process's slowest attempt. `finish` releases the rest."""
        if jobs := self.workers.take_back():
            try:
                await _insistently(partial(self._store.release_jobs, self.lease.worker, jobs))
            except DATABASE_ERRORS as error:
                self._emitter.emit(events.CloseIncomplete(error=first_line(error)))

    async def finish(self) -> None:
        """After the tasks have ended: write what is unconfirmed, release what is unfinished, and sign off.

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
        worker = self.lease.worker
        problem: Exception | None = None
        await self.short_cut.finish()
        try:
            problem = await _insistently(self.recorder.finish)
        except DATABASE_ERRORS as error:
            problem = error
        try:
            released = await _insistently(partial(self._store.release, worker))
            await _insistently(partial(self._store.deregister, worker))
        except DATABASE_ERRORS as error:
            problem = problem or error
        else:
            self._emitter.emit(events.Closed(released=released))
        return problem


async def _insistently(step: Callable[[], Awaitable[T]]) -> T:
    """Take a step that may be taken twice; once more if the database fails, since no other can take it then."""
    try:
        return await step()
    except DatabaseUnavailable:
        return await step()
