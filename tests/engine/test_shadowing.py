"""
A role that may create in a schema of the application's `search_path`, and has put traps there; see `shadows.py`.
Invariant: nothing of his is used, in whatever the library does, and all of it works.

It makes no difference whether his schema comes before PostgreSQL's own, where the same names are enough, or behind it,
where better signatures count; nor whether the path is the database's or was set in the transaction at hand. What
sessions of the library set for themselves is not enough: statements that store jobs run in the application's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import trio
from psycopg import sql

from requeuest_trio import (
    ALL,
    Channel,
    Client,
    Config,
    JobDead,
    JobState,
    Request,
    RetryPolicy,
    TrioConnection,
    migrate,
    open_requeuest,
)
from requeuest_trio._store.migrate import migrations
from requeuest_trio._store.queries import Queries, parsed
from requeuest_trio._store.store import Store
from requeuest_trio.testing import Receiver, Reply
from tests.engine.roles import another_role
from tests.engine.shadows import Shadows
from tests.engine.store_harness import delivered, new_job
from tests.engine.test_names import UNPINNED
from tests.poolers import Pooler, direct
from tests.postgres.harness import Conn
from tests.servers import TestServer

UP = [f"{step.name}.up" for step in migrations()]
DOWN = [f"{step.name}.down" for step in reversed(migrations())]
PATHS = {"before": "{}, public, pg_catalog", "behind": '"$user", {}'}
"""Where the schema with the traps stands."""
_numbers = count(1)


class Trapped:
    """A database with traps."""

    def __init__(self, dsn: str, shadows: Shadows) -> None:
        self.dsn = dsn
        self._shadows = shadows
        self.hostile = f"SET search_path = {shadows.schema}, public, pg_catalog".encode()
        """What an application may say in its transaction."""

    def check(self) -> None:
        assert self._shadows.sprung(self.dsn) is None

    def trap_own_types(self) -> None:
        self._shadows.make_for(self.dsn, "requeuest.job_state", "requeuest.job_state[]")


class Template:
    """A database with traps, to be copied."""

    def __init__(self, name: str, where: str) -> None:
        self.name = name
        self.shadows = Shadows("shadow" if where == "before" else "public")
        self.path = PATHS[where].format(self.shadows.schema)

    def copied(self, admin: psycopg.Connection) -> str:
        name = f"{self.name}_{next(_numbers)}"
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(self.name))
        admin.execute(copy)
        change = sql.SQL("ALTER DATABASE {} SET search_path = {}").format(sql.Identifier(name), sql.SQL(self.path))
        admin.execute(change)
        return name


def _drop(admin: psycopg.Connection, name: str) -> None:
    admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module", params=PATHS)
def template(server: TestServer, admin: psycopg.Connection, request: pytest.FixtureRequest) -> Iterator[Template]:
    template = Template(f"trapped_{request.param}", request.param)
    admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(template.name)))
    template.shadows.make(server.dsn(template.name))
    yield template
    _drop(admin, template.name)


@pytest.fixture
def trapped(way: TestServer | Pooler, admin: psycopg.Connection, template: Template) -> Iterator[Trapped]:
    name = template.copied(admin)
    database = Trapped(way.dsn(name), template.shadows)
    yield database
    database.check()
    _drop(admin, name)


class Used:
    """The names of the statements that have run, and of those that a caller's own transaction has seen."""

    def __init__(self) -> None:
        self.at_all: set[str] = set()
        self.by_callers: set[str] = set()
        self._is_caller: ContextVar[bool] = ContextVar("is_caller", default=False)

    def note(self, name: str) -> None:
        self.at_all.add(name)
        if self._is_caller.get():
            self.by_callers.add(name)

    @contextmanager
    def by_caller(self) -> Iterator[None]:
        token = self._is_caller.set(True)
        try:
            yield
        finally:
            self._is_caller.reset(token)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Used:
    found = Used()
    plainly, numbered = Queries.__getitem__, Queries.numbered

    def note_plainly(queries: Queries, name: str) -> bytes:
        found.note(name)
        return plainly(queries, name)

    def note_numbered(queries: Queries, name: str) -> Any:
        found.note(name)
        return numbered(queries, name)

    monkeypatch.setattr(Queries, "__getitem__", note_plainly)
    monkeypatch.setattr(Queries, "numbered", note_numbered)
    return found


