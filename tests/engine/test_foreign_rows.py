"""
Rows that other programs write, by SQL alone.

What could go wrong, and is tried here: a job of an ordered channel, or one with an ordering key, that gets past the
order; a row that is larger than the library can bear; a role that may insert, and nothing else, and makes use of it.
"""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from requeuest_trio import Channel, Request, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.bench import Bench, new_job
from tests.engine.roles import another_role
from tests.engine.support import Eye
from tests.postgres.harness import Conn, connect

MIB = 1_048_576
WRITE = "GRANT USAGE ON SCHEMA requeuest TO {role}; GRANT INSERT ON requeuest.job TO {role}"
INSERT = "INSERT INTO requeuest.job (channel, method, url, body) VALUES (%s, 'POST', %s, %s)"
KEYED = "INSERT INTO requeuest.job (channel, ordering_key, method, url, body) VALUES (%s, 'k', 'POST', %s, %s)"


async def test_an_insert_into_an_ordered_channel_keeps_its_order(eye: Eye, receiver: Receiver) -> None:
    async with open_requeuest(eye.dsn, ()) as client:
        await client.spawn("a", Request.post(receiver.url))
    async with open_requeuest(eye.dsn, [Channel("ledger", ordered=True)]):
        pass
    with another_role(eye.dsn, WRITE) as theirs, psycopg.connect(theirs, autocommit=True) as connection:
        for number in range(20):
            connection.execute(INSERT, ["ledger", receiver.url, f"{number}".encode()])
        connection.cursor().executemany(INSERT, [["ledger", receiver.url, f"{n}".encode()] for n in range(20, 40)])
    assert await eye.states() == {"available": 2, "blocked": 39}
    async with open_requeuest(eye.dsn, ["ledger"], concurrency=8):
        await eye.until_states(available=1, succeeded=40)
    assert [int(request.body) for request in receiver.arrivals] == list(range(40))


async def test_an_insert_with_a_key_of_its_own_goes_behind_the_library_s_jobs(
    eye: Eye, bench: Bench, conn: Conn, receiver: Receiver
) -> None:
    await bench.spawn(conn, new_job("c", "k", request=Request.post(receiver.url, content=b"0")))
    with another_role(eye.dsn, WRITE) as theirs, psycopg.connect(theirs, autocommit=True) as connection:
        for number in (1, 2):
            connection.execute(KEYED, ["c", receiver.url, f"{number}".encode()])
        connection.execute(
            "INSERT INTO requeuest.job (channel, ordering_key, method, url, body) "
            "SELECT 'c', 'k', 'POST', %s, i::text::bytea FROM generate_series(3, 5) AS i",
            [receiver.url],
        )
    await bench.spawn(conn, new_job("c", "k", request=Request.post(receiver.url, content=b"6")))
    assert await bench.states(conn) == ["available", *["blocked"] * 6]
    async with open_requeuest(eye.dsn, ["c"], concurrency=8):
        await eye.until_states(succeeded=7)
    assert [int(request.body) for request in receiver.arrivals] == list(range(7))


async def test_an_insert_waits_for_whoever_has_the_key(eye: Eye, bench: Bench, conn: Conn, other: Conn) -> None:
    async with conn.transaction():
        await bench.spawn(conn, new_job("c", "k"))
        cursor = psycopg.connect(bench.dsn, autocommit=True).cursor()
        cursor.execute("SET lock_timeout TO '100ms'")
        with cursor.connection, pytest.raises(errors.LockNotAvailable):
            cursor.execute(KEYED, ["c", "http://x.test/", b""])
    await other.execute(KEYED.encode(), ["c", "http://x.test/", b""])
    assert await eye.states() == {"available": 1, "blocked": 1}


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_snapshot_from_before_the_lock_is_refused(eye: Eye, isolation: str) -> None:
    connection = await connect(eye.dsn)
    async with connection:
        await connection.execute(f"SET default_transaction_isolation TO '{isolation.lower()}'".encode())
        await connection.execute(INSERT.encode(), ["free", "http://x.test/", b""])
        with pytest.raises(errors.FeatureNotSupported, match="needs READ COMMITTED"):
            await connection.execute(KEYED.encode(), ["c", "http://x.test/", b""])


