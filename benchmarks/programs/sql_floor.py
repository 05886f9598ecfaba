"""
A floor: what a queue asks of PostgreSQL, with no queue around it.

The table is the least that could be one: a key, the request, a state, and an index on what is due. asyncpg on uvloop is
the fastest driver that Python has for this.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, Protocol, Self

import asyncpg
import uvloop

from benchmarks.programs import control
from benchmarks.workload import HEADERS, Workload

BATCH = 200
TABLE = """
CREATE TABLE floor (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, channel text NOT NULL, url text NOT NULL, headers json NOT NULL,
    body bytea NOT NULL, state text NOT NULL DEFAULT 'available', due_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
)
"""
COLUMNS = ["channel", "url", "headers", "body"]
INSERT = "INSERT INTO floor (channel, url, headers, body) VALUES ($1, $2, $3, $4)"
INSERT_AND_NOTIFY = f"WITH added AS ({INSERT} RETURNING id) SELECT pg_notify('floor', '') FROM added"
UNNEST = """
INSERT INTO floor (channel, url, headers, body)
SELECT channel, url, headers::json, body
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) AS input (channel, url, headers, body)
"""
DUE = "CREATE INDEX IF NOT EXISTS floor_due ON floor (channel, due_at, id) WHERE state = 'available'; ANALYZE floor"
CLAIM = """
WITH picked AS MATERIALIZED (
    SELECT id FROM floor WHERE channel = $1 AND state = 'available' AND due_at <= now()
    ORDER BY due_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE floor SET state = 'running' WHERE id IN (SELECT id FROM picked) RETURNING id, url, headers, body
"""
FINISH = "UPDATE floor SET state = 'done', finished_at = now() WHERE id = ANY ($1)"
HEADERS_JSON = json.dumps(list(HEADERS.items()))

WARM_UP = 100
"""Rows, before the clock starts, so that statements are prepared and catalogues read."""

Row = tuple[str, str, str, bytes]


class Floor(Protocol):
    """One way of dealing with rows."""

    async def load(self, rows: Sequence[Row]) -> None:
        """What is to be there before; not measured."""

    async def run(self, rows: Sequence[Row]) -> None:
        """What is measured."""


class Insert:
    """Single-row statements, each with its commit, shared out over some connections."""

    def __init__(self, statements: Sequence[Any]) -> None:
        self._statements = statements

    @classmethod
    async def open(cls, dsn: str, connections: int, statement: str) -> Self:
        """Connect so often."""
        return cls([await (await asyncpg.connect(dsn)).prepare(statement) for _ in range(connections)])

    async def load(self, rows: Sequence[Row]) -> None:
        """Nothing."""

    async def run(self, rows: Sequence[Row]) -> None:
        """Insert."""
        left = iter(rows)

        async def on_one(statement: Any) -> None:
            for row in left:
                await statement.fetch(*row)

        await asyncio.gather(*(on_one(statement) for statement in self._statements))


class Unnest:
    """All rows in one INSERT."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def load(self, rows: Sequence[Row]) -> None:
        """Nothing."""

    async def run(self, rows: Sequence[Row]) -> None:
        """Insert."""
        await self._connection.execute(UNNEST, *(list(column) for column in zip(*rows, strict=True)))


class Copy:
    """All rows in one COPY."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def load(self, rows: Sequence[Row]) -> None:
        """Nothing."""

    async def run(self, rows: Sequence[Row]) -> None:
        """Insert."""
        await self._connection.copy_records_to_table("floor", records=rows, columns=COLUMNS)


class Claim:
    """Claim a batch, finish it, and so on until nothing is left."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def load(self, rows: Sequence[Row]) -> None:
        """Put them there, analysed and on disk."""
        await self._connection.copy_records_to_table("floor", records=rows, columns=COLUMNS)
        await self._connection.execute(DUE)
        await self._connection.execute("CHECKPOINT")

    async def run(self, rows: Sequence[Row]) -> None:
        """Claim and finish."""
        while claimed := await self._connection.fetch(CLAIM, rows[0][0], BATCH):
            await self._connection.execute(FINISH, [row["id"] for row in claimed])


async def open_floor(kind: str, dsn: str) -> Floor:
    """Make the table, and what deals with it."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(TABLE)
    match kind:
        case "insert":
            return await Insert.open(dsn, 1, INSERT)
        case "notify":
            return await Insert.open(dsn, 8, INSERT_AND_NOTIFY)
        case "unnest":
            return Unnest(connection)
        case "copy":
            return Copy(connection)
        case "claim":
            return Claim(connection)
    raise ValueError(kind)


async def main(kind: str, dsn: str, workload: Workload) -> None:
    """Prepare one floor, wait, measure it."""
    rows = [(message.channel, message.url, HEADERS_JSON, message.body) for message in workload.messages()]
    floor = await open_floor(kind, dsn)
    await floor.load(rows[:WARM_UP])
    await floor.run(rows[:WARM_UP])
    await floor.load(rows)
    control.wait_for_go()
    began, cpu = time.monotonic(), control.cpu_seconds()
    await floor.run(rows)
    control.say(seconds=time.monotonic() - began, cpu=control.cpu_seconds() - cpu)


if __name__ == "__main__":
    given = control.arguments()
    uvloop.run(main(given["kind"], given["dsn"], Workload(**given["workload"])))
