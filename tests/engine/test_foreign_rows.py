"""
Rows that other programs write, by SQL alone.

What could go wrong, and is tried here: a job of an ordered channel, or one with an ordering key, that gets past the
order; a row that is larger than the library can bear; a role that may insert, and nothing else, and makes use of it.
"""

from __future__ import annotations

from functools import partial
from uuid import UUID

import psycopg
import pytest
import trio
from psycopg import errors

from requeuest_trio import Channel, Config, JobState, Request, TrioConnection, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe
from tests.engine.roles import another_role
from tests.engine.store_harness import StoreHarness, new_job
from tests.postgres.harness import Conn, connect

MIB = 1_048_576
WRITE = "GRANT USAGE ON SCHEMA requeuest TO {role}; GRANT INSERT ON requeuest.job TO {role}"
INSERT = "INSERT INTO requeuest.job (channel, method, url, body) VALUES (%s, 'POST', %s, %s)"
KEYED = "INSERT INTO requeuest.job (channel, ordering_key, method, url, body) VALUES (%s, 'k', 'POST', %s, %s)"


async def test_an_insert_into_an_ordered_channel_keeps_its_order(probe: QueueProbe, receiver: Receiver) -> None:
    async with open_requeuest(probe.dsn, ()) as client:
        await client.spawn("a", Request.post(receiver.url))
    async with open_requeuest(probe.dsn, [Channel("ledger", ordered=True)]):
        pass
    with another_role(probe.dsn, WRITE) as theirs, psycopg.connect(theirs, autocommit=True) as connection:
        for number in range(20):
            connection.execute(INSERT, ["ledger", receiver.url, f"{number}".encode()])
        connection.cursor().executemany(INSERT, [["ledger", receiver.url, f"{n}".encode()] for n in range(20, 40)])
    assert await probe.states() == {"available": 2, "blocked": 39}
    async with open_requeuest(probe.dsn, ["ledger"], concurrency=8):
        await probe.until_states(available=1, succeeded=40)
    assert [int(request.body) for request in receiver.arrivals] == list(range(40))


async def test_an_insert_with_a_key_of_its_own_goes_behind_the_library_s_jobs(
    probe: QueueProbe, harness: StoreHarness, conn: Conn, receiver: Receiver
) -> None:
    await harness.spawn(conn, new_job("c", "k", request=Request.post(receiver.url, content=b"0")))
    with another_role(probe.dsn, WRITE) as theirs, psycopg.connect(theirs, autocommit=True) as connection:
        for number in (1, 2):
            connection.execute(KEYED, ["c", receiver.url, f"{number}".encode()])
        connection.execute(
            "INSERT INTO requeuest.job (channel, ordering_key, method, url, body) "
            "SELECT 'c', 'k', 'POST', %s, i::text::bytea FROM generate_series(3, 5) AS i",
            [receiver.url],
        )
    await harness.spawn(conn, new_job("c", "k", request=Request.post(receiver.url, content=b"6")))
    # The ids that the database gives are in no order.
    in_order = await harness.rows(conn, "SELECT state::text FROM requeuest.job ORDER BY position")
    assert [state for (state,) in in_order] == ["available", *["blocked"] * 6]
    async with open_requeuest(probe.dsn, ["c"], concurrency=8):
        await probe.until_states(succeeded=7)
    assert [int(request.body) for request in receiver.arrivals] == list(range(7))


async def test_an_insert_waits_for_whoever_has_the_key(
    probe: QueueProbe, harness: StoreHarness, conn: Conn, other: Conn
) -> None:
    # It is not the first of its key, for which the index of those would make it wait in any case.
    await harness.spawn(conn, new_job("c", "k"))
    async with conn.transaction():
        await harness.spawn(conn, new_job("c", "k"))
        cursor = psycopg.connect(harness.dsn, autocommit=True).cursor()
        cursor.execute("SET lock_timeout TO '100ms'")
        with cursor.connection, pytest.raises(errors.LockNotAvailable):
            cursor.execute(KEYED, ["c", "http://x.test/", b""])
    await other.execute(KEYED.encode(), ["c", "http://x.test/", b""])
    assert await probe.states() == {"available": 1, "blocked": 2}


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_snapshot_from_before_the_lock_is_refused(probe: QueueProbe, isolation: str) -> None:
    connection = await connect(probe.dsn)
    async with connection:
        await connection.execute(f"SET default_transaction_isolation TO '{isolation.lower()}'".encode())
        await connection.execute(INSERT.encode(), ["free", "http://x.test/", b""])
        with pytest.raises(errors.FeatureNotSupported, match="needs READ COMMITTED"):
            await connection.execute(KEYED.encode(), ["c", "http://x.test/", b""])


