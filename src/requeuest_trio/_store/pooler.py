"""Finding out what stands between this library and PostgreSQL.

A transaction pooler (PgBouncer in transaction mode, and the like) lends out one of its server's sessions for a
transaction, and then perhaps another. What a session keeps is lost there, or found by others: settings, prepared
statements, and what it listens to. A session pooler keeps them, and so is like no pooler at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from contextlib import AsyncExitStack
from functools import partial

from requeuest_trio._config import Config
from requeuest_trio._model.errors import DatabaseUnavailable, InvalidRequest
from requeuest_trio._postgres import Route, TrioConnection
from requeuest_trio._real_time import move_on_after
from requeuest_trio._store.database import connected, for_callers, run_once
from requeuest_trio._store.queries import Queries

__all__ = ["check_listen_dsn", "has_sessions", "is_direct"]

_ROUNDS = 3


def is_direct(connection: TrioConnection, pid: int) -> bool:
    """Whether PostgreSQL itself answers, by its process `pid`: poolers tell their clients made-up process ids."""
    return pid == connection.info.backend_pid


async def has_sessions(route: Route, queries: Queries, config: Config) -> bool:
    """Whether each of two connections keeps a session of the server to itself.

    While one is in a transaction, the other's session is looked for: a transaction pooler hands that of an idle
    connection to the next that asks, or gives a connection another than before.
    """
    with move_on_after(2 * config.connect_timeout), for_callers():
        async with AsyncExitStack() as stack:
            one, other = [await stack.enter_async_context(connected(route, config.connect_timeout)) for _ in range(2)]
            seen: dict[TrioConnection, set[int]] = {one: set(), other: set()}
            for _ in range(_ROUNDS):
                seen[one].add(await _backend(one, queries))
                async with other.transaction():
                    seen[other].add(await _backend(other, queries))
                    # At once: if there is but one session, the next question would wait for it for ever.
                    if _are_shared(seen.values()):
                        return False
                    seen[one].add(await _backend(one, queries))
                one, other = other, one
            return not _are_shared(seen.values())
    raise DatabaseUnavailable(f"the pooler gave no second connection within {2 * config.connect_timeout:g} s")


def _are_shared(seen: Collection[set[int]]) -> bool:
    return len(set.union(*seen)) < len(seen) or any(len(sessions) > 1 for sessions in seen)


async def check_listen_dsn(
    connection: TrioConnection, queries: Queries, config: Config, past_pooler: Route | None
) -> None:
    """Raise unless `Config.listen_dsn` leads to the same database, and keeps a session. Needs a transaction."""
    if past_pooler is None:
        return
    # Locks are the database's, and known at once; with names and numbers, copies of a database might agree.
    token = secrets.randbits(63)
    await connection.execute(queries["take_token"], {"token": token})
    try:
        is_other, direct = await run_once(past_pooler, queries, config, partial(_look, queries, token))
        keeps = direct or await has_sessions(past_pooler, queries, config)
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(f"listen_dsn: {error}") from error
    # Still there, and with it the lock? A slow way to `listen_dsn` may have taken longer than a transaction may idle.
    with for_callers():
        await connection.execute(queries["backend"])
    if is_other:
        raise InvalidRequest("listen_dsn", "leads to another database than dsn")
    if not keeps:
        raise InvalidRequest("listen_dsn", "leads to a transaction pooler too, over which nothing can be heard")


async def _look(queries: Queries, token: int, connection: TrioConnection) -> tuple[bool, bool]:
    cursor = await connection.execute(queries["is_free_token"], {"token": token})
    [(is_other,)] = await cursor.fetchall()
    return is_other, is_direct(connection, await _backend(connection, queries))


async def _backend(connection: TrioConnection, queries: Queries) -> int:
    [(pid,)] = await (await connection.execute(queries["backend"])).fetchall()
    return int(pid)
