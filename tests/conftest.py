"""
The fixtures every test may use: a real PostgreSQL, and a database of its own for each test.

`dsn` is an empty database, `migrated_dsn` one with the schema in place. Both are dropped afterwards, whatever is still
connected; a test that asks for `no_leaks` as well fails if something is. The server belongs to this session alone (see
`servers.py`).

With the environment variable `REQUEUEST_TEST_POOLER=own` (or `pgbouncer`) both lead through a transaction pooler. The
tests' own looks at the database, by `tests.postgres.harness.connect`, go past it. What is about sessions or
notifications is marked `needs_sessions`, and skipped then.
"""

import contextlib
import gc
import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
import trio
from hypothesis import HealthCheck, settings
from psycopg import sql

from requeuest_trio.testing import Receiver, open_receiver
from tests.engine.probe import QueueProbe, open_probe
from tests.faults.figures import ANSWERS
from tests.poolers import POOLER_VARIABLE, Pooler, passed_by, running_pooler
from tests.servers import TestServer, running_server, wait_for

# How fast examples come says more about the machine than about a test: the first one in a new checkout waits for the
# table of Unicode's characters to be made.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# What nohup ignores, or a shell for a command in the background, the processes that tests start would ignore too.
for number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

_numbers = itertools.count(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum up what all tests have told of answers."""
    reports = itertools.chain.from_iterable(terminalreporter.stats.values())
    told = [value for report in reports for name, value in getattr(report, "user_properties", ()) if name == ANSWERS]
    if told:
        stored, different, lost = map(sum, zip(*told, strict=True))
        terminalreporter.write_line(
            f"{stored:,} answers stored in {len(told)} fault tests: "
            f"{different:,} different from what was sent, {lost:,} lost"
        )


@pytest.fixture(scope="session")
def server() -> Iterator[TestServer]:
    """The session's PostgreSQL server."""
    with running_server() as running:
        yield running


@pytest.fixture(scope="session")
def admin(server: TestServer) -> Iterator[psycopg.Connection]:
    """A blocking connection to the server's `postgres` database, for creating and dropping databases."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def way(server: TestServer) -> Iterator[TestServer | Pooler]:
    """What the DSNs of tests lead to: the server, or a pooler in front of it."""
    kind = os.environ.get(POOLER_VARIABLE)
    if not kind:
        yield server
        return
    with running_pooler(server, kind) as pooler, passed_by(pooler):
        yield pooler


@pytest.fixture(autouse=True)
def _sessions(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("needs_sessions")
    if marker and os.environ.get(POOLER_VARIABLE):
        pytest.skip(f"behind a pooler: {marker.args[0]}")


@pytest.fixture
def dsn(way: TestServer | Pooler, admin: psycopg.Connection) -> Iterator[str]:
    """The DSN of a new, empty database."""
    name = _create_database(admin, "template1")
    yield way.dsn(name)
    _drop_database(admin, name)


@pytest.fixture(scope="session")
def migrated_template(server: TestServer, admin: psycopg.Connection) -> str:
    """The name of a database that was migrated once and is only copied from."""
    from requeuest_trio import migrate

    name = _create_database(admin, "template1")
    trio.run(migrate, server.dsn(name))
    return name


@pytest.fixture
def migrated_dsn(way: TestServer | Pooler, admin: psycopg.Connection, migrated_template: str) -> Iterator[str]:
    """The DSN of a new database in which the schema `requeuest` is up to date."""
    name = _create_database(admin, migrated_template)
    yield way.dsn(name)
    _drop_database(admin, name)


@pytest.fixture
async def probe(migrated_dsn: str) -> AsyncIterator[QueueProbe]:
    """The queue as PostgreSQL sees it."""
    async with open_probe(migrated_dsn) as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A real HTTP server that does what it is told."""
    async with open_receiver() as running:
        yield running


@pytest.fixture
def no_leaks(admin: psycopg.Connection) -> Iterator[None]:
    """After the test, this process has no descriptor open that it had not before, and only `admin` is connected."""
    before = _descriptors()
    yield
    wait_for(lambda: _clients(admin) == 0, patience=5.0)
    gc.collect()
    leaked = {number: what for number, what in _descriptors().items() if before.get(number) != what}
    assert leaked == {}


def _descriptors() -> dict[int, str]:
    """The open descriptors and what they lead to."""
    found = {}
    for path in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):  # the one that lists this directory is gone by now
            found[int(path.name)] = str(path.readlink())
    return found


def _clients(admin: psycopg.Connection) -> int:
    query = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
    row = admin.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _create_database(admin: psycopg.Connection, template: str) -> str:
    name = f"test_{next(_numbers)}"
    admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    return name


def _drop_database(admin: psycopg.Connection, name: str) -> None:
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