OWN_PLACES = {
    "position": "0",
    "a position of the past": "-9223372036854775808",
    "no position": "NULL",
    "a position that others may have": "1",
}


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("position", OWN_PLACES.values(), ids=list(OWN_PLACES))
@pytest.mark.parametrize("placed", [None, "false", "NULL", "DEFAULT"])
async def test_whatever_another_program_says_of_its_place_it_goes_behind(
    probe: QueueProbe, harness: StoreHarness, conn: Conn, position: str, placed: str | None, key: str | None
) -> None:
    """Also one that writes every column, and NULL where it has nothing to say."""
    async with open_requeuest(probe.dsn, [Channel("ledger", ordered=True)]):
        pass
    own = "" if key is None else key
    await harness.spawn(conn, new_job("ledger", own))
    extra, value = ("", "") if placed is None else (", placed", f", {placed}")
    text = (
        f"INSERT INTO requeuest.job (channel, method, url, ordering_key, position{extra}) "
        f"VALUES ('ledger', 'GET', 'http://x.test/', %s, {position}{value})"
    )
    for _ in range(2):
        await probe.connection.execute(text.encode(), [key])
    await harness.spawn(conn, new_job("ledger", own))
    assert await probe.rows(
        "SELECT ordering_key, state::text, rank() OVER (ORDER BY position) FROM requeuest.job ORDER BY created_at, id"
    ) == [("", "available", 1), *(("", "blocked", place) for place in (2, 3, 4))]


@pytest.mark.parametrize("position", OWN_PLACES.values(), ids=list(OWN_PLACES))
async def test_a_job_without_a_key_has_no_place(probe: QueueProbe, position: str) -> None:
    values = f"'c', 'GET', 'http://x.test/', {position}"
    await probe.connection.execute(
        f"INSERT INTO requeuest.job (channel, method, url, position) VALUES ({values})".encode()
    )
    assert await probe.rows("SELECT ordering_key, position, state::text FROM requeuest.job") == [
        (None, None, "available")
    ]


async def test_what_no_trigger_has_placed_is_refused(probe: QueueProbe) -> None:
    """As in a session that replays another database's changes."""
    await probe.connection.execute("SET session_replication_role TO replica")
    with pytest.raises(errors.CheckViolation, match="job_states"):
        await probe.connection.execute(INSERT.encode(), ["c", "http://x.test/", b""])


MANY = {
    "COPY": "COPY requeuest.job (channel, ordering_key, method, url, body) FROM STDIN",
    "SELECT": (
        "INSERT INTO requeuest.job (channel, ordering_key, method, url, body) "
        "SELECT 'c', 'k', 'POST', %(url)s, i::text::bytea FROM generate_series(1, 5) AS i"
    ),
    "ON CONFLICT": (
        "INSERT INTO requeuest.job (id, channel, ordering_key, method, url, body) "
        "SELECT ('00000000-0000-0000-0000-00000000000' || i)::uuid, 'c', 'k', 'POST', %(url)s, i::text::bytea "
        "FROM generate_series(1, 5) AS i, generate_series(1, 2) AS twice ORDER BY i ON CONFLICT (id) DO NOTHING"
    ),
}


