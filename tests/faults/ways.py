"""
The ways by which programs reach the database: straight, behind a transaction pooler, and by either of two hosts.

On each of the last two something can go wrong that the server knows nothing of. The pooler can lose its sessions at a
commit, because a proxy stands between it and the server; and each of the two hosts, which are proxies too, can fall
silent. If everything is to go behind the pooler, then the other two ways lead through it as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.poolers import OWN, PGBOUNCER, is_installed, running_pooler
from tests.postgres_messages import Conversation, Loss, When, committing
from tests.proxy import Proxy, open_proxy
from tests.servers import TestServer
from tests.throwaway import Throwaway

SESSIONS = 60
"""Of the pooler, so that none of its clients has to wait for one."""
PATIENCE = 60.0
LOSSES: tuple[Callable[[Proxy, When], Loss], ...] = (
    Proxy.drop_next_request,
    Proxy.drop_next_reply,
    Proxy.cut_next_reply_short,
)
"""What may become of a commit and its answer."""


def storing(conversation: Conversation) -> bool:
    """Whether with it jobs are stored that have no ordering key."""
    return any(committing(name)(conversation) for name in ("spawn_one", "spawn_claimed", "spawn"))


COMMITS: tuple[When, ...] = (storing, committing("spawn_ordered"), committing("claim"), committing("record"))


@dataclass(frozen=True, slots=True)
class Way:
    """How a program reaches the database."""

    dsn: str
    listen_dsn: str | None = None
    """How it listens, if not by the same way."""


class Ways:
    """All of them, and what can be done to them."""

    def __init__(self, straight: Way, pooled: Way, either: Way, behind: Proxy, hosts: tuple[Proxy, Proxy]) -> None:
        self.straight = straight
        self.pooled = pooled
        self.polling = replace(pooled, listen_dsn=None)
        """As `pooled`; but nobody listens, and so only polling wakes."""
        self.either = either
        self._behind = behind
        self._hosts = hosts

    async def lose(self, lose: Callable[[Proxy, When], Loss], when: When) -> None:
        """Let the pooler lose the session on which a statement is executed next; returns when it has."""
        with trio.fail_after(PATIENCE):
            await lose(self._behind, when).happened.wait()

    def host_of(self, program: str) -> Proxy:
        """The one of the two hosts by which a program goes now; before it is connected, the first that it will try."""
        return max(self._hosts, key=lambda host: sum(link.conversation.program == program for link in host.links))

    @property
    def sessions(self) -> list[int]:
        """The server's processes for those of the pooler, which stay when its clients go."""
        backends = (link.conversation.backend for link in self._behind.links)
        return [backend for backend in backends if backend is not None]


@asynccontextmanager
async def open_ways(server: Throwaway, pooler: str | None = None) -> AsyncIterator[Ways]:
    """
    All ways to a server.

    Args:
        server: which server.
        pooler: the kind of the pooler that all ways are to lead through. None: but those that are called so lead
            through one, which is PgBouncer if it is installed.
    """
    kind = pooler or (PGBOUNCER if is_installed() else OWN)
    direct = server.dsn()
    named = TestServer(socket_dir=server.socket, log=server.log)
    async with open_proxy(direct) as behind:
        with running_pooler(named, kind, sessions=SESSIONS, way=_address(behind.dsn)) as running:
            base, past = (running.dsn(), direct) if pooler else (direct, None)
            async with open_proxy(base) as first, open_proxy(base) as second:
                either = [_address(host.dsn) for host in (first, second)]
                hosts, ports = (",".join(map(str, parts)) for parts in zip(*either, strict=True))
                yield Ways(
                    Way(base, past),
                    Way(running.dsn(), direct),
                    Way(make_conninfo(base, host=hosts, port=ports), past),
                    behind,
                    (first, second),
                )


def _address(dsn: str) -> tuple[str, int]:
    parts = conninfo_to_dict(dsn)
    return str(parts["host"]), int(str(parts["port"]))