async def test_a_position_of_one_s_own_can_not_make_a_second_head(eye: Eye) -> None:
    text = KEYED.replace("(channel,", "(position, channel,").replace("(%s,", "(1, %s,")
    await eye.connection.execute(text.encode(), ["c", "http://x.test/", b""])
    with pytest.raises(errors.UniqueViolation):
        await eye.connection.execute(text.encode(), ["c", "http://x.test/", b""])


async def test_the_library_s_own_jobs_are_in_order_already(bench: Bench, conn: Conn) -> None:
    """The trigger would do it again, which takes longer than the rest."""
    await conn.execute(
        b"CREATE OR REPLACE FUNCTION requeuest.put_in_order() RETURNS trigger LANGUAGE plpgsql AS "
        b"$$ BEGIN RAISE 'not for the library'; END $$"
    )
    worker = await bench.worker(conn)
    await bench.spawn(conn, new_job(), new_job())
    await bench.spawn(conn, new_job())
    await bench.spawn(conn, new_job(key="k"), new_job(key="k"))
    with pytest.raises(errors.RaiseException):
        await conn.execute(INSERT.encode(), ["c", "http://x.test/", b""])
    assert len(await bench.claim(conn, worker)) == 4


async def test_nobody_else_can_use_the_trigger_s_function(eye: Eye) -> None:
    create = "GRANT CREATE ON SCHEMA public TO {role}"
    use = "CREATE TRIGGER t BEFORE INSERT ON public.bait FOR EACH ROW EXECUTE FUNCTION requeuest.put_in_order()"
    with another_role(eye.dsn, WRITE, create) as theirs, psycopg.connect(theirs, autocommit=True) as connection:
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
async def test_no_column_takes_more_than_the_library_can_bear(eye: Eye, column: str) -> None:
    name, value = "channel" if column == "no channel" else column, TOO_LARGE[column]
    columns = {"channel": "'c'", "method": "'GET'", "url": "'http://x.test/'", name: value}
    statement = f"INSERT INTO requeuest.job ({', '.join(columns)}) SELECT {', '.join(columns.values())}"
    with (
        another_role(eye.dsn, WRITE) as theirs,
        psycopg.connect(theirs, autocommit=True) as connection,
        pytest.raises(errors.CheckViolation, match="job_limits"),
    ):
        connection.execute(statement.encode())
    assert await eye.states() == {}


@pytest.mark.parametrize("value", ["response_headers", "response_body"])
async def test_no_answer_is_larger_either(eye: Eye, value: str) -> None:
    answer = {"response_headers": "'[]'::json", "response_body": "''::bytea"}
    answer[value] = {"response_headers": TOO_LARGE["headers"], "response_body": TOO_LARGE["body"]}[value]
    with pytest.raises(errors.CheckViolation, match="job_limits"):
        await eye.connection.execute(
            "INSERT INTO requeuest.job (channel, method, url, state, status, finished_at, response_truncated, "
            "response_headers, response_body) SELECT 'c', 'GET', 'http://x.test/', 'succeeded', 200, now(), false, "
            f"{answer['response_headers']}, {answer['response_body']}".encode()
        )


async def test_a_value_that_another_table_has_compressed_counts_whole(eye: Eye) -> None:
    """It is smaller in the row than it will be in memory."""
    await eye.connection.execute("CREATE TABLE public.bomb AS SELECT repeat('u', 20000000) AS url")
    with pytest.raises(errors.CheckViolation, match="job_limits"):
        await eye.connection.execute(
            "INSERT INTO requeuest.job (channel, method, url) SELECT 'c', 'GET', url FROM public.bomb"
        )


async def test_the_largest_that_the_library_stores_is_within_the_limits(eye: Eye) -> None:
    headers = {f"x-{number}": 'é"' * 450 for number in range(71)}
    request = Request.post("http://x.test/" + "u" * 8_000, headers=headers, content=bytes(MIB), accept=range(100, 600))
    async with open_requeuest(eye.dsn, ()) as client:
        await client.spawn("c" * 200, request, ordering_key="k" * 200, priority=-100)
        assert await eye.states() == {"available": 1}