@pytest.mark.parametrize("form", MANY)
async def test_many_rows_in_one_transaction_with_the_library_s_own(
    probe: QueueProbe, receiver: Receiver, form: str
) -> None:
    async with open_requeuest(probe.dsn, ()) as client:

        async def spawn(body: bytes, connection: TrioConnection) -> None:
            request = Request.post(receiver.url, content=body)
            await client.spawn("c", request, ordering_key="k", connection=connection)

        async with client.transaction() as connection:
            await spawn(b"0", connection)
            if form == "COPY":
                async with connection.cursor().copy(MANY[form].encode()) as copy:
                    for number in range(1, 6):
                        await copy.write_row(("c", "k", "POST", receiver.url, f"{number}".encode()))
            else:
                await connection.execute(MANY[form].encode(), {"url": receiver.url})
            await spawn(b"6", connection)
    async with open_requeuest(probe.dsn, ["c"], concurrency=8):
        await probe.until_states(succeeded=7)
    assert [int(request.body) for request in receiver.arrivals] == list(range(7))


async def test_the_order_is_that_of_the_commits_whoever_stores(probe: QueueProbe, receiver: Receiver) -> None:
    """Each writes down, in the transaction itself, which number its commit has: both under the key's lock."""
    await probe.connection.execute("CREATE TABLE public.committed (number bigserial, body text)")
    note = b"INSERT INTO public.committed (body) VALUES (%s)"

    async with open_requeuest(probe.dsn, ()) as client, trio.open_nursery() as nursery:

        async def spawns(name: str) -> None:
            for number in range(20):
                body = f"{name}{number}".encode()
                async with client.transaction() as connection:
                    request = Request.post(receiver.url, content=body)
                    await client.spawn("c", request, ordering_key="k", connection=connection)
                    await connection.execute(note, [body.decode()])

        async def inserts(name: str) -> None:
            async with await connect(probe.dsn) as connection:
                for number in range(20):
                    body = f"{name}{number}".encode()
                    async with connection.transaction():
                        await connection.execute(KEYED.encode(), ["c", receiver.url, body])
                        await connection.execute(note, [body.decode()])

        for writer in (partial(spawns, "a"), partial(inserts, "b"), partial(spawns, "c"), partial(inserts, "d")):
            nursery.start_soon(writer)
    in_order = [body for (body,) in await probe.rows("SELECT body FROM public.committed ORDER BY number")]
    placed = await probe.rows("SELECT convert_from(body, 'UTF8') FROM requeuest.job ORDER BY position")
    assert len(placed) == 80
    assert [body for (body,) in placed] == in_order
    assert await probe.states() == {"available": 1, "blocked": 79}


async def test_the_library_s_own_jobs_are_in_order_already(harness: StoreHarness, conn: Conn) -> None:
    """The trigger would do it again, which takes longer than the rest."""
    await conn.execute(
        b"CREATE OR REPLACE FUNCTION requeuest.put_in_order() RETURNS trigger LANGUAGE plpgsql AS "
        b"$$ BEGIN RAISE 'not for the library'; END $$"
    )
    worker = await harness.worker(conn)
    await harness.spawn(conn, new_job(), new_job())
    await harness.spawn(conn, new_job())
    await harness.spawn(conn, new_job(key="k"), new_job(key="k"))
    with pytest.raises(errors.RaiseException):
        await conn.execute(INSERT.encode(), ["c", "http://x.test/", b""])
    assert len(await harness.claim(conn, worker)) == 4


