"""What is found out about a database before a queue in it is opened: whether it will do, and what stands before it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from operator import attrgetter

from psycopg import errors

from requeuest_trio._config import Config
from requeuest_trio._model.channel import All, Channel
from requeuest_trio._model.errors import InvalidRequest, first_line
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._postgres import Dsn, Route, TrioConnection
from requeuest_trio._store.database import run_once
from requeuest_trio._store.failures import without_contents
from requeuest_trio._store.migrate import check_schema
from requeuest_trio._store.notifications import Notifications
from requeuest_trio._store.pooler import check_listen_dsn, has_sessions, is_direct
from requeuest_trio._store.queries import Queries
from requeuest_trio._store.rights import check_rights, quoted
from requeuest_trio._store.statements import OneConnection
from requeuest_trio._store.store import Store

__all__ = ["Opening"]

_ADVICE = "a transaction pooler is in between, so only polling wakes; Config.listen_dsn can name a direct connection"


class Opening:
    """Looks at the database of one queue, once, at the start."""

    def __init__(
        self,
        dsn: Dsn,
        route: Route,
        queries: Queries,
        notifications: Notifications,
        config: Config,
        emitter: Emitter,
    ) -> None:
        """`route` leads to what `dsn` names."""
        self._dsn = dsn
        self._route = route
        self._queries = queries
        self._notifications = notifications
        self._config = config
        self._emitter = emitter
        self._past_pooler = None if config.listen_dsn is None else Route(config.listen_dsn)

    async def prepare(self, channels: Collection[str] | All, settings: Collection[Channel]) -> bool:
        """Find out at once, and not by and by, whether this database will do, and keep the settings of channels in it.

        Returns whether each connection keeps a session to itself: no pooler shares them between transactions.
        """
        prepare = partial(self._prepare, channels, settings)
        no_pooler = await run_once(self._route, self._queries, self._config, prepare)
        return no_pooler or await has_sessions(self._route, self._queries, self._config)

    async def _prepare(
        self, channels: Collection[str] | All, settings: Collection[Channel], connection: TrioConnection
    ) -> bool:
        await check_rights(connection, self._queries, delivers=bool(channels), sets=bool(settings))
        await check_schema(connection, self._dsn, self._queries.schema)
        await check_listen_dsn(connection, self._queries, self._config, self._past_pooler)
        pid, database, recorded, actual = await self._what_answers(connection, channels)
        self._warn_of_collation(database, recorded, actual)
        store = Store(OneConnection(connection), self._queries, self._notifications)
        # In one order for all processes, since it is one transaction.
        for channel in sorted(settings, key=attrgetter("name")):
            await store.set_channel(channel)
        return is_direct(connection, pid)

    async def _what_answers(
        self, connection: TrioConnection, names: Collection[str] | All
    ) -> tuple[int, str, str | None, str | None]:
        channels = [] if isinstance(names, All) else list(names)
        try:
            cursor = await connection.execute(self._queries["what_answers"], {"channels": channels})
            [found] = await cursor.fetchall()
        except errors.UntranslatableCharacter as error:
            encoding = connection.info.parameter_status("server_encoding")
            problem = f"the database, whose encoding is {encoding}, can't hold one of these names: {first_line(error)}"
            raise InvalidRequest("channels", problem) from without_contents(error)
        return found

    def _warn_of_collation(self, database: str, recorded: str | None, actual: str | None) -> None:
        """Tell of an update of the system under the data. What has no version now can't be given one anew."""
        if recorded is not None and actual not in {None, recorded}:
            name = quoted(database)
            self._emitter.emit(
                events.CollationChanged(
                    database=database,
                    recorded=recorded,
                    actual=actual,
                    advice=f"REINDEX DATABASE {name}, then ALTER DATABASE {name} REFRESH COLLATION VERSION",
                )
            )

    def listening_route(self, poll_interval: float, *, sessions: bool) -> Route | None:
        """Where notifications can be heard. None: nowhere, so only the poll finds what other processes do."""
        if not self._config.notifications:
            return None
        if self._past_pooler is None and not sessions:
            self._emitter.emit(events.Pooled(poll_interval=poll_interval, advice=_ADVICE))
            return None
        return self._past_pooler or self._route