async def test_in_all_that_the_library_does(trapped: Trapped, receiver: Receiver, used: Used) -> None:
    assert await migrate(trapped.dsn) == UP
    assert await migrate(trapped.dsn, target=0) == DOWN
    assert await migrate(trapped.dsn) == UP
    trapped.check()
    trapped.trap_own_types()
    settings = [Channel("ordered", ordered=True)]
    # A way of its own for the one that listens, since there may be a pooler on the other.
    config = Config(listen_dsn=direct(trapped.dsn), keep_dead=86_400.0)
    async with open_requeuest(trapped.dsn, settings, config=config) as client:
        await _deliver(client, "ordered", receiver)
        trapped.check()
    async with open_requeuest(trapped.dsn, ALL, poll_interval=0.1, config=config) as client:
        await _deliver(client, "c", receiver)
        trapped.check()
        with used.by_caller():
            stored = await _join_transactions(client, receiver, trapped)
        assert stored <= {job.id async for job in client.jobs()}
        trapped.check()
    async with open_requeuest(trapped.dsn, (), config=config) as client:
        await _keep_order(client, client._store)
        await _lose_and_rescue(client, client._store)
        trapped.check()
        assert await client.clear(ALL) > 0
    trapped.check()
    assert used.by_callers - UNPINNED == set()
    assert used.by_callers >= {"spawn_one", "spawn", "spawn_ordered", "announce", "ordered_channels", "lock_keys"}
    assert set(parsed()) - used.at_all - _not_here(trapped.dsn) == set()


async def _deliver(client: Client, channel: str, receiver: Receiver) -> None:
    """Everything that a client can be asked for."""
    keys = [None] if channel == "ordered" else [None, "k"]
    policy = RetryPolicy(initial=0.01, give_up_on=404)
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(client.spawn, channel, Request.get(f"{receiver.url}/{number}"))
    for key in keys:
        receiver.script(Reply(503), Reply(200), target="/retried")
        receiver.script(Reply(404), target="/dead")
        spawn = partial(client.spawn, channel, ordering_key=key, retry=policy)
        job_id = uuid4()
        for _ in range(2):
            await spawn(Request.get(receiver.url), job_id=job_id)
        await spawn(Request.get(receiver.url), delay=0.01)
        await client.spawn_many(channel, [Request.get(receiver.url)] * 3, job_id=[job_id, uuid4(), uuid4()], priority=1)
        retried = await spawn(Request.get(receiver.url + "/retried"))
        dead = await spawn(Request.get(receiver.url + "/dead"))
        assert (await client.result(retried)).status_code == 200
        with pytest.raises(JobDead):
            await client.result(dead)
        assert await client.attempts(dead)
    assert (await client.spawn_returning(channel, Request.get(receiver.url))).status_code == 200
    found = [job async for job in client.jobs(channel=channel, state=JobState.SUCCEEDED)]
    assert found
    assert [job async for job in client.jobs(ordering_key="k")] or channel == "ordered"
    assert (await client.wait(found[0].id)).state is JobState.SUCCEEDED
    assert (await client.stats()).channels[channel]


async def _join_transactions(client: Client, receiver: Receiver, trapped: Trapped) -> set[UUID]:
    """Store jobs in transactions of the application's, which sets a path of its own."""

    async def store(connection: TrioConnection[Any]) -> list[UUID]:
        stored = []
        for channel, key in (("c", None), ("c", "k"), ("ordered", None)):
            spawn = partial(client.spawn, channel, ordering_key=key, connection=connection)
            job_id = uuid4()
            await spawn(Request.get(receiver.url), job_id=job_id)
            await spawn(Request.get(receiver.url), job_id=job_id)
            stored.append(await spawn(Request.get(receiver.url), delay=0.01))
            stored += await client.spawn_many(
                channel,
                [Request.get(receiver.url)] * 3,
                job_id=[job_id, uuid4(), uuid4()],
                ordering_key=key,
                connection=connection,
            )
        return stored

    stored: set[UUID] = set()
    if direct(trapped.dsn) == trapped.dsn:
        async with client.transaction() as connection:
            await connection.execute(b"PREPARE mine AS SELECT")
    for statement in (b"SET DateStyle = ISO", trapped.hostile):
        async with client.transaction() as connection:
            await connection.execute(statement)
            stored.update(await store(connection))
        for autocommit in (True, False):
            own = await TrioConnection.connect(trapped.dsn, autocommit=autocommit, prepare_threshold=None)
            async with own:
                await own.execute(statement)
                stored.update(await store(own))
                await own.commit()
    return stored