async def test_nobody_else_can_use_the_trigger_s_function(probe: QueueProbe) -> None:
    create = "GRANT CREATE ON SCHEMA public TO {role}"
    use = "CREATE TRIGGER t BEFORE INSERT ON public.bait FOR EACH ROW EXECUTE FUNCTION requeuest.put_in_order()"
    with another_role(probe.dsn, WRITE, create) as theirs, psycopg.connect(theirs, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.bait (channel text, ordering_key text, state text, position int)")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(use)


# --- sizes ------------------------------------------------------------------------------------------------------------

TOO_LARGE = {
    "channel": "repeat('c', 201)",
    "no channel": "''",
    "ordering_key": "repeat('c', 201)",
    "method": "repeat('M', 600000)",
    "url": "repeat('u', 600000)",
    "headers": "('[\"' || repeat('h', 30000000) || '\"]')::json",
    "body": "convert_to(repeat('b', 268436480), 'UTF8')",
    "accept": "(SELECT range_agg(int4range(2 * i, 2 * i + 1)) FROM generate_series(1, 300000) AS i)",
    "retry": "to_jsonb(repeat('r', 600000))",
    "error": "repeat('e', 600000)",
    "priority": "101",
}
"""By its column, or a word for it: what one more character, or a hostile one, would come to."""


@pytest.mark.parametrize("column", TOO_LARGE)
async def test_no_column_takes_more_than_the_library_can_bear(probe: QueueProbe, column: str) -> None:
    name, value = "channel" if column == "no channel" else column, TOO_LARGE[column]
    columns = {"channel": "'c'", "method": "'GET'", "url": "'http://x.test/'", name: value}
    statement = f"INSERT INTO requeuest.job ({', '.join(columns)}) SELECT {', '.join(columns.values())}"
    with (
        another_role(probe.dsn, WRITE) as theirs,
        psycopg.connect(theirs, autocommit=True) as connection,
        pytest.raises(errors.CheckViolation, match="job_limits"),
    ):
        connection.execute(statement.encode())
    assert await probe.states() == {}


@pytest.mark.parametrize("value", ["response_headers", "response_body"])
async def test_no_answer_is_larger_either(probe: QueueProbe, value: str) -> None:
    answer = {"response_headers": "'[]'::json", "response_body": "''::bytea"}
    answer[value] = {"response_headers": TOO_LARGE["headers"], "response_body": TOO_LARGE["body"]}[value]
    with pytest.raises(errors.CheckViolation, match="job_limits"):
        await probe.connection.execute(
            "INSERT INTO requeuest.job (channel, method, url, state, status, finished_at, response_truncated, "
            "response_headers, response_body) SELECT 'c', 'GET', 'http://x.test/', 'succeeded', 200, now(), false, "
            f"{answer['response_headers']}, {answer['response_body']}".encode()
        )


async def test_a_value_that_another_table_has_compressed_counts_whole(probe: QueueProbe) -> None:
    """It is smaller in the row than it will be in memory."""
    await probe.connection.execute("CREATE TABLE public.bomb AS SELECT repeat('u', 20000000) AS url")
    with pytest.raises(errors.CheckViolation, match="job_limits"):
        await probe.connection.execute(
            "INSERT INTO requeuest.job (channel, method, url) SELECT 'c', 'GET', url FROM public.bomb"
        )


async def test_the_largest_that_the_library_stores_is_within_the_limits(probe: QueueProbe) -> None:
    headers = {f"x-{number}": 'é"' * 450 for number in range(71)}
    request = Request.post("http://x.test/" + "u" * 8_000, headers=headers, content=bytes(MIB), accept=range(100, 600))
    async with open_requeuest(probe.dsn, ()) as client:
        await client.spawn("c" * 200, request, ordering_key="k" * 200, priority=-100)
        assert await probe.states() == {"available": 1}


HUGE = {
    "headers": "(SELECT json_agg(gen_random_uuid()) FROM generate_series(1, 200000))",
    "body": "convert_to(repeat('b', 268436480), 'UTF8')",
    "accept": TOO_LARGE["accept"],
}
"""As a queue from before there were limits could have it: some 100 times what may be, or just above it."""


@pytest.mark.parametrize("column", HUGE)
async def test_a_job_that_is_too_large_is_given_up_unread_and_others_are_delivered(
    probe: QueueProbe, receiver: Receiver, column: str
) -> None:
    """Like any damaged one: with an attempt that says why, and the next of its key is sent."""
    await probe.connection.execute("ALTER TABLE requeuest.job DROP CONSTRAINT job_limits")
    await probe.connection.execute(
        f"INSERT INTO requeuest.job (id, channel, ordering_key, method, url, {column}, priority) "
        f"SELECT '{UUID(int=1)}', 'a', 'k', 'POST', 'http://x.test/', {HUGE[column]}, -100".encode()
    )
    async with open_requeuest(probe.dsn, ["a", "b"], concurrency=1, poll_interval=600, lease=600) as client:
        await client.spawn_many("a", [Request.post(receiver.url)] * 3)
        await client.spawn_many("b", [Request.post(receiver.url)] * 3)
        await client.spawn("a", Request.post(receiver.url), ordering_key="k")
        await probe.until_states(dead=1, succeeded=7)
        job = await client.job(UUID(int=1))
        assert job is not None
        assert job.error == "the stored job is damaged: it is larger than a job may be"
        assert len(job.request.body) + len(job.request.headers) < MIB
        assert len([job async for job in client.jobs()]) == 8
        [attempt] = await client.attempts(UUID(int=1))
        assert (attempt.number, attempt.error, attempt.status) == (job.attempts, job.error, None)


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
@pytest.mark.parametrize("notifications", [True, False])
async def test_who_waits_for_a_job_that_is_too_large_hears_of_its_end(probe: QueueProbe, notifications: bool) -> None:
    """In another process by a notification, and in the one that finds it without."""
    await probe.connection.execute("ALTER TABLE requeuest.job DROP CONSTRAINT job_limits")
    config = Config(notifications=notifications)
    async with (
        open_requeuest(probe.dsn, (), poll_interval=600, config=config) as other,
        open_requeuest(probe.dsn, ["a"], poll_interval=600, config=config) as client,
    ):
        await probe.connection.execute(
            "INSERT INTO requeuest.job (id, channel, method, url, headers) "
            f"SELECT '{UUID(int=1)}', 'a', 'POST', 'http://x.test/', {HUGE['headers']}".encode()
        )
        with trio.fail_after(20):
            assert (await (other if notifications else client).wait(UUID(int=1))).state is JobState.DEAD


async def test_a_job_that_is_too_large_dies_though_its_key_is_busy(
    probe: QueueProbe, receiver: Receiver, other: Conn
) -> None:
    """An application's transaction may hold it for as long as it likes."""
    await probe.connection.execute("ALTER TABLE requeuest.job DROP CONSTRAINT job_limits")
    await probe.connection.execute(
        "INSERT INTO requeuest.job (channel, ordering_key, method, url, headers) "
        f"SELECT 'a', 'k', 'POST', 'http://x.test/', {HUGE['headers']}".encode()
    )
    await probe.connection.execute(KEYED.encode(), ["a", receiver.url, b""])
    async with open_requeuest(probe.dsn, lease=1), other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(requeuest.key_lock('a', 'k'))")
        await probe.connection.execute(INSERT.encode(), ["a", receiver.url, b""])
        await probe.until_states(dead=1, blocked=1, succeeded=1)
    async with open_requeuest(probe.dsn, lease=1):
        await probe.until_states(dead=1, succeeded=2)


async def test_pages_of_large_jobs_are_cut(probe: QueueProbe, harness: StoreHarness, conn: Conn) -> None:
    request = Request.post("http://x.test/", content=bytes(5 * MIB))
    await harness.spawn(conn, *(new_job(request=request) for _ in range(7)), new_job())
    pages, after = list[int](), None
    read = partial(harness.on(conn).jobs, channel=None, state=None, ordering_key=None, limit=200)
    while jobs := list(await read(after=after)):
        pages.append(len(jobs))
        after = jobs[-1].id
    assert pages == [3, 3, 2]
    async with open_requeuest(probe.dsn, ()) as client:
        assert len([job async for job in client.jobs()]) == 8


async def test_attempts_of_others_are_read_in_part(probe: QueueProbe, harness: StoreHarness, conn: Conn) -> None:
    [job_id] = await harness.spawn(conn, new_job())
    await probe.connection.execute(
        "INSERT INTO requeuest.attempt (job_id, number, started_at, duration, reached, error, excerpt) "
        "SELECT %s, i, now(), 0, 'sent', repeat('e', 1000000), convert_to(repeat('x', 25000000), 'UTF8') "
        "FROM generate_series(1, 5) AS i",
        [job_id],
    )
    attempts = await harness.on(conn).attempts(job_id)
    assert [len(attempt.error or "") for attempt in attempts] == [10_000] * 5
    assert [len(attempt.excerpt) for attempt in attempts] == [MIB, MIB, 0, 0, 0]
