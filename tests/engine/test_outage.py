"""
Promises 1, 5 and 7: the runner survives its database's troubles, and rows that another program has damaged.

What could go wrong, and is tried here: connections that die one by one, or all, at any moment; a database that refuses
or does not answer, while outcomes are known that it does not have; a table that is locked; rows that can't be read,
that make every claim fail, or whose outcome can't be written. Of none of this may an error end the block.
"""

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from requeuest_trio import Client, Config, DatabaseUnavailable, Request, open_requeuest
from requeuest_trio._store import database
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import Log, QueueProbe, nothing_left, open_probe
from tests.machine import within
from tests.poolers import POOLER_VARIABLE, direct
from tests.proxy import open_proxy
from tests.waiting import until

IMPATIENT = Config(connect_timeout=0.5, statement_timeout=1.0)


async def _spawn_surely(client: Client, channel: str, request: Request) -> UUID:
    """As the docs say: after `DatabaseUnavailable` once more, with the same id."""
    job_id = uuid4()
    while True:
        try:
            return await client.spawn(channel, request, job_id=job_id)
        except DatabaseUnavailable:
            await trio.sleep(0.02)


async def test_connections_that_die_at_random(probe: QueueProbe, receiver: Receiver) -> None:
    seed = random.randrange(1_000_000)
    chance, jobs, flowing = random.Random(seed), 300, True

    async def kill() -> None:
        while flowing:
            sessions = await probe.sessions()
            if sessions:
                await probe.connection.execute("select pg_terminate_backend(%s)", [chance.choice(list(sessions))])
            await trio.sleep(chance.uniform(0.0, 0.04))

    async def spawn(client: Client, channel: str) -> None:
        for _ in range(jobs // 3):
            await _spawn_surely(client, channel, Request.get(receiver.url))
            await trio.sleep(chance.uniform(0.0, 0.01))

    async with nothing_left(probe), open_requeuest(probe.dsn, lease=5, poll_interval=0.5) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            async with trio.open_nursery() as spawning:
                for channel in "abc":
                    spawning.start_soon(spawn, client, channel)
            flowing = False
        await probe.until_states(succeeded=jobs)
    assert await probe.value("select max(attempts) from requeuest.job") <= 2, f"seed {seed}"
    assert len({arrival.header("idempotency-key") for arrival in receiver.arrivals}) == jobs


async def test_a_server_that_does_not_answer_is_given_up(probe: QueueProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there, and now the network keeps everything: no limit of the server's own is of any use."""
    monkeypatch.setattr(database, "_GRACE_SECONDS", 0.1)
    config = Config(statement_timeout=1.0, notifications=False)
    async with nothing_left(probe), open_proxy(probe.dsn) as proxy:  # noqa: SIM117 - the proxy's address is needed
        async with open_requeuest(make_conninfo(proxy.dsn, sslmode="disable"), (), config=config) as client:
            await client.stats()
            proxy.freeze()
            with trio.fail_after(10), pytest.raises(DatabaseUnavailable, match="did not answer within"):
                await client.stats()
            proxy.thaw()
            await client.stats()


@asynccontextmanager
async def _unreachable(probe: QueueProbe) -> AsyncIterator[None]:
    """The server refuses connections to the database, and those that there were are closed."""
    name = await probe.value("select current_database()")
    async with open_probe(make_conninfo(probe.dsn, dbname="postgres")) as elsewhere:
        await elsewhere.connection.execute(f"alter database {name} with allow_connections false".encode())
        try:
            await probe.connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            yield
        finally:
            with trio.move_on_after(5, shield=True):
                await elsewhere.connection.execute(f"alter database {name} with allow_connections true".encode())


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_after_a_silence_the_next_connection_leads_to_another_host(probe: QueueProbe) -> None:
    config = Config(statement_timeout=1.0)
    async with open_proxy(direct(probe.dsn)) as one, open_proxy(direct(probe.dsn)) as other:
        ports = ",".join(str(conninfo_to_dict(proxy.dsn)["port"]) for proxy in (one, other))
        dsn = make_conninfo(one.dsn, host="127.0.0.1,127.0.0.1", port=ports)
        async with open_requeuest(dsn, (), config=config) as client:
            await client.stats()
            await until(lambda: one.used_for("listen"))  # it would otherwise connect later, to the other too
            assert other.accepted == 0
            one.freeze()
            accepted = one.accepted
            with pytest.raises(DatabaseUnavailable, match="did not answer"):
                await client.stats()
            with within(2):
                await client.stats()
            assert other.accepted == 1
            assert one.accepted <= accepted + 1, "a request to cancel, and no more"


async def test_a_database_that_is_away_for_a_while(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    # Behind a pooler nobody listens.
    lost, back = ([], []) if os.environ.get(POOLER_VARIABLE) else (["listener_lost"], ["listener_back"])
    receiver.script(*[Reply(delay=0.5)] * 3)
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=10, poll_interval=0.5, config=IMPATIENT) as client:
        running = await client.spawn_many("a", [Request.get(receiver.url)] * 3)
        await receiver.wait_for(3)
        async with _unreachable(probe):
            refused = uuid4()
            with pytest.raises(DatabaseUnavailable) as caught:
                await client.spawn("a", Request.get(receiver.url), job_id=refused)
            assert caught.value.job_ids == (refused,)
            with pytest.raises(DatabaseUnavailable):
                await client.job(refused)
            await log.wait_for("record_failed")
            for event in ("claim_failed", "heartbeat_failed", "maintenance_failed", *lost):
                await log.wait_for(event)
            assert repr(client).endswith(" 3 unrecorded>")
            assert (await probe.states())["running"] == 3
        for job_id in running:
            await probe.until_true(
                "select state = 'succeeded' and attempts = 1 from requeuest.job where id = %s", job_id
            )
        await _spawn_surely(client, "a", Request.get(receiver.url))
        await probe.until_states(succeeded=await probe.value("select count(*) from requeuest.job"))
        for event in back:
            await log.wait_for(event)
    assert len(receiver.arrivals) == await probe.value("select count(*) from requeuest.job")


async def test_a_table_that_is_locked(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=2, poll_interval=0.2) as client:
        receiver.script(Reply(delay=0.2))
        job_id = await client.spawn("a", Request.get(receiver.url))
        await receiver.wait_for(1)
        async with probe.connection.transaction():
            await probe.connection.execute("lock table requeuest.job in access exclusive mode")
            locked_at = trio.current_time()
            async with open_probe(probe.dsn) as other:
                while trio.current_time() - locked_at < 3:
                    # Not the transaction's clock, which stands still.
                    assert await other.value("select clock_timestamp() < seen_at + lease from requeuest.worker")
                    await trio.sleep(0.1)
            await log.wait_for("record_failed")
        await client.wait(job_id)
        assert await probe.job(job_id) == ("succeeded", 1, None)
        assert (await client.spawn_returning("a", Request.get(receiver.url))).status_code == 200
    assert len(receiver.arrivals) == 2
    assert not log.fields("lease_lost")


DAMAGE = {
    "relative": ("url", "'/hook'"),
    "no url": ("url", "''"),
    "another scheme": ("url", "'ftp://localhost/'"),
    "a port that is none": ("url", "'http://localhost:99999/'"),
    "an unknown method": ("method", "'BREW'"),
    "no method": ("method", "''"),
    "headers of another shape": ("headers", "'5'"),
    "headers that are an object": ("headers", """'{"a": "b"}'"""),
    "headers that are no pairs": ("headers", """'[["a"]]'"""),
    "headers that are numbers": ("headers", "'[[1, 2]]'"),
    "headers with a line break": ("headers", r"""'[["a", "b\r\nc: d"]]'"""),
    "headers with a NUL": ("headers", r"""'[["a", "\u0000"]]'"""),
    "reserved headers": ("headers", """'[["Content-Length", "7"]]'"""),
    "headers too deep": ("headers", "(repeat('[', 2000) || repeat(']', 2000))::json"),
    "nothing accepted": ("accept", "'{}'"),
    "everything accepted": ("accept", "'{(,)}'"),
    "a negative timeout": ("timeout", "-1"),
    "an endless timeout": ("timeout", "'infinity'"),
    "a timeout that is no number": ("timeout", "'nan'"),
    "a policy that is a number": ("retry", "'5'"),
    "a policy that is a list": ("retry", "'[1, 2]'"),
    "a policy with something else": ("retry", """'{"colour": "blue"}'"""),
    "a policy with a text": ("retry", """'{"initial": "soon"}'"""),
    "a policy with half a range": ("retry", """'{"give_up_on": [[1]]}'"""),
    "a policy that is null": ("retry", "'null'"),
}


async def test_damaged_rows_end_dead_and_disturb_nobody(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    ids: dict[UUID, str] = {}
    for name, (column, damage) in DAMAGE.items():
        job_id = uuid4()
        columns = {"method": "'GET'", "url": f"'{receiver.url}/damaged'", column: damage}
        await probe.connection.execute(
            f"insert into requeuest.job (id, channel, {', '.join(columns)}) "
            f"values ('{job_id}', 'a', {', '.join(columns.values())})".encode()
        )
        ids[job_id] = name
    async with nothing_left(probe), open_requeuest(probe.dsn, concurrency=4) as client:
        good = await client.spawn_many("a", [Request.get(receiver.url + "/good")] * 5)
        async with trio.open_nursery() as nursery:
            for job_id in [*good, *ids]:
                nursery.start_soon(client.wait, job_id)
    for job_id in good:
        assert (await probe.job(job_id))[0] == "succeeded"
    harmless = {"a policy that is null", "everything accepted"}
    for job_id, name in ids.items():
        state, attempts, error = await probe.job(job_id)
        if name not in harmless:
            assert (state, attempts) == ("dead", 1), name
            assert error is not None
            assert error.startswith("the stored job is damaged: "), name
            assert len(error) > len("the stored job is damaged: "), name
        else:
            assert state in {"dead", "succeeded"}, name
    assert len(log.fields("job_dead")) >= len(DAMAGE) - len(harmless)


@pytest.mark.parametrize(
    ("column", "damage"),
    [
        ("attempts", "2147483647"),
        ("due_at", "'-infinity'"),
        ("due_at", "'4000-01-01 BC'"),
        ("priority", "-100"),
    ],
)
async def test_extreme_values_disturb_nobody(probe: QueueProbe, receiver: Receiver, column: str, damage: str) -> None:
    await probe.connection.execute(
        f"insert into requeuest.job (channel, method, url, {column}) "
        f"values ('a', 'GET', '{receiver.url}/extreme', {damage})".encode()
    )
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=0.2) as client:
        with trio.fail_after(10):
            for channel in "ab":
                await client.spawn_returning(channel, Request.get(receiver.url + "/good"))
            await until(lambda: len(receiver.arrivals) >= 2)


async def test_attempts_that_are_written_down_already(probe: QueueProbe, receiver: Receiver) -> None:
    """Another program has reset a job's count: the outcome is recorded all the same."""
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1) as client:
        job_id = uuid4()
        await probe.connection.execute(
            "insert into requeuest.attempt (job_id, number, started_at, duration, reached) "
            "values (%s, 1, now(), 0, 'sent')",
            [job_id],
        )
        await client.spawn("a", Request.get(receiver.url), job_id=job_id)
        assert (await client.wait(job_id)).state == "succeeded"
    assert len(receiver.arrivals) == 1
