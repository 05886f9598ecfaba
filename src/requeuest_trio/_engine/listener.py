"""Hears what other processes announce, and passes it on as hints.

A hint may be lost or merged; polling is the truth. So after every new connection everything is looked at once, because
nothing was heard while there was none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from uuid import UUID

import trio

from requeuest_trio._engine.notification import finished_in, waits_in
from requeuest_trio._model.backoff import Backoff
from requeuest_trio._model.errors import DatabaseUnavailable, first_line
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._postgres import TrioConnection, move_on_after
from requeuest_trio._store.database import DATABASE_ERRORS, Database
from requeuest_trio._store.notifications import Notifications
from requeuest_trio._store.store import Store
from requeuest_trio._store.waits import Waits

__all__ = ["Hints", "Listener"]

_CHECK_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_READ_PER_SECOND = 1_000_000
"""How many characters of announcements are read in a second. Whoever sends more gets a look at the database."""


class Hints:
    """Whom to tell what was heard."""

    def __init__(
        self,
        *,
        due: Callable[[Waits], None],
        done: Callable[[Sequence[UUID]], None],
        anything: Callable[[], None],
    ) -> None:
        self.due = due
        self.done = done
        self.anything = anything


class Listener:
    """One connection that does nothing but listen. `run` has to be running."""

    def __init__(
        self,
        database: Database,
        store: Store,
        notifications: Notifications,
        topics: Sequence[str],
        hints: Hints,
        emitter: Emitter,
    ) -> None:
        self._database = database
        self._store = store
        self._notifications = notifications
        self._topics = topics
        self._hints = hints
        self._emitter = emitter
        self._backoff = Backoff(initial=0.1, cap=5.0)
        self._failures = 0
        self._read = 0
        self._read_since = -math.inf

    async def run(self) -> None:
        """Listen until cancelled, on a new connection whenever one breaks."""
        while True:
            try:
                async with self._database.connection() as connection:
                    await self._listen(connection)
            except DATABASE_ERRORS as error:
                self._failures += 1
                pause = self._backoff.delay(self._failures, random.random)
                self._emitter.emit(events.ListenerLost(error=first_line(error), retry_in=round(pause, 2)))
                await trio.sleep(pause)

    async def _listen(self, connection: TrioConnection) -> None:
        store = self._store.on(connection)
        await store.listen(self._topics)
        if self._failures:
            self._emitter.emit(events.ListenerBack(failures=self._failures))
            self._failures = 0
        self._hints.anything()
        while True:
            async with aclosing(connection.notifies(timeout=_CHECK_SECONDS)) as notifications:
                async for notification in notifications:
                    self._pass_on(notification.channel, notification.payload)
            await self._check(store)

    async def _check(self, store: Store) -> None:
        """A dead connection is silent: only a question shows that nobody is there."""
        with move_on_after(_ANSWER_SECONDS):
            if await store.is_listening(self._topics):
                return
        raise DatabaseUnavailable("the listening connection does not answer, or has lost its registration")

    def _pass_on(self, topic: str, payload: str) -> None:
        if not self._may_read(payload):
            self._hints.anything()
        elif topic == self._notifications.due_topic and (waits := waits_in(payload)) is not None:
            self._hints.due(waits)
        elif topic == self._notifications.done_topic and (finished := finished_in(payload)) is not None:
            self._hints.done(finished)
        else:
            # Too much for one announcement, or another program's: it means something, we do not know what.
            self._hints.anything()

    def _may_read(self, payload: str) -> bool:
        now = trio.current_time()
        if now - self._read_since >= 1.0:
            self._read, self._read_since = 0, now
        self._read += len(payload)
        return self._read <= _READ_PER_SECOND
