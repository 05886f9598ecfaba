"""Bringing the tables up to date, and checking that they are.

Migrations are numbered SQL files. Each runs in a transaction of its own that locks the journal, or makes it, checks
what was applied before, and writes down version and checksum; so two processes migrating at once take turns step by
step, and a process that dies leaves whole steps.

A step that needs a lock waits for it only briefly, because whoever comes after it waits too; then it is undone, and
tried again after a pause. Before it reads or changes anything, it looks whose the schema and the tables are: what
belongs to another role would run with this role's rights, which may be those of a superuser.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import psycopg
import trio
from psycopg import errors
from psycopg.conninfo import make_conninfo

from requeuest_trio._model import checks
from requeuest_trio._model.dsn import option_for
from requeuest_trio._model.errors import RequeuestError, SchemaMismatch, first_line
from requeuest_trio._model.escaping import cut
from requeuest_trio._model.states import JobState
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._postgres import Dsn, Route, TrioConnection
from requeuest_trio._store.claimed import TOO_LARGE, ClaimedJobs
from requeuest_trio._store.database import NO_LIMITS, connected, for_callers, in_transaction
from requeuest_trio._store.failures import is_lasting, is_of_code, without_contents
from requeuest_trio._store.notifications import Notifications
from requeuest_trio._store.queries import Queries
from requeuest_trio._store.statements import OneConnection

__all__ = ["Migration", "apply_migrations", "check_schema", "migrations"]

T = TypeVar("T")

_LOCK_SECONDS = 1.0
"""How long a step waits for a lock, and with it whoever needs the same table after it."""
_PAUSE_SECONDS = 2.0
"""For how long it then lets others go on."""
_LIMITS = {**NO_LIMITS, "lock_timeout": f"{_LOCK_SECONDS:g}s"}
_LONGEST_DETAILS = 1_000
_MOST_SURPRISES = 10
"""How many times another process may have been first in one step."""
_MOST_RAISED = 3
"""How many times code in the database may raise what is no lasting error by its SQLSTATE."""
_PAGE = 100
_SENDABLE = (JobState.BLOCKED, JobState.AVAILABLE, JobState.RUNNING)
_TABLES = ("migration", "job", "attempt", "worker", "channel", "key_secret")
_CHANGED_MEANWHILE = (
    errors.UndefinedTable,
    errors.InvalidSchemaName,
    errors.DuplicateTable,
    errors.DuplicateObject,
    errors.DuplicateSchema,
    errors.UniqueViolation,
)
"""What PostgreSQL says to one of two who make the journal, or take it away, at the same time."""


class _AnotherWasFirst(Exception):
    """Another process seems to have changed the tables between two looks at them, and to have committed that."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__()
        self.error = error


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from a version of the schema to the next, and back."""

    version: int
    name: str
    up: str
    down: str

    @property
    def checksum(self) -> str:
        """Tells whether the file is the one that was applied."""
        return hashlib.sha256(self.up.encode()).hexdigest()


def _directory() -> Traversable | Path:
    """Inside the package in a wheel, beside `src` in a checkout and an editable install."""
    inside = files("requeuest_trio").joinpath("migrations")
    return inside if inside.is_dir() else Path(__file__).parents[3] / "migrations"


def migrations() -> list[Migration]:
    """All migrations that this version of the library has, in order."""
    directory = _directory()
    found = []
    for file in sorted(directory.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".up.sql"):
            name = file.name.removesuffix(".up.sql")
            down = directory.joinpath(f"{name}.down.sql").read_text("utf-8")
            found.append(Migration(int(name[:4]), name, file.read_text("utf-8"), down))
    return found


async def apply_migrations(
    route: Route, emitter: Emitter, *, schema: str = "requeuest", target: int | None = None
) -> list[str]:
    """Bring the tables in `schema` to version `target` (None: the newest; 0: none), a step at a time.

    Waits for as long as other transactions hold what it needs, but only for a moment at a time.
    """
    queries = Queries(schema)
    schema = queries.schema
    steps = migrations()
    newest = steps[-1].version
    goal = newest if target is None else checks.whole_number("target", target, 0, newest)
    applied: list[str] = []
    take_step = partial(_step, queries=queries, schema=schema, steps=steps, goal=goal)
    with for_callers():
        async with connected(route) as connection:
            with _refusals_told():
                while (step := await _patiently(connection, queries, emitter, take_step)) is not None:
                    applied.append(step)
                if goal:
                    await _validate(connection, queries, schema, emitter)
    return applied


@contextmanager
def _refusals_told() -> Iterator[None]:
    """What a step meets that is no outage, such as an event trigger of the application's, is met again by the next."""
    try:
        yield
    except psycopg.Error as error:
        if not is_lasting(error):
            raise
        # For a view that is in the way, this names it. It may show a row, unless it is of what depends on what.
        of_dependence = isinstance(error, errors.DependentObjectsStillExist | errors.FeatureNotSupported)
        details = cut("; ".join((error.diag.message_detail or "").splitlines()), _LONGEST_DETAILS)
        more = f" ({details})" if of_dependence and details else ""
        text = f"PostgreSQL refuses to migrate: {first_line(error)}{more}; this step was undone"
        raise RequeuestError(text) from without_contents(error)


