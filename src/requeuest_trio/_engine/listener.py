"""Hears what other processes announce, and passes it on as wake-ups.

A wake-up may be lost or merged; polling is the truth. So after every new connection everything is looked at once,
because nothing was heard while there was none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import trio

from requeuest_trio._model.backoff import Backoff
from requeuest_trio._model.errors import DatabaseUnavailable, first_line
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._real_time import move_on_after
from requeuest_trio._store.database import DATABASE_ERRORS, Database
from requeuest_trio._store.store import Store

__all__ = ["Listener", "Topic"]

_CHECK_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_READ_PER_SECOND = 1_000_000
"""How many characters of announcements are read in a second. Whoever sends more gets a look at the database."""

T = TypeVar("T")


class Topic(Generic[T]):
    """What is announced under one name."""

    def __init__(self, read: Callable[[str], T | None], tell: Callable[[T], None]) -> None:
        """
        Args:
            read: what a payload says; None if it is not written as the library writes it.
            tell: called with that.
        """
        self._read = read
        self._tell = tell

    def pass_on(self, payload: str) -> bool:
        """Tell what a payload says. Returns whether it says anything."""
        said = self._read(payload)
        if said is None:
            return False
        self._tell(said)
        return True


class Listener:
    """One connection that does nothing but listen. `run` has to be running."""

    def __init__(
        self,
        database: Database,
        store: Store,
        topics: Mapping[str, Topic[Any]],
        on_anything: Sequence[Callable[[], None]],
        emitter: Emitter,
    ) -> None:
        """
        Args:
            database: has the one connection, which is kept.
            store: what is asked on it.
            topics: what to listen to, by the names under which PostgreSQL has it.
            on_anything: called when something may have happened, but not what: look at the database.
            emitter: told what happens to the connection.
        """
        self._database = database
        self._store = store
        self._topics = topics
        self._on_anything = on_anything
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
        await store.listen(list(self._topics))
        if self._failures:
            self._emitter.emit(events.ListenerBack(failures=self._failures))
            self._failures = 0
        self._look_at_everything()
        while True:
            async with aclosing(connection.notifies(timeout=_CHECK_SECONDS)) as notifications:
                async for notification in notifications:
                    self._pass_on(notification.channel, notification.payload)
            await self._check(store)

    async def _check(self, store: Store) -> None:
        """A dead connection is silent: only a question shows that the other end is gone."""
        with move_on_after(_ANSWER_SECONDS):
            if await store.is_listening(list(self._topics)):
                return
        raise DatabaseUnavailable("the listening connection does not answer, or has lost its registration")

    def _pass_on(self, topic: str, payload: str) -> None:
        if not self._may_read(payload) or topic not in self._topics or not self._topics[topic].pass_on(payload):
            # Too much for one announcement, or another program's: it means something, we do not know what.
            self._look_at_everything()

    def _look_at_everything(self) -> None:
        for look in self._on_anything:
            look()

    def _may_read(self, payload: str) -> bool:
        now = trio.current_time()
        if now - self._read_since >= 1.0:
            self._read, self._read_since = 0, now
        self._read += len(payload)
        return self._read <= _READ_PER_SECOND