async def _keep_order(client: Client, store: Store) -> None:
    """What is done for ordering keys when others are in the way."""
    worker, jobs = uuid4(), [new_job("d", "k") for _ in range(3)]
    await store.register(worker=worker, lease=60.0)
    await store.spawn(jobs=jobs)
    claimed, *_ = await store.claim(worker=worker, claim=uuid4(), places={"d": 5})
    assert await store.body(job=claimed[0]) is not None
    assert await store.held_claims(worker=worker) == {job.claim for job in claimed}
    assert await store.locked_jobs(job_ids=[job.id for job in jobs]) == set()
    await store.record(reports=[delivered(job) for job in claimed], now=0.0, excerpt=10)
    assert await store.due_channels(channels=["d"], horizon=1.0)
    assert await store.due_channels(channels=None, horizon=1.0)
    due = await store.first_due(channel="d")
    assert due is not None
    assert (await store.condemn(job_ids=[due[0]], problem="nobody wants it")).unblocked == {"d": 0.0}
    await store.unblock_what_is_free(keys={("d", "k")})
    assert await store.key_holders(jobs=jobs) == []
    await store.free_stranded()
    await client._database.run(partial(_make_room, store._queries))
    assert not await store.is_listening(topics=["nobody"])
    assert await store.still_unfinished(job_ids=[job.id for job in jobs])
    await store.deregister(worker=worker)


async def _make_room(queries: Queries, connection: Conn) -> None:
    await connection.execute(queries["make_room_for_notifications"])


async def _lose_and_rescue(client: Client, store: Store) -> None:
    """What is done with jobs of a process that gives up some, and is lost with others."""
    worker, jobs = uuid4(), [new_job("e") for _ in range(4)]
    await store.register(worker=worker, lease=60.0)
    await store.spawn(jobs=jobs)
    claimed = []
    for _ in jobs:
        claimed += (await store.claim(worker=worker, claim=uuid4(), places={"e": 1}))[0]
    assert await store.release_jobs(worker=worker, jobs=claimed[:1]) == 1
    assert await store.release(worker=worker, claims=[claimed[1].claim]) == 1
    assert await store.orphan(worker=worker, claims=[claimed[2].claim]) == 1
    assert await store.heartbeat(worker=worker) is not None
    lost = [sign for sign in await store.signs_of_life() if sign.worker == worker]
    assert await store.rescue(lost=lost) == 2
    await store.forget(lost=lost)
    assert await store.heartbeat(worker=worker) is None
    await store.bring_back()


def _not_here(dsn: str) -> set[str]:
    """Statements that take a replica, a newer server, or no pooler."""
    absent = {"begin_reading"}
    if direct(dsn) != dsn:
        absent.add("forget_prepared_statements")
    with psycopg.connect(direct(dsn)) as connection:
        if connection.info.server_version < 170000:
            absent.add("leave_transaction_timeout_to_caller")
    return absent


async def test_in_what_another_role_inserts(trapped: Trapped, receiver: Receiver) -> None:
    """By the documented statement, with the trigger that puts jobs in order."""
    await migrate(trapped.dsn)
    trapped.trap_own_types()
    async with open_requeuest(trapped.dsn, [Channel("ordered", ordered=True)], poll_interval=0.1) as client:
        rights = "GRANT USAGE ON SCHEMA requeuest TO {role}; GRANT INSERT ON requeuest.job TO {role}"
        with another_role(trapped.dsn, rights) as producer, psycopg.connect(producer, autocommit=True) as connection:
            for statement in (b"SET DateStyle = ISO", trapped.hostile):
                connection.execute(statement)
                for channel, key in (("ordered", None), ("c", "k"), ("c", None)):
                    connection.execute(
                        "INSERT INTO requeuest.job (channel, ordering_key, method, url) VALUES (%s, %s, 'GET', %s)",
                        [channel, key, receiver.url],
                    )
        await receiver.wait_for(2)
        trapped.check()
        assert (await client.stats()).channels.keys() == {"ordered", "c"}


@pytest.mark.parametrize(
    ("statement", "sprung"),
    [
        ("SELECT cardinality('{}'::pg_catalog.uuid[])", "function"),
        ("SELECT unnest('{a}'::pg_catalog.text[])", "function"),
        ("SELECT 'a'::pg_catalog.text || 'b'::pg_catalog.text", "operator"),
        ("SELECT 1 IN (2, 3)", "operator"),
        ("SELECT nullif(1, 2)", "operator"),
        ("SELECT -'1 s'::interval", "operator"),
        ("SELECT FROM (VALUES (1)) AS a (n) JOIN (VALUES (2)) AS b (n) USING (n)", "operator"),
        ("SELECT 'a'::text", "type"),
        ("SELECT oid FROM pg_class", "relation"),
    ],
)
def test_the_traps_spring(
    server: TestServer, admin: psycopg.Connection, template: Template, statement: str, sprung: str
) -> None:
    """What is not qualified is caught, if the schema with the traps comes first."""
    name = template.copied(admin)
    with psycopg.connect(server.dsn(name)) as connection:
        connection.execute(f"SET search_path = {template.shadows.schema}, pg_catalog".encode())
        connection.execute(statement.encode())
    assert str(template.shadows.sprung(server.dsn(name))).startswith(f"the {sprung} ")
    _drop(admin, name)