async def _patiently(
    connection: TrioConnection, queries: Queries, emitter: Emitter, operation: Callable[[TrioConnection], Awaitable[T]]
) -> T:
    """Run an operation in a transaction, again and again while others hold what it needs."""
    began = trio.current_time()
    surprises = raised = 0
    while True:
        try:
            return await in_transaction(connection, queries, _LIMITS, operation)
        except psycopg.Error as error:
            if is_of_code(error):
                # It may be of a conflict, but as well of an application's that says no.
                raised += 1
                if raised == _MOST_RAISED:
                    text = f"PostgreSQL refuses to migrate: {first_line(error)}, {raised} times; this step was undone"
                    raise RequeuestError(text) from without_contents(error)
            elif not isinstance(error, errors.LockNotAvailable | errors.DeadlockDetected):
                raise
            pause, waited = _PAUSE_SECONDS, round(trio.current_time() - began, 1)
            emitter.emit(events.MigrationWaits(waited=waited, retry_in=pause, error=first_line(error)))
        except _AnotherWasFirst as another:
            pause, surprises = 0.0, surprises + 1
            if surprises > _MOST_SURPRISES:
                # There is no other: it is an event trigger that says so, or something else that stays.
                raise another.error from None
        await connection.rollback()
        await trio.sleep(pause)


async def _validate(connection: TrioConnection, queries: Queries, schema: str, emitter: Emitter) -> None:
    """Hold what was stored before to the limits of new rows, reading it while others go on.

    Unfinished jobs that are larger die, since nobody could send them; whatever else is, stays as it is.
    """
    patiently = partial(_patiently, connection, queries, emitter)
    oversized = await patiently(partial(_oversized, queries))
    for start in range(0, len(oversized), _PAGE):
        await patiently(partial(_condemn, queries, emitter, oversized[start : start + _PAGE]))
    for constraint, statement in await patiently(partial(_validations, queries, schema)):
        validate = partial(_execute, statement=statement.encode())
        try:
            await patiently(validate)
        except errors.CheckViolation as error:
            await connection.rollback()
            emitter.emit(events.LimitsExceeded(constraint=constraint, error=first_line(error)))


async def _oversized(queries: Queries, connection: TrioConnection) -> list[UUID]:
    found: list[UUID] = []
    for (statement,) in await (await connection.execute(queries["oversized"])).fetchall():
        cursor = await connection.execute(statement.encode())
        found += [job_id for (job_id,) in await cursor.fetchall()]
    return found


async def _condemn(queries: Queries, emitter: Emitter, job_ids: list[UUID], connection: TrioConnection) -> None:
    store = ClaimedJobs(OneConnection(connection), queries, Notifications(queries.schema, emitter))
    for event in (await store.condemn(job_ids, TOO_LARGE, _SENDABLE)).dead:
        emitter.emit(event)


async def _validations(queries: Queries, schema: str, connection: TrioConnection) -> list[tuple[str, str]]:
    cursor = await connection.execute(queries["validations"], {"schema": schema, "tables": list(_TABLES)})
    return await cursor.fetchall()


async def _execute(connection: TrioConnection, statement: bytes) -> None:
    await connection.execute(statement)


