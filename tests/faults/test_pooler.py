"""
A transaction pooler between the library and PostgreSQL: PgBouncer, or one of the tests' own.

What could go wrong: settings, prepared statements or registrations that land in a session that somebody else has next;
statements that meet a session without them; a LISTEN that hears nothing; outcomes believed before their commit.
"""

from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from requeuest_trio import (
    Client,
    Config,
    DatabaseUnavailable,
    InvalidRequest,
    JobState,
    Request,
    RetryPolicy,
    migrate,
    open_requeuest,
)
from requeuest_trio._store.database import Database
from requeuest_trio._store.queries import Queries
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import QueueProbe
from tests.engine.roles import another_role
from tests.engine.test_logging import check_table
from tests.engine.test_store_settings import change_defaults
from tests.faults.outages import in_thread, logged, open_replica, queue_server, spawn_surely
from tests.poolers import OWN, PGBOUNCER, SESSIONS, Pooler, is_installed, running_pooler
from tests.postgres.harness import connect, value
from tests.postgres_messages import committing
from tests.proxy import open_proxy
from tests.servers import TestServer

NO_PGBOUNCER = pytest.mark.skipif(not is_installed(), reason="PgBouncer is not installed")
KINDS = [OWN, pytest.param(PGBOUNCER, marks=NO_PGBOUNCER)]
LONG_POLL = 60.0
CHANGED = "select name, setting from pg_settings where source = 'session' and name <> all (%s)"
NOT_OURS = {"application_name", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings"}
"""Settings that PgBouncer itself keeps of each client, and gives to whichever session that has."""
NOT_OURS |= {"transaction_isolation", "transaction_read_only", "transaction_deferrable"}
QUICKLY = RetryPolicy(initial=0.01)
LEFT = {
    "a path": "SET search_path = nowhere",
    "a role": "SET ROLE {role}",
    "a user": "SET SESSION AUTHORIZATION {role}",
    "a kind of transaction": "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
    "formats and plans": "SET DateStyle = German; SET enable_indexscan = off; SET enable_seqscan = on",
    "temporary tables": "CREATE TEMP TABLE job (id int); CREATE TEMP VIEW pg_class AS SELECT 1 AS oid",
    "a statement": "PREPARE _pg3_0 AS SELECT 'not yours'",
    "a subscription": 'LISTEN "requeuest:due"',
}
"""What an application may leave in a session, in spite of all that is said about poolers."""


@pytest.fixture(scope="module", params=KINDS)
def pooler(server: TestServer, request: pytest.FixtureRequest) -> Iterator[Pooler]:
    with running_pooler(server, request.param) as running:
        yield running


@pytest.fixture
def pooled(pooler: Pooler, migrated_dsn: str) -> str:
    """The way through the pooler to a database with the schema in place."""
    return pooler.through(migrated_dsn)


# --- what is found out ------------------------------------------------------------------------------------------------


async def test_it_is_found_out_and_said_once_and_nobody_listens(pooled: str, probe: QueueProbe) -> None:
    with logged() as log:
        async with open_requeuest(pooled, poll_interval=0.1):
            await log.wait_for("opened")
            [said] = log.fields("pooled")
            assert said["poll_interval"] == 0.1
            assert "Config.listen_dsn" in said["advice"]
            assert not any("LISTEN" in query for query in (await probe.sessions()).values())
        async with open_requeuest(pooled, (), config=Config(notifications=False)):
            pass
    assert len(log.fields("pooled")) == 1
    assert log.fields("listener_lost") == []
    check_table(log)


@pytest.mark.parametrize("sessions", [1, 2, 9])
@pytest.mark.parametrize("kind", KINDS)
async def test_it_is_found_out_however_many_sessions_it_has(
    server: TestServer, migrated_dsn: str, kind: str, sessions: int
) -> None:
    with running_pooler(server, kind, sessions=sessions) as pooler, logged() as log:
        async with open_requeuest(pooler.through(migrated_dsn), ()):
            assert len(log.fields("pooled")) == 1


async def test_without_a_pooler_there_is_nothing_to_say(migrated_dsn: str) -> None:
    with logged() as log:
        async with open_requeuest(migrated_dsn, ()):
            pass
    assert log.fields("pooled") == []


@NO_PGBOUNCER
async def test_a_session_pooler_is_like_none(server: TestServer, migrated_dsn: str, receiver: Receiver) -> None:
    with running_pooler(server, PGBOUNCER, mode="session", sessions=20) as pooler, logged() as log:
        dsn = pooler.through(migrated_dsn)
        async with open_requeuest(dsn, ()) as producer, open_requeuest(dsn, poll_interval=LONG_POLL):
            await _is_woken_by(producer, receiver)
    assert log.fields("pooled") == []


@NO_PGBOUNCER
async def test_what_others_have_left_in_a_session_is_in_nobodys_way(
    server: TestServer, migrated_dsn: str, receiver: Receiver
) -> None:
    """A session pooler that does not reset sessions, and a client whose prepared statements have the same names."""
    options = "server_reset_query =\n"
    with (
        another_role(migrated_dsn) as theirs,
        running_pooler(server, PGBOUNCER, mode="session", sessions=20, options=options) as pooler,
        logged() as log,
    ):
        dsn, role = pooler.through(migrated_dsn), conninfo_to_dict(theirs)["user"]
        for _ in range(3):
            async with AsyncExitStack() as stack:
                for _ in range(8):
                    connection = await connect(dsn)
                    stack.callback(connection.close_nowait)
                    await connection.execute("reset role")
                    await connection.execute("set time zone 'Asia/Kathmandu'; set search_path = nowhere")
                    await connection.execute("create temp table if not exists job (id int)")
                    for number in range(3):
                        with suppress(psycopg.errors.DuplicatePreparedStatement):
                            await connection.execute(f"prepare _pg3_{number} as select 'not yours'".encode())
                    await connection.execute(f"set role {role}".encode())
            assert await migrate(dsn) == []
            async with open_requeuest(dsn, poll_interval=0.1) as client:
                for _ in range(8):  # more often than psycopg needs to prepare a statement
                    assert (await client.spawn_returning("a", Request.get(receiver.url))).content == b"ok"
    for event in ("record_failed", "claim_failed", "heartbeat_failed", "maintenance_failed", "listener_lost"):
        assert log.fields(event) == []
    assert len(receiver.arrivals) == 24


@NO_PGBOUNCER
async def test_a_statement_pooler_is_refused_by_name(server: TestServer, migrated_dsn: str) -> None:
    with (
        running_pooler(server, PGBOUNCER, mode="statement") as pooler,
        pytest.raises(DatabaseUnavailable, match="statement pooling mode"),
    ):
        async with open_requeuest(pooler.through(migrated_dsn)):
            pass


# --- what works -------------------------------------------------------------------------------------------------------


async def test_everything_works_through_it_and_leaves_nothing_in_its_sessions(
    pooler: Pooler, dsn: str, receiver: Receiver
) -> None:
    pooled = pooler.through(dsn)
    assert (await migrate(pooled))[0] == "0001_queue.up"
    async with open_requeuest(pooled, (), poll_interval=0.1) as other, open_requeuest(pooled, poll_interval=0.1) as one:
        for _ in range(3):  # more often than psycopg needs to prepare a statement
            await _use(one, other, receiver)
        await _left_nothing(pooled, dsn)
    await _left_nothing(pooled, dsn)
    assert (await migrate(pooled, target=0))[-1] == "0001_queue.down"
    await _left_nothing(pooled, dsn)


async def _use(one: Client, other: Client, receiver: Receiver) -> None:
    """Everything that a client can do; `other` only enqueues, and so waits by polling."""
    receiver.script(Reply(503), Reply(200, body=b"at last"), target="/retried")
    retried = Request.get(receiver.url + "/retried")
    assert (await one.spawn_returning("a", retried, retry=QUICKLY)).content == b"at last"
    late = await other.spawn("a", Request.get(receiver.url), delay=0.2)
    assert (await other.wait(late)).state is JobState.SUCCEEDED
    ids = await other.spawn_many("a", [Request.get(receiver.url)] * 20)
    ids += [await one.spawn("b", Request.get(receiver.url), ordering_key="k") for _ in range(3)]
    ids += await one.spawn_many("b", [Request.get(receiver.url)] * 3, ordering_key="k")
    async with other.transaction() as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS orders (id int)")
        ids.append(await other.spawn("a", Request.get(receiver.url), connection=connection))
        ids.append(await other.spawn("b", Request.get(receiver.url), ordering_key="k", connection=connection))
    async with one.transaction() as connection:
        undone = await one.spawn("a", Request.get(receiver.url), connection=connection)
        await connection.execute("ROLLBACK")
    assert await one.job(undone) is None
    async with trio.open_nursery() as nursery:
        for job_id in ids:
            nursery.start_soon(other.result, job_id)
    assert [attempt.status for attempt in await one.attempts(ids[0])] == [200]
    assert [job.id async for job in one.jobs(state=JobState.SUCCEEDED) if job.id == ids[0]] == ids[:1]
    assert (await one.stats()).channels["b"] == {JobState.SUCCEEDED: 7}
    with trio.move_on_after(0):
        await one.spawn("a", Request.get(receiver.url))
    assert await one.clear(["a", "b"]) >= len(ids)


async def _left_nothing(pooled: str, direct: str) -> None:
    """Look at all sessions that the pooler has, at once."""
    async with AsyncExitStack() as stack:
        pids = set()
        for _ in range(SESSIONS):
            connection = await stack.enter_async_context(await connect(pooled))
            connection.prepare_threshold = None
            await stack.enter_async_context(connection.transaction())
            pids.add(await value(connection, "select pg_backend_pid()"))
            changed = await connection.execute(CHANGED, [list(NOT_OURS)])
            assert await changed.fetchall() == []
            assert await value(connection, "select count(*) from pg_prepared_statements") == 0
            assert await value(connection, "select count(*) from pg_listening_channels()") == 0
            assert await value(connection, "select current_setting('TimeZone')") == "UTC"
        assert len(pids) == SESSIONS
    async with await connect(direct) as connection:
        assert await value(connection, "select count(*) from pg_locks where locktype = 'advisory'") == 0


async def test_a_transaction_of_the_caller_has_the_databases_settings(pooled: str, migrated_dsn: str) -> None:
    settings = {"statement_timeout": "54321ms", "lock_timeout": "4321ms", "idle_in_transaction_session_timeout": "99s"}
    settings |= {"enable_seqscan": "on", "jit": "on", "plan_cache_mode": "force_custom_plan"}
    change_defaults(migrated_dsn, settings | {"default_transaction_isolation": "serializable"})
    change_defaults(migrated_dsn, {"default_transaction_read_only": "on"})
    async with open_requeuest(pooled, ()) as client, client.transaction() as connection:
        shown = {name: await value(connection, f"select current_setting('{name}')") for name in settings}
        assert await value(connection, "select current_setting('transaction_isolation')") == "read committed"
        await connection.execute("CREATE TABLE note (text text)")
    assert shown == settings


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
async def test_what_a_caller_leaves_in_its_sessions_is_in_nobodys_way(
    pooled: str, probe: QueueProbe, receiver: Receiver, left: str
) -> None:
    """It stays there: a session is the pooler's. But each operation brings with it all that it rests on."""
    with another_role(probe.dsn) as theirs, logged() as log:
        statement = left.replace("{role}", str(conninfo_to_dict(theirs)["user"])).encode()
        config = Config(pool_size=SESSIONS + 1)
        async with open_requeuest(pooled, poll_interval=0.1, config=config) as client:
            left_in: list[int] = []
            async with trio.open_nursery() as nursery:
                everywhere = trio.Event()
                for _ in range(SESSIONS):
                    nursery.start_soon(_leave, client, statement, left_in, everywhere)
            assert len(set(left_in)) == SESSIONS
            for key in (None, "k"):
                request = Request.get(receiver.url)
                job_id = await client.spawn("a", request, ordering_key=key)
                assert (await client.result(job_id)).content == b"ok"
                async with client.transaction() as connection:
                    job_id = await client.spawn("a", request, ordering_key=key, connection=connection)
                    assert await value(connection, "select current_user") == "postgres"
                assert (await client.result(job_id)).content == b"ok"
            assert [job async for job in client.jobs()]
            assert await migrate(pooled) == []
            async with open_requeuest(pooled, ()) as other:
                assert (await other.stats()).channels["a"] == {JobState.SUCCEEDED: 4}
    for event in ("record_failed", "claim_failed", "heartbeat_failed", "maintenance_failed"):
        assert log.fields(event) == []


async def _leave(client: Client, statement: bytes, left_in: list[int], everywhere: trio.Event) -> None:
    """Keep the session until something is left in each that the pooler has."""
    async with client.transaction() as connection:
        left_in.append(await value(connection, "select pg_backend_pid()"))
        await connection.execute(statement)
        if len(left_in) == SESSIONS:
            everywhere.set()
        await everywhere.wait()


async def test_the_limits_of_statements_hold(pooled: str, probe: QueueProbe, receiver: Receiver) -> None:
    request = Request.get(receiver.url)
    async with open_requeuest(pooled, (), config=Config(statement_timeout=0.5)) as client:
        async with probe.connection.transaction():
            await probe.connection.execute("LOCK TABLE requeuest.job")
            with trio.fail_after(4), pytest.raises(DatabaseUnavailable, match="held a lock for too long"):
                await client.spawn("a", request)
            assert await probe.value("select count(*) from pg_stat_activity where wait_event_type = 'Lock'") == 0
        await client.spawn("a", request)


async def test_a_replica_can_be_read_directly_or_not_and_says_that_it_takes_nothing() -> None:
    async with queue_server() as server, open_replica(server) as replica:
        behind = TestServer(socket_dir=replica.socket, log=replica.log)
        with running_pooler(behind, OWN) as pooler:
            for dsn in (replica.dsn(), pooler.dsn()):
                async with open_requeuest(dsn, ()) as client:
                    assert (await client.stats()).channels == {}
                    with pytest.raises(DatabaseUnavailable, match="read-only transaction"):
                        await client.spawn("a", Request.get("http://receiver.test"))
                    with pytest.raises(DatabaseUnavailable):
                        async with client.transaction() as connection:
                            await client.spawn("a", Request.get("http://receiver.test"), connection=connection)


async def test_a_transaction_looks_for_another_server_once_one_only_reads() -> None:
    """After a failover: by new connections, each of which may lead to the server that can be written to."""
    async with queue_server() as server, open_replica(server) as replica:
        behind = TestServer(socket_dir=replica.socket, log=replica.log)
        with running_pooler(behind, OWN) as pooler:
            async with Database(pooler.dsn(), Queries("requeuest"), Config(), size=1, has_sessions=False) as database:
                tried = []
                for _ in range(2):
                    async with database.connection() as connection:
                        tried.append(connection)
                    with pytest.raises(DatabaseUnavailable, match="read-write"):
                        async with database.transaction():
                            raise AssertionError("it has begun")
                    assert connection.closed
                assert tried[0] is not tried[1]


# --- what fails -------------------------------------------------------------------------------------------------------


async def test_after_its_death_all_goes_on(pooler: Pooler, pooled: str, probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(Reply(200, delay=1.0), target="/slow")
    config = Config(connect_timeout=0.5, statement_timeout=1.0)
    async with open_requeuest(pooled, poll_interval=0.2, config=config) as client:
        slow = await client.spawn("a", Request.get(receiver.url + "/slow"))
        await receiver.wait_for(1)
        with logged() as log:
            await in_thread(pooler.kill)
            try:
                await log.wait_for("claim_failed")
                with pytest.raises(DatabaseUnavailable):
                    await client.spawn("a", Request.get(receiver.url))
            finally:
                with trio.CancelScope(shield=True):
                    await in_thread(pooler.start)
        again = await spawn_surely(client, "a", Request.get(receiver.url))
        for job_id in (slow, again):
            assert (await client.result(job_id)).status_code == 200
    assert await probe.states() == {"succeeded": 2}
    assert len(receiver.arrivals) == 2


async def test_a_job_stored_as_claimed_is_not_sent_before_its_commit(
    pooled: str, probe: QueueProbe, receiver: Receiver
) -> None:
    """Its commit is lost on the way, and it is stored anew, as any other: it must be sent by nobody before that."""
    async with open_proxy(pooled) as proxy, open_requeuest(proxy.dsn, poll_interval=0.2) as client:
        await client.spawn_returning("a", Request.get(receiver.url))
        loss = proxy.drop_next_request(committing("spawn_claimed"))
        jobs = 1
        while not loss.happened.is_set():  # only once the one before is recorded is there a place for it at once
            job_id = await client.spawn("a", Request.get(receiver.url))
            assert (await client.result(job_id)).status_code == 200
            jobs += 1
    assert await probe.states() == {"succeeded": jobs}
    assert len(receiver.arrivals) == jobs


# --- the way past it --------------------------------------------------------------------------------------------------


async def test_with_a_way_past_it_news_is_heard_at_once(pooled: str, migrated_dsn: str, receiver: Receiver) -> None:
    config = Config(listen_dsn=migrated_dsn)
    with logged() as log:
        async with (
            open_requeuest(pooled, (), poll_interval=LONG_POLL, config=config) as producer,
            open_requeuest(pooled, poll_interval=LONG_POLL, config=config),
        ):
            await _is_woken_by(producer, receiver)
    assert log.fields("pooled") == []


async def _is_woken_by(producer: Client, receiver: Receiver) -> None:
    """Somebody who delivers hears of a job, and the producer of its end, both long before the next poll."""
    with trio.fail_after(LONG_POLL / 4):
        for _ in range(5):
            await producer.spawn_returning("a", Request.get(receiver.url))


async def test_what_announces_over_it_is_heard_by_those_who_listen_directly(
    pooled: str, migrated_dsn: str, receiver: Receiver
) -> None:
    async with open_requeuest(pooled, ()) as producer, open_requeuest(migrated_dsn, poll_interval=LONG_POLL):
        with trio.fail_after(LONG_POLL / 4):
            await producer.spawn("a", Request.get(receiver.url))
            await receiver.wait_for(1)


async def test_the_way_past_it_has_to_lead_to_the_same_database(pooled: str, server: TestServer, dsn: str) -> None:
    for other in (dsn, server.dsn()):
        await _is_refused(pooled, other, InvalidRequest, "^listen_dsn: leads to another database than dsn")
    await _is_refused(pooled, pooled, InvalidRequest, "^listen_dsn: leads to a transaction pooler too")


async def test_the_way_past_it_has_to_lead_anywhere(pooled: str, dsn: str) -> None:
    away = make_conninfo(dsn, host="/nowhere", password="secret")
    await _is_refused(pooled, away, DatabaseUnavailable, "^listen_dsn: PostgreSQL is not available")


async def _is_refused(dsn: str, listen_dsn: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        async with open_requeuest(dsn, (), config=Config(listen_dsn=listen_dsn)):
            pass
    assert "secret" not in str(caught.value)
