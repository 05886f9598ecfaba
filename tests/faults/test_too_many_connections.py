"""
A server that has no connection left, because somebody else has them all.

What could go wrong, and is tried here: an error that does not tell why; a server that is stormed by those who try
again; a process that does not go on by itself when connections are to be had again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg
import pytest
import trio

from requeuest_trio import Config, DatabaseUnavailable, Request, open_requeuest
from requeuest_trio.testing import open_receiver
from tests.faults.outages import in_thread, logged, queue_server, spawn_surely
from tests.throwaway import Throwaway

CONNECTIONS = 16
REASON = "too many clients already"
CONFIG = Config(connect_timeout=0.5, statement_timeout=1.0)
END_OTHERS = """
select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> all (%s)
"""
SECONDS = 3.0
MOST_TRIES = 60
"""Of a process with five pools, in these seconds: each begins with a tenth of one, and doubles its pause."""
BACK_WITHIN = 15.0
"""No pause is longer than two seconds; but the machine may be busy."""


async def test_a_server_without_a_connection_left() -> None:
    settings = {"max_connections": str(CONNECTIONS), "superuser_reserved_connections": "0"}
    async with (
        queue_server(settings) as server,
        open_receiver() as receiver,
        open_requeuest(server.dsn(), lease=2.0, poll_interval=0.5, config=CONFIG) as client,
    ):
        await client.spawn_returning("a", Request.get(receiver.url))
        await client.spawn("a", Request.get(receiver.url), delay=1.0)
        with logged() as log, ExitStack() as stack:
            await in_thread(stack.enter_context, _all_connections(server))
            for event in ("claim_failed", "heartbeat_failed", "listener_lost"):
                await log.wait_for(event)
            before = _refusals(server)
            await trio.sleep(SECONDS)
            assert 0 < _refusals(server) - before <= MOST_TRIES
            with pytest.raises(DatabaseUnavailable, match=REASON):
                await client.spawn("a", Request.get(receiver.url))
            with pytest.raises(DatabaseUnavailable, match=REASON):
                await client.stats()
            with pytest.raises(DatabaseUnavailable, match=REASON):
                async with open_requeuest(server.dsn(), config=CONFIG):
                    raise AssertionError("it has opened without a connection")
            for event in ("claim_failed", "heartbeat_failed", "listener_lost"):
                assert REASON in log.fields(event)[-1]["error"]
        with trio.fail_after(BACK_WITHIN):
            await receiver.wait_for(2)
        with trio.fail_after(BACK_WITHIN):
            await spawn_surely(client, "a", Request.get(receiver.url))
            await receiver.wait_for(3)


@contextmanager
def _all_connections(server: Throwaway) -> Iterator[None]:
    """Have all connections of a server, and leave none to those who had some before."""
    with ExitStack() as stack:
        mine: list[psycopg.Connection] = []
        while len(mine) < CONNECTIONS:
            with suppress(psycopg.OperationalError):
                mine.append(stack.enter_context(psycopg.connect(server.dsn(), autocommit=True)))
                continue
            pids = [connection.info.backend_pid for connection in mine]
            mine[0].execute(END_OTHERS, [pids])
        yield


def _refusals(server: Throwaway) -> int:
    """How often the server has refused a connection so far."""
    return server.log.read_text(errors="replace").count(REASON)
