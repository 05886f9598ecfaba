"""
Statements whose parameters come encoded: for those that run thousands of times a second, or carry thousands of rows.

psycopg makes a cursor for each statement, looks up a dumper for each parameter and a loader for each column of the
answer, and encodes the elements of a list one by one. Whoever knows the types of a statement can do without all that.
"""

# ruff: noqa: SLF001 - the generators, and the prepared statements, are psycopg's way of being extended.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import generators, pq
from psycopg._preparing import Prepare
from psycopg.adapt import Dumper

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from psycopg._queries import PostgresQuery
    from psycopg.abc import Buffer, PQGen
    from psycopg.pq.abc import PGresult

    from requeuest_trio._postgres.connection import TrioConnection

__all__ = ("Statement", "execute_encoded")

_FATAL = pq.ExecStatus.FATAL_ERROR


class Statement:
    """
    A statement whose parameters come encoded.

    Args:
      query: with placeholders ``$1``, ``$2``, ... whose types are clear from the statement.
      number: how many of them it has.
    """

    __slots__ = ("formats", "query", "types")

    def __init__(self, query: bytes, number: int) -> None:
        self.query = query
        # By these two psycopg knows a statement that it has prepared.
        self.types = (0,) * number
        self.formats = (pq.Format.BINARY,) * number


class _Encoded:
    """A parameter in its binary form, for psycopg's cursors."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class _EncodedDumper(Dumper):
    format = pq.Format.BINARY
    oid = 0  # whatever the statement makes of it

    def dump(self, obj: _Encoded) -> Buffer | None:
        return obj.data


async def execute_encoded(
    conn: TrioConnection[Any], statement: Statement, batches: Iterable[Sequence[bytes | None]]
) -> list[PGresult]:
    """
    Run a statement once for each batch of parameters, and return the results, with values in their text form.

    While the server works on one batch, the next is taken from ``batches``, which may be a generator that only then
    encodes it. The statement is prepared like any other of the connection's.

    Args:
      conn: in whatever state: in a transaction, or with a pipeline.
      statement: what to run.
      batches: of each run the values, in the binary form of their types; None is NULL.

    Raises:
      psycopg.Error: as `TrioConnection.execute`; what follows the run that failed is not run.

    Cancellation: as `TrioConnection.execute`. Without a transaction, the runs before have had their effect.
    """
    if conn._pipeline:
        return [await _through_pipeline(conn, statement, parameters) for parameters in batches]
    async with conn.lock:
        return await conn.wait(_execute(conn, statement, iter(batches)))


def _execute(
    conn: TrioConnection[Any], statement: Statement, batches: Iterator[Sequence[bytes | None]]
) -> PQGen[list[PGresult]]:
    pgconn, known = conn.pgconn, conn._prepared
    described = cast("PostgresQuery", statement)
    answers: list[PGresult] = []
    parameters = next(batches, None)
    yield from conn._start_query()
    while parameters is not None:
        prepare, name = known.get(described)
        if prepare is Prepare.NO:
            pgconn.send_query_params(statement.query, parameters, param_formats=statement.formats)
        else:
            if prepare is Prepare.SHOULD:
                pgconn.send_prepare(name, statement.query)
                _checked(conn, (yield from generators.execute(pgconn)))
            pgconn.send_query_prepared(name, parameters, param_formats=statement.formats)
        key = known.maybe_add_to_cache(described, prepare, name)
        yield from generators.send(pgconn)
        parameters = next(batches, None)
        results = yield from generators.fetch_many(pgconn)
        if key is not None:
            known.validate(key, prepare, name, results)
        answers.append(_checked(conn, results))
        yield from known.maintain_gen(conn)
    return answers


def _checked(conn: TrioConnection[Any], results: list[PGresult]) -> PGresult:
    result = results[-1]
    if result.status == _FATAL:
        raise psycopg.errors.error_from_result(result, encoding=conn.info.encoding)
    return result


async def _through_pipeline(
    conn: TrioConnection[Any], statement: Statement, parameters: Sequence[bytes | None]
) -> PGresult:
    """A pipeline has a queue of cursors, and so needs one."""
    cursor = psycopg.AsyncRawCursor(conn)
    cursor.adapters.register_dumper(_Encoded, _EncodedDumper)
    await cursor.execute(statement.query, [None if value is None else _Encoded(value) for value in parameters])
    await cursor._fetch_pipeline()
    return cast("PGresult", cursor.pgresult)