async def check_schema(connection: TrioConnection, dsn: Dsn, schema: str) -> None:
    """Raise `SchemaMismatch`, with the command to run, unless the tables are those of this version of the library."""
    steps = migrations()
    queries = Queries(schema)
    has_journal = await _has_journal(connection, queries, schema)
    version = _verified(steps, await _entries(connection, queries) if has_journal else [], schema)
    if version < steps[-1].version:
        state = f"at version {version}, this library needs {steps[-1].version}" if version else "missing"
        option, remark = option_for(dsn if isinstance(dsn, str) else _dsn_of(connection))
        before = f"{remark}, run" if remark else "run"
        raise SchemaMismatch(
            f"the tables in schema {schema!r} are {state}; {before}: requeuest migrate{option} --schema {schema} "
            "(or await migrate(dsn), or open with migrate=True)"
        )


def _dsn_of(connection: TrioConnection) -> str:
    """All that a connection was made with, but for what the library has added."""
    return make_conninfo(connection.info.dsn, password=connection.info.password or None, client_encoding=None)


async def _step(
    connection: TrioConnection, queries: Queries, schema: str, steps: list[Migration], goal: int
) -> str | None:
    """Apply or take back one migration, and return its name; None if there is nothing to do."""
    await _require_own(connection, queries, schema)
    has_journal = await _has_journal(connection, queries, schema)
    if has_journal:
        # What is read after it, nobody changes before this transaction has ended.
        with _noticing_others():
            await connection.execute(queries["lock_journal"])
    version = _verified(steps, await _entries(connection, queries) if has_journal else [], schema)
    if version == goal:
        return None
    with _noticing_others():
        if not has_journal:
            await connection.execute(queries["make_journal"])
        await connection.execute(queries["lock_tables"])
    # From here on nobody can add a trigger either; so once more.
    await _require_own(connection, queries, schema)
    await connection.execute(queries["enter_schema"])
    if version < goal:
        step = steps[version]
        await connection.execute(queries.filled_in(step.up))
        entry = {"version": step.version, "name": step.name, "checksum": step.checksum}
        await connection.execute(queries["add_to_journal"], entry)
        return f"{step.name}.up"
    step = steps[version - 1]
    await connection.execute(queries.filled_in(step.down))
    await connection.execute(queries["remove_from_journal"], {"version": step.version})
    if version == 1:
        await connection.execute(queries["close_journal"])
    return f"{step.name}.down"


@contextmanager
def _noticing_others() -> Iterator[None]:
    try:
        yield
    except _CHANGED_MEANWHILE as error:
        raise _AnotherWasFirst(error) from error


async def _require_own(connection: TrioConnection, queries: Queries, schema: str) -> None:
    """Raise unless the schema and what is in it are this role's own, or of a role that it is a member of."""
    cursor = await connection.execute(queries["strangers"], {"schema": schema, "tables": list(_TABLES)})
    if problems := [problem for (problem,) in await cursor.fetchall()]:
        raise SchemaMismatch(
            f"the schema {schema!r} is not this role's alone, and what others put there could run with its rights: "
            f"{'; '.join(problems[:3])}; let the owner migrate, remove it, or choose another schema"
        )


async def _has_journal(connection: TrioConnection, queries: Queries, schema: str) -> bool:
    cursor = await connection.execute(queries["has_journal"], {"schema": schema})
    return await cursor.fetchone() is not None


async def _entries(connection: TrioConnection, queries: Queries) -> list[tuple[int, str]]:
    cursor = await connection.execute(queries["journal"])
    return await cursor.fetchall()


def _verified(steps: list[Migration], journal: list[tuple[int, str]], schema: str) -> int:
    """The version that the journal comes to, provided that this library knows all of it."""
    known = [(step.version, step.checksum) for step in steps]
    if journal == known[: len(journal)]:
        return len(journal)
    if len(journal) > len(known):
        raise SchemaMismatch(
            f"the tables in schema {schema!r} are at version {journal[-1][0]}, newer than this library knows "
            f"({known[-1][0]}); run: pip install --upgrade requeuest-trio"
        )
    raise SchemaMismatch(f"the tables in schema {schema!r} were made by other migrations than those of this library")
