"""What the tests of the engine look at the world with: the queue as PostgreSQL sees it, and what a scope may leave."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import trio

from requeuest_trio import Client
from requeuest_trio._engine.runner import Runner
from tests.poolers import direct
from tests.postgres.harness import Conn, connect, open_fds
from tests.waiting import PATIENCE, until


class QueueProbe:
    """The queue as PostgreSQL sees it, over a connection of its own."""

    def __init__(self, dsn: str, connection: Conn) -> None:
        self.dsn = dsn
        self.connection = connection

    async def rows(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        return await (await self.connection.execute(query.encode(), params or None)).fetchall()

    async def value(self, query: str, *params: object) -> Any:
        [[value]] = await self.rows(query, *params)
        return value

    async def states(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        return dict(await self.rows("select state::text, count(*) from requeuest.job group by state"))

    async def until_states(self, patience: float = PATIENCE, **wanted: int) -> None:
        async def reached() -> bool:
            return await self.states() == wanted

        with suppress(AssertionError):
            await until(reached, patience=patience)
            return
        raise AssertionError(f"{await self.states()} after {patience} s, not {wanted}")

    async def until_true(self, query: str, *params: object, patience: float = PATIENCE) -> None:
        """Wait until a query gives a true value."""

        async def reached() -> object:
            rows = await self.rows(query, *params)
            return rows and rows[0][0]

        await until(reached, patience=patience)

    async def job(self, job_id: UUID) -> tuple[str, int, str | None]:
        """A job's state, attempts and error."""
        [row] = await self.rows("select state::text, attempts, error from requeuest.job where id = %s", job_id)
        return row[0], row[1], row[2]

    async def forget_outcome(self, worker: UUID, claim: UUID) -> None:
        """As after a failover: all jobs are under the claim again, and what came of their attempts was never there."""
        await self.rows(
            "with forgotten as (delete from requeuest.attempt) update requeuest.job "
            "set state = 'running', worker = %s, claim = %s, claimed_at = now(), finished_at = null, status = null, "
            "response_headers = null, response_body = null, response_truncated = null returning id",
            worker,
            claim,
        )

    async def sessions(self) -> dict[int, str]:
        """
        The server's processes for other connections to this database, each with its last statement.

        Those that are idle behind a pooler are the pooler's own.
        """
        # Inside a transaction PostgreSQL shows what it saw first, again and again.
        await self.rows("select pg_stat_clear_snapshot()")
        return dict(
            await self.rows(
                "select pid, query from pg_stat_activity where datname = current_database() "
                "and backend_type = 'client backend' and pid <> pg_backend_pid() and (%s or state <> 'idle')",
                direct(self.dsn) == self.dsn,
            )
        )


@asynccontextmanager
async def open_probe(dsn: str) -> AsyncIterator[QueueProbe]:
    connection = await connect(dsn)
    try:
        yield QueueProbe(dsn, connection)
    finally:
        connection.close_nowait()


@asynccontextmanager
async def nothing_left(probe: QueueProbe) -> AsyncIterator[None]:
    """Whatever happens in the block: afterwards no task, connection, file, claim or lease of it is left."""
    tasks, files, sessions = _tasks(), open_fds(), await probe.sessions()
    yield
    assert (await probe.states()).get("running", 0) == 0
    assert await probe.value("select count(*) from requeuest.worker where pid = %s", os.getpid()) == 0

    async def as_before() -> bool:
        # The other ends of what was closed need a moment to notice.
        left = (await probe.sessions()).keys() - sessions.keys()
        return not left and _tasks() <= tasks and open_fds() <= files

    with suppress(AssertionError):
        await until(as_before)
        return
    left = f"{_tasks() - tasks} tasks, {open_fds() - files} files, sessions {await probe.sessions()}"
    raise AssertionError(f"left behind: {left}")


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


class Log(logging.Handler):
    """All records of the library's loggers, and a way to wait for one."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def fields(self, event: str) -> list[dict[str, Any]]:
        """The fields of all records of an event."""
        return [getattr(record, "fields") for record in self.records if getattr(record, "event", "") == event]  # noqa: B009

    async def wait_for(self, event: str, number: int = 1, *, patience: float = PATIENCE) -> list[dict[str, Any]]:
        async def logged() -> bool:
            return len(self.fields(event)) >= number

        try:
            await until(logged, patience=patience)
        except AssertionError:
            raise AssertionError(f"no {event}: {[record.getMessage() for record in self.records]}") from None
        return self.fields(event)


def runner_of(client: Client) -> Runner:
    """What delivers in an open queue."""
    runner: Runner = client._load.__self__  # type: ignore[union-attr] # a bound method of it
    return runner
