"""Builds the parts of an open queue and ties them together. What a part may know, it has as an argument.

Each is built of those before it, and what a request meets last is built first: so none calls upwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from typing import Any, NamedTuple

from requeuest_trio._client import Client
from requeuest_trio._config import Config
from requeuest_trio._engine.after_recording import AfterRecording
from requeuest_trio._engine.attempt import Deliverer
from requeuest_trio._engine.channel_workers import ChannelWorkers
from requeuest_trio._engine.claims import Claims
from requeuest_trio._engine.clocks import DatabaseClock
from requeuest_trio._engine.dispatcher import Dispatcher
from requeuest_trio._engine.heartbeat import Heartbeat
from requeuest_trio._engine.large_bodies import PATIENCE, LargeBodies
from requeuest_trio._engine.lease import Lease
from requeuest_trio._engine.listener import Listener, Topic
from requeuest_trio._engine.maintenance import Maintenance
from requeuest_trio._engine.notification import finished_in, waits_in
from requeuest_trio._engine.readiness import Readiness
from requeuest_trio._engine.recorder import Recorder
from requeuest_trio._engine.runner import Runner
from requeuest_trio._engine.short_cut import ShortCut
from requeuest_trio._engine.shortages import Shortages
from requeuest_trio._engine.slots import Slots
from requeuest_trio._engine.wake_ups import WakeUps
from requeuest_trio._enqueue.announcer import Announcer
from requeuest_trio._enqueue.group_commit import FLUSH_LOCK_SECONDS, Spawner
from requeuest_trio._http.sender import Sender
from requeuest_trio._model.channel import All, Channel
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._observe.loop_lag import LoopLag
from requeuest_trio._postgres import Route
from requeuest_trio._store.database import Database
from requeuest_trio._store.notifications import Notifications
from requeuest_trio._store.queries import Queries
from requeuest_trio._store.store import Store
from requeuest_trio._waiters import Waiters

__all__ = ["Databases", "Options", "Wired", "wire", "wire_runner"]

_ALARMING_LAG = 1 / 4
"""Of the lease."""


class Options(NamedTuple):
    """What `open_requeuest` was given, checked."""

    channels: frozenset[str] | All
    settings: Collection[Channel]
    concurrency: int
    lease: float
    poll_interval: float
    config: Config


class Wired(NamedTuple):
    """An open queue: what has a life of its own in it."""

    client: Client
    runner: Runner | None
    """None where nothing is delivered."""
    services: list[Callable[[], Awaitable[None]]]
    """Run for as long as the queue is open."""


class Databases:
    """Makes the databases of one queue, each of so many connections, which a stack closes."""

    def __init__(
        self,
        stack: AsyncExitStack,
        route: Route,
        queries: Queries,
        notifications: Notifications,
        config: Config,
        *,
        has_sessions: bool,
    ) -> None:
        """`has_sessions`: whether no pooler shares the sessions on this route between transactions."""
        self._stack = stack
        self._route = route
        self._queries = queries
        self._notifications = notifications
        self._config = config
        self._has_sessions = has_sessions

    async def database(self, size: int, route: Route | None = None, **options: Any) -> Database:
        """Open a database."""
        options.setdefault("has_sessions", self._has_sessions)
        options["pause_notifications"] = self._notifications.pause
        database = Database(route or self._route, self._queries, self._config, size=size, **options)
        return await self._stack.enter_async_context(database)

    def bound(self, database: Database) -> Store:
        """All that is done with the queue, over the connections of a database."""
        return Store(database, self._queries, self._notifications)

    async def store(self, **options: Any) -> Store:
        """The same over one connection of its own."""
        return self.bound(await self.database(1, **options))


async def wire(
    options: Options,
    databases: Databases,
    notifications: Notifications,
    sender: Sender,
    listen_at: Route | None,
    emitter: Emitter,
) -> Wired:
    """Build an open queue. Nothing of it runs yet.

    Callers share a pool; each thing that must not wait for another has one connection to itself.
    """
    config, lease = options.config, options.lease
    calls = await databases.database(config.pool_size)
    store = databases.bound(calls)
    readiness = Readiness(None if isinstance(options.channels, All) else options.channels, options.poll_interval)
    wake_ups = WakeUps(readiness)
    waiters = Waiters(store, wake_ups.stored, emitter, poll_interval=options.poll_interval)
    runner = None
    if options.channels:
        runner = wire_runner(
            await databases.store(lease=lease, plans_once=True),
            await databases.store(lease=lease, plans_once=True),
            await databases.store(patience=PATIENCE),
            sender,
            waiters,
            readiness,
            wake_ups,
            Lease(lease),
            options,
            emitter,
        )
    flushes = await databases.store(lock_timeout=FLUSH_LOCK_SECONDS, plans_once=True)
    announcer = Announcer(flushes, emitter, enabled=config.notifications)
    reserve = runner.short_cut.reserve if runner else _no_slot
    spawner = Spawner(flushes, store, announcer, wake_ups.stored, reserve, callers=config.pool_size - 1)
    loop_lag = LoopLag(lease * _ALARMING_LAG, emitter)
    client = Client(
        calls,
        store,
        spawner,
        waiters,
        config,
        options.settings,
        emitter,
        runner.load if runner else None,
        lambda: loop_lag.worst,
    )
    services = [spawner.run, announcer.run, waiters.run, sender.run, loop_lag.run]
    if listen_at is not None:
        listening = await databases.database(1, listen_at, has_sessions=True)
        due = wake_ups if runner else None
        services.append(_listener(listening, databases.bound(listening), notifications, waiters, due, emitter).run)
    return Wired(client, runner, services)


def _listener(
    listening: Database,
    store: Store,
    notifications: Notifications,
    waiters: Waiters,
    due: WakeUps | None,
    emitter: Emitter,
) -> Listener:
    """Build what hears of finished jobs and, where this process delivers, of jobs that are `due`."""
    topics: dict[str, Topic[Any]] = {notifications.done_topic: Topic(finished_in, waiters.wake)}
    on_anything = [waiters.wake_all]
    if due is not None:
        topics[notifications.due_topic] = Topic(waits_in, due.heard)
        on_anything.append(due.anything)
    return Listener(listening, store, topics, on_anything, emitter)


def wire_runner(
    claiming: Store,
    recording: Store,
    reading_bodies: Store,
    sender: Sender,
    waiters: Waiters,
    readiness: Readiness,
    wake_ups: WakeUps,
    lease: Lease,
    options: Options,
    emitter: Emitter,
) -> Runner:
    """Build what delivers.

    Each store is bound to a connection of its own, named by what goes over it. Heartbeat and maintenance share that of
    the dispatcher; the recorder has one for itself, so that a slow claim never holds up an outcome. That of large
    bodies is made when the first of them is claimed.
    """
    config = options.config
    recorder = Recorder(recording, config, AfterRecording(waiters, wake_ups), emitter)
    deliverer = Deliverer(sender, recorder, LargeBodies(reading_bodies, lease), lease, config, emitter)
    shortages = Shortages(options.concurrency, emitter)
    workers = ChannelWorkers(deliverer, readiness, wake_ups, shortages, concurrency=options.concurrency)
    claims = Claims(claiming, lease, [recorder, workers], wake_ups, waiters.wake, emitter)
    slots = Slots(config.max_running, None if readiness.channels is None else len(readiness.channels))
    clock = DatabaseClock()
    return Runner(
        Dispatcher(
            claiming,
            lease,
            readiness,
            wake_ups,
            slots,
            workers,
            claims,
            emitter,
            poll_interval=options.poll_interval,
        ),
        ShortCut(readiness, slots, workers, claims, lease, wake_ups),
        workers,
        recorder,
        Heartbeat(claiming, lease, clock, workers.give_up_waiting, emitter),
        Maintenance(claiming, config, lease, claims, wake_ups, clock, emitter),
        lease,
        recording,
        emitter,
    )


def _no_slot(_: str) -> AbstractContextManager[None]:
    """This process delivers nothing."""
    return nullcontext()
