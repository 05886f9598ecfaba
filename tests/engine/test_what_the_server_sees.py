"""What PostgreSQL's log and `pg_stat_activity` show of requests: values only where an administrator asks for them."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from requeuest_trio import Request, RetryPolicy, open_requeuest
from requeuest_trio.testing import Receiver, Reply
from tests.servers import TestServer, running_server

SECRET = "s3cret-of-a-job"
LOGS_ALL = {"log_statement": "all", "log_min_duration_statement": "0", "log_error_verbosity": "default"}


@pytest.fixture(scope="module")
def telling() -> Iterator[TestServer]:
    """A server that logs every statement."""
    with running_server(LOGS_ALL) as server:
        yield server


async def use(server: TestServer, receiver: Receiver, **settings: str) -> tuple[str, str]:
    """Store, deliver, read and clear jobs that hold the secret. Returns what was logged, and what sessions ran."""
    given = " ".join(f"-c {name}={value}" for name, value in settings.items())
    dsn, schema = psycopg.conninfo.make_conninfo(server.dsn(), options=given), f"q{uuid4().hex}"
    before = server.log.stat().st_size
    receiver.decide = lambda arrival: Reply(
        500 if "dies" in arrival.target else 200, (("X-Own", SECRET),), SECRET.encode()
    )
    requests = [
        Request.post(f"{receiver.url}/{path}?own={SECRET}", headers={"X-Own": SECRET}, content=SECRET * size)
        for path, size in (("lives", 1), ("dies", 1), ("large", 20_000))
    ]
    async with open_requeuest(dsn, ["c"], schema=schema, migrate=True) as client:
        job_ids = [await client.spawn("c", requests[0], ordering_key="k")]
        job_ids += await client.spawn_many("c", requests, retry=RetryPolicy(max_attempts=2, initial=0.01))
        async with client.transaction() as connection:
            job_ids.append(await client.spawn("c", requests[0], connection=connection))
        for job_id in job_ids:
            await client.wait(job_id)
            await client.job(job_id)
            await client.attempts(job_id)
        assert len([job async for job in client.jobs()]) == len(job_ids)
        with psycopg.connect(server.dsn()) as admin:
            rows = admin.execute("SELECT query FROM pg_stat_activity WHERE query LIKE %s", [f"%{schema}%"]).fetchall()
        await client.clear(channels=["c"])
    with server.log.open("rb") as log:
        log.seek(before)
        logged = log.read().decode()
    return logged, "\n".join(query for (query,) in rows)


async def test_statements_have_nothing_of_a_request_in_them(telling: TestServer, receiver: Receiver) -> None:
    logged, shown = await use(telling, receiver, log_parameter_max_length="0")
    assert logged.count("INSERT INTO") > 2
    assert "FROM" in shown
    assert SECRET not in logged
    assert SECRET not in shown


async def test_parameters_are_in_the_log_where_it_is_to_have_them(telling: TestServer, receiver: Receiver) -> None:
    """As PostgreSQL's default has it, once a statement is logged at all."""
    logged, shown = await use(telling, receiver)
    assert SECRET in logged
    assert SECRET not in shown


@pytest.mark.parametrize("verbosity", ["default", "terse"])
async def test_a_refused_row_is_in_the_log_unless_it_is_terse(telling: TestServer, verbosity: str) -> None:
    schema, before = f"q{uuid4().hex}", telling.log.stat().st_size
    async with open_requeuest(telling.dsn(), (), schema=schema, migrate=True):
        pass
    options = f"-c log_error_verbosity={verbosity} -c log_parameter_max_length=0"
    with psycopg.connect(telling.dsn(), options=options, autocommit=True) as connection:
        insert = f"INSERT INTO {schema}.job (channel, method, url, attempts) VALUES ('c', 'GET', %s, -1)"
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(insert, [SECRET])
    with telling.log.open("rb") as log:
        log.seek(before)
        logged = log.read().decode()
    assert "violates check constraint" in logged
    assert (SECRET in logged) is (verbosity == "default")
